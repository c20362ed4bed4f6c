"""The system's refusals in words, and the limit of open files: raised, shared out or refused."""

import errno
import os
import resource

import pytest

from operators import limits
from streams.resources import SystemLimitError, explained, open_files_of_partition

ENDLESS = resource.RLIM_INFINITY
WANTED = limits.open_files_others_max + 4 * limits.open_files_of_partition_max


@pytest.mark.parametrize(
    ("allowed", "most", "each", "raised_to"),
    [
        (ENDLESS, ENDLESS, limits.open_files_of_partition_max, None),
        (WANTED, WANTED, limits.open_files_of_partition_max, None),
        (1_024, ENDLESS, limits.open_files_of_partition_max, WANTED),
        (256, 65_536, limits.open_files_of_partition_max, WANTED),
        (200, 528, 100, 528),
        (256, 256, limits.open_files_of_partition_min, 256),
    ],
)
def test_the_limit_is_raised_and_shared_out(
    monkeypatch: pytest.MonkeyPatch, allowed: int, most: int, each: int, raised_to: int | None
) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (allowed, most))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: raised.append(both))
    assert open_files_of_partition(4) == each
    assert raised == ([] if raised_to is None else [(raised_to, most)])


def test_too_few_are_refused_with_the_number_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 255))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with pytest.raises(SystemLimitError, match=r"may open 255 files, and 4 partitions need 256: raise .*ulimit -n"):
        open_files_of_partition(4)


def test_an_error_of_the_system_comes_with_what_to_do() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/state/0")
    assert explained(full).endswith(
        "'/state/0'. Make room on that disk, or give worker.data_dir a larger one, and start again"
    )
    assert "LimitNOFILE" in explained(Exception("IO error: While open a file: /state/0/1.sst: Too many open files"))
    assert explained(Exception("Corruption"), "Look") == "Corruption. Look"
