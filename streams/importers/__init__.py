"""Published data sets as events: one module per format, recognised by the first line of the file."""

import gzip
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Final, cast

from operators import limits
from streams.clients.errors import InputError
from streams.importers import movielens, otto, rees46, retailrocket, taobao, yoochoose
from streams.importers.base import Layout, Row

__all__ = ["FORMATS", "EventFile"]

FORMATS: Final[dict[str, Callable[[str], Layout | None]]] = {
    "movielens": movielens.layout,
    "taobao": taobao.layout,
    "retailrocket": retailrocket.layout,
    "rees46": rees46.layout,
    "yoochoose": yoochoose.layout,
    "otto": otto.layout,
}


class EventFile:
    """The events of one file, in the order of the file; iterate it once.

    Attributes:
        format: the name in ``FORMATS`` that the file has.
        skipped: bad lines passed over so far.
    """

    def __init__(self, path: Path, format_name: str = "auto", *, skip_bad: bool = False) -> None:
        """``format_name`` is a name in ``FORMATS``, or "auto"; a ``.gz`` file is unpacked on the way.

        Raises:
            InputError: no such file, an unknown format, or a first line of another format.
        """
        self.skipped = 0
        self._path = path
        self._skip_bad = skip_bad
        self.format, self._layout = _recognise(path, format_name)

    def __iter__(self) -> Iterator[Row]:
        """Event type and event.

        Raises:
            InputError: a bad line, with the file and the number of the line; unless ``skip_bad``.
        """
        for number, raw in _lines(self._path):
            if number <= self._layout.header_lines or not raw.strip():
                continue
            try:
                rows = list(self._layout.parse(_text(raw)))
            except (ValueError, OverflowError) as error:
                if not self._skip_bad:
                    raise InputError(
                        f"{self._path}:{number}: {error}; mend the line or leave it out with --skip-bad"
                    ) from error
                self.skipped += 1
                continue
            yield from rows


def _recognise(path: Path, format_name: str) -> tuple[str, Layout]:
    if format_name != "auto" and format_name not in FORMATS:
        raise InputError(f"format {format_name!r} is unknown; one of auto, {', '.join(FORMATS)}")
    try:
        first = next((_text(raw) for _, raw in _lines(path)), "")
    except ValueError as error:
        raise InputError(f"{path}:1: {error}; is this a data file?") from error
    for name in FORMATS if format_name == "auto" else (format_name,):
        layout = FORMATS[name](first)
        if layout is not None:
            return name, layout
    known = ", ".join(FORMATS)
    if format_name == "auto":
        raise InputError(f"{path}: its first line is of no known format ({known}); it begins {first[:60]!r}")
    raise InputError(f"{path}: its first line is not of format {format_name!r}; it begins {first[:60]!r}")


def _lines(path: Path) -> Generator[tuple[int, bytes], None, None]:
    try:
        with cast(IO[bytes], gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            number = 0
            while raw := file.readline(limits.import_line_bytes_max + 1):
                number += 1
                yield number, raw
                while len(raw) > limits.import_line_bytes_max and not raw.endswith(b"\n"):
                    raw = file.readline(limits.import_line_bytes_max + 1)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot read it ({reason}); check the path") from error


def _text(raw: bytes) -> str:
    if len(raw) > limits.import_line_bytes_max:
        raise ValueError(f"the line is longer than {limits.import_line_bytes_max} bytes")
    return raw.decode("utf-8-sig").rstrip("\r\n")
