"""One measured run of each contender: a worker process with a backlog before it, read back when it is done."""

import asyncio
import contextlib
import http.client
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import msgspec

from infra.broker.probe import claim_port
from streams.bench.lab import PURCHASE, Backlog, BenchError, Lab, Process, python, subprocess_environment
from streams.bench.peers.job import PeerConfig
from streams.bench.wire_list import decode_list
from streams.chaos.vitals import cpu_s
from streams.settings import TopicSettings
from streams.topics import TopicSpec, changelog_topic, topic_specs

__all__ = [
    "HISTORY_WORKER",
    "Listed",
    "Measured",
    "Stretch",
    "Worker",
    "create_topics",
    "processor_us_of",
    "read_back",
    "run_headwater",
    "run_naive",
    "serving",
    "stage_seconds",
    "stretch_of",
]

_METRICS_TIMEOUT_S: Final = 5.0
_READY_S_MAX: Final = 900.0
_READY_POLL_S: Final = 0.02
_STAGE: Final = 'headwater_stage_seconds_sum{stage="'
_PROCESSOR: Final = 'headwater_processor_seconds_total{thread="'
_WORKER: Final = (
    "import logging, sys; logging.basicConfig(level=logging.WARNING); from streams.serving import run_worker;"
    " from streams.settings import load_settings; run_worker(load_settings())"
)


HISTORY_WORKER: Final = "from streams.bench.history import serve; serve()"
"""Code of a worker without a model."""


class Listed(NamedTuple):
    """A list as it lies in the topic."""

    appended_ms: int
    generated_at_ms: int
    key: bytes
    caused_by: list[tuple[int, int]]
    """Partition and offset of each event."""


class Stretch(NamedTuple):
    """From the end of the first batch to the end of the last: start-up and join are outside."""

    events: int
    lists: int
    seconds: float

    @property
    def events_per_s(self) -> float:
        return self.events / self.seconds

    @property
    def lists_per_s(self) -> float:
        return self.lists / self.seconds


class Measured(NamedTuple):
    """A run's lists in the order of their batches, the stretch that counts, and what the worker spent."""

    lists: list[Listed]
    stretch: Stretch
    stages: dict[str, float]
    """Seconds by stage."""
    processor: dict[str, float]
    """Seconds of processor time by the worker's thread, and of the broker, from when the worker was ready."""


def stretch_of(lists: Sequence[Listed]) -> Stretch:
    """What was done between the last append of the first batch and the last append of all.

    Lists of one batch share ``generated_at``. The first batch is not counted: when its work began is unknown.

    Raises:
        BenchError: everything came in one batch or one millisecond.
    """
    first = min((listed.generated_at_ms for listed in lists), default=0)
    counted = [listed for listed in lists if listed.generated_at_ms != first]
    began_ms = max((listed.appended_ms for listed in lists if listed.generated_at_ms == first), default=0)
    ended_ms = max((listed.appended_ms for listed in counted), default=began_ms)
    if ended_ms <= began_ms:
        raise BenchError("the events were too few to time: everything came in one batch; raise --events")
    events = sum(len(listed.caused_by) for listed in counted)
    return Stretch(events, len(counted), (ended_ms - began_ms) / 1000)


async def run_headwater(
    lab: Lab, backlog: Backlog, name: str, *, settings: Mapping[str, str] | None = None, code: str = _WORKER
) -> Measured:
    """A worker with its default settings but for ``settings``, from an empty state to the end of the backlog."""
    topics = await create_topics(lab, name, backlog.topics, len(backlog.records))
    lab.settle()
    with serving(lab, name, topics, settings or {}, code=code) as worker:
        await asyncio.to_thread(worker.wait_ready)
        before = _processor(await asyncio.to_thread(worker.metrics), lab)
        await lab.wait_for_group(name, backlog, worker.process)
        metrics = await asyncio.to_thread(worker.metrics)
    after = _processor(metrics, lab)
    if before.keys() != after.keys():
        raise BenchError(f"{name} did not answer for its metrics; run again on a machine with less to do")
    measured = await read_back(lab, backlog, topics.recommendations)
    spent = {thread: seconds - before[thread] for thread, seconds in after.items()}
    return measured._replace(stages=stage_seconds(metrics), processor=spent)


def _processor(metrics: Mapping[str, float], lab: Lab) -> dict[str, float]:
    of_broker = 0.0 if lab.broker_pid is None else cpu_s(lab.broker_pid)
    return _by_label(metrics, _PROCESSOR) | ({"broker": of_broker} if of_broker else {})


async def create_topics(
    lab: Lab, name: str, event_topics: tuple[str, str, str], partitions: int, *, create_events: bool = False
) -> TopicSettings:
    """Topics of a worker of its own, but for those of the events; the broker's clock stamps every list."""
    topics = TopicSettings(
        view=event_topics[0],
        click=event_topics[1],
        purchase=event_topics[2],
        catalog=f"{name}-catalog",
        recommendations=f"{name}-recommendations",
        dead_letter=f"{name}-dead-letter",
        erase=f"{name}-erase",
        receipts=f"{name}-receipts",
        partitions=partitions,
    )
    stamped = (topics.recommendations, *(event_topics if create_events else ()))
    await lab.create(
        [
            spec._replace(config={**spec.config, **lab.list_config}) if spec.name in stamped else spec
            for spec in topic_specs(topics, name)
            if create_events or spec.name not in event_topics
        ]
    )
    return topics


