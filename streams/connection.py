"""How the worker reaches Kafka: arguments of its aiokafka clients, and the Faust app on the chunk transport."""

import uuid
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, cast

import faust
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.structs import TopicPartition

from operators import limits
from streams.checkpoint import Targets
from streams.lease import SessionLease
from streams.reach import ssl_context
from streams.recovery import ChunkTableManager
from streams.restore import Restorer
from streams.settings import BrokerSettings, Settings
from streams.topics import transactional_prefix
from streams.transactions import TransactionalProducer, fence_producer
from streams.transport import BatchProducer, ChunkConsumer, ChunkTransport

__all__ = ["ChunkApp", "client_arguments", "has_transactions", "new_app", "new_changelog_consumer"]

_STREAM_BUFFER_FETCHES: Final = 16
"""What a fetch brought of a partition, 1 MB at most, that waits between Faust and the engine."""
_REQUEST_TIMEOUT_S: Final = 60.0
_RESTORE_FETCH_WAIT_MS: Final = 100
_UNKNOWN_SERVER_ERROR: Final = -1


class ChunkApp(faust.App):
    """A Faust app on the chunk transport."""

    fetch_wait_ms = 100
    arguments: Mapping[str, Any]
    """Of every aiokafka client."""
    exactly_once = False
    transactional_id = ""
    restorer: Restorer
    lease: SessionLease
    targets: Targets

    def _new_transport(self) -> ChunkTransport:
        transport = ChunkTransport(self.conf.broker_consumer, self)
        transport.fetch_wait_ms = self.fetch_wait_ms
        return transport

    def _new_producer_transport(self) -> ChunkTransport:
        return ChunkTransport(self.conf.broker_producer, self)

    @property
    def chunk_consumer(self) -> ChunkConsumer:
        """The consumer, as what it is."""
        return cast(ChunkConsumer, self.consumer)

    @property
    def batch_producer(self) -> AIOKafkaProducer:
        """The client of the producer."""
        return cast(BatchProducer, self.producer).client

    async def fence(self, transactional_id: str, partitions: Collection[int]) -> None:
        """Abort the transaction of another worker that had these partitions, and refuse what it sends from now on."""
        written = [TopicPartition(*place) for place in self.targets.of(partitions)]
        await fence_producer(self.arguments, transactional_id, self.conf.id, written)

    def claims(self) -> Mapping[Any, int]:
        """Offsets that were committed when the partitions were taken; empty in at-least-once."""
        return self.chunk_consumer.claims if self.exactly_once else {}

    def transaction(self, generation: int, offsets: Mapping[Any, int]) -> AbstractAsyncContextManager[None]:
        """Around what is sent in ``generation``: a transaction with ``offsets``, or nothing but a look at the group.

        Raises:
            FencedError: the group has gone on to another generation.
        """
        member = self.chunk_consumer.member_of(generation)
        if not self.exactly_once:
            return nullcontext()
        return cast(TransactionalProducer, self.batch_producer).transaction_of(member, offsets)

    async def wait_for_crash(self) -> None:
        """Return when a service of the app has crashed."""
        await self._crashed.wait()


def client_arguments(broker: BrokerSettings) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client takes."""
    password = broker.password()
    return {
        "bootstrap_servers": broker.address,
        "security_protocol": broker.security_protocol,
        "ssl_context": ssl_context(broker),
        "sasl_mechanism": broker.sasl_mechanism if "SASL" in broker.security_protocol else "PLAIN",
        "sasl_plain_username": broker.sasl_username,
        "sasl_plain_password": None if password is None else str(password),
    }


async def has_transactions(admin: AIOKafkaAdminClient) -> bool:
    """Whether the broker has transactions. The embedded one announces them, and fails at the first request."""
    client: Any = admin._client  # pyright: ignore[reportPrivateUsage]  # the admin client has no such request
    nobody: Any = None
    answer = await client.send(client.get_random_node(), InitProducerIdRequest(nobody, limits.transaction_timeout_ms))
    return answer.error_code != _UNKNOWN_SERVER_ERROR


def _credentials(broker: BrokerSettings) -> Any:
    context = ssl_context(broker)
    if "SASL" in broker.security_protocol:
        return faust.SASLCredentials(
            username=broker.sasl_username,
            password=str(broker.password() or ""),
            ssl_context=context,
            mechanism=broker.sasl_mechanism,
        )
    return None if context is None else faust.SSLCredentials(context)


def new_changelog_consumer(broker: BrokerSettings, *, read_committed: bool) -> AIOKafkaConsumer:
    """A consumer for a restore: in no group, and without a way to reset an offset that does not exist."""
    return AIOKafkaConsumer(
        **client_arguments(broker),
        auto_offset_reset="none",
        enable_auto_commit=False,
        fetch_max_wait_ms=_RESTORE_FETCH_WAIT_MS,
        fetch_max_bytes=limits.restore_fetch_bytes_max,
        max_partition_fetch_bytes=limits.restore_partition_fetch_bytes_max,
        isolation_level="read_committed" if read_committed else "read_uncommitted",
    )


def new_app(settings: Settings, *, exactly_once: bool) -> ChunkApp:
    """The Faust app with everything set that Headwater relies on; it has no table and no agent yet."""
    worker = settings.worker
    app = ChunkApp(
        worker.app_id,
        broker=";".join(f"kafka://{address.strip()}" for address in settings.broker.address.split(",")),
        broker_credentials=_credentials(settings.broker),
        broker_commit_interval=worker.commit_interval_s,
        broker_session_timeout=worker.session_timeout_s,
        broker_heartbeat_interval=worker.session_timeout_s / 4,
        broker_rebalance_timeout=limits.drain_max_s + worker.session_timeout_s,
        consumer_auto_offset_reset="earliest",
        datadir=str(Path(worker.data_dir).absolute()),
        autodiscover=False,
        producer_acks=-1,
        producer_linger=0,
        producer_max_batch_size=limits.produce_batch_bytes_max,
        producer_request_timeout=_REQUEST_TIMEOUT_S,
        producer_max_request_size=4 * limits.produce_batch_bytes_max,
        stream_buffer_maxsize=_STREAM_BUFFER_FETCHES,
        stream_recovery_delay=0.0,
        table_standby_replicas=0,
        TableManager=ChunkTableManager,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=settings.topics.partitions,
        web_enabled=False,
    )
    app.fetch_wait_ms = worker.fetch_wait_ms
    app.arguments = client_arguments(settings.broker)
    app.exactly_once = exactly_once
    app.lease = SessionLease(worker.session_timeout_s)
    # Of this process: its last owner's open transaction is found through the offsets' metadata, not through the name.
    app.transactional_id = transactional_prefix(worker.app_id) + uuid.uuid4().hex
    return app
