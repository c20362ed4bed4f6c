"""Counters of ``streams.metrics`` and their Prometheus text."""

import re

from operators.process import Counts
from streams.metrics import Metrics

COUNTS = Counts(records=10, folded=6, duplicates=2, late=1, rejected=1, unknown_items=3, popularity_lists=1)
SAMPLE = re.compile(r'^headwater_[a-z_]+(\{stage="[a-z]+"\})? -?[0-9.e+-]+$')


def test_everything_is_zero_in_the_beginning() -> None:
    assert set(Metrics().as_dict().values()) == {0}
    assert {f"{name}_total" for name in Counts._fields} <= Metrics().as_dict().keys()


def test_batches_add_up() -> None:
    metrics = Metrics()
    for _ in range(3):
        metrics.batch(COUNTS, 4, {"decode": 0.25, "settle": 1.0})
    values = metrics.as_dict()
    assert (values["records_total"], values["folded_total"], values["rejected_total"]) == (30, 18, 3)
    assert (values["lists_total"], values["batches_total"], values["popularity_lists_total"]) == (12, 3, 3)
    assert values["stage_decode_seconds_total"] == 0.75


def test_prometheus_text() -> None:
    metrics = Metrics()
    metrics.batch(COUNTS, 4, {"decode": 0.25})
    metrics.gauges["cached_users"] = 17
    text = metrics.prometheus()
    assert text.endswith("\n")
    lines = text.splitlines()
    samples = [line for line in lines if not line.startswith("#")]
    assert all(SAMPLE.match(line) for line in samples), samples
    assert len(samples) == len(set(samples))
    assert "headwater_folded_total 6" in samples
    assert 'headwater_stage_seconds_total{stage="decode"} 0.250000' in samples
    assert "headwater_cached_users 17" in samples
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {re.split(r"[{ ]", line)[0] for line in samples} == typed
