"""``headwater bench pipeline``: real purchases through a worker, beside a naive agent and the ceilings.

All contenders take turns in every round, so that a machine that slows down slows all of them, and what a turn wrote is
on the disk before the next one. A figure of a contender is taken over the stretch between its first and its last batch
of lists, by the broker's clock.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from infra.broker import BrokerKind
from models.runtime import OnnxEncoder
from streams.bench.ceilings import (
    consume_per_s,
    core_alone,
    encoder_alone,
    produce_per_s,
    recorded_batches,
    state_per_s,
)
from streams.bench.lab import Backlog, BenchError, Lab, backlog_of, fill_topics, laboratory, read_purchases
from streams.bench.runs import Measured, run_headwater, run_naive
from streams.bench.summary import machine, per_event_us, show, summarize, versions

__all__ = ["PipelineOptions", "run", "show"]

_EVENTS_MIN: Final = 100

Echo = Callable[[str], object]
_Turn = tuple[Measured, dict[str, float]]


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """What to measure; ``events`` are those of each run of the worker, ``naive_events`` of the naive agent."""

    events: int = 240_000
    naive_events: int = 4_000
    rounds: int = 3
    broker: BrokerKind = "kafka"
    partitions: int = 8
    small_batch_events_max: int = 256


def run(options: PipelineOptions, echo: Echo) -> dict[str, Any]:
    """Measure; the result is what ``--json`` prints. ``echo`` gets a line of progress before every step.

    Raises:
        BenchError: an option that cannot be measured with, or a run that failed.
        BrokerError: the broker does not start.
        ModelError: the data set or the model is missing.
    """
    if options.rounds < 1 or min(options.events, options.naive_events) < _EVENTS_MIN:
        raise BenchError(f"--rounds must be 1 or more and --events {_EVENTS_MIN} or more")
    echo(f"reading {options.events} purchases")
    events = read_purchases(max(options.events, options.naive_events))
    backlog = backlog_of("event", events[: options.events], options.partitions)
    naive_backlog = backlog_of("naive-event", events[: options.naive_events], options.partitions)
    encoder = OnnxEncoder(providers="cpu")
    with laboratory(options.broker) as lab:
        echo(f"{options.broker} broker on {lab.address}; filling the topics")
        for each in (backlog, naive_backlog):
            asyncio.run(fill_topics(lab, each))
        turns = [
            _Round(lab, encoder, backlog, naive_backlog, options, number, echo).take()
            for number in range(1, options.rounds + 1)
        ]
    return _result(options, encoder, turns)


class _Round:
    """One turn of every contender."""

    def __init__(
        self,
        lab: Lab,
        encoder: OnnxEncoder,
        backlog: Backlog,
        naive_backlog: Backlog,
        options: PipelineOptions,
        number: int,
        echo: Echo,
    ) -> None:
        self._lab, self._encoder = lab, encoder
        self._backlog, self._naive_backlog = backlog, naive_backlog
        self._options, self._number, self._echo = options, number, echo

    def take(self) -> _Turn:
        """The worker's run at its default batches, and every figure of the round by name."""
        measured, figures = self._worker("", None)
        figures |= self._worker("small_batches_", self._options.small_batch_events_max)[1]
        self._say(f"naive Faust agent, {self._options.naive_events} events")
        stretch = asyncio.run(run_naive(self._lab, self._naive_backlog, f"naive-{self._number}")).stretch
        naive = {"naive_events_per_s": stretch.events_per_s, "naive_lists_per_s": stretch.lists_per_s}
        return measured, figures | naive

    def _worker(self, prefix: str, batch_events_max: int | None) -> _Turn:
        size = "default batches" if batch_events_max is None else f"batches of {batch_events_max}"
        self._say(f"worker, {self._backlog.events} events, {size}")
        name = f"bench-{prefix.replace('_', '-')}{self._number}"
        settings = {} if batch_events_max is None else {"WORKER_BATCH_EVENTS_MAX": str(batch_events_max)}
        measured = asyncio.run(run_headwater(self._lab, self._backlog, name, settings=settings))
        self._say(f"  {measured.stretch.events_per_s:,.0f} events/s; ceilings of the same batches")
        batches = recorded_batches(measured.lists, self._backlog)
        encoded = encoder_alone(self._encoder, batches)
        figures = {
            f"{prefix}events_per_s": measured.stretch.events_per_s,
            f"{prefix}lists_per_s": measured.stretch.lists_per_s,
            f"{prefix}events_per_list": measured.stretch.events / measured.stretch.lists,
            f"{prefix}encoder_events_per_s": encoded.events_per_s,
            f"{prefix}encoder_lists_per_s": encoded.lists_per_s,
        }
        return measured, figures if prefix else figures | self._parts(name, batches)

    def _parts(self, name: str, batches: Any) -> dict[str, float]:
        lab, backlog = self._lab, self._backlog
        core = core_alone(self._encoder, batches)
        writes, loads = state_per_s(lab, f"{name}-store", core.effects)
        return {
            "core_events_per_s": core.rate.events_per_s,
            "core_lists_per_s": core.rate.lists_per_s,
            "state_writes_per_s": writes,
            "state_loads_per_s": loads,
            "client_consume_per_s": asyncio.run(consume_per_s(lab, backlog)),
            "client_produce_per_s": asyncio.run(
                produce_per_s(lab, f"{name}-lists", len(backlog.records), core.effects)
            ),
        }

    def _say(self, what: str) -> None:
        self._echo(f"round {self._number}/{self._options.rounds}: {what}")


def _result(options: PipelineOptions, encoder: OnnxEncoder, turns: Sequence[_Turn]) -> dict[str, Any]:
    runs, rounds = zip(*turns, strict=True)
    return {
        **summarize(rounds),
        "stages_us_per_event": per_event_us([run.stages for run in runs], options.events),
        "processor_us_per_event": per_event_us([run.processor for run in runs], options.events),
        "rounds": options.rounds,
        "events": options.events,
        "naive_events": options.naive_events,
        "small_batch_events_max": options.small_batch_events_max,
        "partitions": options.partitions,
        "catalogue_items": encoder.manifest.items - 1,
        "model_version": encoder.version,
        "broker": options.broker,
        "machine": machine(),
        "versions": versions(options.broker),
    }
