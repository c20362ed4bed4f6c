"""What a process takes of the machine, and whether that grows."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

__all__ = ["Sample", "Trend", "cpu_s", "fd_count", "rss_mb", "trend_of"]

_MB: Final = 1024 * 1024
_WARM_UP: Final = 0.25
"""Share of a run that its trend leaves out: caches fill."""


class Sample(NamedTuple):
    """One look at a running worker."""

    seconds: float
    """Since the beginning of the run."""
    memory_mb: float
    """Resident."""
    fds: int
    """Open file descriptors."""
    disk_mb: float
    """Of the state directory."""


class Trend(NamedTuple):
    """A quantity over a run."""

    first: float
    """At the end of the warm-up."""
    last: float
    most: float
    per_hour: float
    """Slope of the least-squares line after the warm-up."""


def trend_of(seconds: Sequence[float], values: Sequence[float]) -> Trend | None:
    """The trend of values taken at those times; None of fewer than three after the warm-up."""
    if not seconds:
        return None
    since = _WARM_UP * seconds[-1]
    kept = [(at, value) for at, value in zip(seconds, values, strict=True) if at >= since]
    if len(kept) < 3:
        return None
    times = np.array([at for at, _ in kept], np.float64)
    found = np.array([value for _, value in kept], np.float64)
    away = times - times.mean()
    slope = float(away @ (found - found.mean()) / (away @ away))
    return Trend(kept[0][1], kept[-1][1], max(values), 3600 * slope)


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MB; 0 where the system has no ``/proc``, or no such process."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024 / _MB
    except OSError:
        pass
    return 0.0


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used; 0 where the system has no ``/proc``, or no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fd_count(pid: int) -> int:
    """Open file descriptors of a process; 0 where they cannot be seen."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return 0
