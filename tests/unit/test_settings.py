"""The settings: where values come from, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from snapvol import settings
from snapvol.errors import SettingsError, UsageError

FULL = """
[daemon]
root = "/srv/snapvol"
default_pool = "tank"

[pools.tank]
backend = "btrfs"
path = "/mnt/tank/volumes"
[pools.tank.defaults]
size = "10G"
protect = true
btrfs.compression = "zstd"

[pools.slow]
backend = "directory"
path = "/mnt/slow"

[repositories.default]
url = "s3://backups/host1"
endpoint = "https://s3.example.com"
password_file = "/etc/snapvol/repository.password"

[trash]
keep = "2d"
"""


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return file


def test_without_a_file_there_is_one_directory_pool_and_a_local_repository(tmp_path: Path) -> None:
    loaded = settings.load(environment={"SNAPVOL_ROOT": str(tmp_path)})
    assert loaded.default_pool == "default"
    assert loaded.pools["default"].backend == "directory"
    assert loaded.pools["default"].storage == {"path": str(tmp_path / "pool"), "full_copies": True}
    assert loaded.repository("default").url == str(tmp_path / "repository")
    assert loaded.daemon.api_socket == tmp_path / "run/api.sock"


def test_a_full_file(tmp_path: Path) -> None:
    loaded = settings.load(write(tmp_path, FULL), environment={})
    assert loaded.daemon.root == Path("/srv/snapvol")
    assert loaded.pools["tank"].storage == {"path": "/mnt/tank/volumes"}
    assert loaded.pools["tank"].defaults == {"size": "10G", "protect": "true", "btrfs.compression": "zstd"}
    assert loaded.trash.seconds == 2 * 86400
    assert loaded.origins["daemon.root"].endswith("config.toml")


def test_environment_over_file_and_flags_over_both(tmp_path: Path) -> None:
    file = write(tmp_path, FULL)
    environment = {"SNAPVOL_DAEMON__HOST": "alpha", "SNAPVOL_TRASH__KEEP": "1h"}
    loaded = settings.load(file, environment=environment, flags={"daemon.host": "beta"})
    assert (loaded.daemon.host, loaded.origins["daemon.host"]) == ("beta", "flag")
    assert (loaded.trash.seconds, loaded.origins["trash.keep"]) == (3600, "SNAPVOL_TRASH__KEEP")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[deamon]\n", "unknown section 'deamon'; did you mean 'daemon'?"),
        ("[daemon]\nrot = '/x'\n", "unknown key 'daemon.rot'; did you mean 'root'?"),
        ("[daemon]\nroot = 'x'\n", "daemon.root is not an absolute path"),
        ("[daemon]\njobs = 'many'\n", "daemon.jobs: Expected `int`, got `str`"),
        ("[trash]\nkeep = 'long'\n", "trash.keep: 'long' is not a duration"),
        ("[pools.a]\npath = '/x'\n", "pools.a.backend is missing"),
        ("[daemon]\ndefault_pool = 'b'\n[pools.a]\nbackend = 'directory'\n", "no pool is called 'b'"),
        ("[pools.a]\nbackend='directory'\n[pools.b]\nbackend='directory'\n", "daemon.default_pool is not set"),
        ("[repositories.r]\nurl = 'ftp://x'\n", "is neither a path nor an S3 URL"),
        ("[repositories.r]\nurl = 's3://'\n", "has no bucket"),
        ("[repositories.r]\nurl = '/x'\npasswort_file = '/y'\n", "did you mean 'password_file'?"),
        ("[repositories.r]\nurl = '/x'\naddressing = 'paht'\n", "did you mean 'path'?"),
        ("[daemon\n", "config.toml: "),
        ("daemon = 3\n", "'daemon' is a table"),
    ],
)
def test_wrong_settings_name_file_key_and_remedy_t16(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load(write(tmp_path, text), environment={})
    assert message in str(caught.value)
    assert "config.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_named_file_that_is_absent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no such file"):
        settings.load(tmp_path / "none.toml", environment={})


def test_an_unknown_variable_is_an_error_t16() -> None:
    with pytest.raises(SettingsError, match="SNAPVOL_ROT is not a setting; did you mean 'SNAPVOL_ROOT'"):
        settings.load(environment={"SNAPVOL_ROT": "/x"})


@pytest.mark.parametrize(
    ("text", "seconds"), [("24h", 86400), ("0", 0), ("90m", 5400), ("7d", 604800), ("2w", 1209600)]
)
def test_durations(text: str, seconds: int) -> None:
    assert settings.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1h", "1.5h", "1y", "24 h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError):
        settings.duration(text)


def test_the_cache_lies_below_the_root_unless_it_is_told_where(tmp_path: Path) -> None:
    loaded = settings.load(environment={"SNAPVOL_ROOT": str(tmp_path)})
    assert (loaded.cache.path, loaded.cache.bytes) == (tmp_path / "cache", 1 << 30)
    told = {"SNAPVOL_ROOT": str(tmp_path), "SNAPVOL_CACHE__PATH": "/else/where", "SNAPVOL_CACHE__SIZE": "0"}
    loaded = settings.load(environment=told)
    assert (loaded.cache.path, loaded.cache.bytes) == (Path("/else/where"), 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('size = "much"', "cache.size: 'much' is not a size"),
        ('path = "here"', "cache.path is not an absolute path"),
        ('pth = "/x"', "did you mean 'path'"),
    ],
)
def test_a_cache_that_cannot_be(tmp_path: Path, text: str, said: str) -> None:
    """T16."""
    with pytest.raises(SettingsError) as caught:
        settings.load(write(tmp_path, f"[cache]\n{text}\n"), environment={})
    assert said in str(caught.value)


NOTIFY = """
[notify.pager]
url_file = "/etc/snapvol/pager.url"
level = "error"
group = "0"
[notify.mail]
url_file = "/etc/snapvol/mail.url"
digest = "weekly mon 08:00"
[ping]
url_file = "/etc/snapvol/ping.url"
every = "10m"
"""


def test_whom_to_tell(tmp_path: Path) -> None:
    loaded = settings.load(write(tmp_path, NOTIFY), environment={})
    pager, mail = loaded.notify["pager"], loaded.notify["mail"]
    assert (pager.level, pager.group_seconds, pager.timetable) == ("error", 0, None)
    assert (mail.level, mail.group_seconds) == ("warning", 60)
    assert mail.timetable is not None
    assert (mail.timetable.weekday, mail.timetable.hour) == (0, 8)
    assert loaded.ping.seconds == 600
    assert settings.load(write(tmp_path, ""), environment={}).notify == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[notify.a]\nurl_fil = '/x'\nurl_file = '/x'\n", "unknown key 'notify.a.url_fil'; did you mean 'url_file'?"),
        ("[notify]\nurl_file = '/x'\n", "'notify.url_file': every target has a name; write [notify.NAME]"),
        ("[notify.a]\n", "notify.a.url_file is missing; name a file"),
        ("[notify.a]\nurl = 'tgram://1/2'\n", "notify.a.url: such a URL is a secret; write it into a file"),
        ("[notify.a]\nurl_file = 'x'\n", "notify.a.url_file is not an absolute path"),
        ("[notify.a]\nurl_file = '/x'\nlevel = 'eror'\n", "'eror' is not a level; did you mean 'error'?"),
        ("[notify.a]\nurl_file = '/x'\ngroup = 'soon'\n", "notify.a.group: 'soon' is not a duration"),
        ("[notify.a]\nurl_file = '/x'\ndigest = 'dayly 08:00'\n", "notify.a.digest: 'dayly 08:00' is no timetable"),
        ("[notify.'a b']\nurl_file = '/x'\n", "'a b' cannot be a name"),
        ("notify = 3\n", "'notify' is a table"),
        ("[ping]\nurl_file = 'x'\n", "ping.url_file is not an absolute path"),
        ("[ping]\nevery = 'often'\n", "ping.every: 'often' is not a duration"),
        ("[ping]\nevery = '1s'\n", "ping.every is 1s; at least 60 s are needed"),
        ("[ping]\nurl = 'https://x'\n", "ping.url: such a URL is a secret; write it into a file"),
    ],
)
def test_t16_whom_nobody_can_tell(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load(write(tmp_path, text), environment={})
    assert said in str(caught.value)
    assert "config.toml" in str(caught.value)
