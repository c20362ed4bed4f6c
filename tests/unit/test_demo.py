"""The figures of the demonstration and what it prints."""

# pyright: reportPrivateUsage=false

import re
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from streams.demo.run import DemoOptions, _ms, _quantile
from streams.demo.show import before_and_after, summary_table

WIDE = 200
TITLES = {"p1": "Milk", "p2": "Tea", "p3": "Bread"}


def recorder(*, terminal: bool = False) -> Console:
    return Console(record=True, width=WIDE, force_terminal=terminal, color_system="standard", file=StringIO())


def listed(*items: tuple[str, list[str]]) -> dict[str, Any]:
    """Of the encoder's first choice, and of what goes with what the household took."""
    sources = ["encoder", *["co-visitation"] * len(items)]
    return {
        "items": [
            {"item_id": item_id, "source": source, "because": because}
            for (item_id, because), source in zip(items, sources, strict=False)
        ]
    }


def rows(console: Console) -> list[list[str]]:
    """The cells of every printed line; two blanks or more stand between columns."""
    return [re.split(r"\s{2,}", line.strip()) for line in console.export_text().splitlines()]


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([5.0], 0.5, 5.0),
        ([5.0], 0.99, 5.0),
        ([1.0, 2.0], 0.5, 1.0),
        ([1.0, 2.0, 3.0], 0.5, 2.0),
        ([1.0, 2.0, 3.0, 4.0], 0.75, 3.0),
        ([float(n) for n in range(1, 101)], 0.99, 99.0),
        ([float(n) for n in range(1, 102)], 0.99, 100.0),
        ([1.0, 2.0], 0.0, 1.0),
        ([1.0, 2.0], 1.0, 2.0),
    ],
)
def test_quantiles_are_of_the_nearest_rank(values: list[float], share: float, expected: float) -> None:
    assert _quantile(values, share) == expected


def test_days_are_those_of_utc() -> None:
    assert _ms("1970-01-02") == 86_400_000
    assert _ms("2017-06-01") == 1_496_275_200_000
    options = DemoOptions()
    assert _ms(options.end) - _ms(options.start) == 30 * 86_400_000


def test_two_lists_stand_side_by_side_with_what_is_new_marked() -> None:
    console = recorder()
    before = listed(("p1", []), ("p2", []))
    after = listed(("p2", ["p1", "p9"]), ("p3", ["p2"]), ("p4", []))
    before_and_after(before, after, TITLES, console)
    assert rows(console) == [
        ["before", "after", "source", "because of"],
        ["1", "Milk", "Tea", "encoder", "Milk, p9"],
        ["2", "Tea", "+ Bread", "co-visitation", "Tea"],
        ["3", "+ p4", "co-visitation"],
    ]


def test_new_items_are_green() -> None:
    console = recorder(terminal=True)
    before_and_after(listed(("p1", [])), listed(("p1", []), ("p3", [])), TITLES, console)
    _, kept, new = console.export_text(styles=True).splitlines()
    assert "\x1b[32m+ Bread\x1b[0m" in new
    assert "\x1b[32m" not in kept


def test_a_first_list_is_all_new() -> None:
    console = recorder()
    before_and_after(None, listed(("p1", []), ("p2", ["p1"])), TITLES, console)
    assert rows(console)[1:] == [["1", "+ Milk", "encoder"], ["2", "+ Tea", "co-visitation", "Milk"]]


def test_long_titles_are_cut_not_wrapped() -> None:
    console = recorder()
    before_and_after(None, listed(("p1", ["p1"])), {"p1": "Milk of a very long name " * 9}, console)
    _, row = rows(console)
    assert len(row) == 4
    assert row[1].endswith("…")
    assert all(len(cell) <= 31 for cell in row)


def test_every_column_has_room_in_a_log() -> None:
    """120 columns, as where there is no terminal: ten long names on either side, the longest source, and the places."""
    console = Console(record=True, width=120)
    titles = {f"p{n}": "A name that is as long as names of products are, and longer" for n in range(10)}
    both = listed(*((f"p{n}", [f"p{n}"]) for n in range(10)))
    before_and_after(both, both, titles, console)
    shown = console.export_text().splitlines()[1:]
    assert [line.split()[0] for line in shown] == [str(place) for place in range(1, 11)]
    assert all("co-visitation" in line for line in shown[1:])


def report(**fields: Any) -> dict[str, Any]:
    return {
        "broker": "embedded",
        "events": 50_301,
        "lists": 12_345,
        "users": 2_001,
        "bad_records_sent": 3,
        "dead_letters": 2,
        "replay": {"events": 50_000, "seconds": 4.0, "events_per_s": 12_499.6},
        "live": {"events": 301, "freshness_p50_ms": 9.449, "freshness_p99_ms": 31.26, "shown_ms": 12.0},
        "state_bytes": 7_340_032,
        "model_version": "sasrec-1",
        "seconds": 40.0,
        **fields,
    }


def test_the_summary_names_every_figure_with_its_unit() -> None:
    console = recorder()
    summary_table(report(), console)
    cells = dict(rows(console))
    assert cells == {
        "events": "50,301 (replayed at 12,500/s, start-up not counted)",
        "lists": "12,345 for 2,001 households",
        "dead letters": "2 (of 3 bad records sent on purpose)",
        "freshness": "p50 9.4 ms, p99 31.3 ms over 301 live purchases (embedded broker)",
        "state": "7.3 MB in RocksDB",
        "model": "sasrec-1",
    }


def test_brackets_in_a_title_are_no_markup() -> None:
    console = Console(record=True, width=120)
    before_and_after(None, listed(("1", [])), {"1": "Soup [/] of [bold] the day"}, console)
    assert "Soup [/] of [bold] the day" in console.export_text()
