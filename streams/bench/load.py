"""The open-loop load generator: a process of its own that sends events when they are due and receives the lists.

It is told what to do by one JSON object in its first argument and a JSON line on standard input for every step, and
answers each step with a JSON line. librdkafka sends and receives, so that the generator takes little of the
processor that the worker is measured on.
"""

import gc
import importlib
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from operators.events import JSON_HEADERS
from operators.partition import partition_of
from streams.bench.latency import NANOSECONDS_PER_MS, Answers, arrivals_ns, completed_per_s
from streams.bench.wire_list import decode_list

__all__ = ["LoadConfig", "Step", "StepResult", "Trace", "main"]

_TICK_S: Final = 0.0005
"""Shortest sleep between two looks at what is due."""
_LEAD_NS: Final = 200 * NANOSECONDS_PER_MS
_POLL_S: Final = 0.1
_FETCH_RECORDS: Final = 10_000
_SWITCH_S: Final = 0.0005
"""The receiving thread gets the interpreter at once, not after the 5 ms of the default."""


class Trace(msgspec.Struct, frozen=True):
    """Who does what, in order; sent again from the start when it is used up."""

    users: list[str]
    items: list[str]


class LoadConfig(msgspec.Struct, frozen=True):
    """What the process is told at its start."""

    broker: str
    topic: str
    lists_topic: str
    partitions: int
    trace_file: str


class Step(msgspec.Struct, frozen=True):
    """One stretch of load; events due in the first ``warm_up_s`` are not counted."""

    events_per_s: float
    warm_up_s: float
    seconds: float
    drain_s: float
    """How long nothing may come before the rest is taken for lost."""
    seed: int


class StepResult(msgspec.Struct, frozen=True):
    """What became of a step."""

    events: int
    """Counted ones."""
    missing: int
    """Of all events, those that no list has named."""
    completed_per_s: float
    """Events answered a second while the load was on, after the warm-up."""
    freshness_ms: dict[str, float]
    lateness_ms: dict[str, float]
    stages_ms: dict[str, dict[str, float]]


class _Prepared(NamedTuple):
    """Events of the trace, ready but for their time and number."""

    keys: list[bytes]
    partitions: list[int]
    heads: list[bytes]


def _prepare(trace: Trace, partitions: int) -> _Prepared:
    of_user = {user: partition_of(user.encode(), partitions) for user in set(trace.users)}
    heads = [
        b'{"user_id":%s,"item_id":%s,"timestamp":' % (msgspec.json.encode(user), msgspec.json.encode(item))
        for user, item in zip(trace.users, trace.items, strict=True)
    ]
    return _Prepared([user.encode() for user in trace.users], [of_user[user] for user in trace.users], heads)


