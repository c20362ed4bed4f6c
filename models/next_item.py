"""The next item of each user of a leave-one-out file: what the encoder is trained and chosen on there."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# (torch declares only a part of its types)

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.encoder import ItemEncoder
from models.leave_one_out import GAP_FED, HELD_OUT_EVENTS, PROTOCOL, TYPE_FED, Interactions, score_users
from models.metrics import Scores
from models.packing import pack, split_filled
from models.tasks import Batch, Split

__all__ = ["NextItemTask", "cut_windows"]

CHUNK_EVENTS: Final = 65_536


@dataclass(frozen=True, slots=True)
class NextItemTask:
    """Windows of the training part of each history, cut anew in every epoch."""

    data: Interactions
    window_events: int
    """Longest window; the state starts from zero in each."""
    batch_events: int
    positions_share: float
    """Share of the positions whose next item counts in the loss of a batch, drawn at random."""
    held_out_events: int = HELD_OUT_EVENTS

    @property
    def items(self) -> list[str]:
        """Item id of each row."""
        return self.data.items

    @property
    def protocol(self) -> str:
        """That of ``models.leave_one_out``."""
        return PROTOCOL

    def popularity(self) -> NDArray[np.float64]:
        """How often each row (N,) is in the training part."""
        return np.bincount(self.events()[1], minlength=len(self.items)).astype(np.float64)

    def events(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """User and row (n,) of the training part."""
        user = np.repeat(np.arange(len(self.data.users)), self.data.lengths())
        kept = np.arange(len(user)) < (self.data.offsets[1:] - self.held_out_events)[user]
        return user[kept], self.data.rows[kept]

    def plan(self, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Windows (n, 2), start and inputs, shuffled and gathered until a batch has ``batch_events``."""
        inputs = self.data.lengths() - self.held_out_events - 1  # each has a next item in the training part
        windows = cut_windows(self.data.offsets[:-1], inputs, self.window_events, rng)
        return split_filled(windows, windows[:, 1], self.batch_events)

    def batch(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        """The windows of one entry of ``plan``."""
        packed = pack(chosen[:, 0], chosen[:, 1])
        count = max(round(len(packed.events) * self.positions_share), 1)
        places = np.sort(rng.permutation(len(packed.events))[:count])
        return Batch(
            rows=self.data.rows[packed.events],
            types=np.full(len(packed.events), TYPE_FED),
            gaps=np.full(len(packed.events), GAP_FED),
            waves=packed.waves,
            places=places,
            pair_position=np.arange(count),
            pair_row=self.data.rows[packed.events[places] + 1],
        )

    def score(self, model: ItemEncoder, split: Split) -> Scores:
        """Leave-one-out scores of every user, from whole histories or as much of them as the model can read."""
        vectors = _last_vectors(model, self.data, split)

        def by_model(users: NDArray[np.int64]) -> NDArray[np.float32]:
            with torch.no_grad():
                return model.scores(vectors[torch.from_numpy(users)]).cpu().numpy()

        return score_users(self.data, split, by_model)


def cut_windows(
    starts: NDArray[np.int64], inputs: NDArray[np.int64], window_events: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Start and inputs (n, 2) of the windows of sequences of ``inputs`` events each, in random order.

    A sequence that is longer than a window is cut at random places, others anew each time.
    """
    windows: list[tuple[int, int]] = []
    for start, length in zip(starts.tolist(), inputs.tolist(), strict=True):
        cut = length if length <= window_events else int(rng.integers(1, window_events + 1))
        first = 0
        while first < length:
            windows.append((start + first, cut - first))
            first, cut = cut, min(cut + window_events, length)
    return np.array(windows, np.int64)[rng.permutation(len(windows))]


def _last_vectors(model: ItemEncoder, data: Interactions, split: Split) -> Tensor:
    """The vector of every user just before the target of ``split`` (U, D)."""
    model.eval()
    lengths = data.ends(split) - data.offsets[:-1]
    lengths = np.minimum(lengths, model.history_events_max or lengths)
    starts = data.ends(split) - lengths
    device = model.bias.device
    vectors = torch.empty(len(lengths), model.items.weight.shape[1], device=device)
    order = np.argsort(-lengths, kind="stable")
    with torch.no_grad():
        for group in split_filled(order, lengths[order], CHUNK_EVENTS):
            packed = pack(starts[group], lengths[group])
            rows = torch.from_numpy(data.rows[packed.events]).to(device)
            types, gaps = torch.full_like(rows, TYPE_FED), torch.full_like(rows, GAP_FED)
            out = model(rows, types, gaps, packed.waves)  # (P, D)
            vectors[torch.from_numpy(group)] = out[torch.from_numpy(packed.ends).to(device)]
    return vectors
