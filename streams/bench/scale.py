"""``headwater bench scale``: how throughput, freshness, memory, disk and restart grow, one axis at a time.

Users' states are put on the changelog topic before the worker starts, so that a run begins with all of them. Beyond
the real data everything is synthetic, and the result says so.
"""

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from infra.broker import BrokerKind
from models.runtime import DEFAULT_ARTEFACT, OnnxEncoder
from operators import limits
from operators.events import JSON_HEADERS
from streams.bench.freshness import load_generator
from streams.bench.lab import PURCHASE, Backlog, BenchError, Lab, backlog_of, batches_of, fill_topics, laboratory
from streams.bench.load import LoadConfig, Trace
from streams.bench.runs import Worker, create_topics, processor_us_of, read_back, serving
from streams.bench.slopes import slope_of
from streams.bench.summary import machine, medians_of, setting, versions
from streams.bench.synthetic import artefact_with_items, event_value, state_values, stored_states, user_id
from streams.chaos.vitals import rss_mb
from streams.settings import TopicSettings
from streams.topics import changelog_topic

__all__ = ["AXES", "Axis", "ScaleOptions", "median_point", "require_disk", "run", "show"]

Axis = Literal["users", "items", "history", "partitions", "workers"]
AXES: Final[Mapping[str, tuple[int, ...]]] = {
    "users": (1_000, 10_000, 100_000),
    "items": (1_000, 13_343, 100_000),
    "history": (1, 10, 50),
    "partitions": (8, 64, 256),
    "workers": (1, 2),
}
_FIGURES: Final = {
    "events_per_s": "events/s",
    "processor_us": "processor us an event",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "memory_mb": "memory MB",
    "disk_mb": "disk MB",
    "restore_s": "start, empty disk, s",
    "restart_s": "start, disk kept, s",
}
_LOAD_PER_S: Final = 300.0
_LOAD_S: Final = 2.0
_DAY_MS: Final = 24 * 3600 * 1000
_FIRST_MS: Final = 1_700_000_000_000
_STATES_AT_ONCE: Final = 50_000
_COPIES: Final = 2.5
_MB: Final = 1e6
_GB: Final = 1e9

Echo = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class ScaleOptions:
    """What to measure: ``sizes`` of the axis; the other axes stay where they are here."""

    axis: Axis = "users"
    sizes: tuple[int, ...] | None = None
    events: int = 40_000
    users: int = 5_000
    items: int = 13_343
    history: int = 50
    partitions: int = 8
    workers: int = 1
    rounds: int = 1
    broker: BrokerKind = "kafka"


class _Point(NamedTuple):
    lab: Lab
    name: str
    options: ScaleOptions
    artefact: Path
    topics: TopicSettings
    backlog: Backlog


def run(options: ScaleOptions, echo: Echo) -> dict[str, Any]:
    """Measure; the result is what ``--json`` prints.

    Raises:
        BenchError: an option that cannot be measured with, or a run that failed.
        BrokerError: the broker does not start.
    """
    sizes = options.sizes or AXES[options.axis]
    if min(sizes) < 1 or (options.axis == "history" and max(sizes) > limits.history_events_max):
        raise BenchError(f"--size must be 1 or more, and a history at most {limits.history_events_max}")
    if options.rounds < 1:
        raise BenchError("--rounds must be 1 or more")
    rounds = [
        [_point(replace(options, **{options.axis: size}), size, echo) for size in sorted(sizes)]
        for _ in range(options.rounds)
    ]
    points = [median_point(of_size) for of_size in zip(*rounds, strict=True)]
    return {
        "axis": options.axis,
        "points": points,
        "slopes": {name: _slope(points, name) for name in _FIGURES},
        "synthetic": "users and events" + (", items beyond the real ones" if options.axis == "items" else ""),
        "events": options.events,
        "load_per_s": _LOAD_PER_S,
        "rounds": options.rounds,
        "others": {name: getattr(options, name) for name in get_args(Axis) if name != options.axis},
        "broker": options.broker,
        "machine": machine(),
        "versions": versions(options.broker),
    }


