"""Pathway: a stateful reducer over each user's events, with persistence.

A user's events of one of Pathway's own batches make one call and one list, so that it sends fewer lists than there are
events. The reducer is called for one user at a time, and so is the encoder.

Without a licence key Pathway persists its input and makes the state from it again after a kill; to save the state
itself it asks for a key (``FULL-PERSISTENCE``). Without one it sends no telemetry.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedFunctionDecorator=false
# The package is that of an extra of its own.

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from operators import limits
from operators.events import JSON_HEADERS
from streams.bench.peers.job import Interaction, PeerConfig, PeerJob, Update, new_job

__all__ = ["State", "combiner", "main"]

State = tuple[bytes, bytes]
"""A user's stored value, and the list that the last batch made."""

_COMMIT_MS: Final = 100
"""As in Pathway's Kafka template: the end of a batch that stays smaller."""
_SNAPSHOT_MS: Final = 5_000
"""As in Pathway's own word count. At the default of 0 it would write all it has read anew with every batch."""


def main() -> None:
    """Run until SIGTERM."""
    config = msgspec.json.decode(sys.argv[1], type=PeerConfig)
    pw: Any = importlib.import_module("pathway")
    pw.set_license_key(None)  # one in the environment would change what is measured
    _flow(pw, config, new_job(config.job))
    backend = pw.persistence.Backend.filesystem(config.data_dir)
    persistence = pw.persistence.Config(backend, snapshot_interval_ms=_SNAPSHOT_MS)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE, persistence_config=persistence)


def combiner(job: PeerJob) -> Callable[[State | None, Sequence[tuple[Sequence[Any], int]]], State]:
    """The reducer's function: a user's state and rows of one time, in no order, to the new state.

    A row is user, item, timestamp in ms, partition and offset; its count is 1, for the topic is read as append-only.
    """

    def combine(state: State | None, rows: Sequence[tuple[Sequence[Any], int]]) -> State:
        user = rows[0][0][0]
        events = sorted((Interaction(*row[1:]) for row, _ in rows), key=lambda event: event.offset)
        (done,) = job.run([Update(state[0] if state else None, user, events)])
        return done

    return combine


def _flow(pw: Any, config: PeerConfig, job: PeerJob) -> None:
    purchases = pw.io.kafka.read(
        {"bootstrap.servers": config.broker, "group.id": config.app_id, "auto.offset.reset": "earliest"},
        topic=config.topic,
        format="json",
        schema=pw.schema_from_types(user_id=str, item_id=str, timestamp=int),
        with_metadata=True,
        autocommit_duration_ms=_COMMIT_MS,
        max_backlog_size=limits.batch_events_max,  # Pathway advises a few thousand; a batch that reaches it ends
        name="purchases",
    )
    events = purchases.select(
        pw.this.user_id,
        pw.this.item_id,
        pw.this.timestamp,
        partition=pw.this._metadata["partition"].as_int(unwrap=True),
        offset=pw.this._metadata["offset"].as_int(unwrap=True),
    )
    personalize = pw.reducers.stateful_many(combiner(job))
    users = events.groupby(pw.this.user_id).reduce(
        pw.this.user_id,
        state=personalize(pw.this.user_id, pw.this.item_id, pw.this.timestamp, pw.this.partition, pw.this.offset),
    )
    # As a stream of changes: a table would send what each list replaces as well.
    lists = users.to_stream().select(
        key=pw.apply_with_type(str.encode, bytes, pw.this.user_id),
        value=pw.declare_type(bytes, pw.this.state[1]),
        **{name: value.decode() for name, value in JSON_HEADERS},
    )
    pw.io.kafka.write(
        lists,
        {"bootstrap.servers": config.broker, "partitioner": "murmur2_random"},
        config.recommendations,
        format="raw",
        key=lists.key,
        value=lists.value,
        headers=[lists[name] for name, _ in JSON_HEADERS],
    )


if __name__ == "__main__":
    main()
