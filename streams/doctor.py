"""Checks of everything a worker depends on; each names a cause and a fix."""

import resource
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from models.errors import ModelError
from models.manifest import load_manifest
from models.runtime import OnnxEncoder
from operators.partition import partition_of
from streams.clients.errors import ClientError
from streams.clients.kafka import (
    Cluster,
    Consumer,
    KafkaError,
    NoCoordinatorError,
    Partition,
    admin,
    consumer,
    describe_cluster,
)
from streams.clients.reading import end_offsets, partitions_of, read
from streams.settings import Settings
from streams.topics import partition_errors

__all__ = ["Check", "Status", "diagnose"]

Status = Literal["ok", "warn", "fail"]

_SAMPLE_RECORDS: Final = 200
_DISK_FAIL_BYTES: Final = 1 << 30
_DISK_WARN_BYTES: Final = 5 << 30
_OPEN_FILES_WARN: Final = 4_096
_OPEN_FILES_FAIL: Final = 512
_GPU_DEVICE: Final = Path("/dev/nvidia0")


class Check(NamedTuple):
    """One finding; ``fix`` is empty where all is well."""

    name: str
    status: Status
    found: str
    fix: str = ""


def diagnose(settings: Settings) -> list[Check]:
    """Run every check; what needs the broker is left out when it does not answer."""
    checks = _guarded("broker", lambda: _broker(settings))
    if checks[0].status != "fail":
        cluster = describe_cluster(settings.broker)
        checks += _guarded("topics", lambda: _topics(settings, cluster))
        checks += _guarded("partitioner", lambda: _partitioner(settings, cluster))
        checks += _guarded("lag", lambda: _lag(settings, cluster))
    checks += _guarded("model", lambda: _model(settings))
    checks += _guarded("disk", lambda: _disk(settings))
    checks += _guarded("open files", _open_files)
    return checks


def _guarded(name: str, check: Callable[[], Iterable[Check]]) -> list[Check]:
    try:
        return list(check())
    except (ClientError, ModelError, KafkaError, OSError) as error:
        what, _, fix = str(error).partition("; ")
        return [Check(name, "fail", what, fix or "see the message")]


def _broker(settings: Settings) -> list[Check]:
    address = settings.broker.address
    cluster = describe_cluster(settings.broker)
    with consumer(settings.broker) as client:
        version = ".".join(map(str, client.config["api_version"]))
    if cluster.embedded:
        found = f"the embedded broker (Tansu) at {address}, speaking Kafka {version}; in memory only"
        return [Check("broker", "ok", found)]
    return [Check("broker", "ok", f"Kafka {version} or compatible at {address}")]


def _topics(settings: Settings, cluster: Cluster) -> list[Check]:
    errors = partition_errors(settings, cluster.partitions)
    if not errors:
        count = cluster.partitions[settings.topics.view]
        return [Check("topics", "ok", f"all there, {count} partitions for events, lists and state")]
    fix = "create missing topics with `headwater topics create`; never change partition counts under a state"
    return [Check("topics", "fail", error, fix) for error in errors]


def _partitioner(settings: Settings, cluster: Cluster) -> list[Check]:
    wrong: list[str] = []
    sampled = keyless = 0
    with consumer(settings.broker) as client:
        for topic in settings.topics.events:
            if topic not in cluster.partitions:
                continue
            for key, partition in _sample(client, cluster, topic):
                sampled += 1
                if key is None:
                    keyless += 1
                elif partition_of(key, cluster.partitions[topic]) != partition:
                    wrong.append(f"{topic}/{partition}")
    if wrong:
        found = f"{len(wrong)} of {sampled} sampled events are not where murmur2 puts their key ({wrong[0]})"
        fix = (
            "a producer uses another partitioner, so a user's events meet different states: set partitioner="
            "murmur2_random (librdkafka), or the default one of the Java client or kafka-python"
        )
        return [Check("partitioner", "fail", found, fix)]
    if keyless:
        fix = "key events by user_id; the worker sends these to the dead letters"
        return [Check("partitioner", "warn", f"{keyless} of {sampled} sampled events have no key", fix)]
    return [Check("partitioner", "ok", f"{sampled} sampled events are where murmur2 puts their keys")]


def _sample(client: Consumer, cluster: Cluster, topic: str) -> list[tuple[bytes | None, int]]:
    partitions = partitions_of(cluster, topic)
    ends = end_offsets(client, partitions)
    firsts = client.beginning_offsets(partitions)
    starts = {p: max(firsts[p], end - _SAMPLE_RECORDS) for p, end in ends.items()}
    return [(record.key, record.partition) for record in read(client, starts, ends)]


def _lag(settings: Settings, cluster: Cluster) -> list[Check]:
    group = settings.worker.app_id
    committed: Mapping[Partition, Any] = {}
    try:
        with admin(settings.broker) as client:
            committed = client.list_group_offsets(group).get(group, {})
    except NoCoordinatorError:
        pass
    except KafkaError as error:
        return [Check("lag", "warn", f"the broker does not tell offsets of {group!r} ({error})", "see /metrics")]
    lag = 0
    with consumer(settings.broker) as client:
        for topic in settings.topics.events:
            if topic not in cluster.partitions:
                continue
            partitions = partitions_of(cluster, topic)
            ends = end_offsets(client, partitions)
            firsts = client.beginning_offsets(partitions)
            for partition, end in ends.items():
                known = committed.get(partition)
                done = known.offset if known is not None and known.offset >= 0 else firsts[partition]
                lag += max(end - done, 0)
    if not committed and lag:
        fix = "start a worker with `headwater worker`"
        return [Check("lag", "warn", f"{lag} events wait and group {group!r} has committed nothing", fix)]
    return [Check("lag", "ok", f"{lag} events between the last commit of {group!r} and the ends of the topics")]


def _model(settings: Settings) -> list[Check]:
    directory = Path(settings.worker.model_dir)
    manifest = load_manifest(directory)
    found = f"{manifest.version}, {manifest.items} items, hashes match ({directory})"
    encoder = OnnxEncoder(directory, providers=settings.worker.provider)
    return [Check("model", "ok", found), _provider(settings, encoder.provider)]


def _provider(settings: Settings, provider: str) -> Check:
    found = f"{provider} is in use (worker.provider is {settings.worker.provider!r})"
    if provider == "CPUExecutionProvider" and settings.worker.provider == "auto" and _GPU_DEVICE.exists():
        return Check("provider", "warn", f"{found} although there is a GPU", "pip install 'headwater[cuda]'")
    return Check("provider", "ok", found)


def _disk(settings: Settings) -> list[Check]:
    directory = Path(settings.worker.data_dir).absolute()
    place = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(place).free
    found = f"{free / (1 << 30):.1f} GiB free at {directory}"
    if free < _DISK_WARN_BYTES:
        status: Status = "fail" if free < _DISK_FAIL_BYTES else "warn"
        return [Check("disk", status, found, "free space, or move worker.data_dir to a larger disk")]
    return [Check("disk", "ok", found)]


def _open_files() -> list[Check]:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= _OPEN_FILES_WARN:
        return [Check("open files", "ok", "no limit" if limit == resource.RLIM_INFINITY else f"limit {limit}")]
    status: Status = "fail" if limit < _OPEN_FILES_FAIL else "warn"
    return [Check("open files", status, f"limit {limit}", f"raise it: ulimit -n {_OPEN_FILES_WARN} or more")]
