"""What an upstream's process, and all that it starts, may use."""

from dataclasses import dataclass

MB = 1 << 20
MOST = (1 << 32) - 1
"""More than any machine has of anything."""


@dataclass(frozen=True, slots=True)
class Limits:
    """0 is no limit. Memory and the number of processes count for all of them together, the others for each process."""

    memory_mb: int = 0  # resident; what several processes share counts once
    cpu_secs: int = 0  # since the process began
    open_files: int = 0
    processes: int = 0
    file_mb: int = 0  # the length of a file that is written

    def over(self, usual: "Limits") -> "Limits":
        """These, and the usual ones where there is none."""
        return Limits(
            self.memory_mb or usual.memory_mb,
            self.cpu_secs or usual.cpu_secs,
            self.open_files or usual.open_files,
            self.processes or usual.processes,
            self.file_mb or usual.file_mb,
        )
