"""What each part could do alone, given exactly the batches that the pipeline took."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any, Final, NamedTuple

import numpy as np

from models.runtime import OnnxEncoder
from operators import limits
from operators.batches import Chunk, UserKey, decode_chunks
from operators.candidates.popularity import Popularity
from operators.effects import Effects
from operators.events import JSON_HEADERS
from operators.interest import EVENT_TYPES, Job, PackedJobs, pack_jobs
from operators.process import process_batch
from operators.ranking import Policy
from operators.state import UserState
from streams.bench.lab import PURCHASE, Backlog, Lab, batches_of
from streams.bench.runs import Listed
from streams.clock import now_ms
from streams.store import StateStore
from streams.topics import TopicSpec

__all__ = [
    "Core",
    "Rate",
    "consume_per_s",
    "core_alone",
    "encoder_alone",
    "produce_per_s",
    "recorded_batches",
    "state_per_s",
    "through_the_core",
]

_SECONDS_MIN: Final = 1.0
_FETCH_RECORDS: Final = 10_000


class Rate(NamedTuple):
    """What went through, in a second."""

    events_per_s: float
    lists_per_s: float


class Core(NamedTuple):
    """The core's rate, and what it asked to be written and published."""

    rate: Rate
    effects: list[Effects]


def recorded_batches(lists: Sequence[Listed], backlog: Backlog) -> list[list[Chunk]]:
    """The batches of a run, from its lists: what one batch published shares ``generated_at``."""
    batches: list[list[Chunk]] = []
    for _, of_batch in groupby(lists, key=lambda listed: listed.generated_at_ms):
        by_partition: defaultdict[int, list[int]] = defaultdict(list)
        for listed in of_batch:
            for partition, offset in listed.caused_by:
                by_partition[partition].append(offset)
        topic = backlog.topics[PURCHASE]
        batches.append(
            [
                Chunk.of(topic, PURCHASE, partition, [backlog.records[partition][offset] for offset in sorted(offsets)])
                for partition, offsets in sorted(by_partition.items())
            ]
        )
    return batches


def encoder_alone(encoder: OnnxEncoder, batches: Sequence[Sequence[Chunk]]) -> Rate:
    """``advance`` of the same events and ``top_k`` in the same blocks; the inputs lie ready."""
    packed = [_packed(encoder, batch) for batch in batches]
    events, lists = sum(len(batch.rows) for batch in packed), sum(len(batch.hidden) for batch in packed)
    began = time.perf_counter()
    for batch in packed:
        _, vectors = encoder.advance(batch)
        for start in range(0, len(vectors), limits.score_batch_lists):
            encoder.top_k(vectors[start : start + limits.score_batch_lists], Policy().list_items)
    seconds = time.perf_counter() - began
    return Rate(events / seconds, lists / seconds)


def _packed(encoder: OnnxEncoder, chunks: Sequence[Chunk]) -> PackedJobs:
    decoded = decode_chunks(chunks, limits.timestamp_ms_max)
    rows = encoder.rows_of(decoded.events.item_ids)
    gaps = np.ones(len(rows), np.int64)
    jobs = [
        Job(None, rows[start:end], decoded.events.types[start:end], gaps[start:end])
        for start, end in pairwise(decoded.bounds)
    ]
    return pack_jobs(jobs, encoder.hidden_width)


def through_the_core(encoder: OnnxEncoder, batches: Iterable[Sequence[Chunk]]) -> Iterator[Effects]:
    """Each batch through ``decode_chunks`` and ``process_batch``, states in memory, no I/O."""
    states: dict[UserKey, UserState] = {}
    popularity: defaultdict[int, Popularity] = defaultdict(Popularity)
    begun_ms = now_ms()
    for chunks in batches:
        batch = decode_chunks(chunks, begun_ms)
        for user in batch.users:
            if user not in states:
                states[user] = UserState()
        yield process_batch(
            batch, states, popularity, encoder, Policy(), topics=EVENT_TYPES, withdrawn=frozenset(), now_ms=begun_ms
        )