class Generator:
    """Sends steps of load and waits for their lists."""

    def __init__(self, config: LoadConfig, kafka: Any) -> None:
        trace = msgspec.msgpack.decode(Path(config.trace_file).read_bytes(), type=Trace)
        self._config = config
        self._kafka = kafka
        self._events = _prepare(trace, config.partitions)
        self._sent = 0
        self._errors: list[str] = []
        self._producer = kafka.Producer(
            {
                "bootstrap.servers": config.broker,
                "acks": "all",
                "linger.ms": 1,
                "queue.buffering.max.messages": 2_000_000,
                "delivery.report.only.error": True,
                "on_delivery": self._note_error,
            }
        )
        self._next = self._ends()
        """Offset of the next event by partition: nobody else writes to the topic."""
        self._receiver = _Receiver(self._consumer(), config)
        self._receiver.start()

    def _consumer(self) -> Any:
        return self._kafka.Consumer(
            {
                "bootstrap.servers": self._config.broker,
                "group.id": "headwater-bench-load",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.error.backoff.ms": 5,
            }
        )

    def _note_error(self, error: Any, _message: Any) -> None:
        if error is not None:
            self._errors.append(str(error))

    def run(self, step: Step) -> StepResult:
        """Send, wait for the lists, and say what came of it.

        Raises:
            RuntimeError: the broker did not take an event.
        """
        due = arrivals_ns(int(step.events_per_s * (step.warm_up_s + step.seconds)), step.events_per_s, step.seed)
        bases = list(self._next)
        self._receiver.take()
        began_ns = time.time_ns() + _LEAD_NS
        answers = Answers.none_yet(due + began_ns)
        places = self._send(answers)
        ended_ns = time.time_ns()
        if self._producer.flush(60) or self._errors:
            raise RuntimeError(f"the broker did not take every event: {(self._errors or ['timed out'])[0]}")
        self._next = [base + len(sent) for base, sent in zip(bases, places, strict=True)]
        missing = self._collect(answers, places, bases, step.drain_s)
        self._read_appended(answers, places, bases)
        counted_from_ns = began_ns + int(step.warm_up_s * 1e9)
        rate = completed_per_s(answers.received_ns, counted_from_ns, max(ended_ns, counted_from_ns + 1))
        counted = answers.after(counted_from_ns)
        answered = Answers(*(column[counted.received_ns > 0] for column in counted))
        return StepResult(
            len(counted.due_ns),
            missing,
            rate,
            answered.freshness_ms(),
            counted.lateness_ms(),
            answered.stages_ms(),
        )

    def _send(self, answers: Answers) -> list[list[int]]:
        """Returns partition -> events in the order of their offsets."""
        events, topic, produce = self._events, self._config.topic, self._producer.produce
        places: list[list[int]] = [[] for _ in range(self._config.partitions)]
        due, sent = answers.due_ns, answers.sent_ns
        count, size, at = len(due), len(events.keys), 0
        headers = list(JSON_HEADERS)
        while at < count:
            until = int(np.searchsorted(due, time.time_ns(), "right"))
            for event, due_ns in enumerate(due[at:until].tolist(), at):
                number = self._sent + event
                place = number % size
                partition = events.partitions[place]
                value = b'%s%d,"event_id":"load-%d"}' % (events.heads[place], due_ns // NANOSECONDS_PER_MS, number)
                produce(topic, value, events.keys[place], partition=partition, headers=headers)
                places[partition].append(event)
            sent[at:until] = time.time_ns()
            at = until
            self._producer.poll(0)
            if at < count:
                time.sleep(max((int(due[at]) - time.time_ns()) / 1e9, _TICK_S))
        self._sent += count
        return places

    def _collect(self, answers: Answers, places: list[list[int]], bases: list[int], drain_s: float) -> int:
        """Match lists to events until every event has one; returns how many have none."""
        left, deadline = len(answers.due_ns), time.monotonic() + drain_s
        while left and time.monotonic() < deadline:
            for received_ns, message in self._receiver.take():
                wire = decode_list(message.value())
                events = [
                    places[cause.partition][cause.offset - bases[cause.partition]]
                    for cause in wire.caused_by
                    if cause.offset >= bases[cause.partition]
                ]
                fresh = answers.note(events, wire.generated_at, message.timestamp()[1], received_ns)
                if fresh:
                    left, deadline = left - fresh, time.monotonic() + drain_s
            time.sleep(_TICK_S)
        return left

    def _read_appended(self, answers: Answers, places: list[list[int]], bases: list[int]) -> None:
        """When the broker had each event, from the topic itself."""
        consumer, left = self._consumer(), sum(map(len, places))
        topic, partition_class = self._config.topic, self._kafka.TopicPartition
        consumer.assign([partition_class(topic, n, base) for n, base in enumerate(bases)])
        try:
            while left:
                messages: list[Any] = consumer.consume(_FETCH_RECORDS, _POLL_S)
                for message in messages:
                    partition: int = message.partition()
                    offset: int = message.offset()
                    event = places[partition][offset - bases[partition]]
                    answers.appended_ns[event] = message.timestamp()[1] * NANOSECONDS_PER_MS
                left -= len(messages)
        finally:
            consumer.close()

    def _ends(self) -> list[int]:
        consumer = self._consumer()
        try:
            return [
                consumer.get_watermark_offsets(self._kafka.TopicPartition(self._config.topic, n), 30)[1]
                for n in range(self._config.partitions)
            ]
        finally:
            consumer.close()

    def close(self) -> None:
        """Stop receiving."""
        self._receiver.close()


class _Receiver(threading.Thread):
    """Notes when each list comes; what is in it is looked at when the load is over."""

    def __init__(self, consumer: Any, config: LoadConfig) -> None:
        super().__init__(name="load-receiver", daemon=True)
        self._consumer = consumer
        self._config = config
        self._closing = False
        self._received: list[tuple[int, Any]] = []
        partition_class = importlib.import_module("confluent_kafka").TopicPartition
        topic = config.lists_topic
        ends = [consumer.get_watermark_offsets(partition_class(topic, n), 30)[1] for n in range(config.partitions)]
        consumer.assign([partition_class(topic, n, end) for n, end in enumerate(ends)])

    def run(self) -> None:
        consumer = self._consumer
        while not self._closing:
            first = consumer.poll(_POLL_S)
            if first is None or first.error() is not None:
                continue
            messages = [first, *consumer.consume(_FETCH_RECORDS, 0)]
            now_ns = time.time_ns()
            self._received.extend([(now_ns, message) for message in messages if message.error() is None])

    def take(self) -> list[tuple[int, Any]]:
        """What has come since the last call, oldest first."""
        taken = self._received[: len(self._received)]
        del self._received[: len(taken)]
        return taken

    def close(self) -> None:
        """Stop."""
        self._closing = True
        self.join(timeout=10)
        self._consumer.close()


def main() -> None:
    """Steps from standard input until it ends."""
    sys.setswitchinterval(_SWITCH_S)
    config = msgspec.json.decode(sys.argv[1], type=LoadConfig)
    generator = Generator(config, importlib.import_module("confluent_kafka"))
    gc.collect()
    gc.freeze()
    gc.disable()
    _answer({"ready": True})
    for line in sys.stdin.buffer:
        _answer(generator.run(msgspec.json.decode(line, type=Step)))
        gc.collect()
    generator.close()


def _answer(thing: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(thing) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
