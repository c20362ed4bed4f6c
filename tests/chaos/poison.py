"""Bad records among good ones, on Apache Kafka: ``python -m tests.chaos.poison``.

Each bad record must become exactly one dead letter with its original bytes, the worker must not restart, and
every user must be exact. The same good events without the bad ones are measured beside it: how much slower are
they? The stream is cut into rounds, each with a worker of its own for the clean and the poisoned half, in changing
order, so that what else the machine does falls on both. Prints one JSON object; exit status 1 when something is wrong.
"""

import argparse
import hashlib
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from infra import broker
from models.runtime import DEFAULT_ARTEFACT
from streams.chaos.readback import records_of
from streams.chaos.scratch import create_timed_topics
from streams.chaos.vitals import cpu_s
from streams.settings import Settings
from tests.integration.bad_records import make_bad_records
from tests.integration.harness import (
    Outgoing,
    Place,
    Producer,
    WorkerProcess,
    new_settings,
    read_topic,
    run,
    wait_settled,
)
from tests.integration.oracle import Oracle, final_states, make_events, note

_SLICE = 50_000
_ITEMS = json.loads((DEFAULT_ARTEFACT / "vocabulary.json").read_text())[1:2000]


class _Share(NamedTuple):
    """One round's part of the stream."""

    good: int
    bad: int
    users: int
    seed: int


def main() -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bad", type=int, default=10_000)
    parser.add_argument("--good", type=int, default=990_000)
    parser.add_argument("--rounds", type=int, default=4, help="parts of the stream, clean and poisoned by turns")
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=["kafka", "embedded"], default="kafka")
    options = parser.parse_args()
    with broker.start(options.kind, heap="1g") as started, tempfile.TemporaryDirectory() as home:
        rounds = [_round(started.address, Path(home) / f"{n}", options, n) for n in range(options.rounds)]
    parts = [part for each in rounds for part in each.values()]
    ok = all(part["ok"] for part in parts)
    totals = {name: sum(part[name] for part in parts) for name in ("bad", "dead_letters", "missing", "doubled")}
    ratios = {
        "slower_percent": _spread(
            [1 - each["poisoned"]["good_per_s"] / each["clean"]["good_per_s"] for each in rounds]
        ),
        "more_cpu_percent": _spread(
            [each["poisoned"]["cpu_us_per_good"] / each["clean"]["cpu_us_per_good"] - 1 for each in rounds]
        ),
    }
    print(json.dumps({"ok": ok, **totals, **ratios, "rounds": rounds}))
    return 0 if ok else 1


def _spread(shares: Sequence[float]) -> dict[str, float]:
    """Of all rounds, in percent."""
    of_rounds = {"median": statistics.median(shares), "least": min(shares), "most": max(shares)}
    return {name: round(100 * share, 1) for name, share in of_rounds.items()}


