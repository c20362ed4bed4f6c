"""What the topics must be, and what a worker refuses to start on."""

from streams.settings import Settings, TopicSettings, WorkerSettings
from streams.topics import changelog_topic, partition_errors, topic_specs

SETTINGS = Settings(topics=TopicSettings(partitions=6), worker=WorkerSettings(app_id="shop"))


def as_created() -> dict[str, int]:
    return {spec.name: spec.partitions for spec in topic_specs(SETTINGS.topics, "shop")}


def test_topics_of_a_users_state_have_one_partition_count_and_the_right_policies() -> None:
    specs = {spec.name: spec for spec in topic_specs(SETTINGS.topics, "shop")}
    for name in ("view", "click", "purchase", "recommendations", "shop-users-changelog"):
        assert specs[name].partitions == 6
    policies = {name: spec.config["cleanup.policy"] for name, spec in specs.items()}
    assert policies == {
        "view": "delete",
        "click": "delete",
        "purchase": "delete",
        "catalog": "compact",
        "recommendations": "compact",
        "dead-letter": "delete",
        "erase": "delete",
        "erasure-receipts": "compact",
        changelog_topic("shop"): "compact",
    }


def test_a_dead_letter_has_room_for_the_largest_record_and_its_headers() -> None:
    (spec,) = (spec for spec in topic_specs(SETTINGS.topics, "shop") if spec.name == "dead-letter")
    assert int(spec.config["max.message.bytes"]) > 1_048_588 + 10_000  # Kafka's default for the event topics


def test_topics_as_created_are_accepted() -> None:
    assert partition_errors(SETTINGS, as_created()) == []


def test_missing_topics_are_named_with_the_next_step() -> None:
    partitions = as_created()
    del partitions["click"], partitions["shop-users-changelog"]
    errors = partition_errors(SETTINGS, partitions)
    assert len(errors) == 2
    assert all("headwater topics create" in error for error in errors)
    assert "'click'" in errors[0]
    assert "'shop-users-changelog'" in errors[1]


def test_a_changed_partition_count_is_refused() -> None:
    errors = partition_errors(SETTINGS, {**as_created(), "purchase": 12})
    assert len(errors) == 1
    assert "'purchase' has 12 partitions" in errors[0]
    assert "built on 6" in errors[0]
    assert len(partition_errors(SETTINGS, {**as_created(), "shop-users-changelog": 3})) == 5


def test_the_count_of_existing_topics_counts_not_that_of_the_settings() -> None:
    grown = {name: 9 if count == 6 else count for name, count in as_created().items()}
    assert partition_errors(SETTINGS, grown) == []
