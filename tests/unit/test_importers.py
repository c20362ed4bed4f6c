"""streams.importers: every published format, bad lines, and the external sort."""

import gzip
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.dataset import Product
from operators import limits
from streams.clients.errors import InputError
from streams.importers import FORMATS, EventFile
from streams.importers.base import iso_ms
from streams.importers.sorting import Sorter, TimedEvent
from streams.importers.source import Period, open_source

SAMPLES: dict[str, tuple[str, str, list[tuple[str, dict[str, Any]]]]] = {
    "MovieLens 100k u.data": (
        "movielens",
        "196\t242\t3\t881250949\n186\t302\t5\t891717742\n",
        [
            ("click", {"user_id": "196", "item_id": "242", "timestamp": 881250949000, "value": 3.0}),
            ("click", {"user_id": "186", "item_id": "302", "timestamp": 891717742000, "value": 5.0}),
        ],
    ),
    "MovieLens 100k RecBole": (
        "movielens",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n",
        [("click", {"user_id": "196", "item_id": "242", "timestamp": 881250949000, "value": 3.0})],
    ),
    "MovieLens 1M ratings.dat": (
        "movielens",
        "1::1193::5::978300760\r\n",
        [("click", {"user_id": "1", "item_id": "1193", "timestamp": 978300760000, "value": 5.0})],
    ),
    "MovieLens latest ratings.csv": (
        "movielens",
        "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n",
        [("click", {"user_id": "1", "item_id": "31", "timestamp": 1260759144000, "value": 2.5})],
    ),
    "Taobao": (
        "taobao",
        "1,2268318,2520377,pv,1511544070\n1,2333346,2520771,fav,1511561733\n"
        "1,2576651,149192,cart,1511572885\n100,1603476,2951233,buy,1511579908\n",
        [
            (kind, {"user_id": user, "item_id": item, "timestamp": when, "context": context})
            for kind, user, item, when, context in (
                ("view", "1", "2268318", 1511544070000, {"category": "2520377", "behaviour": "pv"}),
                ("click", "1", "2333346", 1511561733000, {"category": "2520771", "behaviour": "fav"}),
                ("click", "1", "2576651", 1511572885000, {"category": "149192", "behaviour": "cart"}),
                ("purchase", "100", "1603476", 1511579908000, {"category": "2951233", "behaviour": "buy"}),
            )
        ],
    ),
    "RetailRocket": (
        "retailrocket",
        "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n"
        "1433221999827,102019,addtocart,150318,\n1433222276276,599528,transaction,356475,4000\n",
        [
            ("view", {"user_id": "257597", "item_id": "355908", "timestamp": 1433221332117}),
            ("click", {"user_id": "102019", "item_id": "150318", "timestamp": 1433221999827}),
            (
                "purchase",
                {
                    "user_id": "599528",
                    "item_id": "356475",
                    "timestamp": 1433222276276,
                    "context": {"transaction": "4000"},
                },
            ),
        ],
    ),
    "RetailRocket sessions": (
        "retailrocket",
        "timestamp\tuser_id\titem_id\tsession_id\n1442004589\t0\t285930\t7\n",
        [("view", {"user_id": "0", "item_id": "285930", "timestamp": 1442004589000, "session_id": "7"})],
    ),
    "REES46": (
        "rees46",
        "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
        "2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,,shiseido,35.79,541312140,72d76fde\n"
        "2019-10-01 00:00:01 UTC,remove_from_cart,1,2,,,1.00,3,4\n"
        "2019-10-01 00:02:14 UTC,purchase,1004856,2053013555631882655,electronics.smartphone,,130.76,5,\n",
        [
            (
                "view",
                {
                    "user_id": "541312140",
                    "item_id": "44600062",
                    "timestamp": 1569888000000,
                    "session_id": "72d76fde",
                    "value": 35.79,
                    "context": {"brand": "shiseido"},
                },
            ),
            (
                "purchase",
                {
                    "user_id": "5",
                    "item_id": "1004856",
                    "timestamp": 1569888134000,
                    "value": 130.76,
                    "context": {"category": "electronics.smartphone"},
                },
            ),
        ],
    ),
    "YooChoose clicks": (
        "yoochoose",
        "1,2014-04-07T10:51:09.277Z,214536502,0\n",
        [
            (
                "click",
                {
                    "user_id": "1",
                    "item_id": "214536502",
                    "timestamp": 1396867869277,
                    "session_id": "1",
                    "context": {"category": "0"},
                },
            )
        ],
    ),
    "YooChoose buys": (
        "yoochoose",
        "420374,2014-04-06T18:44:58.314Z,214537888,12462,1\n",
        [
            (
                "purchase",
                {
                    "user_id": "420374",
                    "item_id": "214537888",
                    "timestamp": 1396809898314,
                    "session_id": "420374",
                    "value": 12462.0,
                    "context": {"quantity": 1},
                },
            )
        ],
    ),
    "YooChoose re-cut": (
        "yoochoose",
        "SessionId\tItemId\tTime\n3\t214716935\t1396437466.94\n",
        [("click", {"user_id": "3", "item_id": "214716935", "timestamp": 1396437466940, "session_id": "3"})],
    ),
    "YooChoose re-cut without header": (
        "yoochoose",
        "1\t214536502\t1396860669.277\n",
        [("click", {"user_id": "1", "item_id": "214536502", "timestamp": 1396860669277, "session_id": "1"})],
    ),
    "OTTO": (
        "otto",
        '{"session":12,"events":[{"aid":15,"ts":1659304800025,"type":"clicks"},'
        '{"aid":16,"ts":1659304900000,"type":"carts"},{"aid":16,"ts":1659304900001,"type":"orders"}]}\n',
        [
            ("view", {"user_id": "12", "item_id": "15", "timestamp": 1659304800025, "session_id": "12"}),
            ("click", {"user_id": "12", "item_id": "16", "timestamp": 1659304900000, "session_id": "12"}),
            ("purchase", {"user_id": "12", "item_id": "16", "timestamp": 1659304900001, "session_id": "12"}),
        ],
    ),
}

