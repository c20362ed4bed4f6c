"""Commands that make models: train, export. They need the extras train and demo."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from streams.clients.errors import InputError
from streams.commands.common import Json, out, settings_of

__all__ = ["export", "train"]


def train(
    ctx: typer.Context,
    out_dir: Annotated[Path, typer.Option("--out", help="Directory of checkpoints and the curve.")],
    dataset: Annotated[
        Literal["complete-journey", "ml1m", "beauty", "toys", "events"] | None,
        typer.Argument(help="What to train on; events: a history that `headwater replay` reads."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Of ml1m, beauty, toys: a user and the items in time order on each line; of events: a file that"
            " `headwater replay` reads.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Else as many as the data set needs.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    threads: Annotated[int, typer.Option("--threads", min=1)] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    refit: Annotated[
        bool, typer.Option("--refit", help="Learn from the validation targets too; validate nothing.")
    ] = False,
    test: Annotated[bool, typer.Option("--test", help="Score the test targets at the end.")] = False,
    model: Annotated[
        Literal["lru", "sasrec", "gru4rec"], typer.Option("--model", help="The encoder, or a rival to compare it with.")
    ] = "lru",
    seen: Annotated[
        Literal["keep", "drop"], typer.Option("--seen", help="Of events: items of the history in a list.")
    ] = "keep",
    from_topic: Annotated[
        bool, typer.Option("--from-topic", help="On what the event topics hold, and on how the lists were answered.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train the encoder; by default on Complete Journey. A run that was stopped goes on with --resume.

    A history of events, of a file or of the topics, is split by time: 80 % to learn from, 10 % to choose on, 10 % for
    --test. An event of the topics that took an item of the list before it counts twice:
    headwater train --from-topic --out training
    """
    from models.recipes import EVENTS_COUNT_MIN, events_recipe, recipe
    from models.train import train as fit
    from streams.clients.history import open_topics
    from streams.held_out_time import open_history

    chosen: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    shown = sys.stderr.isatty()
    run = {"out_dir": out_dir, "seed": seed, "threads": threads, "resume": resume, "progress": shown}
    chosen = {"test": test, "model": model, **run, **chosen}
    if from_topic:
        if data is not None or refit or dataset is not None:
            raise InputError("--from-topic reads the event topics: leave the data set, --data and --refit out")
        found = open_topics(settings_of(ctx), EVENTS_COUNT_MIN)
        _echo(f"{found.events} events, of them {found.answered} answers to {found.lists} lists")
        for reason, count in sorted(found.left_out.items()):
            _echo(f"{count} left out: {reason}")
        dataset_name, (config, task) = "topics", events_recipe("topics", found.histories, seen, **chosen)
    elif dataset == "events":
        if data is None or refit:
            raise InputError("events are read from a file that is given with --data, and not refitted")
        history = open_history(str(data), EVENTS_COUNT_MIN)
        dataset_name, (config, task) = "events", events_recipe(data.stem, history, seen, **chosen)
    else:
        dataset_name = dataset or "complete-journey"
        config, task = recipe(dataset_name, data, refit=refit, **chosen)
    done = fit(config, task(), echo=_echo)
    if as_json:
        paths = {"checkpoint": str(done.checkpoint), "curve": str(done.curve), "picture": str(done.picture)}
        scores = {"validation": done.validation, "test": done.test}
        figures = {split: asdict(found) for split, found in scores.items() if found}
        run_of = {"dataset": dataset_name, "model": model, "seed": seed, "epochs": done.epochs}
        out({**paths, **run_of, **figures})
    else:
        typer.echo(f"{done.checkpoint} after {done.epochs} epochs; `headwater export` makes it a model")
        typer.echo(f"curve: {done.curve}, {done.picture}")
        if done.test:
            typer.echo(f"test: NDCG@10 {done.test.ndcg:.4f}  HR@10 {done.test.hit_rate:.4f}")


def export(
    source: Annotated[Path, typer.Argument(help="best.pt of a training, or a model to compress.")],
    out_dir: Annotated[Path, typer.Argument(help="Directory of the model; replaced when the new one is done.")],
    with_metrics: Annotated[
        bool,
        typer.Option("--evaluate/--no-evaluate", help="Put the metrics of a Complete Journey model into the manifest."),
    ] = True,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option("--precision", help="Of the files; refused where it would change more than 1 % of the lists."),
    ] = "fp32",
    as_json: Json = False,
) -> None:
    """Export a checkpoint to an ONNX model, after checking that both compute the same.

    `headwater evaluate compression` shows what a precision saves and costs.
    """
    from models.export import ExportConfig
    from models.export import export as write

    manifest = write(ExportConfig(source, out_dir, evaluate=with_metrics, precision=precision), echo=_echo)
    if as_json:
        out(msgspec.to_builtins(manifest))
    else:
        typer.echo(f"{manifest.version} in {out_dir}; serve it with HEADWATER_WORKER_MODEL_DIR={out_dir}")


def _echo(line: str) -> None:
    typer.echo(line, err=True)
