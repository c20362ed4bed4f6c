"""A plain Faust agent, as Faust's documentation writes one: an event at a time, settings at their defaults.

The user's value is read from a standard RocksDB table, one encoder step and one exact top k are run for one user, the
value is stored and one list is sent. In its favour: it checks no input, and its popularity counts do not survive.
"""

# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false, reportUnknownVariableType=false
# Faust is not typed throughout.

import sys
from typing import Any

import faust
import msgspec

from streams.bench.peers.job import Interaction, PeerConfig, Update, new_job

__all__ = ["main"]


class Purchase(faust.Record, serializer="json"):
    """An event."""

    user_id: str
    item_id: str
    timestamp: int


def build(config: PeerConfig) -> Any:
    """The app with its table and its agent."""
    app: Any = faust.App(
        config.app_id,
        broker=f"kafka://{config.broker}",
        store="rocksdb://",
        datadir=config.data_dir,
        topic_partitions=config.partitions,
        web_enabled=False,
    )
    events = app.topic(config.topic, key_serializer="raw", value_type=Purchase)
    lists = app.topic(config.recommendations, key_serializer="raw", value_serializer="raw")
    users = app.Table("users", partitions=config.partitions, key_type=bytes, value_type=bytes)
    job = new_job(config.job)

    @app.agent(events, name="personalize")
    async def personalize(stream: Any) -> None:
        async for event in stream.events():
            message, value = event.message, event.value
            interaction = Interaction(value.item_id, value.timestamp, message.partition, message.offset)
            update = Update(users.get(event.key), value.user_id, [interaction])
            ((users[event.key], ranked),) = job.run([update])
            await lists.send(key=event.key, value=ranked, headers={"content-type": b"application/json"})

    del personalize
    return app


def main() -> None:
    """Run the agent until SIGTERM."""
    config = msgspec.json.decode(sys.argv.pop(1), type=PeerConfig)
    faust.Worker(build(config), loglevel="WARNING").execute_from_commandline()


if __name__ == "__main__":
    main()
