"""Training of the encoder: the loop of ``headwater train``, the same for every task.

A run can be killed at any point and gone on with: ``last.pt`` holds the weights, their running average, the optimizer
and the place in the epoch, and every batch draws from a seed of its own.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# (torch declares only a part of its types)

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from rich.progress import Progress, TimeElapsedColumn

from models.checkpoints import load_checkpoint, save_checkpoint
from models.cooccurrence import item_vectors
from models.curve import append_line, draw
from models.encoder import ItemEncoder, SequenceEncoder
from models.errors import ModelError
from models.losses import softmax_cross_entropy
from models.metrics import Scores
from models.rivals.gru4rec import Gru4Rec
from models.rivals.sasrec import SasRec
from models.tasks import Task
from operators.interest import EVENT_TYPES, GAP_BUCKETS

__all__ = ["TrainConfig", "TrainingResult", "build", "train"]

LIST_ITEMS = 10
BEST, LAST, CURVE, PICTURE = "best.pt", "last.pt", "curve.jsonl", "curve.svg"


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything a run depends on, beside its task."""

    out_dir: Path
    seed: int = 0
    epochs: int = 10
    patience_epochs: int = 4
    """Stop after this many epochs without a better validation NDCG@10."""
    validate_epochs: int = 1
    """Epochs between two validations; 0: none, and the weights of the last epoch are kept."""
    model: Literal["lru", "sasrec", "gru4rec"] = "lru"
    """The encoder that is served, or a rival of ``models.rivals`` (its width and dropout are taken from here)."""
    learning_rate: float = 3e-3
    warmup_epochs: float = 0.5
    """Epochs in which the learning rate rises; then it stays, until it falls to zero over the last ones."""
    decay_share: float = 0.4
    """Share of ``epochs`` in which the learning rate falls."""
    weight_decay: float = 1e-4
    dropout: float = 0.05
    average_steps: int = 0
    """Memory of the running average of the weights that is validated and exported; 0: the weights themselves."""
    width: int = 64
    channels: int = 128
    blocks: int = 2
    start: Literal["random", "co-occurrence"] = "random"
    """Item embeddings before the first batch: random, or ``models.cooccurrence`` of the training part."""
    task: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the task depends on, to be written beside the weights and compared when resuming."""
    arguments: str = ""
    """Of ``headwater train``, beside --seed and --out; empty: the name of the data set, and its file if it has one."""
    threads: int = 1
    device: str = "auto"
    """``cpu``, ``cuda``, or ``auto``: CUDA when there is one."""
    test: bool = False
    """Score the test targets at the end, with the best weights."""
    checkpoint_s: float = 120.0
    """Longest time that a kill loses."""
    resume: bool = False
    """Go on from ``last.pt`` in ``out_dir``."""
    progress: bool = True


class TrainingResult(NamedTuple):
    """Where the best weights are, and what they scored in validation."""

    checkpoint: Path
    curve: Path
    picture: Path
    epochs: int
    validation: Scores | None
    test: Scores | None
    """Of the best weights; None where not asked for."""


@dataclass
class _Run:
    """The state of a training between two batches."""

    model: ItemEncoder
    average: ItemEncoder
    optimizer: torch.optim.Optimizer
    log: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    epoch: int = 0
    step: int = 0
    """Batches done in this epoch."""
    updates: int = 0
    loss_sum: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    """Time of this epoch, wall clock and processor, also that before a resumption."""


def train(config: TrainConfig, task: Task, echo: Callable[[str], None] = print) -> TrainingResult:
    """Fit the encoder to ``task``; keep the weights of the best validation NDCG@10.

    Writes ``best.pt`` and ``last.pt`` (tensors and plain values only), ``curve.jsonl`` (a line per epoch) and at the
    end ``curve.svg`` to ``config.out_dir``. On one thread of the same processor the same seed gives the same weights.

    Raises:
        ModelError: there is nothing to resume from, or a checkpoint of another configuration.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    config.out_dir.mkdir(parents=True, exist_ok=True)
    run = _start(config, task)
    if config.resume:
        _resume(config, run)
        echo(f"resuming after epoch {run.epoch}, batch {run.step}")
    else:
        (config.out_dir / CURVE).unlink(missing_ok=True)
    while run.epoch < config.epochs and not _is_stale(config, run.log):
        _epoch(config, run, task)
        entry = _finish_epoch(config, run, task)
        score = f", validation NDCG@{LIST_ITEMS} {entry['validation']['ndcg']:.4f}" if "validation" in entry else ""
        echo(f"epoch {run.epoch}: loss {entry['loss']:.4f}{score}, {entry['seconds']:.0f} s")
    if run.epoch < config.epochs:
        echo(f"stopping: no better epoch in {config.patience_epochs}")
    draw(run.log, config.out_dir / PICTURE)
    best = _best(run.log)
    return TrainingResult(
        config.out_dir / BEST,
        config.out_dir / CURVE,
        config.out_dir / PICTURE,
        run.epoch,
        Scores(**best["validation"]) if best else None,
        _test(config, run, task) if config.test else None,
    )


