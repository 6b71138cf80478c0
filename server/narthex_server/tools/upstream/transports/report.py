"""What the warden says of an upstream's end."""

import os


class Report:
    """A pipe that the warden has, and the upstream does not."""

    def __init__(self) -> None:
        self._reading, self.descriptor = os.pipe()
        os.set_blocking(self._reading, False)

    def given(self) -> None:
        """The warden has its end."""
        os.close(self.descriptor)

    def read(self) -> str:
        """Why a limit ended the upstream; empty where none did."""
        try:
            return os.read(self._reading, 1000).decode("utf-8", "replace")
        except BlockingIOError:  # the warden is still there
            return ""

    def close(self) -> None:
        os.close(self._reading)
