"""The course of the demonstration."""

import math
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final, Literal

import msgspec
from rich.console import Console
from rich.markup import escape

from infra import broker
from infra.broker.probe import claim_port
from models.dataset import complete_journey_products
from operators.events import JSON_HEADERS
from streams.clients.errors import ClientError
from streams.clients.kafka import Cluster, Producer, describe_cluster, producer
from streams.clients.render import progress_bar
from streams.clients.topics import create_topics
from streams.demo import show
from streams.demo.reader import Cause, ListReader
from streams.importers.sorting import TimedEvent
from streams.importers.source import COMPLETE_JOURNEY, Period, Source, open_source
from streams.replay import replay
from streams.settings import Settings
from streams.worker_process import WorkerProcess

__all__ = ["DemoOptions", "DemoReport", "LiveFigures", "ReplayFigures", "run"]

_ANSWER_WAIT_S: Final = 120.0
_LIVE_WAIT_S: Final = 10.0
_FETCH_WAIT_MS: Final = 20
_BAD_VALUES: Final = (b"not json", b'{"user_id": "1", "timestamp": 0}', b"\xff\xfe\x00")


class DemoOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to show."""

    kind: Literal["embedded", "kafka"] = "embedded"
    start: str = "2017-06-01"
    end: str = "2017-07-01"
    live_events: int = 300
    live_events_per_s: float = 40.0
    serve: bool = False
    """Keep broker and worker up after the summary, until ``stopping`` says so."""
    report_path: str = "headwater-demo.json"


class ReplayFigures(msgspec.Struct):
    """The stretch from the first replayed event sent to the last one answered."""

    events: int
    seconds: float
    events_per_s: float


class LiveFigures(msgspec.Struct):
    """Time from handing a purchase to the producer to having the list it changed."""

    events: int
    freshness_p50_ms: float
    freshness_p99_ms: float
    shown_ms: float


class DemoReport(msgspec.Struct):
    """The closing summary."""

    broker: str
    events: int
    lists: int
    users: int
    bad_records_sent: int
    dead_letters: int
    replay: ReplayFigures
    live: LiveFigures
    state_bytes: int
    model_version: str
    seconds: float


def run(settings: Settings, options: DemoOptions, stopping: Callable[[], bool], console: Console) -> DemoReport:
    """Start a broker and a worker, replay, go live, sum up, and stop both.

    Raises:
        BrokerError, ClientError, ModelError: something did not start, or events were not answered.
    """
    began = time.monotonic()
    titles = {item_id: product.title for item_id, product in complete_journey_products().items()}
    with tempfile.TemporaryDirectory(prefix="headwater-demo-") as directory, broker.start(options.kind) as started:
        console.print(f"[bold]broker[/]   {options.kind} on {started.address}")
        there = msgspec.structs.replace(settings.broker, address=started.address)
        settings = msgspec.structs.replace(settings, broker=there)
        create_topics(settings)
        with WorkerProcess(_local(settings), Path(directory)).start() as worker:
            report = _Demo(settings, options, worker, titles, stopping, console).run()
            report.seconds = time.monotonic() - began
            if options.serve:
                _serve(started.address, stopping, console)
            status = worker.terminate()
            if status:
                raise ClientError(f"the worker ended with status {status}; see its log above")
            report.state_bytes = worker.state_bytes()
    Path(options.report_path).write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    show.summary_table(msgspec.to_builtins(report), console)
    console.print(f"[dim]{report.seconds:.0f} s in all; the same figures are in {options.report_path}[/]")
    return report


def _local(settings: Settings) -> Settings:
    """A worker for this machine: a port of its own, quick with the embedded broker, every source fused."""
    given = {"web_port": claim_port(0), "fetch_wait_ms": _FETCH_WAIT_MS, "covisitation": True}
    own = msgspec.structs.replace(settings.worker, **given)
    return msgspec.structs.replace(settings, worker=own)


class _Demo:
    def __init__(
        self,
        settings: Settings,
        options: DemoOptions,
        worker: WorkerProcess,
        titles: dict[str, str],
        stopping: Callable[[], bool],
        console: Console,
    ) -> None:
        self._settings, self._options = settings, options
        self._worker, self._titles = worker, titles
        self._stopping, self._console = stopping, console
        self._cluster: Cluster = describe_cluster(settings.broker)
        self._reader = ListReader(settings, self._cluster)

    def run(self) -> DemoReport:
        self._worker.wait_ready()
        self._console.print("[bold]worker[/]   ready")
        self._reader.start()
        with producer(self._settings.broker, self._cluster) as client:
            replayed = self._replay(client)
            live, model_version = self._live(client)
        counters = self._worker.metrics()
        report = DemoReport(
            broker=self._options.kind,
            events=replayed.events + live.events,
            lists=self._reader.lists,
            users=self._reader.users,
            bad_records_sent=len(_BAD_VALUES),
            dead_letters=int(counters.get("headwater_rejected_total", 0)),
            replay=replayed,
            live=live,
            state_bytes=0,
            model_version=model_version,
            seconds=0.0,
        )
        self._reader.close()
        return report

    def _replay(self, client: Producer) -> ReplayFigures:
        for value in _BAD_VALUES:
            client.send(self._settings.topics.purchase, value, b"1", JSON_HEADERS)
        period = Period(_ms(self._options.start), _ms(self._options.end))
        began = time.monotonic()
        with open_source(COMPLETE_JOURNEY, "auto", period, skip_bad=False) as source:
            failure: list[BaseException] = []
            sender = threading.Thread(target=self._send, args=(source, period, failure), daemon=True)
            sender.start()
            with progress_bar("purchases answered by lists", shown=self._console.is_terminal) as progress:
                self._await_answers(source.total, progress, failure)
            sender.join()
        seconds = time.monotonic() - began
        self._console.print(
            f"[bold]replay[/]   {source.total:,} purchases of {self._options.start} to {self._options.end} answered"
            f" by {self._reader.lists:,} lists in {seconds:.1f} s"
        )
        return ReplayFigures(source.total, seconds, source.total / seconds)

    def _send(self, source: Source, period: Period, failure: list[BaseException]) -> None:
        try:
            replay(
                self._settings,
                source,
                period=period,
                speed=None,
                limit=None,
                resume=None,
                with_catalog=False,
                on_progress=lambda _done, _total: None,
                stopping=self._stopping,
            )
        except Exception as error:
            failure.append(error)

    def _await_answers(self, total: int, progress: Callable[[int, int], None], failure: list[BaseException]) -> None:
        deadline = time.monotonic() + _ANSWER_WAIT_S
        before = 0
        while self._reader.answered < total:
            if failure:
                raise failure[0]
            if self._stopping():
                raise ClientError("interrupted; nothing is left running")
            if self._reader.answered > before:
                before, deadline = self._reader.answered, time.monotonic() + _ANSWER_WAIT_S
            if time.monotonic() > deadline:
                raise ClientError(f"{total - before} of {total} events got no list in {_ANSWER_WAIT_S:g} s")
            progress(self._reader.answered, total)
            time.sleep(0.1)
        progress(total, total)

    def _live(self, client: Producer) -> tuple[LiveFigures, str]:
        """The next real purchases at a steady pace; the first household's list is shown before and after."""
        period = Period(_ms(self._options.end))
        with open_source(COMPLETE_JOURNEY, "auto", period, skip_bad=False) as source:
            events = list(islice(source.events(0), self._options.live_events + 1))
        first, following = self._choose(events)
        shown_ms = self._show(client, first)
        began = time.perf_counter()
        sent: list[tuple[Cause, float]] = []
        for number, event in enumerate(following):
            time.sleep(max(0.0, began + number / self._options.live_events_per_s - time.perf_counter()))
            sent.append(self._send_one(client, event))
        latencies = sorted(self._latency_ms(cause, at) for cause, at in sent)
        last = self._reader.last_of(first.key.decode())
        version = str(last["model_version"]) if last else ""
        figures = LiveFigures(len(events), _quantile(latencies, 0.5), _quantile(latencies, 0.99), shown_ms)
        return figures, version

    def _choose(self, events: list[TimedEvent]) -> tuple[TimedEvent, list[TimedEvent]]:
        """A purchase of a household that has a list and of a product with a name, and all the others."""
        for number, event in enumerate(events):
            item_id = msgspec.json.decode(event.value)["item_id"]
            if self._reader.last_of(event.key.decode()) and item_id in self._titles:
                return event, events[:number] + events[number + 1 :]
        return events[0], events[1:]

    def _show(self, client: Producer, event: TimedEvent) -> float:
        user_id = event.key.decode()
        item_id: str = msgspec.json.decode(event.value)["item_id"]
        before = self._reader.last_of(user_id)
        cause, at = self._send_one(client, event)
        latency_ms = self._latency_ms(cause, at)
        after = self._reader.last_of(user_id) or {}
        self._console.print(
            f"[bold]live[/]     household {user_id} buys [green]{escape(self._titles.get(item_id, item_id))}[/]:"
            f" the new list is here {latency_ms:.0f} ms later"
        )
        show.before_and_after(before, after, self._titles, self._console)
        return latency_ms

    def _send_one(self, client: Producer, event: TimedEvent) -> tuple[Cause, float]:
        at = time.perf_counter()
        topic = self._settings.topics.events[event.event_type]
        sent = client.send(topic, event.value, event.key, JSON_HEADERS).get(_LIVE_WAIT_S)
        return (topic, sent.partition, sent.offset), at

    def _latency_ms(self, cause: Cause, at: float) -> float:
        answered = self._reader.wait_answered(cause, _LIVE_WAIT_S)
        if answered is None:
            raise ClientError(f"the event {cause[0]}/{cause[1]}@{cause[2]} got no list in {_LIVE_WAIT_S:g} s")
        return (answered - at) * 1000


def _serve(address: str, stopping: Callable[[], bool], console: Console) -> None:
    console.print(f"[bold]serving[/]  until Ctrl-C; try: HEADWATER_BROKER={address} headwater inspect 1")
    while not stopping():
        time.sleep(0.2)


def _ms(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


def _quantile(ordered: list[float], share: float) -> float:
    """Nearest-rank quantile of a sorted, non-empty list."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]
