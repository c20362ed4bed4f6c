import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.cooccurrence import item_vectors  # noqa: E402


def test_items_met_together_point_the_same_way() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(200), 8)
    rows = 1 + 10 * (user % 3) + rng.integers(0, 10, len(user))  # each user stays in one of three groups of ten
    vectors = item_vectors(user, rows, 32, 4).numpy()
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5  # also of row 0 and row 31, which nobody met
    group = (np.arange(1, 31) - 1) // 10
    likeness = vectors[1:31] @ vectors[1:31].T
    same = group[:, None] == group
    assert likeness[same & ~np.eye(30, dtype=bool)].min() > likeness[~same].max()


def test_users_are_kept_apart() -> None:
    torch.manual_seed(0)
    user = np.repeat(np.arange(100), 3)
    rows = np.tile([1, 2, 3, 4, 5, 6], 50)  # 3 and 4 are neighbours in the file, but of two users
    vectors = item_vectors(user, rows, 7, 2).numpy()
    assert vectors[1] @ vectors[3] > 0.99
    assert abs(vectors[3] @ vectors[4]) < 0.1