def median_point(rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Medians of one size, and what each round had of events a second."""
    return {**medians_of(rounds, 4), "events_per_s_rounds": [each["events_per_s"] for each in rounds]}


def _slope(points: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    return slope_of([point["size"] for point in points], [point[name] for point in points])._asdict()


def _point(options: ScaleOptions, size: int, echo: Echo) -> dict[str, float]:
    """One size, on a broker of its own: a topic's disk goes with it."""
    name = f"scale-{options.axis}-{size}"
    with laboratory(options.broker) as lab:
        real = options.items == OnnxEncoder(providers="cpu").manifest.items - 1
        artefact = DEFAULT_ARTEFACT if real else artefact_with_items(lab.home / "model", options.items)
        encoder = OnnxEncoder(artefact, providers="cpu")
        backlog = _backlog(encoder, options, name)
        asyncio.run(fill_topics(lab, backlog))
        topics = asyncio.run(create_topics(lab, name, backlog.topics, options.partitions))
        asyncio.run(_fill_changelog(lab, encoder, options, changelog_topic(name)))
        found = _measure(_Point(lab, name, options, artefact, topics, backlog))
    echo(f"{options.axis} {size:,}: " + ", ".join(f"{found[key]:,.4g} {title}" for key, title in _FIGURES.items()))
    return {"size": size, **found}


def _backlog(encoder: OnnxEncoder, options: ScaleOptions, name: str) -> Backlog:
    random = np.random.default_rng(options.users)
    users = random.integers(0, options.users, options.events).tolist()
    rows = random.integers(1, encoder.manifest.items, options.events).tolist()
    events = [
        (user_id(user).encode(), event_value(user_id(user), encoder.item_at(row), _FIRST_MS + 100 * _DAY_MS + n))
        for n, (user, row) in enumerate(zip(users, rows, strict=True))
    ]
    return backlog_of(name, events, options.partitions)


async def _fill_changelog(lab: Lab, encoder: OnnxEncoder, options: ScaleOptions, topic: str) -> None:
    values = state_values(encoder, options.history, options.users)
    require_disk(lab.home, options.users * len(values[0]))
    states = stored_states(values, options.users, options.partitions)
    async with lab.producer() as producer:
        parts: list[list[Any]] = [[] for _ in range(options.partitions)]
        for number, (partition, key, value) in enumerate(states, 1):
            parts[partition].append((key, value, JSON_HEADERS[:0]))
            if number % _STATES_AT_ONCE == 0 or number == options.users:
                pending = [
                    await producer.send_batch(batch, topic, partition=of)
                    for of, part in enumerate(parts)
                    for batch in batches_of(producer, part)
                ]
                await asyncio.gather(*pending)
                parts = [[] for _ in range(options.partitions)]


def require_disk(home: Path, states_bytes: int) -> None:
    """Refuse what would fill the disk: states are on a topic and in a store, whose files are rewritten meanwhile.

    Raises:
        BenchError: there is not that much.
    """
    needed, free = _COPIES * states_bytes, shutil.disk_usage(home).free
    if needed > free:
        raise BenchError(
            f"the states and their changelog need {needed / _GB:.1f} GB under {home}, where {free / _GB:.1f} GB are"
            " free; set TMPDIR to a larger disk, or measure a smaller --size"
        )


def _measure(point: _Point) -> dict[str, float]:
    with _workers(point) as (workers, restore_s):
        before = [worker.metrics() for worker in workers]
        asyncio.run(point.lab.wait_for_group(point.name, point.backlog, workers[0].process))
        processor_us = processor_us_of(before, [worker.metrics() for worker in workers])
        measured = asyncio.run(read_back(point.lab, point.backlog, point.topics.recommendations))
        os.sync()  # a light load is not to wait for what the bench itself has filled in
        quantiles = _freshness(point)
        memory = sum(rss_mb(worker.process.pid) for worker in workers)
    disk = sum(file.stat().st_size for home in _homes(point) for file in home.rglob("*") if file.is_file())
    with _workers(point) as (_, restart_s):
        pass
    for home in _homes(point):
        shutil.rmtree(home, ignore_errors=True)
    return {
        "events_per_s": round(measured.stretch.events_per_s),
        "lists_per_event": round(measured.stretch.lists / measured.stretch.events, 4),
        "processor_us": round(processor_us, 1),
        "p50_ms": quantiles["p50_ms"],
        "p99_ms": quantiles["p99_ms"],
        "memory_mb": round(memory, 1),
        "disk_mb": round(disk / _MB, 2),
        "restore_s": round(restore_s, 2),
        "restart_s": round(restart_s, 2),
    }


@contextmanager
def _workers(point: _Point) -> Generator[tuple[list[Worker], float]]:
    """The workers, and the seconds until all were ready."""
    settings = {"WORKER_MODEL_DIR": str(point.artefact)}
    with ExitStack() as stack:
        began = time.monotonic()
        workers = [
            stack.enter_context(serving(point.lab, point.name, point.topics, settings, number=number))
            for number in range(1, point.options.workers + 1)
        ]
        for worker in workers:
            worker.wait_ready()
        yield workers, time.monotonic() - began


def _homes(point: _Point) -> list[Path]:
    return [point.lab.home / f"{point.name}-{number}" for number in range(1, point.options.workers + 1)]


def _freshness(point: _Point) -> dict[str, float]:
    """Under a light load by the users of the run."""
    events = [msgspec.json.decode(record.value) for part in point.backlog.records for record in part]
    trace_file = point.lab.home / "trace.msgpack"
    trace = Trace([event["user_id"] for event in events], [event["item_id"] for event in events])
    trace_file.write_bytes(msgspec.msgpack.encode(trace))
    topics, lab = point.topics, point.lab
    topic = point.backlog.topics[PURCHASE]
    config = LoadConfig(lab.address, topic, topics.recommendations, point.options.partitions, str(trace_file))
    with load_generator(lab, config) as generator:
        done = generator.step(_LOAD_PER_S, _LOAD_S / 2, _LOAD_S)
    if done.missing:
        raise BenchError(f"{done.missing} events were answered by no list")
    return done.freshness_ms


def show(result: Mapping[str, Any]) -> None:
    """The figures as a table on standard output."""
    table = Table(result["axis"], *_FIGURES.values(), box=None, pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    for point in result["points"]:
        table.add_row(f"{point['size']:,}", *(f"{point[name]:,.4g}" for name in _FIGURES))
    slopes = [result["slopes"][name] for name in _FIGURES]
    table.add_row("growth", *(f"{slope['name']} ({slope['exponent']:.2f})" for slope in slopes))
    console = Console(highlight=False, soft_wrap=True, width=150)
    console.print(table)
    console.print(f"synthetic: {result['synthetic']}; {result['events']} events; {setting(result)}")
