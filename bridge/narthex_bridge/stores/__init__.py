"""Where sessions and the events of their streams are kept: in the process, in an SQLite file, or in Redis."""
