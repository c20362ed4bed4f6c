"""A bare confluent-kafka and rocksdict loop: the mark of Python without a framework.

It takes micro-batches as Headwater does. It restores nothing from Kafka and knows no rebalance: its state survives
a kill on the same disk only.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# The packages are those of an extra of its own.

import importlib
import signal
import sys
from collections import defaultdict
from typing import Any, Final

import msgspec
from rocksdict import Options, Rdict, WriteBatch

from operators import limits
from operators.events import JSON_HEADERS
from streams.bench.peers.job import Interaction, PeerConfig, Update, decode_interaction, new_job

__all__ = ["main"]

_WAIT_S: Final = 0.05


def main() -> None:
    """Run until SIGTERM."""
    config = msgspec.json.decode(sys.argv[1], type=PeerConfig)
    kafka: Any = importlib.import_module("confluent_kafka")
    job, stopping = new_job(config.job), list[int]()
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    settings = {"bootstrap.servers": config.broker}
    consumer = kafka.Consumer(
        {**settings, "group.id": config.app_id, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    )
    producer = kafka.Producer({**settings, "acks": "all", "linger.ms": 0, "queue.buffering.max.messages": 1_000_000})
    users = Rdict(config.data_dir, Options(raw_mode=True))
    consumer.subscribe([config.topic])
    while not stopping:
        messages = [
            message for message in consumer.consume(limits.batch_events_max, _WAIT_S) if message.error() is None
        ]
        if not messages:
            continue
        events: defaultdict[bytes, list[Interaction]] = defaultdict(list)
        for message in messages:
            events[message.key()].append(decode_interaction(message.value(), message.partition(), message.offset()))
        stored: Any = users.get(list(events))
        done = job.run(
            [Update(value, key.decode(), of_user) for (key, of_user), value in zip(events.items(), stored, strict=True)]
        )
        batch = WriteBatch(raw_mode=True)
        for (key, of_user), (value, ranked) in zip(events.items(), done, strict=True):
            batch.put(key, value)
            partition = of_user[0].partition
            producer.produce(config.recommendations, ranked, key, partition=partition, headers=list(JSON_HEADERS))
        producer.flush()
        users.write(batch)
        consumer.commit(asynchronous=True)
    consumer.close()
    users.close()


if __name__ == "__main__":
    main()
