"""Every parser that faces a topic or a file: whatever the bytes, an answer or the documented error, in bounded room."""

import gzip
import json
import math
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.errors import ModelError
from models.manifest import load_manifest
from operators import state
from operators.candidates import covisitation_parts
from operators.candidates.covisitation_parts import CoVisitationError
from operators.candidates.popularity import Popularity, PopularityError
from operators.erasure import decode_erasure
from operators.events import decode
from operators.state import StateError, UserState
from streams.catalog import Catalog
from streams.clients import watch
from streams.clients.errors import ClientError
from streams.importers import FORMATS, EventFile
from streams.settings import SettingsError, load_settings
from tests.fakes import NOW_MS

MSGPACK = [("content-type", b"application/msgpack")]
ROOM_BYTES_MAX = 4 * 1024 * 1024
BOMBS = [
    b"\xdd\xff\xff\xff\xff",  # an array of four billion
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x81\xa7user_id\xdb\x7f\xff\xff\xff",
    b"\x94\x01\x00\x00\xdf\x7f\xff\xff\xff",  # of a snapshot with two billion weights
    b"\x91" * 60_000,
    b"[" * 60_000,
    b'{"a":' * 12_000,
    b"\x00" * 60_000,
    b"\xff" * 60_000,
    b'{"user_id": 1' + b"0" * 60_000 + b"}",
]
TEXTS = st.text(max_size=40) | st.sampled_from(["{}", "[]", "null", '{"items": 1}', "1e999", '"' * 9, "\ud800"[:0]])
BYTES = st.binary(max_size=300) | st.sampled_from(BOMBS) | TEXTS.map(str.encode)
LINES = {
    "movielens": "1::2::5::978300760",
    "otto": '{"session": 1, "events": [{"aid": 2, "ts": 3, "type": "clicks"}]}',
    "taobao": "1,2,3,pv,1511544070",
}


def bounded(parse: Callable[[], Any], room_bytes_max: int = ROOM_BYTES_MAX) -> Any:
    """What it answers; the room it takes does not follow a length that the bytes only claim."""
    tracemalloc.start()
    try:
        return parse()
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < room_bytes_max


@settings(max_examples=150)
@given(BYTES, st.sampled_from([[], MSGPACK]))
def test_records_of_the_event_and_erase_topics(value: bytes, headers: Any) -> None:
    bounded(lambda: decode(value, b"u", headers, 0, 1, NOW_MS))
    bounded(lambda: decode_erasure(value, b"u", headers, 1, NOW_MS))


@settings(max_examples=200)
@given(BYTES, st.data())
def test_states(noise: bytes, data: st.DataObject) -> None:
    good = state.encode(UserState())
    at = data.draw(st.integers(0, len(good)))
    forged = good[:at] + noise
    for value in (noise, forged, good[:at], good + noise, forged + zlib.crc32(forged).to_bytes(4, "little")):
        try:
            assert isinstance(bounded(lambda value=value: state.decode(value)), UserState)
        except StateError as error:
            assert str(error)


def test_a_forged_state_of_a_right_checksum_and_no_model_version() -> None:
    body = bytearray(state.encode(UserState())[:-4])
    body[1] = 1
    forged = bytes(body) + b"\xff"
    with pytest.raises(StateError, match="UTF-8"):
        state.decode(forged + zlib.crc32(forged).to_bytes(4, "little"))


@settings(max_examples=200)
@given(BYTES)
@example(b"\x94\x01\x05\x03\x82\xa1\xc8\xcb?1\xf0\x00\x00\x00\x00\x00\xa1b\xcb" + bytes(8))  # an id that is not UTF-8
@example(msgspec.msgpack.encode([1, 5, 3, {"a": 0.0}]))
@example(msgspec.msgpack.encode([1, 5, 3, {"a": -1.0}]))
@example(msgspec.msgpack.encode([1, 5, 3, {"a": math.inf, "b": 1.0}]))
@example(msgspec.msgpack.encode([1, 5, 3, {"a": math.nan, "b": 1.0}]))
def test_popularity_snapshots(value: bytes) -> None:
    try:
        shares = [share for _, share in bounded(lambda: Popularity.restore(value)).top(3)]
        assert all(0 <= share <= 1 for share in shares)
    except PopularityError as error:
        assert str(error)


