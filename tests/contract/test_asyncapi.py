"""infra/docs/asyncapi.yaml against the code: its bounds, names and shapes, and real records of every kind."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple, cast, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import limits
from operators.batches import DeadLetter
from operators.events import CONTENT_TYPES, Event, RejectCode, Rejected, decode
from operators.interest import EVENT_TYPES
from operators.ranking import Cause, RankedItem, RecommendationList, Source, encode_list
from streams.catalog import CatalogItem
from streams.dead_letters import headers_of
from streams.settings import Settings
from streams.topics import changelog_topic, topic_specs
from tests.contract.schemas import children, document, header_validator, resolve, validator

NOW_MS = 1_800_000_000_000


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield cast("dict[str, Any]", node)
    for child in children(node):
        yield from _nodes(child)


def _schema(name: str) -> dict[str, Any]:
    return document()["components"]["schemas"][name]


# -- the document itself


def test_every_reference_leads_somewhere() -> None:
    references = [node["$ref"] for node in _nodes(document()) if "$ref" in node]
    assert len(references) > 50
    for reference in references:
        assert resolve(reference) is not None


def test_nothing_is_defined_in_vain() -> None:
    used = {node["$ref"] for node in _nodes(document()) if "$ref" in node}
    for section, entries in document()["components"].items():
        for name in entries:
            assert f"#/components/{section}/{name}" in used, name


def test_every_channel_has_an_operation() -> None:
    used = {operation["channel"]["$ref"] for operation in document()["operations"].values()}
    assert used == {f"#/channels/{name}" for name in document()["channels"]}


def test_every_schema_is_a_schema() -> None:
    for name in document()["components"]["messages"]:
        validator(name).check_schema(validator(name).schema)


def test_every_example_holds() -> None:
    examples = 0
    for name, message in document()["components"]["messages"].items():
        for example in message.get("examples", []):
            examples += 1
            if "payload" in example:
                validator(name).validate(example["payload"])
            if "headers" in example:
                header_validator(name).validate(example["headers"])
    assert examples >= 6


def test_the_channels_are_the_topics() -> None:
    settings = Settings()
    specs = {spec.name: spec for spec in topic_specs(settings.topics, settings.worker.app_id)}
    del specs[changelog_topic(settings.worker.app_id)]
    channels = {c["address"]: c for c in document()["channels"].values() if c.get("x-status") != "reserved"}
    assert channels.keys() == specs.keys()
    for name, spec in specs.items():
        kafka = channels[name]["bindings"]["kafka"]
        assert kafka["partitions"] == spec.partitions, name
        assert ",".join(kafka["topicConfiguration"]["cleanup.policy"]) == spec.config["cleanup.policy"], name
    reserved = {c["address"] for c in document()["channels"].values()} - channels.keys()
    assert reserved == {"models"}


# -- its bounds and names are the code's


def test_bounds() -> None:
    fields = _schema("EventFields")
    assert _schema("Id")["x-bytes-max"] == _schema("Id")["maxLength"] == limits.id_bytes_max
    assert fields["x-bytes-max"] == limits.event_bytes_max
    assert fields["x-depth-max"] == limits.context_depth_max
    assert fields["properties"]["timestamp"]["x-future-skew-ms"] == limits.future_skew_ms
    value = fields["properties"]["value"]
    assert (value["minimum"], value["maximum"]) == (-limits.value_max, limits.value_max)
    moment = _schema("TimestampMs")
    assert (moment["minimum"], moment["maximum"]) == (limits.timestamp_ms_min, limits.timestamp_ms_max)
    ranked = _schema("RecommendationList")["properties"]
    assert ranked["items"]["maxItems"] == limits.list_items_max
    assert ranked["caused_by"]["maxItems"] == limits.batch_events_max
    assert _schema("RankedItem")["properties"]["rank"]["maximum"] == limits.list_items_max
    assert _schema("RankedItem")["properties"]["because"]["maxItems"] == limits.history_events_max
    reason = _schema("DeadLetterHeaders")["properties"]["dl_reason"]
    assert reason["x-bytes-max"] == reason["maxLength"] == limits.reason_bytes_max


@pytest.mark.parametrize(
    ("name", "struct"),
    [
        ("RecommendationList", RecommendationList),
        ("RankedItem", RankedItem),
        ("Cause", Cause),
        ("CatalogItem", CatalogItem),
    ],
)
def test_fields(name: str, struct: type[msgspec.Struct]) -> None:
    fields = msgspec.structs.fields(struct)
    schema = _schema(name)
    assert list(schema["properties"]) == [field.name for field in fields]
    assert set(schema["required"]) == {field.name for field in fields if field.required}


def test_names() -> None:
    assert set(_schema("DeadLetterHeaders")["properties"]["dl_code"]["enum"]) == set(get_args(RejectCode))
    assert _schema("RankedItem")["properties"]["source"]["enum"] == list(get_args(Source))
    types = {
        content_type: name
        for name, schema in (("json", "JsonHeaders"), ("msgpack", "MsgpackHeaders"))
        for content_type in _schema(schema)["properties"]["content-type"]["enum"]
    }
    assert types == {content_type.decode(): name for content_type, name in CONTENT_TYPES.items()}
    assert _schema("CloudEventHeaders")["properties"]["content-type"]["enum"] == list(types)
    for event_type in EVENT_TYPES:
        assert document()["channels"][event_type]["address"] == event_type
        header_validator("cloudEvent").validate({"ce_type": f"shop.{event_type}"})
        header_validator("cloudEvent").validate({"ce_type": event_type})
    assert not header_validator("cloudEvent").is_valid({"ce_type": "shop.review"})


# -- records


def _short(text: str) -> bool:
    return len(text.encode()) <= limits.id_bytes_max


ids = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=128).filter(_short)
moments = st.integers(limits.timestamp_ms_min, NOW_MS + limits.future_skew_ms)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
values = st.fixed_dictionaries(
    {"user_id": ids, "item_id": ids},
    optional={
        "event_id": st.none() | ids,
        "session_id": st.none() | ids,
        "value": st.none() | st.floats(-limits.value_max, limits.value_max) | st.integers(-(10**12), 10**12),
        "context": st.none() | st.dictionaries(st.text(max_size=8), plain, max_size=4),
        "unknown field": plain,
    },
)


def _decoded(value: bytes, key: str, headers: dict[str, str]) -> Event | Rejected:
    raw = [(name, text.encode()) for name, text in headers.items()]
    return decode(value, key.encode(), raw, EVENT_TYPES.index("view"), 0, NOW_MS)


@given(values, moments)
def test_what_the_schema_allows_is_taken(value: dict[str, Any], timestamp: int) -> None:
    complete = {**value, "timestamp": timestamp}
    validator("event").validate(complete)
    validator("cloudEvent").validate(value)
    assert not validator("event").is_valid(value), "an event without a time needs ce_time"
    cloud = {"ce_time": "2017-06-01T12:00:00Z", "ce_type": "shop.view", "ce_id": "é1"}
    header_validator("cloudEvent").validate(cloud)
    for encoded, headers in (
        (msgspec.json.encode(complete), {}),
        (msgspec.msgpack.encode(complete), {"content-type": "application/msgpack"}),
        (msgspec.json.encode(value), cloud),
    ):
        event = _decoded(encoded, value["user_id"], headers)
        assert isinstance(event, Event), event
        assert event.item_id == value["item_id"]


GOOD = {"user_id": "ada", "item_id": "book", "timestamp": NOW_MS}


class Bad(NamedTuple):
    code: RejectCode
    change: dict[str, Any]


BAD = [
    Bad("schema", {"user_id": 7}),
    Bad("schema", {"item_id": None}),
    Bad("schema", {"timestamp": None}),
    Bad("schema", {"timestamp": "yesterday"}),
    Bad("schema", {"event_id": 7}),
    Bad("schema", {"session_id": ["s"]}),
    Bad("schema", {"value": "1.5"}),
    Bad("schema", {"value": True}),
    Bad("bad_id", {"user_id": ""}),
    Bad("bad_id", {"item_id": "x" * (limits.id_bytes_max + 1)}),
    Bad("bad_id", {"item_id": "é" * (limits.id_bytes_max // 2 + 1)}),
    Bad("bad_id", {"item_id": "book\n"}),
    Bad("bad_id", {"event_id": "\x00"}),
    Bad("bad_timestamp", {"timestamp": -1}),
    Bad("bad_timestamp", {"timestamp": limits.timestamp_ms_max + 1}),
    Bad("non_finite", {"value": 1.1e12}),
    Bad("non_finite", {"value": float("nan")}),
    Bad("non_finite", {"value": float("inf")}),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad.code}-{bad.change}"[:40])
def test_what_the_schema_forbids_is_rejected(bad: Bad) -> None:
    value = {**GOOD, **bad.change}
    assert validator("event").is_valid(GOOD)
    assert not validator("event").is_valid(value)
    rejected = _decoded(msgspec.msgpack.encode(value), str(value["user_id"]), {"content-type": "application/msgpack"})
    assert isinstance(rejected, Rejected), rejected
    assert rejected.code == bad.code


def test_depth() -> None:
    def nested(depth: int) -> dict[str, Any]:
        return json.loads('{"a":' * depth + "1" + "}" * depth)

    for depth, taken in ((limits.context_depth_max - 1, True), (limits.context_depth_max, False)):
        value = {**GOOD, "context": nested(depth)}
        assert validator("event").is_valid(value) is taken
        assert isinstance(_decoded(msgspec.json.encode(value), "ada", {}), Event) is taken


@given(
    ids,
    moments,
    st.lists(
        st.tuples(ids, st.floats(-1e6, 1e6), st.sampled_from(get_args(Source)), st.lists(ids, max_size=3)), max_size=12
    ),
)
def test_lists(user: str, moment: int, entries: list[tuple[str, float, Source, list[str]]]) -> None:
    published = encode_list(
        RecommendationList(
            request_id="view-0-1",
            user_id=user,
            generated_at=moment,
            event_time=moment,
            caused_by=[Cause("view", 0, 1)],
            model_version="1a2b",
            variant="default",
            degraded=False,
            items=[
                RankedItem(item, place, score, source, because)
                for place, (item, score, source, because) in enumerate(entries, 1)
            ],
        )
    )
    validator("recommendationList").validate(json.loads(published))


def test_a_list_that_breaks_the_contract_is_seen() -> None:
    good = document()["components"]["messages"]["recommendationList"]["examples"][0]["payload"]
    item = good["items"][0]
    changes: list[dict[str, Any]] = [
        {"caused_by": []},
        {"items": [{**item, "rank": 0}]},
        {"items": [{**item, "source": "magic"}]},
        {"items": [{**item, "score": float("nan")}]},
        {"items": [item] * (limits.list_items_max + 1)},
        {"degraded": "no"},
        {"extra": 1},
    ]
    for change in changes:
        assert not validator("recommendationList").is_valid({**good, **change}), change


class Record(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


@given(st.sampled_from(get_args(RejectCode)), st.text(max_size=300), st.integers(0, 2**40))
def test_dead_letters(code: RejectCode, reason: str, offset: int) -> None:
    record = Record(offset, b"\xff", b"\xfe", [("content-type", b"text/html"), ("trace", b"\x01")])
    headers = headers_of(DeadLetter("purchase", 7, record, Rejected(code, reason)))
    assert headers[-2:] == record.headers
    told = {name: value.decode() for name, value in headers}
    header_validator("deadLetter").validate(told)
    assert told["dl_topic"] == "purchase"
    assert (told["dl_partition"], told["dl_offset"]) == ("7", str(offset))


def test_what_a_dead_letter_says_of_a_record_that_is_too_large_is_described() -> None:
    record = Record(0, b"k" * 3_000_000, b"v" * 3_000_000, [("trace", b"t")])
    headers = headers_of(DeadLetter("view", 0, record, Rejected("schema", "why")))
    told = {name: value.decode() for name, value in headers}
    assert told.keys() == _schema("DeadLetterHeaders")["properties"].keys()
    header_validator("deadLetter").validate(told)


@pytest.mark.parametrize("reason", ["x" * 2_000, "é" * 2_000, "x" + "é" * 2_000, "😀" * 500])
def test_a_long_reason_stays_text_within_its_bound(reason: str) -> None:
    record = Record(0, None, None, [])
    headers = dict(headers_of(DeadLetter("view", 0, record, Rejected("schema", reason))))
    header_validator("deadLetter").validate({name: value.decode() for name, value in headers.items()})


@given(
    st.fixed_dictionaries(
        {"item_id": ids},
        optional={
            "title": st.none() | st.text(),
            "category": st.none() | st.text(),
            "brand": st.none() | st.text(),
            "available": st.booleans(),
            "unknown field": plain,
        },
    )
)
def test_catalogue_items(value: dict[str, Any]) -> None:
    validator("catalogItem").validate(value)
    item = msgspec.json.decode(msgspec.json.encode(value), type=CatalogItem)
    assert item.available is value.get("available", True)


@pytest.mark.parametrize("change", [{"item_id": None}, {"available": "yes"}, {"title": 7}])
def test_other_catalogue_items_are_refused(change: dict[str, Any]) -> None:
    value = {"item_id": "book", **change}
    assert not validator("catalogItem").is_valid(value)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(value), type=CatalogItem)


def test_tombstones() -> None:
    for name in ("withdrawal", "erasedList"):
        validator(name).validate(None)
        assert not validator(name).is_valid({})
