"""File systems on devices: what they are is read from them, and what users may ask of mkfs is checked (T16)."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from snapvol.backends import lvmfilesystem
from snapvol.errors import Refused, StorageFailed, UsageError
from support.process import run

SIZE = 320 << 20
OURS, THEIRS = lvmfilesystem.uuid_for("ours"), lvmfilesystem.uuid_for("theirs")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


@pytest.mark.parametrize("kind", lvmfilesystem.KINDS)
def test_what_is_made_is_recognised(image: Path, kind: str) -> None:
    assert lvmfilesystem.probe(image) is None
    lvmfilesystem.make(image, kind, [], OURS)
    facts = lvmfilesystem.probe(image)
    assert facts is not None
    assert (facts.kind, facts.size, facts.block, facts.uuid) == (kind, SIZE, 4096, OURS)
    assert image.stat().st_blocks * 512 < SIZE // 2, "zeros take no space in a thin pool"


def test_chosen_words_are_joined_with_ours(image: Path) -> None:
    words = lvmfilesystem.check_words("web", "ext4", "-i 65536 -O ^has_journal -E stride=16 -b 1024")
    lvmfilesystem.make(image, "ext4", words, OURS)
    facts = lvmfilesystem.probe(image)
    assert facts is not None
    assert (facts.size, facts.block, facts.unclean) == (SIZE, 1024, False)


CHECKS = {"ext4": ("e2fsck", "-f", "-n"), "xfs": ("xfs_repair", "-n", "-f")}


@pytest.mark.parametrize(
    ("kind", "words", "taken"),
    [
        ("ext4", "", True),
        ("ext4", "-O ^metadata_csum,^metadata_csum_seed", True),
        ("ext4", "-O ^metadata_csum_seed", True),
        ("ext4", "-O ^metadata_csum,^metadata_csum_seed,uninit_bg", False),
        ("xfs", "", True),
        ("xfs", "-m reflink=0,rmapbt=0", True),
    ],
)
def test_a_copy_takes_its_volume_s_uuid_and_stays_whole(
    image: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: str, taken: bool
) -> None:
    """T11; where all checksums would have to be made anew, which a kill could interrupt, it stays as it is (T14)."""
    monkeypatch.setattr(lvmfilesystem, "mounted", lambda *_: nullcontext())  # nothing is to be replayed
    lvmfilesystem.make(image, kind, lvmfilesystem.check_words("web", kind, words), THEIRS)
    for wanted in (OURS, OURS, THEIRS, OURS):
        lvmfilesystem.own(image, wanted)
        facts = lvmfilesystem.probe(image)
        assert facts is not None
        assert facts.uuid == (wanted if taken else THEIRS)
        assert run(*CHECKS[kind], image, check=False).code == 0


def test_what_is_no_file_system_gets_no_uuid(image: Path) -> None:
    with pytest.raises(StorageFailed, match="neither ext4 nor XFS"):
        lvmfilesystem.own(image, OURS)
    assert image.stat().st_blocks == 0


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("ext4", "-F", "'-F' is not an option for ext4 here"),
        ("ext4", "-d /etc", "'-d' is not an option"),
        ("ext4", "-E offset=4096", "'offset=4096' cannot be chosen"),
        ("ext4", "-J device=/dev/sda", "cannot be chosen"),
        ("ext4", "-E stride=16,root_owner=5:5", "cannot be chosen"),
        ("ext4", "/dev/sda", "'/dev/sda' is not an option"),
        ("ext4", "-i", "has no proper value"),
        ("ext4", "-i '$(x)'", "has no proper value"),
        ("ext4", "-i '", "is not understood"),
        ("xfs", "-d file,name=/etc/passwd", "cannot be chosen"),
        ("xfs", "-d size=1g", "cannot be chosen"),
        ("xfs", "-l logdev=/dev/sda", "cannot be chosen"),
        ("xfs", "-m uuid=x", "cannot be chosen"),
        ("xfs", "-r rtdev=/dev/sda", "'-r' is not an option for xfs here"),
    ],
)
def test_what_would_make_something_else_is_refused(kind: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=r"volume 'web': lvm\.mkfs = ") as refused:
        lvmfilesystem.check_words("web", kind, text)
    assert message in refused.value.message


@pytest.mark.parametrize(
    ("kind", "text"),
    [("ext4", ""), ("ext4", "-J size=8 -m 1"), ("xfs", "-l size=64m -i size=1024"), ("xfs", "-b size=1024")],
)
def test_what_is_harmless_is_taken(kind: str, text: str) -> None:
    assert lvmfilesystem.check_words("web", kind, text) == text.split()


def test_what_mkfs_refuses_is_told_in_a_line(image: Path) -> None:
    with pytest.raises(StorageFailed, match=r"^mkfs.xfs failed: [^\n]*; look at the option lvm.mkfs$"):
        lvmfilesystem.make(image, "xfs", ["-b", "size=17"], OURS)


def test_sizes_that_cannot_be_are_refused_before_anything_is_made() -> None:
    with pytest.raises(Refused, match="volume 'web': xfs takes at least 300M, not"):
        lvmfilesystem.smallest("web", "xfs", 64 << 20)
    lvmfilesystem.smallest("web", "ext4", 64 << 20)
