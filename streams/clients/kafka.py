"""kafka-python behind one door: how every client connects, how long it waits, and typed views of its answers.

kafka-python ships no types; the protocols below name the part of it that is used.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar, cast
from uuid import UUID

import kafka
from kafka import errors as kafka_errors

from streams.clients.errors import ClientError
from streams.reach import ssl_context, why_unreachable
from streams.settings import BrokerSettings

__all__ = [
    "Admin",
    "Cluster",
    "Consumer",
    "GroupRefusedError",
    "KafkaError",
    "NoCoordinatorError",
    "Partition",
    "Pending",
    "Producer",
    "Record",
    "admin",
    "connection_options",
    "consumer",
    "describe_cluster",
    "partition_count",
    "producer",
    "topic_ids",
]

KafkaError: Final[type[Exception]] = kafka_errors.KafkaError
NoCoordinatorError: Final[type[Exception]] = kafka_errors.CoordinatorNotAvailableError
"""Apache Kafka's answer about groups before the first group."""
GroupRefusedError: Final[type[Exception]] = kafka_errors.GroupAuthorizationFailedError
_NO_IDS: Final = frozenset({"None", str(UUID(int=0))})
"""Of a broker before 2.8."""
_UNKNOWN_TOPIC: Final = kafka_errors.UnknownTopicOrPartitionError.errno
NODE_ID_EMBEDDED: Final = 111
"""Tansu's only node; its cluster id can be chosen, its node id cannot."""

_CONNECT_TIMEOUT_MS: Final = 8_000
_REQUEST_TIMEOUT_MS: Final = 15_000
_DELIVERY_TIMEOUT_S: Final = 30.0
_RECONNECT_MS_MAX: Final = 1_000
"""The library's own 30 s would leave a client idle long after its broker has come back."""
_LINGER_MS: Final = 5
_BULK_LINGER_MS: Final = 100
_BATCH_BYTES: Final = 64 * 1024
_FETCH_WAIT_MS: Final = 50
"""The embedded broker does not wake a waiting fetch when a record arrives."""
_FETCH_PARTITION_BYTES: Final = 4 * 1024 * 1024
_POLL_RECORDS_MAX: Final = 5_000


if TYPE_CHECKING:

    class Partition(NamedTuple):
        """kafka-python's TopicPartition: topic name and partition number."""

        topic: str
        partition: int
else:
    Partition = kafka.TopicPartition


class Record(Protocol):
    """One consumed record; ``timestamp`` in ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Pending(Protocol):
    """The delivery of one record, under way or over."""

    is_done: bool
    exception: BaseException | None

    def failed(self) -> bool: ...
    def get(self, timeout: float | None = None) -> Any: ...


class Producer(Protocol):
    """The part of ``KafkaProducer`` that is used."""

    def send(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        headers: list[tuple[str, bytes]] | None = None,
        partition: int | None = None,
    ) -> Pending: ...
    def flush(self, timeout: float | None = None) -> None: ...
    def close(self, timeout: float | None = None) -> None: ...


class Consumer(Protocol):
    """The part of ``KafkaConsumer`` that is used; partitions are assigned, never subscribed."""

    config: Mapping[str, Any]

    @property
    def is_embedded(self) -> bool: ...
    def assign(self, partitions: Sequence[Partition]) -> None: ...
    def seek(self, partition: Partition, offset: int) -> None: ...
    def poll(self, timeout_ms: int = 0) -> Mapping[Partition, Sequence[Record]]: ...
    def position(self, partition: Partition) -> int: ...
    def highwater(self, partition: Partition) -> int | None: ...
    def beginning_offsets(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]: ...
    def end_offsets(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]: ...
    def partitions_for_topic(self, topic: str) -> set[int] | None: ...
    def close(self) -> None: ...


class _Consumer(kafka.KafkaConsumer):  # pyright: ignore[reportUntypedBaseClass]  # the library ships no types
    """One that says whom it reads from."""

    @property
    def is_embedded(self) -> bool:
        """Whether the broker is the embedded one."""
        nodes: Sequence[Any] = cast(Any, self)._client.cluster.brokers()
        return _is_embedded([node.node_id for node in nodes])


class Admin(Protocol):
    """The part of ``KafkaAdminClient`` that is used."""

    def describe_cluster(self) -> Mapping[str, Any]: ...
    def describe_topics(self, topics: Sequence[str] | None = None) -> Sequence[Mapping[str, Any]]: ...
    def create_topics(
        self, new_topics: Mapping[str, Mapping[str, Any]], timeout_ms: int, raise_errors: bool
    ) -> Mapping[str, Any]: ...
    def create_acls(self, acls: Sequence[Any]) -> Mapping[str, Sequence[Any]]: ...
    def describe_groups(
        self, group_ids: Sequence[str], *, include_authorized_operations: bool
    ) -> Mapping[str, Mapping[str, Any]]: ...
    def list_group_offsets(self, group_specs: str) -> Mapping[str, Mapping[Partition, Any]]: ...
    def close(self) -> None: ...


class Cluster(NamedTuple):
    """What a broker says of itself."""

    embedded: bool
    """The memory-only broker of the demo and the quick tests."""
    partitions: dict[str, int]
    """Topic name -> number of partitions, internal topics left out."""
    secured: bool = False
    """It knows who asks, and may keep topics from us."""


def connection_options(broker: BrokerSettings) -> dict[str, Any]:
    """Options of every kafka-python client for this broker, TLS and SASL included.

    Raises:
        SettingsError: a file of certificates or ``sasl_password_file`` cannot be read.
        ClientError: SASL without a user name or password.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": [part.strip() for part in broker.address.split(",")],
        "security_protocol": broker.security_protocol,
        "client_id": "headwater",
        "bootstrap_timeout_ms": _CONNECT_TIMEOUT_MS,
        "request_timeout_ms": _REQUEST_TIMEOUT_MS,
        "reconnect_backoff_max_ms": _RECONNECT_MS_MAX,
    }
    if broker.security_protocol.endswith("SSL"):
        options["ssl_context"] = ssl_context(broker)
    if broker.security_protocol.startswith("SASL"):
        password = broker.password()
        if not broker.sasl_username or not password:
            raise ClientError(
                f"{broker.security_protocol} needs a user name and a password;"
                " set HEADWATER_BROKER_SASL_USERNAME and HEADWATER_BROKER_SASL_PASSWORD"
            )
        options |= {
            "sasl_mechanism": broker.sasl_mechanism,
            "sasl_plain_username": broker.sasl_username,
            "sasl_plain_password": str(password),
        }
    return options