def _round(address: str, home: Path, options: argparse.Namespace, number: int) -> dict[str, dict[str, Any]]:
    """The same good events without and with bad ones among them, the one or the other first by turns."""
    share = _Share(options.good // options.rounds, options.bad // options.rounds, options.users, options.seed + number)
    orders = {"clean": share._replace(bad=0), "poisoned": share}
    names = sorted(orders, reverse=number % 2 == 1)
    return {name: _measured(address, home / name, orders[name]) for name in names}


def _measured(address: str, home: Path, share: _Share) -> dict[str, Any]:
    home.mkdir(parents=True)
    settings = new_settings(address, home, partitions=8)
    create_timed_topics(settings)
    print(f"{home.parent.name} {home.name}: {share.good} good, {share.bad} bad", file=sys.stderr)
    return _run(settings, home, share)


def _run(settings: Settings, home: Path, share: _Share) -> dict[str, Any]:
    oracle = Oracle(settings.topics.events)
    digests: dict[Place, bytes] = {}
    _produce(settings, share, oracle, digests)
    with WorkerProcess(settings, home).start() as worker:
        used_s = -cpu_s(worker.wait_ready().process.pid)
        wait_settled(settings, oracle.ends, 3_600, [worker])
        used_s += cpu_s(worker.process.pid)
        status = worker.terminate()
        restarts = worker.log().count(b"Executing _on_partitions_assigned") - 1
    seconds = _stretch_s(settings)
    verdict = oracle.judge(final_states(settings), late_allowed=True)
    letters = read_topic(settings, settings.topics.dead_letter, 1, timeout_s=1_800)
    doubled = altered = 0
    codes: dict[str, int] = {}
    for letter in letters:
        headers = dict(letter.headers)
        place = Place(headers["dl_topic"].decode(), int(headers["dl_partition"]), int(headers["dl_offset"]))
        codes[headers["dl_code"].decode()] = codes.get(headers["dl_code"].decode(), 0) + 1
        expected = digests.pop(place, None)
        if expected is None:
            doubled += 1
        elif expected != _digest(letter.key, letter.value, headers.get("trace")):
            altered += 1
    missing = len(digests)
    exact = (verdict.lost, verdict.doubled, len(verdict.wrong)) == (0, 0, 0)
    return {
        "ok": exact and not (missing or doubled or altered or status or restarts),
        "bad": share.bad,
        "good": share.good,
        "seconds": round(seconds, 2),
        "good_per_s": round(share.good / seconds),
        "cpu_us_per_good": round(1e6 * used_s / share.good, 2),
        "dead_letters": len(letters),
        "missing": missing,
        "doubled": doubled,
        "altered": altered,
        "codes": codes,
        "exit_status": status,
        "restarts": restarts,
        "users_wrong": len(verdict.wrong),
        "late": verdict.late,
        "first_wrong": verdict.wrong[:3],
    }


def _stretch_s(settings: Settings) -> float:
    """From the first list to the last, by the broker's clock."""
    times_ms = [record.timestamp for record in records_of(settings, settings.topics.recommendations)]
    return (max(times_ms) - min(times_ms)) / 1000


def _produce(settings: Settings, share: _Share, oracle: Oracle, digests: dict[Place, bytes]) -> None:
    rng = random.Random(share.seed)
    producer = Producer(settings, round_records=5_000)
    total = share.bad + share.good
    good_made = 0
    for start in range(0, total, _SLICE):
        size = min(_SLICE, total - start)
        good = min(share.good * (start + size) // total - good_made, size)
        events = make_events(settings, rng, good, share.users, _ITEMS, first=good_made)
        good_made += good
        bad = make_bad_records(settings, rng, size - good)
        mixed = _mixed(rng, events, bad)
        placed = list(zip(mixed, run(producer.send([record for record, _ in mixed]), 600), strict=True))
        note(oracle, [r for (r, is_good), _ in placed if is_good], [p for (_, is_good), p in placed if is_good])
        for (record, is_good), place in placed:
            if not is_good:
                oracle.note_end(place)
                digests[place] = _digest(record.key, record.value, record.headers[0][1])


def _mixed(rng: random.Random, events: list[Outgoing], bad: list[Outgoing]) -> list[tuple[Outgoing, bool]]:
    """Both kinds in random places, the events in order; a bad record has the record time of the event before it."""
    is_good = [True] * len(events) + [False] * len(bad)
    rng.shuffle(is_good)
    good, rest, mixed, time_ms = iter(events), iter(bad), list[tuple[Outgoing, bool]](), events[0].timestamp_ms
    for each in is_good:
        record = next(good) if each else next(rest)._replace(timestamp_ms=time_ms)
        time_ms = record.timestamp_ms
        mixed.append((record, each))
    return mixed


def _digest(key: bytes | None, value: bytes | None, trace: bytes | None) -> bytes:
    return hashlib.blake2b(repr((key, value, trace)).encode(), digest_size=16).digest()


if __name__ == "__main__":
    sys.exit(main())
