"""What the system may refuse: its words and what to do about them, and the limit of open files."""

import resource
from typing import Final

from operators import limits

__all__ = ["SystemLimitError", "explained", "open_files_of_partition"]

_REMEDIES: Final = {
    "No space left on device": "Make room on that disk, or give worker.data_dir a larger one, and start again",
    "Read-only file system": "Mount that file system for writing and start again",
    "Too many open files": "Raise the limit of open files (`ulimit -n`, LimitNOFILE= of systemd) and start again",
}
"""By what the system says of the error."""


class SystemLimitError(RuntimeError):
    """The system allows less than the worker needs; the message says what and what to do."""


def explained(error: Exception, other: str = "Mend the cause and start again") -> str:
    """The error and what to do about it: ``other`` where it is none of those that leave every file whole."""
    said = str(error)
    return f"{said}. {next((remedy for mark, remedy in _REMEDIES.items() if mark in said), other)}"


def open_files_of_partition(partitions: int) -> int:
    """How many files each of so many databases may keep open, once this process's own limit is raised.

    Raises:
        SystemLimitError: that is too few.
    """
    wanted = limits.open_files_others_max + partitions * limits.open_files_of_partition_max
    needed = limits.open_files_others_max + partitions * limits.open_files_of_partition_min
    allowed = _raised(wanted)
    if allowed < needed:
        raise SystemLimitError(
            f"this process may open {allowed} files, and {partitions} partitions need {needed}: raise the limit"
            " (`ulimit -n`, LimitNOFILE= of systemd) and start again"
        )
    return (allowed - limits.open_files_others_max) // partitions


def _raised(wanted: int) -> int:
    """Let this process open ``wanted`` files, or as many as it may allow itself; at most ``wanted`` is told."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY or allowed >= wanted:
        return wanted
    allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    return allowed
