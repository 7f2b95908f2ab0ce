"""Everything that is printed: listings as tables or JSON, plans, and values as people read them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Generic, NamedTuple, TypeVar

from snapvol.api import Plan
from snapvol.errors import Refused
from snapvol.model import now

Row = TypeVar("Row")


class Column(NamedTuple, Generic[Row]):
    """A column of a listing: its title, and what a row shows in it. ``right`` aligns numbers."""

    title: str
    cell: Callable[[Row], str]
    right: bool = False


def listing(
    rows: Sequence[Row],
    columns: Sequence[Column[Row]],
    *,
    as_json: bool = False,
    quiet: bool = False,
    empty: str = "",
) -> None:
    """Print ``rows``, one object a line: a table on a terminal, aligned columns elsewhere.

    Args:
        rows: records of `snapvol.api`.
        columns: the first is what ``quiet`` prints.
        as_json: print one JSON array, an object a line.
        quiet: print the first column only, without its title.
        empty: what to tell a person when there is nothing.
    """
    if as_json:
        return print_json(rows)
    if quiet:
        for row in rows:
            print(printable(columns[0].cell(row)))
        return None
    cells = [[printable(column.cell(row)) for column in columns] for row in rows]
    if not rows:
        if empty and sys.stdout.isatty():
            print(empty, file=sys.stderr)
    elif sys.stdout.isatty():
        _table(cells, columns)
    else:
        _aligned(cells, columns)
    return None


def _table(cells: list[list[str]], columns: Sequence[Column[Row]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        # Names are what people copy: they fold rather than being cut.
        table.add_column(
            column.title, justify="right" if column.right else "left", overflow="fold", no_wrap=number == 0
        )
    for line in cells:
        table.add_row(*(Text(cell) for cell in line))
    Console().print(table)


def _aligned(cells: list[list[str]], columns: Sequence[Column[Row]]) -> None:
    titles = [column.title for column in columns]
    widths = [max(map(len, whole)) for whole in zip(titles, *cells, strict=True)]
    for line in (titles, *cells):
        padded = (
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        )
        print("  ".join(padded).rstrip())


def print_json(value: object) -> None:
    """Print a record as indented JSON, and a list of records as an array with one record a line."""
    import msgspec

    if isinstance(value, list | tuple):
        lines = ",\n".join(msgspec.json.encode(item).decode() for item in value)
        print(f"[\n{lines}\n]" if lines else "[]")
    else:
        print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def plan(done: Plan, *, as_json: bool = False) -> None:
    """Print what was done, or would be."""
    if as_json:
        return print_json(done)
    for action in done.actions:
        did = _past(action.verb) if done.done else f"would {action.verb}"
        detail = f"({action.detail})" if action.detail else ""
        print(printable(" ".join(filter(None, (did, action.object, action.target, detail)))))
    if not done.actions:
        print("nothing to do")
    return None


_PAST = {"forget": "forgot", "keep": "kept", "snapshot": "snapshotted"}


def _past(verb: str) -> str:
    return _PAST.get(verb) or f"{verb.removesuffix('e')}ed"


def confirm(planned: Plan, what: str) -> None:
    """Show a plan that cannot be undone and have it confirmed.

    Raises:
        Refused: nobody is there to ask, or the answer was no.
    """
    plan(planned)
    if not sys.stdin.isatty():
        raise Refused(f"{what} cannot be undone, and nobody is there to ask", "add --yes to do it")
    import click

    if not click.confirm("This cannot be undone. Go on?", err=True):
        raise Refused(f"{what} was not confirmed: nothing was changed")


def note(message: str) -> None:
    """Tell something on standard error that is not a failure."""
    print(f"snapvol: {printable(message)}", file=sys.stderr)


def warn(messages: Iterable[str]) -> None:
    """Print warnings on standard error, a line each."""
    for message in messages:
        note(f"warning: {message}")


def printable(text: str) -> str:
    """Return ``text`` without anything that could move the cursor or break the line (T44: names are not ours)."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def size(number: int | float | None) -> str:
    """Return bytes in binary units: ``1.5 GiB``; ``-`` where unknown."""
    if number is None:
        return "-"
    from humanize import naturalsize

    return naturalsize(number, binary=True).replace(" Bytes", " B").replace(" Byte", " B")


def ago(moment: datetime | None) -> str:
    """Return how long ago a time was: ``3 hours ago``; ``-`` where there is none."""
    if moment is None:
        return "-"
    from humanize import naturaltime

    return naturaltime(now() - moment)


def duration(seconds: float | None) -> str:
    """Return a length of time: ``0.4 s``, ``2 minutes``; ``-`` where unknown."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    from humanize import naturaldelta

    return naturaldelta(timedelta(seconds=seconds))


def exactly(moment: datetime | None) -> str:
    """Return a local time with its zone, to the second; ``-`` where there is none."""
    return "-" if moment is None else moment.astimezone().isoformat(sep=" ", timespec="seconds")


def count(number: int, one: str, many: str = "") -> str:
    """Return ``1 file`` or ``3 files``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def fields(values: Mapping[str, str]) -> None:
    """Print names and values, a line each, aligned."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        print(printable(f"{name:{width}}  {value}"))
