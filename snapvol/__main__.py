"""Start the command line: ``snapvol …`` or ``python -m snapvol …``."""

from __future__ import annotations

import sys

from snapvol.cli.program import run


def main() -> int:
    """Run the program's arguments and return the exit status."""
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
