import numpy as np
from numpy.typing import NDArray

def decode_plain(
    data: bytes,
    index: NDArray[np.int64],
    latest_ms: int,
    is_plain: NDArray[np.uint8],
    times_ms: NDArray[np.int64],
) -> tuple[list[bytes | None], list[str | None], list[bytes | None]]:
    """Decode the plain events among N records.

    Args:
        data, index: of ``operators.records.Records``.
        latest_ms: event times beyond it are not plain.
        is_plain: (N,) set to 1 for each record that is a plain event, to 0 for every other.
        times_ms: (N,) set to the event time of each plain event.

    Returns key, item id and event id of each record; None where it is not plain, and for an event without an id.
    """
    ...
