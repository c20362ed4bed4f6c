"""Pseudonyms: who has the key computes them, who has not cannot, and no plain id gets past the door."""

from typing import Any

import msgspec
import pytest

from operators.batches import Chunk, UserKey, decode_chunks
from operators.candidates.popularity import Popularity
from operators.erasure import ERASURE
from operators.privacy import Pseudonyms
from operators.process import process_batch
from operators.ranking import Policy
from operators.state import UserState
from streams.dead_letters import headers_of, value_of, withheld
from streams.settings import PrivacySettings, SettingsError, load_settings
from tests.fakes import NOW_MS, FakeEncoder, FakeRecord, chunk, items, record

SECRET = "0123456789abcdef0123456789abcdef"  # noqa: S105 - of these tests
PLAIN = b"ann-the-user"


def test_the_same_secret_gives_the_same_pseudonym_and_another_gives_another() -> None:
    ours, same, other = Pseudonyms(b"a" * 32), Pseudonyms(b"a" * 32), Pseudonyms(b"b" * 32)
    assert ours(PLAIN) == same(PLAIN) != other(PLAIN)
    assert ours(PLAIN) != ours(b"bob")
    assert len(ours(PLAIN)) == 32
    assert int(ours(PLAIN), 16)
    assert Pseudonyms(b"a" * 200)(PLAIN) != ours(PLAIN)


def test_no_plain_id_leaves_the_core() -> None:
    pseudonyms = Pseudonyms(SECRET.encode())
    user = UserKey(1, pseudonyms(PLAIN))
    erase = msgspec.json.encode({"user_id": PLAIN.decode(), "timestamp": 5})
    chunks = [
        chunk(0, 1, [record(0, PLAIN.decode(), "item-1", 9_000)]),
        Chunk.of("erase", ERASURE, 1, [FakeRecord(0, PLAIN, erase)]),
    ]
    batch = decode_chunks(chunks, NOW_MS, pseudonyms)
    assert batch.users == batch.touched == [user]
    options: dict[str, Any] = {"topics": ("v", "c", "p", "e"), "withdrawn": frozenset(), "now_ms": NOW_MS}
    effects = process_batch(
        batch, {user: UserState()}, {1: Popularity()}, FakeEncoder(items(3)), Policy(list_items=2), **options
    )
    assert [put.user for put in effects.puts] == [user]
    assert msgspec.json.decode(effects.lists[0].value)["user_id"] == user.key.decode()
    assert PLAIN not in repr(effects).encode()


def test_a_withheld_dead_letter_says_where_the_record_is_and_nothing_of_it() -> None:
    bad = FakeRecord(7, PLAIN, b'{"user_id": "ann-the-user"}', [("trace", PLAIN)])
    batch = decode_chunks([Chunk.of("view", 0, 3, [bad])], NOW_MS)
    (letter,) = batch.dead_letters
    kept = withheld(letter)
    assert (kept.record.key, value_of(kept)) == (None, None)
    headers = dict(headers_of(kept))
    assert (headers["dl_topic"], headers["dl_partition"], headers["dl_offset"]) == (b"view", b"3", b"7")
    assert headers["dl_code"] == b"schema"
    assert PLAIN not in repr((kept, headers)).encode()


def test_the_key_comes_from_a_file_or_the_environment(tmp_path: Any) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET + "\n")
    by_file = load_settings(environ={"HEADWATER_PRIVACY_PSEUDONYM_KEY_FILE": str(file)})
    by_name = load_settings(environ={"HEADWATER_PRIVACY_PSEUDONYM_KEY": SECRET})
    assert by_file.privacy.key_of("ann") == by_name.privacy.key_of("ann") != b"ann"
    assert load_settings(environ={}).privacy.key_of("ann") == b"ann"
    assert SECRET not in repr(by_name) + repr(by_file)


@pytest.mark.parametrize("key", ["", "short"])
def test_a_key_that_is_too_short_is_refused(key: str) -> None:
    with pytest.raises(SettingsError, match="32 characters"):
        PrivacySettings(pseudonym_key=key).pseudonyms()


def test_a_key_in_the_settings_file_is_refused(tmp_path: Any) -> None:
    file = tmp_path / "headwater.toml"
    file.write_text(f'[privacy]\npseudonym_key = "{SECRET}"\n')
    with pytest.raises(SettingsError, match=r"privacy\.pseudonym_key does not belong in a file"):
        load_settings(str(file), environ={})


def test_a_key_file_that_is_not_there_is_named(tmp_path: Any) -> None:
    with pytest.raises(SettingsError, match="pseudonym_key_file"):
        PrivacySettings(pseudonym_key_file=str(tmp_path / "absent")).pseudonyms()
