"""``headwater bench freshness``: the time from an event to the list that it changed, under open-loop load.

One worker serves; a generator in a process of its own sends real purchases when they are due, whatever becomes of
them. First the load is raised until the worker no longer keeps up: that is the capacity. Then the loads take turns.
"""

import asyncio
import subprocess
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from infra.broker import BrokerKind
from streams.bench.lab import BenchError, Lab, laboratory, python, read_purchases, subprocess_environment
from streams.bench.latency import QUANTILES, STAGES
from streams.bench.load import LoadConfig, Step, StepResult, Trace
from streams.bench.runs import Worker, create_topics, serving, stage_seconds
from streams.bench.summary import machine, setting, spread_of, versions

__all__ = ["FreshnessOptions", "LoadGenerator", "load_generator", "purchases_trace", "run", "show"]

_PROBE_START_PER_S: Final = 8_000.0
_PROBE_FACTOR: Final = 1.4
_PROBE_WARM_UP_S: Final = 1.5
_PROBE_S: Final = 3.0
_PROBES_MAX: Final = 10
_FAILURES_MAX: Final = 2
_KEPT_UP: Final = 0.97
"""Share of the offered events that a worker which keeps up answers in the time of the load."""
_LATE_MS_MAX: Final = 5.0
"""A generator whose 99th percentile is later than this did not keep up."""
_DRAIN_S: Final = 20.0

Echo = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class FreshnessOptions:
    """What to measure; ``capacity_per_s`` None finds it out first."""

    loads: tuple[float, ...] = (0.1, 0.5, 0.8)
    seconds: float = 8.0
    warm_up_s: float = 2.0
    rounds: int = 3
    broker: BrokerKind = "kafka"
    partitions: int = 8
    capacity_per_s: float | None = None
    trace_events: int = 200_000
    yield_after_s: float = 0.0
    """``worker.yield_after_s`` of the worker: what it gains shows in a load above 1."""


class LoadGenerator:
    """The generator's process."""

    def __init__(self, child: "subprocess.Popen[bytes]", log_file: Path) -> None:
        self._child = child
        self._log_file = log_file
        self._seed = 0

    def step(self, events_per_s: float, warm_up_s: float, seconds: float, drain_s: float = _DRAIN_S) -> StepResult:
        """One stretch of load, with other arrival times than any before it.

        Raises:
            BenchError: the process ended.
        """
        self._seed += 1
        step = Step(events_per_s, warm_up_s, seconds, drain_s, self._seed)
        assert self._child.stdin is not None  # noqa: S101  # it was opened with pipes
        self._child.stdin.write(msgspec.json.encode(step) + b"\n")
        self._child.stdin.flush()
        return msgspec.json.decode(self.answer(), type=StepResult)

    def answer(self) -> bytes:
        """The next line of its output."""
        output: IO[bytes] | None = self._child.stdout
        line = output.readline() if output is not None else b""
        if not line:
            tail = self._log_file.read_text(errors="replace").strip().splitlines()[-1:] or ["(nothing)"]
            raise BenchError(f"the load generator ended: {tail[0]}; it needs pip install 'headwater[bench]'")
        return line


@contextmanager
def load_generator(lab: Lab, config: LoadConfig) -> Generator[LoadGenerator]:
    """A generator that is connected and receives; it ends on leaving."""
    log_file = Path(tempfile.mkstemp(prefix="load-", suffix=".log", dir=lab.home)[1])
    command = python("-m", "streams.bench.load", msgspec.json.encode(config).decode())
    with (
        log_file.open("wb") as log,
        subprocess.Popen(
            command,
            cwd=lab.home,
            env=subprocess_environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        ) as child,
    ):
        generator = LoadGenerator(child, log_file)
        try:
            generator.answer()
            yield generator
        finally:
            if child.stdin is not None:
                child.stdin.close()
            try:
                child.wait(_DRAIN_S)
            except subprocess.TimeoutExpired:
                child.kill()


def purchases_trace(events: int) -> Trace:
    """Users and items of the first purchases of Complete Journey, in event-time order."""
    decode = msgspec.json.Decoder(_Purchase).decode
    wires = [decode(value) for _, value in read_purchases(events)]
    return Trace([wire.user_id for wire in wires], [wire.item_id for wire in wires])