def admin(broker: BrokerSettings) -> AbstractContextManager[Admin]:
    """An admin client, closed on leaving.

    Raises:
        ClientError: the broker does not answer.
    """
    return _opened(broker, lambda: cast(Admin, kafka.KafkaAdminClient(**connection_options(broker))))


def consumer(broker: BrokerSettings) -> AbstractContextManager[Consumer]:
    """A consumer outside any group, closed on leaving.

    Raises:
        ClientError: the broker does not answer.
    """
    options: dict[str, Any] = connection_options(broker) | {
        "group_id": None,
        "enable_auto_commit": False,
        "allow_auto_create_topics": False,
        "auto_offset_reset": "earliest",
        "isolation_level": "read_committed",
        "fetch_max_wait_ms": _FETCH_WAIT_MS,
        "max_partition_fetch_bytes": _FETCH_PARTITION_BYTES,
        "max_poll_records": _POLL_RECORDS_MAX,
        "metrics_enabled": False,
    }
    return _opened(broker, lambda: cast(Consumer, _Consumer(**options)))


def producer(
    broker: BrokerSettings, cluster: Cluster, *, bulk: bool = False, delivery_timeout_s: float = _DELIVERY_TIMEOUT_S
) -> AbstractContextManager[Producer]:
    """A producer that keeps the order within a partition and waits for all in-sync replicas.

    Idempotent, except on the embedded broker, which keeps no producer ids: there one request at a time keeps
    the order, and a retry may write a record twice.

    Args:
        bulk: wait longer for fuller batches, which are cheaper on both sides.
        delivery_timeout_s: after which a record that the broker did not acknowledge has failed.

    Raises:
        ClientError: the broker does not answer.
    """
    options: dict[str, Any] = connection_options(broker) | {
        "acks": "all",
        "enable_idempotence": not cluster.embedded,
        "max_in_flight_requests_per_connection": 1 if cluster.embedded else 5,
        "allow_auto_create_topics": False,
        "linger_ms": _BULK_LINGER_MS if bulk else _LINGER_MS,
        "batch_size": _BATCH_BYTES,
        "delivery_timeout_ms": int(1000 * delivery_timeout_s),
        "max_block_ms": _REQUEST_TIMEOUT_MS,
        "metrics_enabled": False,
    }
    return _opened(broker, lambda: cast(Producer, kafka.KafkaProducer(**options)))


def describe_cluster(broker: BrokerSettings) -> Cluster:
    """Ask the broker what it is and which topics it has.

    Raises:
        ClientError: the broker does not answer.
    """
    with admin(broker) as client:
        nodes = client.describe_cluster()["brokers"]
        topics = client.describe_topics()
    embedded = _is_embedded([node["broker_id"] for node in nodes])
    partitions = {t["name"]: len(t["partitions"]) for t in topics if not t.get("is_internal")}
    return Cluster(embedded, partitions, broker.security_protocol != "PLAINTEXT")


def topic_ids(broker: BrokerSettings, topics: Sequence[str]) -> Mapping[str, str]:
    """Those of the topics that exist, each with the broker's id of it.

    The id is empty where the broker gives none that outlasts it, or does not let this user see the topic.

    Raises:
        ClientError: the broker does not answer.
    """
    with admin(broker) as client:
        embedded = _is_embedded([node["broker_id"] for node in client.describe_cluster()["brokers"]])
        described = {topic["name"]: topic for topic in client.describe_topics(topics)}
    exist = {name: topic for name, topic in described.items() if topic["error_code"] != _UNKNOWN_TOPIC}
    ids = {name: str(topic.get("topic_id")) for name, topic in exist.items()}
    return {name: "" if embedded or topic_id in _NO_IDS else topic_id for name, topic_id in ids.items()}


def _is_embedded(node_ids: Sequence[object]) -> bool:
    return list(node_ids) == [NODE_ID_EMBEDDED]


def partition_count(cluster: Cluster, topic: str) -> int:
    """Number of partitions of ``topic``.

    Raises:
        ClientError: there is no such topic.
    """
    count = cluster.partitions.get(topic)
    if count is None:
        hidden = ", or this user may not see it; allow it with `headwater topics acls` or" if cluster.secured else ";"
        raise ClientError(f"topic {topic!r} does not exist{hidden} run `headwater topics create`")
    return count


_Client = TypeVar("_Client", Admin, Consumer, Producer)


@contextmanager
def _opened(broker: BrokerSettings, connect: Callable[[], _Client]) -> Generator[_Client]:
    try:
        client = connect()
    except (KafkaError, OSError) as error:
        raise ClientError(why_unreachable(broker)) from error
    try:
        yield client
    finally:
        client.close()
