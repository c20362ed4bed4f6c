"""``headwater bench replay``: a year of purchases from the data set to final lists, as a backfill without a broker.

The core is the worker's; what is left out is Kafka. States and lists are in memory, and are written to a store at the
end. A user gets a list in every batch with an event of theirs; the last ones are the final lists. Beside it, the live
path: a worker on the same purchases from Kafka.
"""

import asyncio
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from infra.broker import BrokerKind
from models.runtime import OnnxEncoder
from operators import limits
from operators.batches import Chunk, UserKey
from streams.bench.ceilings import through_the_core
from streams.bench.lab import PURCHASE, Backlog, BenchError, backlog_of, fill_topics, laboratory, read_purchases
from streams.bench.runs import run_headwater
from streams.bench.summary import machine, setting, spread_of, versions
from streams.store import StateStore

__all__ = ["ReplayOptions", "backfill", "run", "show"]

_WAYS: Final = {"every batch's lists": limits.batch_events_max, "few lists before the last": 100_000}
"""Events of a batch: a user's events of one batch share a list."""

Echo = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What to measure; ``events`` None is the whole data set, ``live_events`` those of the worker."""

    events: int | None = None
    live_events: int = 100_000
    rounds: int = 1
    broker: BrokerKind = "kafka"
    partitions: int = 8


def run(options: ReplayOptions, echo: Echo) -> dict[str, Any]:
    """Measure; the result is what ``--json`` prints.

    Raises:
        BenchError: an option that cannot be measured with, or a run that failed.
        BrokerError: the broker does not start.
        ModelError: the data set or the model is missing.
    """
    if options.rounds < 1 or options.live_events < 1 or (options.events is not None and options.events < 1):
        raise BenchError("--rounds, --events and --live-events must be 1 or more")
    echo("reading the purchases")
    began = time.perf_counter()
    purchases = read_purchases(options.events)
    reading_s = time.perf_counter() - began
    backlog = backlog_of("replay", purchases, options.partitions)
    live_backlog = backlog_of("replay-live", purchases[: options.live_events], options.partitions)
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in _WAYS}
    live: list[float] = []
    with laboratory(options.broker) as lab:
        asyncio.run(fill_topics(lab, live_backlog))
        for number in range(1, options.rounds + 1):
            for way, batch_events in _WAYS.items():
                rounds[way].append(backfill(backlog, batch_events, reading_s))
                echo(f"round {number}: {way}: {rounds[way][-1]['events_per_s']:,.0f} events/s from file to final lists")
            live.append(asyncio.run(run_headwater(lab, live_backlog, f"replay-{number}")).stretch.events_per_s)
            echo(f"round {number}: live path {live[-1]:,.0f} events/s")
    return {
        "ways": [_summary(way, of_way, live) for way, of_way in rounds.items()],
        "live_events_per_s": round(median(live)),
        "live_events_per_s_spread": spread_of(live),
        "reading_s": round(reading_s, 2),
        "events": backlog.events,
        "live_events": live_backlog.events,
        "rounds": options.rounds,
        "broker": options.broker,
        "machine": machine(),
        "versions": versions(options.broker),
    }


def backfill(backlog: Backlog, batch_events: int, reading_s: float) -> dict[str, float]:
    """Every event through the core and all states into a new store; seconds include the reading of the events."""
    encoder = OnnxEncoder(providers="cpu")
    values: dict[UserKey, bytes] = {}
    final: dict[UserKey, bytes] = {}
    lists = folded = 0
    began = time.perf_counter()
    for effects in through_the_core(encoder, _batches(backlog, batch_events)):
        folded += effects.counts.folded
        lists += len(effects.lists)
        values.update((put.user, put.value) for put in effects.puts)
        final.update((one.user, one.value) for one in effects.lists)
    _store(values)
    seconds = reading_s + time.perf_counter() - began
    return {
        "events_per_s": folded / seconds,
        "seconds": seconds,
        "lists": lists,
        "final_lists": len(final),
        "folded": folded,
    }


def _batches(backlog: Backlog, events: int) -> Iterator[list[Chunk]]:
    """The same share of every partition in each batch."""
    count = -(-backlog.events // events)
    topic = backlog.topics[PURCHASE]
    for n in range(count):
        yield [
            Chunk.of(topic, PURCHASE, partition, part[len(part) * n // count : len(part) * (n + 1) // count])
            for partition, part in enumerate(backlog.records)
            if len(part) * n // count < len(part) * (n + 1) // count
        ]


def _store(values: Mapping[UserKey, bytes]) -> None:
    by_partition: defaultdict[int, list[tuple[bytes, bytes | None]]] = defaultdict(list)
    for user, value in values.items():
        by_partition[user.partition].append((user.key, value))
    with tempfile.TemporaryDirectory(prefix="headwater-replay-") as home:
        store = StateStore(Path(home) / "store", block_cache_mb=128, write_buffer_mb=64)
        for partition, changes in by_partition.items():
            store.open(partition)
            store.write(partition, changes, 0)
        store.close_all()


def _summary(way: str, rounds: Sequence[Mapping[str, float]], live: Sequence[float]) -> dict[str, Any]:
    ratios = [each["events_per_s"] / of_live for each, of_live in zip(rounds, live, strict=True)]
    return {
        "way": way,
        "batch_events": _WAYS[way],
        "events_per_s": round(median(each["events_per_s"] for each in rounds)),
        "events_per_s_spread": spread_of([each["events_per_s"] for each in rounds]),
        "seconds": round(median(each["seconds"] for each in rounds), 1),
        "lists": rounds[0]["lists"],
        "final_lists": rounds[0]["final_lists"],
        "folded": rounds[0]["folded"],
        "ratio_live": round(median(ratios), 2),
        "ratio_live_spread": spread_of(ratios),
    }


def show(result: Mapping[str, Any]) -> None:
    """The figures as a table on standard output."""
    table = Table("", "events/s", "seconds", "lists", "final lists", "of the live path", box=None, pad_edge=False)
    for each in result["ways"]:
        cells = (f"{each[name]:,}" for name in ("events_per_s", "seconds", "lists", "final_lists"))
        table.add_row(each["way"], *cells, f"{each['ratio_live']:g} times")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(f"live path {result['live_events_per_s']:,} events/s; {result['events']:,} events; {setting(result)}")
