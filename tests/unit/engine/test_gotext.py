from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from snapvol.engine import gotext


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        (b"plain.txt", "plain.txt"),
        (b"a b", "a b"),
        (b'"\\', '\\"\\\\'),
        (b"\a\b\f\n\r\t\v", "\\a\\b\\f\\n\\r\\t\\v"),
        (b"\x00\x01\x1f\x7f", "\\x00\\x01\\x1f\\x7f"),
        (b"\xff\xfe", "\\xff\\xfe"),
        (b"\xe2\x82", "\\xe2\\x82"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
        ("äé漢😀".encode(), "äé漢😀"),
        ("\u0301".encode(), "\u0301"),
        ("\u0085\u00a0\u00ad".encode(), "\\u0085\\u00a0\\u00ad"),
        ("\u200b\u2028\u2029\ufeff".encode(), "\\u200b\\u2028\\u2029\\ufeff"),
        ("\ue000\ufffd\U0010ffff".encode(), "\\ue000\ufffd\\U0010ffff"),
        (b"<&>", "<&>"),
    ],
)
def test_names_are_quoted_as_strconv_does(name: bytes, quoted: str) -> None:
    assert gotext.quote(name) == quoted
    assert gotext.unquote(quoted) == name


@given(st.one_of(st.binary(), st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))))
@example(b"\xc3")
@example(b"\\xc3\xa9")
def test_every_name_comes_back(name: bytes) -> None:
    quoted = gotext.quote(name)
    assert gotext.unquote(quoted) == name
    assert quoted.isprintable() or not quoted.isascii()
    assert "\n" not in quoted


@pytest.mark.parametrize("text", ["\\x41\\101A\\U00000041", "AAAA"])
def test_other_spellings_of_a_name_are_read(text: str) -> None:
    assert gotext.unquote(text) == b"AAAA"


@pytest.mark.parametrize(
    "text", ['"', "\\", "\\q", "\\x4", "\\u12", "\\'", "a\nb", "\\ud800", "\\U00110000", "\\U0000d800", "\\777", "\\\n"]
)
def test_what_is_no_quoted_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quoted name"):
        gotext.unquote(text)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain", '"plain"'),
        ("<&>", '"\\u003c\\u0026\\u003e"'),
        ("\u2028\u2029", '"\\u2028\\u2029"'),
        ('"\\', '"\\"\\\\"'),
        ("\n\r\t\b\f", '"\\n\\r\\t\\b\\f"'),
        ("\x00\x1f\x7f", '"\\u0000\\u001f\x7f"'),
        ("é😀\ufffd", '"é😀\ufffd"'),
        ("a\udcff\udc80b", '"a\\ufffd\\ufffdb"'),
    ],
)
def test_strings_are_escaped_as_encoding_json_does(text: str, written: str) -> None:
    assert gotext.string(text) == written


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_strings_are_json(text: str) -> None:
    assert json.loads(gotext.string(text)) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (1_600_000_000_120_000_000, "2020-09-13T12:26:40.12Z"),
        (951_782_400 * 10**9, "2000-02-29T00:00:00Z"),
        (-62_135_596_800 * 10**9, "0001-01-01T00:00:00Z"),
        (-62_167_219_200 * 10**9, "0000-01-01T00:00:00Z"),
        (253_402_300_799 * 10**9 + 1, "9999-12-31T23:59:59.000000001Z"),
    ],
)
def test_times_are_written_as_go_does(nanoseconds: int, text: str) -> None:
    assert gotext.time(nanoseconds) == text
    assert gotext.nanoseconds(text) == nanoseconds


@given(st.integers(-62_167_219_200 * 10**9, 253_402_300_800 * 10**9 - 1))
def test_every_time_comes_back_and_agrees_with_the_calendar(nanoseconds: int) -> None:
    text = gotext.time(nanoseconds)
    assert gotext.nanoseconds(text) == nanoseconds
    if nanoseconds >= -62_135_596_800 * 10**9:
        day = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=nanoseconds // 10**9)
        assert text[:19] == day.replace(tzinfo=None).isoformat()


@given(st.integers(-(2**80), 2**80))
def test_times_beyond_the_calendar_become_the_nearest_year(nanoseconds: int) -> None:
    assert len(gotext.time(nanoseconds).split("-")[0]) == 4


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2014-12-22T14:47:59.912418701+01:00", "2014-12-22T13:47:59.912418701Z"),
        ("2014-12-22T14:47:59-00:30", "2014-12-22T15:17:59Z"),
        ("2014-12-22T14:47:59.9999999999Z", "2014-12-22T14:47:59.999999999Z"),
    ],
)
def test_times_with_another_offset_are_read(text: str, same: str) -> None:
    assert gotext.nanoseconds(text) == gotext.nanoseconds(same)


@pytest.mark.parametrize(
    "text", ["", "2014-12-22", "2014-13-01T00:00:00Z", "2014-12-32T00:00:00Z", "2014-12-01T24:00:00Z", "x", "9" * 99]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        gotext.nanoseconds(text)
