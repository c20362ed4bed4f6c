"""The time-gap buckets, and jobs in one call."""

import numpy as np
import pytest
from numpy.typing import NDArray

from operators.interest import GAP_BUCKETS, NO_GAP_MS, Job, gap_bucket, gap_buckets, refresh
from tests.fakes import FakeEncoder, full_pass, items


@pytest.mark.parametrize(
    ("gap_ms", "bucket"),
    [
        (None, 0),
        (-5_000, 1),
        (0, 1),
        (999, 1),
        (1_000, 2),
        (1_999, 2),
        (2_000, 3),
        (3_999, 3),
        (4_000, 4),
        (86_400_000, 18),
        (2**24 * 1_000, 26),
        (2**25 * 1_000 - 1, 26),
        (2**25 * 1_000, 27),
        (10**15, 27),
    ],
)
def test_gap_buckets(gap_ms: int | None, bucket: int) -> None:
    assert gap_bucket(gap_ms) == bucket
    assert gap_buckets(np.array([NO_GAP_MS if gap_ms is None else gap_ms])).tolist() == [bucket]
    assert 0 <= bucket < GAP_BUCKETS


def job(hidden: NDArray[np.float32] | None, *columns: list[int]) -> Job:
    return Job(hidden, *(np.array(column, np.int64) for column in columns))


def test_no_jobs_no_call() -> None:
    encoder = FakeEncoder(items(3))
    hidden, vectors = refresh(encoder, [])
    assert hidden.shape == (0, encoder.hidden_width)
    assert vectors.shape == (0, encoder.vector_width)
    assert encoder.step_calls == 0


def test_jobs_of_any_length_come_back_in_their_order_with_one_step_an_event_of_the_longest() -> None:
    encoder = FakeEncoder(items(20))
    rng = np.random.default_rng(5)
    lengths = [3, 1, 7, 7, 2, 1, 5, 3]
    jobs, passes = list[Job](), list[list[tuple[str, int, int]]]()
    for length in lengths:
        history = [(f"item-{rng.integers(22)}", int(rng.integers(3)), 1_000 * n) for n in range(length)]
        passes.append(history)
        rows = [encoder.row_of(item) for item, _, _ in history]
        jobs.append(job(None, rows, [kind for _, kind, _ in history], [0] + [2] * (length - 1)))
    hidden, vectors = refresh(encoder, jobs)
    assert encoder.step_calls == max(lengths)
    for n, history in enumerate(passes):
        expected_hidden, expected_vector = full_pass(encoder, history)
        np.testing.assert_allclose(hidden[n], expected_hidden, atol=1e-5)
        np.testing.assert_allclose(vectors[n], expected_vector, atol=1e-5)


def test_a_job_goes_on_from_its_hidden_state_and_leaves_it_alone() -> None:
    encoder = FakeEncoder(items(5))
    first, _ = refresh(encoder, [job(None, [1, 2], [0, 1], [0, 3])])
    start = first[0]
    before = start.copy()
    start.flags.writeable = False  # as a decoded state's is
    went_on, _ = refresh(encoder, [job(None, [5], [0], [0]), job(start, [3], [2], [9])])
    at_once, _ = refresh(encoder, [job(None, [1, 2, 3], [0, 1, 2], [0, 3, 9])])
    np.testing.assert_array_equal(went_on[1], at_once[0])
    np.testing.assert_array_equal(start, before)
