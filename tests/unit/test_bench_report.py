"""The report: targets against results, a page and pictures of them; the peers' requirements and their job."""

import tomllib
from pathlib import Path
from typing import Any

import orjson
import pytest

from streams.bench import report
from streams.bench.lab import BenchError
from streams.bench.latency import QUANTILES, STAGES
from streams.bench.peers.contest import PEERS, REQUIREMENTS, PeersOptions, _interpreter, _summary
from streams.bench.peers.job import Interaction, Update, new_job
from streams.bench.peers.pathway_flow import combiner
from streams.bench.targets import TARGETS, judge

ABOUT: dict[str, Any] = {
    "rounds": 2,
    "broker": "kafka",
    "machine": {"cores": 2, "cpu": "x", "memory_gb": 24.0, "python": "3.11"},
    "measured_at": "today",
}

_ITEMS = ["1082185", "995242", "no such item", "1029743"]


def _load(load: float, p50: float) -> dict[str, Any]:
    quantiles = dict.fromkeys(QUANTILES, p50)
    return {
        "load": load,
        "events_per_s": 1_000.0 * load,
        **quantiles,
        "spread": {name: {"min": p50 - 1, "max": p50 + 1} for name in QUANTILES},
        "kept_up": load < 0.8,
        "generator_kept_up": True,
        "stages_ms": dict.fromkeys(STAGES, quantiles),
        "worker_ms_per_batch": {"decode": 0.5},
    }


def _contender(name: str, rate: int, ratio: float) -> dict[str, Any]:
    same = {"min": rate, "max": rate}
    return {
        "name": name,
        "survives_by": "changelog topic",
        "events_per_s": rate,
        "events_per_s_spread": same,
        "lists_per_s": rate,
        "lists_per_s_spread": same,
        "ratio_headwater": ratio,
        "ratio_headwater_spread": {"min": ratio, "max": ratio},
    }


RESULTS: dict[str, dict[str, Any]] = {
    "freshness": {**ABOUT, "capacity_events_per_s": 1_000, "loads": [_load(0.5, 20.0), _load(0.8, 90.0)]},
    "peers": {
        **ABOUT,
        "job": "encoder",
        "contenders": [_contender("headwater", 20_000, 1.0), _contender("naive Faust agent", 500, 40.0)],
        "absent": ["quixstreams, exactly once"],
        "failed": {},
    },
    "scale-workers": {
        **ABOUT,
        "axis": "workers",
        "synthetic": "users and events",
        "others": {"users": 5_000},
        "events": 40_000,
        "load_per_s": 300.0,
        "points": [
            {"size": 1, "events_per_s": 100.0, "events_per_s_rounds": [90.0, 100.0, 110.0]},
            {"size": 2, "events_per_s": 190.0, "events_per_s_rounds": [180.0, 190.0, 198.0]},
        ],
        "slopes": {"events_per_s": {"exponent": 0.9, "name": "linear"}},
    },
}


def test_targets_are_judged_by_what_was_measured() -> None:
    judged = {each.target.name: each for each in judge(RESULTS)}
    assert len(judged) == len(TARGETS)
    assert judged["times the naive Faust agent"].verdict == "met"
    assert judged["ms, p50 at half load"].verdict == "not met"
    assert judged["ms, p99 at half load"].verdict == "met"
    assert judged["times one worker, two workers"].measured == (1.9, 1.8, 2.0)
    assert judged["times quixstreams"].verdict == "not measured"
    assert judged["events/s, encoder and exact top 10"].verdict == "not measured"


def test_the_share_of_the_arithmetic_limit() -> None:
    pipeline = {"events_per_s": 50_000.0, "events_per_list": 10.0, "spread": {"events_per_s": {"min": 4e4, "max": 6e4}}}
    encoder = {"step_limit_us": 2.0, "top_k_limit_us": 20.0}
    (share,) = [each for each in judge({"pipeline": pipeline, "encoder": encoder}) if "arithmetic" in each.target.name]
    assert share.measured == (0.2, 0.16, 0.24)  # 4 us an event of arithmetic at 50,000 events/s
    assert share.verdict == "not met"


