"""Commands that run or look after the system: topics, doctor, broker, worker."""

import logging
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import typer

from streams.acls import Role, grants
from streams.commands.common import Json, out, settings_of

__all__ = ["broker", "doctor", "topics_acls", "topics_create", "topics_list", "worker"]


def topics_create(ctx: typer.Context, as_json: Json = False) -> None:
    """Create the topics that are missing; those that exist stay as they are."""
    from streams.clients.topics import create_topics

    created = create_topics(settings_of(ctx))
    if as_json:
        out({"created": created})
    else:
        typer.echo(f"created {', '.join(created)}" if created else "all topics exist")


def topics_list(ctx: typer.Context, as_json: Json = False) -> None:
    """Show the topics, their partitions and policies."""
    from streams.clients.topics import list_topics

    topics = list_topics(settings_of(ctx))
    if as_json:
        out({"topics": [topic._asdict() for topic in topics]})
        return
    from streams.clients.render import show, topics_table

    show(topics_table(topics))


def topics_acls(
    ctx: typer.Context,
    role: Annotated[Role, typer.Argument(help="worker, producer, catalog, reader or eraser.")],
    principal: Annotated[
        str | None, typer.Option("--principal", help="Such as User:ada; User:ROLE without it.")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Set them on the broker.")] = False,
    as_json: Json = False,
) -> None:
    """Show, or set, the access rights (ACLs) that a role needs on a broker with an authorizer."""
    settings = settings_of(ctx)
    wanted, who = grants(settings, role), principal or f"User:{role}"
    if apply:
        from streams.clients.acls import allow

        allow(settings.broker, who, wanted)
    if as_json:
        out({"principal": who, "applied": apply, "acls": [grant._asdict() for grant in wanted]})
        return
    for grant in wanted:
        typer.echo(f"{who} {grant.operation} {grant.resource} {grant.name}")


def doctor(ctx: typer.Context, as_json: Json = False) -> None:
    """Check broker, topics, partitioner, lag, model, disk; exit status 1 when something fails."""
    from streams.doctor import diagnose

    checks = diagnose(settings_of(ctx))
    healthy = all(check.status != "fail" for check in checks)
    if as_json:
        out({"ok": healthy, "checks": [check._asdict() for check in checks]})
    else:
        from streams.clients.render import checks_table, show

        show(checks_table(checks))
    raise typer.Exit(0 if healthy else 1)


def broker(
    kind: Annotated[Literal["embedded", "kafka"], typer.Option("--kind", help="kafka is Apache Kafka.")] = "embedded",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 for a free one.")] = 9092,
    heap: Annotated[str, typer.Option("--heap", help="Java heap of Apache Kafka.")] = "512m",
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Keep Apache Kafka's data here.")] = None,
    secure: Annotated[
        bool, typer.Option("--secure", help="Apache Kafka with TLS, users with passwords (SCRAM) and ACLs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a broker on this machine until Ctrl-C: in memory, or Apache Kafka."""
    from infra.broker import serve

    def echo(line: str) -> None:
        if as_json:
            out({"ready": True, "message": line})
        else:
            typer.echo(line)
        sys.stdout.flush()

    serve(kind, port=port, heap=heap, data_dir=data_dir, secure=secure, echo=echo)


def worker(ctx: typer.Context, as_json: Json = False) -> None:
    """Run a worker until Ctrl-C or SIGTERM; --json logs JSON lines."""
    settings = settings_of(ctx)
    _log(as_json)
    from streams.serving import run_worker

    run_worker(settings)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": record.created,
            "level": record.levelname,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def _log(as_json: bool) -> None:
    handler = logging.StreamHandler(sys.stdout if as_json else sys.stderr)
    handler.setFormatter(_JsonLines() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for library in ("faust", "mode", "aiokafka"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("kafka").setLevel(logging.ERROR)  # it warns of Faust's group members, whose protocol is Faust's
