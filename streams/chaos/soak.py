"""``headwater soak``: a steady load for a long time, and whether memory, descriptors, disk or freshness creep."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from rich.table import Table

from streams.chaos.judge import Judged
from streams.chaos.load import Load
from streams.chaos.pauses import Answer, percentile
from streams.chaos.run import judged_in_the_end
from streams.chaos.stage import Stage, staged
from streams.chaos.vitals import Sample, Trend, fd_count, rss_mb, trend_of
from streams.clock import now_ms
from streams.settings import BrokerSettings
from streams.worker_process import WorkerProcess

__all__ = ["SoakOptions", "SoakReport", "freshness", "run", "soak_table"]

_MB: Final = 1024 * 1024
_SURGES: Final = (0.08, 0.16, 0.5, 0.75)
"""Shares of the run after which a surge comes: two in the warm-up, so that later ones show what still grows."""
_SAMPLES: Final = 240
_SAMPLE_S_MIN: Final = 1.0
_PROGRESS_S: Final = 30.0
_PROBLEMS_MAX: Final = 20
_RSS_MB_MAX: Final = 1_500
"""Of a worker: above it the soak fails."""
_BARS: Final = "▁▂▃▄▅▆▇█"
_PICTURE_CHARS: Final = 30

Echo = Callable[[str], object]


class SoakOptions(NamedTuple):
    """One soak."""

    minutes: float = 30.0
    seed: int = 1
    users: int = 5_000
    events_per_s: float = 500.0
    surge_events: int = 20_000
    """Sent at once, now and then: the largest batches take memory that a steady load never asks for."""
    given_broker: BrokerSettings | None = None
    """None for an Apache Kafka of the run's own."""
    home: Path | None = None
    """An empty directory for logs and data, which stays; None for a temporary one."""


class SoakReport(msgspec.Struct, frozen=True):
    """The last line of ``headwater soak --json``."""

    ok: bool
    minutes: float
    seed: int
    events: int
    users: int
    lost: int
    doubled: int
    memory_mb: Trend | None
    fds: Trend | None
    disk_mb: Trend | None
    freshness_p50_ms: Trend | None
    freshness_p99_ms: Trend | None
    """From the event's append to its list's, by the broker's clock, of the answers of each interval."""
    deaths: list[str]
    problems: list[str]
    samples: list[Sample]


def run(options: SoakOptions, echo: Echo) -> SoakReport:
    """Keep one worker under load, sample it, and judge every user in the end.

    Raises:
        BrokerError, ClientError: something did not start, or did not settle in the end.
    """
    with staged(
        options.given_broker, workers=1, networks=False, home=options.home, echo=echo, flushes_often=False
    ) as stage:
        with Load(
            stage.settings, options.seed, users=options.users, events_per_s=options.events_per_s, types=(0, 1, 2)
        ) as load:
            began_ms = now_ms()
            samples = _sampled(stage, load, options, echo)
            load.finish()
        judged = judged_in_the_end(stage, load, echo)
    return _report(options, samples, judged, began_ms, stage.deaths)


def _sampled(stage: Stage, load: Load, options: SoakOptions, echo: Echo) -> list[Sample]:
    (worker,) = stage.workers
    seconds = 60 * options.minutes
    surges = [share * seconds for share in _SURGES]
    every_s = max(seconds / _SAMPLES, _SAMPLE_S_MIN)
    began = time.monotonic()
    samples: list[Sample] = []
    told = 0.0
    while (passed := time.monotonic() - began) < seconds:
        load.check()
        stage.revive()
        if surges and passed >= surges[0]:
            surges.pop(0)
            load.surge(options.surge_events)
        samples.append(_sample(worker, passed))
        if passed - told >= _PROGRESS_S:
            told = passed
            _, memory_mb, fds, disk_mb = samples[-1]
            echo(f"{passed / 60:6.1f} min  {load.sent} events, {memory_mb:.0f} MB, {fds} fds, {disk_mb:.0f} MB on disk")
        time.sleep(every_s)
    return samples


def _sample(worker: WorkerProcess, passed: float) -> Sample:
    pid = worker.process.pid
    return Sample(round(passed, 1), round(rss_mb(pid), 1), fd_count(pid), round(worker.state_bytes() / _MB, 1))


