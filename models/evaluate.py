"""Next-basket evaluation of an artefact, through the same runtime that serves it; needs no torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.baselines import personal_frequency, popularity
from models.dataset import NextBaskets, Purchases, Sequences, complete_journey, next_baskets, sequences, split_bounds
from models.manifest import Evaluation
from models.metrics import Scores, rank_scores, top_rows
from models.runtime import OnnxEncoder
from operators.interest import EVENT_TYPES, OUT_OF_VOCABULARY, step
from operators.limits import history_events_max

__all__ = ["PROTOCOL_ALL", "PROTOCOL_NEW", "Split", "evaluate", "score_lists", "vectors_before"]

Split = Literal["validation", "test"]

PROTOCOL_ALL: Final = (
    "next basket: at each basket of the split by a household with a history, the state as it was before the basket "
    "ranks every product of the vocabulary; targets are the distinct products of the basket"
)
PROTOCOL_NEW: Final = (
    "new products of the next basket: as next basket, but products the household had bought before are neither "
    "ranked nor targets"
)
LIST_ITEMS: Final = 10
CHUNK_LISTS: Final = 512


def evaluate(
    artefact: Path, split: Split = "test", purchases: Purchases | None = None, echo: Callable[[str], None] = print
) -> list[Evaluation]:
    """Both protocols for the encoder and the baselines on Complete Journey (or ``purchases``).

    Weights were fitted before the validation period; the encoder's state and the counts of the personal baselines
    include everything before each basket, the popularity everything before the split. The personal baseline over
    the last events is what a worker's bounded history could know; the one over all events needs unbounded state.

    Raises:
        ModelError: the artefact or the data set cannot be used.
    """
    encoder = OnnxEncoder(artefact)
    data = purchases or complete_journey()
    items = encoder.manifest.items
    events = sequences(data, [encoder.item_at(row) for row in range(items)])
    validation_ms, test_ms = split_bounds(data.timestamp_ms)
    start, end = (validation_ms, test_ms) if split == "validation" else (test_ms, int(data.timestamp_ms.max()) + 1)
    tasks = next_baskets(events, start, end)
    histories = _histories(events, tasks)
    popular = popularity(events, items, start)
    vectors = vectors_before(encoder, events, tasks)
    matrix, bias = encoder.embeddings(np.arange(items)), encoder.item_bias

    def by_encoder(lists: slice) -> NDArray[np.float32]:
        return vectors[lists] @ matrix.T + bias

    def by_popularity(lists: slice) -> NDArray[np.float32]:
        return np.repeat(popular[None], len(histories[lists]), axis=0)

    def by_own_counts(lists: slice) -> NDArray[np.float32]:
        return np.stack([personal_frequency(history, popular) for history in histories[lists]])

    def by_ring_counts(lists: slice) -> NDArray[np.float32]:
        return np.stack([personal_frequency(history[-history_events_max:], popular) for history in histories[lists]])

    results: list[Evaluation] = []
    for protocol, ranker, score, fresh in (
        (PROTOCOL_ALL, "encoder", by_encoder, False),
        (PROTOCOL_ALL, "popularity", by_popularity, False),
        (PROTOCOL_ALL, "personal frequency", by_own_counts, False),
        (PROTOCOL_ALL, f"personal frequency, last {history_events_max} events", by_ring_counts, False),
        (PROTOCOL_NEW, "encoder", by_encoder, True),
        (PROTOCOL_NEW, "popularity", by_popularity, True),
    ):
        scores = score_lists(score, tasks, histories, only_new=fresh)
        results.append(
            Evaluation(split, protocol, ranker, *(round(x, 4) for x in _figures(scores)), baskets=scores.baskets)
        )
        echo(
            f"{split}, {'new products' if fresh else 'all products'}, {ranker}: NDCG@10 {scores.ndcg:.4f}, "
            f"HR@10 {scores.hit_rate:.4f}, recall@10 {scores.recall:.4f} ({scores.baskets} baskets)"
        )
    return results


def vectors_before(encoder: OnnxEncoder, events: Sequences, tasks: NextBaskets) -> NDArray[np.float32]:
    """Step every user through the events once, many users at a time -> the vector before each basket (B, D)."""
    vectors = np.empty((len(tasks.before), encoder.vector_width), np.float32)
    task_at = np.full(len(events.rows), -1)
    task_at[tasks.before] = np.arange(len(tasks.before))
    last = np.searchsorted(tasks.before, events.offsets)
    users = np.flatnonzero(np.diff(last) > 0)
    lengths = tasks.before[last[users + 1] - 1] + 1 - events.offsets[users]
    order = np.argsort(-lengths, kind="stable")
    starts, lengths = events.offsets[users[order]], lengths[order]
    hidden = np.zeros((len(users), encoder.hidden_width), np.float32)
    purchase = np.full(len(users), EVENT_TYPES.index("purchase"), np.int64)
    for wave in range(int(lengths.max(initial=0))):
        active = int(np.searchsorted(-lengths, -wave))
        places = starts[:active] + wave
        hidden, now = step(encoder, hidden[:active], events.rows[places], purchase[:active], events.gaps[places])
        wanted = task_at[places]
        vectors[wanted[wanted >= 0]] = now[wanted >= 0]
    return vectors


def _histories(events: Sequences, tasks: NextBaskets) -> list[NDArray[np.int64]]:
    users = np.searchsorted(events.offsets, tasks.before, side="right") - 1
    return [events.rows[events.offsets[u] : b + 1] for u, b in zip(users, tasks.before, strict=True)]


def score_lists(
    score: Callable[[slice], NDArray[np.float32]],
    tasks: NextBaskets,
    histories: list[NDArray[np.int64]],
    *,
    only_new: bool,
) -> Scores:
    """Rank by ``score`` (lists -> (P, N)), without the products of each history if ``only_new``."""
    ranked: list[NDArray[np.int64]] = []
    for start in range(0, len(histories), CHUNK_LISTS):
        lists = slice(start, start + CHUNK_LISTS)
        scores = score(lists)  # (P, N)
        scores[:, OUT_OF_VOCABULARY] = -np.inf
        if only_new:
            for line, history in zip(scores, histories[lists], strict=True):
                line[history] = -np.inf
        ranked.append(top_rows(scores, LIST_ITEMS))
    targets = tasks.targets
    if only_new:
        targets = [np.setdiff1d(t, h) for t, h in zip(targets, histories, strict=True)]
    kept = np.array([len(target) > 0 for target in targets])
    return rank_scores(np.concatenate(ranked)[kept], [target for target in targets if len(target)])


def _figures(scores: Scores) -> tuple[float, float, float]:
    return scores.ndcg, scores.hit_rate, scores.recall
