"""Commands that try to break the pipeline: chaos."""

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from streams.commands.common import Json, out, settings_of

__all__ = ["chaos"]


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
        home=_empty(keep),
        given_broker=settings_of(ctx).broker if "HEADWATER_BROKER" in os.environ else None,
    )
    if dry_run:
        for fault in planned(options):
            out(fault._asdict())
        return
    report = run(options, echo=lambda line: print(line, file=sys.stderr, flush=True))
    if as_json:
        out(msgspec.to_builtins(report))
    else:
        from streams.chaos.report import report_table
        from streams.clients.render import show

        show(report_table(report))
    for problem in report.problems:
        print(f"seed {seed}: {problem}", file=sys.stderr)
    raise typer.Exit(0 if report.ok else 1)


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
