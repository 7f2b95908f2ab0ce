"""A store in memory: for tests, and the shortest statement of the contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock

from snapvol.errors import AlreadyExists, Damaged, NotFound
from snapvol.stores.base import CONFIG, Buffer, Entry, Store, checked_name, checked_prefix


class MemoryStore(Store):
    """Objects in a dictionary.

    Attributes:
        objects: name → contents, open to tests that damage them.
    """

    def __init__(self) -> None:
        self.location = "memory"
        self.objects: dict[str, bytes] = {}
        self._mutex = Lock()

    def put(self, name: str, data: Buffer) -> None:
        """See `Store.put`."""
        with self._mutex:
            if name == CONFIG and name in self.objects:
                raise AlreadyExists(f"{self.location} already holds a repository")
            self.objects[checked_name(name)] = bytes(data)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Store.get`."""
        contents = self._contents(name)
        end = len(contents) if length is None else offset + length
        if offset > len(contents) or end > len(contents):
            raise Damaged(f"{name} in {self.location} ends at byte {len(contents)}, before byte {max(end, offset)}")
        return contents[offset:end]

    def size(self, name: str) -> int:
        """See `Store.size`."""
        return len(self._contents(name))

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Store.list`."""
        checked_prefix(prefix)
        with self._mutex:
            found = [Entry(name, len(data)) for name, data in self.objects.items() if name.startswith(prefix)]
        return iter(found)

    def delete(self, names: Sequence[str]) -> None:
        """See `Store.delete`."""
        with self._mutex:
            for name in names:
                self.objects.pop(checked_name(name), None)

    def _contents(self, name: str) -> bytes:
        try:
            return self.objects[checked_name(name)]
        except KeyError:
            raise NotFound(f"{name} is not in {self.location}") from None
