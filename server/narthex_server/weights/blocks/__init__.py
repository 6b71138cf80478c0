"""The block layouts of ggml (`ggml-common.h`), one file for each kind."""
