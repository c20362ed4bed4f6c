"""The next basket of each household of Complete Journey: what the encoder of the package is trained and chosen on.

Each epoch reads every household's training period once, whole, with the order inside each basket shuffled (its items
share one timestamp); after every basket the vector must rank the items of the household's next basket first.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# (torch declares only a part of its types)

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.dataset import NextBaskets, Purchases, Sequences, next_baskets, sequences, split_bounds, vocabulary
from models.encoder import ItemEncoder
from models.metrics import Scores, rank_scores, top_rows
from models.packing import Packed, pack, split_filled
from models.tasks import Batch, Split
from operators.interest import EVENT_TYPES, OUT_OF_VOCABULARY

__all__ = ["NextBasketTask", "next_basket_task"]

PURCHASE: Final = EVENT_TYPES.index("purchase")
LIST_ITEMS: Final = 10
CHUNK_EVENTS: Final = 65_536
CHUNK_LISTS: Final = 512


@dataclass(frozen=True, slots=True)
class NextBasketTask:
    """``train`` and ``held_out`` hold positions in ``sequences``."""

    items: list[str]
    sequences: Sequences
    train_ends: NDArray[np.int64]
    """(U,) first position of each user after the training period."""
    train: NextBaskets
    held_out: dict[Split, NextBaskets]
    """Those of a sample of the households."""
    batch_events: int
    retyped_share: float
    """Purchases shown as a view or a click, since the data set has neither: untrained rows would be noise."""

    @property
    def protocol(self) -> str:
        """Of ``score``, in words."""
        return (
            "next basket: the state before each basket of the period by some of the households, drawn once, ranks "
            "every product of the vocabulary; targets are the distinct products of the basket"
        )

    def popularity(self) -> NDArray[np.float64]:
        """How often each row (N,) is a training target."""
        return np.bincount(np.concatenate(self.train.targets), minlength=len(self.items)).astype(np.float64)

    def events(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """User and row (n,) of the training period."""
        user = np.repeat(np.arange(len(self.train_ends)), np.diff(self.sequences.offsets))
        kept = np.arange(len(user)) < self.train_ends[user]
        return user[kept], self.sequences.rows[kept]

    def plan(self, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Households in random order, gathered until a batch has ``batch_events``."""
        return _groups(self.sequences, self.train_ends, self.train, self.batch_events, rng)

    def batch(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        """The training periods of the chosen households."""
        packed, asked, places = _packed(self.sequences, self.train_ends, self.train, chosen)
        types = np.full(len(packed.events), PURCHASE)
        retyped = rng.random(len(types)) < self.retyped_share
        types[retyped] = rng.integers(0, PURCHASE, int(retyped.sum()))
        order = np.argsort(places)
        targets: list[NDArray[np.int64]] = [self.train.targets[j] for j in asked[order].tolist()]
        return Batch(
            rows=self._rows(packed, rng),
            types=types,
            gaps=self.sequences.gaps[packed.events],
            waves=packed.waves,
            places=places[order],
            pair_position=np.repeat(np.arange(len(targets)), [len(target) for target in targets]),
            pair_row=np.concatenate(targets),
        )

    def score(self, model: ItemEncoder, split: Split) -> Scores:
        """Next-basket scores of the sample, over all items."""
        model.eval()
        tasks = self.held_out[split]
        ends, device = self.sequences.offsets[1:], model.bias.device
        ranked: list[NDArray[np.int64]] = []
        order: list[NDArray[np.int64]] = []
        with torch.no_grad():
            for group in _groups(self.sequences, ends, tasks, CHUNK_EVENTS, None):
                packed, asked, places = _packed(self.sequences, ends, tasks, group)
                rows = torch.from_numpy(self.sequences.rows[packed.events]).to(device)
                gaps = torch.from_numpy(self.sequences.gaps[packed.events]).to(device)
                vectors = model(rows, torch.full_like(rows, PURCHASE), gaps, packed.waves)  # (P, D)
                vectors = vectors[torch.from_numpy(places).to(device)]  # (Q, D)
                for start in range(0, len(vectors), CHUNK_LISTS):
                    here = vectors[start : start + CHUNK_LISTS]
                    scores = model.scores(here).cpu().numpy()
                    scores[:, OUT_OF_VOCABULARY] = -np.inf
                    ranked.append(top_rows(scores, LIST_ITEMS))
                order.append(asked)
        targets: list[NDArray[np.int64]] = [tasks.targets[j] for j in np.concatenate(order).tolist()]
        return rank_scores(np.concatenate(ranked), targets)

    def _rows(self, packed: Packed, rng: np.random.Generator) -> NDArray[np.int64]:
        """Rows of the packed events, with the order inside each basket shuffled."""
        basket = np.cumsum(self.sequences.basket_start)[packed.events]
        by_place = np.lexsort((packed.step, basket))
        shuffled = np.lexsort((rng.random(len(basket)), basket))
        rows = np.empty(len(basket), np.int64)
        rows[by_place] = self.sequences.rows[packed.events[shuffled]]
        return rows


def next_basket_task(
    purchases: Purchases,
    *,
    seed: int,
    count_min: int,
    validation_users_share: float,
    batch_events: int,
    retyped_share: float,
) -> NextBasketTask:
    """Group, split by time, and list the prediction tasks of both periods."""
    items = vocabulary(purchases, count_min)
    events = sequences(purchases, items)
    validation_ms, test_ms = split_bounds(purchases.timestamp_ms)
    before = np.r_[0, np.cumsum(events.timestamp_ms < validation_ms)]
    chosen = np.random.default_rng(seed).random(len(events.offsets) - 1) < validation_users_share
    end_ms = int(purchases.timestamp_ms.max()) + 1
    return NextBasketTask(
        items,
        events,
        train_ends=events.offsets[:-1] + before[events.offsets[1:]] - before[events.offsets[:-1]],
        train=next_baskets(events, 0, validation_ms),
        held_out={
            "validation": _of_users(events, next_baskets(events, validation_ms, test_ms), chosen),
            "test": _of_users(events, next_baskets(events, test_ms, end_ms), chosen),
        },
        batch_events=batch_events,
        retyped_share=retyped_share,
    )


def _of_users(events: Sequences, tasks: NextBaskets, chosen: NDArray[np.bool_]) -> NextBaskets:
    users = np.searchsorted(events.offsets, tasks.before, side="right") - 1
    kept = np.flatnonzero(chosen[users])
    return NextBaskets(tasks.before[kept], [tasks.targets[j] for j in kept])


def _groups(
    events: Sequences,
    ends: NDArray[np.int64],
    tasks: NextBaskets,
    batch_events: int,
    rng: np.random.Generator | None,
) -> list[NDArray[np.int64]]:
    """Users with a task, in random order or by falling length, split where ``batch_events`` are full."""
    users = np.flatnonzero(np.diff(np.searchsorted(tasks.before, events.offsets)) > 0)
    lengths = ends - events.offsets[:-1]
    users = users[np.argsort(-lengths[users], kind="stable")] if rng is None else rng.permutation(users)
    return split_filled(users, lengths[users], batch_events)


def _packed(
    events: Sequences, ends: NDArray[np.int64], tasks: NextBaskets, users: NDArray[np.int64]
) -> tuple[Packed, NDArray[np.int64], NDArray[np.int64]]:
    """The users' events up to ``ends``, their tasks (Q,) and the packed position before each (Q,)."""
    bounds = np.searchsorted(tasks.before, events.offsets)
    packed = pack(events.offsets[users], ends[users] - events.offsets[users])
    asked = np.concatenate([np.arange(int(bounds[u]), int(bounds[u + 1])) for u in users.tolist()])
    by_event = np.argsort(packed.events)
    places = by_event[np.searchsorted(packed.events[by_event], tasks.before[asked])]
    return packed, asked, places