def _report(
    options: SoakOptions, samples: list[Sample], judged: Judged, began_ms: float, deaths: Sequence[str]
) -> SoakReport:
    seconds = [sample.seconds for sample in samples]
    times, p50_ms, p99_ms = freshness(judged.answers, began_ms, 60_000 * options.minutes)
    most_mb = max((sample.memory_mb for sample in samples), default=0.0)
    problems = list(judged.problems)
    if most_mb > _RSS_MB_MAX:
        problems.append(f"memory: the worker took {most_mb:.0f} MB, more than {_RSS_MB_MAX}")
    problems += [f"worker ended: {death}" for death in deaths]
    return SoakReport(
        ok=not problems,
        minutes=options.minutes,
        seed=options.seed,
        events=judged.events,
        users=judged.users,
        lost=judged.verdict.lost,
        doubled=judged.verdict.doubled,
        memory_mb=_rounded(trend_of(seconds, [sample.memory_mb for sample in samples])),
        fds=_rounded(trend_of(seconds, [sample.fds for sample in samples])),
        disk_mb=_rounded(trend_of(seconds, [sample.disk_mb for sample in samples])),
        freshness_p50_ms=_rounded(trend_of(times, p50_ms)),
        freshness_p99_ms=_rounded(trend_of(times, p99_ms)),
        deaths=list(deaths),
        problems=problems[:_PROBLEMS_MAX],
        samples=samples,
    )


def freshness(
    answers: Mapping[int, Sequence[Answer]], began_ms: float, duration_ms: float
) -> tuple[list[float], list[float], list[float]]:
    """Freshness over a run, in up to ``_SAMPLES`` intervals.

    Returns:
        Middle of each interval in seconds; median and 99th percentile in ms of the lists appended in it.
    """
    width_ms = max(duration_ms / _SAMPLES, 1000 * _SAMPLE_S_MIN)
    waits: defaultdict[int, list[float]] = defaultdict(list)
    for of_partition in answers.values():
        for answer in of_partition:
            if began_ms <= answer.time_ms < began_ms + duration_ms:
                waits[int((answer.time_ms - began_ms) // width_ms)].append(answer.time_ms - answer.newest_ms)
    times, p50_ms, p99_ms = list[float](), list[float](), list[float]()
    for interval, of_interval in sorted(waits.items()):
        times.append((interval + 0.5) * width_ms / 1000)
        p50_ms.append(percentile(of_interval, 0.5) or 0.0)
        p99_ms.append(percentile(of_interval, 0.99) or 0.0)
    return times, p50_ms, p99_ms


def soak_table(report: SoakReport) -> Table:
    """One row a quantity, with its course."""
    table = Table(
        title=f"{report.minutes:g} minutes, {report.events:,} events: {report.lost} lost, {report.doubled} doubled"
    )
    for name in ("", "after warm-up", "end", "most", "an hour"):
        table.add_column(name, justify="right" if name else "left")
    table.add_column("course")
    rows: list[tuple[str, Trend | None, list[float]]] = [
        ("memory, MB", report.memory_mb, [sample.memory_mb for sample in report.samples]),
        ("file descriptors", report.fds, [float(sample.fds) for sample in report.samples]),
        ("disk, MB", report.disk_mb, [sample.disk_mb for sample in report.samples]),
        ("freshness p50, ms", report.freshness_p50_ms, []),
        ("freshness p99, ms", report.freshness_p99_ms, []),
    ]
    for name, trend, course in rows:
        if trend is not None:
            cells = (f"{trend.first:,.1f}", f"{trend.last:,.1f}", f"{trend.most:,.1f}", f"{trend.per_hour:+,.1f}")
            table.add_row(name, *cells, _picture(course))
    return table


def _picture(values: Sequence[float]) -> str:
    step = max(len(values) // _PICTURE_CHARS, 1)
    shown, most = values[::step][:_PICTURE_CHARS], max(values, default=0.0)
    return "".join(_BARS[min(int(len(_BARS) * value / most), len(_BARS) - 1)] if most else _BARS[0] for value in shown)


def _rounded(trend: Trend | None) -> Trend | None:
    return None if trend is None else Trend(*(round(value, 2) for value in trend))