SLOTS = st.lists(st.integers(0, 2**16 - 1), max_size=24).map(lambda slots: np.array(slots, "<u2").tobytes())
WEIGHTS = st.lists(st.integers(-3, 2**62), max_size=9).map(lambda weights: np.array(weights, "<i8").tobytes())


@settings(max_examples=300)
@given(
    st.tuples(
        st.just(1), st.integers(0, 1), st.integers(0, 2**63), st.integers(-1, 600) | st.just(2**62), SLOTS | BYTES
    ),
    st.tuples(
        st.just(1),
        st.integers(0, 1),
        st.lists(st.text(max_size=2), max_size=4),
        WEIGHTS | BYTES,
        st.lists(st.integers(0, 70), max_size=4).map(bytes) | BYTES,
        SLOTS | BYTES,
        WEIGHTS | BYTES,
    ),
    BYTES | st.none(),
)
@example((1, 0, 9, 3, b""), (1, 0, ["", "a"], bytes(16), b"\x00\x01", b"\x02\x00", bytes(8)), None)
@example((1, 0, 9, 300, b""), (1, 0, [], b"", b"", b"", b""), b"\x97\x01\x00\x91\xa1\xc8")
@example((1, 0, 9, 3, b""), (1, 0, ["", "a"], bytes(16), b"\x00\x01", b"\x09\x00", bytes(8)), None)
def test_covisitation_snapshots(head: Any, part: Any, other: bytes | None) -> None:
    values = {"": msgspec.msgpack.encode(head), "0": msgspec.msgpack.encode(part), "1": other}
    try:
        restored = bounded(lambda: covisitation_parts.restore(values.get), room_bytes_max=64 * 1024 * 1024)
    except CoVisitationError as error:
        assert str(error)
        return
    in_use = np.arange(restored.table.successors_max) < restored.table.used[:, None]
    assert restored.table.successors[in_use].max(initial=0) < len(restored.item_ids)
    assert restored.pending.max(initial=0) < len(restored.item_ids)


@settings(max_examples=150)
@given(BYTES | st.none(), st.binary(max_size=8) | st.none())
def test_catalog_records(value: bytes | None, key: bytes | None) -> None:
    catalog = Catalog()
    bounded(lambda: catalog.note(key, value))
    bounded(lambda: watch._title(value))


class _Record:
    topic, partition, offset, timestamp, headers = "recommendations", 0, 1, 2, ()

    def __init__(self, key: bytes | None, value: bytes | None) -> None:
        self.key, self.value = key, value


@settings(max_examples=200)
@given(BYTES | st.none(), st.binary(max_size=8) | st.none())
@example(b'{"event_time": 1e400, "items": []}', b"u")
@example(b'{"event_time": 1, "items": [1]}', b"u")
@example(b'{"event_time": "1", "items": [[["a", 1]]]}', b"u")
def test_lists_as_clients_read_them(value: bytes | None, key: bytes | None) -> None:
    record: Any = _Record(key, value)
    try:
        bounded(lambda: watch._watched(record))
    except ClientError as error:
        assert "is no ranked list" in str(error)


@settings(max_examples=100)
@given(BYTES)
@example(b'{"format": 2, "version": "\xff"}')
def test_manifests(value: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "manifest.json").write_bytes(value)
        with pytest.raises(ModelError, match="manifest"):
            bounded(lambda: load_manifest(Path(home)))


@settings(max_examples=100)
@given(BYTES)
@example(b"[broker]\naddress = [1]")
@example(b"[worker]\nweb_port = 1e9")
@example(b"broker = 1")
@example(b"a = " + b"[" * 2_000)
def test_settings_files(value: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(value)
        file.flush()
        try:
            bounded(lambda: load_settings(file.name, environ={}))
        except SettingsError as error:
            assert str(error)


@settings(max_examples=120)
@given(
    st.sampled_from(["auto", *FORMATS]),
    st.sampled_from([b"", *(f"{line}\n".encode() for line in LINES.values())]),
    BYTES,
)
def test_imported_files(format_name: str, first: bytes, rest: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as home:
        for name, content in (
            ("events.csv", first + rest),
            ("events.gz", gzip.compress(first + rest)),
            ("bad.gz", rest),
        ):
            path = Path(home) / name
            path.write_bytes(content)
            try:
                for event_type, event in EventFile(path, format_name, skip_bad=True):
                    assert event_type in {"view", "click", "purchase"}
                    assert json.dumps(event)
                    msgspec.json.encode(event)
            except ClientError as error:
                assert str(error)
