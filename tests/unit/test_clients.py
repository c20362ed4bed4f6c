"""streams.clients: connections, bounded delivery, produce, reading back, what watch shows."""

import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import orjson
import pytest

from operators.partition import partition_of
from streams.clients import delivery
from streams.clients import produce as produce_module
from streams.clients.delivery import Delivery
from streams.clients.errors import ClientError
from streams.clients.kafka import Cluster, KafkaError, Partition, connection_options
from streams.clients.produce import Produced, produce
from streams.clients.reading import end_offsets, last_of_key, read, settled_ends
from streams.clients.render import ranked_list
from streams.clients.watch import Watched, summary
from streams.reach import ssl_context, why_unreachable
from streams.settings import BrokerSettings, Settings, SettingsError

CLUSTER = Cluster(embedded=False, partitions={"view": 8, "click": 8, "purchase": 8})


class Outcome:
    """A delivery that is over once it has been waited for."""

    def __init__(self, sink: "Sink", error: Exception | None) -> None:
        self.is_done = False
        self._sink, self._error = sink, error
        sink.open += 1
        sink.open_max = max(sink.open_max, sink.open)

    def get(self, timeout: float | None = None) -> None:
        self.is_done = True
        self._sink.open -= 1
        if self._error:
            raise self._error


class Sink:
    def __init__(self, failing: frozenset[int] = frozenset(), refused: frozenset[int] = frozenset()) -> None:
        self.records: list[dict[str, Any]] = []
        self.open = self.open_max = 0
        self._failing, self._refused = failing, refused

    def send(self, topic: str, value: bytes, key: bytes | None, headers: Any, partition: int | None) -> Any:
        place = len(self.records)
        record = {"topic": topic, "value": value, "key": key, "headers": headers, "partition": partition}
        self.records.append(record)
        if place in self._refused:
            raise KafkaError("too large")
        return Outcome(self, KafkaError("gone") if place in self._failing else None)


