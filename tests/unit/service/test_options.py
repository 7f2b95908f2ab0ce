"""Volume options: what is accepted, in which spelling, and what a wrong one is told (T16)."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvol import units
from snapvol.backends import BACKENDS
from snapvol.errors import SettingsError, SnapvolError, Unsupported, UsageError
from snapvol.service import options
from snapvol.service.pools import configured
from snapvol.settings import Settings
from support.memory import Memory
from support.service import KINDS, settings_for

TEXT = """
[daemon]
default_pool = "fast"
[pools.fast]
backend = "btrfs"
path = "/srv/fast"
[pools.slow]
backend = "directory"
path = "/srv/slow"
[repositories.default]
url = "/srv/repository"
[repositories.offsite]
url = "s3://bucket/host"
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_for(tmp_path_factory.mktemp("options"), TEXT)


@pytest.mark.parametrize(
    ("given_options", "kept"),
    [
        ({}, {}),
        ({"size": "1024M"}, {"size": "1G"}),
        ({"size": "1536MiB"}, {"size": "1536M"}),
        ({"size": " 10g "}, {"size": "10G"}),
        ({"mode": "750"}, {"mode": "0750"}),
        ({"mode": "01777"}, {"mode": "1777"}),
        ({"uid": "0070", "gid": "0"}, {"uid": "70", "gid": "0"}),
        ({"protect": "Yes"}, {"protect": "true"}),
        ({"protect": "0"}, {"protect": "false"}),
        ({"policy": "none"}, {"policy": "none"}),
        ({"repository": "offsite"}, {"repository": "offsite"}),
        ({"backup.kind": "files"}, {"backup.kind": "files"}),
        ({"snapshot": "web@before"}, {"snapshot": "web@before"}),
        ({"backup": "web@2026-11-20T03:00"}, {"backup": "web@2026-11-20T03:00"}),
        # Podman's own additions to `--opt o=uid=1000,size=5G`
        ({"o": "uid=1000,size=5G", "UID": "1000", "GID": "7", "SIZE": "5G", "INODES": "9", "NOQUOTA": "true"}, {}),
    ],
)
def test_values_get_one_spelling(settings: Settings, given_options: dict[str, str], kept: dict[str, str]) -> None:
    assert options.read(given_options, settings, BACKENDS, "btrfs") == kept


@pytest.mark.parametrize(
    ("given_options", "said"),
    [
        ({"sise": "1G"}, "unknown option 'sise'; did you mean 'size'?"),
        ({"Size": "1G"}, "unknown option 'Size'; did you mean 'size'?"),
        ({"snapshot.schedul": "hourly"}, "unknown option 'snapshot.schedul'; did you mean 'snapshot.schedule'?"),
        ({"btrfs.compresion": "zstd"}, "unknown option 'btrfs.compresion'; did you mean 'btrfs.compression'?"),
        ({"zfs.compression": "lz4"}, "option 'zfs.compression' is for zfs pools, this one is of kind btrfs"),
        ({"lvm.mkfs": "-m0"}, "option 'lvm.mkfs' is for lvm pools, this one is of kind btrfs; leave it out"),
        ({"size": "ten"}, "option 'size': 'ten' is not a size; write a whole number and K, M, G or T: 10G, 512M"),
        ({"size": "0"}, "option 'size': '0' is not a size; write a whole number and K, M, G or T: 10G, 512M"),
        ({"size": "-1G"}, "option 'size': '-1G' is not a size; write a whole number and K, M, G or T: 10G, 512M"),
        ({"size": "9000P"}, "option 'size': '9000P' is more than 1 EiB; write a smaller size"),
        ({"protect": "maybe"}, "option 'protect': 'maybe' is neither true nor false"),
        ({"uid": "root"}, "option 'uid': 'root' is not a number from 0 to 4294967294"),
        ({"gid": "4294967295"}, "option 'gid': '4294967295' is not a number from 0 to 4294967294"),
        ({"uid": "٣"}, "option 'uid': '٣' is not a number from 0 to 4294967294"),
        ({"mode": "999"}, "option 'mode': '999' is not an octal mode; write it like 0750"),
        ({"mode": "17777"}, "option 'mode': '17777' is not an octal mode; write it like 0750"),
        ({"fs": "ext3"}, "option 'fs': 'ext3' is not a choice; did you mean 'ext4'?"),
        ({"backup.kind": "imag"}, "option 'backup.kind': 'imag' is not a choice; did you mean 'image'?"),
        ({"policy": "standard"}, "option 'policy': 'standard': this version has no policies yet; leave"),
        ({"snapshot.keep": "7d"}, "option 'snapshot.keep': this version has no policies yet; leave it out"),
        ({"repository": "ofsite"}, "option 'repository': no repository is called 'ofsite'; did you mean 'offsite'?"),
        ({"pool": "fats"}, "option 'pool': no pool is called 'fats'; did you mean 'fast'?"),
        ({"snapshot": "a/b@x"}, "option 'snapshot': volume name 'a/b' is not allowed; start with a"),
        ({"snapshot": "web@"}, "option 'snapshot': snapshot name is empty; use letters, digits, '_', '.' and '-'"),
        ({"backup": "  "}, "option 'backup': '  ' is not a value"),
        ({"backup": "a\nb"}, "option 'backup': 'a\\nb' is not a value"),
        ({"": "x"}, "unknown option ''; valid: "),
    ],
)  # fmt: skip
def test_wrong_options_are_told_what_is_right_t16(settings: Settings, given_options: dict[str, str], said: str) -> None:
    with pytest.raises(SnapvolError) as caught:
        options.read(given_options, settings, BACKENDS, "btrfs")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_options_of_another_storage_name_it(settings: Settings) -> None:
    with pytest.raises(UsageError, match=r"'btrfs\.compression' is for btrfs pools, this one is of kind directory"):
        options.read({"btrfs.compression": "zstd"}, settings, BACKENDS, "directory")


