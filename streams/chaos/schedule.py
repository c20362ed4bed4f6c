"""The fault schedule: what goes wrong, when and for how long. Pure: the same seed gives the same schedule."""

import random
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, get_args

from streams.clients.errors import InputError

__all__ = ["KINDS", "Fault", "FaultKind", "drawn_faults", "parse_faults", "planned_s"]

FaultKind = Literal["kill", "broker-kill", "broker-freeze", "network-cut", "network-slow", "rebalance", "zombie"]
KINDS: Final[tuple[FaultKind, ...]] = get_args(FaultKind)

_GROUPS: Final[Mapping[str, tuple[FaultKind, ...]]] = {
    "broker": ("broker-kill", "broker-freeze"),
    "network": ("network-cut", "network-slow"),
    "all": KINDS,
}
_DEFAULT_COUNT: Final[Mapping[FaultKind, int]] = {"kill": 10}
_OTHER_COUNT: Final = 2
_FAULTS_MAX: Final = 10_000
_PART: Final = re.compile(r"([a-z-]+)(?:=(\d{1,5}))?")


class _Times(NamedTuple):
    """Ranges in seconds: before a fault, and from it to its end; ``sessions`` adds session timeouts to the latter."""

    before_s: tuple[float, float]
    lasts_s: tuple[float, float]
    sessions: float = 0.0


_TIMES: Final[Mapping[FaultKind, _Times]] = {
    "kill": _Times((0.1, 6.0), (0.0, 0.5)),
    "broker-kill": _Times((8.0, 15.0), (0.5, 5.0)),
    "broker-freeze": _Times((8.0, 15.0), (30.0, 30.0)),
    "network-cut": _Times((15.0, 20.0), (5.0, 30.0)),
    "network-slow": _Times((8.0, 12.0), (5.0, 30.0)),
    "rebalance": _Times((10.0, 10.0), (10.0, 10.0)),
    "zombie": _Times((8.0, 12.0), (1.0, 4.0), 1.0),
}


class Fault(NamedTuple):
    """One fault, aimed at a worker or at the broker."""

    kind: FaultKind
    after_s: float
    """Between the end of the fault before it and this one."""
    lasts_s: float
    """Until it is undone: the worker restarted, the broker let go, the network whole again."""
    worker: int
    wiped: bool
    """Whether the killed worker loses its disk as well."""


def parse_faults(text: str) -> dict[FaultKind, int]:
    """``"kill=30,broker,zombie=5"`` as counts by kind; a kind without a count gets the default one.

    Raises:
        InputError: an unknown kind, or none at all.
    """
    counts: dict[FaultKind, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = _PART.fullmatch(part)
        named = () if found is None else _named(found[1])
        if found is None or not named:
            known = ", ".join((*KINDS, *_GROUPS))
            raise InputError(f"--faults {part!r} is no fault; give some of {known}, each with =COUNT if you like")
        for kind in named:
            counts[kind] = _DEFAULT_COUNT.get(kind, _OTHER_COUNT) if found[2] is None else int(found[2])
    if not 0 < sum(counts.values()) <= _FAULTS_MAX:
        raise InputError(f"--faults {text!r} asks for {sum(counts.values())} faults; 1 to {_FAULTS_MAX} are possible")
    return counts


def drawn_faults(
    seed: int,
    counts: Mapping[FaultKind, int],
    *,
    workers: int,
    session_timeout_s: float,
    minutes: float | None = None,
) -> list[Fault]:
    """The schedule of a seed.

    Args:
        seed: everything that is random is drawn from it.
        counts: how many faults of each kind; with ``minutes``, in which proportion.
        workers: how many there are to aim at; they take turns in a random order.
        session_timeout_s: after which the group gives a silent worker's partitions away.
        minutes: go on until the schedule is that long.
    """
    rng = random.Random(f"{seed} {sorted(counts.items())} {workers}")  # noqa: S311  # repeatable, not secret
    faults: list[Fault] = []
    wiped = rng.random() < 0.5
    while True:
        kinds: list[FaultKind] = [kind for kind in KINDS for _ in range(counts.get(kind, 0))]
        rng.shuffle(kinds)
        for kind in kinds:
            if minutes is not None and planned_s(faults) >= 60 * minutes:
                return faults
            wiped = wiped != (kind == "kill")
            faults.append(_drawn(rng, kind, workers, session_timeout_s, wiped=wiped and kind == "kill"))
        if minutes is None:
            return faults


def planned_s(faults: Sequence[Fault]) -> float:
    """Seconds from the start to the end of the last fault."""
    return sum(fault.after_s + fault.lasts_s for fault in faults)


def _named(word: str) -> Sequence[FaultKind]:
    return [kind for kind in KINDS if kind == word] or _GROUPS.get(word, ())


def _drawn(rng: random.Random, kind: FaultKind, workers: int, session_timeout_s: float, *, wiped: bool) -> Fault:
    times = _TIMES[kind]
    lasts_s = rng.uniform(*times.lasts_s) + times.sessions * session_timeout_s
    return Fault(kind, round(rng.uniform(*times.before_s), 2), round(lasts_s, 2), rng.randrange(workers), wiped)
