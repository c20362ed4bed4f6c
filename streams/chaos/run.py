"""``headwater chaos``: events flow, faults come on schedule, and in the end every user is judged."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from streams.chaos.faults import injected
from streams.chaos.judge import Judged, judge
from streams.chaos.load import Load
from streams.chaos.network import why_no_networks
from streams.chaos.pauses import Occurrence
from streams.chaos.report import Report, report_of
from streams.chaos.schedule import Fault, FaultKind, drawn_faults
from streams.chaos.stage import Stage, staged
from streams.clients.errors import ClientError, InputError
from streams.clients.kafka import KafkaError, Partition, admin, consumer
from streams.clients.reading import end_offsets
from streams.clock import now_ms
from streams.settings import BrokerSettings, Delivery, Settings
from streams.worker_process import WorkerProcess

__all__ = ["ChaosOptions", "judged_in_the_end", "planned", "run"]

_STALL_S_MAX: Final = 180.0
"""Without a commit: a backlog takes as long as the machine needs, and no longer."""
_POLL_S: Final = 0.3
_CALM_S: Final = 3.0
"""Load before the first fault and after the last one."""

Echo = Callable[[str], object]


class ChaosOptions(NamedTuple):
    """One run."""

    seed: int = 1
    counts: Mapping[FaultKind, int] = MappingProxyType({"kill": 10})
    minutes: float | None = None
    """Repeat the faults until the schedule is that long."""
    workers: int = 2
    users: int = 500
    events_per_s: float = 500.0
    session_timeout_s: float = 6.0
    delivery: Delivery = "at_least_once"
    given_broker: BrokerSettings | None = None
    """None for an Apache Kafka of the run's own."""
    home: Path | None = None
    """An empty directory for logs and data, which stays; None for a temporary one."""


def planned(options: ChaosOptions) -> list[Fault]:
    """The schedule of a run.

    Raises:
        InputError: it asks for what this machine or broker cannot give.
    """
    ours = [kind for kind in options.counts if kind.startswith(("broker", "network")) and options.counts[kind]]
    if ours and options.given_broker is not None:
        raise InputError(f"{', '.join(ours)}: the broker of HEADWATER_BROKER is not ours to harm; unset it for these")
    if any(kind.startswith("network") for kind in ours) and (reason := why_no_networks()):
        raise InputError(f"no network faults here: {reason}")
    return drawn_faults(
        options.seed,
        options.counts,
        workers=options.workers,
        session_timeout_s=options.session_timeout_s,
        minutes=options.minutes,
    )


def run(options: ChaosOptions, echo: Echo) -> Report:
    """Run the schedule and judge; ``echo`` gets a line of progress before every step.

    Raises:
        BrokerError, ClientError: something did not start, or did not settle in the end.
        InputError: see ``planned``.
    """
    faults = planned(options)
    began = time.monotonic()
    # Small batches and eager commits, so that at any moment a batch is half settled.
    with staged(
        options.given_broker,
        workers=options.workers,
        networks=any(fault.kind.startswith("network") for fault in faults),
        home=options.home,
        echo=echo,
        session_timeout_s=options.session_timeout_s,
        delivery=options.delivery,
        batch_events_max=100,
        commit_interval_s=0.02,
    ) as stage:
        with Load(
            stage.settings, options.seed, users=options.users, events_per_s=options.events_per_s, types=(0, 1, 2)
        ) as load:
            occurrences = _play(stage, load, faults, echo)
            load.finish()
        judged = judged_in_the_end(stage, load, echo)
    return report_of(
        options.seed,
        options.workers,
        options.session_timeout_s,
        occurrences,
        judged,
        deaths=stage.deaths,
        seconds=time.monotonic() - began,
    )


def _play(stage: Stage, load: Load, faults: Sequence[Fault], echo: Echo) -> list[Occurrence]:
    """Every fault in turn; between them whatever worker ended by itself is started again at once."""
    occurrences: list[Occurrence] = []
    began = time.monotonic()
    _pass(stage, _CALM_S)
    for number, fault in enumerate(faults, 1):
        _pass(stage, fault.after_s)
        load.check()
        echo(f"{time.monotonic() - began:7.1f} s  {number}/{len(faults)}  {_described(fault)}")
        began_ms = now_ms()
        with injected(stage, fault):
            time.sleep(fault.lasts_s)
        occurrences.append(Occurrence(fault, began_ms, now_ms()))
    _pass(stage, _CALM_S)
    return occurrences


def _pass(stage: Stage, seconds: float) -> None:
    """Let time pass without a fault, as an orchestrator would see it."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        stage.revive()
        time.sleep(min(left, _POLL_S))
    stage.revive()


def _described(fault: Fault) -> str:
    where = "" if fault.kind.startswith("broker") else f" of worker {fault.worker}"
    disk = (", disk wiped" if fault.wiped else ", disk kept") if fault.kind == "kill" else ""
    return f"{fault.kind}{where} for {fault.lasts_s:.1f} s{disk}"


def judged_in_the_end(stage: Stage, load: Load, echo: Echo) -> Judged:
    """Wait until everything is settled, stop the workers, and judge.

    Raises:
        ClientError: nothing is settled any more, or a worker does not end well.
    """
    echo(f"{load.sent} events; waiting until they are settled")
    _settle(stage)
    stage.revive()
    for worker in stage.workers:
        if status := _stopped(stage, worker):
            raise ClientError(f"{worker.name} ended with status {status}: {worker.last_words()}")
    judged = judge(stage, load, echo)
    if judged.problems:
        stage.keep_files()
    return judged


def _stopped(stage: Stage, worker: WorkerProcess) -> int:
    """Its status, asked to end. One that hears only now that it was fenced is started again, and asked once more."""
    try:
        return worker.wait_ready().terminate()
    except ClientError:
        if worker.is_running():
            raise
        stage.start_again(worker)
        return worker.wait_ready().terminate()


def _settle(stage: Stage) -> None:
    """Return when the group has committed every event; workers that end are started again.

    Raises:
        ClientError: for a long time nothing was committed.
    """
    settings = stage.settings
    partitions = [
        Partition(topic, number) for topic in settings.topics.events for number in range(settings.topics.partitions)
    ]
    with consumer(settings.broker) as client:
        ends = end_offsets(client, partitions)
    before, moved_at = None, time.monotonic()
    while behind := _behind(settings, ends):
        if behind != before:
            before, moved_at = behind, time.monotonic()
        if time.monotonic() - moved_at > _STALL_S_MAX:
            tails = "; ".join(f"{worker.name}: {worker.last_words()}" for worker in stage.workers)
            raise ClientError(f"for {_STALL_S_MAX:g} s nothing was committed (has, wants): {behind}; {tails}")
        stage.revive()
        time.sleep(_POLL_S)


def _behind(settings: Settings, ends: Mapping[Partition, int]) -> dict[Partition, tuple[int, int]]:
    try:
        with admin(settings.broker) as client:
            offsets: Mapping[Partition, Any] = client.list_group_offsets(settings.worker.app_id)[settings.worker.app_id]
    except KafkaError:  # of a coordinator that is still loading
        offsets = {}
    committed = {tp: offsets[tp].offset if tp in offsets else 0 for tp in ends}
    return {tp: (committed[tp], end) for tp, end in ends.items() if committed[tp] < end}
