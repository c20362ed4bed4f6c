"""Crashes between any two steps of a settlement: nothing lost, nothing doubled; and planted bugs are seen."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from operators.columns import Columns
from operators.effects import Effects
from operators.fold import FoldedBatch, fold_all
from operators.interest import Encoder
from operators.process import process_batch
from operators.state import UserState
from streams.checkpoint import Settlement
from streams.states import States
from tests.chaos.disks import RocksDisks
from tests.chaos.ledger import InvariantError, Ledger
from tests.chaos.shell import settle_by_checkpoint
from tests.chaos.simulator import Simulation, simulate
from tests.chaos.worker import Settler, Worker, deliveries_of, settle_in_order

SEEDS = 2_000
REAL_SEEDS = 36
SEEDS_TO_SEE_A_BUG = 100


def test_nothing_is_lost_or_doubled_wherever_a_worker_dies() -> None:
    crashes: set[str] = set()
    again = 0
    for seed in range(SEEDS):
        ledger = simulate(seed)
        crashes |= ledger.crashes.keys()
        again += ledger.duplicates
    assert crashes >= {"changelog", "lists", "dead", "write", "settle", "settled", "commit", "restore", "idle"}
    assert again > SEEDS


def test_the_same_seed_takes_the_same_steps() -> None:
    for seed in range(20):
        first, second = simulate(seed), simulate(seed)
        assert first.trace == second.trace
        assert first.changelog == second.changelog


def test_the_real_checkpoint_and_the_real_store_die_as_well(tmp_path: Path) -> None:
    crashes = 0
    for seed in range(REAL_SEEDS):
        try:
            ledger = Simulation(seed, disks=RocksDisks(tmp_path / f"{seed}"), settler=settle_by_checkpoint).run()
        except InvariantError as violation:
            pytest.fail(f"seed {seed}: {violation}")
        crashes += ledger.crashes.total()
    assert crashes > REAL_SEEDS / 2


def test_the_simulator_takes_the_steps_of_the_real_checkpoint() -> None:
    for seed in range(REAL_SEEDS):
        mirrored = Simulation(seed, faults=False).run()
        real = Simulation(seed, faults=False, settler=settle_by_checkpoint).run()
        assert steps_of(mirrored) == steps_of(real), f"seed {seed}"
        assert mirrored.changelog == real.changelog


def steps_of(ledger: Ledger) -> list[list[tuple[Any, ...]]]:
    """The steps of every settlement; records of different partitions arrive in any order, so those are sorted."""
    return [
        sorted((step for step in trace if step[0] == "deliver"), key=lambda step: step[1:3])
        + [(place, *step) for place, step in enumerate(trace) if step[0] != "deliver"]
        for trace in ledger.trace
    ]


# -- planted bugs: each is seen within a few seeds, or the simulator proves nothing


def settled_before_delivery(worker: Worker, settlement: Settlement) -> None:
    for source, offset in settlement.offsets.items():
        worker.settle(source, offset)
    settle_in_order(worker, settlement._replace(offsets={}))


def stored_before_delivery(worker: Worker, settlement: Settlement) -> None:
    changes, _ = deliveries_of(settlement)
    for partition, part in changes.items():
        worker.store.write(partition, part, len(worker.ledger.changelog[partition]) + len(part) - 1)
    settle_in_order(worker, settlement)


def stored_an_offset_off(by: int) -> Settler:
    def settle(worker: Worker, settlement: Settlement) -> None:
        settle_in_order(worker, settlement)
        for partition in worker.store.partitions:
            stored = worker.store.offset(partition)
            if stored is not None:
                worker.store.write(partition, [], stored + by)

    return settle


def fold_without_fences(
    states: Sequence[UserState], events: Columns, bounds: Sequence[int], encoder: Encoder
) -> FoldedBatch:
    fences = [list(state.fences) for state in states]
    folded = fold_all(states, events, bounds, encoder)
    for state, before in zip(states, fences, strict=True):
        state.fences = before
    return folded


def no_list_of_duplicates(batch: Any, states: Mapping[Any, UserState], *rest: Any, **named: Any) -> Effects:
    before = {user: states[user].events_count for user in batch.users}
    effects = process_batch(batch, states, *rest, **named)
    return effects._replace(lists=[one for one in effects.lists if states[one.user].events_count > before[one.user]])


def keep_the_cache(states: States) -> None:
    """Instead of ``forget``."""


@pytest.mark.parametrize(
    "settler",
    [settled_before_delivery, stored_before_delivery, stored_an_offset_off(1), stored_an_offset_off(-1)],
    ids=["settled before delivery", "stored before delivery", "stored offset + 1", "stored offset - 1"],
)
def test_a_wrong_order_or_offset_is_seen(settler: Settler) -> None:
    assert first_failure(settler) is not None


@pytest.mark.parametrize(
    ("owner", "name", "planted"),
    [
        ("operators.process", "fold_all", fold_without_fences),
        ("tests.chaos.worker", "process_batch", no_list_of_duplicates),
        ("streams.states.States", "forget", keep_the_cache),
    ],
    ids=["fence not advanced", "no list of duplicates", "cache kept after a rebalance"],
)
def test_a_bug_in_the_core_or_the_cache_is_seen(
    monkeypatch: pytest.MonkeyPatch, owner: str, name: str, planted: Callable[..., Any]
) -> None:
    monkeypatch.setattr(f"{owner}.{name}", planted)
    assert first_failure(settle_in_order) is not None


def first_failure(settler: Settler) -> int | None:
    for seed in range(SEEDS_TO_SEE_A_BUG):
        try:
            Simulation(seed, settler=settler).run()
        except InvariantError as error:
            print(f"seed {seed}: {error}")
            return seed
    return None
