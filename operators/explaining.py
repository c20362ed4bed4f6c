"""Why an item is in a list: the event without which it would score least, exactly and at the price of a look-up."""

import numpy as np
from numpy.typing import NDArray

from operators import limits
from operators.drawn import drawn_rows
from operators.interest import NO_GAP_MS, OUT_OF_VOCABULARY, Encoder, Job, gap_buckets, refresh, step
from operators.kernels import strongest
from operators.state import UserState

__all__ = ["because", "exact_effects", "mean_response"]

LAGS = limits.explained_events_max
_BURN_EVENTS = 24
_HISTORIES = 256
_RIDGE = 1.0


def because(
    recent: NDArray[np.int64],
    rows: NDArray[np.int64],
    encoder: Encoder,
    repeat_weight: float,
    others: tuple[NDArray[np.float32], list[str]] | None = None,
) -> list[list[str]]:
    """For every place of every list, the item of the recent history whose event moved it up most, or nothing.

    The effect of an event is taken as ``embedding(listed) . influence(event's item)``, linear in the event, and for the
    listed item's own events what their count adds. ``exact_effects`` is what it stands for.

    Args:
        recent: (B, H) rows of the histories, newest first, filled with row 0; only the newest are named.
        rows: (B, k) rows of the lists; below row 0, items that the encoder does not know.
        repeat_weight: of ``operators.ranking.Policy``; 0 where own counts are no part of the score.
        others: another effect on each place (B, k), and the items (B * k) of the events that had it.
    """
    recent, rows = np.ascontiguousarray(recent), np.ascontiguousarray(rows)
    effects = encoder.effects(rows, recent[:, :LAGS])
    own = _of_one_less(np.arange(recent.shape[1] + 1, dtype=np.int64), repeat_weight)
    causes, greatest = np.empty(rows.shape, np.int64), np.empty(rows.shape, np.float32)
    strongest(effects, recent, rows, own, causes, greatest)
    names = encoder.items_at(causes.ravel())
    if others is not None:
        greatest[rows < OUT_OF_VOCABULARY] = -np.inf
        for place in np.flatnonzero(others[0] > greatest).tolist():
            names[place] = others[1][place]
    return [[item_id] if item_id else [] for item_id in names]


def exact_effects(
    state: UserState, listed: NDArray[np.int64], encoder: Encoder, repeat_weight: float
) -> NDArray[np.float32]:
    """What each listed item's score loses if an event had never been: listed (k,) rows -> (k, H), oldest event first.

    The history is encoded anew without the event, the gap of the one behind it closed, and the vectors compared;
    where no event is left the vector is zero. This takes up to ``history_events_max`` squared steps.
    """
    rows = encoder.rows_of(state.history_items)
    types, times_ms = np.array(state.history_types, np.int64), np.array(state.history_times_ms, np.int64)
    places = np.arange(len(rows))
    jobs: list[Job] = []
    for left_out in [-1, *places.tolist()]:
        kept = places != left_out
        if kept.any():
            gaps_ms = np.diff(times_ms[kept], prepend=0)
            gaps_ms[0] = NO_GAP_MS
            jobs.append(Job(None, rows[kept], types[kept], gap_buckets(gaps_ms)))
    _, vectors = refresh(encoder, jobs)
    without = np.zeros((len(rows), encoder.vector_width), np.float32)
    without[: len(jobs) - 1] = vectors[1:]
    effects = encoder.embeddings(listed) @ (vectors[0] - without).T
    own = listed[:, None] == rows
    return np.asarray(effects + own * _of_one_less(own.sum(axis=1), repeat_weight)[:, None], np.float32)


def mean_response(encoder: Encoder, items: int, event_type: int) -> NDArray[np.float32]:
    """(D, D) map from an item's direction to what one event of it adds to the vector, 0 to 15 events later.

    Least squares over random histories, items drawn by the model's own bias (the log of their share): each of the
    newest events is left out in turn. The answer needs no data but the model, and is the same for the same model.

    Args:
        items: rows of the item matrix (N).
        event_type: of the events of those histories.
    """
    rows = drawn_rows(encoder, items, _HISTORIES, _BURN_EVENTS + LAGS)
    types, gaps = np.full(_HISTORIES, event_type), np.full(_HISTORIES, 1)
    hidden = np.zeros((_HISTORIES, encoder.hidden_width), np.float32)
    others: list[NDArray[np.float32]] = []  # hidden states, each without one of the events before
    vectors: list[NDArray[np.float32]] = []
    whole = np.zeros((_HISTORIES, encoder.vector_width), np.float32)
    for place in range(rows.shape[1]):
        stepped = [step(encoder, other, rows[:, place], types, gaps) for other in others]
        others, vectors = [h for h, _ in stepped], [vector for _, vector in stepped]
        if place >= _BURN_EVENTS:
            others.append(hidden)
            vectors.append(whole)
        hidden, whole = step(encoder, hidden, rows[:, place], types, gaps)
    causes = encoder.directions(rows[:, _BURN_EVENTS:].T.ravel()).astype(np.float64)  # (lags x histories, D)
    moved = np.concatenate([whole - vector for vector in vectors]).astype(np.float64)
    square = causes.T @ causes + _RIDGE * np.eye(causes.shape[1])
    return np.linalg.solve(square, causes.T @ moved).astype(np.float32)


def _of_one_less(counts: NDArray[np.int64], repeat_weight: float) -> NDArray[np.float32]:
    """What an own count adds to a score beyond one less: ``weight * (log(1 + n) - log(n))``, 0 for none."""
    return np.asarray(repeat_weight * np.log1p(1 / np.maximum(counts, 1)) * (counts > 0), np.float32)
