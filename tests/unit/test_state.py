"""The state's history ring and the refusals of its codec."""

import zlib
from array import array

import numpy as np
import pytest

from operators import limits
from operators.columns import Columns
from operators.events import Event
from operators.histories import extend_histories
from operators.state import SCHEMA_VERSION, Past, StateError, UserState, decode, encode
from tests.fakes import past


def small_state() -> UserState:
    state = UserState()
    state.model_version = "m-1"
    state.fences = [3, 0, 2**40, 0]
    state.extend(past("milk", 2, 1_000, 11))
    state.extend(past("brød", 0, 2_000, 2**64 - 1))
    state.hidden = np.array([0.5, -1.5, 3.25], np.float32)
    state.vector = np.array([1.0, -0.0], np.float32)
    return state


def with_checksum(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def test_a_fresh_state_is_empty_and_survives() -> None:
    state = decode(encode(UserState()))
    assert (state.history_items, state.history_types, state.history_times_ms) == ([], [], [])
    assert (state.fences, state.model_version, state.events_count) == ([0, 0, 0, 0], "", 0)
    assert state.hidden is None
    assert state.vector is None


def test_the_history_is_a_ring_of_the_newest_events() -> None:
    state = UserState()
    for n in range(limits.history_events_max + 7):
        state.extend(past(f"item-{n}", n % 3, 1_000 + n, n))
    kept = range(7, limits.history_events_max + 7)
    assert state.history_items == [f"item-{n}" for n in kept]
    assert state.history_types == [n % 3 for n in kept]
    assert state.history_times_ms == [1_000 + n for n in kept]
    assert state.fingerprints.tolist() == list(kept)


def test_a_part_of_a_batch_is_added_as_its_events_alone() -> None:
    events = Columns.of([Event(b"u", f"item-{n}", n % 3, 1_000 + n, n, 70 + n) for n in range(6)])
    rows = np.arange(20, 26)
    state = UserState()
    state.rows = array("q")
    extend_histories([state], Past.of(events, rows), np.array([2, 5]), np.ones(1, np.uint8), limits.history_events_max)
    assert state.history_items == ["item-2", "item-3", "item-4"]
    assert state.history_types == [2, 0, 1]
    assert state.history_times_ms == [1_002, 1_003, 1_004]
    assert state.fingerprints.tolist() == [72, 73, 74]
    assert state.rows.tolist() == [22, 23, 24]


def test_insert_keeps_the_lists_parallel_and_drops_the_oldest_of_a_full_history() -> None:
    state = UserState()
    for n in range(limits.history_events_max):
        state.extend(past(f"item-{n}", 0, 10 * n, n + 1))
    state.insert(2, Event(b"u", "between", 2, 15, 0, 99))
    assert len(state.history_items) == limits.history_events_max
    assert state.history_items[:3] == ["item-1", "between", "item-2"]
    assert state.history_types[:3] == [0, 2, 0]
    assert state.history_times_ms[:3] == [10, 15, 20]
    assert state.fingerprints.tolist()[:3] == [2, 99, 3]


def test_a_decoded_state_can_be_changed() -> None:
    state = decode(encode(small_state()))
    state.extend(past("ost", 1, 3_000, 5))
    state.insert(0, Event(b"u", "te", 1, 500, 0, 6))
    again = decode(encode(state))
    assert again.history_items == ["te", "milk", "brød", "ost"]
    assert again.history_times_ms == [500, 1_000, 2_000, 3_000]
    assert again.history_types == [1, 2, 0, 1]


def test_every_flip_of_a_bit_is_refused() -> None:
    value = encode(small_state())
    for at in range(len(value)):
        for bit in range(8):
            damaged = bytearray(value)
            damaged[at] ^= 1 << bit
            with pytest.raises(StateError):
                decode(bytes(damaged))


def test_every_truncation_and_every_tail_is_refused() -> None:
    value = encode(small_state())
    for length in range(len(value)):
        with pytest.raises(StateError):
            decode(value[:length])
    with pytest.raises(StateError):
        decode(value + b"\x00")


def test_lengths_that_do_not_add_up_are_refused_under_a_right_checksum() -> None:
    body = encode(small_state())[:-4]
    with pytest.raises(StateError, match="its header says"):
        decode(with_checksum(body[:-1]))
    with pytest.raises(StateError, match="its header says"):
        decode(with_checksum(body + b"\x00"))


def test_another_schema_is_named() -> None:
    body = bytes([SCHEMA_VERSION + 2]) + encode(small_state())[1:-4]
    with pytest.raises(StateError, match=f"schema {SCHEMA_VERSION + 2}; this version reads schemas {SCHEMA_VERSION}, "):
        decode(with_checksum(body))
