"""Real brokers: the embedded one and Apache Kafka, with the two clients that Headwater uses."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic

from infra import broker
from infra.broker import probe

USERS = [f"user-{n}".encode() for n in range(100)]
KINDS = [pytest.param("embedded"), pytest.param("kafka", marks=pytest.mark.kafka)]


@pytest.fixture(scope="module", params=KINDS)
def running(request: pytest.FixtureRequest) -> Iterator[broker.Broker]:
    with broker.start(request.param) as started:
        yield started


def _create(address: str, name: str, partitions: int) -> None:
    admin = KafkaAdminClient(bootstrap_servers=address)
    try:
        admin.create_topics([NewTopic(name, partitions, 1, topic_configs={"cleanup.policy": "compact"})])
        # Apache Kafka answers before its metadata has the topic.
        deadline = time.monotonic() + 20
        while name not in admin.list_topics():
            assert time.monotonic() < deadline, f"{name} was created and is not there"
            time.sleep(0.05)
    finally:
        admin.close()


def _produce(address: str, topic: str) -> list[int]:
    producer = KafkaProducer(bootstrap_servers=address, enable_idempotence=False)
    try:
        sent = [producer.send(topic, key=user, value=b"sync", headers=[("h", b"1")]) for user in USERS]
        return [each.get(timeout=20).partition for each in sent]
    finally:
        producer.close()


async def _produce_async(address: str, topic: str) -> list[int]:
    producer = AIOKafkaProducer(bootstrap_servers=address)
    await producer.start()
    try:
        sent = [await producer.send(topic, key=user, value=b"async") for user in USERS]
        return [(await each).partition for each in sent]
    finally:
        await producer.stop()


def _values(address: str, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest", consumer_timeout_ms=15_000)
    try:
        values: list[bytes] = []
        for record in consumer:
            values.append(record.value)
            if len(values) == count:
                break
        return values
    finally:
        consumer.close()


async def _values_async(address: str, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=address, group_id="readers", auto_offset_reset="earliest", session_timeout_ms=6_000
    )
    await consumer.start()
    try:
        values: list[bytes] = []
        async with asyncio.timeout(30):
            while len(values) < count:
                chunks = await consumer.getmany(timeout_ms=500)
                values += [record.value or b"" for chunk in chunks.values() for record in chunk]
        await consumer.commit()
        return values
    finally:
        await consumer.stop()


def test_both_clients_produce_and_consume_and_agree_on_partitions(running: broker.Broker) -> None:
    _create(running.address, "both", 8)
    by_sync = _produce(running.address, "both")
    by_async = asyncio.run(_produce_async(running.address, "both"))
    assert by_sync == by_async, "the same key has to reach the same partition from both clients"
    assert len(set(by_sync)) == 8
    expected = sorted([b"sync"] * len(USERS) + [b"async"] * len(USERS))
    assert sorted(_values(running.address, "both", len(expected))) == expected
    assert sorted(asyncio.run(_values_async(running.address, "both", len(expected)))) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_only_the_loopback_interface_listens(running: broker.Broker) -> None:
    addresses = _listening_addresses(running.pid)
    assert running.port in {port for _, port in addresses}
    assert {host for host, _ in addresses} <= {"0100007F", "0000000000000000FFFF00000100007F"}


def _listening_addresses(pid: int) -> set[tuple[str, int]]:
    """Address in the kernel's hexadecimal, and port, of every listening TCP socket of a process."""
    links = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    found: set[tuple[str, int]] = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                host, port = fields[1].rsplit(":", 1)
                found.add((host, int(port, 16)))
    return found


def test_a_taken_port_is_refused(running: broker.Broker) -> None:
    with pytest.raises(broker.BrokerError, match=f"port {running.port} on 127.0.0.1 is taken"):
        broker.start(running.kind, port=running.port)


@pytest.mark.kafka
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_data_directory_outlives_the_broker(tmp_path: Path, end: str) -> None:
    with broker.start("kafka", data_dir=tmp_path / "data") as first:
        _create(first.address, "kept", 2)
        _produce(first.address, "kept")
        identity = _cluster_id(tmp_path)
        getattr(first, end)()
    with broker.start("kafka", data_dir=tmp_path / "data") as second:
        assert _cluster_id(tmp_path) == identity
        assert len(_values(second.address, "kept", len(USERS))) == len(USERS)


def _cluster_id(home: Path) -> str:
    lines = (home / "data" / "log" / "meta.properties").read_text().splitlines()
    return next(line for line in lines if line.startswith("cluster.id="))


@pytest.mark.kafka
def test_two_brokers_cannot_share_a_data_directory(tmp_path: Path) -> None:
    with broker.start("kafka", data_dir=tmp_path) as first:
        with pytest.raises(broker.BrokerError, match="another broker uses the data directory"):
            broker.start("kafka", data_dir=tmp_path)
        _create(first.address, "unharmed", 1)
        first.kill()
    with broker.start("kafka", data_dir=tmp_path) as second:
        assert second.is_running()


@pytest.mark.kafka
def test_a_listener_with_a_login() -> None:
    login = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_ada="enchantress";'
    properties = {
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": login,
    }
    with broker.start("kafka", security="SASL_PLAINTEXT", properties=properties) as guarded:
        admin = KafkaAdminClient(
            bootstrap_servers=guarded.address,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
            sasl_plain_username="ada",
            sasl_plain_password="enchantress",  # noqa: S106 - of this test's broker
        )
        admin.create_topics([NewTopic("guarded", 1, 1)])
        admin.close()


@pytest.mark.parametrize("kind", KINDS)
def test_serving_ends_cleanly_on_sigterm(kind: str) -> None:
    code = f"from infra.broker import serve; serve({kind!r}, port=0, echo=lambda line: print(line, flush=True))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        words = serving.stdout.readline().split()
        port = int(words[4].rpartition(":")[2])
        assert probe.answers(port)
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(30) == 0
    assert not probe.answers(port)
    assert probe.port_is_free(port)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_owner_takes_the_broker_along(kind: str) -> None:
    code = f"import time, infra.broker as b; print(b.start({kind!r}).port, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        port = int(owner.stdout.readline())
        assert probe.answers(port)
        owner.kill()
    deadline = time.monotonic() + 20
    while not probe.port_is_free(port):
        assert time.monotonic() < deadline, "the broker outlived its owner"
        time.sleep(0.1)
