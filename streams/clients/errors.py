"""Errors that a command shows as one line; the message says what is wrong and what to do next."""

from typing import ClassVar

__all__ = ["ClientError", "InputError"]


class ClientError(Exception):
    """Something outside the command's input failed: a broker, a topic, a file system."""

    exit_code: ClassVar[int] = 1


class InputError(ClientError):
    """What the user gave (an argument, a file, a line) cannot be used as it is."""

    exit_code: ClassVar[int] = 2
