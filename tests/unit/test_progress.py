"""What a restore tells: figures for the metrics, lines for the log, a bar for a terminal."""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest

from streams.metrics import Metrics
from streams.progress import RestoreProgress
from streams.restore import Restored


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Bar:
    """Bars as they were shown; ``is_open`` as long as one is."""

    def __init__(self) -> None:
        self.shown: list[bool] = []
        self.moves: list[tuple[int, int]] = []
        self.is_open = False

    @contextmanager
    def __call__(self, _: str, *, shown: bool) -> Generator[Callable[[int, int], object]]:
        self.shown.append(shown)
        self.is_open = True
        yield lambda done, total: self.moves.append((done, total))
        self.is_open = False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("streams.progress.time", clock)
    return clock


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> Bar:
    bar = Bar()
    monkeypatch.setattr("streams.progress.progress_bar", bar)
    return bar


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.mark.usefixtures("clock", "bar")
def test_what_is_left_and_what_was_done_are_in_the_metrics(metrics: Metrics) -> None:
    progress = RestoreProgress(metrics)
    progress.move(0, 500)
    assert metrics.gauges == {"restore_offsets_left": 500}
    progress.move(420, 500)
    assert metrics.gauges == {"restore_offsets_left": 80}
    progress.end(Restored(430, 3, 2.0))
    assert metrics.gauges == {"restore_offsets_left": 0, "restored_records": 430, "restore_seconds": 2.0}
    assert "headwater_restore_offsets_left 0" in metrics.prometheus()


@pytest.mark.usefixtures("bar")
def test_the_log_has_a_line_every_five_seconds_with_the_time_left(
    metrics: Metrics, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    progress = RestoreProgress(metrics)
    for second in range(13):
        clock.now = 100.0 + second
        progress.move(10 * second, 200)
    # 60 of 200 in 6 s, and 120 of 200 in 12 s
    assert [record.getMessage() for record in caplog.records] == [
        "restoring: 60 of 200 offsets, about 14 s left",
        "restoring: 120 of 200 offsets, about 8 s left",
    ]
    progress.end(Restored(200, 2, 20.0))
    assert caplog.records[-1].getMessage() == "restored 200 records of 2 partitions from the changelog in 20.0 s (10/s)"


@pytest.mark.usefixtures("bar")
def test_nothing_done_in_no_time_divides_by_nothing(
    metrics: Metrics, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    progress = RestoreProgress(metrics)
    progress.move(0, 10)
    clock.now += 6
    progress.move(0, 10)
    progress.end(Restored(0, 1, 0.0))
    assert "0 of 10" in caplog.text
    assert "restored 0 records" in caplog.text


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.usefixtures("clock")
def test_a_bar_is_shown_on_a_terminal_only(
    metrics: Metrics, bar: Bar, is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.progress.sys.stderr.isatty", lambda: is_terminal)
    RestoreProgress(metrics).move(1, 2)
    assert bar.shown == [is_terminal]


@pytest.mark.usefixtures("clock")
def test_a_restore_that_was_broken_off_closes_its_bar_and_the_next_one_has_its_own(
    metrics: Metrics, bar: Bar, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    progress = RestoreProgress(metrics)
    progress.move(3, 9)
    assert bar.is_open
    progress.end(None)
    assert not bar.is_open
    assert metrics.gauges == {"restore_offsets_left": 6}, "it is not done"
    assert not caplog.records
    progress.move(1, 9)
    assert bar.is_open
    progress.end(Restored(9, 1, 1.0))
    assert not bar.is_open
    assert len(bar.shown) == 2
    assert bar.moves == [(3, 9), (1, 9)]


def test_a_restore_without_partitions_ends_nothing(metrics: Metrics, bar: Any) -> None:
    RestoreProgress(metrics).end(None)
    assert metrics.gauges == {}
    assert bar.shown == []
