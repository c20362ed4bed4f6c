"""Training of the encoder: ``python -m models.train --out DIR`` (the CLI's ``headwater train``).

Each epoch reads every household's training period once, whole, with the order inside each basket shuffled (its items
share one timestamp); after every basket the vector must rank the items of the household's next basket first.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# (torch declares only a part of its types)

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress, TimeElapsedColumn
from torch import Tensor

from models.dataset import (
    PURCHASE_COUNT_MIN,
    NextBaskets,
    Purchases,
    Sequences,
    complete_journey,
    next_baskets,
    sequences,
    split_bounds,
    vocabulary,
)
from models.encoder import SequenceEncoder
from models.errors import ModelError
from models.losses import basket_cross_entropy
from models.metrics import Scores, rank_scores, top_rows
from operators.interest import EVENT_TYPES, GAP_BUCKETS, OUT_OF_VOCABULARY

__all__ = ["TrainConfig", "TrainingResult", "load_checkpoint", "train"]

PURCHASE = EVENT_TYPES.index("purchase")
LIST_ITEMS = 10


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything a run depends on, beside the data."""

    out_dir: Path
    seed: int = 0
    epochs: int = 10
    patience_epochs: int = 4
    """Stop after this many epochs without a better validation NDCG@10."""
    batch_events: int = 4_096
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    dropout: float = 0.05
    retyped_share: float = 0.1
    """Purchases shown as a view or a click, since the data set has neither: untrained rows would be noise."""
    validation_users_share: float = 0.1
    count_min: int = PURCHASE_COUNT_MIN
    width: int = 64
    channels: int = 128
    blocks: int = 2
    threads: int = 1
    resume: bool = False
    """Go on from the last epoch in ``out_dir``."""
    progress: bool = True


class TrainingResult(NamedTuple):
    """Where the best weights are, and what they scored on the validation sample."""

    checkpoint: Path
    log: Path
    epochs: int
    validation: Scores


@dataclass(frozen=True, slots=True)
class Task:
    """The data of a run. ``train`` and ``validation`` hold positions in ``events``."""

    items: list[str]
    events: Sequences
    train_ends: NDArray[np.int64]
    """(U,) first position of each user after the training period."""
    train: NextBaskets
    validation: NextBaskets


def train(
    config: TrainConfig, purchases: Purchases | None = None, echo: Callable[[str], None] = print
) -> TrainingResult:
    """Fit on the training period of ``purchases`` (default: Complete Journey); keep the best epoch by validation NDCG.

    Writes ``best.pt``, ``last.pt`` (tensors and plain values only) and ``training.json`` to ``config.out_dir``.

    Raises:
        ModelError: the data set is missing, or a checkpoint to resume from is of another configuration.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    task = prepare(purchases or complete_journey(), config)
    config.out_dir.mkdir(parents=True, exist_ok=True)
    model = build(config, len(task.items))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    log: list[dict[str, Any]] = []
    if config.resume:
        log = _resume(config, model, optimizer)
        echo(f"resuming after epoch {len(log)}")
    else:
        with torch.no_grad():
            model.bias.copy_(log_popularity(task))
    for epoch in range(len(log), config.epochs):
        if epoch - _best(log) > config.patience_epochs:
            echo(f"stopping: no better epoch in {config.patience_epochs}")
            break
        started = time.monotonic()
        loss = _epoch(model, optimizer, task, config, epoch)
        scores = validate(model, task)
        log.append(
            {"epoch": epoch + 1, "loss": loss, "seconds": time.monotonic() - started, "validation": asdict(scores)}
        )
        echo(f"epoch {epoch + 1}: loss {loss:.4f}, validation NDCG@{LIST_ITEMS} {scores.ndcg:.4f}")
        _save(config, model, optimizer, task.items, log)
    best = log[_best(log)]
    return TrainingResult(
        config.out_dir / "best.pt", config.out_dir / "training.json", len(log), Scores(**best["validation"])
    )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The plain dict that ``train`` wrote: config, items, log, model, optimizer.

    Raises:
        ModelError: no such file, or not a checkpoint.
    """
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
        return dict(loaded)
    except FileNotFoundError as error:
        raise ModelError(f"no checkpoint at {path}; run `headwater train` first") from error
    except Exception as error:
        raise ModelError(f"{path} is not a checkpoint of this program; train again") from error


