"""The bench's arithmetic: stretches, recorded batches, ratios, and the checks of what was measured."""

import asyncio
import os
import re
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operators.batches import decode_chunks
from streams.bench import ceilings, pipeline, runs, scale, summary
from streams.bench.lab import Backlog, BenchError, Lab, Process, backlog_of, subprocess_environment
from streams.bench.runs import Listed, stretch_of
from tests.fakes import NOW_MS, FakeEncoder, items, record

PARTITIONS = 4


def _purchases(count: int, users: int = 7) -> list[tuple[bytes, bytes]]:
    made = [record(n, f"user-{n * n % users}", f"item-{n % 5}", NOW_MS - 1000 + n) for n in range(count)]
    return [(one.key or b"", one.value or b"") for one in made]


def _listed_of(backlog: Backlog, batch_events: int) -> list[Listed]:
    """Lists as a worker would publish them that takes ``batch_events`` of each partition at a time."""
    lists: list[Listed] = []
    longest = max(map(len, backlog.records))
    for number, start in enumerate(range(0, longest, batch_events)):
        causes: dict[bytes, list[tuple[int, int]]] = {}
        for partition, part in enumerate(backlog.records):
            for stored in part[start : start + batch_events]:
                causes.setdefault(stored.key, []).append((partition, stored.offset))
        lists += [Listed(1_000 + 10 * number + 5, 1_000 + 10 * number, key, of_key) for key, of_key in causes.items()]
    return lists


def test_backlog_keeps_order_and_puts_a_user_in_one_partition() -> None:
    events = _purchases(200)
    backlog = backlog_of("x", events, PARTITIONS)
    assert backlog.topics == ("x-view", "x-click", "x-purchase")
    assert backlog.events == sum(map(len, backlog.records)) == 200
    for user in {key for key, _ in events}:
        held = [[stored.value for stored in part if stored.key == user] for part in backlog.records]
        assert [values for values in held if values] == [[value for key, value in events if key == user]]
    assert all([stored.offset for stored in part] == list(range(len(part))) for part in backlog.records)


def test_processor_time_of_all_workers_is_of_the_events_of_all() -> None:
    def metrics(events: float, core: float, loop: float) -> dict[str, float]:
        head = "headwater_processor_seconds_total"
        return {"headwater_records_total": events, f'{head}{{thread="core"}}': core, f'{head}{{thread="loop"}}': loop}

    before = [metrics(100, 1.0, 0.5), metrics(0, 1.0, 1.0)]
    after = [metrics(1_100, 1.005, 0.505), metrics(1_000, 1.01, 1.0)]
    assert runs.processor_us_of(before, after) == pytest.approx(10)
    with pytest.raises(BenchError, match="too few to time"):
        runs.processor_us_of(after, after)


def test_states_that_the_disk_cannot_hold_are_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 30_000_000_000

    monkeypatch.setattr(scale.shutil, "disk_usage", lambda _home: Usage)
    scale.require_disk(tmp_path, 11_000_000_000)
    with pytest.raises(BenchError, match=r"need 32\.5 GB under .*, where 30\.0 GB are free; set TMPDIR"):
        scale.require_disk(tmp_path, 13_000_000_000)


def test_the_rounds_of_a_size_are_medians_and_throughput_keeps_each() -> None:
    rounds = [{"size": 2, "events_per_s": rate, "p50_ms": p50} for rate, p50 in ((10, 5.0), (30, 1.0), (20, 2.0))]
    assert scale.median_point(rounds) == {
        "size": 2,
        "events_per_s": 20,
        "p50_ms": 2.0,
        "events_per_s_rounds": [10, 30, 20],
    }


def test_a_turn_finds_the_backlog_and_nothing_of_other_turns_in_the_file_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, broker_dir = tmp_path / "home", tmp_path / "broker"
    kept, *others = (
        broker_dir / "log" / "event-purchase-3" / "0.log",
        broker_dir / "log" / "run-1-purchase-3" / "0.log",
        home / "run-1" / "7" / "000004.sst",
    )
    for file in (kept, *others):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
    dropped: list[Path] = []
    is_written: list[bool] = []

    def noted(descriptor: int, _offset: int, length: int, advice: int) -> None:
        assert is_written, "what is not on the disk yet stays in memory"
        assert (length, advice) == (0, os.POSIX_FADV_DONTNEED)
        dropped.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "sync", lambda: is_written.append(True))
    monkeypatch.setattr(os, "posix_fadvise", noted)
    monkeypatch.setattr(Lab, "producer", lambda _: nullcontext())
    lab = Lab("kafka", "127.0.0.1:1", home, broker_dir=broker_dir)
    asyncio.run(lab.fill("event-purchase", [[]]))
    lab.settle()
    assert sorted(dropped) == sorted(others)


