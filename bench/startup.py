"""How long a person waits for the command line, against a bare Python that does nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from daemon import SNAPVOL, call, plugin, running
from measure import Cost, median, run, table

ROUNDS = 15


def main() -> None:
    rivals: dict[str, list[str | Path]] = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "snapvol --help": [SNAPVOL, "--help"],
        "snapvol backup --help": [SNAPVOL, "backup", "--help"],
        "snapvol ls (30 volumes)": [SNAPVOL, "ls"],
    }
    seen: dict[str, list[Cost]] = {name: [] for name in rivals}
    with running() as root:
        for number in range(30):
            call(plugin(root), "Create", {"Name": f"v{number}"})
        for _ in range(ROUNDS):
            for name, argv in rivals.items():
                seen[name].append(run(argv))
    costs = {name: median(rounds) for name, rounds in seen.items()}
    bare = costs["python -c pass"].wall
    rows = [[name, f"{cost.wall * 1000:.0f} ms", f"{cost.wall / bare:.1f}"] for name, cost in costs.items()]
    print(table(["command", "median", "times bare Python"], rows))


if __name__ == "__main__":
    main()
