"""Creating and listing the topics."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from streams.clients.errors import ClientError
from streams.clients.kafka import KafkaError, admin, describe_cluster
from streams.settings import Settings
from streams.topics import TopicSpec, topic_specs

__all__ = ["TopicState", "create_topics", "list_topics"]

_TIMEOUT_MS: Final = 15_000
_ALREADY_EXISTS: Final = 36
"""Kafka's error code TOPIC_ALREADY_EXISTS."""
_NO_CONFIGS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType({})


class TopicState(NamedTuple):
    """One topic: how many partitions it should have and has (0: it does not exist)."""

    name: str
    partitions_wanted: int
    partitions: int
    policy: str


def list_topics(settings: Settings) -> list[TopicState]:
    """The topics of Headwater as the broker has them.

    Raises:
        ClientError: the broker does not answer.
    """
    existing = describe_cluster(settings.broker).partitions
    return [_state(spec, existing) for spec in topic_specs(settings.topics, settings.worker.app_id)]


def create_topics(settings: Settings, configs: Mapping[str, Mapping[str, str]] = _NO_CONFIGS) -> list[str]:
    """Create what is missing; returns the names of the created topics. Existing topics stay as they are.

    ``configs`` adds to the configuration of some topics, by name.

    Raises:
        ClientError: the broker does not answer or refuses a topic.
    """
    existing = describe_cluster(settings.broker).partitions
    specs = topic_specs(settings.topics, settings.worker.app_id)
    missing = {
        spec.name: _request(spec, settings, configs.get(spec.name, {})) for spec in specs if spec.name not in existing
    }
    if not missing:
        return []
    try:
        with admin(settings.broker) as client:
            response = client.create_topics(missing, timeout_ms=_TIMEOUT_MS, raise_errors=False)
    except KafkaError as error:
        raise ClientError(f"the broker did not create the topics ({error}); see its log") from error
    refused = [t for t in response["topics"] if t["error_code"] not in (0, _ALREADY_EXISTS)]
    if refused:
        reason = refused[0].get("error_message") or f"error code {refused[0]['error_code']}"
        raise ClientError(
            f"the broker refused topic {refused[0]['name']!r}: {reason};"
            " check topics.partitions, topics.replication and your rights"
        )
    return list(missing)


def _request(spec: TopicSpec, settings: Settings, config: Mapping[str, str]) -> dict[str, Any]:
    return {
        "num_partitions": spec.partitions,
        "replication_factor": settings.topics.replication,
        "configs": {**spec.config, **config},
    }


def _state(spec: TopicSpec, existing: dict[str, int]) -> TopicState:
    return TopicState(
        spec.name, spec.partitions, existing.get(spec.name, 0), spec.config.get("cleanup.policy", "delete")
    )
