"""What the demonstration prints."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["before_and_after", "summary_table"]

_COLUMN_CHARS: Final = 31


def before_and_after(
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any],
    titles: Mapping[str, str],
    console: Console,
) -> None:
    """Two lists of one household side by side; what is new in the second is marked."""
    old = [item["item_id"] for item in before["items"]] if before else []
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right", min_width=2)
    for heading, style in (("before", ""), ("after", ""), ("source", "dim"), ("because of", "dim")):
        table.add_column(heading, style=style, no_wrap=True, overflow="ellipsis", max_width=_COLUMN_CHARS)
    for place, item in enumerate(after["items"]):
        was = old[place] if place < len(old) else ""
        new = item["item_id"] not in old
        name = _title(titles, item["item_id"])
        because = ", ".join(_title(titles, cause) for cause in item["because"])
        shown = f"[green]+ {name}[/]" if new else f"  {name}"
        table.add_row(str(place + 1), _title(titles, was), shown, item["source"], because)
    console.print(table)


def summary_table(report: Mapping[str, Any], console: Console) -> None:
    """The closing figures."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for label, value in _rows(report):
        table.add_row(label, value)
    console.print(table)


def _rows(report: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    live, replay = report["live"], report["replay"]
    return [
        ("events", f"{report['events']:,} (replayed at {replay['events_per_s']:,.0f}/s, start-up not counted)"),
        ("lists", f"{report['lists']:,} for {report['users']:,} households"),
        ("dead letters", f"{report['dead_letters']} (of {report['bad_records_sent']} bad records sent on purpose)"),
        (
            "freshness",
            f"p50 {live['freshness_p50_ms']:.1f} ms, p99 {live['freshness_p99_ms']:.1f} ms over {live['events']} live"
            f" purchases ({report['broker']} broker)",
        ),
        ("state", f"{report['state_bytes'] / 1e6:.1f} MB in RocksDB"),
        ("model", f"{report['model_version']}"),
    ]


def _title(titles: Mapping[str, str], item_id: str) -> str:
    return escape(titles.get(item_id, item_id))
