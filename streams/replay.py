"""A history into the event topics, in event-time order, as fast as asked, from where the last run stopped."""

import os
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from operators.events import JSON_HEADERS
from streams.clients.acls import require
from streams.clients.delivery import Delivery
from streams.clients.errors import ClientError, InputError
from streams.clients.kafka import Cluster, describe_cluster, partition_count, producer
from streams.importers.source import Source
from streams.settings import Settings

__all__ = [
    "Checkpoint",
    "Pacer",
    "Replayed",
    "load_checkpoint",
    "replay",
    "save_checkpoint",
    "stop_on_signal",
]

_CHECKPOINT_S: Final = 1.0
_SLEEP_S_MAX: Final = 0.1
_PROGRESS_EVENTS: Final = 1_000


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a replay has come: the first ``position`` events of the history have been acknowledged."""

    digest: str
    period: tuple[int, int]
    position: int


class Replayed(NamedTuple):
    """What a run did."""

    sent: int
    position: int
    """Events of the history acknowledged by this run and those before it."""
    total: int
    catalog_items: int
    skipped: int
    seconds: float
    """Taken by the events alone."""
    stopped: bool
    """Interrupted before the end; everything up to ``position`` is delivered."""


class Pacer:
    """Lets event time run ``speed`` times faster than the clock; None does not wait."""

    def __init__(self, speed: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._speed = speed
        self._clock = clock
        self._started: tuple[float, int] | None = None

    def wait_s(self, timestamp_ms: int) -> float:
        """Seconds until the event of this time is due; the first event asked for is due at once."""
        if self._speed is None:
            return 0.0
        if self._started is None:
            self._started = (self._clock(), timestamp_ms)
        began, first_ms = self._started
        return began + (timestamp_ms - first_ms) / 1000 / self._speed - self._clock()


def load_checkpoint(path: Path, digest: str, period: tuple[int, int]) -> int:
    """Position to go on from; 0 where there is no file yet.

    Raises:
        InputError: the file is no checkpoint, or one of another history or period.
    """
    try:
        checkpoint = msgspec.json.decode(path.read_bytes(), type=Checkpoint)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise InputError(f"{path}: cannot read the checkpoint ({error.strerror}); check the path") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no replay checkpoint ({error}); name another file for --resume") from error
    if checkpoint.digest != digest or checkpoint.period != period:
        what = "history" if checkpoint.digest != digest else "period (--from, --to)"
        raise InputError(f"{path} belongs to another {what}; remove it to start anew, or name another file")
    return checkpoint.position


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file as a whole, so that a crash leaves the old or the new one.

    Raises:
        ClientError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(checkpoint))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ClientError(f"{path}: cannot write the checkpoint ({error.strerror}); check the path") from error


def replay(
    settings: Settings,
    source: Source,
    *,
    period: tuple[int, int],
    speed: float | None,
    limit: int | None,
    resume: Path | None,
    with_catalog: bool,
    on_progress: Callable[[int, int], None],
    stopping: Callable[[], bool],
) -> Replayed:
    """Send the events of ``source``; every one is acknowledged before the checkpoint names it.

    A crash between an acknowledgement and the checkpoint makes the next run send some events again, with the
    same event ids.

    Args:
        period: kept in the checkpoint, in ms.
        speed: event time per clock time; None is as fast as the broker takes.
        limit: events of the history to send, earlier runs included.
        on_progress: called with the position and the total.
        stopping: asked before every event; once true, what was sent is settled and the run ends.

    Raises:
        InputError: the checkpoint belongs to something else.
        ClientError: the broker does not answer or did not take an event.
    """
    total = source.total if limit is None else min(limit, source.total)
    start = load_checkpoint(resume, source.digest, period) if resume else 0
    require(settings, "producer")
    cluster = describe_cluster(settings.broker)
    catalog_items = 0
    with producer(settings.broker, cluster, bulk=speed is None) as client:
        begun = Checkpoint(source.digest, period, start)
        run = _Run(settings, cluster, Delivery(client, _fail), resume, begun)
        if with_catalog and start == 0:
            catalog_items = run.send_catalog(source)
        began = time.monotonic()
        run.send(source, total, Pacer(speed), on_progress, stopping)
        run.finish()
        seconds = time.monotonic() - began
    on_progress(run.position, total)
    sent, stopped = run.position - start, run.position < total
    return Replayed(sent, run.position, total, catalog_items, source.skipped, seconds, stopped)


def _fail(position: int, error: BaseException) -> None:
    raise ClientError(f"event {position} was not delivered ({error}); check the broker, then run again") from error


class _Run:
    """One run's position, and when it was last written down."""

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        delivery: Delivery,
        resume: Path | None,
        begun: Checkpoint,
    ) -> None:
        self._topics = settings.topics.events
        self._catalog = settings.topics.catalog
        self._cluster = cluster
        self._counts = [partition_count(cluster, topic) for topic in self._topics]
        self._delivery = delivery
        self._resume = resume
        self._begun = begun
        self._settled_before = 0
        self._saved_at = time.monotonic()

    @property
    def position(self) -> int:
        """Events of the history that are known to be delivered, with none left out before them."""
        return self._begun.position + self._delivery.acknowledged - self._settled_before

    def send_catalog(self, source: Source) -> int:
        count = partition_count(self._cluster, self._catalog)
        for key, value in source.catalog():
            self._delivery.send(self._catalog, key, value, JSON_HEADERS, count)
        self._delivery.flush()
        self._settled_before = self._delivery.acknowledged
        return self._settled_before

    def send(
        self,
        source: Source,
        total: int,
        pacer: Pacer,
        on_progress: Callable[[int, int], None],
        stopping: Callable[[], bool],
    ) -> None:
        start = self._begun.position
        events = islice(source.events(start), max(total - start, 0))
        for position, event in enumerate(events, start):
            while (wait_s := pacer.wait_s(event.timestamp_ms)) > 0 and not stopping():
                on_progress(position, total)
                self._rest(wait_s)
            if stopping():
                return
            self._delivery.send(
                self._topics[event.event_type],
                event.key,
                event.value,
                JSON_HEADERS,
                self._counts[event.event_type],
                position,
            )
            if position % _PROGRESS_EVENTS == 0:
                on_progress(position, total)
                self._maybe_save()

    def _rest(self, wait_s: float) -> None:
        self._delivery.settle_done()
        self._maybe_save()
        time.sleep(min(wait_s, _SLEEP_S_MAX))

    def _maybe_save(self) -> None:
        if self._resume is not None and time.monotonic() - self._saved_at >= _CHECKPOINT_S:
            self._save(self._resume)

    def _save(self, path: Path) -> None:
        self._saved_at = time.monotonic()
        save_checkpoint(path, msgspec.structs.replace(self._begun, position=self.position))

    def finish(self) -> None:
        """Wait for what is under way; the checkpoint names what arrived even where something did not."""
        try:
            self._delivery.flush()
        finally:
            if self._resume is not None:
                self._save(self._resume)


@contextmanager
def stop_on_signal() -> Generator[Callable[[], bool]]:
    """The first SIGINT or SIGTERM within makes the yielded function say True; a second one interrupts."""
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
