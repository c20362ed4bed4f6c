"""streams.chaos.checkers and pauses: each invariant that is broken is found, and none that holds."""

import json
from pathlib import Path

import pytest

from streams.chaos.checkers import change_problems, commit_problems, delivery_problems, store_problems
from streams.chaos.oracle import Oracle, Place
from streams.chaos.pauses import Answer, Occurrence, longest_gaps_s, percentile, resumed_s
from streams.chaos.readback import Change, Changelog, Commit, digest_of
from streams.chaos.schedule import Fault
from streams.settings import Settings
from streams.store import StateStore


def _oracle(events: int) -> Oracle:
    oracle = Oracle(("view", "click", "purchase"))
    for offset in range(events):
        value = {"user_id": "u", "item_id": "a", "timestamp": offset}
        oracle.add(Place("click", 1, offset), json.dumps(value).encode())
    return oracle


def _changelog(*times_and_fences: tuple[int, int]) -> Changelog:
    changes = [Change(n, time_ms, b"", (0, fence, 0, 0)) for n, (time_ms, fence) in enumerate(times_and_fences)]
    return Changelog({}, {1: {b"u": changes}})


def test_a_commit_behind_the_changelog_is_right() -> None:
    changelog = _changelog((100, 1), (200, 3))
    commits = [Commit(100, "click", 1, 1), Commit(250, "click", 1, 2), Commit(260, "click", 1, 3)]
    assert commit_problems(_oracle(3), changelog, commits) == []
    assert commit_problems(_oracle(4), changelog, commits) == []


@pytest.mark.parametrize(
    ("commits", "says"),
    [
        ([Commit(150, "click", 1, 2)], "50 ms later"),
        ([Commit(150, "click", 1, 2), Commit(90, "click", 1, 1)], "50 ms later"),
        ([Commit(300, "click", 1, 4)], "never"),
    ],
)
def test_a_commit_ahead_of_the_changelog_is_found(commits: list[Commit], says: str) -> None:
    (problem,) = commit_problems(_oracle(4), _changelog((100, 1), (200, 3)), commits)
    assert says in problem
    assert problem.startswith("u: ")


def test_an_acknowledged_event_must_be_where_the_broker_said() -> None:
    here, there = Place("view", 0, 1), Place("view", 0, 2)
    assert delivery_problems({1: here}, {1: here, 2: there}) == []
    assert len(delivery_problems({1: here, 2: there, 3: here}, {1: here, 2: here})) == 2


def _stored(home: Path, values: dict[bytes, bytes], offset: int) -> Path:
    store = StateStore(home / "headwater", block_cache_mb=8, write_buffer_mb=8)
    store.open(0)
    store.write(0, values.items(), offset)
    store.close_all()
    return home


@pytest.mark.parametrize(
    ("values", "offset", "problems"),
    [
        ({b"u": b"one"}, 0, 0),
        ({b"u": b"one", b"v": b"two"}, 1, 0),
        ({b"u": b"three", b"v": b"two"}, 2, 0),
        ({b"u": b"three", b"v": b"two"}, 1, 1),  # ahead of its own offset
        ({b"u": b"one", b"v": b"two"}, 2, 1),  # behind it
        ({b"u": b"three"}, 2, 1),
        ({b"v": b"two"}, 0, 2),
        ({b"u": b"three", b"v": b"two"}, 3, 1),  # beyond the end
    ],
)
def test_a_store_must_be_a_prefix_of_the_changelog(
    tmp_path: Path, values: dict[bytes, bytes], offset: int, problems: int
) -> None:
    changes = {
        b"u": [Change(0, 0, digest_of(b"one"), ()), Change(2, 0, digest_of(b"three"), ())],
        b"v": [Change(1, 0, digest_of(b"two"), ())],
    }
    data_dir = _stored(tmp_path, values, offset)
    assert len(store_problems(Settings(), [data_dir, tmp_path / "none"], Changelog({}, {0: changes}))) == problems


def _answers(*times_ms: int) -> list[Answer]:
    return [Answer(time_ms, time_ms - 10) for time_ms in times_ms]


def _occurrence(began_ms: int, undone_ms: int) -> Occurrence:
    return Occurrence(Fault("kill", 0, 0, 0, wiped=False), began_ms, undone_ms)


def test_a_pause_is_laid_to_the_faults_in_it_or_to_the_last_one_before() -> None:
    answers = {0: _answers(0, 90, 100, 2_100, 2_200, 5_200), 1: _answers(0, 4_900, 5_000)}
    gaps = longest_gaps_s(answers, [_occurrence(95, 96), _occurrence(2_150, 2_160)])
    assert gaps == [[2.0, 4.9], [3.0, 4.9]]


def test_flow_is_back_when_every_partition_has_answered_what_came_after_the_fault() -> None:
    answers = {0: _answers(0, 1_005, 1_200), 1: _answers(0, 1_500)}
    assert resumed_s(answers, _occurrence(500, 1_000), 9_000) == 0.5
    assert resumed_s(answers, _occurrence(500, 1_000), 1_400) is None
    assert resumed_s(answers, _occurrence(1_500, 1_600), 9_000) is None


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentile([], 0.5) is None
    assert [percentile([3, 1, 2], share) for share in (0.01, 0.5, 0.99)] == [1, 2, 3]


def test_a_state_that_is_written_over_by_an_older_one_is_found() -> None:
    assert change_problems(_changelog((100, 1), (200, 3), (210, 3), (300, 4))) == []
    (problem,) = change_problems(_changelog((100, 1), (200, 3), (300, 2), (400, 5)))
    assert problem.startswith("u: the state at offset 2 of partition 1 is older than that at 1")
    changes = [Change(0, 1, b"", (0, 2, 0, 0)), Change(1, 2, None, ()), Change(2, 3, b"", (5, 1, 0, 0))]
    assert len(change_problems(Changelog({}, {1: {b"u": changes}}))) == 1  # a tombstone between changes nothing
    assert change_problems(Changelog({}, {1: {b"\x00offset": [Change(0, 1, b"", ())] * 2}})) == []
