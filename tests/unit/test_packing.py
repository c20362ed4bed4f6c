import numpy as np
import pytest

from models.packing import pack


@pytest.mark.parametrize("lengths", [[1], [3, 1, 2], [2, 2, 7, 1, 7]])
def test_waves_hold_every_event_once_and_a_sequence_keeps_its_column(lengths: list[int]) -> None:
    sizes = np.array(lengths)
    starts = 100 * np.arange(len(lengths))
    packed = pack(starts, sizes)
    assert sorted(packed.events.tolist()) == [100 * j + t for j, n in enumerate(lengths) for t in range(n)]
    assert (packed.events == 100 * packed.sequence + packed.step).all()
    assert packed.waves == [sum(n > t for n in lengths) for t in range(max(lengths))]
    assert packed.events[packed.ends].tolist() == (starts + sizes - 1).tolist()
    columns: list[int] = []
    for t, wave in enumerate(np.split(packed.sequence, np.cumsum(packed.waves)[:-1])):
        assert (packed.step[packed.sequence == wave[0]] >= 0).all()
        columns = columns or wave.tolist()
        assert wave.tolist() == columns[: packed.waves[t]]  # a prefix of the wave before
