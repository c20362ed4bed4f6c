"""The ``headwater`` command: its commands put together, and what becomes of their errors."""

import os
import sys
from typing import Annotated, Any

import typer

from streams.commands import bench as benches
from streams.commands import evaluate as judging
from streams.commands import events, model, planning, reliability, showcase, system
from streams.commands.common import complain
from streams.settings import SettingsError

__all__ = ["app", "main", "run"]

_DEBUG = "HEADWATER_DEBUG"
_INTERRUPTED = 130
_UsageError: Any = typer.BadParameter.__base__  # typer exports no other name of it

app = typer.Typer(
    name="headwater",
    help="Streaming personalization: events in, ranked lists out, milliseconds later.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    invoke_without_command=True,
)
topics = typer.Typer(help="Create or list the topics.", rich_markup_mode=None, invoke_without_command=True)

evaluate = typer.Typer(help="Measure how good the lists are.", rich_markup_mode=None, invoke_without_command=True)
bench = typer.Typer(
    help="Measure throughput, freshness and their limits.", rich_markup_mode=None, invoke_without_command=True
)


@app.callback()
def _begin(
    ctx: typer.Context,
    config: Annotated[
        str | None, typer.Option("--config", help="Settings file (TOML); headwater.toml without it.")
    ] = None,
) -> None:
    ctx.obj = config
    _help_without_command(ctx)


@topics.callback()
@bench.callback()
@evaluate.callback()
def _begin_group(ctx: typer.Context) -> None:
    _help_without_command(ctx)


def _help_without_command(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


_COMMANDS = {
    showcase.demo: "demo --from 2017-06-01 --to 2017-06-08",
    events.produce: "produce events.jsonl --type purchase",
    events.watch: "watch --titles --count 1 --timeout 20",
    events.replay: "replay complete-journey --from 2017-06-01 --to 2017-06-02 --no-catalog",
    events.inspect: "inspect 1",
    events.erase: "erase 1",
    system.doctor: "doctor",
    system.broker: "broker --port 19092",
    system.worker: "worker",
    planning.plan: "plan --events-per-s 2000 --users 5000000 --items 50000",
    model.train: "train --out training --epochs 1",
    model.export: "export training/best.pt my-model --no-evaluate",
    reliability.chaos: "chaos --seed 7 --kills 5 --session-timeout 2",
    reliability.soak: "soak --minutes 5",
}
for _command, _example in _COMMANDS.items():
    app.command(epilog=f"Example: headwater {_example}")(_command)
topics.command("create", epilog="Example: headwater topics create")(system.topics_create)
topics.command("list", epilog="Example: headwater topics list --json")(system.topics_list)
topics.command("acls", epilog="Example: headwater topics acls worker --principal User:headwater")(system.topics_acls)
_BENCHES = {
    benches.pipeline: "pipeline --broker embedded --rounds 1",
    benches.freshness: "freshness --load 0.5 --rounds 1",
    benches.encoder: "encoder --batch 64 --rounds 1",
    benches.ranking: "ranking --items 1000 --rounds 1",
    benches.peers: "peers --install --rounds 1",
    benches.replay: "replay --events 100000 --live-events 50000",
    benches.report: "report --measure --only encoder --only freshness",
    benches.scale: "scale --axis users --size 1000 --size 10000",
    benches.state: "state --events 20000 --rounds 1 --broker embedded",
    benches.recovery: "recovery --users 100000",
}
for _bench, _example in _BENCHES.items():
    bench.command(epilog=f"Example: headwater bench {_example}")(_bench)
evaluate.command("complete-journey", epilog="Example: headwater evaluate complete-journey --split validation")(
    judging.complete_journey
)
evaluate.command("compression", epilog="Example: headwater evaluate compression")(judging.compression)
evaluate.command("prequential", epilog="Example: headwater evaluate prequential complete-journey --users 100")(
    judging.prequential
)
for _dataset in judging.LEAVE_ONE_OUT:
    evaluate.command(
        _dataset, epilog=f"Example: headwater evaluate {_dataset} --data {_dataset}.txt --components popularity"
    )(judging.leave_one_out(_dataset))
app.add_typer(topics, name="topics")
app.add_typer(evaluate, name="evaluate")
app.add_typer(bench, name="bench")


def run(argv: list[str] | None = None) -> int:
    """One command; returns the exit status: 0, 1 for a failure, 2 for bad input. Errors are one line."""
    try:
        status = app(args=argv, prog_name="headwater", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except Exception as error:
        if os.environ.get(_DEBUG) == "1":
            raise
        message, code = _explain(error)
        complain(message)
        return code
    return status if isinstance(status, int) else 0


def main() -> None:
    """Entry point of the ``headwater`` command."""
    sys.exit(run())


def _explain(error: Exception) -> tuple[str, int]:
    from infra.broker.errors import BrokerError
    from models.errors import ModelError
    from streams.clients.errors import ClientError

    if isinstance(error, ClientError):
        return str(error), error.exit_code
    if isinstance(error, SettingsError):
        return f"{error}; see the settings file and HEADWATER_* variables", 2
    if isinstance(error, (ModelError, BrokerError)):
        return str(error), 1
    if isinstance(error, _UsageError):
        usage: Any = error
        path = usage.ctx.command_path if usage.ctx else "headwater"
        return f"{usage.format_message().rstrip('.')}; see `{path} --help`", 2
    if isinstance(error, ModuleNotFoundError) and error.name in {"torch", "onnx", "onnxscript"}:
        return f"this command needs {error.name}; pip install 'headwater[train]'", 1
    if isinstance(error, ModuleNotFoundError) and error.name in {"implicit", "scipy", "sklearn"}:
        return f"this command needs {error.name}; pip install 'headwater[evaluate]'", 1
    if type(error).__name__.endswith("AuthorizationFailedError"):
        return f"the broker does not allow it: {error}; `headwater topics acls` shows what each role needs", 1
    return f"unexpected {type(error).__name__}: {error}; {_DEBUG}=1 shows where", 1
