"""One user's state and its byte codec: what the table, RocksDB and the changelog hold for every user."""

import struct
import zlib
from array import array
from bisect import bisect_right
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators import limits
from operators.columns import Columns
from operators.events import Event
from operators.histories import extend_history

__all__ = ["SCHEMA_VERSION", "SOURCE_SLOTS", "Past", "StateError", "UserState", "decode", "encode", "ids_of"]

SCHEMA_VERSION: Final = 1
SCHEMA_VERSION_ERASED: Final = 2
"""Of a state that tells of an erasure: schema 1 with one number more."""
SOURCE_SLOTS: Final = 4
"""Fences a state carries: view, click, purchase, and the erase topic's."""

_SEPARATOR: Final = b"\x00"
# schema version, model version bytes, history events, hidden floats, vector floats, item id bytes,
# events folded, late events, steps of known and of unknown items, fences
_HEADER: Final = struct.Struct("<BBHHHIQIII4q")
# schema 2: and the event time up to which the user was erased
_HEADER_ERASED: Final = struct.Struct("<BBHHHIQIII4qq")
_LAYOUTS: Final = {SCHEMA_VERSION: _HEADER, SCHEMA_VERSION_ERASED: _HEADER_ERASED}
_CHECKSUM: Final = struct.Struct("<I")


class StateError(ValueError):
    """Bytes that are no state of a known schema."""


class Past(NamedTuple):
    """Events as histories hold them: bytes, whose parts cost far less to take than those of arrays."""

    item_ids: list[str]
    types: bytes
    times_ms: bytes
    fingerprints: bytes
    rows: bytes | None = None
    """Of the items in the item matrix, as int64."""

    @classmethod
    def of(cls, events: Columns, rows: NDArray[np.int64] | None = None) -> "Past":
        """The same events."""
        return cls(
            events.item_ids,
            events.types.astype(np.uint8).tobytes(),
            events.times_ms.tobytes(),
            events.fingerprints.tobytes(),
            None if rows is None else rows.tobytes(),
        )


class UserState:
    """What is known of one user. ``fold`` changes it in place; ``encode`` writes it.

    Attributes:
        fences: next offset to fold of each source topic, by event type; a replayed event below it is known.
        model_version: of the encoder that made ``hidden`` and ``vector``; empty before the first event.
        events_count, late_count: events folded; events too old to fold.
        known_count, unknown_count: steps in ``hidden`` of items that the model knows, and of items that it does not.
        item_ids: ids of the history in event-time order, joined by NUL (ids hold no control character).
        types, times_ms, fingerprints: of the same events.
        erased_until_ms: event time up to which events are refused because the user was erased; -1 for never.
        rows: of the history's items in the item matrix of the model in use; None where nobody has looked them up. It
            is not stored.
        kept: where the encoder in use has ``hidden`` too, as ``operators.interest.PackedJobs`` says. It is not stored.
        hidden: (S,) float32 recurrent state, or None before the first event.
        vector: (D,) float32 interest vector, or None before the first event.
    """

    __slots__ = (
        "erased_until_ms",
        "events_count",
        "fences",
        "fingerprints",
        "hidden",
        "item_ids",
        "kept",
        "known_count",
        "late_count",
        "model_version",
        "rows",
        "times_ms",
        "types",
        "unknown_count",
        "vector",
    )

    def __init__(self) -> None:
        self.fences = [0] * SOURCE_SLOTS
        self.erased_until_ms: int = -1
        self.model_version = ""
        self.events_count = 0
        self.late_count = 0
        self.known_count = 0
        self.unknown_count = 0
        self.item_ids = b""
        self.types = bytearray()
        self.times_ms: array[int] = array("q")
        self.fingerprints: array[int] = array("Q")
        self.rows: array[int] | None = None
        self.kept = 0
        self.hidden: NDArray[np.float32] | None = None
        self.vector: NDArray[np.float32] | None = None

    def erase(self, until_ms: int, next_offset: int) -> None:
        """Forget every event up to ``until_ms`` and all that was made of any, and refuse such events from now on.

        Newer events of the history stay, as of a user of whom nothing else was ever known: the next fold encodes
        them anew. So it is all one whether they were folded before the erasure or after it.

        Args:
            next_offset: fence of the erase topic behind the request.
        """
        first = bisect_right(self.times_ms, until_ms)
        items, types = self.history_items[first:], self.types[first:]
        times_ms, fingerprints = self.times_ms[first:], self.fingerprints[first:]
        fences, until_ms = [*self.fences[:-1], next_offset], max(until_ms, self.erased_until_ms)
        UserState.__init__(self)
        self.fences, self.erased_until_ms = fences, until_ms
        self.item_ids, self.types = "\x00".join(items).encode(), types
        self.times_ms, self.fingerprints = times_ms, fingerprints
        self.events_count = len(types)

    def forget_encoding(self) -> None:
        """Leave the events to be encoded anew from the history, as those of another model are, by the next fold."""
        self.model_version = ""
        self.known_count = self.unknown_count = 0
        self.hidden = self.vector = None
        self.kept = 0

    @property
    def history_items(self) -> list[str]:
        """Item ids of the history, oldest first."""
        return ids_of(self.item_ids)

    def newest_items(self, count: int) -> list[str]:
        """Item ids of the newest ``count`` events of the history, oldest first."""
        newest = self.item_ids.rsplit(_SEPARATOR, count)[-count:]
        return ids_of(_SEPARATOR.join(newest))

    @property
    def history_types(self) -> list[int]:
        """Event types of the history, oldest first."""
        return list(self.types)

    @property
    def history_times_ms(self) -> list[int]:
        """Event times of the history, oldest first."""
        return self.times_ms.tolist()

    def extend(self, events: Past) -> None:
        """Add the events, oldest first; the oldest ones leave a full history.

        Without rows of theirs, those of the history are forgotten.
        """
        if events.item_ids:
            if events.rows is None:
                self.rows = None
            extend_history(self, events, 0, len(events.item_ids), limits.history_events_max)

    def insert(self, place: int, event: Event) -> None:
        """Put an event before the one at ``place``; the oldest one leaves a full history."""
        self.rows = None
        items = self.history_items
        items.insert(place, event.item_id)
        self.types.insert(place, event.type)
        self.times_ms.insert(place, event.timestamp_ms)
        self.fingerprints.insert(place, event.fingerprint)
        if len(items) > limits.history_events_max:
            del items[0], self.types[0], self.times_ms[0], self.fingerprints[0]
        self.item_ids = "\x00".join(items).encode()