def build(config: TrainConfig, items: int) -> ItemEncoder:
    """An untrained encoder with ``items`` rows."""
    if config.model == "gru4rec":
        return Gru4Rec(items, width=config.width, dropout=config.dropout)
    if config.model == "sasrec":
        events = int(config.task["window_events"])
        return SasRec(items, width=config.width, blocks=config.blocks, heads=2, events=events, dropout=config.dropout)
    return SequenceEncoder(
        items,
        len(EVENT_TYPES),
        GAP_BUCKETS,
        width=config.width,
        channels=config.channels,
        blocks=config.blocks,
        dropout=config.dropout,
    )


def _start(config: TrainConfig, task: Task) -> _Run:
    model = build(config, len(task.items))
    counts = torch.from_numpy(task.popularity()) + 1.0
    with torch.no_grad():  # the bias starts as the log share of each row, plus-one smoothed
        model.bias.copy_(torch.log(counts / counts.sum()))
        if config.start == "co-occurrence" and not config.resume:
            model.items.weight.copy_(item_vectors(*task.events(), len(task.items), config.width))
    device = "cuda" if config.device == "auto" and torch.cuda.is_available() else config.device.replace("auto", "cpu")
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    return _Run(model, copy.deepcopy(model), optimizer)


def _epoch(config: TrainConfig, run: _Run, task: Task) -> None:
    """The rest of the epoch that ``run`` is in."""
    run.model.train()
    plan = task.plan(np.random.default_rng([config.seed, run.epoch]))
    saved = time.monotonic()
    wall_start, cpu_start = saved - run.wall_s, time.process_time() - run.cpu_s
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), disable=not config.progress) as bar:
        shown = bar.add_task(f"epoch {run.epoch + 1}", total=len(plan), completed=run.step)
        while run.step < len(plan):
            for group in run.optimizer.param_groups:
                group["lr"] = config.learning_rate * _schedule(config, run.epoch + run.step / len(plan))
            run.loss_sum += _update(config, run, task, plan[run.step])
            run.step += 1
            run.wall_s, run.cpu_s = time.monotonic() - wall_start, time.process_time() - cpu_start
            bar.update(shown, completed=run.step)
            if time.monotonic() - saved > config.checkpoint_s:
                _save(config, run, task, LAST)
                saved = time.monotonic()


def _update(config: TrainConfig, run: _Run, task: Task, chosen: np.ndarray[Any, np.dtype[np.int64]]) -> float:
    """One batch, one step of the optimizer; returns the loss."""
    seeds = [config.seed, run.epoch, run.step]
    batch = task.batch(chosen, np.random.default_rng(seeds))
    torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
    device = run.model.bias.device
    rows, types, gaps, places, position, row = (
        torch.from_numpy(column).to(device)
        for column in (batch.rows, batch.types, batch.gaps, batch.places, batch.pair_position, batch.pair_row)
    )
    vectors = run.model(rows, types, gaps, batch.waves)[places]  # (P, D) -> (Q, D)
    loss = softmax_cross_entropy(vectors, run.model.items.weight, run.model.bias, position, row)
    run.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    run.updates += 1
    kept = min(1 - 1 / config.average_steps, run.updates / (run.updates + 9)) if config.average_steps else 0.0
    with torch.no_grad():
        for averaged, now in zip(run.average.parameters(), run.model.parameters(), strict=True):
            averaged.lerp_(now, 1 - kept)
    return loss.item()


