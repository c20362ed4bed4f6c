"""``headwater bench peers``: the same purchases, encoder, exact top 10 and broker under other frameworks.

A framework runs in a virtual environment of its own, which ``--install`` makes under a cache directory: their pins
clash with ours. What is not installed there comes from the environment of this command.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from infra.broker import BrokerKind
from streams.bench.history import SETTINGS as HISTORY_SETTINGS
from streams.bench.lab import (
    PURCHASE,
    Backlog,
    BenchError,
    Lab,
    Process,
    backlog_of,
    fill_topics,
    laboratory,
    python,
    read_purchases,
    subprocess_environment,
)
from streams.bench.peers.job import JobName, PeerConfig
from streams.bench.runs import HISTORY_WORKER, Measured, read_back, run_headwater
from streams.bench.summary import machine, setting, spread_of, versions
from streams.topics import TopicSpec, changelog_topic

__all__ = ["PEERS", "REQUIREMENTS", "Peer", "PeersOptions", "install", "run", "show"]

REQUIREMENTS: Final[Mapping[str, str]] = {
    "peer-quix": "quixstreams>=3.28,<4",
    "peer-bytewax": "bytewax[kafka]>=0.21,<0.22",
    "peer-pathway": "pathway>=0.33,<0.34",
}
"""Extra -> what it brings; the same as in pyproject.toml."""

_SETTLED_S: Final = 2.5
_POLL_S: Final = 0.5
_STALL_S_MAX: Final = 60.0
_RATIOS: Final = 2

Echo = Callable[[str], object]


class Peer(NamedTuple):
    """A contender: how it is called, the module that runs it, and where its package is."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    extra: str | None = None
    package: str = "faust-streaming"
    one_at_a_time: bool = True
    survives: str = "changelog topic"
    """What its state is restored from."""


PEERS: Final = (
    Peer("naive Faust agent", "streams.bench.peers.naive"),
    Peer("quixstreams, exactly once", "streams.bench.peers.quix", extra="peer-quix", package="quixstreams"),
    Peer(
        "bytewax, stateful map",
        "streams.bench.peers.bytewax_flow",
        ("map",),
        "peer-bytewax",
        "bytewax",
        survives="snapshots on disk",
    ),
    Peer(
        "bytewax, stateful batch",
        "streams.bench.peers.bytewax_flow",
        ("batch",),
        "peer-bytewax",
        "bytewax",
        one_at_a_time=False,
        survives="snapshots on disk",
    ),
    Peer(
        "Pathway, stateful reducer",
        "streams.bench.peers.pathway_flow",
        extra="peer-pathway",
        package="pathway",
        one_at_a_time=False,
        survives="its input on disk, run again",
    ),
    Peer(
        "bare confluent-kafka and rocksdict",
        "streams.bench.peers.bare",
        package="confluent-kafka",
        one_at_a_time=False,
        survives="the same disk only",
    ),
)


@dataclass(frozen=True, slots=True)
class PeersOptions:
    """What to measure; ``naive_events`` are those of contenders that take an event at a time."""

    job: JobName = "encoder"
    events: int = 240_000
    naive_events: int = 6_000
    rounds: int = 2
    broker: BrokerKind = "kafka"
    partitions: int = 8
    cache: Path = Path.home() / ".cache" / "headwater" / "peers"


