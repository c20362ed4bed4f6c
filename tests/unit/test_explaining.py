"""The exact effect of an event against a pass without it, and the published reason against the exact one."""

from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from models.runtime import OnnxEncoder
from operators import limits
from operators.candidates.live_covisitation import Companions
from operators.companions import BatchCompanions
from operators.defaults import REPEAT_WEIGHT
from operators.explaining import because, exact_effects, mean_response
from operators.fold import fold
from operators.fusion import CoVisitationWeights, Fused, repeats, with_bonuses
from operators.interest import EVENT_TYPES, OUT_OF_VOCABULARY, refresh
from operators.state import UserState
from tests.fakes import FakeEncoder, event, full_pass, items

HOUSEHOLDS = 200
PURCHASE = EVENT_TYPES.index("purchase")


def state_of(history: list[tuple[str, int, int]], encoder: FakeEncoder) -> UserState:
    state = UserState()
    fold(state, [event(n, item, time, event_type=kind) for n, (item, kind, time) in enumerate(history)], encoder)
    return state


def test_the_exact_effect_is_that_of_a_history_without_the_event() -> None:
    encoder = FakeEncoder(items(30))
    rng = np.random.default_rng(0)
    for length in (1, 2, 9, 50):
        times = np.sort(rng.integers(0, 10**9, length)).tolist()
        history = [(f"item-{rng.integers(12)}", int(rng.integers(3)), time) for time in times]
        listed = np.array([1, 5, 20])
        effects = exact_effects(state_of(history, encoder), listed, encoder, 2.0)
        assert effects.shape == (3, length)

        def scores(events: list[tuple[str, int, int]], rows: NDArray[np.int64] = listed) -> NDArray[np.float64]:
            vector = full_pass(encoder, events)[1] if events else np.zeros(6)
            counts = [sum(item == encoder.items[row] for item, _, _ in events) for row in rows.tolist()]
            return encoder.matrix[rows] @ vector + 2.0 * np.log1p(counts)

        for left_out in range(length):
            lost = scores(history) - scores(history[:left_out] + history[left_out + 1 :])
            assert np.abs(effects[:, left_out] - lost).max() < 1e-5


def test_what_co_visitation_adds_and_what_it_would_not_without_the_event_that_counts_most() -> None:
    shares, greatest = np.array([[0.5, 0.2]], np.float32), np.array([[0.3, 0.2]], np.float32)
    found = Companions(np.array([[1, 2]]), shares, greatest, np.array([[3, 4]]))
    companions = BatchCompanions(["", "item-7", "item-9", "cause-a", "cause-b"], found)
    encoder = FakeEncoder(items(30))
    followed = companions.weighted(CoVisitationWeights(weight=3.0, scale=40.0), encoder, frozenset())
    assert followed.bonuses.covisitation == pytest.approx(3 * np.log([[1 + 40 * 0.5, 1 + 40 * 0.2]]))
    effects, causes = followed.effects(encoder.rows_of(["item-9", "item-1", "item-7"])[None])
    lost = 3 * np.log([1 + 40 * 0.2, (1 + 40 * 0.5) / (1 + 40 * 0.2)])
    assert effects[0, [0, 2]] == pytest.approx(lost)
    assert effects[0, 1] == -np.inf
    assert (causes[0], causes[2]) == ("cause-b", "cause-a")