TAOBAO_LINE = "1,2,3,pv,1511544070\n"


def _file(directory: Path, text: str, name: str = "sample") -> Path:
    path = directory / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", SAMPLES)
def test_a_published_format_is_recognised_and_read(name: str, tmp_path: Path) -> None:
    expected_format, text, expected = SAMPLES[name]
    path = _file(tmp_path, text)
    recognised = EventFile(path)
    assert recognised.format == expected_format
    assert list(recognised) == expected
    assert list(EventFile(path, expected_format)) == expected


@pytest.mark.parametrize("name", SAMPLES)
def test_no_format_claims_a_file_of_another(name: str) -> None:
    expected_format, text, _ = SAMPLES[name]
    first = text.splitlines()[0]
    assert [known for known in FORMATS if FORMATS[known](first)] == [expected_format]


def test_a_time_without_zone_is_utc_wherever_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert iso_ms("2019-10-01 00:00:00 UTC") == iso_ms("2019-10-01") == 1569888000000
        assert iso_ms("2019-10-01T02:00:00+02:00") == 1569888000000
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_gzip_file_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "clicks.gz"
    path.write_bytes(gzip.compress(TAOBAO_LINE.encode()))
    assert len(list(EventFile(path))) == 1


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("1,2,3,pv", "4 fields where 5"),
        ("1,2,3,wink,1511544070", "'wink' is none of"),
        ("1,2,3,pv,soon", "could not convert"),
        ("1,2,3,pv,nan", "not a finite number"),
        ("1,2,3,pv,-5", "not between 1970 and 2100"),
        ("1,2,3,pv,1e300", "not between 1970 and 2100"),
        (",2,3,pv,1511544070", "user id has 0 bytes"),
        (f"{'x' * 129},2,3,pv,1511544070", "user id has 129 bytes"),
    ],
)
def test_a_bad_line_is_named_or_skipped(bad: str, why: str, tmp_path: Path) -> None:
    path = _file(tmp_path, TAOBAO_LINE + bad + "\n" + TAOBAO_LINE)
    with pytest.raises(InputError, match=f"{path}:2: .*{why}.*--skip-bad"):
        list(EventFile(path))
    tolerant = EventFile(path, skip_bad=True)
    assert len(list(tolerant)) == 2
    assert tolerant.skipped == 1


