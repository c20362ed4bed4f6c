"""Events that keep coming while workers die, join and leave; judged by the oracle in the end."""

import json
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.runtime import DEFAULT_ARTEFACT
from streams.settings import Settings
from tests.integration.harness import (
    Producer,
    WorkerProcess,
    create_topics,
    new_settings,
    read_topic,
    run,
    wait_settled,
)
from tests.integration.oracle import Oracle, Verdict, final_states, make_events

__all__ = ["Flow"]

_ITEMS = json.loads((DEFAULT_ARTEFACT / "vocabulary.json").read_text())[1:1000]


class Flow:
    """One run: topics, an oracle, and bursts of events produced in the background."""

    def __init__(
        self,
        address: str,
        home: Path,
        seed: int,
        *,
        users: int = 500,
        types: Sequence[int] = (0, 1, 2),
        **worker: Any,
    ) -> None:
        self.home = home
        self.rng = random.Random(seed)
        self.seed = seed
        # Small batches and eager commits, so that at any moment a batch is half settled.
        self.settings: Settings = new_settings(address, home, batch_events_max=100, commit_interval_s=0.02, **worker)
        create_topics(self.settings)
        self.oracle = Oracle(self.settings)
        self._users, self._types = users, types
        self._produced = 0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._started = time.monotonic()

    def worker(self, name: str) -> WorkerProcess:
        """A worker with its own disk."""
        return WorkerProcess(self.settings, self.home, name)

    def burst(self, events: int, rounds: int = 5, pause_s: float = 0.02) -> None:
        """Begin to produce; a burst that still goes on is waited for first."""
        self.join()
        self._thread = threading.Thread(target=self._produce, args=(events, rounds, pause_s))
        self._thread.start()

    def join(self) -> None:
        """Wait for the burst to end."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def pause(self, least_s: float, most_s: float) -> None:
        """Sleep for a random time."""
        time.sleep(self.rng.uniform(least_s, most_s))

    def finish(self, workers: Sequence[WorkerProcess], what: str, timeout_s: float = 60.0) -> Verdict:
        """Wait until everything is settled, stop the workers, judge states and lists, and print one line."""
        self.join()
        wait_settled(self.settings, self.oracle.ends, timeout_s, workers)
        for worker in workers:
            assert worker.terminate() == 0, worker.log_tail()
        verdict = self.oracle.judge(final_states(self.settings), late_allowed=len(self._types) > 1)
        summary = {
            "run": what,
            "seed": self.seed,
            "events": self._produced,
            "users": len(self.oracle.users),
            "lost": verdict.lost,
            "doubled": verdict.doubled,
            "late": verdict.late,
            "wrong": len(verdict.wrong),
            "seconds": round(time.monotonic() - self._started, 1),
        }
        print(json.dumps(summary), flush=True)
        assert (verdict.lost, verdict.doubled, verdict.wrong[:5]) == (0, 0, [])
        lists = read_topic(self.settings, self.settings.topics.recommendations)
        assert self.oracle.list_problems(lists, in_order=False)[:5] == []
        return verdict

    def _produce(self, events: int, rounds: int, pause_s: float) -> None:
        try:
            producer = Producer(self.settings, round_records=100)
            for _ in range(rounds):
                count = events // rounds
                records = make_events(
                    self.settings,
                    self.rng_of_events,
                    count,
                    self._users,
                    _ITEMS,
                    first=self._produced,
                    types=self._types,
                    with_ids=False,  # the history would know a replayed event by its id, were the fence to fail
                )
                self.oracle.note(records, run(producer.send(records)))
                self._produced += count
                time.sleep(pause_s)
        except BaseException as error:
            self._error = error

    @property
    def rng_of_events(self) -> random.Random:
        """A generator of its own for the producing thread, the same in every run with this seed."""
        return random.Random(f"{self.seed}-{self._produced}")
