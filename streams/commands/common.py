"""What all commands share: options, settings, the two ways to answer."""

import sys
from typing import Annotated, Any

import orjson
import typer

from streams.settings import Settings, load_settings

__all__ = ["Json", "complain", "out", "settings_of"]

Json = Annotated[bool, typer.Option("--json", help="One JSON object, or JSON lines, on standard output.")]


def settings_of(ctx: typer.Context) -> Settings:
    """The settings of this call: the file of ``--config``, and the environment."""
    return load_settings(ctx.obj)


def complain(message: str) -> None:
    """One line on standard error."""
    typer.echo(f"headwater: {' '.join(message.split())}", err=True)


def out(thing: Any) -> None:
    """One line of JSON on standard output."""
    sys.stdout.write(orjson.dumps(thing, option=orjson.OPT_SERIALIZE_NUMPY).decode() + "\n")
    sys.stdout.flush()