def test_a_line_without_end_takes_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "import_line_bytes_max", 100)
    path = _file(tmp_path, TAOBAO_LINE + "x" * 1000 + "\n" + TAOBAO_LINE)
    tolerant = EventFile(path, skip_bad=True)
    assert len(list(tolerant)) == 2
    assert tolerant.skipped == 1


@pytest.mark.parametrize(
    ("text", "format_name", "why"),
    [
        ("what is this\n", "auto", "of no known format"),
        ("", "auto", "of no known format"),
        (TAOBAO_LINE, "otto", "not of format 'otto'"),
        (TAOBAO_LINE, "parquet", "format 'parquet' is unknown"),
    ],
)
def test_a_file_of_another_format_is_refused(text: str, format_name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=why):
        EventFile(_file(tmp_path, text), format_name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: cannot read it"):
        EventFile(tmp_path / "absent")


@given(
    times=st.lists(st.integers(0, 20), max_size=60),
    chunk=st.integers(1, 8),
    files=st.integers(2, 4),
)
def test_sorting_in_bounded_memory_equals_a_stable_sort(times: list[int], chunk: int, files: int) -> None:
    events = [TimedEvent(when, place, place % 3, b"u%d" % place, b"v" * place) for place, when in enumerate(times)]
    with Sorter(chunk_events_max=chunk, files_max=files) as sorter:
        sorter.add(events)
        assert sorter.count == len(events)
        assert list(sorter) == sorted(events, key=lambda event: event.timestamp_ms)
        assert list(sorter) == sorted(events, key=lambda event: event.timestamp_ms)


def test_temporary_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Sorter(chunk_events_max=1, files_max=3) as sorter:
        sorter.add(TimedEvent(n, n, 0, b"u", b"v") for n in range(20))
        assert 1 <= len(list(next(tmp_path.iterdir()).iterdir())) <= 3
    assert list(tmp_path.iterdir()) == []


def test_a_history_is_in_event_time_order_with_lasting_ids(tmp_path: Path) -> None:
    lines = [f"{n % 3},{n},9,pv,{1511544070 - n}\n" for n in range(10)]
    path = _file(tmp_path, "".join(lines))
    period = Period(1511544063_000, 1511544069_000)
    with open_source(str(path), "auto", period, skip_bad=False) as source:
        events = list(source.events(0))
        assert list(source.events(4)) == events[4:]
    assert [event.timestamp_ms for event in events] == [1511544063_000 + n * 1000 for n in range(6)]
    values = [orjson.loads(event.value) for event in events]
    assert [value["item_id"] for value in values] == ["7", "6", "5", "4", "3", "2"]
    assert all(value["user_id"].encode() == event.key for value, event in zip(values, events, strict=True))
    with open_source(str(path), "auto", Period(), skip_bad=False) as source:
        everything = {orjson.loads(event.value)["event_id"] for event in source.events(0)}
    assert len(everything) == 10
    assert {value["event_id"] for value in values} < everything


def test_complete_journey_is_a_history_with_a_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    bananas = Product("Bananas", "Produce", "Tropical fruit", "National")
    monkeypatch.setattr("streams.importers.source.complete_journey_products", lambda: {"1082185": bananas})
    june = Period(1496275200_000, 1498867200_000)
    with open_source("complete-journey", "auto", june, skip_bad=False) as source:
        assert source.total == 119_243
        events = source.events(source.total - 2)
        last = list(events)
        catalog = list(source.catalog())
    assert len(last) == 2
    value = orjson.loads(last[1].value)
    assert value["event_id"] == f"cj-{last[1].sequence}"
    assert june.start <= value["timestamp"] < june.end
    assert value["context"]["quantity"] >= 0
    assert [item_id for item_id, _ in catalog] == [b"1082185"]
    assert orjson.loads(catalog[0][1]) == {
        "item_id": "1082185",
        "title": "Bananas",
        "department": "Produce",
        "category": "Tropical fruit",
        "brand": "National",
    }
