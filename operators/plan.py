"""What a shop needs, from measured slopes: pure arithmetic.

Every figure comes from one machine, and a plan is as good as that machine is like yours.
"""

from math import ceil
from typing import Final

import msgspec

__all__ = ["Costs", "Need", "Plan", "PlanError", "plan"]

_UTILIZATION: Final = 0.5
"""Of a core: at half its capacity the freshness figures hold."""
_PARTITIONS_PER_WORKER: Final = 4
"""Room for four times the workers before a partition count that is fixed binds."""
_PARTITIONS_MIN: Final = 8
_CHANGELOG_FACTOR: Final = 2.0
"""A compacted topic holds up to as much again that is not yet compacted."""
_STORE_FACTOR: Final = 1.5
"""States that were written over stay until their files are looked through (``streams.store``)."""
_VALUE_MAX: Final = 10**12


class PlanError(ValueError):
    """A need that cannot be planned for; the message says which."""


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Slopes of one machine, with the benches they were taken by."""

    machine: str
    measured: str
    """Day and commands."""
    event_us: float
    """Of a core, at full load: an event without its list."""
    list_us: float
    """Of a core, at full load: a list without scoring."""
    score_us_per_1000_items: float
    """Processor time of scoring a catalogue and finding its best, a list."""
    worker_memory_mb: float
    """Of a worker with no user in its cache, runtime and model's code included."""
    cached_user_bytes: float
    cached_users_max: int
    stored_user_bytes: float
    """On disk in RocksDB, newly restored."""
    changelog_user_bytes: float
    """At the broker, one replica."""
    item_bytes: float
    """Of memory, an item of the catalogue."""
    restore_users_per_s: float
    """Users restored from the changelog by a worker whose disk is empty."""
    partitions_max: int
    """Most partitions that were measured."""


class Need(msgspec.Struct, frozen=True):
    """A shop at its busiest."""

    events_per_s: float
    users: int
    items: int
    lists_per_event: float = 1.0
    """1 where every event is answered by a list of its own; a basket's events share one."""
    cores_per_machine: int = 4
    replicas: int = 3


class Plan(msgspec.Struct, frozen=True):
    """What it takes; sizes in GB (10^9 bytes)."""

    workers: int
    """Processes, one a core."""
    machines: int
    partitions: int
    memory_gb_per_machine: float
    disk_gb_per_machine: float
    changelog_disk_gb: float
    """At the brokers, all replicas."""
    restore_minutes: float
    """Until a machine with an empty disk serves again."""
    utilization: float
    """Of the workers' cores at the busiest."""
    notes: list[str]


def plan(need: Need, costs: Costs) -> Plan:
    """Workers at half load; memory, disk and partitions for them.

    Raises:
        PlanError: a need that is no positive number.
    """
    _check(need)
    per_event_us = costs.event_us + need.lists_per_event * (
        costs.list_us + costs.score_us_per_1000_items * need.items / 1000
    )
    busy_cores = need.events_per_s * per_event_us / 1e6
    workers = max(ceil(busy_cores / _UTILIZATION), 1)
    machines = ceil(workers / need.cores_per_machine)
    users_of_worker = need.users / workers
    memory_mb = costs.worker_memory_mb + need.items * costs.item_bytes / 1e6
    memory_mb += min(users_of_worker, costs.cached_users_max) * costs.cached_user_bytes / 1e6
    workers_of_machine = min(workers, need.cores_per_machine)
    partitions = _partitions(workers)
    notes = [f"{per_event_us:.0f} us of a core an event"]
    if partitions > costs.partitions_max:
        notes.append(f"more than {costs.partitions_max} partitions were not measured")
    if users_of_worker > costs.cached_users_max:
        notes.append("not every user is in memory: users that come back after a while are read from disk")
    return Plan(
        workers=workers,
        machines=machines,
        partitions=partitions,
        memory_gb_per_machine=_rounded(workers_of_machine * memory_mb / 1e3),
        disk_gb_per_machine=_rounded(need.users * costs.stored_user_bytes * _STORE_FACTOR / machines / 1e9),
        changelog_disk_gb=_rounded(need.users * costs.changelog_user_bytes * _CHANGELOG_FACTOR * need.replicas / 1e9),
        restore_minutes=_rounded(users_of_worker / costs.restore_users_per_s / 60),
        utilization=round(busy_cores / workers, 3),
        notes=notes,
    )


def _partitions(workers: int) -> int:
    """The power of two that leaves every worker room to be split."""
    partitions = _PARTITIONS_MIN
    while partitions < workers * _PARTITIONS_PER_WORKER:
        partitions *= 2
    return partitions


def _check(need: Need) -> None:
    for name in need.__struct_fields__:
        value = getattr(need, name)
        if not 0 < value < _VALUE_MAX:
            raise PlanError(f"{name} is {value}: it must be above 0 and below {_VALUE_MAX:g}")


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
