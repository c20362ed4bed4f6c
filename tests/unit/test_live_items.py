"""models.live_items against plain loops in float64."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from models.live_items import LiveItems
from operators.interest import OUT_OF_VOCABULARY, Job, refresh
from tests.fakes import FakeEncoder, items

WIDTH = 6
KNOWN = 12


def live(rate: float, new_items_max: int = 3, **content: NDArray[np.float32]) -> tuple[FakeEncoder, LiveItems]:
    encoder = FakeEncoder(items(KNOWN))
    return encoder, LiveItems(encoder, KNOWN + 1, rate=rate, new_items_max=new_items_max, content=content)


def vectors(count: int, seed: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


def rows_of(learned: LiveItems, item_ids: Sequence[str]) -> NDArray[np.float32]:
    return learned.embeddings(learned.rows_of(item_ids))


def test_what_has_learned_nothing_is_the_encoder() -> None:
    encoder, learned = live(rate=0.5)
    asked = vectors(5)
    for given, wanted in zip(learned.top_k(asked, 4), encoder.top_k(asked, 4), strict=True):
        np.testing.assert_allclose(given, wanted, rtol=1e-6)
    every = np.arange(KNOWN + 1)
    np.testing.assert_array_equal(learned.embeddings(every), encoder.embeddings(every))
    np.testing.assert_allclose(learned.directions(every), encoder.directions(every), rtol=1e-6)
    assert learned.items_at([1, 0]) == encoder.items_at([1, 0])


def plain_steps(
    encoder: FakeEncoder, taken: Sequence[int], of_users: NDArray[np.float32], rate: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Embeddings and biases after the events, 64 at a time, by the gradient of -log softmax written out."""
    embeddings = encoder.matrix.astype(np.float64)
    biases = encoder.biases(np.arange(KNOWN + 1)).astype(np.float64)
    squares = np.ones(KNOWN + 1)
    touched: set[int] = set()
    for start in range(0, len(taken), 64):
        gradient, of_bias = np.zeros_like(embeddings), np.zeros(KNOWN + 1)
        for row, vector in zip(taken[start : start + 64], of_users[start : start + 64], strict=True):
            touched.add(row)
            odds = np.exp(embeddings @ vector + biases)
            for n, share in enumerate(odds / odds.sum()):
                error = share - (n == row)
                gradient[n] += error * vector
                of_bias[n] += error
        for n in touched:
            squares[n] += np.mean(gradient[n] ** 2)
            embeddings[n] -= rate * gradient[n] / np.sqrt(squares[n])
            biases[n] -= np.clip(rate * of_bias[n], -0.5, 0.5)
    return embeddings, biases


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_steps_are_those_of_the_written_out_gradient(rate: float) -> None:
    encoder, learned = live(rate)
    rng = np.random.default_rng(5)
    taken: list[int] = rng.integers(1, 7, 150).tolist()  # rows 7 to 12 are never taken
    of_users = vectors(150)
    wanted, biases = plain_steps(encoder, taken, of_users, rate)
    for part in (slice(0, 64), slice(64, None)):
        learned.learn(encoder.items_at(taken[part]), of_users[part], np.zeros_like(of_users[part]))
    every = np.arange(KNOWN + 1)
    np.testing.assert_allclose(learned.embeddings(every), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(learned.biases(every), biases, rtol=1e-4, atol=1e-5)
    assert not np.array_equal(wanted[1:7], encoder.matrix[1:7])
    np.testing.assert_array_equal(learned.embeddings(every[7:]), encoder.matrix[7:])


def test_a_step_is_bounded_whatever_the_vectors() -> None:
    _, learned = live(rate=0.1)
    every = np.arange(KNOWN + 1)
    before, biases = learned.embeddings(every), learned.biases(every)
    learned.learn(["item-3"] * 64, 1e4 * vectors(64), np.zeros((64, WIDTH), np.float32))
    moved = np.linalg.norm(learned.embeddings(every) - before, axis=1)
    assert 0 < moved.max() <= 0.1 * np.sqrt(WIDTH)
    assert np.abs(learned.biases(every)[1:] - biases[1:]).max() <= 0.5


def test_what_users_take_rises_and_withdrawn_items_stay_away() -> None:
    encoder, learned = live(rate=0.1)
    asked = vectors(1)
    last = encoder.items_at(encoder.top_k(asked, KNOWN)[1][0].tolist())[-1]
    for _ in range(50):
        learned.learn([last], asked, np.zeros_like(asked))
    assert learned.items_at(learned.top_k(asked, 1)[1][0].tolist()) == [last]
    learned.set_rule(last, available=False, boost=0)
    scores, rows = learned.top_k(asked, KNOWN + 1)
    assert last not in learned.items_at(rows[scores > -np.inf].tolist())
    learned.set_rule(last, available=True, boost=100.0)
    assert learned.top_k(asked, 1)[0][0, 0] > 90


def test_a_new_item_starts_among_what_its_users_took_before() -> None:
    encoder, learned = live(rate=0.0)
    near = learned.neighbourhood(["item-1", "nowhere", "item-5", "item-7"])
    given = encoder.matrix[encoder.rows_of(["item-7", "item-5", "item-1"])].astype(np.float64)
    weights = np.array([1, 0.8, 0.8**3])
    np.testing.assert_allclose(near, weights @ given / weights.sum(), rtol=1e-5)
    assert learned.row_of("new") == OUT_OF_VOCABULARY
    others = vectors(4, seed=8)
    learned.learn(["new"], vectors(1), near[None])
    np.testing.assert_allclose(rows_of(learned, ["new"])[0], near, rtol=1e-5)
    learned.learn(["new", "item-2", "new", "other"], vectors(4), others)
    np.testing.assert_allclose(rows_of(learned, ["new"])[0], (near + others[0] + others[2]) / 3, rtol=1e-4)
    np.testing.assert_allclose(rows_of(learned, ["other"])[0], others[3], rtol=1e-4)
    # item-2 was taken once, "new" three times: it lies that much above where the model has item-2
    biases = learned.biases(learned.rows_of(["item-2", "new", "other"]))
    np.testing.assert_allclose(biases - biases[0], [0, np.log(4) - np.log(2), 0], atol=1e-6)
    asked = near[None] * 100
    assert "new" in learned.items_at(learned.top_k(asked, 5)[1][0].tolist())


def test_content_counts_as_three_events_and_rows_are_limited() -> None:
    foretold = vectors(1, seed=4)[0]
    _, learned = live(rate=0.0, new_items_max=2, a=foretold)
    near = vectors(1)
    learned.learn(["item-1", "a", "b", "c"], *(np.repeat(near, 4, axis=0) for _ in range(2)))
    np.testing.assert_allclose(rows_of(learned, ["a"])[0], (3 * foretold + near[0]) / 4, rtol=1e-5)
    np.testing.assert_allclose(rows_of(learned, ["b"])[0], near[0], rtol=1e-5)
    assert learned.row_of("c") == OUT_OF_VOCABULARY


def test_states_know_nothing_of_new_rows() -> None:
    encoder, learned = live(rate=0.3)
    learned.learn(["new", "item-1"], vectors(2), vectors(2))
    rows = learned.rows_of(["item-4", "new"])
    assert rows[1] > KNOWN
    types, gaps = np.zeros(2, np.int64), np.zeros(2, np.int64)
    given = refresh(learned, [Job(None, rows, types, gaps)])
    wanted = refresh(encoder, [Job(None, np.array([rows[0], OUT_OF_VOCABULARY]), types, gaps)])
    for one, other in zip(given, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(learned.influences(rows), encoder.influences(np.array([rows[0], 0])))
