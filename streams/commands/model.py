"""Commands that make and judge models: train, export, evaluate. They need the extras train and demo."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from streams.commands.common import Json, out, settings_of

__all__ = ["evaluate", "export", "train"]


def train(
    out_dir: Annotated[Path, typer.Option("--out", help="Directory of checkpoints and training log.")],
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    threads: Annotated[int, typer.Option("--threads", min=1)] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last epoch in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Train the encoder on Complete Journey."""
    from models.train import TrainConfig
    from models.train import train as fit

    progress = sys.stderr.isatty()
    config = TrainConfig(out_dir, seed=seed, epochs=epochs, threads=threads, resume=resume, progress=progress)
    done = fit(config, echo=_echo)
    if as_json:
        paths = {"checkpoint": str(done.checkpoint), "log": str(done.log)}
        out({**paths, "epochs": done.epochs, "validation": asdict(done.validation)})
    else:
        typer.echo(f"{done.checkpoint} after {done.epochs} epochs; `headwater export` makes it a model")


def export(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt of a training.")],
    out_dir: Annotated[Path, typer.Argument(help="Directory of the model; replaced when the new one is done.")],
    with_metrics: Annotated[
        bool,
        typer.Option("--evaluate/--no-evaluate", help="Put metrics on Complete Journey into the manifest."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Export a checkpoint to an ONNX model, after checking that both compute the same."""
    from models.export import ExportConfig
    from models.export import export as write

    manifest = write(ExportConfig(checkpoint, out_dir, evaluate=with_metrics), echo=_echo)
    if as_json:
        out(msgspec.to_builtins(manifest))
    else:
        typer.echo(f"{manifest.version} in {out_dir}; serve it with HEADWATER_WORKER_MODEL_DIR={out_dir}")


def evaluate(
    ctx: typer.Context,
    model: Annotated[Path | None, typer.Option("--model", help="Model directory; else that of settings.")] = None,
    split: Annotated[Literal["validation", "test"], typer.Option("--split")] = "test",
    as_json: Json = False,
) -> None:
    """Rank every product before each basket of a held-out period, beside popularity and own counts."""
    from models.evaluate import evaluate as judge

    rows = judge(model or Path(settings_of(ctx).worker.model_dir), split, echo=_echo)
    if as_json:
        out({"evaluations": msgspec.to_builtins(rows)})
        return
    for row in rows:
        figures = f"NDCG@10 {row.ndcg_at_10:.4f}  HR@10 {row.hit_rate_at_10:.4f}  recall@10 {row.recall_at_10:.4f}"
        typer.echo(f"{row.ranker:<14} {figures}  {row.protocol.partition(':')[0]}, {row.baskets} baskets")


def _echo(line: str) -> None:
    typer.echo(line, err=True)
