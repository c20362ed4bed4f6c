"""The next item of each event of a history that is split by time: what an encoder is trained on from a user's own data.

The same types and gaps are fed that a worker will feed. Every event of the held-out period with one before it is a
target; the state before it is made of the whole history up to there.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# (torch declares only a part of its types)

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.encoder import ItemEncoder
from models.event_histories import EventHistories
from models.metrics import Scores, rank_scores, top_rows
from models.next_item import cut_windows
from models.packing import pack, split_filled
from models.tasks import Batch, Split
from operators.interest import OUT_OF_VOCABULARY

__all__ = ["NextEventTask"]

LIST_ITEMS: Final = 10
CHUNK_EVENTS: Final = 65_536
CHUNK_LISTS: Final = 512


@dataclass(frozen=True, slots=True)
class NextEventTask:
    """Windows of the events before the validation period, cut anew in every epoch."""

    data: EventHistories
    window_events: int
    """Longest window; the state starts from zero in each."""
    batch_events: int
    seen_items: str
    """``keep``, or ``drop``: items of the history are neither ranked nor targets in validation."""
    scored_events: int
    """At most so many targets of a period, drawn once."""

    @property
    def items(self) -> list[str]:
        """Item id of each row."""
        return self.data.items

    @property
    def protocol(self) -> str:
        """Of ``score``, in words."""
        ranked = "every item" if self.seen_items == "keep" else "every item that is not in the history"
        return (
            f"split by time: the state before each event of the period ranks {ranked}, at {self.scored_events} events "
            "drawn once where there are more; an event of an item outside the vocabulary is missed"
        )

    def popularity(self) -> NDArray[np.float64]:
        """How often each row (N,) is in the training part."""
        return np.bincount(self.events()[1], minlength=len(self.items)).astype(np.float64)

    def events(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """User and row (n,) of the training part."""
        user = np.repeat(np.arange(len(self.data.offsets) - 1), np.diff(self.data.offsets))
        kept = self.data.times_ms < self.data.validation_ms
        return user[kept], self.data.rows[kept]

    def plan(self, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Windows (n, 2), start and inputs, shuffled and gathered until a batch has ``batch_events``."""
        inputs = self.data.ends(self.data.validation_ms) - self.data.offsets[:-1] - 1
        windows = cut_windows(self.data.offsets[:-1], inputs, self.window_events, rng)
        return split_filled(windows, windows[:, 1], self.batch_events)

    def batch(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        """The windows of one entry of ``plan``."""
        packed = pack(chosen[:, 0], chosen[:, 1])
        following = self.data.rows[packed.events + 1]
        places = np.flatnonzero(following != OUT_OF_VOCABULARY)
        # What a user took from a list counts twice: it is what the next list is to be taken from.
        places = np.repeat(places, 1 + self.data.answers[packed.events[places] + 1])
        return Batch(
            rows=self.data.rows[packed.events],
            types=self.data.types[packed.events],
            gaps=self.data.gaps[packed.events],
            waves=packed.waves,
            places=places,
            pair_position=np.arange(len(places)),
            pair_row=following[places],
        )

    def score(self, model: ItemEncoder, split: Split) -> Scores:
        """Each drawn target of the period among all items; one outside the vocabulary is missed."""
        before = self._asked(split)
        vectors = _vectors(model, self.data, before)
        user = np.searchsorted(self.data.offsets, before, side="right") - 1
        ranked: list[NDArray[np.int64]] = []
        for start in range(0, len(before), CHUNK_LISTS):
            part = slice(start, start + CHUNK_LISTS)
            with torch.no_grad():
                scores = model.scores(vectors[part]).cpu().numpy()
            scores[:, OUT_OF_VOCABULARY] = -np.inf
            if self.seen_items == "drop":
                for line, first, last in zip(scores, self.data.offsets[user[part]], before[part], strict=True):
                    line[self.data.rows[first : last + 1]] = -np.inf
            best = top_rows(scores, min(LIST_ITEMS, len(self.items) - 1))
            ranked.append(np.where(np.isfinite(np.take_along_axis(scores, best, 1)), best, -1))
        return rank_scores(np.concatenate(ranked), [row[None] for row in self.data.rows[before + 1]])

    def _asked(self, split: Split) -> NDArray[np.int64]:
        """(B,) positions whose following event of the same user is a target, in order."""
        start_ms, end_ms = self.data.period(split)
        wanted = (self.data.times_ms >= start_ms) & (self.data.times_ms < end_ms)
        wanted[self.data.offsets[:-1]] = False
        if self.seen_items == "drop":
            user = np.repeat(np.arange(len(self.data.offsets) - 1), np.diff(self.data.offsets))
            _, first = np.unique(user * len(self.items) + self.data.rows, return_index=True)
            wanted &= np.isin(np.arange(len(user)), first) | (self.data.rows == OUT_OF_VOCABULARY)
        before = np.flatnonzero(wanted) - 1
        return np.sort(np.random.default_rng(0).permutation(before)[: self.scored_events])


def _vectors(model: ItemEncoder, data: EventHistories, before: NDArray[np.int64]) -> torch.Tensor:
    """The vector after each of the positions ``before`` (B, D)."""
    model.eval()
    device = model.bias.device
    user = np.searchsorted(data.offsets, before, side="right") - 1
    starts, ends = data.offsets[user], before + 1
    window = model.history_events_max
    if window is None:  # one pass over a history passes all that is asked of it
        last = np.flatnonzero(np.diff(user, append=-1))
        starts, ends = starts[last], ends[last]
    else:
        starts = np.maximum(starts, ends - window)
    lengths = ends - starts
    order = np.argsort(-lengths, kind="stable")
    out = torch.empty(len(before), model.items.weight.shape[1], device=device)
    for group in split_filled(order, lengths[order], CHUNK_EVENTS):
        packed = pack(starts[group], lengths[group])
        columns = (torch.from_numpy(c[packed.events]).to(device) for c in (data.rows, data.types, data.gaps))
        with torch.no_grad():
            vectors = model(*columns, packed.waves)  # (P, D)
        at = np.flatnonzero(np.isin(packed.events, before)) if window is None else packed.ends
        places = np.searchsorted(before, packed.events[at])
        out[torch.from_numpy(places).to(device)] = vectors[torch.from_numpy(at).to(device)]
    return out