@given(st.dictionaries(st.text(max_size=30), st.text(max_size=30), max_size=3))
def test_nothing_unknown_passes_and_every_refusal_is_one_line(settings: Settings, wild: dict[str, str]) -> None:
    try:
        kept = options.read(wild, settings, BACKENDS, "btrfs")
    except SnapvolError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert kept.keys() <= set(options.GENERAL)
        assert wild.keys() - kept.keys() <= options.IGNORED


KNOWN = {
    "size": st.integers(1, 2**60).map(str),
    "uid": st.integers(0, options.HIGHEST_ID).map(lambda number: f"{number:06d}"),
    "mode": st.integers(0, 0o7777).map(lambda mode: f"{mode:o}"),
    "protect": st.sampled_from(["true", "FALSE", "yes", "no", "1", "0"]),
    "backup": st.text(string.ascii_letters + string.digits + "@:-", min_size=1, max_size=40),
}


@given(st.fixed_dictionaries({}, optional=KNOWN))
def test_reading_what_was_read_changes_nothing(settings: Settings, valid: dict[str, str]) -> None:
    once = options.read(valid, settings, BACKENDS, "btrfs")
    assert options.read(once, settings, BACKENDS, "btrfs") == once


@given(st.integers(1, 2**60))
def test_sizes_are_spelled_exactly(size: int) -> None:
    assert units.size(units.spelled(size)) == size


@pytest.mark.parametrize(
    ("asked", "explained", "said"),
    [
        ({"size": "1G"}, {}, []),
        ({"size": "2G"}, {}, ["it has size=1G, size=2G was asked for"]),
        ({}, {}, ["it has size=1G"]),
        ({}, {"size": "1G"}, []),
        ({}, {"size": "3G"}, ["it has size=1G, size=3G was asked for"]),
        ({"size": "1G", "uid": "7"}, {}, ["uid=7 was asked for, it has none"]),
        ({"size": "1G"}, {"policy": "none"}, []),
        ({"size": "1G", "protect": "false"}, {"protect": "true"}, []),
        ({"size": "1G", "protect": "true"}, {}, ["it has protect=false, protect=true was asked for"]),
    ],
)
def test_differences_are_shown_t15(asked: dict[str, str], explained: dict[str, str], said: list[str]) -> None:
    assert options.differences({"size": "1G"}, asked, explained) == said


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('polcy = "none"', "pools.default.defaults.polcy: unknown option 'polcy'; did you mean 'policy'?"),
        (
            'snapshot = "a@b"',
            "pools.default.defaults.snapshot: 'snapshot' cannot be a default; give it with each volume",
        ),
        ('size = "big"', "pools.default.defaults.size: option 'size': 'big' is not a size; write a whole number"),
    ],
)
def test_wrong_defaults_name_file_and_key(tmp_path: Path, lines: str, said: str) -> None:
    text = f'[pools.default]\nbackend = "directory"\npath = "/srv/x"\n[pools.default.defaults]\n{lines}\n'
    with pytest.raises(SettingsError) as caught:
        configured(settings_for(tmp_path, text), BACKENDS)
    assert str(caught.value).startswith(f"{tmp_path}/config.toml: {said}")


def test_an_unknown_backend_is_refused_with_the_nearest(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, '[pools.default]\nbackend = "directoy"\n')
    with pytest.raises(SettingsError, match=r"there is no backend 'directoy'; did you mean 'directory'\?"):
        configured(settings, BACKENDS)


@pytest.mark.parametrize(("written", "spelled"), [("64K", "64K"), ("1048576", "1M"), ("4MiB", "4M")])
def test_a_chunk_is_a_power_of_two(settings: Settings, written: str, spelled: str) -> None:
    assert options.read({"backup.chunk": written}, settings, KINDS, "imaged") == {"backup.chunk": spelled}


@pytest.mark.parametrize("written", ["32K", "8M", "96K", "1", "0", "big"])
def test_T16_another_chunk_is_refused(settings: Settings, written: str) -> None:
    with pytest.raises(UsageError, match=r"option 'backup\.chunk': "):
        options.read({"backup.chunk": written}, settings, KINDS, "imaged")


def test_a_chunk_is_for_pools_with_images() -> None:
    with pytest.raises(Unsupported, match="has no image backups"):
        options.check_features({"backup.chunk": "64K"}, Memory().features, "default", "memory")
