"""Which topics the states were made of: a topic that is deleted and made anew is another one (KIP-516).

An event topic's offsets begin at 0 again, which every state's fence holds for known: all its events would count as
duplicates. A changelog that was made anew lacks what was in the one before. So the broker's ids of both stand in the
changelog, once for each partition of states, and other ids are a refusal. A running worker looks for them now and then.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec

from operators import limits
from streams.clients.errors import ClientError
from streams.clients.kafka import KafkaError, topic_ids
from streams.settings import Settings
from streams.topics import changelog_topic, topic_specs

__all__ = ["SOURCES_KEY", "SourceError", "Sources", "TopicWatch", "compare", "require_known", "sources_of"]

SOURCES_KEY: Final = b"\x00sources"
"""Of the record in the changelog; ids hold no control character, so no user has this key."""
_encode: Final = msgspec.json.Encoder(order="sorted").encode
_decode: Final = msgspec.json.Decoder(dict[str, str]).decode
_CONFIRM_S: Final = 1.0
"""Between the look that misses a topic and the one that is believed: a broker may be about to learn its topics."""
_ANEW: Final = (
    "Set a new worker.app_id, run `headwater topics create` and start again: the states are then built anew from the"
    " event topics, as far as those go back"
)

Sources = Mapping[str, str]
"""Topic -> the broker's id of it; topics without one, which old brokers give, are left out."""


class SourceError(RuntimeError):
    """A topic is not the one that the states were made of, or is gone."""


def sources_of(settings: Settings) -> Sources:
    """The ids of the event topics and of the changelog, where they exist.

    Raises:
        ClientError: the broker does not answer.
    """
    topics = (*settings.topics.sources, changelog_topic(settings.worker.app_id))
    return {topic: topic_id for topic, topic_id in topic_ids(settings.broker, topics).items() if topic_id}


def compare(stored: bytes | None, sources: Sources) -> bytes | None:
    """What is to be stored in the place of ``stored``; None where nothing has changed.

    Raises:
        SourceError: a topic has another id than then.
        ValueError: ``stored`` is damaged (msgspec's own error).
    """
    known: Sources = {} if stored is None else _decode(stored)
    for topic, topic_id in sources.items():
        if known.get(topic, topic_id) != topic_id:
            raise _made_anew(topic)
    following = _encode({**known, **sources})
    return None if following == stored or not sources else following


def require_known(stored: bytes | None, sources: Sources, partition: int) -> None:
    """Refuse states that name no source, of a partition of which events were committed: they were in the changelog.

    Raises:
        SourceError: the changelog is not the one that they were in, or was emptied.
    """
    if stored is None and sources:
        raise SourceError(
            f"the group has committed events of partition {partition}, and the changelog holds no state that was made"
            f" of them: it was deleted or emptied. {_ANEW}"
        )


class TopicWatch:
    """Looks now and then whether the topics of a running worker are still the ones that it started on.

    Its clients do not tell: a consumer goes on with the other topics, or at offset 0 of the new one, and a producer
    looks for a topic for a minute before it gives up.
    """

    def __init__(self, settings: Settings, sources: Sources) -> None:
        """``sources``: those at the start."""
        self._broker = settings.broker
        self._topics = [spec.name for spec in topic_specs(settings.topics, settings.worker.app_id)]
        self._states_of = {*settings.topics.sources, changelog_topic(settings.worker.app_id)}
        self._sources = sources

    async def run(self) -> None:
        """Look until a topic is another one or gone.

        Raises:
            SourceError: it is; the message says what to do.
        """
        missed = False
        while True:
            await asyncio.sleep(_CONFIRM_S if missed else limits.topics_look_s)
            try:
                found = await asyncio.to_thread(topic_ids, self._broker, self._topics)
            except (ClientError, KafkaError, OSError):
                continue  # of a broker that is away, whose topics nobody knows
            error = self.error(found)
            if error is not None and missed:
                raise error
            missed = error is not None

    def error(self, found: Mapping[str, str]) -> SourceError | None:
        """What is wrong with these topics and ids; None for nothing."""
        for topic in self._topics:
            known = self._sources.get(topic)
            if topic not in found:
                return self._deleted(topic)
            if known is not None and found[topic] not in ("", known):
                return _made_anew(topic)
        return None

    def _deleted(self, topic: str) -> SourceError:
        if topic in self._states_of:
            return SourceError(f"topic {topic!r}, of which the states are made, was deleted. {_ANEW}")
        return SourceError(
            f"topic {topic!r} was deleted; nothing of the batch in work was acknowledged. Make it again with"
            " `headwater topics create` and start again"
        )


def _made_anew(topic: str) -> SourceError:
    return SourceError(
        f"topic {topic!r} was deleted and made anew: the states are made of the one before, and would take new records"
        f" for known. {_ANEW}"
    )
