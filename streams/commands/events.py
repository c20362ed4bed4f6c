"""Commands that send events or show what became of them: produce, watch, replay, inspect, erase."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from streams.commands.common import Json, complain, out, settings_of
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.clients.watch import Watched

__all__ = ["erase", "inspect", "produce", "replay", "watch"]

_INTERRUPTED = 130

TitlesFrom = Annotated[
    Literal["complete-journey"] | None,
    typer.Option("--titles-from", help="Take product names from an installed data set."),
]
Titles = Annotated[bool, typer.Option("--titles", help="Show product names from the catalog topic.")]


def produce(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="JSON lines; - is standard input.")] = "-",
    event_type: Annotated[
        Literal["view", "click", "purchase"] | None,
        typer.Option("--type", help="Type of every line; without it each line has a `type` field."),
    ] = None,
    encoding: Annotated[Literal["json", "msgpack"], typer.Option("--format", help="On the topic.")] = "json",
    raw: Annotated[bool, typer.Option("--raw", help="Send each line as it is, even what is no event.")] = False,
    as_json: Json = False,
) -> None:
    """Send events, keyed by user_id; ends when the broker has acknowledged every one."""
    from streams.clients.produce import produce as send

    settings = settings_of(ctx)
    done = send(settings, _lines(file), event_type=event_type, encoding=encoding, raw=raw, report=complain)
    if as_json:
        out(done._asdict())
    else:
        typer.echo(f"{done.delivered} delivered, {done.rejected} rejected, {done.undelivered} not delivered")
    raise typer.Exit(1 if done.undelivered else 2 if done.rejected else 0)


def erase(
    ctx: typer.Context,
    users: Annotated[list[str], typer.Argument(help="User ids.")],
    until: Annotated[
        str | None, typer.Option("--until", help="Refuse events up to this time (UTC), such as 2026-01-31; else now.")
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for the receipts.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Erase users: state, changelog, list; ends when the receipts are there."""
    from streams.clients.erase import erase as ask

    until_ms = None if until is None else _time_of(until, 0)
    done = ask(settings_of(ctx), users, until_ms=until_ms, timeout_s=timeout_s)
    for user, erased in zip(users, done, strict=True):
        if as_json:
            out({"user_id": user, **erased._asdict()})
        else:
            typer.echo(f"{user}: {'erased' if erased.receipt else 'asked for'}, request {erased.request_id}")
    missing = sum(erased.receipt is None for erased in done)
    if missing and timeout_s:
        complain(f"{missing} of {len(done)} receipts in {timeout_s:g} s; the requests stand: is a worker running?")
        raise typer.Exit(1)


def watch(
    ctx: typer.Context,
    user: Annotated[str | None, typer.Option("--user", help="Only this user's lists.")] = None,
    titles: Titles = False,
    titles_from: TitlesFrom = None,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Old lists first.")] = False,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Stop after so many lists.")] = None,
    timeout_s: Annotated[float | None, typer.Option("--timeout", min=0, help="Stop after so many seconds.")] = None,
    as_json: Json = False,
) -> None:
    """Show ranked lists as they are published, with the milliseconds since the event."""
    from streams.clients.watch import watch as follow

    settings = settings_of(ctx)
    names = _titles(settings, titles, titles_from)
    lists = follow(settings, user_id=user, from_beginning=from_beginning, count=count, timeout_s=timeout_s)
    seen = 0
    try:
        for watched in lists:
            _show_list(watched, names, as_json)
            seen += 1
    except KeyboardInterrupt:
        return
    if count is not None and seen < count:
        complain(f"{seen} of {count} lists in {timeout_s:g} s; is a worker running? see `headwater doctor`")
        raise typer.Exit(1)


def _show_list(watched: "Watched", names: dict[str, str] | None, as_json: bool) -> None:
    from streams.clients.watch import summary

    if as_json:
        out(summary(watched, names))
        return
    from streams.clients.render import ranked_list, show

    show(ranked_list(summary(watched, names), names))


