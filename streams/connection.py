"""How the worker reaches Kafka: arguments of its aiokafka clients, and the Faust app on the chunk transport."""

from pathlib import Path
from typing import Any, Final, cast

import faust
from aiokafka import AIOKafkaProducer

from operators import limits
from streams.reach import ssl_context
from streams.settings import BrokerSettings, Settings
from streams.transport import BatchProducer, ChunkConsumer, ChunkTransport

__all__ = ["ChunkApp", "client_arguments", "new_app"]

_STREAM_BUFFER_CHUNKS: Final = 16
_REQUEST_TIMEOUT_S: Final = 60.0


class ChunkApp(faust.App):
    """A Faust app on the chunk transport."""

    fetch_wait_ms = 100

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


def new_app(settings: Settings) -> ChunkApp:
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
        stream_buffer_maxsize=_STREAM_BUFFER_CHUNKS,
        stream_recovery_delay=0.0,
        table_standby_replicas=0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=settings.topics.partitions,
        web_enabled=False,
    )
    app.fetch_wait_ms = worker.fetch_wait_ms
    return app
