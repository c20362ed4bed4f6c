"""The agent: takes chunks of view, click and purchase records from Faust and hands them to the engine."""

from collections.abc import Mapping
from typing import Any

from operators.batches import Chunk
from streams.engine import Engine
from streams.intake import Intake
from streams.transport import ChunkSchema

__all__ = ["add_agent"]


def add_agent(app: Any, engine: Engine, event_types: Mapping[str, int]) -> None:
    """Register the one agent of the app.

    Args:
        event_types: name of an event topic -> index of its type.
    """
    channel = app.topic(*event_types, schema=ChunkSchema(), internal=False)

    async def personalize(stream: Any) -> None:
        # Acknowledgement is the engine's: see ChunkConsumer.settle.
        async for event in stream.noack().events():
            message = event.message
            await engine.submit(
                Intake(tp, Chunk(tp.topic, event_types[tp.topic], tp.partition, records), message.generation_id)
                for tp, records in message.value.items()
            )

    app.agent(channel, name="personalize")(personalize)
