"""``headwater bench``: what the pipeline does, beside peers and limits. Figures count on Apache Kafka only."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from streams.commands.common import Json, out

__all__ = ["encoder", "freshness", "peers", "pipeline", "ranking", "recovery", "replay", "report", "scale", "state"]

BrokerKind = Literal["embedded", "kafka"]

Broker = Annotated[BrokerKind, typer.Option("--broker", help="Figures count on kafka only.")]
Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Interleaved; medians are told.")]


def pipeline(
    events: Annotated[int, typer.Option("--events", help="Purchases of each run of the worker.")] = 240_000,
    naive_events: Annotated[int, typer.Option("--naive-events", help="The same for the naive agent.")] = 4_000,
    rounds: Rounds = 3,
    kind: Broker = "kafka",
    as_json: Json = False,
) -> None:
    """Throughput of a worker beside a naive Faust agent and the ceilings of this machine."""
    from streams.bench.pipeline import PipelineOptions, run, show

    result = run(PipelineOptions(events=events, naive_events=naive_events, rounds=rounds, broker=kind), echo=_progress)
    out(result) if as_json else show(result)


def freshness(
    load: Annotated[
        list[float] | None,
        typer.Option("--load", help="Share of the capacity, several times for several; 0.1, 0.5 and 0.8 without it."),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Of each load in each round, after the warm-up.")] = 8.0,
    rounds: Rounds = 3,
    capacity: Annotated[
        float | None, typer.Option("--capacity", min=1, help="Events a second; measured first without it.")
    ] = None,
    yield_after_s: Annotated[
        float, typer.Option("--yield-after-s", min=0, help="worker.yield_after_s; shows in a --load above 1.")
    ] = 0.0,
    kind: Broker = "kafka",
    as_json: Json = False,
) -> None:
    """Milliseconds from an event to the list it changed, under open-loop load, with a breakdown by stage."""
    from streams.bench.freshness import FreshnessOptions, run, show

    options = FreshnessOptions(
        seconds=seconds, rounds=rounds, broker=kind, capacity_per_s=capacity, yield_after_s=yield_after_s
    )
    if load:
        options = replace(options, loads=tuple(load))
    result = run(options, echo=_progress)
    out(result) if as_json else show(result)


def encoder(
    device: Annotated[Literal["cpu", "cuda"], typer.Option("--device", help="cuda needs 'headwater[cuda]'.")] = "cpu",
    batch: Annotated[
        list[int] | None, typer.Option("--batch", help="Users in a call, several times for several; 1 to 1024 without.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="Its directory, say of one in fp16; the package's own without it.")
    ] = None,
    rounds: Rounds = 5,
    as_json: Json = False,
) -> None:
    """Microseconds of one encoder step and one ranking by batch size, beside the arithmetic limit of the device."""
    from streams.bench.encoder import EncoderOptions, run, show

    options = EncoderOptions(device=device, rounds=rounds)
    options = replace(options, model=model) if model else options
    result = run(replace(options, batches=tuple(batch)) if batch else options, echo=_progress)
    out(result) if as_json else show(result)


def ranking(
    items: Annotated[
        list[int] | None, typer.Option("--items", help="Catalogue size, several times for several; 1 k to 1 M without.")
    ] = None,
    rounds: Rounds = 3,
    as_json: Json = False,
) -> None:
    """Ways to find the exact ten best items, by catalogue size; each is checked against a float64 pass."""
    from streams.bench.ranking import RankingOptions, run, show

    options = RankingOptions(rounds=rounds)
    result = run(replace(options, items=tuple(items)) if items else options, echo=_progress)
    out(result) if as_json else show(result)


def state(
    events: Annotated[int, typer.Option("--events", help="Purchases of each run.")] = 150_000,
    rounds: Rounds = 3,
    kind: Broker = "kafka",
    as_json: Json = False,
) -> None:
    """Throughput of stream and state with no model behind them: 50 items kept, the ten newest published."""
    from streams.bench.state import StateOptions, run, show

    result = run(StateOptions(events=events, rounds=rounds, broker=kind), echo=_progress)
    out(result) if as_json else show(result)


def peers(
    job: Annotated[
        Literal["encoder", "state"], typer.Option("--job", help="With the encoder and top 10, or the ten newest items.")
    ] = "encoder",
    events: Annotated[int, typer.Option("--events", min=1, help="Purchases of each run in micro-batches.")] = 240_000,
    naive_events: Annotated[int, typer.Option("--naive-events", min=1, help="The same for one at a time.")] = 6_000,
    rounds: Rounds = 2,
    installs: Annotated[bool, typer.Option("--install", help="First install what is absent, by pip.")] = False,
    cache: Annotated[Path | None, typer.Option("--cache", help="Home of the frameworks' environments.")] = None,
    kind: Broker = "kafka",
    as_json: Json = False,
) -> None:
    """Throughput beside other frameworks on the same job; what is not installed is told as absent."""
    from streams.bench.peers.contest import PeersOptions, install, run, show

    options = PeersOptions(job=job, events=events, naive_events=naive_events, rounds=rounds, broker=kind)
    options = replace(options, cache=cache) if cache else options
    if installs:
        install(options, _progress)
    result = run(options, echo=_progress)
    out(result) if as_json else show(result)


def scale(
    axis: Annotated[
        Literal["users", "items", "history", "partitions", "workers"], typer.Option("--axis", help="What grows.")
    ] = "users",
    size: Annotated[
        list[int] | None, typer.Option("--size", help="Of the axis, several times for several; three without.")
    ] = None,
    events: Annotated[int, typer.Option("--events", min=1_000, help="Of each run.")] = 40_000,
    rounds: Rounds = 1,
    kind: Broker = "kafka",
    as_json: Json = False,
) -> None:
    """Throughput, freshness, memory, disk and restart time against one size, with the name of each growth."""
    from streams.bench.scale import ScaleOptions, run, show

    options = ScaleOptions(axis=axis, sizes=tuple(size) if size else None, events=events, rounds=rounds, broker=kind)
    result = run(options, echo=_progress)
    out(result) if as_json else show(result)


def replay(
    events: Annotated[int | None, typer.Option("--events", min=1, help="Of the data set; all without it.")] = None,
    live_events: Annotated[int, typer.Option("--live-events", min=1, help="Of the live path.")] = 100_000,
    rounds: Rounds = 1,
    kind: Broker = "kafka",
    as_json: Json = False,
) -> None:
    """A year of purchases from file to final lists as a backfill, beside the live path."""
    from streams.bench.backfill import ReplayOptions, run, show

    options = ReplayOptions(events=events, live_events=live_events, rounds=rounds, broker=kind)
    result = run(options, echo=_progress)
    out(result) if as_json else show(result)


def report(
    measure: Annotated[bool, typer.Option("--measure", help="First run the benches; an hour in all.")] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Of the benches, several times for several; all without it.")
    ] = None,
    docs: Annotated[Path | None, typer.Option("--docs", help="Home of PERFORMANCE.md; infra/docs without it.")] = None,
    as_json: Json = False,
) -> None:
    """The page of all figures and targets, from the results that are kept beside it."""
    from streams.bench.report import DOCS, write
    from streams.bench.report import measure as run

    home = docs or DOCS
    failed = run(only or [], home, _progress) if measure else {}
    path, judged = write(home)
    verdicts = {each.target.name: each.verdict for each in judged}
    if as_json:
        out({"page": str(path), "targets": verdicts, "failed": failed})
    else:
        for name, verdict in verdicts.items():
            typer.echo(f"{verdict:<13} {name}")
        typer.echo(str(path))
    raise typer.Exit(1 if failed else 0)


def recovery(
    users: Annotated[
        int, typer.Option("--users", min=100, help="Made-up ones, each with a state of 2 KB.")
    ] = 1_000_000,
    kind: Broker = "kafka",
    as_json: Json = False,
) -> None:
    """How soon a worker is ready: restore of everything, after a kill -9, and with a warm disk."""
    from streams.bench.recovery import RecoveryOptions, run, show

    result = run(RecoveryOptions(users=users, broker=kind), echo=_progress)
    out(result) if as_json else show(result)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
