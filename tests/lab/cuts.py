"""Power cuts: a guest is killed at work, boots again with the same disks, and is asked whether all is well."""

from __future__ import annotations

import io
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.guest import Guest, GuestFailed

SIGN = "lab: at work"


@dataclass(frozen=True)
class Boot:
    """One boot between two cuts.

    Attributes:
        number: counted from 0; so many cuts came before.
        moment: seconds at work before the next cut; None for the last boot, which only checks.
        before: what the preparation or the check printed.
        work: what the driver printed until the cut.
    """

    number: int
    moment: float | None
    before: str
    work: str


def cuts(
    machine: type[Guest],
    *,
    prepare: Sequence[str],
    driver: Sequence[str] | None = None,
    check: Sequence[str],
    moments: Sequence[float],
    place: Path,
    disks: Sequence[Path],
    seconds: float = 300,
    env: Mapping[str, str] | None = None,
) -> Iterator[Boot]:
    """Cut the power once for each of ``moments``, seconds after the driver began, and yield every boot.

    Args:
        machine: the kind of guest.
        prepare: runs in the first boot, before the driver.
        driver: works until it is cut off. SNAPVOL_TEST_BOOT holds the boot's number, for it as for the others. None:
            the preparation and each check but the last print `SIGN` and go on to work themselves.
        check: runs in each later boot, before the driver, and once more at the end. The moment is counted from its
            beginning where it prints `SIGN` there: then it may be cut off too.
        moments: how long the driver may work, in seconds, for each boot but the last.
        place: a directory for the guests' places.
        disks: image files; all that survives.
        seconds: for one boot, the moment included.
        env: added to the environment of all three.

    Raises:
        GuestFailed: the preparation, the check or the driver ended with another status than 0 (a driver also with 0
            before its moment), or the guest did. The message tells the boot and the moment before it.
    """
    scripts = [shlex.join(prepare), *[shlex.join(check)] * len(moments)]
    for number, (script, moment) in enumerate(zip(scripts, [*moments, None], strict=True)):
        if moment is not None and driver is not None:
            script += f" && echo '{SIGN}' && exec {shlex.join(driver)}"
        directory = place / f"boot{number}"
        directory.mkdir()
        output = io.BytesIO()
        own = {**(env or {}), "SNAPVOL_TEST_BOOT": str(number)}
        with machine(
            ["sh", "-c", script], place=directory, disks=disks, seconds=seconds, env=own, output=output
        ) as guest:
            well = guest.wait() == 0 if moment is None else _works(guest, output, moment)
        printed = output.getvalue().decode(errors="replace")
        if not well:
            before = f"after a cut at {moments[number - 1]:.3f} s" if number else "the first"
            raise GuestFailed(f"boot {number}, {before}: it ended by itself or too late, and printed:\n{printed}")
        said, _, worked = printed.partition(f"{SIGN}\n")
        yield Boot(number, moment, said, worked)


def _works(guest: Guest, output: io.BytesIO, moment: float) -> bool:
    """Wait until the driver has worked for ``moment`` seconds, and return whether it still does."""
    while f"{SIGN}\n".encode() not in output.getvalue():
        if guest.ended:
            return False
        time.sleep(0.02)
        guest.show()
    time.sleep(moment)
    return not guest.ended
