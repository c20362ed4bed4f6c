"""streams.chaos.soak and vitals: slopes, freshness by interval, what a process takes."""

import os
from pathlib import Path

import pytest

from streams.chaos.pauses import Answer
from streams.chaos.soak import freshness
from streams.chaos.vitals import cpu_s, fd_count, rss_mb, trend_of


def test_a_trend_is_the_slope_after_the_warm_up() -> None:
    seconds = [float(n) for n in range(0, 400, 10)]
    values = [500.0 if at < 100 else 100 + at / 36 for at in seconds]
    trend = trend_of(seconds, values)
    assert trend is not None
    assert trend.per_hour == pytest.approx(100)
    assert (trend.first, trend.last, trend.most) == (values[10], values[-1], 500.0)


def test_too_few_values_have_no_trend() -> None:
    assert trend_of([], []) is None
    assert trend_of([0, 50, 100], [1, 2, 3]) is None


def test_freshness_is_taken_interval_by_interval() -> None:
    early = [Answer(1_000 + n, 1_000 + n - wait) for n, wait in enumerate((10, 20, 30))]
    late = [Answer(5_100, 5_000), Answer(9_999_999, 0)]
    times, p50_ms, p99_ms = freshness({0: early, 1: late}, began_ms=1_000, duration_ms=10_000)
    assert times == [0.5, 4.5]
    assert p50_ms == [20, 100]
    assert p99_ms == [30, 100]


def test_vitals_are_those_of_the_process() -> None:
    before = fd_count(os.getpid())
    with Path(os.devnull).open():
        assert fd_count(os.getpid()) == before + 1
    assert 10 < rss_mb(os.getpid()) < 10_000
    assert cpu_s(os.getpid()) == pytest.approx(sum(os.times()[:2]), abs=0.5)
    assert (rss_mb(-1), fd_count(-1), cpu_s(-1)) == (0, 0, 0)