def test_stretch_leaves_the_first_batch_out() -> None:
    lists = [
        Listed(1_000, 990, b"a", [(0, 0), (0, 1)]),
        Listed(1_100, 990, b"b", [(1, 0)]),
        Listed(1_600, 1_200, b"a", [(0, 2), (0, 3), (0, 4)]),
        Listed(2_100, 1_700, b"b", [(1, 1)]),
    ]
    stretch = stretch_of(lists)
    assert (stretch.events, stretch.lists, stretch.seconds) == (4, 2, 1.0)
    assert (stretch.events_per_s, stretch.lists_per_s) == (4.0, 2.0)


@pytest.mark.parametrize(
    "lists", [[], [Listed(5, 1, b"a", [(0, 0)])], [Listed(5, 1, b"a", []), Listed(5, 2, b"a", [])]]
)
def test_stretch_of_one_moment_is_refused(lists: list[Listed]) -> None:
    with pytest.raises(BenchError, match="raise --events"):
        stretch_of(lists)


def test_a_contender_that_loses_or_repeats_events_is_refused() -> None:
    backlog = backlog_of("x", _purchases(50), PARTITIONS)
    lists = _listed_of(backlog, 5)
    runs._check_complete(lists, backlog)
    with pytest.raises(BenchError, match="50 events"):
        runs._check_complete(lists[1:], backlog)
    with pytest.raises(BenchError, match="caused several"):
        runs._check_complete([*lists, lists[0]], backlog)


def test_recorded_batches_are_those_of_the_run() -> None:
    backlog = backlog_of("x", _purchases(120), PARTITIONS)
    lists = _listed_of(backlog, 10)
    batches = ceilings.recorded_batches(lists, backlog)
    assert len(batches) == len({listed.generated_at_ms for listed in lists})
    again = [stored for batch in batches for chunk in batch if chunk.partition == 2 for stored in chunk.records]
    assert again == backlog.records[2]
    for number, batch in enumerate(batches):
        decoded = decode_chunks(batch, NOW_MS)
        published = [listed for listed in lists if listed.generated_at_ms == 1_000 + 10 * number]
        assert decoded.dead_letters == []
        assert Counter(
            {user.key: end - start for user, (start, end) in zip(decoded.users, pairwise(decoded.bounds), strict=True)}
        ) == Counter({listed.key: len(listed.caused_by) for listed in published})


class _CountingEncoder(FakeEncoder):
    """Keeps the rows of every advance, the users' lengths in order, and the size of every ranking call."""

    def __init__(self) -> None:
        super().__init__(items(5))
        self.advanced: list[tuple[list[int], list[int]]] = []
        self.ranked: list[int] = []

    def advance(self, packed: Any) -> Any:
        self.advanced.append((packed.rows.tolist(), sorted(np.diff(packed.ends, prepend=0).tolist())))
        return super().advance(packed)

    def top_k(self, vectors: Any, k: int) -> Any:
        self.ranked.append(len(vectors))
        return super().top_k(vectors, k)


def test_encoder_alone_takes_the_batches_of_the_pipeline() -> None:
    backlog = backlog_of("x", _purchases(120), PARTITIONS)
    batches = ceilings.recorded_batches(_listed_of(backlog, 10), backlog)
    alone, core = _CountingEncoder(), _CountingEncoder()
    encoder: Any = alone
    rate = ceilings.encoder_alone(encoder, batches)
    encoder = core
    done = ceilings.core_alone(encoder, batches)
    assert [(sorted(rows), lengths) for rows, lengths in alone.advanced] == [
        (sorted(rows), lengths) for rows, lengths in core.advanced
    ]
    assert alone.ranked == core.ranked
    assert rate.events_per_s / rate.lists_per_s == pytest.approx(120 / sum(alone.ranked))
    assert sum(effects.counts.folded for effects in done.effects) == 120


