"""What a chaos run says in the end, as plain data and as a page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from rich.table import Table

from streams.chaos.judge import Judged
from streams.chaos.pauses import Occurrence, longest_gaps_s, percentile, resumed_s
from streams.chaos.schedule import FaultKind

__all__ = ["KindFigures", "Report", "report_of", "report_table"]

_PROBLEMS_MAX: Final = 20


class KindFigures(msgspec.Struct, frozen=True):
    """One kind of fault: how often, how long partitions stood still, how long until events flowed again."""

    count: int
    pause_p50_s: float | None
    pause_p99_s: float | None
    """Of the longest times without a list, of each fault and partition."""
    pause_max_s: float | None
    resumed_max_s: float | None
    """From the end of a fault until every partition had answered an event of after it; of those that could."""


class Report(msgspec.Struct, frozen=True):
    """The last line of ``headwater chaos --json``."""

    ok: bool
    seed: int
    events: int
    users: int
    workers: int
    session_timeout_s: float
    kills: int
    faults: dict[str, int]
    lost: int
    doubled: int
    late: int
    lists: int
    lists_repeated: int
    commits: int
    unacknowledged: int
    pause_p50_s: float | None
    pause_p99_s: float | None
    pause_max_s: float | None
    by_kind: dict[str, KindFigures]
    deaths: list[str]
    """Workers that ended by themselves and were started again."""
    users_wrong: list[str]
    problems: list[str]
    """The first of them; empty when every invariant held."""
    seconds: float


def report_of(
    seed: int,
    workers: int,
    session_timeout_s: float,
    occurrences: Sequence[Occurrence],
    judged: Judged,
    *,
    deaths: Sequence[str],
    seconds: float,
) -> Report:
    """Put together what ``judge`` found and what the faults did to the flow."""
    by_kind, gaps = _by_kind(occurrences, judged)
    counts = Counter(occurrence.fault.kind for occurrence in occurrences)
    wrong = sorted({problem.split(":", 1)[0] for problem in judged.problems if problem.startswith("user-")})
    return Report(
        ok=not judged.problems,
        seed=seed,
        events=judged.events,
        users=judged.users,
        workers=workers,
        session_timeout_s=session_timeout_s,
        kills=counts["kill"],
        faults=dict(counts),
        lost=judged.verdict.lost,
        doubled=judged.verdict.doubled,
        late=judged.verdict.late,
        lists=judged.lists,
        lists_repeated=judged.repeated,
        commits=judged.commits,
        unacknowledged=judged.unacknowledged,
        pause_p50_s=_rounded(percentile(gaps, 0.5)),
        pause_p99_s=_rounded(percentile(gaps, 0.99)),
        pause_max_s=_rounded(max(gaps, default=None)),
        by_kind=by_kind,
        deaths=list(deaths),
        users_wrong=wrong[:_PROBLEMS_MAX],
        problems=judged.problems[:_PROBLEMS_MAX],
        seconds=round(seconds, 1),
    )


def report_table(report: Report) -> Table:
    """One row a kind of fault."""
    exact = (
        f"{report.users} of {report.users} users exact" if report.ok else f"NOT exact: {len(report.problems)} problems"
    )
    table = Table(
        title=f"seed {report.seed}: {report.events:,} events, {report.lost} lost, {report.doubled} doubled; {exact}"
    )
    for name in ("fault", "times", "pause p50 s", "p99 s", "longest s", "flowing again s"):
        table.add_column(name, justify="left" if name == "fault" else "right")
    for kind, figures in report.by_kind.items():
        values = (figures.pause_p50_s, figures.pause_p99_s, figures.pause_max_s, figures.resumed_max_s)
        table.add_row(kind, str(figures.count), *("-" if value is None else f"{value:.1f}" for value in values))
    return table


def _by_kind(occurrences: Sequence[Occurrence], judged: Judged) -> tuple[dict[str, KindFigures], list[float]]:
    gaps = longest_gaps_s(judged.answers, occurrences)
    nexts = [*(float(occurrence.began_ms) for occurrence in occurrences[1:]), float("inf")]
    resumed = [
        resumed_s(judged.answers, occurrence, until) for occurrence, until in zip(occurrences, nexts, strict=True)
    ]
    kinds: Mapping[FaultKind, None] = dict.fromkeys(occurrence.fault.kind for occurrence in occurrences)
    by_kind = {kind: _figures(kind, occurrences, gaps, resumed) for kind in kinds}
    return by_kind, [gap for of_fault in gaps for gap in of_fault]


def _figures(
    kind: FaultKind,
    occurrences: Sequence[Occurrence],
    gaps: Sequence[Sequence[float]],
    resumed: Sequence[float | None],
) -> KindFigures:
    mine = [n for n, occurrence in enumerate(occurrences) if occurrence.fault.kind == kind]
    pauses = [gap for n in mine for gap in gaps[n]]
    return KindFigures(
        len(mine),
        _rounded(percentile(pauses, 0.5)),
        _rounded(percentile(pauses, 0.99)),
        _rounded(max(pauses, default=None)),
        _rounded(max((seconds for n in mine if (seconds := resumed[n]) is not None), default=None)),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
