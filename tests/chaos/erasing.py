"""Erasures under crashes, without a broker: ``python -m tests.chaos.erasing --seeds 2000``.

Each seed draws events and erasure requests of a few users on four topics that are read at any pace, and a crash
between any two steps of the real ``Checkpoint``. The core and ``States`` are the real ones. In the end every user is
what the events newer than the user's erasures make of one: nothing, where there are none.
"""

import argparse
import asyncio
import json
import random
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, Final

import msgspec
from faust.types import TP

from operators import state
from operators.batches import Chunk, decode_chunks
from operators.erasure import ERASURE, husk_key
from operators.process import process_batch
from operators.ranking import Policy
from streams.checkpoint import Checkpoint, Settlement, Targets
from streams.states import States
from tests.chaos.ledger import ENCODER, require
from tests.chaos.worker import CrashError
from tests.fakes import NOW_MS, FakeRecord, record

__all__ = ["main", "simulate"]

SOURCES: Final = ("view", "click", "purchase", "erase")
_USERS: Final = ("ann-the-user", "bob-the-user", "eve-the-user")
_TARGETS: Final = Targets("changelog", "lists", 1, "dead", 1, "receipts", 1)
_POLICY: Final = Policy(list_items=2, explain=False)
_BATCH_RECORDS_MAX: Final = 2


class _Batch:
    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes | None]] = []

    def append(self, *, key: bytes, value: bytes | None, timestamp: int | None, headers: Any) -> object | None:
        if len(self.records) == _BATCH_RECORDS_MAX:
            return None
        self.records.append((key, value))
        return self

    def close(self) -> None:
        """Nothing is to be sealed in memory."""

    def record_count(self) -> int:
        return len(self.records)


