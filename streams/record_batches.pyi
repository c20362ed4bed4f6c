import numpy as np
from numpy.typing import NDArray

def index_records(
    data: bytes,
    start: int,
    end: int,
    first_offset: int,
    first_timestamp_ms: int,
    index: NDArray[np.int64],
) -> bool:
    """Find N records in ``data`` from ``start`` up to ``end``.

    Args:
        first_offset, first_timestamp_ms: of the batch, to which those of each record are relative.
        index: (N, 8) set to what ``operators.records.Records`` wants.

    Returns whether there are N, each as long as it says, and nothing else; the index is of no use where not.
    """
    ...
