"""Results of tools that are kept, and calls that several make as one."""
