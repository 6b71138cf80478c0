"""Units of the settings."""

MIB = 1024 * 1024