def test_state_store_is_measured_with_the_values_of_the_run(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backlog = backlog_of("x", _purchases(40), PARTITIONS)
    encoder: Any = FakeEncoder(items(5))
    done = ceilings.core_alone(encoder, ceilings.recorded_batches(_listed_of(backlog, 10), backlog))
    monkeypatch.setattr(ceilings, "_SECONDS_MIN", 0.01)
    writes, loads = ceilings.state_per_s(Lab("embedded", "", tmp_path), "store", done.effects)
    assert writes > 0 < loads
    store = ceilings.StateStore(tmp_path / "store", block_cache_mb=8, write_buffer_mb=8)
    last = done.effects[-1].puts[0]
    store.open(last.user.partition)
    assert store.load(last.user.partition, [last.user.key]) == [last.value]
    store.close_all()


_FIGURES = {
    "events_per_s": 20_000.0,
    "lists_per_s": 2_000.0,
    "events_per_list": 10.0,
    "encoder_events_per_s": 50_000.0,
    "encoder_lists_per_s": 5_000.0,
    "core_events_per_s": 30_000.0,
    "core_lists_per_s": 3_000.0,
    "small_batches_events_per_s": 9_000.0,
    "small_batches_lists_per_s": 3_000.0,
    "small_batches_events_per_list": 3.0,
    "small_batches_encoder_events_per_s": 30_000.0,
    "small_batches_encoder_lists_per_s": 10_000.0,
    "naive_events_per_s": 500.0,
    "naive_lists_per_s": 500.0,
    "client_consume_per_s": 200_000.0,
    "client_produce_per_s": 4_000.0,
    "state_writes_per_s": 100_000.0,
    "state_loads_per_s": 200_000.0,
}


def test_ratios_use_the_lowest_ceiling_in_events() -> None:
    figures = summary.with_ratios(_FIGURES)
    assert figures["ratio_naive"] == 40
    assert figures["ratio_naive_lists"] == 4
    assert figures["ceiling_events_per_s"] == 40_000  # 4,000 lists of 10 events each, below the encoder's 50,000
    assert figures["ratio_ceiling"] == 0.5
    assert figures["small_batches_ceiling_events_per_s"] == 12_000
    assert figures["small_batches_ratio_ceiling"] == 0.75


def test_summary_has_medians_and_spread() -> None:
    rounds = [{**_FIGURES, "events_per_s": rate} for rate in (10_000.0, 30_000.0, 21_000.0)]
    result = summary.summarize(rounds)
    assert result["events_per_s"] == 21_000
    assert result["ratio_naive"] == 42
    assert result["spread"]["events_per_s"] == {"min": 10_000, "max": 30_000}
    assert result["spread"]["ratio_naive"] == {"min": 20, "max": 60}
    assert set(result["spread"]) == set(result) - {"spread"}


def test_the_result_has_what_the_table_shows(capsys: pytest.CaptureFixture[str]) -> None:
    encoder: Any = FakeEncoder(items(5))
    encoder.manifest = type("Manifest", (), {"items": 6})
    options = replace(pipeline.PipelineOptions(), rounds=2)
    stretch = stretch_of([Listed(1_000, 990, b"a", []), Listed(1_600, 1_200, b"a", [(0, 0)])])
    spent = [(0.72, 1.2), (1.2, 0.24)]  # seconds of 240,000 events
    turns = [
        (runs.Measured([], stretch, {"decode": decode}, {"core": 2 * decode, "broker": broker}), _FIGURES)
        for decode, broker in spent
    ]
    result = pipeline._result(options, encoder, turns)
    assert result["stages_us_per_event"] == {"decode": 4.0}
    assert result["processor_us_per_event"] == {"core": 8.0, "broker": 3.0}
    assert result["catalogue_items"] == 5
    assert {"cpu", "cores", "memory_gb", "python"} <= set(result["machine"])
    assert result["versions"]["faust-streaming"]
    summary.show(result)
    shown = capsys.readouterr().out
    assert re.search(r"naive Faust agent +500 \(500 to 500\) +500 \(500 to 500\)", shown)
    assert "core 8, broker 3; 11.0 in all, so that about 0.2 cores were busy" in shown  # 20,000 events a second
    assert "0.50 of the lowest ceiling (40,000 events/s); 0.75 with small batches" in shown


@pytest.mark.parametrize("changes", [{"rounds": 0}, {"events": 10}, {"naive_events": 1}, {"events": 10**9}])
def test_options_that_cannot_be_measured(changes: dict[str, int]) -> None:
    with pytest.raises(BenchError, match=r"--rounds|--events"):
        pipeline.run(replace(pipeline.PipelineOptions(), **changes), lambda _: None)


def test_no_setting_leaks_into_a_measured_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_WORKER_LIST_ITEMS", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    environment = subprocess_environment({"HEADWATER_BROKER": "here:1"})
    assert [name for name in environment if name.startswith("HEADWATER_")] == ["HEADWATER_BROKER"]
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["PATH"] == os.environ["PATH"]


def test_stage_seconds_are_read_from_the_metrics() -> None:
    text = '# HELP x y\nheadwater_lists_total 3\nheadwater_stage_seconds_sum{stage="decode"} 1.250000\n'
    samples = runs._samples(text)
    assert samples["headwater_lists_total"] == 3
    assert runs.stage_seconds(samples) == {"decode": 1.25}


def test_the_end_of_a_log_is_shown(tmp_path: Any) -> None:
    log = tmp_path / "log"
    log.write_text("x" * 5_000 + "the reason\n")
    child: Any = type("Child", (), {"poll": lambda self: 1})()
    process = Process(child, log)
    assert not process.is_running
    assert process.log_tail().endswith("the reason")
    assert len(process.log_tail()) < 2_000
