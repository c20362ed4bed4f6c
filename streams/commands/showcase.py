"""The command that shows the whole: demo."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from streams.commands.common import Json, out, settings_of

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["demo"]

_LOG_COLUMNS = 120

BrokerKind = Literal["embedded", "kafka"]


def demo(
    ctx: typer.Context,
    kind: Annotated[BrokerKind, typer.Option("--broker", help="kafka needs Java 17 and Maven.")] = "embedded",
    start: Annotated[str, typer.Option("--from", help="First day of the replay.")] = "2017-06-01",
    end: Annotated[
        str, typer.Option("--to", help="Day after the last one; the live part goes on there.")
    ] = "2017-07-01",
    live_events: Annotated[int, typer.Option("--live-events", min=1, max=10_000)] = 300,
    serve: Annotated[bool, typer.Option("--serve", help="Keep broker and worker up until Ctrl-C.")] = False,
    report: Annotated[Path, typer.Option("--report", help="Where the closing figures go.")] = Path(
        "headwater-demo.json"
    ),
    as_json: Json = False,
) -> None:
    """A month of real purchases through broker and worker, then one household's list, live."""
    from streams.demo import DemoOptions, run
    from streams.replay import stop_on_signal

    options = DemoOptions(
        kind=kind, start=start, end=end, live_events=live_events, serve=serve, report_path=str(report)
    )
    with stop_on_signal() as stopping:
        done = run(settings_of(ctx), options, stopping, _console(as_json))
    if as_json:
        out(msgspec.to_builtins(done))


def _console(as_json: bool) -> "Console":
    from rich.console import Console

    console = Console(stderr=as_json)
    # A log file has no width of its own: lists of product names want more than the 80 columns of the default.
    return console if console.is_terminal else Console(stderr=as_json, width=_LOG_COLUMNS)
