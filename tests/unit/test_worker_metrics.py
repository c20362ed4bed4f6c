"""Counters and histograms of ``streams.metrics`` and their Prometheus text."""

import re
import threading
import time
from itertools import pairwise

import numpy as np

from operators.effects import Counts
from streams.metrics import Metrics
from streams.processor import ProcessorTime

COUNTS = Counts(records=10, folded=6, duplicates=2, late=1, rejected=1, unknown_items=3, popularity_lists=1)
SAMPLE = re.compile(
    r'^(headwater_[a-z_]+(?:\{(?:(?:stage|thread)="[a-z]+")?,?(?:le="[0-9.+Inf]+")?\})?) (-?[0-9.e+-]+)$'
)


def samples(metrics: Metrics) -> dict[str, float]:
    """Value of every sample of the text."""
    lines = [line for line in metrics.prometheus().splitlines() if not line.startswith("#")]
    found = [SAMPLE.fullmatch(line) for line in lines]
    assert all(found), lines
    values = {match[1]: float(match[2]) for match in found if match}
    assert len(values) == len(lines), "a sample stands twice"
    return values


def test_everything_is_zero_in_the_beginning() -> None:
    values = samples(Metrics())
    assert set(values.values()) == {0}
    assert {f"headwater_{name}_total" for name in Counts._fields} <= values.keys()


def test_batches_add_up() -> None:
    metrics = Metrics()
    for _ in range(3):
        metrics.batch(COUNTS, 4, {"decode": 0.25, "settle": 1.0})
    values = samples(metrics)
    assert [values[f"headwater_{name}_total"] for name in ("records", "folded", "rejected")] == [30, 18, 3]
    assert [values[f"headwater_{name}_total"] for name in ("lists", "batches", "popularity_lists")] == [12, 3, 3]
    assert values['headwater_stage_seconds_sum{stage="decode"}'] == 0.75
    assert values['headwater_stage_seconds_count{stage="settle"}'] == 3
    assert values['headwater_stage_seconds_bucket{stage="settle",le="0.5"}'] == 0
    assert values['headwater_stage_seconds_bucket{stage="settle",le="1"}'] == 3


def test_ages_fall_into_buckets_and_a_clock_that_is_ahead_makes_none_negative() -> None:
    metrics = Metrics()
    metrics.ages(np.array([1_000, 1_990, 2_020]), begun_ms=2_000, settled_ms=2_010)
    metrics.ages(np.array([-10_000_000]), begun_ms=2_000, settled_ms=2_010)
    values = samples(metrics)
    freshness, queue = "headwater_freshness_seconds", "headwater_queue_seconds"
    assert [values[f'{freshness}_bucket{{le="{bound}"}}'] for bound in ("0.002", "0.005", "0.02", "1", "2", "300")] == [
        1, 1, 2, 2, 3, 3,
    ]  # fmt: skip
    assert values[f'{freshness}_bucket{{le="+Inf"}}'] == values[f"{freshness}_count"] == 4
    assert values[f"{freshness}_sum"] == 1.010 + 0.020 + 10_002.010
    assert values[f"{queue}_sum"] == 1.0 + 0.01 + 10_002.0
    assert [values[f'{queue}_bucket{{le="{bound}"}}'] for bound in ("0.001", "0.01", "1")] == [1, 2, 3]


def test_gauges_are_set_or_asked_for_when_they_are_read() -> None:
    metrics = Metrics()
    lag = iter((5.0, 7.0))
    metrics.gauges["cached_users"] = 17
    metrics.watched["lag_events"] = lambda: next(lag)
    assert samples(metrics)["headwater_lag_events"] == 5
    values = samples(metrics)
    assert (values["headwater_lag_events"], values["headwater_cached_users"]) == (7, 17)


def test_every_sample_has_a_type() -> None:
    metrics = Metrics()
    metrics.batch(COUNTS, 4, {"decode": 0.25})
    metrics.gauges["cached_users"] = 17
    metrics.processor = lambda: {"loop": 1.5}
    text = metrics.prometheus()
    assert text.endswith("\n")
    typed = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    names = {re.split(r"[{ ]", name)[0] for name in samples(metrics)}
    assert text.count("# TYPE") == len(typed)
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in names} == typed


def test_processor_time_by_thread() -> None:
    done, hold = threading.Event(), threading.Event()

    def work() -> None:
        began = time.thread_time()
        while time.thread_time() - began < 0.2:
            pass
        done.set()
        hold.wait()

    processor = ProcessorTime()
    before = processor.seconds()
    thread = threading.Thread(target=work, name="headwater-core_0", daemon=True)
    thread.start()
    done.wait()
    after = processor.seconds()
    hold.set()
    thread.join()
    assert list(after) == ["loop", "core", "lists", "store", "others"]
    assert after["core"] - before["core"] >= 0.2
    assert after["store"] == before["store"] == 0
    assert sum(after.values()) - sum(before.values()) >= 0.2
    assert after["loop"] - before["loop"] < 0.2
    metrics = Metrics()
    metrics.processor = lambda: {"loop": 1.5, "core": 0.25}
    values = samples(metrics)
    assert values['headwater_processor_seconds_total{thread="loop"}'] == 1.5
    assert values['headwater_processor_seconds_total{thread="core"}'] == 0.25


def test_processor_time_never_falls() -> None:
    processor = ProcessorTime()
    found = [processor.seconds() for _ in range(300)]
    assert found[-1]["loop"] > found[0]["loop"]
    for before, after in pairwise(found):
        assert all(after[thread] >= seconds for thread, seconds in before.items())