def build(config: TrainConfig, items: int) -> SequenceEncoder:
    """An untrained encoder with ``items`` rows."""
    return SequenceEncoder(
        items,
        len(EVENT_TYPES),
        GAP_BUCKETS,
        width=config.width,
        channels=config.channels,
        blocks=config.blocks,
        dropout=config.dropout,
    )


def prepare(purchases: Purchases, config: TrainConfig) -> Task:
    """Group, split by time, and list the prediction tasks of both periods."""
    items = vocabulary(purchases, config.count_min)
    events = sequences(purchases, items)
    validation_ms, test_ms = split_bounds(purchases.timestamp_ms)
    before = np.r_[0, np.cumsum(events.timestamp_ms < validation_ms)]
    validation = next_baskets(events, validation_ms, test_ms)
    users = np.searchsorted(events.offsets, validation.before, side="right") - 1
    chosen_users = np.random.default_rng(config.seed).random(len(events.offsets) - 1) < config.validation_users_share
    chosen = np.flatnonzero(chosen_users[users])
    return Task(
        items,
        events,
        train_ends=events.offsets[:-1] + before[events.offsets[1:]] - before[events.offsets[:-1]],
        train=next_baskets(events, 0, validation_ms),
        validation=NextBaskets(validation.before[chosen], [validation.targets[j] for j in chosen]),
    )


def log_popularity(task: Task) -> Tensor:
    """Starting value of the bias (N,): log share of each row among the training targets, plus-one smoothed."""
    counts = np.bincount(np.concatenate(task.train.targets), minlength=len(task.items)) + 1.0
    return torch.from_numpy(np.log(counts / counts.sum())).float()


def validate(model: SequenceEncoder, task: Task) -> Scores:
    """Next-basket scores of the validation sample, over all items."""
    model.eval()
    chunks: list[NDArray[np.int64]] = []
    order: list[NDArray[np.int64]] = []
    with torch.no_grad():
        for rows, gaps, tasks, places in _batches(task.events, task.events.offsets[1:], task.validation, 16_384, None):
            vectors = _vectors(model, rows, gaps, torch.full_like(rows, PURCHASE), places)  # (P, D)
            for start in range(0, len(tasks), 512):
                scores = torch.addmm(model.bias, vectors[start : start + 512], model.items.weight.T).numpy()
                scores[:, OUT_OF_VOCABULARY] = -np.inf
                chunks.append(top_rows(scores, LIST_ITEMS))
            order.append(tasks)
    targets: list[NDArray[np.int64]] = [task.validation.targets[j] for j in np.concatenate(order).tolist()]
    return rank_scores(np.concatenate(chunks), targets)