class Worker(NamedTuple):
    """A worker process under measurement."""

    process: Process
    port: int

    def metrics(self) -> dict[str, float]:
        """Its figures by name as ``/metrics`` gives them; empty where it does not answer."""
        return _samples(_get(self.port, "/metrics")[1])

    def wait_ready(self) -> float:
        """Seconds until it processed events, counted from this call.

        Raises:
            BenchError: it ended, or took too long.
        """
        began = time.monotonic()
        while _get(self.port, "/ready")[0] != http.client.OK:
            if not self.process.is_running:
                raise BenchError(f"the worker ended; its log ends: {self.process.log_tail()}")
            if time.monotonic() - began > _READY_S_MAX:
                raise BenchError(f"the worker is not ready; its log ends: {self.process.log_tail()}")
            time.sleep(_READY_POLL_S)
        return time.monotonic() - began


@contextmanager
def serving(
    lab: Lab,
    name: str,
    topics: TopicSettings,
    settings: Mapping[str, str],
    *,
    code: str = _WORKER,
    number: int = 0,
) -> Generator[Worker]:
    """A worker process with default settings but for ``settings`` (such as ``WORKER_LIST_ITEMS``).

    Args:
        code: Python that runs it.
        number: of the worker, where a group has several: each has a state directory of its own.
    """
    port = claim_port(0)
    values = {f"TOPICS_{field}": str(value) for field, value in msgspec.structs.asdict(topics).items()}
    home = lab.home / (f"{name}-{number}" if number else name)
    values |= {"WORKER_APP_ID": name, "WORKER_DATA_DIR": str(home), "WORKER_WEB_PORT": str(port), **settings}
    environment = {f"HEADWATER_{field.upper()}": value for field, value in values.items()}
    environment["HEADWATER_BROKER"] = lab.address
    with lab.running(home.name, python("-c", code), subprocess_environment(environment)) as process:
        yield Worker(process, port)


async def run_naive(lab: Lab, backlog: Backlog, name: str) -> Measured:
    """The plain Faust agent of ``streams.bench.peers.naive``."""
    partitions = len(backlog.records)
    lists = f"{name}-recommendations"
    changelog = TopicSpec(changelog_topic(name), partitions, {"cleanup.policy": "compact"})
    await lab.create([TopicSpec(lists, partitions, {"cleanup.policy": "compact", **lab.list_config}), changelog])
    config = PeerConfig(name, lab.address, backlog.topics[PURCHASE], lists, partitions, str(lab.home / name))
    command = python("-m", "streams.bench.peers.naive", msgspec.json.encode(config).decode())
    lab.settle()
    with lab.running(name, command, subprocess_environment({})) as process:
        await lab.wait_for_group(name, backlog, process)
    return await read_back(lab, backlog, lists)


async def read_back(lab: Lab, backlog: Backlog, topic: str) -> Measured:
    """The lists of a run that is over; what the worker spent is not in them.

    Raises:
        BenchError: not every event caused exactly one list.
    """
    lists: list[Listed] = []
    for record in await lab.read(topic, len(backlog.records)):
        wire = decode_list(record.value)
        causes = [(cause.partition, cause.offset) for cause in wire.caused_by]
        lists.append(Listed(record.timestamp, wire.generated_at, record.key, causes))
    _check_complete(lists, backlog)
    lists.sort(key=lambda listed: listed.generated_at_ms)
    return Measured(lists, stretch_of(lists), {}, {})


def _check_complete(lists: Sequence[Listed], backlog: Backlog) -> None:
    """A contender that leaves events out or takes them twice did another job."""
    times = Counter(cause for listed in lists for cause in listed.caused_by)
    if len(times) != backlog.events or max(times.values()) > 1:
        twice = sum(count > 1 for count in times.values())
        raise BenchError(
            f"of {backlog.events} events {len(times)} caused a list and {twice} caused several: the run was disturbed"
            " by a rebalance or lost records; run again"
        )


def stage_seconds(metrics: Mapping[str, float]) -> dict[str, float]:
    """A worker's seconds by stage, out of its metrics."""
    return _by_label(metrics, _STAGE)


def processor_us_of(before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]]) -> float:
    """Microseconds of processor time an event between two looks at the metrics of all workers.

    Raises:
        BenchError: no event came in between.
    """
    seconds = [sum(sum(_by_label(each, _PROCESSOR).values()) for each in metrics) for metrics in (before, after)]
    events = [sum(each.get("headwater_records_total", 0.0) for each in metrics) for metrics in (before, after)]
    if events[1] <= events[0]:
        raise BenchError("the events were too few to time: none were left when the workers were ready; raise --events")
    return 1e6 * (seconds[1] - seconds[0]) / (events[1] - events[0])


def _by_label(metrics: Mapping[str, float], head: str) -> dict[str, float]:
    return {name[len(head) : -2]: value for name, value in metrics.items() if name.startswith(head)}


def _samples(text: str) -> dict[str, float]:
    """Prometheus text -> value by name and labels, as they are written."""
    samples = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def _get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_METRICS_TIMEOUT_S)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    return 0, ""