class Topic:
    """Partitions of a broker whose answer to ListOffsets(latest) lies ``end_error`` records below the end.

    The embedded broker's is wrong; of any other one these are the records behind a transaction that is open.
    """

    def __init__(
        self, partitions: Mapping[Partition, Sequence[tuple[int, bytes]]], end_error: int, *, is_embedded: bool = True
    ) -> None:
        self._records = partitions
        self._end_error = end_error
        self.is_embedded = is_embedded
        self._at: dict[Partition, int] = {}
        self._polled: set[Partition] = set()
        self.returned = 0

    def _end(self, partition: Partition) -> int:
        records = self._records[partition]
        return records[-1][0] + 1 if records else 0

    def assign(self, partitions: Sequence[Partition]) -> None:
        self._at = dict.fromkeys(partitions, 0)

    def seek(self, partition: Partition, offset: int) -> None:
        self._at[partition] = offset

    def position(self, partition: Partition) -> int:
        return self._at[partition]

    def highwater(self, partition: Partition) -> int | None:
        return self._end(partition) if partition in self._polled else None

    def beginning_offsets(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        return dict.fromkeys(partitions, 0)

    def end_offsets(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        return {p: max(self._end(p) - self._end_error, 0) for p in partitions}

    def poll(self, timeout_ms: int = 0) -> dict[Partition, list[Any]]:
        answer: dict[Partition, list[Any]] = {}
        for partition, at in self._at.items():
            self._polled.add(partition)
            found = [(offset, key) for offset, key in self._records[partition] if offset >= at][:700]
            if found:
                self._at[partition] = found[-1][0] + 1
                answer[partition] = [SimpleNamespace(offset=offset, key=key) for offset, key in found]
                self.returned += len(found)
        return answer


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A certificate of nobody that signed anything."""
    file = tmp_path / "ca.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
    ]
    command += ["/CN=headwater test authority", "-keyout", os.devnull, "-out", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    return file


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_of_certificates_that_cannot_be_used_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=f"broker.tls_ca_file: cannot use {file}"):
        ssl_context(BrokerSettings(security_protocol="SSL", tls_ca_file=str(file)))


def test_a_silent_address_is_told_from_other_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        tls = BrokerSettings(address=address, security_protocol="SASL_SSL")
        assert "no Kafka broker answers" in why_unreachable(tls)
        listening.listen()

        def answered(broker: BrokerSettings, answer: bytes) -> str:
            def answers() -> None:
                with listening.accept()[0] as connection:
                    connection.recv(100)
                    connection.sendall(answer)

            thread = threading.Thread(target=answers)
            thread.start()
            try:
                return why_unreachable(broker)
            finally:
                thread.join()

        assert "does not speak TLS" in answered(tls, b"this is no TLS")
        login = BrokerSettings(address=address, security_protocol="SASL_PLAINTEXT", sasl_username="ada")
        assert "refuses the login of 'ada'" in answered(login, b"\0")
        plain = BrokerSettings(address=address)
        assert "does not answer as Kafka over PLAINTEXT" in answered(plain, b"HTTP/1.1 400")
        assert "does not answer as Kafka over PLAINTEXT" in answered(plain, b"")
        monkeypatch.setattr("streams.reach._TIMEOUT_S", 0.1)
        for frozen in (plain, login):  # its system takes connections, nobody reads them
            assert "takes connections but has not answered in 0.1 s: it hangs" in why_unreachable(frozen)


def test_tls_and_sasl_reach_every_client(authority: Path) -> None:
    broker = BrokerSettings(
        address="a:1, b:2",
        security_protocol="SASL_SSL",
        tls_ca_file=str(authority),
        sasl_username="user",
        sasl_password="secret",  # noqa: S106 - a password of no broker
    )
    options = connection_options(broker)
    assert options["bootstrap_servers"] == ["a:1", "b:2"]
    context = options["ssl_context"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.get_ca_certs()[0]["subject"] == ((("commonName", "headwater test authority"),),)
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("user", "secret")


def test_sasl_without_a_password_says_so() -> None:
    with pytest.raises(ClientError, match="HEADWATER_BROKER_SASL_PASSWORD"):
        connection_options(BrokerSettings(security_protocol="SASL_PLAINTEXT", sasl_username="user"))


def test_deliveries_are_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_BLOCK_RECORDS", 10)
    monkeypatch.setattr(delivery.limits, "inflight_records_max", 50)
    sink = Sink(failing=frozenset({7, 120}), refused=frozenset({33}))
    failed: list[tuple[int, str]] = []
    sending = Delivery(sink, lambda tag, error: failed.append((tag, str(error))))  # pyright: ignore
    for n in range(205):
        sending.send("view", b"k", b"v", [], 8, n)
    sending.settle_done()
    sending.flush()
    assert sink.open_max <= 60
    assert (sending.acknowledged, sending.failed, sending.settled) == (202, 3, 205)
    assert [tag for tag, _ in failed] == [7, 33, 120]


def test_keys_go_where_murmur2_puts_them_and_no_key_anywhere() -> None:
    sink = Sink()
    sending = Delivery(sink, lambda _tag, _error: None)  # pyright: ignore
    sending.send("view", b"some-user", b"v", [], 8)
    sending.send("view", None, b"v", [], 8)
    assert [record["partition"] for record in sink.records] == [partition_of(b"some-user", 8), None]


def _produce(lines: list[bytes], sink: Sink, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    @contextmanager
    def producer(*_args: object, **_options: object) -> Generator[Sink]:
        yield sink

    reports: list[str] = []
    monkeypatch.setattr(produce_module, "producer", producer)
    monkeypatch.setattr(produce_module, "describe_cluster", lambda _broker: CLUSTER)  # pyright: ignore
    chosen: dict[str, Any] = {"event_type": None, "encoding": "json", "raw": False, **options}
    return produce(Settings(), lines, report=reports.append, **chosen), reports


def test_produce_sends_each_event_to_the_topic_of_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Sink()
    lines = [
        b'{"user_id":"u","item_id":"a","type":"view"}\r\n',
        b"\n",
        b'{"user_id":"u","type":"purchase"}\n',
    ]
    done, reports = _produce(lines, sink, monkeypatch)
    assert done == Produced(2, 0, 0)
    assert reports == []
    assert [record["topic"] for record in sink.records] == ["view", "purchase"]
    assert orjson.loads(sink.records[0]["value"]) == {"user_id": "u", "item_id": "a"}
    assert sink.records[0]["key"] == b"u"
    assert sink.records[0]["headers"] == [("content-type", b"application/json")]


def test_produce_writes_msgpack(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Sink()
    _produce([b'{"user_id":"u","value":1.5}'], sink, monkeypatch, event_type="click", encoding="msgpack")
    assert msgspec.msgpack.decode(sink.records[0]["value"]) == {"user_id": "u", "value": 1.5}
    assert sink.records[0]["headers"] == [("content-type", b"application/msgpack")]


def test_produce_refuses_what_is_no_event_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Sink()
    lines = [
        b"{",
        b"[1]",
        b'{"type":"view"}',
        b'{"user_id":7,"type":"view"}',
        b'{"user_id":"u","type":["view"]}',
    ]
    done, reports = _produce([*lines, b'{"user_id":"u","type":"view"}'], sink, monkeypatch)
    assert done == Produced(1, 5, 0)
    assert [report.partition(":")[0] for report in reports] == [f"line {n}" for n in range(1, 6)]


def test_produce_raw_sends_any_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Sink()
    lines = [b"\xff\x00{", b'{"user_id":"u", "odd": 1}', b"[1]"]
    done, _ = _produce(lines, sink, monkeypatch, event_type="view", raw=True)
    assert done == Produced(3, 0, 0)
    assert [record["value"] for record in sink.records] == lines
    assert [record["key"] for record in sink.records] == [None, b"u", None]


def test_produce_names_the_lines_that_were_not_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [b'{"user_id":"u","type":"view"}', b"bad", b'{"user_id":"u","type":"view"}']
    done, reports = _produce(lines, Sink(failing=frozenset({1})), monkeypatch)
    assert done == Produced(1, 1, 1)
    assert reports[1].startswith("line 3: not delivered")


def test_the_end_of_a_partition_comes_from_the_fetch() -> None:
    full, empty = Partition("t", 0), Partition("t", 1)
    topic: Any = Topic({full: [(n, b"k") for n in range(10)], empty: []}, end_error=9)
    assert end_offsets(topic, [full, empty]) == {full: 10, empty: 0}


def test_what_is_committed_ends_before_an_open_transaction() -> None:
    held, empty = Partition("t", 0), Partition("t", 1)
    topic: Any = Topic({held: [(n, b"k") for n in range(10)], empty: []}, end_error=3, is_embedded=False)
    assert end_offsets(topic, [held, empty]) == {held: 7, empty: 0}


def test_who_must_miss_nothing_is_told_which_partition_a_transaction_holds() -> None:
    held, free = Partition("t", 4), Partition("t", 5)
    topic: Any = Topic({held: [(0, b"k")], free: []}, end_error=1, is_embedded=False)
    with pytest.raises(ClientError, match=r"partitions \[4\] are held by a transaction"):
        settled_ends(topic, [held, free], timeout_s=0)
    over: Any = Topic({held: [(0, b"k")], free: []}, end_error=0, is_embedded=False)
    assert settled_ends(over, [held, free], timeout_s=0) == {held: 1, free: 0}


def test_a_range_is_read_once_and_whole() -> None:
    part = Partition("t", 0)
    topic: Any = Topic({part: [(n, b"k") for n in range(0, 3_000, 2)]}, end_error=0)
    offsets = [record.offset for record in read(topic, {part: 100}, {part: 2_500})]
    assert offsets == list(range(100, 2_500, 2))
    assert list(read(topic, {part: 5}, {part: 5})) == []


@pytest.mark.parametrize("key_at", [[0], [5, 9_999], [10_000], [3, 4_444], [8_000], [8_001], []])
def test_the_last_record_of_a_key_is_found_from_the_end(key_at: list[int]) -> None:
    part = Partition("t", 0)
    topic: Any = Topic({part: [(n, b"me" if n in key_at else b"x") for n in range(10_001)]}, end_error=3)
    found = last_of_key(topic, part, b"me")
    assert (found.offset if found else None) == (key_at[-1] if key_at else None)
    if key_at and key_at[-1] >= 9_999:
        assert topic.returned < 4_000


def _watched(ranked: dict[str, Any] | None, freshness_ms: int | None = 12) -> Watched:
    return Watched("u1", ranked, 3, 99, freshness_ms, 5)


RANKED: dict[str, Any] = {
    "user_id": "u1",
    "event_time": int(time.time() * 1000),
    "caused_by": [
        {"topic": "click", "partition": 3, "offset": 7},
        {"topic": "view", "partition": 3, "offset": 8},
    ],
    "model_version": "m-1",
    "degraded": False,
    "items": [
        {"item_id": "i1", "rank": 1, "score": 0.5, "source": "encoder", "because": ["i2"]},
        {"item_id": "i9", "rank": 2, "score": 0.25, "source": "popularity", "because": []},
    ],
}


def test_a_list_is_shown_with_names_freshness_and_causes() -> None:
    shown = ranked_list(summary(_watched(RANKED), None), {"i1": "Bananas", "i2": "Milk"}).plain
    assert "user u1  12 ms after the event, 5 ms after publishing  by click/3@7 and 1 more" in shown
    assert "1  Bananas  0.500 encoder  because of Milk" in shown
    assert "2  item i9  0.250 popularity" in shown


def test_a_list_as_json_is_the_record_with_titles_and_times() -> None:
    line = summary(_watched(RANKED), {"i1": "Bananas"})
    assert (line["freshness_ms"], line["publish_lag_ms"], line["partition"], line["offset"]) == (12, 5, 3, 99)
    assert [item["title"] for item in line["items"]] == ["Bananas", None]
    assert "title" not in RANKED["items"][0]


def test_history_shows_its_event_time_and_an_erasure_is_named() -> None:
    assert "event of 1970-01-01" in ranked_list({**summary(_watched(RANKED, None), None), "event_time": 0}, {}).plain
    erased = summary(_watched(None, None), None)
    assert erased["erased"] is True
    assert "erased" in ranked_list(erased, None).plain


def test_no_control_sequence_reaches_the_terminal() -> None:
    evil = {**RANKED, "user_id": "u\x1b[2J", "items": [{**RANKED["items"][0], "title": "\x1b]0;x\x07[bold]"}]}
    shown = ranked_list(summary(_watched(evil), None), None).plain
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[bold]" in shown
