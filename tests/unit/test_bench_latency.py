"""The arithmetic of open-loop load: arrivals, what is counted, quantiles, stages, the summary of rounds."""

from typing import Any

import numpy as np
import pytest

from streams.bench import freshness
from streams.bench.lab import BenchError
from streams.bench.latency import NANOSECONDS_PER_MS, QUANTILES, Answers, arrivals_ns, completed_per_s, quantiles_ms
from streams.bench.load import LoadConfig, StepResult, Trace, _prepare

MS = NANOSECONDS_PER_MS


def test_arrivals_are_a_poisson_process_of_the_rate() -> None:
    due = arrivals_ns(200_000, 5_000.0, seed=3)
    gaps = np.diff(due) / 1e9
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(1 / 5_000, rel=0.02)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.02)  # exponential: both are one over the rate
    assert (due == arrivals_ns(200_000, 5_000.0, seed=3)).all()
    assert (due != arrivals_ns(200_000, 5_000.0, seed=4)).any()


def test_quantiles_are_exact_order_statistics() -> None:
    values = np.random.default_rng(1).permutation(np.arange(1, 10_001)) * MS
    assert quantiles_ms(values) == {"p50_ms": 5_000, "p99_ms": 9_900, "p999_ms": 9_990}
    assert all(np.isnan(value) for value in quantiles_ms(values[:0]).values())


def _answered() -> Answers:
    answers = Answers.none_yet(np.array([0, 10, 20, 30], np.int64) * MS + 1_000 * MS)
    answers.sent_ns[:] = answers.due_ns + 2 * MS
    answers.appended_ns[:] = answers.due_ns + 5 * MS
    return answers


def test_latency_counts_from_the_moment_an_event_was_due_however_late_it_was_sent() -> None:
    answers = _answered()
    answers.sent_ns[:] = answers.due_ns + 500 * MS
    assert answers.note([0, 1, 2, 3], begun_ms=1_540, listed_ms=1_545, received_ns=1_550 * MS) == 4
    assert answers.freshness_ms()["p50_ms"] == 530
    assert answers.lateness_ms()["p50_ms"] == 500


def test_the_first_list_of_an_event_counts_and_stages_add_up() -> None:
    answers = _answered()
    assert answers.note([0, 1], 1_020, 1_030, 1_033 * MS) == 2
    assert answers.note([1, 2], 2_000, 2_000, 2_000 * MS) == 1
    assert answers.note([3], 1_040, 1_041, 1_042 * MS) == 1
    assert answers.received_ns.tolist() == [1_033 * MS, 1_033 * MS, 2_000 * MS, 1_042 * MS]
    one = Answers(*(column[:1] for column in answers))
    stages = one.stages_ms()
    assert [stages[stage]["p50_ms"] for stage in stages] == [5, 15, 10, 3]
    assert sum(stages[stage]["p50_ms"] for stage in stages) == one.freshness_ms()["p50_ms"]


def test_the_warm_up_is_left_out() -> None:
    answers = _answered()
    assert answers.after(1_020 * MS).due_ns.tolist() == [1_020 * MS, 1_030 * MS]
    received = [0, 500 * MS, 1_000 * MS, 1_999 * MS, 2_000 * MS]
    assert completed_per_s(received, 500 * MS, 2_000 * MS) == 2.0


def test_events_go_where_every_kafka_client_sends_them() -> None:
    from operators.partition import partition_of

    trace = Trace(["7", 'a"b', "7"], ["x", "y", "z"])
    prepared = _prepare(trace, 8)
    assert prepared.partitions == [partition_of(user.encode(), 8) for user in trace.users]
    assert prepared.heads[1] == b'{"user_id":"a\\"b","item_id":"y","timestamp":'
    assert LoadConfig("b", "t", "l", 8, "f").partitions == 8


def _step(freshness_ms: float, rate: float, late_ms: float = 0.5) -> StepResult:
    same = dict.fromkeys(QUANTILES, freshness_ms)
    stages = dict.fromkeys(("produce", "queue", "work", "receive"), same)
    return StepResult(1_000, 0, rate, same, dict.fromkeys(QUANTILES, late_ms), stages)


def test_a_load_is_summarized_over_its_rounds() -> None:
    before = {"headwater_batches_total": 10.0, 'headwater_stage_seconds_sum{stage="decode"}': 1.0}
    after = {
        "headwater_batches_total": 30.0,
        "headwater_records_total": 600.0,
        "headwater_lists_total": 100.0,
        "headwater_yielded_lists_total": 25.0,
        'headwater_stage_seconds_sum{stage="decode"}': 1.1,
    }
    figures = [
        freshness.load_figures(0.5, 1_000.0, _step(quantile, rate), before, after)
        for quantile, rate in ((10.0, 1_000.0), (30.0, 990.0), (12.0, 1_010.0))
    ]
    summary = freshness.summarize_load(figures)
    assert summary["p50_ms"] == summary["p999_ms"] == 12.0
    assert summary["spread"]["p99_ms"] == {"min": 10.0, "max": 30.0}
    assert summary["events_per_batch"] == 30.0
    assert summary["yielded_share"] == 0.25
    assert summary["worker_ms_per_batch"] == {"decode": pytest.approx(5.0)}
    assert summary["kept_up"]
    assert summary["generator_kept_up"]


def test_overload_and_a_late_generator_are_told() -> None:
    slow = freshness.load_figures(0.8, 1_000.0, _step(10.0, 900.0), {}, {})
    late = freshness.load_figures(0.8, 1_000.0, _step(10.0, 1_000.0, late_ms=9.0), {}, {})
    fine = freshness.load_figures(0.8, 1_000.0, _step(10.0, 1_000.0), {}, {})
    assert not freshness.summarize_load([slow, fine])["kept_up"]
    assert not freshness.summarize_load([late, fine])["generator_kept_up"]


class _Probed:
    """A generator whose worker answers at most ``capacity``."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.offered: list[float] = []

    def step(self, events_per_s: float, warm_up_s: float, seconds: float) -> StepResult:
        self.offered.append(events_per_s)
        return _step(10.0, min(events_per_s, self.capacity))


def test_capacity_is_what_is_answered_of_more_than_can_be() -> None:
    generator: Any = _Probed(20_000.0)
    assert freshness._find_capacity(generator, lambda _: None) == 20_000.0
    assert generator.offered[-1] > 20_000.0
    generator = _Probed(0.0)
    with pytest.raises(BenchError, match="no event"):
        freshness._find_capacity(generator, lambda _: None)


@pytest.mark.parametrize("options", [{"rounds": 0}, {"seconds": 0.0}, {"loads": ()}, {"loads": (0.0,)}])
def test_options_that_cannot_be_measured(options: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match="--load"):
        freshness.run(freshness.FreshnessOptions(**options), lambda _: None)
