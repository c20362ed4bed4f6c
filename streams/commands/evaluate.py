"""``headwater evaluate``: how good the lists are, one command per question."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from streams.clients.errors import InputError
from streams.commands.common import Json, out, settings_of

__all__ = ["LEAVE_ONE_OUT", "complete_journey", "compression", "leave_one_out", "prequential"]

LEAVE_ONE_OUT = {"ml1m": "MovieLens-1M", "beauty": "Amazon Beauty", "toys": "Amazon Toys"}


def leave_one_out(dataset: str) -> Callable[..., None]:
    """The command that evaluates every component and their fusion on one data set."""

    def command(
        data: Annotated[Path, typer.Option("--data", help="A line per user: user, then items in time order.")],
        items: Annotated[
            Path | None, typer.Option("--items", help="Titles and attributes (TSV: item, text...), for content.")
        ] = None,
        encoder: Annotated[
            list[Path] | None,
            typer.Option("--encoder", help="Artefact of `headwater train` for this data; again for each seed."),
        ] = None,
        refit_encoder: Annotated[
            list[Path] | None,
            typer.Option("--refit-encoder", help="With --protocol refit: of `headwater train --refit`, one a seed."),
        ] = None,
        components: Annotated[
            str, typer.Option("--components", help="Names, separated by commas; every one that can be had without.")
        ] = "",
        protocol: Annotated[
            Literal["strict", "refit"],
            typer.Option("--protocol", help="Fitted on the training part, or on training and validation part."),
        ] = "strict",
        seeds: Annotated[
            int | None, typer.Option("--seeds", min=1, max=10, help="Repetitions; else one an --encoder, or one.")
        ] = None,
        as_json: Json = False,
    ) -> None:
        from models.evaluate_components import Trial, evaluate_components

        names = [name.strip() for name in components.split(",") if name.strip()]
        trial = Trial(dataset, data, items, encoder or [], refit_encoder or [], names, protocol, seeds)
        with _progress() as advance:
            report = evaluate_components(trial, advance)
        if as_json:
            out(msgspec.to_builtins(report))
            return
        what = f"seeds {', '.join(map(str, report.seeds))}: {report.users} users, {report.items} items"
        typer.echo(f"{dataset}, leave-one-out, {report.protocol}, {what}")
        for row in reversed(report.results):
            low, high = row.ndcg10_ci
            typer.echo(f"{row.component:<22} HR@10 {row.hr10:.4f}  NDCG@10 {row.ndcg10:.4f} ({low:.4f}-{high:.4f})")
        for name, lacks in report.left_out.items():
            typer.echo(f"{name:<22} left out: needs {lacks}")

    command.__doc__ = f"""Rank all items for the last one of every user of {LEAVE_ONE_OUT[dataset]}, by every component.

    Leave-one-out: the item before the last chooses options and weights, the last is read once.
    """
    return command


def complete_journey(
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


def compression(
    ctx: typer.Context,
    model: Annotated[Path | None, typer.Option("--model", help="Model directory; else that of settings.")] = None,
    as_json: Json = False,
) -> None:
    """Compress a model in every precision: bytes, lists kept, quality and speed of each.

    A model of Complete Journey is asked before real baskets of the validation period, another one by histories that
    are drawn from its own item shares.
    """
    from models.compress import OVERLAP_MIN, compression_table

    with _progress() as advance:
        rows = compression_table(model or Path(settings_of(ctx).worker.model_dir), advance)
    if as_json:
        out({"overlap_min": OVERLAP_MIN, "results": msgspec.to_builtins(rows)})
        return
    for row in rows:
        quality = "" if row.ndcg10 is None else f"NDCG@10 {row.ndcg10:.4f}  "
        offered = "" if row.offered else f"  not offered: under {OVERLAP_MIN}"
        typer.echo(
            f"{row.variant:<22} {row.bytes / 1e6:5.2f} MB  overlap@10 {row.overlap10:.4f}  {quality}"
            f"step {row.step_us:.1f} us  list {row.top_k_us:.1f} us{offered}"
        )


def prequential(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(help="complete-journey, or a file that `headwater replay` reads.")],
    model: Annotated[Path | None, typer.Option("--model", help="Model directory; else that of settings.")] = None,
    attributes: Annotated[
        Path | None, typer.Option("--attributes", help="TSV: item, text, ..., its kinds in the last column.")
    ] = None,
    users: Annotated[
        int, typer.Option("--users", min=1, help="At most so many, drawn by the hash of their id.")
    ] = 1000,
    split: Annotated[Literal["validation", "test"], typer.Option("--split")] = "test",
    seen: Annotated[Literal["keep", "drop"], typer.Option("--seen", help="Items of the history in a list.")] = "keep",
    repeats: Annotated[
        float | None, typer.Option("--repeat-weight", help="Of what the user took before; else the model's, or 2.")
    ] = None,
    covisitation: Annotated[
        bool | None,
        typer.Option(
            "--covisitation/--no-covisitation", help="With the weights that the model has for it; else by settings."
        ),
    ] = None,
    partitions: Annotated[int, typer.Option("--partitions", min=1, help="Of the event topics.")] = 8,
    choose: Annotated[
        bool, typer.Option("--choose", help="On the validation period: try weights, and put the best into --model.")
    ] = False,
    fresh_bias: Annotated[
        float, typer.Option("--fresh-bias", help="Each midnight, of the log of a week's popularity over all before.")
    ] = 0.0,
    item_rate: Annotated[
        float | None,
        typer.Option("--item-rate", min=0, help="Also with item rows that learn in the stream, by steps of this rate."),
    ] = None,
    new_items: Annotated[
        Literal["none", "neighbours", "content"],
        typer.Option("--new-items", help="With --item-rate: where rows of items that the model lacks start."),
    ] = "neighbours",
    picture: Annotated[Path | None, typer.Option("--picture", help="Draw the freshness curve (SVG).")] = None,
    as_json: Json = False,
) -> None:
    """Replay a history through the core: for each event rank first, then learn; beside rivals that stream.

    The time is split once for all users: a model fitted before it is judged on what came after.
    """
    from models import choose_fusion
    from models.contenders import Contender, with_live_items
    from models.prequential import prequential as judge
    from models.runtime import OnnxEncoder
    from streams.held_out_time import open_stream
    from streams.policy import policy_of

    if choose and (item_rate is not None or covisitation):
        raise InputError("--choose tries weights for the encoder's items; leave --item-rate and --covisitation out")
    if new_items != "neighbours" and item_rate is None:
        raise InputError("--new-items is for rows that learn; give --item-rate too (0 moves no trained row)")
    if choose and split != "validation":
        raise InputError("weights are chosen on --split validation; the test period is for what was chosen")
    worker = settings_of(ctx).worker
    artefact = model or Path(worker.model_dir)
    encoder = OnnxEncoder(artefact, providers="cpu")
    if covisitation and (encoder.fusion is None or encoder.fusion.covisitation is None):
        raise InputError(f"{artefact} has no weights for co-visitation; --split validation --choose puts some there")
    given = {
        "seen_items": seen,
        "explain": False,
        "repeat_weight": repeats,
        "covisitation": not choose and (worker.covisitation if covisitation is None else covisitation),
    }
    policy = policy_of(msgspec.structs.replace(worker, **given), encoder.fusion)
    tried = choose_fusion.variants(policy) if choose else {}
    contenders = {name: Contender(tried_policy) for name, (_, tried_policy) in tried.items()}
    with _progress() as advance:
        advance("reading", 0)
        stream = open_stream(source, split, users, attributes)
        if item_rate is not None:
            contenders = with_live_items(encoder, policy, stream.events, stream.attributes, item_rate, new_items)
        found = judge(
            stream.events,
            encoder,
            policy,
            test_start_ms=stream.start_ms,
            test_end_ms=stream.end_ms,
            attributes=stream.attributes,
            fresh_bias=fresh_bias,
            partitions=partitions,
            contenders=contenders,
            learn_from_ms=stream.held_out_ms,
            advance=advance,
        )
    if choose:
        chosen = choose_fusion.choose(tried, found.results, source)
        choose_fusion.write_fusion(artefact, chosen)
        if chosen.covisitation is not None:
            _echo("co-visitation is among what was chosen: a worker has it where worker.covisitation is on")
    if picture is not None:
        from models.curve import draw_freshness

        draw_freshness([(row.ranker, row.ndcg10, *row.ndcg10_ci) for row in found.freshness], picture)
    if as_json:
        out({"source": source, "split": split, **msgspec.to_builtins(found)})
        return
    typer.echo(f"{source}, {split}: {found.users} users, {found.events} events, model {found.model_version}")
    for row in [*found.results, *found.freshness]:
        low, high = row.ndcg10_ci
        typer.echo(
            f"{row.ranker:<28} NDCG@10 {row.ndcg10:.4f} ({low:.4f}-{high:.4f})  HR@10 {row.hr10:.4f}  "
            f"MRR@10 {row.mrr10:.4f}  coverage {row.coverage:.3f}  novelty {row.novelty_bits:.1f} bits"
        )


@contextmanager
def _progress() -> Generator[Callable[[str, float], None]]:
    """Work by name, with the share of each that is done, on standard error."""
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    console = Console(stderr=True)
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def advance(what: str, share: float) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bar.update(task, completed=1, visible=False)
                tasks[what] = bar.add_task(what, total=1)
                if not console.is_terminal:
                    typer.echo(what, err=True)
            bar.update(tasks[what], completed=share)

        yield advance


def _echo(line: str) -> None:
    typer.echo(line, err=True)