def _schedule(config: TrainConfig, epochs_done: float) -> float:
    """Share of the learning rate: rises, stays, falls; a run may be resumed with fewer or more epochs."""
    rise = min((epochs_done + 0.01) / config.warmup_epochs, 1.0)
    return min(rise, (config.epochs - epochs_done) / (config.decay_share * config.epochs))


def _finish_epoch(config: TrainConfig, run: _Run, task: Task) -> dict[str, Any]:
    """Validate when it is time, write the curve and the checkpoints; returns the line of the curve."""
    entry: dict[str, Any] = {
        "epoch": run.epoch + 1,
        "updates": run.updates,
        "loss": run.loss_sum / max(run.step, 1),
        "learning_rate": run.optimizer.param_groups[0]["lr"],
        "seconds": round(run.wall_s, 1),
        "cpu_seconds": round(run.cpu_s, 1),
    }
    if config.validate_epochs and ((run.epoch + 1) % config.validate_epochs == 0 or run.epoch + 1 == config.epochs):
        entry["validation"] = asdict(task.score(run.average, "validation"))
    run.log.append(entry)
    run.epoch, run.step, run.loss_sum, run.wall_s, run.cpu_s = run.epoch + 1, 0, 0.0, 0.0, 0.0
    append_line(config.out_dir / CURVE, entry)
    if _best(run.log) is entry or not config.validate_epochs:
        _save(config, run, task, BEST)
    _save(config, run, task, LAST)
    return entry


def _test(config: TrainConfig, run: _Run, task: Task) -> Scores:
    run.average.load_state_dict(load_checkpoint(config.out_dir / BEST)["model"])
    return task.score(run.average, "test")


def _best(log: list[dict[str, Any]]) -> dict[str, Any] | None:
    validated = [entry for entry in log if "validation" in entry]
    return max(validated, key=lambda entry: entry["validation"]["ndcg"], default=None)


def _is_stale(config: TrainConfig, log: list[dict[str, Any]]) -> bool:
    best = _best(log)
    return best is not None and len(log) - int(best["epoch"]) >= config.patience_epochs


def _plain(config: TrainConfig) -> dict[str, Any]:
    left_out = ("out_dir", "epochs", "resume", "progress", "threads", "device", "checkpoint_s", "test", "arguments")
    return {name: value for name, value in asdict(config).items() if name not in left_out}


def _save(config: TrainConfig, run: _Run, task: Task, name: str) -> None:
    saved: dict[str, Any] = {"config": _plain(config), "items": task.items, "log": run.log}
    saved |= {"protocol": task.protocol, "arguments": config.arguments}
    if name == BEST:
        save_checkpoint(config.out_dir / name, saved | {"model": run.average.state_dict()})
        return
    place = {"epoch": run.epoch, "step": run.step, "updates": run.updates, "loss_sum": run.loss_sum}
    times = {"wall_s": run.wall_s, "cpu_s": run.cpu_s}
    weights = {"model": run.model.state_dict(), "average": run.average.state_dict()}
    saved |= weights | {"optimizer": run.optimizer.state_dict(), "run": place | times}
    save_checkpoint(config.out_dir / name, saved)


def _resume(config: TrainConfig, run: _Run) -> None:
    path = config.out_dir / LAST
    saved = load_checkpoint(path)
    plain = _plain(config)
    changed = [name for name, value in plain.items() if saved["config"].get(name) != value]
    if changed:
        raise ModelError(f"{path} was trained with another {', '.join(changed)}; train without resuming")
    if "run" not in saved:
        raise ModelError(f"{path} is no checkpoint to resume from; train without resuming")
    run.model.load_state_dict(saved["model"])
    run.average.load_state_dict(saved["average"])
    run.optimizer.load_state_dict(saved["optimizer"])
    run.log = list(saved["log"])
    for name, value in saved["run"].items():
        setattr(run, name, value)
