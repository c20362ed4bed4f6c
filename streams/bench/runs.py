"""One measured run of each contender: a worker process with a backlog before it, read back when it is done."""

import asyncio
import contextlib
import http.client
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from infra.broker.probe import claim_port
from operators.ranking import Cause
from streams.bench.lab import Backlog, BenchError, Lab, python, subprocess_environment
from streams.bench.naive import NaiveConfig
from streams.settings import TopicSettings
from streams.topics import TopicSpec, changelog_topic, topic_specs

__all__ = ["Listed", "Measured", "Stretch", "run_headwater", "run_naive", "stretch_of"]

_METRICS_TIMEOUT_S: Final = 5.0
_WORKER: Final = (
    "import logging, sys; logging.basicConfig(level=logging.WARNING); from streams.app import run_worker;"
    " from streams.settings import load_settings; sys.exit(run_worker(load_settings()))"
)


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
    """A run's lists in the order of their batches, the stretch that counts, and the worker's seconds by stage."""

    lists: list[Listed]
    stretch: Stretch
    stages: dict[str, float]


class _WireList(msgspec.Struct):
    generated_at: int
    caused_by: list[Cause]


_decode_list: Final = msgspec.json.Decoder(_WireList).decode


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


async def run_headwater(lab: Lab, backlog: Backlog, name: str, *, batch_events_max: int | None = None) -> Measured:
    """A worker with its default settings, or with smaller batches."""
    partitions = len(backlog.records)
    topics = TopicSettings(
        view=backlog.topics[0],
        click=backlog.topics[1],
        purchase=backlog.topics[2],
        catalog=f"{name}-catalog",
        recommendations=f"{name}-recommendations",
        dead_letter=f"{name}-dead-letter",
        partitions=partitions,
    )
    await lab.create(
        [
            spec._replace(config={**spec.config, **lab.list_config}) if spec.name == topics.recommendations else spec
            for spec in topic_specs(topics, name)
            if spec.name not in backlog.topics
        ]
    )
    port = claim_port(0)
    settings = {f"TOPICS_{field}": str(value) for field, value in msgspec.structs.asdict(topics).items()}
    settings |= {"WORKER_APP_ID": name, "WORKER_DATA_DIR": str(lab.home / name), "WORKER_WEB_PORT": str(port)}
    if batch_events_max is not None:
        settings["WORKER_BATCH_EVENTS_MAX"] = str(batch_events_max)
    environment = {f"HEADWATER_{field.upper()}": value for field, value in settings.items()}
    environment["HEADWATER_BROKER"] = lab.address
    with lab.running(name, python("-c", _WORKER), subprocess_environment(environment)) as process:
        await lab.wait_for_group(name, backlog, process)
        stages = await asyncio.to_thread(_stage_seconds, port)
    return await _read_back(lab, backlog, topics.recommendations, stages)


async def run_naive(lab: Lab, backlog: Backlog, name: str) -> Measured:
    """The plain Faust agent of ``streams.bench.naive``."""
    partitions = len(backlog.records)
    lists = f"{name}-recommendations"
    changelog = TopicSpec(changelog_topic(name), partitions, {"cleanup.policy": "compact"})
    await lab.create([TopicSpec(lists, partitions, {"cleanup.policy": "compact", **lab.list_config}), changelog])
    config = NaiveConfig(name, lab.address, backlog.topics, lists, partitions, str(lab.home / name))
    command = python("-m", "streams.bench.naive", msgspec.json.encode(config).decode())
    with lab.running(name, command, subprocess_environment({})) as process:
        await lab.wait_for_group(name, backlog, process)
    return await _read_back(lab, backlog, lists, {})


async def _read_back(lab: Lab, backlog: Backlog, topic: str, stages: dict[str, float]) -> Measured:
    lists: list[Listed] = []
    for record in await lab.read(topic, len(backlog.records)):
        wire = _decode_list(record.value)
        causes = [(cause.partition, cause.offset) for cause in wire.caused_by]
        lists.append(Listed(record.timestamp, wire.generated_at, record.key, causes))
    _check_complete(lists, backlog)
    lists.sort(key=lambda listed: listed.generated_at_ms)
    return Measured(lists, stretch_of(lists), stages)


def _check_complete(lists: Sequence[Listed], backlog: Backlog) -> None:
    """A contender that leaves events out or takes them twice did another job."""
    times = Counter(cause for listed in lists for cause in listed.caused_by)
    if len(times) != backlog.events or max(times.values()) > 1:
        twice = sum(count > 1 for count in times.values())
        raise BenchError(
            f"of {backlog.events} events {len(times)} caused a list and {twice} caused several: the run was disturbed"
            " by a rebalance or lost records; run again"
        )


def _stage_seconds(port: int) -> dict[str, float]:
    """Seconds by stage from the worker's metrics; empty where it does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_METRICS_TIMEOUT_S)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        return dict(_stage(line) for line in text.splitlines() if line.startswith("headwater_stage_seconds_total{"))
    return {}


def _stage(line: str) -> tuple[str, Any]:
    name, _, value = line.rpartition(" ")
    return name.split('"')[1], float(value)
