"""What disks, servers and people do to the objects of a repository."""

from __future__ import annotations

from snapvol.stores.memory import MemoryStore

KINDS = ("flip", "truncate", "lengthen", "empty", "delete", "duplicate")


def damage(store: MemoryStore, name: str, kind: str, place: float = 0.5) -> None:
    """Damage an object.

    Args:
        store: that has it.
        name: of the object.
        kind: one of `KINDS`.
        place: where in it, from 0 to 1.
    """
    content = bytearray(store.objects[name])
    at = min(int(len(content) * place), len(content) - 1)
    if kind == "flip":
        content[at] ^= 1 << (at % 8)
    elif kind == "truncate":
        del content[at:]
    elif kind == "lengthen":
        content += b"\0" * (at + 1)
    elif kind == "empty":
        content.clear()
    if kind == "delete":
        del store.objects[name]
    elif kind == "duplicate":  # under a name that it does not have: each byte of a name is turned
        folder, _, last = name.rpartition("/")
        other = bytes(byte ^ 0xFF for byte in bytes.fromhex(last)).hex()
        store.objects[f"data/{other[:2]}/{other}" if folder.startswith("data/") else f"{folder}/{other}"] = bytes(
            content
        )
    else:
        store.objects[name] = bytes(content)


def objects(store: MemoryStore, *prefixes: str) -> list[str]:
    """Return the names of objects, in order."""
    return sorted(name for name in store.objects if name.startswith(prefixes))
