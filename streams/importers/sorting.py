"""External merge sort: events in event-time order in bounded memory, whatever the order of their file."""

import heapq
import struct
import tempfile
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Final, NamedTuple, Self

from operators import limits
from streams.clients.errors import ClientError

__all__ = ["Sorter", "TimedEvent"]

_HEADER: Final = struct.Struct("<qqBHI")
_BUFFER_BYTES: Final = 256 * 1024


class TimedEvent(NamedTuple):
    """An event ready to send; tuples compare by time, then by their place in the source."""

    timestamp_ms: int
    sequence: int
    """Place in the source, from 0."""
    event_type: int
    """Index into ``EVENT_TYPES``."""
    key: bytes
    """User id."""
    value: bytes
    """JSON."""


class Sorter:
    """Takes events in any order, gives them back in order; temporary files live until it is left.

    Attributes:
        count: events taken.
    """

    def __init__(
        self,
        chunk_events_max: int = limits.sort_chunk_events_max,
        files_max: int = limits.sort_files_max,
    ) -> None:
        self.count = 0
        self._chunk_events_max = chunk_events_max
        self._files_max = files_max
        self._chunk: list[TimedEvent] = []
        self._files: list[Path] = []
        self._files_made = 0
        self._directory = tempfile.TemporaryDirectory(prefix="headwater-sort-")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._directory.cleanup()

    def add(self, events: Iterable[TimedEvent]) -> None:
        """Take events.

        Raises:
            ClientError: a temporary file cannot be written.
        """
        for event in events:
            self._chunk.append(event)
            self.count += 1
            if len(self._chunk) >= self._chunk_events_max:
                self._chunk.sort()
                self._spill(self._chunk)
                self._chunk = []
                if len(self._files) >= self._files_max:
                    self._fold()

    def __iter__(self) -> Iterator[TimedEvent]:
        """Every event taken, by time, then by place in the source; may be iterated again."""
        self._chunk.sort()
        return heapq.merge(*map(_load, self._files), self._chunk)

    def _fold(self) -> None:
        merged = self._files
        self._files = []
        self._spill(heapq.merge(*map(_load, merged)))
        for path in merged:
            path.unlink()

    def _spill(self, events: Iterable[TimedEvent]) -> None:
        path = Path(self._directory.name) / f"{self._files_made}"
        self._files_made += 1
        try:
            with path.open("wb", buffering=_BUFFER_BYTES) as file:
                for event in events:
                    _write(file, event)
        except OSError as error:
            raise ClientError(
                f"cannot write the temporary file {path} ({error.strerror}); free space or set TMPDIR"
            ) from error
        self._files.append(path)


def _write(file: IO[bytes], event: TimedEvent) -> None:
    timestamp_ms, sequence, event_type, key, value = event
    file.write(_HEADER.pack(timestamp_ms, sequence, event_type, len(key), len(value)))
    file.write(key)
    file.write(value)


def _load(path: Path) -> Generator[TimedEvent, None, None]:
    with path.open("rb", buffering=_BUFFER_BYTES) as file:
        while header := file.read(_HEADER.size):
            timestamp_ms, sequence, event_type, key_bytes, value_bytes = _HEADER.unpack(header)
            key = file.read(key_bytes)
            yield TimedEvent(timestamp_ms, sequence, event_type, key, file.read(value_bytes))