def _epoch(
    model: SequenceEncoder, optimizer: torch.optim.Optimizer, task: Task, config: TrainConfig, epoch: int
) -> float:
    model.train()
    seed = config.seed * 1000 + epoch  # a resumed run sees what an uninterrupted one would
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    events = replace(task.events, rows=_shuffled_in_baskets(task.events, rng))
    batches = list(_batches(events, task.train_ends, task.train, config.batch_events, rng))
    losses: list[float] = []
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), disable=not config.progress) as bar:
        for step, batch in enumerate(bar.track(batches, description=f"epoch {epoch + 1}")):
            rows, gaps, tasks, places = batch
            done = (epoch + step / len(batches)) / config.epochs
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _schedule(done, 0.5 / config.epochs)
            targets: list[NDArray[np.int64]] = [task.train.targets[j] for j in tasks.tolist()]
            pair_position = np.repeat(np.arange(len(tasks)), [len(t) for t in targets])
            loss = basket_cross_entropy(
                _vectors(model, rows, gaps, _types(rows, config.retyped_share, rng), places),
                model.items.weight,
                model.bias,
                torch.from_numpy(pair_position),
                torch.from_numpy(np.concatenate(targets)),
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
    return float(np.mean(losses))


def _schedule(done: float, warmup: float) -> float:
    return min(done / warmup, 1.0) * 0.5 * (1 + math.cos(math.pi * done)) + 1e-3


def _shuffled_in_baskets(events: Sequences, rng: np.random.Generator) -> NDArray[np.int64]:
    return events.rows[np.lexsort((rng.random(len(events.rows)), np.cumsum(events.basket_start)))]


def _types(rows: Tensor, retyped_share: float, rng: np.random.Generator) -> Tensor:
    types = np.full(rows.shape, PURCHASE, np.int64)
    retyped = rng.random(rows.shape) < retyped_share
    types[retyped] = rng.integers(0, PURCHASE, int(retyped.sum()))
    return torch.from_numpy(types)


Batch = tuple[Tensor, Tensor, NDArray[np.int64], Tensor]


def _batches(
    events: Sequences,
    ends: NDArray[np.int64],
    tasks: NextBaskets,
    batch_events: int,
    rng: np.random.Generator | None,
) -> Iterator[Batch]:
    """Users of similar length: rows and gaps (N, T) padded at the end, their tasks (P,) and the places in N * T."""
    bounds = np.searchsorted(tasks.before, events.offsets)
    users = np.flatnonzero(np.diff(bounds) > 0)
    lengths = ends - events.offsets[:-1]
    users = users[np.argsort(lengths[users], kind="stable")[::-1]]
    groups: list[NDArray[np.int64]] = []
    while len(users):
        size = max(batch_events // int(lengths[users[0]]), 1)
        groups.append(users[:size])
        users = users[size:]
    for index in range(len(groups)) if rng is None else rng.permutation(len(groups)):
        group = groups[index]
        longest = int(lengths[group].max())
        rows = np.zeros((len(group), longest), np.int64)
        gaps = np.zeros((len(group), longest), np.int64)
        for line, user in enumerate(group):
            start, end = events.offsets[user], ends[user]
            rows[line, : end - start] = events.rows[start:end]
            gaps[line, : end - start] = events.gaps[start:end]
        chosen = np.concatenate([np.arange(int(bounds[u]), int(bounds[u + 1])) for u in group.tolist()])
        line_of = np.repeat(np.arange(len(group)), np.diff(bounds)[group])
        places = line_of * longest + tasks.before[chosen] - events.offsets[group][line_of]
        yield torch.from_numpy(rows), torch.from_numpy(gaps), chosen, torch.from_numpy(places)


def _vectors(model: SequenceEncoder, rows: Tensor, gaps: Tensor, types: Tensor, places: Tensor) -> Tensor:
    return model(rows, types, gaps).flatten(0, 1)[places]  # (N, T, D) -> (P, D)


def _best(log: list[dict[str, Any]]) -> int:
    return int(np.argmax([entry["validation"]["ndcg"] for entry in log])) if log else 0


def _plain(config: TrainConfig) -> dict[str, Any]:
    left_out = ("out_dir", "resume", "progress", "threads")
    return {name: value for name, value in asdict(config).items() if name not in left_out}


def _save(
    config: TrainConfig,
    model: SequenceEncoder,
    optimizer: torch.optim.Optimizer,
    items: list[str],
    log: list[dict[str, Any]],
) -> None:
    plain = {"config": _plain(config), "items": items, "log": log, "model": model.state_dict()}
    names = ["last.pt"] + (["best.pt"] if _best(log) == len(log) - 1 else [])
    for name in names:
        partial = config.out_dir / (name + ".partial")
        torch.save(plain | ({"optimizer": optimizer.state_dict()} if name == "last.pt" else {}), partial)
        partial.replace(config.out_dir / name)
    text = json.dumps({"config": _plain(config), "epochs": log}, indent=1)
    (config.out_dir / "training.json").write_text(text + "\n")


def _resume(config: TrainConfig, model: SequenceEncoder, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    path = config.out_dir / "last.pt"
    saved = load_checkpoint(path)
    changed = [name for name, value in _plain(config).items() if saved["config"].get(name) != value]
    if changed:
        raise ModelError(f"{path} was trained with another {', '.join(changed)}; train without resuming")
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return list(saved["log"])


def main() -> None:
    """Command line of ``python -m models.train``."""
    parser = argparse.ArgumentParser(description="Train the encoder on Complete Journey.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    train(TrainConfig(given.out, seed=given.seed, epochs=given.epochs, resume=given.resume))


if __name__ == "__main__":
    main()
