"""A real worker whose encoder throws for a while: marked lists, no end of the worker, and exact states afterwards."""

import json
import random
import time
from pathlib import Path

import pytest

from infra.broker.probe import claim_port
from models.runtime import DEFAULT_ARTEFACT
from streams.chaos.oracle import Place
from tests.integration.harness import (
    Producer,
    WorkerProcess,
    create_topics,
    new_settings,
    read_topic,
    run,
    wait_settled,
)
from tests.integration.oracle import Oracle, final_lists, final_states, make_events, note

_ITEMS = json.loads((DEFAULT_ARTEFACT / "vocabulary.json").read_text())[1:200]
_USERS = 40
_PLANT = """
from pathlib import Path
from models.runtime import OnnxEncoder

sound = OnnxEncoder.advance

def advance(self, packed):
    if Path({flag!r}).exists():
        raise RuntimeError("planted: the device is gone")
    return sound(self, packed)

OnnxEncoder.advance = advance
"""
"""Python runs a module of this name before anything else."""


@pytest.mark.kafka
@pytest.mark.timeout(180)
def test_a_worker_goes_on_while_its_encoder_throws(kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flag = tmp_path / "broken"
    (tmp_path / "sitecustomize.py").write_text(_PLANT.format(flag=str(flag)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    settings = new_settings(kafka, tmp_path, web_port=claim_port(0))
    create_topics(settings)
    oracle, rng = Oracle(settings.topics.events), random.Random(5)
    with WorkerProcess(settings, tmp_path).start() as worker:
        worker.wait_ready()

        def send(first: int, count: int) -> set[Place]:
            events = make_events(settings, rng, count, _USERS, _ITEMS, first=first)
            places = run(Producer(settings).send(events))
            note(oracle, events, places)
            wait_settled(settings, oracle.ends, 60, [worker])
            return set(places)

        def degraded(places: set[Place]) -> set[bool]:
            lists = [json.loads(record.value) for record in read_topic(settings, settings.topics.recommendations)]
            return {each["degraded"] for each in lists if not places.isdisjoint(Place(**c) for c in each["caused_by"])}

        assert degraded(send(0, 600)) == {False}
        flag.touch()
        assert degraded(send(600, 400)) == {True}
        metrics = worker.metrics()
        assert metrics["headwater_degraded"] == 1
        assert metrics["headwater_degraded_lists_total"] > 0
        assert b"planted: the device is gone" in worker.log()
        assert all(content["items"] for content in final_lists(settings).values())
        flag.unlink()
        time.sleep(max(0.0, 2 * _backoff_s(worker)))
        send(1_000, 600)
        assert {content["degraded"] for content in final_lists(settings).values()} == {False}
        assert worker.metrics()["headwater_degraded"] == 0
        assert worker.terminate() == 0
    states = final_states(settings)
    verdict = oracle.judge(states, late_allowed=True)
    assert (verdict.lost, verdict.doubled, verdict.wrong) == (0, 0, [])
    assert len(states) == _USERS
    assert all(state.vector is not None and state.model_version for state in states.values())


def _backoff_s(worker: WorkerProcess) -> float:
    """The wait that the worker's log told last."""
    return float(worker.log().decode().rsplit("next try in ", 1)[1].split(" ", 1)[0])
