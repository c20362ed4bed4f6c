"""Pseudonyms: a keyed digest stands where a user id stood."""

from hashlib import blake2b
from typing import Final

__all__ = ["Pseudonyms"]

_KEY_PERSON: Final = b"headwater-key"
_USER_PERSON: Final = b"headwater-user"
_DIGEST_BYTES: Final = 16


class Pseudonyms:
    """User id in UTF-8 -> 32 hexadecimal characters, the same for the same secret; keyed BLAKE2b."""

    def __init__(self, secret: bytes) -> None:
        self._key = blake2b(secret, digest_size=32, person=_KEY_PERSON).digest()

    def __call__(self, user_id: bytes) -> bytes:
        return blake2b(user_id, digest_size=_DIGEST_BYTES, key=self._key, person=_USER_PERSON).hexdigest().encode()
