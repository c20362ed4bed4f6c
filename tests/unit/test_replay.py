"""streams.replay: pace, checkpoint, and a run that dies and goes on without losing an event."""

import os
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams import replay as module
from streams.clients import delivery
from streams.clients.errors import ClientError, InputError
from streams.clients.kafka import Cluster, KafkaError
from streams.importers.sorting import TimedEvent
from streams.importers.source import Source
from streams.replay import Checkpoint, Pacer, load_checkpoint, replay, save_checkpoint, stop_on_signal
from streams.settings import Settings

PERIOD = (0, 100)
CLUSTER = Cluster(embedded=False, partitions={"view": 4, "click": 4, "purchase": 4, "catalog": 1})


class History(Source):
    def __init__(self, total: int) -> None:
        super().__init__("abc", total)

    def events(self, start: int) -> Iterator[TimedEvent]:
        return (TimedEvent(n, n, n % 3, b"u%d" % (n % 5), b"%d" % n) for n in range(start, self.total))

    def catalog(self) -> Iterator[tuple[bytes, bytes]]:
        return iter([(b"i1", b"{}"), (b"i2", b"{}")])


class Log:
    """A broker that takes records until the one numbered ``dies_at``."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.records: list[tuple[str, bytes, bytes, int | None]] = []
        self.sent = 0
        self._dies_at = dies_at

    def send(self, topic: str, value: bytes, key: bytes, headers: object, partition: int | None) -> Any:
        self.sent += 1
        dead = self._dies_at is not None and self.sent > self._dies_at
        if not dead:
            self.records.append((topic, key, value, partition))
        return _Outcome(KafkaError("gone") if dead else None)


class _Outcome:
    is_done = True

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def get(self, timeout: float | None = None) -> None:
        if self._error:
            raise self._error


def _run(
    log: Log,
    total: int,
    monkeypatch: pytest.MonkeyPatch,
    *,
    resume: Path | None = None,
    limit: int | None = None,
    with_catalog: bool = False,
    stopping: Callable[[], bool] = lambda: False,
) -> module.Replayed:
    @contextmanager
    def producer(*_args: object, **_options: object) -> Generator[Log]:
        yield log

    monkeypatch.setattr(module, "producer", producer)
    monkeypatch.setattr(module, "describe_cluster", lambda _broker: CLUSTER)  # pyright: ignore
    return replay(
        Settings(),
        History(total),
        period=PERIOD,
        speed=None,
        limit=limit,
        resume=resume,
        with_catalog=with_catalog,
        on_progress=lambda _done, _total: None,
        stopping=stopping,
    )


def test_event_time_runs_as_many_times_faster_as_asked() -> None:
    now = 50.0
    pacer = Pacer(60, clock=lambda: now)
    assert pacer.wait_s(1_000_000) == 0
    assert pacer.wait_s(1_060_000) == pytest.approx(1.0)
    now = 52.0
    assert pacer.wait_s(1_060_000) == pytest.approx(-1.0)
    assert Pacer(None).wait_s(10**15) == 0


def test_everything_is_sent_in_order_to_its_topic_and_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    done = _run(log, 1200, monkeypatch, with_catalog=True)
    assert (done.sent, done.position, done.total, done.catalog_items) == (1200, 1200, 1200, 2)
    assert not done.stopped
    assert [record[:3] for record in log.records[:2]] == [
        ("catalog", b"i1", b"{}"),
        ("catalog", b"i2", b"{}"),
    ]
    assert [record[2] for record in log.records[2:]] == [b"%d" % n for n in range(1200)]
    assert [record[0] for record in log.records[2:5]] == ["view", "click", "purchase"]
    partition_of_key = {(key, partition) for _, key, _, partition in log.records[2:]}
    assert len(partition_of_key) == 5


def test_the_limit_counts_from_the_start_of_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resume = tmp_path / "position"
    assert _run(Log(), 100, monkeypatch, resume=resume, limit=30).position == 30
    log = Log()
    done = _run(log, 100, monkeypatch, resume=resume, limit=50)
    assert (done.sent, done.position) == (20, 50)
    assert _run(Log(), 100, monkeypatch, resume=resume, limit=50).sent == 0


@settings(max_examples=20)
@given(deaths=st.lists(st.integers(0, 90), max_size=4), block=st.integers(1, 30), window=st.integers(1, 60))
def test_a_replay_that_dies_goes_on_without_losing_an_event(
    deaths: list[int], block: int, window: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    resume = tmp_path_factory.mktemp("replay") / "position"
    delivered: set[bytes] = set()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(delivery, "_BLOCK_RECORDS", block)
        monkeypatch.setattr(delivery.limits, "inflight_records_max", window)
        monkeypatch.setattr(module.os, "fsync", lambda _file: None)  # pyright: ignore
        monkeypatch.setattr(module, "_CHECKPOINT_S", 0.0)
        monkeypatch.setattr(module, "_PROGRESS_EVENTS", 1)
        for dies_at in deaths:
            log = Log(dies_at)
            with suppress(ClientError):
                _run(log, 100, monkeypatch, resume=resume)
            delivered |= {record[2] for record in log.records}
            assert {b"%d" % n for n in range(load_checkpoint(resume, "abc", PERIOD))} <= delivered
        last = Log()
        assert _run(last, 100, monkeypatch, resume=resume).position == 100
        delivered |= {record[2] for record in last.records}
    assert delivered == {b"%d" % n for n in range(100)}


def test_an_event_that_is_not_delivered_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClientError, match="event 7 was not delivered"):
        _run(Log(dies_at=7), 100, monkeypatch)


def test_a_stop_settles_what_was_sent_and_the_next_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resume, log = tmp_path / "position", Log()
    done = _run(log, 100, monkeypatch, resume=resume, stopping=lambda: log.sent >= 40)
    assert done.stopped
    assert done.position == 40 == load_checkpoint(resume, "abc", PERIOD)
    rest = Log()
    assert not _run(rest, 100, monkeypatch, resume=resume).stopped
    assert [record[2] for record in rest.records] == [b"%d" % n for n in range(40, 100)]


def test_a_signal_is_noted_once_and_a_second_one_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signal() as stopping:
        assert not stopping()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"not json", "is no replay checkpoint"),
        (b'{"digest":"abc"}', "is no replay checkpoint"),
        (b'{"digest":"other","period":[0,100],"position":3}', "another history"),
        (b'{"digest":"abc","period":[0,99],"position":3}', "another period"),
    ],
)
def test_a_foreign_checkpoint_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "position"
    path.write_bytes(content)
    with pytest.raises(InputError, match=why):
        load_checkpoint(path, "abc", PERIOD)


def test_a_checkpoint_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "position"
    assert load_checkpoint(path, "abc", PERIOD) == 0
    save_checkpoint(path, Checkpoint("abc", PERIOD, 7))
    save_checkpoint(path, Checkpoint("abc", PERIOD, 8))
    assert load_checkpoint(path, "abc", PERIOD) == 8
    assert [entry.name for entry in tmp_path.iterdir()] == ["position"]
    with pytest.raises(ClientError, match="cannot write the checkpoint"):
        save_checkpoint(tmp_path / "absent" / "position", Checkpoint("abc", PERIOD, 8))
