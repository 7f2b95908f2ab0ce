"""Text as Go's standard library writes it, which is what the repository's tree objects are made of.

A tree's identity is the hash of its bytes: the same directory deduplicates with what stock restic wrote only if every
escape and every fraction of a second is spelt the same way.
"""

from __future__ import annotations

import json
import re
import unicodedata
from functools import lru_cache

_PLAIN = re.compile(rb"[A-Za-z0-9 _.,:;=+@%~^!#$()\[\]{}'*/?`|-]*\Z")
_SIMPLE = re.compile(r"[A-Za-z0-9 _.,:;=+@%~^!#$()\[\]{}'*/?`|-]*\Z")
_HTML = re.compile("[<>&\u2028\u2029\udc80-\udcff]")
_SHORT = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
_LONG = {short[1]: chr(code) for code, short in _SHORT.items()}
_ESCAPE = re.compile(r"\\(?:([abfnrtv\"\\])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|)")
_SECOND = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\Z", re.ASCII)
_REST = re.compile(r"(?:[.,](\d+))?(?:Z|([+-])(\d\d):(\d\d))\Z", re.ASCII)
_DAYS_BEFORE_1970 = 719468  # from 0000-03-01, where the arithmetic of leap years is easiest
_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def _quote_rune(rune: str) -> str:
    code = ord(rune)
    if code in _SHORT:
        return _SHORT[code]
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code == 32 or unicodedata.category(rune)[0] in "LMNPS":
        return rune
    if code < 32 or code == 127:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quote(name: bytes) -> str:
    """Return ``name`` as ``strconv.Quote`` does, without the quotes: text for any bytes, and back by `unquote`."""
    if _PLAIN.match(name):
        return name.decode("ascii")
    return "".join(map(_quote_rune, name.decode("utf-8", "surrogateescape")))


def _unescape(match: re.Match[str]) -> str:
    short, byte, four, eight, octal = match.groups()
    if short is not None:
        return _LONG[short]
    if byte is not None or octal is not None:
        value = int(byte, 16) if byte is not None else int(octal, 8)
        # A byte on its own is not a character: the private form survives until the text becomes bytes again.
        return chr(value) if value < 0x80 else chr(0xDC00 + value)
    value = int(four or eight or "110000", 16)
    if value > 0x10FFFF or 0xD800 <= value <= 0xDFFF:
        raise ValueError(f"{match.string!r} is not a quoted name")
    return chr(value)


def unquote(text: str) -> bytes:
    r"""Return the bytes that `quote` made ``text`` from.

    Raises:
        ValueError: it is not what ``strconv.Quote`` writes: a bare quote, a newline, an unknown escape.
    """
    if "\\" not in text:
        if '"' in text or "\n" in text:
            raise ValueError(f"{text!r} is not a quoted name")
        return text.encode()
    bare = _ESCAPE.sub("", text)
    if '"' in bare or "\n" in bare:
        raise ValueError(f"{text!r} is not a quoted name")
    try:
        # Escaped bytes above 0x7f and real characters may be neighbours; each is encoded by itself.
        return _ESCAPE.sub(_unescape, text).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} is not a quoted name") from None


def string(text: str) -> str:
    r"""Return ``text`` as a JSON string with the escapes of ``encoding/json``: ``<>&`` too, and � for lone bytes.

    Args:
        text: may hold bytes that are not UTF-8 as surrogates (Python's ``surrogateescape``).
    """
    if _SIMPLE.match(text):
        return f'"{text}"'
    quoted = json.dumps(text, ensure_ascii=False)
    return _HTML.sub(lambda found: f"\\u{min(ord(found[0]), 0xFFFD) if found[0] < chr(0xD800) else 0xFFFD:04x}", quoted)


def _date(days: int) -> tuple[int, int, int]:
    """Return year, month and day of a number of days since 1970, in the calendar run backwards as Go does."""
    era, day = divmod(days + _DAYS_BEFORE_1970, 146097)
    year = (day - day // 1460 + day // 36524 - day // 146096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5
    month = month + 3 if month < 10 else month - 9
    return year + era * 400 + (month <= 2), month, day + 1


def _days(year: int, month: int, day: int) -> int:
    year -= month <= 2
    era, year = divmod(year, 400)
    day += (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 - 1
    return era * 146097 + year * 365 + year // 4 - year // 100 + day - _DAYS_BEFORE_1970


@lru_cache(65536)
def _second(seconds: int) -> str:
    days, rest = divmod(seconds, 86400)
    year, month, day = _date(days)
    if not 0 <= year <= 9999:
        year = 0 if year < 0 else 9999
        if (month, day) == (2, 29) and year:
            month, day = 3, 1
    hour, rest = divmod(rest, 3600)
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{rest // 60:02}:{rest % 60:02}"


def time(nanoseconds: int) -> str:
    """Return nanoseconds since 1970 as RFC 3339 in UTC; years outside 0 to 9999 become the nearest one inside."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    if fraction:
        return f"{_second(seconds)}.{fraction:09}".rstrip("0") + "Z"
    return f"{_second(seconds)}Z"


@lru_cache(4096)
def _seconds(text: str) -> int:
    """Return the seconds since 1970 of a time in UTC without its fraction."""
    match = _SECOND.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time")
    year, month, day, hour, minute, second = map(int, match.groups())
    if not (1 <= month <= 12 and 1 <= day <= _MONTH_DAYS[month - 1] and hour < 24 and minute < 60 and second < 60):
        raise ValueError(f"{text!r} is not a time")
    return _days(year, month, day) * 86400 + hour * 3600 + minute * 60 + second


def nanoseconds(text: str) -> int:
    """Return the nanoseconds since 1970 of an RFC 3339 time with any offset.

    Raises:
        ValueError: it is not such a time.
    """
    match = _REST.match(text, 19)
    if match is None:
        raise ValueError(f"{text!r} is not a time")
    total, (fraction, sign, hours, minutes) = _seconds(text[:19]), match.groups()
    if sign:
        offset = int(hours) * 3600 + int(minutes) * 60
        total += -offset if sign == "+" else offset
    return total * 1_000_000_000 + (int(fraction[:9].ljust(9, "0")) if fraction else 0)
