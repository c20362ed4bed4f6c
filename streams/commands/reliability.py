"""Commands that try to break the pipeline, or to wear it out: chaos and soak."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from streams.commands.common import Json, out, settings_of
from streams.settings import Delivery

if TYPE_CHECKING:
    from streams.chaos.soak import SoakReport
    from streams.settings import BrokerSettings

__all__ = ["chaos", "soak"]


def chaos(
    ctx: typer.Context,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same schedule.")] = 1,
    faults: Annotated[
        str,
        typer.Option(
            "--faults",
            help="kill, broker-kill, broker-freeze, network-cut, network-slow, rebalance, zombie; broker, network and"
            " all for several; each with =COUNT if you like.",
        ),
    ] = "kill",
    kills: Annotated[int | None, typer.Option("--kills", min=1, help="The same as kill=COUNT in --faults.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.1, help="Go on with them for so long.")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, max=8)] = 2,
    users: Annotated[int, typer.Option("--users", min=1, max=100_000)] = 500,
    rate: Annotated[float, typer.Option("--rate", min=1, max=20_000, help="Events per second.")] = 500,
    session_timeout_s: Annotated[
        float, typer.Option("--session-timeout", min=1, help="Seconds until a silent worker is given up.")
    ] = 6.0,
    delivery: Annotated[Delivery, typer.Option("--delivery", help="Of the workers.")] = "at_least_once",
    keep: Annotated[
        Path | None, typer.Option("--keep", help="An empty directory for logs, states and the broker's data.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the schedule and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Break workers, broker and network on schedule, and judge every user's state and list by an oracle.

    An Apache Kafka is started for it, unless HEADWATER_BROKER names yours (then topics and a group of the run's own
    are made there, and only workers are harmed). Exit status 1 when an invariant was broken.
    """
    from streams.chaos.run import ChaosOptions, planned, run
    from streams.chaos.schedule import parse_faults

    counts = parse_faults(faults)
    if kills is not None:
        counts["kill"] = kills
    options = ChaosOptions(
        seed=seed,
        counts=counts,
        minutes=minutes,
        workers=workers,
        users=users,
        events_per_s=rate,
        session_timeout_s=session_timeout_s,
        delivery=delivery,
        home=_empty(keep),
        given_broker=_given_broker(ctx),
    )
    if dry_run:
        for fault in planned(options):
            out(fault._asdict())
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all that was started is ended
    report = run(options, echo=_progress)
    if as_json:
        out(msgspec.to_builtins(report))
    else:
        from streams.chaos.report import report_table
        from streams.clients.render import show

        show(report_table(report))
    for problem in report.problems:
        _progress(f"seed {seed}: {problem}")
    raise typer.Exit(0 if report.ok else 1)


def soak(
    ctx: typer.Context,
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, help="How long.")] = 30.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the events.")] = 1,
    users: Annotated[int, typer.Option("--users", min=1, max=1_000_000)] = 5_000,
    rate: Annotated[float, typer.Option("--rate", min=1, max=20_000, help="Events per second.")] = 500,
    surge: Annotated[
        int, typer.Option("--surge", min=0, max=1_000_000, help="Events sent at once, four times: a backlog.")
    ] = 20_000,
    keep: Annotated[
        Path | None, typer.Option("--keep", help="An empty directory for logs, states and the broker's data.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Keep a worker under steady load; tell whether memory, descriptors, disk or freshness creep, and judge it.

    Exit status 1 when a user is not exact, the worker ended by itself, or its memory passed 1,500 MB.
    """
    from streams.chaos.soak import SoakOptions, run

    options = SoakOptions(minutes, seed, users, rate, surge, _given_broker(ctx), _empty(keep))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all that was started is ended
    report = run(options, echo=_progress)
    if as_json:
        out(_plain(report))
    else:
        from streams.chaos.soak import soak_table
        from streams.clients.render import show

        show(soak_table(report))
    for problem in report.problems:
        _progress(f"seed {seed}: {problem}")
    raise typer.Exit(0 if report.ok else 1)


def _plain(report: "SoakReport") -> dict[str, object]:
    """Trends and samples with the names of their fields."""
    trends = {
        name: value._asdict() for name in report.__struct_fields__ if hasattr(value := getattr(report, name), "_asdict")
    }
    return {**msgspec.structs.asdict(report), **trends, "samples": [sample._asdict() for sample in report.samples]}


def _given_broker(ctx: typer.Context) -> "BrokerSettings | None":
    return settings_of(ctx).broker if "HEADWATER_BROKER" in os.environ else None


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _empty(directory: Path | None) -> Path | None:
    if directory is None:
        return None
    from streams.clients.errors import InputError

    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise InputError(f"--keep {directory} is not empty: choose a new directory")
    except OSError as error:
        raise InputError(f"--keep {directory}: {error.strerror}") from None
    return directory.absolute()
