"""The command that says what a shop needs."""

from typing import Annotated

import msgspec
import typer

from streams.commands.common import Json, out

__all__ = ["plan"]


def plan(
    events_per_s: Annotated[float, typer.Option("--events-per-s", help="At the busiest.")],
    users: Annotated[int, typer.Option("--users", help="With a state.")],
    items: Annotated[int, typer.Option("--items", help="Of the catalogue.")],
    lists_per_event: Annotated[
        float, typer.Option("--lists-per-event", help="1: each event its own list; a basket's share one.")
    ] = 1.0,
    cores: Annotated[int, typer.Option("--cores-per-machine", min=1)] = 4,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="Of the topics.")] = 3,
    as_json: Json = False,
) -> None:
    """Machines, memory, disk and partitions for a shop, from measured slopes."""
    from operators.plan import Need
    from streams.plan import plan_for

    need = Need(events_per_s, users, items, lists_per_event, cores, replicas)
    made, costs = plan_for(need)
    if as_json:
        out({**msgspec.to_builtins(made), "need": msgspec.to_builtins(need), "costs": msgspec.to_builtins(costs)})
        return
    rows = {
        "workers": f"{made.workers} (one a core), {made.utilization:.0%} busy at {events_per_s:,g} events/s",
        "machines": f"{made.machines} of {cores} cores",
        "memory": f"{made.memory_gb_per_machine:g} GB a machine",
        "disk": f"{made.disk_gb_per_machine:g} GB a machine, {made.changelog_disk_gb:g} GB at the brokers",
        "partitions": f"{made.partitions}",
        "restore": f"{made.restore_minutes:g} min where a disk is lost",
    }
    for name, text in rows.items():
        typer.echo(f"{name:<11} {text}")
    for note in made.notes:
        typer.echo(f"{'note':<11} {note}")
    typer.echo(f"from {costs.machine}; {costs.measured}")