def install(options: PeersOptions, echo: Echo) -> None:
    """Make the virtual environments; one that is there stays as it is.

    Raises:
        BenchError: pip fails.
    """
    for extra, requirement in REQUIREMENTS.items():
        home = options.cache / extra
        if (home / "installed").exists():
            continue
        echo(f"installing {requirement} in {home}")
        try:
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, capture_output=True)
            subprocess.run(
                [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", requirement],
                check=True,
                capture_output=True,
            )
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
            raise BenchError(f"{requirement} cannot be installed in {home}: {said[0]}") from error
        # After what the framework brings comes what we have: the model's runtime and the records' codec.
        (packages,) = home.glob("lib/python*/site-packages")
        ours = [path for path in sys.path if path.endswith("site-packages")]
        (packages / "headwater-peer.pth").write_text("\n".join(ours) + "\n")
        (home / "installed").touch()


def run(options: PeersOptions, echo: Echo) -> dict[str, Any]:
    """Measure; the result is what ``--json`` prints. A framework that is not installed is told as absent.

    Raises:
        BenchError: an option that cannot be measured with, or a run that failed.
        BrokerError: the broker does not start.
        ModelError: the data set or the model is missing.
    """
    if options.rounds < 1 or min(options.events, options.naive_events) < 1:
        raise BenchError("--rounds, --events and --naive-events must be 1 or more")
    echo(f"reading {options.events} purchases")
    purchases = read_purchases(max(options.events, options.naive_events))
    backlogs = {
        one_at_a_time: backlog_of(f"peers-{int(one_at_a_time)}", purchases[:count], options.partitions)
        for one_at_a_time, count in ((False, options.events), (True, options.naive_events))
    }
    present = [peer for peer in PEERS if _interpreter(peer, options.cache) is not None]
    rates: dict[str, list[dict[str, float]]] = {}
    failed: dict[str, str] = {}
    with laboratory(options.broker) as lab:
        echo(f"{options.broker} broker on {lab.address}; filling the topics")
        for backlog in backlogs.values():
            asyncio.run(fill_topics(lab, backlog))
        for number in range(1, options.rounds + 1):
            rates.setdefault("headwater", []).append(_headwater(lab, backlogs[False], options, number, echo))
            for peer in present:
                if peer.name in failed:
                    continue
                try:
                    figures = asyncio.run(_run_peer(lab, peer, backlogs[peer.one_at_a_time], options, number))
                except BenchError as error:
                    failed[peer.name] = str(error)
                    echo(f"round {number}: {peer.name} failed: {error}")
                    continue
                rates.setdefault(peer.name, []).append(figures)
                echo(f"round {number}: {peer.name} {figures['events_per_s']:,.0f} events/s")
    return {
        "job": options.job,
        "contenders": [_summary(name, of_peer, rates["headwater"]) for name, of_peer in rates.items()],
        "absent": [peer.name for peer in PEERS if peer not in present],
        "failed": failed,
        "events": options.events,
        "naive_events": options.naive_events,
        "rounds": options.rounds,
        "partitions": options.partitions,
        "broker": options.broker,
        "machine": machine(),
        "versions": versions(options.broker),
    }


def _headwater(lab: Lab, backlog: Backlog, options: PeersOptions, number: int, echo: Echo) -> dict[str, float]:
    name = f"peers-headwater-{number}"
    if options.job == "state":
        measured = asyncio.run(run_headwater(lab, backlog, name, settings=HISTORY_SETTINGS, code=HISTORY_WORKER))
    else:
        measured = asyncio.run(run_headwater(lab, backlog, name))
    figures = _figures(measured, backlog)
    echo(f"round {number}: headwater {figures['events_per_s']:,.0f} events/s")
    return figures


async def _run_peer(lab: Lab, peer: Peer, backlog: Backlog, options: PeersOptions, number: int) -> dict[str, float]:
    name = f"peer-{PEERS.index(peer)}-{number}"
    config = await _prepare(lab, peer, backlog, options, name)
    lab.settle()
    with lab.running(name, _command(peer, config, options.cache), subprocess_environment({})) as process:
        return _figures(await _wait_for_lists(lab, config.recommendations, backlog, process), backlog)


async def _prepare(lab: Lab, peer: Peer, backlog: Backlog, options: PeersOptions, name: str) -> PeerConfig:
    partitions = len(backlog.records)
    lists = f"{name}-lists"
    specs = [TopicSpec(lists, partitions, {"cleanup.policy": "delete", **lab.list_config})]
    if peer.package == "faust-streaming":
        specs.append(TopicSpec(changelog_topic(name), partitions, {"cleanup.policy": "compact"}))
    await lab.create(specs)
    topic = backlog.topics[PURCHASE]
    return PeerConfig(name, lab.address, topic, lists, partitions, str(lab.home / name), job=options.job)


def _command(peer: Peer, config: PeerConfig, cache: Path) -> list[str]:
    interpreter = str(_interpreter(peer, cache))
    return [interpreter, *python("-m", peer.module, msgspec.json.encode(config).decode(), *peer.arguments)[1:]]


async def _wait_for_lists(lab: Lab, topic: str, backlog: Backlog, process: Process) -> Measured:
    """The lists, when every event has one.

    Raises:
        BenchError: the process ended, or nothing came for a long time and events are missing.
    """
    count, since = 0, time.monotonic()
    while True:
        await asyncio.sleep(_POLL_S)
        ends = await lab.ends(topic, len(backlog.records))
        if ends != count:
            count, since = ends, time.monotonic()
        idle = time.monotonic() - since
        if count and idle > _SETTLED_S:
            try:
                return await read_back(lab, backlog, topic)
            except BenchError:
                if idle > _STALL_S_MAX:
                    raise
        if not process.is_running:
            raise BenchError(f"it ended; its log ends: {process.log_tail()}")
        if idle > _STALL_S_MAX:
            raise BenchError(f"no list for {_STALL_S_MAX:g} s after {count}; its log ends: {process.log_tail()}")


def _figures(measured: Measured, backlog: Backlog) -> dict[str, float]:
    """From the first list made to the last in the topic; start-up and join are outside.

    Frameworks flush in bursts of their own, so that the time between two appends, which ``bench pipeline`` takes, says
    little here.
    """
    lists = measured.lists
    began_ms = min(listed.generated_at_ms for listed in lists)
    seconds = max(max(listed.appended_ms for listed in lists) - began_ms, 1) / 1000
    return {"events_per_s": backlog.events / seconds, "lists_per_s": len(lists) / seconds}


def _interpreter(peer: Peer, cache: Path) -> Path | None:
    if peer.extra is None:
        return Path(sys.executable) if peer.package in versions("none") else None
    home = cache / peer.extra
    return home / "bin" / "python" if (home / "installed").exists() else None


def _summary(
    name: str, rounds: Sequence[Mapping[str, float]], headwater: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    peer = next((peer for peer in PEERS if peer.name == name), None)
    found: dict[str, Any] = {"name": name, "survives_by": "changelog topic" if peer is None else peer.survives}
    for figure in ("events_per_s", "lists_per_s"):
        found[figure] = round(median(each[figure] for each in rounds))
        found[f"{figure}_spread"] = spread_of([each[figure] for each in rounds])
    paired = [ours["events_per_s"] / theirs["events_per_s"] for ours, theirs in zip(headwater, rounds, strict=False)]
    found["ratio_headwater"] = round(median(paired), _RATIOS)
    found["ratio_headwater_spread"] = spread_of(paired)
    return found


def show(result: Mapping[str, Any]) -> None:
    """The figures as a table on standard output."""
    table = Table("", "events/s", "lists/s", "Headwater is", "state survives by", box=None, pad_edge=False)
    for each in result["contenders"]:
        cells = [
            f"{each[name]:,} ({each[f'{name}_spread']['min']:,} to {each[f'{name}_spread']['max']:,})"
            for name in ("events_per_s", "lists_per_s")
        ]
        table.add_row(each["name"], *cells, f"{each['ratio_headwater']:g} times", each["survives_by"])
    console = Console(highlight=False, soft_wrap=True, width=130)
    console.print(table)
    for name in result["absent"]:
        console.print(f"absent: {name}; headwater bench peers --install")
    for name, reason in result["failed"].items():
        console.print(f"no figure: {name}: {reason}")
    console.print(f"job {result['job']}: {setting(result)}")
