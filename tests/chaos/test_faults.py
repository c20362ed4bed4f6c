"""Faults on schedule against real workers and brokers: no event lost, none folded twice, for any user."""

import json
from pathlib import Path

import pytest

from streams import cli
from streams.chaos.report import Report
from streams.chaos.run import ChaosOptions, run
from streams.settings import BrokerSettings


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
        seed=1, counts={"kill": 30}, session_timeout_s=2.0, given_broker=BrokerSettings(address=kafka)
    )
    report = run(options, echo=print)
    _assert_exact(report)
    assert report.kills == 30
    assert report.commits > 0
    assert report.lists_repeated > 0, "no kill came between a list and its commit"


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
    status = cli.run(["soak", "--minutes", "0.1", "--rate", "100", "--users", "50", "--json"])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["problems"] == []
    assert status == 0
    assert (line["lost"], line["doubled"]) == (0, 0)
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
