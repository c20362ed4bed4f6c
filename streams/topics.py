"""The topics: their configuration, and the checks a worker makes before it starts."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from streams.settings import Settings, TopicSettings

__all__ = ["TABLE_NAME", "TopicSpec", "changelog_topic", "partition_errors", "topic_specs", "transactional_prefix"]

TABLE_NAME: Final = "users"


_COMPACTION_LAG_MS_MAX: Final = 24 * 3600 * 1000
"""How long what a tombstone covers may stay: without a bound Kafka leaves it until half of a log is stale."""
_DEAD_LETTER_BYTES_MAX: Final = 2 * 1024 * 1024


class TopicSpec(NamedTuple):
    """One topic as it should be."""

    name: str
    partitions: int
    config: dict[str, str]


def changelog_topic(app_id: str) -> str:
    """Name of the changelog topic of the user table (Faust's scheme: app id, table, suffix)."""
    return f"{app_id}-{TABLE_NAME}-changelog"


def transactional_prefix(app_id: str) -> str:
    """Beginning of the transactional ids of all workers of ``app_id``."""
    return f"{app_id}-transaction-"


def topic_specs(topics: TopicSettings, app_id: str) -> list[TopicSpec]:
    """Every topic that Headwater reads or writes, the changelog included."""
    delete, compact = {"cleanup.policy": "delete"}, {"cleanup.policy": "compact"}
    forgetting = {**compact, "max.compaction.lag.ms": str(_COMPACTION_LAG_MS_MAX)}
    specs = [TopicSpec(name, topics.partitions, delete) for name in topics.sources]
    specs.append(TopicSpec(topics.catalog, 1, compact))
    specs.append(TopicSpec(topics.recommendations, topics.partitions, forgetting))
    # Room for the headers on top of an original record of the largest size that brokers take by default.
    specs.append(TopicSpec(topics.dead_letter, 1, {**delete, "max.message.bytes": str(_DEAD_LETTER_BYTES_MAX)}))
    specs.append(TopicSpec(changelog_topic(app_id), topics.partitions, forgetting))
    specs.append(TopicSpec(topics.receipts, 1, compact))
    return specs


def partition_errors(settings: Settings, partitions: Mapping[str, int]) -> list[str]:
    """Why a worker must not start on these topics; empty when it may.

    A user's state lives in the partition of the user's key. Were the number of partitions to change,
    or to differ between topics, a user's next event would meet another partition's state.

    Args:
        partitions: topic name -> partition count as the broker has it; missing topics are absent.
    """
    topics = settings.topics
    errors = [
        f"topic {spec.name!r} does not exist: run `headwater topics create`"
        for spec in topic_specs(topics, settings.worker.app_id)
        if spec.name not in partitions
    ]
    if errors:
        return errors
    changelog = changelog_topic(settings.worker.app_id)
    expected = partitions[changelog]
    for name in (*topics.sources, topics.recommendations):
        if partitions[name] != expected:
            errors.append(
                f"topic {name!r} has {partitions[name]} partitions but the state of {settings.worker.app_id!r} was"
                f" built on {expected} ({changelog!r}): users would meet other users' partitions. Restore the count,"
                " or start a new worker.app_id and replay the history into it"
            )
    return errors
