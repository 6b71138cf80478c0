"""The narthex server, seen through its public contract."""
