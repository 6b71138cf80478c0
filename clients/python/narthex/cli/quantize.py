"""`narthex quantize`: runs the server package's program of that name, which knows weights."""

import argparse

from narthex.cli.main import become


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a Hugging Face folder with float weights")
    parser.add_argument("out", metavar="OUT", help="the folder to write; must not exist, or be empty")
    parser.add_argument(
        "--quantize", required=True, metavar="KIND",
        help="q8_0, q6_k, q5_k, q4_k, q3_k, q2_k, q5_1, q5_0, q4_1 or q4_0; embeddings and head are kept higher",
    )  # fmt: skip
    parser.add_argument("--topology", metavar="FILE", help="other formats for some layers or tensors: a YAML file")


def run(arguments: argparse.Namespace) -> int:
    words = ["--quantize", arguments.quantize, "--", arguments.model, arguments.out]
    if arguments.topology is not None:
        words = ["--topology", arguments.topology, *words]
    return become("server", words, module="quantize")
