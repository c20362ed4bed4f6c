"""Bytes that are stored or published, frozen: a change of them is a change of contract.

``python -m tests.contract.test_golden`` writes the files anew, after a change that is meant.
"""

import base64
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from operators import limits, state
from operators.candidates.popularity import Popularity
from operators.ranking import Cause, RankedItem, RecommendationList, encode_list
from operators.state import UserState
from tests.fakes import past

GOLDEN = Path(__file__).parent / "golden"


def fresh_user() -> UserState:
    return UserState()


def small_user() -> UserState:
    user = UserState()
    user.fences = [3, 0, 2**40 + 1, 0]
    user.model_version = "demo-1"
    user.events_count, user.late_count, user.known_count, user.unknown_count = 3, 1, 2, 1
    user.extend(past("1082185", 2, 1_489_000_000_123, 0))
    user.extend(past("brød", 0, 1_489_000_000_123, 2**64 - 1))
    user.extend(past("\U0001f95b", 1, 1_489_000_777_000, 0x9F0DF14B49867331))
    user.hidden = np.array([0.5, -1.25, 3.0e-7, 0.0], np.float32)
    user.vector = np.array([1.0, -0.0], np.float32)
    return user


def full_user() -> UserState:
    user = UserState()
    user.fences = [100, 200, 300, 0]
    user.model_version = "m" * 40
    for n in range(limits.history_events_max + 5):
        user.extend(past(f"item-{n}", n % 3, 1_500_000_000_000 + 1_000 * n, n))
    user.events_count = user.known_count = limits.history_events_max + 5
    user.hidden = (np.arange(512) / 7).astype(np.float32)
    user.vector = (np.arange(64) / -3).astype(np.float32)
    return user


def returned_user() -> UserState:
    user = UserState()
    user.fences = [3, 0, 9, 0]
    for n in range(4):
        user.extend(past(f"item-{n}", 2, 1_500_000_000_000 + 1_000 * n, n))
    user.erase(1_500_000_001_000, 18)
    user.model_version = "demo-1"
    user.known_count = 2
    user.hidden, user.vector = np.array([0.25, -1.0], np.float32), np.array([2.0], np.float32)
    return user


def husk() -> UserState:
    user = small_user()
    user.erase(1_489_000_777_000, 18)
    return user


def popularity_snapshot() -> bytes:
    popularity = Popularity(1_000)
    for item, time_ms in (("milk", 5_000), ("brød", 5_000), ("milk", 6_000), ("tea", 80_000)):
        popularity.add(item, time_ms)
    return popularity.snapshot()


def published_list() -> bytes:
    return encode_list(
        RecommendationList(
            request_id="purchase-3-91",
            user_id="brød",
            generated_at=1_700_000_000_123,
            event_time=1_700_000_000_000,
            caused_by=[Cause("view", 3, 10), Cause("purchase", 3, 91)],
            model_version="demo-1",
            variant="default",
            degraded=False,
            items=[
                RankedItem("1082185", 1, 4.1875, "encoder", ["995242"]),
                RankedItem("995242", 2, 0.25, "popularity", []),
            ],
        )
    )


def _encoded(make: Callable[[], UserState]) -> bytes:
    return state.encode(make())


STATES = {
    "state_v1_fresh": fresh_user,
    "state_v1_small": small_user,
    "state_v1_full": full_user,
    "state_v2_returned": returned_user,
    "state_v2_husk": husk,
}
BYTES: dict[str, Callable[[], bytes]] = {
    **{name: partial(_encoded, make) for name, make in STATES.items()},
    "popularity_v1": popularity_snapshot,
    "list_v1": published_list,
}


def golden(name: str) -> bytes:
    return base64.b64decode((GOLDEN / f"{name}.b64").read_bytes())


@pytest.mark.parametrize("name", sorted(BYTES))
def test_bytes_are_written_as_ever(name: str) -> None:
    assert BYTES[name]() == golden(name)


def test_every_golden_file_is_tested() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == BYTES.keys()


@pytest.mark.parametrize("name", sorted(STATES))
def test_states_of_every_schema_are_read(name: str) -> None:
    read, meant = state.decode(golden(name)), STATES[name]()
    for attribute in UserState.__slots__:
        ours, theirs = getattr(read, attribute), getattr(meant, attribute)
        if attribute in ("hidden", "vector"):
            np.testing.assert_array_equal(ours, theirs)
        else:
            assert ours == theirs, attribute
    assert read.history_items == meant.history_items


def test_a_popularity_snapshot_of_schema_1_is_read() -> None:
    popularity = Popularity.restore(golden("popularity_v1"), 1_000)
    assert popularity.events == 4
    ranked = dict(popularity.top(10))
    assert list(ranked) == ["tea", "milk", "brød"]
    assert ranked["milk"] == pytest.approx(2.0**-75 + 2.0**-74)


if __name__ == "__main__":
    for file_name, make_bytes in BYTES.items():
        (GOLDEN / f"{file_name}.b64").write_bytes(base64.encodebytes(make_bytes()))
