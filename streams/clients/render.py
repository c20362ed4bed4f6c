"""What a person sees: lists, users, checks and progress as text. JSON is made elsewhere."""

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

__all__ = ["checks_table", "progress_bar", "ranked_list", "show", "topics_table", "user_page"]

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_STATUS_STYLE: Final = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_BECAUSE_MAX: Final = 2
_HISTORY_SHOWN_MAX: Final = 15


class _Progress(Protocol):
    def __call__(self, done: int, total: int) -> None: ...


class _Finding(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def found(self) -> str: ...
    @property
    def fix(self) -> str: ...


class _Topic(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def partitions(self) -> int: ...
    @property
    def partitions_wanted(self) -> int: ...
    @property
    def policy(self) -> str: ...


def show(*things: Table | Text) -> None:
    """Print to standard output."""
    console = Console(highlight=False, soft_wrap=True)
    for thing in things:
        console.print(thing)


def _clean(text: object) -> str:
    """Ids and titles come from others: no control sequence reaches the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text))


def _moment(timestamp_ms: int) -> str:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def ranked_list(summary: Mapping[str, Any], titles: Mapping[str, str] | None) -> Text:
    """One list, as ``streams.clients.watch.summary`` gives it."""
    text = Text()
    text.append(f"user {_clean(summary['user_id'])}", "bold")
    if summary.get("erased"):
        return text.append("  erased", "red")
    fresh = summary["freshness_ms"]
    lag = summary["publish_lag_ms"]
    when = f"{fresh} ms after the event" if fresh is not None else f"event of {_moment(summary['event_time'])}"
    text.append(f"  {when}, {lag} ms after publishing", "green")
    causes = [f"{c['topic']}/{c['partition']}@{c['offset']}" for c in summary.get("caused_by", [])]
    more = f" and {len(causes) - 1} more" if len(causes) > 1 else ""
    text.append(f"  by {_clean(causes[0]) if causes else 'nothing named'}{more}", "dim")
    text.append(f"  {_clean(summary.get('model_version', ''))}", "dim")
    if summary.get("degraded"):
        text.append("  degraded", "yellow")
    _append_items(text, summary["items"], titles or {})
    return text


def _append_items(text: Text, items: Sequence[Mapping[str, Any]], known: Mapping[str, str]) -> None:
    for item in items:
        name = _clean(item.get("title") or known.get(item["item_id"]) or f"item {item['item_id']}")
        text.append(f"\n  {item['rank']:>3}  {name}")
        text.append(f"  {item['score']:.3f} {_clean(item['source'])}", "dim")
        because = [_clean(known.get(i, i)) for i in item.get("because", [])[:_BECAUSE_MAX]]
        if because:
            text.append(f"  because of {', '.join(because)}", "dim italic")


def user_page(page: Mapping[str, Any], titles: Mapping[str, str] | None) -> list[Text]:
    """State and list of one user, as ``streams.clients.inspect.inspect`` gives them."""
    known = titles or {}
    head = Text(f"user {_clean(page['user_id'])}", "bold").append(f"  partition {page['partition']}", "dim")
    state = page["state"]
    if state is None:
        return [head.append("\n  no state")]
    fences = ", ".join(f"{name} {offset}" for name, offset in state["fences"].items())
    for line in (
        f"{state['events_count']} events, {state['late_count']} late, {state['unknown_count']} unknown items",
        f"model {_clean(state['model_version'])}, vector norm {state['vector_norm']}",
        f"fences (next offsets) {fences}",
        f"state of {_moment(state['updated_at_ms'])}",
    ):
        head.append(f"\n  {line}")
    history = Text("history, newest first")
    for event in list(reversed(state["history"]))[:_HISTORY_SHOWN_MAX]:
        name = _clean(known.get(event["item_id"], f"item {event['item_id']}"))
        history.append(f"\n  {_moment(event['timestamp'])}  {event['type']:<8}  {name}")
    ranked = Text("list")
    if page["list"] is None:
        ranked.append(": none published")
    else:
        _append_items(ranked, page["list"]["items"], known)
    return [head, history, ranked]


def checks_table(checks: Iterable[_Finding]) -> Table:
    """One row per check, the fix below what was found."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        found = Text(_clean(check.found))
        if check.fix:
            found.append(f"\nfix: {_clean(check.fix)}", "cyan")
        table.add_row(Text(check.status, _STATUS_STYLE[check.status]), check.name, found)
    return table


def topics_table(topics: Iterable[_Topic]) -> Table:
    """One row per topic."""
    table = Table("topic", "partitions", "policy", "", box=None, pad_edge=False)
    for topic in topics:
        note = ""
        if topic.partitions == 0:
            note = "missing"
        elif topic.partitions != topic.partitions_wanted:
            note = f"the settings say {topic.partitions_wanted}"
        table.add_row(topic.name, str(topic.partitions), topic.policy, Text(note, "yellow"))
    return table


@contextmanager
def progress_bar(label: str, *, shown: bool) -> Generator[_Progress]:
    """A bar on standard error with rate and time left; the yielded function moves it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as progress:
        task = progress.add_task(label, total=None, rate="")

        def move(done: int, total: int) -> None:
            speed = progress.tasks[0].speed
            progress.update(task, completed=done, total=total, rate=f"{speed:,.0f}/s" if speed else "")

        yield move
