"""Faults on schedule against real workers and brokers: no event lost, none folded twice, for any user."""

import json
from pathlib import Path

import pytest

from streams import cli
from streams.chaos.network import why_no_networks
from streams.chaos.report import Report
from streams.chaos.run import ChaosOptions, run
from streams.chaos.schedule import KINDS, FaultKind
from streams.settings import BrokerSettings, Delivery


def _assert_exact(report: Report) -> None:
    print(report)
    assert report.problems == []
    assert (report.lost, report.doubled) == (0, 0)
    assert report.ok
    assert report.users > 0


@pytest.mark.kafka
@pytest.mark.timeout(290)
def test_two_workers_killed_thirty_times_disk_kept_and_wiped(kafka: str) -> None:
    options = ChaosOptions(
        seed=201,  # one whose kills come in quick succession
        counts={"kill": 30},
        events_per_s=300,
        session_timeout_s=2.0,
        given_broker=BrokerSettings(address=kafka),
    )
    report = run(options, echo=print)
    _assert_exact(report)
    assert report.kills == 30
    assert report.commits > 0
    assert report.lists_repeated > 0, "no kill came between a list and its commit"


@pytest.mark.kafka
@pytest.mark.timeout(280)
@pytest.mark.parametrize("delivery", ["at_least_once", pytest.param("exactly_once", marks=pytest.mark.slow)])
def test_the_broker_is_killed_and_a_worker_leaves_and_comes_back(delivery: Delivery) -> None:
    options = ChaosOptions(seed=62, counts={"broker-kill": 1, "rebalance": 1}, events_per_s=300, delivery=delivery)
    report = run(options, echo=print)
    _assert_exact(report)
    assert delivery == "at_least_once" or report.lists_repeated == 0
    assert report.faults == {"broker-kill": 1, "rebalance": 1}
    assert report.deaths == []


FULL: dict[str, dict[FaultKind, int]] = {
    "kills": {"kill": 300},
    "broker": {"broker-kill": 5, "broker-freeze": 5},
    "network": {"network-cut": 5, "network-slow": 5},
    "rebalance": {"rebalance": 10},
    "zombie": {"zombie": 5},
    "everything": dict.fromkeys(KINDS, 2),
}


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
@pytest.mark.parametrize("faults", FULL)
def test_in_full(faults: str, delivery: Delivery) -> None:
    if "network-cut" in FULL[faults] and (reason := why_no_networks()):
        pytest.skip(reason)
    session_timeout_s = 2.0 if faults == "kills" else 6.0
    options = ChaosOptions(seed=7, counts=FULL[faults], session_timeout_s=session_timeout_s, delivery=delivery)
    report = run(options, echo=print)
    _assert_exact(report)
    assert delivery == "at_least_once" or report.lists_repeated == 0


@pytest.mark.timeout(120)
def test_the_command_on_a_broker_that_is_given(
    embedded: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADWATER_BROKER", embedded)
    arguments = ["chaos", "--seed", "2", "--kills", "2", "--workers", "1", "--users", "200", "--rate", "200", "--json"]
    status = cli.run(arguments)
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["problems"] == []
    assert status == 0
    assert (line["seed"], line["kills"], line["faults"]) == (2, 2, {"kill": 2})
    assert (line["lost"], line["doubled"]) == (0, 0)
    assert 0 < line["users"] <= 200 < line["events"]
    assert line["pause_p99_s"] > 0
    assert cli.run(["chaos", "--faults", "broker"]) == 2
    assert "not ours to harm" in capsys.readouterr().err


def test_a_dry_run_prints_the_schedule_and_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["chaos", "--seed", "3", "--faults", "kill=4,zombie=1", "--dry-run"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(line["kind"] for line in lines) == ["kill"] * 4 + ["zombie"]


@pytest.mark.timeout(120)
def test_a_short_soak(embedded: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HEADWATER_BROKER", embedded)
    status = cli.run(["soak", "--minutes", "0.1", "--rate", "100", "--users", "50", "--surge", "300", "--json"])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["problems"] == []
    assert status == 0
    assert (line["lost"], line["doubled"]) == (0, 0)
    assert line["events"] > 4 * 300
    assert 50 < line["memory_mb"]["last"] <= line["memory_mb"]["most"]
    assert line["fds"]["last"] > 10
    assert len(line["samples"]) >= 3


def test_what_cannot_be_had_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HEADWATER_BROKER", raising=False)
    monkeypatch.setattr("streams.chaos.run.why_no_networks", lambda: "network namespaces need root")
    assert cli.run(["chaos", "--faults", "network"]) == 2
    assert "no network faults here: network namespaces need root" in capsys.readouterr().err
    (tmp_path / "something").touch()
    assert cli.run(["chaos", "--keep", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