class World:
    """Topics, a store, and a worker that may die before every step; it is the producer and the store's port too."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.sources: dict[str, list[FakeRecord]] = {topic: [] for topic in SOURCES}
        self.times_ms: defaultdict[str, list[int]] = defaultdict(list)
        self.until_ms: defaultdict[str, int] = defaultdict(lambda: -1)
        for n in range(self.rng.randrange(20, 40)):
            self._draw(1_000 * self.rng.randrange(40) + n)
        self.topics: defaultdict[str, list[tuple[bytes, bytes | None]]] = defaultdict(list)
        self.committed = dict.fromkeys(SOURCES, 0)
        self.values: dict[bytes, bytes | None] = {}
        self.scrubs = self.crashes = 0
        self.crash_in = -1
        self.restart()

    def _draw(self, time_ms: int) -> None:
        user = self.rng.choice(_USERS)
        if self.rng.random() < 0.15:
            log = self.sources["erase"]
            body = {"user_id": user, "timestamp": time_ms, "request_id": f"r{len(log)}"}
            log.append(FakeRecord(len(log), user.encode(), msgspec.json.encode(body)))
            self.until_ms[user] = max(self.until_ms[user], time_ms)
            return
        log = self.sources[self.rng.choice(SOURCES[:ERASURE])]
        log.append(record(len(log), user, f"item-{self.rng.randrange(12)}", time_ms))
        self.times_ms[user].append(time_ms)

    def restart(self) -> None:
        """A new process: its store is what the changelog gives back, whatever was on the disk."""
        self.values = self.compacted("changelog")
        self.states = States(self, 1, 0)  # type: ignore[arg-type]  # as much of a store as States needs
        self.positions = dict(self.committed)

    def compacted(self, topic: str) -> dict[bytes, bytes | None]:
        """The last record of every key, tombstones left out."""
        return {key: value for key, value in dict(self.topics[topic]).items() if value is not None}

    def tick(self) -> None:
        """The moment before a step."""
        self.crash_in -= 1
        if self.crash_in == 0:
            self.crashes += 1
            raise CrashError

    # -- the store
    def load(self, partition: int, keys: list[bytes]) -> list[bytes | None]:
        return [self.values.get(key) for key in keys]

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self.values.get(key)

    def write(self, partition: int, changes: list[tuple[bytes, bytes | None]], offset: int) -> None:
        self.tick()
        self.values.update(changes)
        self.values = {key: value for key, value in self.values.items() if value is not None}

    def scrub(self, partitions: set[int]) -> None:
        self.tick()
        self.scrubs += 1

    # -- the producer
    def create_batch(self) -> _Batch:
        return _Batch()

    async def send_batch(self, batch: _Batch, topic: str, *, partition: int) -> "asyncio.Future[Any]":
        for key, value in batch.records:
            self.tick()
            if topic == "receipts":
                self._check_receipt(msgspec.json.decode(value or b""))
            self.topics[topic].append((key, value))
        sent: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        sent.set_result(SimpleNamespace(offset=len(self.topics[topic]) - len(batch.records)))
        return sent

    def _check_receipt(self, receipt: dict[str, Any]) -> None:
        require(self.scrubs > 0, "a receipt before the files were rewritten")
        request = self.sources["erase"][receipt["offset"]]
        key = request.key or b""
        until_ms = msgspec.json.decode(request.value or b"")["timestamp"]
        value = self.compacted("changelog").get(key)
        newer = value is not None and state.decode(value).times_ms[0] > until_ms
        require(value is None or newer, f"a receipt of {key!r}, of whom the changelog has older events")
        require(newer or key not in self.compacted("lists"), f"a receipt of {key!r}, who still has a list")

    def settle(self, tp: TP, offset: int) -> None:
        self.tick()
        self.committed[tp.topic] = offset

    # -- the worker
    def batch(self) -> None:
        """The next records of some topics through core and checkpoint."""
        chunks: list[Chunk] = []
        for event_type, topic in enumerate(SOURCES):
            start = self.positions[topic]
            part = self.sources[topic][start : start + self.rng.randrange(5)]
            if part:
                chunks.append(Chunk.of(topic, event_type, 0, part))
                self.positions[topic] = start + len(part)
        self.rng.shuffle(chunks)
        batch = decode_chunks(chunks, NOW_MS)
        states = self.states.load(batch.touched)
        popularity = self.states.popularity({0})
        options: dict[str, Any] = {"topics": SOURCES, "withdrawn": frozenset(), "now_ms": NOW_MS}
        effects = process_batch(batch, states, popularity, ENCODER, _POLICY, **options)
        offsets: dict[Any, int] = {TP(chunk.topic, 0): self.positions[chunk.topic] for chunk in chunks}

        async def settle() -> None:
            with ThreadPoolExecutor(1) as executor:
                ports: Any = self
                await Checkpoint(lambda: self, ports, self.settle, _TARGETS, executor).settle(
                    Settlement(effects, [], offsets)
                )

        asyncio.run(settle())
        for erase in effects.erasures:
            self.states.drop_erased(erase.user, erase.next_offset)

    def run(self) -> None:
        """Read everything, with up to four crashes, then judge."""
        crashes_left = self.rng.randrange(5)
        while any(self.committed[topic] < len(log) for topic, log in self.sources.items()):
            if crashes_left and self.rng.random() < 0.5:
                crashes_left -= 1
                self.crash_in = self.rng.randrange(1, 30)
            try:
                self.batch()
            except CrashError:
                self.restart()
        self.judge()

    def judge(self) -> None:
        """Everybody is what newer events make of them, and nothing names who has none."""
        changelog, lists = self.compacted("changelog"), self.compacted("lists")
        for user in _USERS:
            key, until_ms = user.encode(), self.until_ms[user]
            expected = sorted(time_ms for time_ms in self.times_ms[user] if time_ms > until_ms)
            found = state.decode(changelog[key] or b"") if key in changelog else None
            require((found.history_times_ms if found else []) == expected, f"{user}: not {expected}")
            require(found is None or found.events_count == len(expected), f"{user}: events counted")
            require((key in lists) == bool(expected), f"{user}: list of {expected}")
            require(until_ms < 0 or bool(expected) or husk_key(key) in changelog, f"{user}: no husk")
            if not expected:
                everything = b"".join(k + (v or b"") for topic in (changelog, lists) for k, v in topic.items())
                require(key not in everything, f"{user} is named")
        require(len(self.compacted("receipts")) == len(self.sources["erase"]), "a receipt for each request")
        require(
            not any(user.encode() in k + (v or b"") for user in _USERS for k, v in self.topics["receipts"]), "named"
        )


def simulate(seed: int) -> World:
    """Run one seed; raises ``InvariantError``."""
    world = World(seed)
    world.run()
    return world


def main() -> int:
    """Run the seeds; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000)
    options = parser.parse_args()
    failures: list[str] = []
    crashes = erasures = 0
    for seed in range(options.seeds):
        try:
            world = simulate(seed)
        except AssertionError as error:
            failures.append(f"seed {seed}: {error}")
            continue
        crashes += world.crashes
        erasures += len(world.sources["erase"])
    print(
        json.dumps(
            {"seeds": options.seeds, "failed": len(failures), "first_failures": failures[:3]}
            | {"crashes": crashes, "erasures": erasures}
        )
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