class _Purchase(msgspec.Struct):
    user_id: str
    item_id: str


def run(options: FreshnessOptions, echo: Echo) -> dict[str, Any]:
    """Measure; the result is what ``--json`` prints.

    Raises:
        BenchError: an option that cannot be measured with, or a run that failed.
        BrokerError: the broker does not start.
        ModelError: the data set or the model is missing.
    """
    if options.rounds < 1 or options.seconds <= 0 or not options.loads or min(options.loads) <= 0:
        raise BenchError("--rounds must be 1 or more, --seconds and every --load above 0")
    echo(f"reading {options.trace_events} purchases")
    trace = purchases_trace(options.trace_events)
    with laboratory(options.broker) as lab:
        echo(f"{options.broker} broker on {lab.address}; starting a worker")
        return _measure(lab, trace, options, echo)


def _measure(lab: Lab, trace: Trace, options: FreshnessOptions, echo: Echo) -> dict[str, Any]:
    name = "freshness"
    event_topics = ("fresh-view", "fresh-click", "fresh-purchase")
    topics = asyncio.run(create_topics(lab, name, event_topics, options.partitions, create_events=True))
    trace_file = lab.home / "trace.msgpack"
    trace_file.write_bytes(msgspec.msgpack.encode(trace))
    config = LoadConfig(lab.address, topics.purchase, topics.recommendations, options.partitions, str(trace_file))
    settings = {"WORKER_YIELD_AFTER_S": str(options.yield_after_s)}
    with serving(lab, name, topics, settings) as worker, load_generator(lab, config) as generator:
        worker.wait_ready()
        lab.settle()
        capacity = options.capacity_per_s or _find_capacity(generator, echo)
        rounds = [
            [_load(lab, worker, generator, capacity, load, options, f"round {number}/{options.rounds}", echo)
             for load in options.loads]
            for number in range(1, options.rounds + 1)
        ]  # fmt: skip
    return {
        "capacity_events_per_s": round(capacity),
        "capacity_given": options.capacity_per_s is not None,
        "loads": [summarize_load(list(of_load)) for of_load in zip(*rounds, strict=True)],
        "seconds": options.seconds,
        "warm_up_s": options.warm_up_s,
        "yield_after_s": options.yield_after_s,
        "rounds": options.rounds,
        "partitions": options.partitions,
        "broker": options.broker,
        "machine": machine(),
        "versions": versions(options.broker),
    }


def _find_capacity(generator: LoadGenerator, echo: Echo) -> float:
    """Events a second that the worker still answers as they come, with broker and generator on the same machine."""
    generator.step(_PROBE_START_PER_S / 2, 0.0, _PROBE_S)
    offered, best, failures = _PROBE_START_PER_S, 0.0, 0
    for _ in range(_PROBES_MAX):
        done = generator.step(offered, _PROBE_WARM_UP_S, _PROBE_S)
        best = max(best, done.completed_per_s)
        echo(
            f"capacity: {offered:,.0f} events/s offered, {done.completed_per_s:,.0f} answered,"
            f" p50 {done.freshness_ms['p50_ms']:.1f} ms, generator p99 {done.lateness_ms['p99_ms']:.1f} ms late"
        )
        if done.completed_per_s >= _KEPT_UP * offered:
            offered, failures = offered * _PROBE_FACTOR, 0
        else:  # tried again: the first steps find caches and compilers cold
            failures += 1
        if failures == _FAILURES_MAX:
            break
    if not best:
        raise BenchError("the worker answered no event; its log may say why")
    return best


def _load(
    lab: Lab,
    worker: Worker,
    generator: LoadGenerator,
    capacity: float,
    load: float,
    options: FreshnessOptions,
    where: str,
    echo: Echo,
) -> dict[str, Any]:
    lab.settle()
    before = worker.metrics()
    done = generator.step(load * capacity, options.warm_up_s, options.seconds)
    after = worker.metrics()
    if done.missing:
        raise BenchError(f"{done.missing} events were answered by no list; its log ends: {worker.process.log_tail()}")
    found = load_figures(load, load * capacity, done, before, after)
    echo(
        f"{where}: {load:.0%} load, {found['events_per_s']:,.0f} events/s,"
        f" p50 {found['p50_ms']:.1f}, p99 {found['p99_ms']:.1f}, p99.9 {found['p999_ms']:.1f} ms"
    )
    return found


