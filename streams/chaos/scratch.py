"""Topics and a group of a run's own, so that it harms nobody on a broker that is shared."""

import uuid
from pathlib import Path
from typing import Any, Final

from streams.clients import topics
from streams.settings import BrokerSettings, Settings, TopicSettings, WorkerSettings
from streams.topics import changelog_topic

__all__ = ["KAFKA_PROPERTIES", "create_timed_topics", "scratch_settings"]

KAFKA_PROPERTIES: Final = {"group.min.session.timeout.ms": "500"}
"""Of a broker that is started for a run: a killed worker may be missed sooner than after six seconds."""

_WHOLE_MS: Final = 7 * 24 * 3600 * 1000
_TIMED: Final = {
    "message.timestamp.type": "LogAppendTime",
    "min.compaction.lag.ms": str(_WHOLE_MS),
    "max.compaction.lag.ms": str(_WHOLE_MS),
}


def scratch_settings(broker: BrokerSettings, home: Path, *, partitions: int = 4, **worker: Any) -> Settings:
    """Settings with topics and a group that nobody else uses; ``worker`` overrides fields of that section."""
    name = f"t{uuid.uuid4().hex[:8]}"
    fields: dict[str, Any] = {
        "app_id": name,
        "data_dir": str(home / "data"),
        "provider": "cpu",
        "web_port": 0,
        "fetch_wait_ms": 50,
        "session_timeout_s": 6.0,
        "commit_interval_s": 0.2,
        **worker,
    }
    return Settings(
        broker=broker,
        topics=TopicSettings(
            view=f"{name}.view",
            click=f"{name}.click",
            purchase=f"{name}.purchase",
            catalog=f"{name}.catalog",
            recommendations=f"{name}.recommendations",
            dead_letter=f"{name}.dead_letter",
            erase=f"{name}.erase",
            receipts=f"{name}.receipts",
            partitions=partitions,
        ),
        worker=WorkerSettings(**fields),
    )


def create_timed_topics(settings: Settings) -> None:
    """Create the topics; every record bears the broker's time, whoever sent it, and none is compacted away.

    Raises:
        ClientError: the broker does not answer or refuses a topic.
    """
    timed = (*settings.topics.events, settings.topics.recommendations, changelog_topic(settings.worker.app_id))
    topics.create_topics(settings, dict.fromkeys(timed, _TIMED))