def test_the_mean_response_of_a_linear_model_is_the_model() -> None:
    class Linear(FakeEncoder):
        """The vector is a running sum of the directions, turned by a known map."""

        turn = np.random.default_rng(3).standard_normal((6, 6)).astype(np.float32)

        def step(
            self,
            hidden: NDArray[np.float32],
            rows: NDArray[np.int64],
            types: NDArray[np.int64],
            gaps: NDArray[np.int64],
        ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            following = hidden.copy()
            following[:, :6] += self.directions(rows) @ self.turn
            return following, following[:, :6]

    encoder = Linear(items(40))
    assert np.abs(mean_response(encoder, 41, PURCHASE) - Linear.turn).max() < 0.02


class Explained(NamedTuple):
    """A household's list: what was published of each place, and the exact effects of the newest events."""

    recent: NDArray[np.int64]
    published: list[int]
    exact: NDArray[np.float32]
    linear: NDArray[np.float32]
    cosine: NDArray[np.float32]


def explained(encoder: OnnxEncoder, histories: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> list[Explained]:
    found: list[Explained] = []
    for rows, times in histories:
        state = UserState()
        named = [encoder.item_at(row) or "unknown" for row in rows.tolist()]
        events = zip(named, times.tolist(), strict=True)
        job = fold(state, [event(n, item, at, event_type=PURCHASE) for n, (item, at) in enumerate(events)], encoder).job
        assert job is not None
        _, vectors = refresh(encoder, [job])
        recent = rows[None, ::-1]
        best = Fused(*encoder.top_k(vectors, 10), np.zeros((len(vectors), 10), np.int64))
        listed = with_bonuses(best, repeats(recent, REPEAT_WEIGHT), vectors, encoder).rows
        reasons = because(recent, listed, encoder, REPEAT_WEIGHT)
        newest = recent[0, : limits.explained_events_max]
        exact = exact_effects(state, listed[0], encoder, REPEAT_WEIGHT)[:, ::-1][:, : len(newest)]
        known = newest != OUT_OF_VOCABULARY
        found.append(
            Explained(
                newest[known],
                [encoder.row_of(reason[0]) for reason in reasons],
                exact[:, known],
                encoder.embeddings(listed[0]) @ encoder.influences(newest[known]).T,
                encoder.directions(listed[0]) @ encoder.directions(newest[known]).T,
            )
        )
    return found


def agreement(found: list[Explained], *, cosine: bool = False) -> dict[str, float]:
    """Shares of places whose named item is the exact first, or among the exact three."""
    first: list[bool] = []
    three: list[bool] = []
    moved: list[bool] = []
    for one in found:
        named = one.recent[one.cosine.argmax(axis=1)].tolist() if cosine else one.published
        for row, effects in zip(named, one.exact, strict=True):
            ranked = one.recent[np.argsort(-effects)]
            first.append(row == ranked[0])
            three.append(row in ranked[:3])
            moved.append(float(effects[one.recent == row].max()) > 0)
    return {"first": float(np.mean(first)), "three": float(np.mean(three)), "moved": float(np.mean(moved))}


@pytest.fixture(scope="module")
def households() -> list[Explained]:
    pytest.importorskip("pyarrow")
    from models.dataset import complete_journey, sequences

    encoder = OnnxEncoder(providers="cpu")
    data = sequences(complete_journey(), [encoder.item_at(row) for row in range(encoder.manifest.items)])
    rng = np.random.default_rng(0)
    histories: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for user in rng.permutation(len(data.offsets) - 1)[:HOUSEHOLDS].tolist():
        start, end = int(data.offsets[user]), int(data.offsets[user + 1])
        last = int(rng.integers(start + 1, end + 1))
        part = slice(max(start, last - limits.history_events_max), last)
        if np.count_nonzero(data.rows[part][-limits.explained_events_max :]) >= 4:
            histories.append((data.rows[part], data.timestamp_ms[part]))
    return explained(encoder, histories)


def test_the_published_reason_is_mostly_the_exact_one(households: list[Explained]) -> None:
    assert len(households) > 150
    published = agreement(households)
    assert published["first"] >= 0.68
    assert published["three"] >= 0.87
    assert published["moved"] >= 0.95
    nearest = agreement(households, cosine=True)
    assert published["first"] > nearest["first"] + 0.05
    assert published["three"] > nearest["three"] + 0.05
    print({name: round(value, 3) for name, value in published.items()}, nearest)


def rank_correlation(effects: list[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> float:
    """Mean over places of Spearman's, of the events of one history."""
    ranked = [[each.argsort(axis=1).argsort(axis=1) for each in pair] for pair in effects]
    return float(np.mean([np.corrcoef(*lines)[0, 1] for pair in ranked for lines in zip(*pair, strict=True)]))


def test_effects_are_ordered_like_the_exact_ones(households: list[Explained]) -> None:
    linear = rank_correlation([(one.linear, one.exact) for one in households])
    cosine = rank_correlation([(one.cosine, one.exact) for one in households])
    print(round(linear, 3), round(cosine, 3))
    assert linear >= 0.72
    assert linear > cosine + 0.08
