"""How many tests passed over each kind of storage, told by their parameters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from support.storage import EVERYTHING, KINDS, STORAGE

_NAMES = sorted({*EVERYTHING, *KINDS, "ext4"}, key=len, reverse=True)
_KIND = re.compile(rf"[\[-]({'|'.join(map(re.escape, _NAMES))})[-\]]")


def by_storage(tests: Iterable[str]) -> str:
    """Return a line with the number of tests for each storage among their ids."""
    counted = Counter(found[1] if (found := _KIND.search(test)) else STORAGE or "no storage" for test in tests)
    return ", ".join(f"{name} {number}" for name, number in sorted(counted.items()))