def core_alone(encoder: OnnxEncoder, batches: Sequence[Sequence[Chunk]]) -> Core:
    """How fast ``through_the_core`` is."""
    began = time.perf_counter()
    effects = list(through_the_core(encoder, batches))
    seconds = time.perf_counter() - began
    events = sum(done.counts.folded for done in effects)
    return Core(Rate(events / seconds, sum(len(done.lists) for done in effects) / seconds), effects)


def state_per_s(lab: Lab, name: str, effects: Sequence[Effects]) -> tuple[float, float]:
    """(writes, loads) of user values in a second, in the batches of the run, in a store of its own."""
    lab.settle()
    store = StateStore(lab.home / name, block_cache_mb=128, write_buffer_mb=64)
    grouped = [_by_partition(done) for done in effects]
    for partition in {partition for batch in grouped for partition in batch}:
        store.open(partition)
    try:
        return _per_s(lambda: _write(store, grouped)), _per_s(lambda: _load(store, grouped))
    finally:
        store.close_all()


def _by_partition(effects: Effects) -> dict[int, list[tuple[bytes, bytes | None]]]:
    grouped: defaultdict[int, list[tuple[bytes, bytes | None]]] = defaultdict(list)
    for user, value in effects.puts:
        grouped[user.partition].append((user.key, value))
    return dict(grouped)


def _write(store: StateStore, batches: Sequence[dict[int, list[tuple[bytes, bytes | None]]]]) -> int:
    for number, batch in enumerate(batches):
        for partition, changes in batch.items():
            store.write(partition, changes, number)
    return sum(len(changes) for batch in batches for changes in batch.values())


def _load(store: StateStore, batches: Sequence[dict[int, list[tuple[bytes, bytes | None]]]]) -> int:
    loaded = 0
    for batch in batches:
        for partition, changes in batch.items():
            loaded += len(store.load(partition, [key for key, _ in changes]))
    return loaded


def _per_s(work: Callable[[], int]) -> float:
    done, began = 0, time.perf_counter()
    while (seconds := time.perf_counter() - began) < _SECONDS_MIN or not done:
        done += work()
    return done / seconds


async def consume_per_s(lab: Lab, backlog: Backlog) -> float:
    """Events a second that aiokafka hands out of the backlog, nothing done with them."""
    lab.settle()
    topic, done, seconds = backlog.topics[PURCHASE], 0, 0.0
    while seconds < _SECONDS_MIN:
        async with lab.consumer(topic, len(backlog.records)) as consumer:
            first = await consumer.getmany(timeout_ms=10_000, max_records=1)
            received, began = sum(map(len, first.values())), time.perf_counter()
            while received < backlog.events:
                fetched = await consumer.getmany(timeout_ms=1_000, max_records=_FETCH_RECORDS)
                got = sum(map(len, fetched.values()))
                received, done = received + got, done + got
            seconds += time.perf_counter() - began
    return done / seconds


async def produce_per_s(lab: Lab, name: str, partitions: int, effects: Sequence[Effects]) -> float:
    """Lists a second that aiokafka's ``send_batch`` delivers (acks=all), the batches built from ready bytes."""
    await lab.create([TopicSpec(name, partitions, {"cleanup.policy": "delete"})])
    by_partition: defaultdict[int, list[Any]] = defaultdict(list)
    for done in effects:
        for user, value in done.lists:
            by_partition[user.partition].append((user.key, value, JSON_HEADERS))
    lab.settle()
    sent, began = 0, time.perf_counter()
    async with lab.producer() as producer:
        await producer.partitions_for(name)
        began = time.perf_counter()
        while time.perf_counter() - began < _SECONDS_MIN:
            pending = [
                await producer.send_batch(batch, name, partition=partition)
                for partition, records in by_partition.items()
                for batch in batches_of(producer, records)
            ]
            for future in pending:
                await future
            sent += sum(map(len, by_partition.values()))
        seconds = time.perf_counter() - began
    return sent / seconds
