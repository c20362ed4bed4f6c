"""Settlement under crashes, without a broker: ``python -m tests.chaos.simulator --seeds 10000 --first 0``.

Each seed draws a stream, one or two workers and a schedule: batches of any size through the real core, crashes
between any two steps and any two records, lost memtables, wiped disks, rebalances, commits that lag, a batch
computed while another is settled. The steps of a settlement are those of ``streams.checkpoint`` in their order;
``tests.chaos.shell`` puts the real one in their place. A dead worker's records never arrive after its partitions
have gone to another one. Every processor takes seeds. Prints one JSON object; exit status 1 when a seed fails.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final, NamedTuple

from streams.checkpoint import Settlement
from tests.chaos.disks import Disks, MemoryDisks
from tests.chaos.ledger import InvariantError, Ledger, Stream, require
from tests.chaos.worker import CrashError, Settler, Worker, settle_in_order

__all__ = ["Simulation", "main", "simulate"]

_ACTIONS_MAX: Final = 2_000
"""A schedule that has not come to its end by then never will."""
_PART_SEEDS: Final = 50


class Simulation:
    """One seed, from its stream to the last commit."""

    def __init__(
        self,
        seed: int,
        *,
        disks: Disks | None = None,
        settler: Settler = settle_in_order,
        faults: bool = True,
    ) -> None:
        self.rng = random.Random(seed)
        self.ledger = Ledger(Stream(self.rng))
        count = self.rng.choice((1, 2, 2))
        made = disks or MemoryDisks()
        self.workers = [Worker(self.ledger, made, settler, f"{seed}-{n}") for n in range(count)]
        self._crashes_left = self.rng.randrange(5) if faults else 0
        self._rebalances_left = self.rng.randrange(5)

    def run(self) -> Ledger:
        """Take the steps of the seed; returns what came of it, checked.

        Raises:
            InvariantError: an invariant does not hold.
        """
        self._rebalance()
        actions = 0
        while not self.ledger.all_committed():
            actions += 1
            require(actions < _ACTIONS_MAX, "the stream does not come to its end")
            worker = self.rng.choice(self.workers)
            try:
                self._act(worker)
            except CrashError:
                self._restart(worker)
                self._rebalance()
        for worker in self.workers:
            for partition in worker.store.partitions:
                self.ledger.check_store(partition, worker.store)
            worker.store.close_all()
        self.ledger.judge()
        return self.ledger

    def _act(self, worker: Worker) -> None:
        drawn = self.rng.random()
        if drawn < 0.13 and self._rebalances_left:
            self._rebalances_left -= 1
            self._rebalance()
        elif drawn < 0.22:
            worker.commit()
        elif drawn < 0.27:
            worker.store.flush()
        elif drawn < 0.3 and self._crashes_left:
            self._crashes_left -= 1
            self.ledger.at = "idle"
            worker.crash()
        else:
            self._batch(worker)

    def _batch(self, worker: Worker) -> None:
        """The batch in work is settled; another one is computed before, meanwhile or after."""
        chunks, settlement, rng = worker.take(self.rng), worker.pending, self.rng
        worker.pending = None
        if settlement is None:
            if chunks:
                worker.compute(chunks)
            elif rng.random() < 0.5:
                worker.commit()
            return
        size = _steps_of(settlement)
        if chunks:
            self._plan(worker, size, lambda: worker.compute(chunks))
        if rng.random() < 0.3:
            self._plan(worker, size, worker.commit)
        if rng.random() < 0.1:
            self._plan(worker, size, worker.store.flush)
        self._plan_crash(worker, size, 0.3)
        worker.settle_batch(settlement)
        self._leave(worker)

    def _plan(self, worker: Worker, size: int, interject: Callable[[], None]) -> None:
        """``interject`` at one of the next ``size`` steps."""
        worker.agenda.setdefault(worker.step + self.rng.randrange(size) + 1, []).append(interject)

    def _plan_crash(self, worker: Worker, size: int, share: float) -> None:
        if self._crashes_left and self.rng.random() < share:
            self._crashes_left -= 1
            self._plan(worker, size, worker.crash)

    def _leave(self, worker: Worker) -> None:
        """What was planned for a step that did not come happens now."""
        for interjects in [worker.agenda.pop(step) for step in sorted(worker.agenda)]:
            for interject in interjects:
                interject()

    # -- rebalances
    def _rebalance(self) -> None:
        """Eager, as Faust's: all workers drain, then the partitions are dealt anew and restored."""
        self.ledger.rebalances += 1
        for worker in self.workers:
            self._or_restart(worker, lambda worker=worker: self._drain(worker))
        owners = {partition: self.rng.choice(self.workers) for partition in range(self.ledger.stream.partitions)}
        survived = True
        for worker in self.workers:
            wanted = [partition for partition, owner in owners.items() if owner is worker]
            survived &= self._or_restart(worker, lambda worker=worker, wanted=wanted: self._assign(worker, wanted))
        if not survived:
            self._rebalance()

    def _drain(self, worker: Worker) -> None:
        if worker.pending is not None:
            self._plan_crash(worker, _steps_of(worker.pending) + 6, 0.3)
        worker.drain(commit=self.rng.random() < 0.8)
        self._leave(worker)

    def _assign(self, worker: Worker, partitions: list[int]) -> None:
        self._plan_crash(worker, 3, 0.15)
        worker.assign(partitions, self.rng)
        self._leave(worker)

    def _or_restart(self, worker: Worker, use: Callable[[], None]) -> bool:
        """Whether ``use`` came to its end; else the worker was started again, without partitions."""
        try:
            use()
        except CrashError:
            self._restart(worker)
            return False
        return True

    def _restart(self, worker: Worker) -> None:
        worker.restart(self.rng, wiped=self.rng.random() < 0.3)