def test_page_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "performance"
    kept.mkdir()
    with pytest.raises(BenchError, match="--measure"):
        report.write(tmp_path)
    for name, result in RESULTS.items():
        if name != "scale-workers":
            (kept / f"{name}.json").write_bytes(orjson.dumps(result))
    path, _ = report.write(tmp_path)
    text = path.read_text("utf-8")
    assert "| ms, p50 at half load | at most 15ms | 20 (19 to 21) | not met: " in text
    assert "| times the naive Faust agent | at least 20x | 40 (40 to 40) | met |" in text
    assert "overloaded" in text
    assert "Absent, not installed: quixstreams, exactly once." in text
    pictures = sorted(file.name for file in kept.glob("*.svg"))
    assert pictures == ["freshness-freshness.svg", "freshness-stages.svg", "peers-peers.svg"]
    assert all(f"performance/{name}" in text for name in pictures)
    before = [(kept / name).read_bytes() for name in pictures]
    report.write(tmp_path)
    assert before == [(kept / name).read_bytes() for name in pictures]


def test_a_bench_that_fails_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_echo: report.Echo) -> dict[str, Any]:
        raise BenchError("no broker")

    benches = {
        "peers": lambda _: dict(RESULTS["peers"]),
        "state": fails,
        "freshness": lambda _: dict(RESULTS["freshness"]),
    }
    monkeypatch.setattr(report, "MEASURES", benches)
    assert report.measure([], tmp_path, lambda _: None) == {"state": "no broker"}
    assert set(report.read_results(tmp_path)) == {"peers", "freshness"}
    with pytest.raises(BenchError, match="no bench 'other'"):
        report.measure(["other"], tmp_path, lambda _: None)


def test_what_a_peer_needs_is_an_extra_of_its_own() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for extra, requirement in REQUIREMENTS.items():
        assert project[extra] == [requirement]
        assert not any(extra in other for other in project["dev"])
    assert {peer.extra for peer in PEERS} - {None} == set(REQUIREMENTS)


def test_a_peer_that_is_not_installed_is_absent(tmp_path: Path) -> None:
    options = PeersOptions(cache=tmp_path)
    assert [peer.name for peer in PEERS if _interpreter(peer, options.cache) is not None] == [
        "naive Faust agent",
        "bare confluent-kafka and rocksdict",
    ]


def test_ratios_are_of_the_same_round() -> None:
    ours = [{"events_per_s": 100.0, "lists_per_s": 10.0}, {"events_per_s": 50.0, "lists_per_s": 5.0}]
    theirs = [{"events_per_s": 10.0, "lists_per_s": 10.0}, {"events_per_s": 5.0, "lists_per_s": 5.0}]
    assert _summary("naive Faust agent", theirs, ours)["ratio_headwater_spread"] == {"min": 10.0, "max": 10.0}


@pytest.mark.parametrize("name", ["encoder", "state"])
def test_the_peers_job_is_the_same_in_batches_and_one_at_a_time(name: Any) -> None:
    job, batches = new_job(name), new_job(name)
    events = [Interaction(item, 1_700_000_000_000 + 60_000 * n, 0, n) for n, item in enumerate(_ITEMS)]
    stored: bytes | None = None
    for event in events:
        ((stored, one),) = job.run([Update(stored, "7", [event])])
    ((at_once, batched),) = batches.run([Update(None, "7", events)])
    lists = [orjson.loads(value)["items"] for value in (one, batched)]
    assert [item["item_id"] for item in lists[0]] == [item["item_id"] for item in lists[1]]
    assert len(lists[0]) == (10 if name == "encoder" else 4)
    assert stored is not None
    assert abs(len(stored) - len(at_once)) <= 4
    if name == "state":
        assert [item["item_id"] for item in lists[0]] == _ITEMS[::-1]


@pytest.mark.parametrize("name", ["encoder", "state"])
def test_a_pathway_reducer_does_the_job_whatever_the_order_of_a_batch(name: Any) -> None:
    combine, job = combiner(new_job(name)), new_job(name)
    events = [Interaction(item, 1_700_000_000_000 + 60_000 * n, 3, 9 + n) for n, item in enumerate(_ITEMS)]
    rows = [(["7", *event], 1) for event in events]
    state = combine(combine(None, [rows[1], rows[2], rows[0]]), rows[3:])
    ((stored, _),) = job.run([Update(None, "7", events[:3])])
    ((stored, ranked),) = job.run([Update(stored, "7", events[3:])])
    assert state[0] == stored
    lists = [orjson.loads(value) for value in (state[1], ranked)]
    for each in lists:
        del each["generated_at"]
    assert lists[0] == lists[1]


def test_scale_names_what_is_synthetic() -> None:
    text = report.page({"scale-workers": RESULTS["scale-workers"]}, judge({}))
    assert "Synthetic: users and events; users 5,000; events/s of a backlog of 40,000; p50 and p99 at 300 ev" in text
    assert "`headwater bench report --measure --only scale-workers`" in text
    assert "| growth | linear (0.9) |" in text
