"""Memory of a worker over every Complete Journey purchase, on Apache Kafka: ``python -m tests.chaos.long_run``.

Samples the worker's resident memory while all 1,469,307 events pass. Prints one JSON object: the most, and the
slope over the second half of the events; exit status 1 above 1.5 GB.
"""

import argparse
import itertools
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from infra import broker
from models.dataset import complete_journey
from streams.chaos.vitals import rss_mb
from streams.settings import Settings
from tests.integration.harness import (
    Outgoing,
    Producer,
    WorkerProcess,
    committed,
    create_topics,
    new_settings,
    run,
)

_RSS_MAX_MB = 1500
_SLICE = 20_000
_LEAD_EVENTS = 200_000
"""How far production may be ahead of the worker."""
_SAMPLE_S = 1.0


class Sample(NamedTuple):
    """One look at the worker."""

    seconds: float
    events: int
    rss_mb: float


class Sampler(threading.Thread):
    """Looks at a worker until it is stopped."""

    def __init__(self, settings: Settings, worker: WorkerProcess) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self.done = threading.Event()
        self._settings, self._worker = settings, worker

    @property
    def events(self) -> int:
        """Events committed."""
        return self.samples[-1].events if self.samples else 0

    def run(self) -> None:
        started = time.monotonic()
        while not self.done.wait(_SAMPLE_S):
            events = sum(max(offset, 0) for offset in committed(self._settings).values())
            self.samples.append(Sample(time.monotonic() - started, events, rss_mb(self._worker.process.pid)))


def main() -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=None, help="stop after so many (all of them without)")
    parser.add_argument("--kind", choices=["kafka", "embedded"], default="kafka")
    parser.add_argument("--samples", type=Path, help="write every sample there, as JSON lines")
    options = parser.parse_args()
    with broker.start(options.kind, heap="1g") as started, tempfile.TemporaryDirectory() as home:
        settings = new_settings(started.address, Path(home), partitions=8)
        create_topics(settings)
        with WorkerProcess(settings, Path(home)).start() as worker:
            worker.wait_ready()
            sampler = Sampler(settings, worker)
            sampler.start()
            total = _feed(settings, worker, sampler, options.events)
            sampler.done.set()
            sampler.join()
            status = worker.terminate()
    if options.samples:
        options.samples.write_text("".join(json.dumps(sample._asdict()) + "\n" for sample in sampler.samples))
    result = _summary(sampler.samples, total)
    print(json.dumps({"events": total, "exit_status": status, **result}))
    return 0 if not status and (result["rss_max_mb"] or 0) < _RSS_MAX_MB else 1


def _feed(settings: Settings, worker: WorkerProcess, sampler: Sampler, limit: int | None) -> int:
    producer = Producer(settings, round_records=5_000)
    sent, events = 0, _purchases(settings, limit)
    while waiting := list(itertools.islice(events, _SLICE)):
        run(producer.send(waiting))
        sent += len(waiting)
        _wait_for(sent - _LEAD_EVENTS, sampler, worker)
    _wait_for(sent, sampler, worker)
    return sent


def _wait_for(events: int, sampler: Sampler, worker: WorkerProcess) -> None:
    while sampler.events < events:
        assert worker.is_running(), worker.log_tail()
        assert sampler.is_alive(), "the sampler ended"
        time.sleep(_SAMPLE_S / 5)


def _purchases(settings: Settings, limit: int | None) -> Iterator[Outgoing]:
    """In event-time order; record times are of now, since retention would remove records of 2017."""
    purchases = complete_journey()
    for n in range(len(purchases.timestamp_ms) if limit is None else limit):
        user: str = purchases.users[int(purchases.user[n])]
        value = {
            "event_id": f"purchase-{n}",
            "user_id": user,
            "item_id": purchases.items[int(purchases.item[n])],
            "timestamp": int(purchases.timestamp_ms[n]),
        }
        yield Outgoing(settings.topics.purchase, user.encode(), json.dumps(value).encode())


def _summary(samples: list[Sample], total: int) -> dict[str, float | None]:
    second_half = [sample for sample in samples if sample.events >= total / 2]
    events = np.array([sample.events for sample in second_half], np.float64)
    rss = np.array([sample.rss_mb for sample in second_half])
    slope = float(np.polyfit(events, rss, 1)[0]) * 1e6 if len(second_half) > 2 else None
    return {
        "rss_max_mb": round(max(sample.rss_mb for sample in samples), 1),
        "rss_at_half_mb": round(float(rss[0]), 1),
        "rss_at_end_mb": round(float(rss[-1]), 1),
        "slope_mb_per_million_events": slope if slope is None else round(slope, 2),
        "seconds": round(samples[-1].seconds, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
