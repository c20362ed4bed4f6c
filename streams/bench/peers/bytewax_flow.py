"""bytewax: a stateful map (an event at a time) or a stateful batch (a user's events of a batch), with recovery."""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false
# The package is that of an extra of its own.

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import bytewax.operators as op
import msgspec
from bytewax._bytewax import cli_main, init_db_dir
from bytewax.connectors import kafka
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.recovery import RecoveryConfig

from operators.events import JSON_HEADERS
from streams.bench.peers.job import Interaction, PeerConfig, PeerJob, Update, decode_interaction, new_job

__all__ = ["main"]

_PARTITION_EVENTS: Final = 4_000
"""Of one partition in a batch: a list is then of as many events as Headwater's, whose batches are of all partitions."""
_EPOCH_S: Final = 10
"""bytewax's own default between two snapshots."""


def main() -> None:
    """Run until SIGTERM. The second argument is "map" or "batch"."""
    config = msgspec.json.decode(sys.argv[1], type=PeerConfig)
    flow = _flow(config, new_job(config.job), sys.argv[2] == "batch")
    directory = Path(config.data_dir)
    directory.mkdir(parents=True, exist_ok=True)
    if not any(directory.iterdir()):
        init_db_dir(directory, 1)
    cli_main(flow, epoch_interval=timedelta(seconds=_EPOCH_S), recovery_config=RecoveryConfig(str(directory)))


def _flow(config: PeerConfig, job: PeerJob, in_batches: bool) -> Any:
    brokers = [config.broker]
    flow = Dataflow(config.app_id)
    source = kafka.KafkaSource(brokers, [config.topic], tail=True, batch_size=_PARTITION_EVENTS)
    events = op.map("decode", op.input("events", flow, source), _keyed)

    def update(stored: bytes | None, event: Interaction, user: str) -> tuple[bytes, bytes]:
        return job.run([Update(stored, user, [event])])[0]

    if in_batches:

        class Batch(StatefulBatchLogic):  # type: ignore[type-arg, misc]
            def __init__(self, stored: Any) -> None:
                self.stored: bytes | None = stored[1] if stored else None
                self.user: str = stored[0] if stored else ""

            def on_batch(self, values: list[tuple[str, Interaction]]) -> Any:
                self.user = values[0][0]
                ((self.stored, ranked),) = job.run([Update(self.stored, self.user, [event for _, event in values])])
                return [ranked], StatefulBatchLogic.RETAIN

            def snapshot(self) -> Any:
                return self.user, self.stored

        lists = op.stateful_batch("personalize", events, Batch)
    else:

        def step(stored: bytes | None, value: tuple[str, Interaction]) -> tuple[bytes, bytes]:
            return update(stored, value[1], value[0])

        lists = op.stateful_map("personalize", events, step)
    messages = op.map("message", lists, _message)
    op.output("lists", messages, kafka.KafkaSink(brokers, config.recommendations))
    return flow


def _keyed(message: Any) -> tuple[str, tuple[str, Interaction]]:
    user = message.key.decode()
    return user, (user, decode_interaction(message.value, message.partition, message.offset))


def _message(keyed: tuple[str, bytes]) -> Any:
    user, value = keyed
    return kafka.KafkaSinkMessage(user.encode(), value, headers=list(JSON_HEADERS))


if __name__ == "__main__":
    main()
