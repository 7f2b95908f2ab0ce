"""The account of a daemon at work: what was acknowledged, what that makes of the volumes, and what to do next.

A step is a JSON object: ``verb`` says which, and ``volume`` to which volume; what else it has depends on the verb.
"""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Step = dict[str, Any]
BACKED_UP = "backed up"  # what the backup of volume `base` has
MOST = 5  # volumes at a time


@dataclass
class Kept:
    """What a snapshot holds, and whether it is held."""

    text: str
    held: bool = False


@dataclass
class Known:
    """A volume: what it holds, its size in bytes where that is known, and its snapshots by name."""

    text: str
    size: int | None = None
    snapshots: dict[str, Kept] = field(default_factory=dict)


@dataclass
class Account:
    """The volumes there are, and the removed ones, by name."""

    live: dict[str, Known] = field(default_factory=dict)
    trash: dict[str, Known] = field(default_factory=dict)

    def after(self, step: Step) -> Account:
        """Return what this is when a step has been done."""
        later = copy.deepcopy(self)
        getattr(later, f"_{step['verb']}")(step)
        return later

    def _create(self, step: Step) -> None:
        self.live[step["volume"]] = Known("", step.get("size"))

    def _clone(self, step: Step) -> None:
        text = self.live[step["volume"]].snapshots[step["snapshot"]].text
        self.live[step["to"]] = Known(text, step.get("size"))

    def _restore(self, step: Step) -> None:
        self.live[step["to"]] = Known(BACKED_UP, step.get("size"))

    def _write(self, step: Step) -> None:
        self.live[step["volume"]].text = step["text"]

    def _mount(self, step: Step) -> None:
        pass  # no power cut leaves anything mounted

    def _snapshot(self, step: Step) -> None:
        for name in (step["volume"], *step["others"]):
            self.live[name].snapshots[step["snapshot"]] = Kept(self.live[name].text)

    def _hold(self, step: Step) -> None:
        self.live[step["volume"]].snapshots[step["snapshot"]].held = True

    def _release(self, step: Step) -> None:
        self.live[step["volume"]].snapshots[step["snapshot"]].held = False

    def _destroy(self, step: Step) -> None:
        del self.live[step["volume"]].snapshots[step["snapshot"]]

    def _rollback(self, step: Step) -> None:
        volume = self.live[step["volume"]]
        volume.text, volume.size = volume.snapshots[step["snapshot"]].text, step.get("size")

    def _refill(self, step: Step) -> None:
        volume = self.live[step["volume"]]
        volume.text, volume.size = BACKED_UP, step.get("size")

    def _resize(self, step: Step) -> None:
        self.live[step["volume"]].size = step["size"]

    def _rename(self, step: Step) -> None:
        self.live[step["to"]] = self.live.pop(step["volume"])

    def _remove(self, step: Step) -> None:
        volume = self.live.pop(step["volume"])
        if not step["permanent"]:
            self.trash[step["volume"]] = volume

    def _undelete(self, step: Step) -> None:
        self.live[step["to"]] = self.trash.pop(step["volume"])

    def _expel(self, step: Step) -> None:
        del self.trash[step["volume"]]

    def differences(self, seen: Account) -> list[str]:
        """Return what is not as it is here, a line each; snapshots that the daemon made by itself may be there too."""
        found = []
        for what, ours, theirs in (("volume", self.live, seen.live), ("removed volume", self.trash, seen.trash)):
            found += [f"{what} {name} is missing" for name in ours.keys() - theirs.keys()]
            found += [f"{what} {name} should not be there" for name in theirs.keys() - ours.keys()]
            for name in ours.keys() & theirs.keys():
                found += [f"{what} {name}: {line}" for line in _unlike(ours[name], theirs[name])]
        return found


def _unlike(expected: Known, seen: Known) -> list[str]:
    found = [] if seen.text == expected.text else [f"holds '{seen.text[:40]}', not '{expected.text}'"]
    if expected.size is not None and seen.size != expected.size:
        found.append(f"has {seen.size} bytes, not {expected.size}")
    ours = {name: kept for name, kept in seen.snapshots.items() if name.startswith("s")}
    for name in expected.snapshots.keys() | ours.keys():
        if ours.get(name) != expected.snapshots.get(name):
            found.append(f"snapshot {name} is {ours.get(name)}, not {expected.snapshots.get(name)}")
    return found


# -- on disk ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Journal:
    """The account as it is written: a line for each step that begins, and one when it is acknowledged."""

    path: Path

    def note(self, kind: str, step: Step) -> None:
        """Write a line, and have it on the disk: ``begun``, ``done``, or ``undone`` for what the power cut undid."""
        with self.path.open("a") as file:
            file.write(json.dumps({"kind": kind, **step}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(kind, json.dumps(step), flush=True)

    def read(self) -> tuple[Account, Step | None]:
        """Return what was acknowledged, and the step that was begun after it, if any."""
        account, begun = Account(), None
        for line in self.path.read_text().splitlines():
            with suppress(json.JSONDecodeError):  # a line that the power cut cut short
                entry = json.loads(line)
                kind = entry.pop("kind")
                if kind == "done":
                    account = account.after(entry)
                begun = entry if kind == "begun" else None
        return account, begun


# -- what to do -------------------------------------------------------------------------------------------------


def chosen(chance: random.Random, account: Account, mark: str) -> Step:
    """Return a step that is possible; ``mark`` makes the names in it new ones."""
    name = chance.choice(sorted(account.live))
    known = account.live[name]
    verb = chance.choice(_verbs(account, name))
    step: Step = {"verb": verb, "volume": name}
    if verb == "create":
        step |= {"volume": f"v{mark}", "fs": chance.choice(["ext4", "xfs"])}
    elif verb == "write":
        step |= {"text": mark}
    elif verb == "snapshot":
        others = sorted(account.live.keys() - {name})
        step |= {"snapshot": f"s{mark}", "others": chance.sample(others, chance.randint(0, len(others)))}
    elif verb in ("clone", "rollback", "hold", "release", "destroy"):
        step |= {"snapshot": chance.choice(_snapshots(known, verb)), "to": f"c{mark}"}
    elif verb == "remove":
        step |= {"permanent": chance.random() < 0.5}
    elif verb in ("undelete", "expel"):
        step |= {"volume": chance.choice(sorted(account.trash)), "to": f"u{mark}"}
    elif verb in ("rename", "restore"):
        step |= {"to": f"r{mark}"}
    return step


def _verbs(account: Account, name: str) -> list[str]:
    known = account.live[name]
    few, base = len(account.live) < MOST, name == "base"  # a backup is found by the name of its volume
    possible: Mapping[str, int | bool] = {
        "write": 2,
        "mount": 1,
        "snapshot": 3,
        "resize": 1,
        "refill": 1,
        "create": 2 * few,
        "restore": few,
        "clone": 2 * few,
        "rollback": 3,
        "hold": 1,
        "release": 1,
        "destroy": 1,
        "rename": not base,
        "remove": 3 * (not base and len(account.live) > 2 and not any(kept.held for kept in known.snapshots.values())),
        "undelete": bool(few and account.trash),
        "expel": bool(account.trash),
    }
    return [
        verb
        for verb, often in possible.items()
        for _ in range(often)
        if verb not in ("clone", "rollback", "hold", "release", "destroy") or _snapshots(known, verb)
    ]


def _snapshots(known: Known, verb: str) -> list[str]:
    """Return the snapshots that something can be done with."""
    unheld = {"hold": True, "destroy": True, "release": False}.get(verb)
    return sorted(name for name, kept in known.snapshots.items() if unheld is None or unheld is not kept.held)
