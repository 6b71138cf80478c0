"""The server's settings, a file for each of their tables."""

from narthex_server.config.server import ServerConfig

__all__ = ["ServerConfig"]
