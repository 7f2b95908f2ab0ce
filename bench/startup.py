"""How long a person waits for the command line: `snapvol --help` against a bare Python that does nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from measure import medians, run, table

ROUNDS = 15


def main() -> None:
    binary = Path(sys.executable).with_name("snapvol")
    rivals = {
        "python -c pass": lambda: run([sys.executable, "-c", "pass"]),
        "snapvol --help": lambda: run([binary, "--help"]),
        "snapvol backup --help": lambda: run([binary, "backup", "--help"]),
    }
    costs = medians(ROUNDS, rivals)
    bare = costs["python -c pass"].wall
    rows = [[name, f"{cost.wall * 1000:.0f} ms", f"{cost.wall / bare:.1f}"] for name, cost in costs.items()]
    print(table(["command", "median", "times bare Python"], rows))


if __name__ == "__main__":
    main()
