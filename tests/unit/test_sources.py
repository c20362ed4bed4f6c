"""What a running worker makes of the topics that it finds."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from operators import limits
from streams import sources
from streams.clients.errors import ClientError
from streams.settings import Settings, TopicSettings, WorkerSettings
from streams.sources import SourceError, TopicWatch
from streams.topics import topic_specs

SETTINGS = Settings(topics=TopicSettings(), worker=WorkerSettings(app_id="shop"))
IDS = {spec.name: f"id of {spec.name}" for spec in topic_specs(SETTINGS.topics, "shop")}
KNOWN = {"view": IDS["view"], "shop-users-changelog": IDS["shop-users-changelog"]}


def _without(topic: str) -> dict[str, str]:
    return {name: topic_id for name, topic_id in IDS.items() if name != topic}


def _said(found: Mapping[str, str]) -> str:
    error = TopicWatch(SETTINGS, KNOWN).error(found)
    return "" if error is None else str(error)


def test_the_topics_as_they_were_are_no_error() -> None:
    assert _said(IDS) == ""
    assert _said(dict.fromkeys(IDS, "")) == ""  # those that the broker does not let this user see any more
    assert _said(IDS | {"recommendations": "another"}) == ""  # nothing is made of it


@pytest.mark.parametrize("topic", ["view", "erase", "shop-users-changelog"])
def test_a_topic_of_the_states_that_is_gone_takes_another_app(topic: str) -> None:
    assert f"topic {topic!r}, of which the states are made, was deleted. Set a new worker.app_id" in _said(
        _without(topic)
    )


@pytest.mark.parametrize("topic", ["recommendations", "dead-letter", "erasure-receipts", "catalog"])
def test_another_topic_that_is_gone_is_made_again(topic: str) -> None:
    said = _said(_without(topic))
    assert f"topic {topic!r} was deleted" in said
    assert "Make it again with `headwater topics create` and start again" in said


@pytest.mark.parametrize("topic", KNOWN)
def test_a_topic_of_the_states_that_was_made_anew_takes_another_app(topic: str) -> None:
    assert f"topic {topic!r} was deleted and made anew" in _said(IDS | {topic: "another"})


def test_a_topic_is_missed_by_two_looks_and_a_broker_that_is_away_by_none(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Any] = [IDS, ClientError("away"), _without("view"), IDS, _without("view"), OSError(), _without("view")]
    left = list(looks)

    def look(_broker: object, topics: Sequence[str]) -> Mapping[str, str]:
        assert set(topics) == set(IDS)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(sources, "topic_ids", look)
    monkeypatch.setattr(sources, "_CONFIRM_S", 0.0)
    monkeypatch.setattr(limits, "topics_look_s", 0.0)
    with pytest.raises(SourceError, match="'view'"):
        asyncio.run(TopicWatch(SETTINGS, KNOWN).run())
    assert left == []