def load_figures(
    load: float, offered: float, done: StepResult, before: Mapping[str, float], after: Mapping[str, float]
) -> dict[str, Any]:
    """Figures of one step, with the worker's milliseconds a batch by stage over the step."""
    moved = {name: value - before.get(name, 0.0) for name, value in after.items()}
    batches = max(moved.get("headwater_batches_total", 0.0), 1.0)
    lists = moved.get("headwater_lists_total", 0.0)
    return {
        "load": load,
        "offered_per_s": offered,
        "events_per_s": done.completed_per_s,
        **done.freshness_ms,
        "kept_up": done.completed_per_s >= _KEPT_UP * offered,
        "generator_kept_up": done.lateness_ms["p99_ms"] <= _LATE_MS_MAX,
        "generator_late_p99_ms": done.lateness_ms["p99_ms"],
        "events_per_batch": moved.get("headwater_records_total", 0.0) / batches,
        "lists_per_batch": lists / batches,
        "yielded_share": moved.get("headwater_yielded_lists_total", 0.0) / max(lists, 1.0),
        "stages_ms": done.stages_ms,
        "worker_ms_per_batch": {stage: 1e3 * value / batches for stage, value in stage_seconds(moved).items()},
    }


def summarize_load(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians of the rounds of one load, and least and greatest of what is judged."""
    plain = ("load", "offered_per_s", "events_per_s", *QUANTILES, "generator_late_p99_ms")
    plain += ("events_per_batch", "lists_per_batch", "yielded_share")
    worker_stages = {stage for each in rounds for stage in each["worker_ms_per_batch"]}
    return {
        **{name: round(median(each[name] for each in rounds), 3) for name in plain},
        "kept_up": all(each["kept_up"] for each in rounds),
        "generator_kept_up": all(each["generator_kept_up"] for each in rounds),
        "spread": {name: spread_of([each[name] for each in rounds]) for name in ("events_per_s", *QUANTILES)},
        "stages_ms": {
            stage: {name: round(median(each["stages_ms"][stage][name] for each in rounds), 3) for name in QUANTILES}
            for stage in STAGES
        },
        "worker_ms_per_batch": {
            stage: round(median(each["worker_ms_per_batch"].get(stage, 0.0) for each in rounds), 3)
            for stage in sorted(worker_stages)
        },
    }


def show(result: Mapping[str, Any]) -> None:
    """The figures as tables on standard output."""
    console = Console(highlight=False, soft_wrap=True, width=120)
    table = Table("load", "events/s", "p50 ms", "p99 ms", "p99.9 ms", "events a batch", box=None, pad_edge=False)
    stages = Table("load", *(f"{stage} p50 / p99" for stage in STAGES), "worker, ms a batch", box=None, pad_edge=False)
    for each in result["loads"]:
        spread = each["spread"]
        cells = [f"{each[name]:.1f} ({spread[name]['min']:.1f} to {spread[name]['max']:.1f})" for name in QUANTILES]
        kept = "" if each["kept_up"] else ", overloaded"
        kept += "" if each["generator_kept_up"] else ", generator late"
        kept += f", {each['yielded_share']:.0%} of the lists yielded" if each["yielded_share"] else ""
        table.add_row(
            f"{each['load']:.0%}", f"{each['events_per_s']:,.0f}{kept}", *cells, f"{each['events_per_batch']:.0f}"
        )
        worker = ", ".join(f"{stage} {value:.2f}" for stage, value in each["worker_ms_per_batch"].items())
        parts = [
            f"{each['stages_ms'][stage]['p50_ms']:.1f} / {each['stages_ms'][stage]['p99_ms']:.1f}" for stage in STAGES
        ]
        stages.add_row(f"{each['load']:.0%}", *parts, worker)
    console.print(
        f"capacity {result['capacity_events_per_s']:,} events/s with broker and generator on the same machine"
    )
    console.print(table)
    console.print(stages)
    console.print(f"from due to list received; rounds of {result['seconds']:g} s; {setting(result)}")