def ids_of(item_ids: bytes) -> list[str]:
    """The ids that are joined in ``UserState.item_ids``."""
    return item_ids.decode().split("\x00") if item_ids else []


def encode(state: UserState) -> bytes:
    """The state as bytes of schema 1, or 2 where the user was once erased, closed by a CRC-32."""
    version = state.model_version.encode()
    hidden = b"" if state.hidden is None else state.hidden.tobytes()
    vector = b"" if state.vector is None else state.vector.tobytes()
    erased = state.erased_until_ms >= 0
    numbers = (
        SCHEMA_VERSION_ERASED if erased else SCHEMA_VERSION,
        len(version),
        len(state.types),
        len(hidden) // 4,
        len(vector) // 4,
        len(state.item_ids),
        state.events_count,
        state.late_count,
        state.known_count,
        state.unknown_count,
        *state.fences,
    )
    header = _HEADER_ERASED.pack(*numbers, state.erased_until_ms) if erased else _HEADER.pack(*numbers)
    history = (state.times_ms.tobytes(), state.fingerprints.tobytes(), state.types, state.item_ids)
    body = b"".join((header, version, hidden, vector, *history))
    return body + _CHECKSUM.pack(zlib.crc32(body))


def decode(value: bytes) -> UserState:
    """The state that ``encode`` wrote; ``hidden`` and ``vector`` are read-only views of ``value``.

    Raises:
        StateError: an unknown schema version, a wrong length or checksum.
    """
    if len(value) < _HEADER.size + _CHECKSUM.size:
        raise StateError(f"{len(value)} bytes are too few for a user state")
    layout = _LAYOUTS.get(value[0])
    if layout is None:
        raise StateError(f"user state of schema {value[0]}; this version reads schemas {', '.join(map(str, _LAYOUTS))}")
    if len(value) < layout.size + _CHECKSUM.size:
        raise StateError(f"{len(value)} bytes are too few for a user state")
    if zlib.crc32(memoryview(value)[: -_CHECKSUM.size]) != _CHECKSUM.unpack_from(value, len(value) - 4)[0]:
        raise StateError("user state with a wrong checksum: the stored bytes are damaged")
    _, version_n, events, hidden_n, vector_n, ids_n, folded, late, known, unknown, *rest = layout.unpack_from(value)
    expected = layout.size + version_n + 4 * (hidden_n + vector_n) + 17 * events + ids_n + _CHECKSUM.size
    if len(value) != expected:
        raise StateError(f"user state of {len(value)} bytes; its header says {expected}")
    state = UserState()
    state.fences = rest[:SOURCE_SLOTS]
    state.erased_until_ms = rest[SOURCE_SLOTS] if len(rest) > SOURCE_SLOTS else -1
    state.events_count, state.late_count = folded, late
    state.known_count, state.unknown_count = known, unknown
    at = layout.size
    try:
        state.model_version = value[at : at + version_n].decode()
    except UnicodeDecodeError:
        raise StateError("user state whose model version is not UTF-8") from None
    at += version_n
    if hidden_n:
        state.hidden = np.frombuffer(value, np.float32, hidden_n, at)
    at += 4 * hidden_n
    if vector_n:
        state.vector = np.frombuffer(value, np.float32, vector_n, at)
    at += 4 * vector_n
    state.times_ms.frombytes(value[at : at + 8 * events])
    at += 8 * events
    state.fingerprints.frombytes(value[at : at + 8 * events])
    at += 8 * events
    state.types = bytearray(value[at : at + events])
    state.item_ids = value[at + events : at + events + ids_n]
    return state
