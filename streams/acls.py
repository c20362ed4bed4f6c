"""The access rights that each role needs, and nothing beyond them: worker, producer, catalog, reader, eraser."""

from typing import Final, Literal, NamedTuple

from streams.settings import Settings
from streams.topics import changelog_topic, transactional_prefix

__all__ = ["ROLES", "Grant", "Role", "grants"]

Role = Literal["worker", "producer", "catalog", "reader", "eraser"]
ROLES: Final[tuple[Role, ...]] = ("worker", "producer", "catalog", "reader", "eraser")


class Grant(NamedTuple):
    """One operation on one resource; ``read`` and ``write`` imply the right to describe it."""

    operation: Literal["read", "write"]
    resource: Literal["topic", "group", "transactional_id"]
    name: str
    """Of the resource; of a transactional id the beginning, which its worker completes."""


def grants(settings: Settings, role: Role) -> list[Grant]:
    """What a principal of ``role`` must be allowed.

    A worker reads events and catalogue, keeps its state in the changelog, publishes and commits (in transactions,
    where ``worker.delivery`` asks for them); ``headwater doctor`` needs the same. A producer writes events, a catalog
    writer items. A reader is ``watch`` (lists, and titles from the catalogue) and ``inspect`` (lists and changelog).
    An eraser asks for erasures and reads their receipts. Topics are created by a user who may do that.
    """
    topics, group = settings.topics, settings.worker.app_id
    changelog = changelog_topic(group)
    in_transactions = settings.worker.delivery == "exactly_once"
    if role == "producer":
        return [Grant("write", "topic", name) for name in topics.events]
    if role == "catalog":
        return [Grant("write", "topic", topics.catalog)]
    if role == "reader":
        return [Grant("read", "topic", name) for name in (topics.recommendations, topics.catalog, changelog)]
    if role == "eraser":
        return [Grant("write", "topic", topics.erase), Grant("read", "topic", topics.receipts)]
    read = (*topics.sources, topics.catalog, changelog)
    written = (topics.recommendations, topics.dead_letter, topics.receipts, changelog)
    return [
        *(Grant("read", "topic", name) for name in read),
        *(Grant("write", "topic", name) for name in written),
        Grant("read", "group", group),
        *([Grant("write", "transactional_id", transactional_prefix(group))] if in_transactions else []),
    ]
