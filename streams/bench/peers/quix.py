"""quixstreams: a stateful apply with a changelog, exactly once."""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false
# The package is that of an extra of its own.

import importlib
import sys
from typing import Any, Final

import msgspec

from streams.bench.peers.job import PeerConfig, Update, decode_interaction, new_job

__all__ = ["main"]

_KEY: Final = "user"


def main() -> None:
    """Run until SIGTERM."""
    config = msgspec.json.decode(sys.argv[1], type=PeerConfig)
    quix: Any = importlib.import_module("quixstreams")
    job = new_job(config.job)
    app = quix.Application(
        broker_address=config.broker,
        consumer_group=config.app_id,
        auto_offset_reset="earliest",
        state_dir=config.data_dir,
        processing_guarantee="exactly-once",
        loglevel="WARNING",
    )
    events = app.topic(config.topic, key_deserializer="bytes", value_deserializer="bytes")
    lists = app.topic(config.recommendations, key_serializer="bytes", value_serializer="bytes")

    def personalize(value: bytes, key: bytes, _timestamp: int, _headers: Any, state: Any) -> bytes:
        context = quix.message_context()
        event = decode_interaction(value, context.partition, context.offset)
        ((stored, ranked),) = job.run([Update(state.get_bytes(_KEY), key.decode(), [event])])
        state.set_bytes(_KEY, stored)
        return ranked

    app.dataframe(events).apply(personalize, stateful=True, metadata=True).to_topic(lists)
    app.run()


if __name__ == "__main__":
    main()