def _steps_of(settlement: Settlement) -> int:
    puts, lists, letters, _, _ = settlement.effects
    snapshots = settlement.snapshots
    writes = {put.user.partition for put in puts} | {partition for partition, _, _ in snapshots}
    sent = len(puts) + len(snapshots) + len(lists) + len(letters)
    return sent + len(writes) + len(settlement.offsets) + 1


def simulate(seed: int) -> Ledger:
    """Run one seed.

    Raises:
        InvariantError: an invariant does not hold, or the core raised; the message names the seed.
    """
    try:
        return Simulation(seed).run()
    except InvariantError as error:
        raise InvariantError(f"seed {seed}: {error}") from None
    except Exception as error:
        raise InvariantError(f"seed {seed}: {type(error).__name__}: {error}") from error


class _Done(NamedTuple):
    """What came of some seeds."""

    failures: dict[int, str]
    totals: Counter[str]
    crashes: Counter[str]


def _simulate_all(seeds: Iterable[int]) -> _Done:
    done = _Done({}, Counter(), Counter())
    for seed in seeds:
        try:
            ledger = simulate(seed)
        except InvariantError as error:
            done.failures[seed] = str(error)
            continue
        done.totals.update(ledger.totals())
        done.crashes.update(ledger.crashes)
    return done


def main() -> int:
    """Run the seeds; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    began = time.perf_counter()
    end = options.first + options.seeds
    parts = [range(start, min(start + _PART_SEEDS, end)) for start in range(options.first, end, _PART_SEEDS)]
    failures: dict[int, str] = {}
    totals: Counter[str] = Counter()
    crashes: Counter[str] = Counter()
    with ProcessPoolExecutor() as pool:
        for done in pool.map(_simulate_all, parts):
            failures |= done.failures
            totals.update(done.totals)
            crashes.update(done.crashes)
    seconds = time.perf_counter() - began
    result: dict[str, Any] = {
        "ok": not failures,
        "seeds": options.seeds,
        "first": options.first,
        "failed": len(failures),
        "first_failures": list(failures.values())[:3],
        **totals,
        "crashes_before": dict(sorted(crashes.items())),
        "seconds": round(seconds, 1),
        "seeds_per_s": round(options.seeds / seconds, 1),
    }
    print(json.dumps(result))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