def replay(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(help="complete-journey, or a file of a known format.")],
    file_format: Annotated[
        str,
        typer.Option("--format", help="auto, movielens, taobao, retailrocket, rees46, yoochoose or otto."),
    ] = "auto",
    start: Annotated[str | None, typer.Option("--from", help="First event time, such as 2017-06-01 (UTC).")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Event time before which to stop.")] = None,
    speed: Annotated[str, typer.Option("--speed", help="Event time per clock time, such as 60; or max.")] = "max",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after so many events.")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Keep the position here; go on from it.")] = None,
    with_catalog: Annotated[
        bool, typer.Option("--with-catalog/--no-catalog", help="Send the products first, where known.")
    ] = True,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count bad lines instead of stopping.")] = False,
    as_json: Json = False,
) -> None:
    """Send a history to the event topics in event-time order; timestamps stay those of the history."""
    from streams.clients.render import progress_bar
    from streams.importers.source import Period, open_source
    from streams.replay import replay as send
    from streams.replay import stop_on_signal

    settings = settings_of(ctx)
    period = Period(_time_of(start, Period().start), _time_of(end, Period().end))
    pace = _speed_of(speed)
    with (
        open_source(source, file_format, period, skip_bad=skip_bad) as history,
        progress_bar(f"replay {source}", shown=not as_json and sys.stderr.isatty()) as move,
        stop_on_signal() as stopping,
    ):
        done = send(
            settings,
            history,
            period=period,
            speed=pace,
            limit=limit,
            resume=resume,
            with_catalog=with_catalog,
            on_progress=move,
            stopping=stopping,
        )
    rate = done.sent / done.seconds if done.seconds else 0.0
    if as_json:
        out({**done._asdict(), "events_per_s": round(rate)})
    else:
        skipped = f", {done.skipped} bad lines skipped" if done.skipped else ""
        typer.echo(
            f"{done.sent} events in {done.seconds:.1f} s ({rate:,.0f}/s), {done.position} of {done.total},"
            f" {done.catalog_items} products{skipped}"
        )
    if done.stopped:
        goes_on = "run again to go on" if resume else "with --resume FILE a replay can go on"
        complain(f"stopped at {done.position} of {done.total}; {goes_on}")
        raise typer.Exit(_INTERRUPTED)


def inspect(
    ctx: typer.Context,
    user: Annotated[str, typer.Argument(help="User id.")],
    titles: Titles = False,
    titles_from: TitlesFrom = None,
    as_json: Json = False,
) -> None:
    """Show what is known of a user: history, vector, fences, current list."""
    from streams.clients.inspect import inspect as look

    settings = settings_of(ctx)
    names = _titles(settings, titles, titles_from)
    page = look(settings, user)
    if as_json:
        out(page)
        return
    from streams.clients.render import show, user_page

    show(*user_page(page, names))


def _titles(settings: Settings, from_catalog: bool, from_data_set: str | None) -> dict[str, str] | None:
    from streams.clients.watch import catalog_titles, product_titles

    if from_data_set is not None:
        return product_titles()
    return catalog_titles(settings) if from_catalog else None


def _lines(file: str) -> Iterator[bytes]:
    from streams.clients.errors import InputError

    if file == "-":
        yield from sys.stdin.buffer
        return
    try:
        with Path(file).open("rb") as lines:
            yield from lines
    except OSError as error:
        raise InputError(f"{file}: cannot read it ({error.strerror}); check the path") from error


def _time_of(text: str | None, default_ms: int) -> int:
    from streams.clients.errors import InputError
    from streams.importers.base import iso_ms

    if text is None:
        return default_ms
    try:
        return iso_ms(text)
    except ValueError as error:
        raise InputError(f"{text!r} is no time; write 2017-06-01 or 2017-06-01T12:00:00") from error


def _speed_of(text: str) -> float | None:
    from streams.clients.errors import InputError

    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise InputError(f"speed {text!r} is neither a positive number nor max; 60 makes a minute a second")
    return speed
