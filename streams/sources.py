"""Which event topics the states were made of: a topic that is deleted and made anew is another one (KIP-516).

Its offsets begin at 0 again, which every state's fence holds for known: all its events would count as duplicates. So
the broker's ids of the topics stand in the changelog, once for each partition of states, and other ids are a refusal.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from streams.clients.kafka import describe_cluster
from streams.settings import BrokerSettings

__all__ = ["SOURCES_KEY", "SourceError", "Sources", "compare", "sources_of"]

SOURCES_KEY: Final = b"\x00sources"
"""Of the record in the changelog; ids hold no control character, so no user has this key."""
_encode: Final = msgspec.json.Encoder(order="sorted").encode
_decode: Final = msgspec.json.Decoder(dict[str, str]).decode

Sources = Mapping[str, str]
"""Event topic -> the broker's id of it; empty where the broker gives none."""


class SourceError(RuntimeError):
    """An event topic is not the one that the states were made of."""


def sources_of(broker: BrokerSettings, topics: Sequence[str]) -> Sources:
    """The ids of those of the topics that exist.

    Raises:
        ClientError: the broker does not answer.
    """
    ids = describe_cluster(broker).topic_ids
    return {topic: ids[topic] for topic in topics if topic in ids}


def compare(stored: bytes | None, sources: Sources) -> bytes | None:
    """What is to be stored in the place of ``stored``; None where nothing has changed.

    Raises:
        SourceError: a topic has another id than then.
    """
    known: Sources = {} if stored is None else _decode(stored)
    for topic, topic_id in sources.items():
        if known.get(topic, topic_id) != topic_id:
            raise SourceError(
                f"event topic {topic!r} was deleted and made anew: its offsets begin at 0, which the states hold for"
                " known, so its events would count as duplicates. Set a new worker.app_id; the states are then built"
                " anew from the event topics, as far as those go back"
            )
    following = _encode({**known, **sources})
    return None if following == stored or not sources else following
