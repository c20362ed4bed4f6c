"""The installed peers of ``headwater bench peers``, each killed between two halves. By hand: CI has no frameworks."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from streams.bench.lab import PURCHASE, Backlog, Lab, backlog_of, fill_topics, read_purchases, subprocess_environment
from streams.bench.peers.contest import PEERS, Peer, PeersOptions, _command, _interpreter, _prepare
from streams.bench.peers.job import decode_interaction
from streams.bench.wire_list import WireList

EVENTS = 1_200
PARTITIONS = 4
LIST_ITEMS = 10
ALL_LISTS_S_MAX = 120.0
SETTLED_S = 25.0
"""bytewax takes a snapshot every 10 s, Faust and quixstreams commit more often."""

OPTIONS = PeersOptions(job="state", partitions=PARTITIONS)


class _Item(msgspec.Struct):
    item_id: str


class _List(WireList):
    user_id: str
    items: list[_Item]


class _Lists(NamedTuple):
    last: dict[str, list[str]]
    """Each user's items in the list of the newest event."""
    causes: Counter[tuple[int, int]]


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.parametrize("peer", PEERS, ids=[peer.name for peer in PEERS])
def test_state_survives_a_kill_and_nothing_is_done_again(kafka: str, tmp_path: Path, peer: Peer) -> None:
    if _interpreter(peer, OPTIONS.cache) is None:
        pytest.skip("not installed; headwater bench peers --install")
    name = f"survives-{PEERS.index(peer)}-{time.time_ns()}"
    backlog = backlog_of(name, read_purchases(EVENTS), PARTITIONS)
    made = asyncio.run(_killed_half_way(Lab("kafka", kafka, tmp_path), peer, name, backlog))
    assert made.last == _newest_items(backlog)
    assert max(made.causes.values()) == 1


async def _killed_half_way(lab: Lab, peer: Peer, name: str, backlog: Backlog) -> _Lists:
    halves = [len(part) // 2 for part in backlog.records]
    before = [part[:half] for part, half in zip(backlog.records, halves, strict=True)]
    after = [part[half:] for part, half in zip(backlog.records, halves, strict=True)]
    await fill_topics(lab, Backlog(backlog.topics, before, sum(halves)))
    config = await _prepare(lab, peer, backlog, OPTIONS, name)
    command = _command(peer, config, OPTIONS.cache)
    with lab.running(f"{name}-before", command, subprocess_environment({})) as process:
        await _wait_for_lists(lab, config.recommendations, sum(halves))
        await asyncio.sleep(SETTLED_S)
        os.kill(process.pid, signal.SIGKILL)
    await lab.fill(backlog.topics[PURCHASE], after)
    with lab.running(f"{name}-after", command, subprocess_environment({})):
        return await _wait_for_lists(lab, config.recommendations, backlog.events)


async def _wait_for_lists(lab: Lab, topic: str, events: int) -> _Lists:
    deadline = time.monotonic() + ALL_LISTS_S_MAX
    while True:
        made = _lists_of(await lab.read(topic, PARTITIONS))
        if len(made.causes) == events:
            return made
        assert time.monotonic() < deadline, f"of {events} events {len(made.causes)} have a list"
        await asyncio.sleep(0.5)


def _lists_of(records: Sequence[Any]) -> _Lists:
    newest: dict[str, tuple[int, list[str]]] = {}
    causes: Counter[tuple[int, int]] = Counter()
    for record in records:
        made = msgspec.json.decode(record.value, type=_List)
        causes.update((cause.partition, cause.offset) for cause in made.caused_by)
        offset = made.caused_by[-1].offset
        if offset >= newest.get(made.user_id, (-1,))[0]:
            newest[made.user_id] = offset, [item.item_id for item in made.items]
    return _Lists({user: items for user, (_, items) in newest.items()}, causes)


def _newest_items(backlog: Backlog) -> dict[str, list[str]]:
    items: dict[str, list[str]] = {}
    for number, part in enumerate(backlog.records):
        for record in part:
            event = decode_interaction(record.value, number, record.offset)
            items.setdefault(record.key.decode(), []).insert(0, event.item_id)
    return {user: newest[:LIST_ITEMS] for user, newest in items.items()}
