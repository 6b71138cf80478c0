"""The bridge's settings, a file for each of their tables."""

from narthex_bridge.config.bridge import BridgeConfig

__all__ = ["BridgeConfig"]
