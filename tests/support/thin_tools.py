"""What the tools of thin pools say of a pool's metadata, to compare with what we read there ourselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

from support.process import run


def called(settings: Mapping[str, object]) -> str:
    """Return what device-mapper calls a thin pool of ``settings``, without the layer that is over it."""
    return f"{settings['volume_group']}-{settings['thin_pool']}"


def metadata(settings: Mapping[str, object]) -> Path:
    """Return the device that a thin pool's metadata is on."""
    return Path(f"/dev/mapper/{called(settings)}_tmeta")


@contextmanager
def reserved(settings: Mapping[str, object]) -> Iterator[None]:
    """Have a metadata snapshot while the context lasts."""
    device = f"{called(settings)}-tpool"
    run("dmsetup", "message", device, "0", "reserve_metadata_snap")
    try:
        yield
    finally:
        run("dmsetup", "message", device, "0", "release_metadata_snap")


def mapped(device: Path, volume: int, *words: str) -> list[int]:
    """Return the chunks that thin_dump lists, ascending."""
    told = ElementTree.fromstring(run("thin_dump", "--dev-id", str(volume), device, *words).stdout)
    (listed,) = told.iter("device")
    return _chunks(
        (int(each.get("origin_begin", each.get("origin_block", ""))), int(each.get("length", "1"))) for each in listed
    )


def differing(device: Path, old: int, new: int, *words: str) -> list[int]:
    """Return the chunks that thin_delta does not call the same, ascending."""
    told = run("thin_delta", "--thin1", str(old), "--thin2", str(new), device, *words).stdout
    (listed,) = ElementTree.fromstring(told).iter("diff")
    return _chunks((int(each.get("begin", "")), int(each.get("length", ""))) for each in listed if each.tag != "same")


def _chunks(runs: Iterable[tuple[int, int]]) -> list[int]:
    return [chunk for first, count in runs for chunk in range(first, first + count)]
