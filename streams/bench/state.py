"""``headwater bench state``: the stream and its state alone, with no model behind them.

A worker that keeps 50 items of every user and publishes the ten newest works through real purchases; beside it, the
state's codec and its store with the values of that very run.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from infra.broker import BrokerKind
from models.dataset import complete_journey
from operators import state
from streams.bench.ceilings import consume_per_s, core_alone, produce_per_s, recorded_batches, state_per_s
from streams.bench.history import SETTINGS, HistoryEncoder
from streams.bench.lab import Backlog, BenchError, Lab, backlog_of, fill_topics, laboratory, read_purchases
from streams.bench.runs import HISTORY_WORKER, Measured, run_headwater
from streams.bench.summary import machine, medians_of, per_event_us, setting, spent, spread_of, versions
from streams.bench.timing import timed_us

__all__ = ["StateOptions", "run", "show"]

_EVENTS_MIN: Final = 100
_TITLES: Final = {
    "events_per_s": "worker, events/s",
    "lists_per_s": "worker, lists/s",
    "core_events_per_s": "core alone, events/s",
    "client_consume_per_s": "client consumes, events/s",
    "client_produce_per_s": "client produces, lists/s",
    "state_writes_per_s": "store writes, users/s",
    "state_loads_per_s": "store loads, users/s",
    "state_encode_us": "state to bytes, us",
    "state_decode_us": "bytes to state, us",
    "state_bytes": "a user's bytes",
}

Echo = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class StateOptions:
    """What to measure."""

    events: int = 150_000
    rounds: int = 3
    broker: BrokerKind = "kafka"
    partitions: int = 8


def run(options: StateOptions, echo: Echo) -> dict[str, Any]:
    """Measure; the result is what ``--json`` prints.

    Raises:
        BenchError: an option that cannot be measured with, or a run that failed.
        BrokerError: the broker does not start.
        ModelError: the data set is missing.
    """
    if options.rounds < 1 or options.events < _EVENTS_MIN:
        raise BenchError(f"--rounds must be 1 or more and --events {_EVENTS_MIN} or more")
    echo(f"reading {options.events} purchases")
    backlog = backlog_of("state", read_purchases(options.events), options.partitions)
    encoder: Any = HistoryEncoder(complete_journey().items)
    with laboratory(options.broker) as lab:
        echo(f"{options.broker} broker on {lab.address}; filling the topics")
        asyncio.run(fill_topics(lab, backlog))
        turns = [_round(lab, backlog, encoder, number, echo) for number in range(1, options.rounds + 1)]
    runs, rounds = zip(*turns, strict=True)
    return {
        **medians_of(rounds, 2),
        "spread": {name: spread_of([each[name] for each in rounds]) for name in rounds[0]},
        "stages_us_per_event": per_event_us([run.stages for run in runs], options.events),
        "processor_us_per_event": per_event_us([run.processor for run in runs], options.events),
        "rounds": options.rounds,
        "events": options.events,
        "partitions": options.partitions,
        "broker": options.broker,
        "machine": machine(),
        "versions": versions(options.broker),
    }


def _round(lab: Lab, backlog: Backlog, encoder: Any, number: int, echo: Echo) -> tuple[Measured, dict[str, float]]:
    name = f"state-{number}"
    measured = asyncio.run(run_headwater(lab, backlog, name, settings=SETTINGS, code=HISTORY_WORKER))
    echo(f"round {number}: {measured.stretch.events_per_s:,.0f} events/s; the parts")
    core = core_alone(encoder, recorded_batches(measured.lists, backlog))
    writes, loads = state_per_s(lab, f"{name}-store", core.effects)
    values = list({put.user: put.value for effects in core.effects for put in effects.puts}.values())
    states = [state.decode(value) for value in values]
    partitions = len(backlog.records)
    return measured, {
        "events_per_s": measured.stretch.events_per_s,
        "lists_per_s": measured.stretch.lists_per_s,
        "events_per_list": measured.stretch.events / measured.stretch.lists,
        "core_events_per_s": core.rate.events_per_s,
        "client_consume_per_s": asyncio.run(consume_per_s(lab, backlog)),
        "client_produce_per_s": asyncio.run(produce_per_s(lab, f"{name}-lists", partitions, core.effects)),
        "state_writes_per_s": writes,
        "state_loads_per_s": loads,
        "state_encode_us": timed_us(lambda: [state.encode(each) for each in states], len(states)),
        "state_decode_us": timed_us(lambda: [state.decode(value) for value in values], len(values)),
        "state_bytes": sum(map(len, values)) / len(values),
    }


def show(result: Mapping[str, Any]) -> None:
    """The figures as a table on standard output."""
    table = Table("", "median", "least", "greatest", box=None, pad_edge=False)
    for name, title in _TITLES.items():
        spread = result["spread"][name]
        table.add_row(title, *(f"{value:,.10g}" for value in (result[name], spread["min"], spread["max"])))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for line in spent(result):
        console.print(line)
    console.print(f"{result['events_per_list']:.1f} events a list; {result['events']} events, {setting(result)}")
