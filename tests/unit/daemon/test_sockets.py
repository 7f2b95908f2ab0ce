"""Sockets: nobody's is stolen, nobody's is left behind, and none is ever wider than it should be (T12, T43)."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapvol.daemon import sockets, systemd
from snapvol.daemon.sockets import claim, claim_all, claim_root
from snapvol.errors import InUse, Refused, SettingsError
from snapvol.settings import DaemonSettings


@pytest.fixture
def wide_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def test_the_socket_is_narrow_from_the_first_moment(
    short_path: Path, wide_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = short_path / "s.sock", list[int]()
    real = socket.socket.bind

    def bind(self: socket.socket, address: str) -> None:
        real(self, address)
        seen.append(mode(path))

    monkeypatch.setattr(socket.socket, "bind", bind)
    listener = claim(path, "", "daemon.plugin_socket")
    assert seen == [0o600]
    assert mode(path) == 0o600
    listener.release()


@pytest.mark.root
def test_a_group_gets_the_admin_socket_if_it_exists(short_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listener = claim(short_path / "s.sock", "daemon", "daemon.api_socket")
    assert mode(listener.path) == 0o660
    assert listener.path.stat().st_gid == __import__("grp").getgrnam("daemon").gr_gid
    listener.release()
    with caplog.at_level("INFO"):
        listener = claim(short_path / "s.sock", "no-such-group", "daemon.api_socket")
    assert mode(listener.path) == 0o600
    assert "there is no group 'no-such-group'" in caplog.text
    listener.release()


def test_t12_a_stale_file_gives_way(short_path: Path) -> None:
    path = short_path / "s.sock"
    stale(path)
    listener = claim(path, "", "k")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))  # answered by the backlog, before anybody accepts
    listener.release()
    assert not path.exists()


def test_a_live_daemon_keeps_its_socket(short_path: Path) -> None:
    path = short_path / "s.sock"
    first = claim(path, "", "k")
    with pytest.raises(InUse, match="another daemon answers"):
        claim(path, "", "k")
    assert path.exists()
    first.release()


def test_a_live_socket_with_a_full_backlog_is_alive(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = short_path / "s.sock"
    monkeypatch.setattr(sockets, "BACKLOG", 0)
    monkeypatch.setattr(sockets, "_PROBE_SECONDS", 0.05)
    first = claim(path, "", "k")
    waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(3)]
    for client in waiting:
        client.connect_ex(str(path))
    with pytest.raises(InUse):
        claim(path, "", "k")
    for client in waiting:
        client.close()
    first.release()


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_what_is_no_socket_stays(short_path: Path, make: object) -> None:
    path = short_path / "s.sock"
    make(path)  # type: ignore[operator]
    with pytest.raises(Refused, match="not a socket"):
        claim(path, "", "k")
    assert path.exists()


def test_a_dangling_link_stays(short_path: Path) -> None:
    path = short_path / "s.sock"
    path.symlink_to("nowhere")
    with pytest.raises(Refused, match="not a socket"):
        claim(path, "", "k")


def test_missing_directories_are_made_0755(short_path: Path) -> None:
    before = os.umask(0o077)
    try:
        listener = claim(short_path / "docker/plugins/s.sock", "", "k")
    finally:
        os.umask(before)
    assert mode(short_path / "docker") == mode(short_path / "docker/plugins") == 0o755
    listener.release()


def test_t43_a_directory_that_everyone_can_write_is_refused(short_path: Path) -> None:
    place = short_path / "open"
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(Refused) as refused:
        claim(place / "s.sock", "", "k")
    assert refused.value.hint == f"chmod o-w {place}"
    place.chmod(0o1777)  # as /tmp: nobody can replace what is another's
    claim(place / "s.sock", "", "k").release()


def test_a_path_that_is_too_long_for_a_socket(short_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"daemon.plugin_socket: .* is longer than 107 bytes"):
        claim(short_path / ("x" * 100) / "s.sock", "", "daemon.plugin_socket")


def test_a_path_where_nothing_can_be_made(short_path: Path) -> None:
    (short_path / "file").touch()
    with pytest.raises(Refused, match="no socket can be made"):
        claim(short_path / "file/s.sock", "", "k")


def test_only_our_own_file_is_removed(short_path: Path) -> None:
    path = short_path / "s.sock"
    first = claim(path, "", "k")
    path.unlink()
    second = claim(path, "", "k")
    first.release()
    assert path.exists()
    second.release()
    second.release()
    assert not path.exists()


def settings(place: Path) -> DaemonSettings:
    return DaemonSettings(
        root=place, runtime=place, plugin_socket=place / "p.sock", api_socket=place / "a.sock", socket_group=""
    )


def test_two_sockets_need_two_paths(short_path: Path) -> None:
    both = DaemonSettings(plugin_socket=short_path / "s", api_socket=short_path / "s")
    with pytest.raises(SettingsError, match="are both"):
        claim_all(both, [])
    assert not (short_path / "s").exists()


def test_a_failure_at_the_second_socket_gives_the_first_back(short_path: Path) -> None:
    (short_path / "a.sock").mkdir()
    with pytest.raises(Refused):
        claim_all(settings(short_path), [])
    assert not (short_path / "p.sock").exists()


def handed(path: Path, wide: int = 0o600) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    path.chmod(wide)
    sock.listen(1)
    return sock


def test_a_socket_of_systemd_is_used_and_never_removed(short_path: Path) -> None:
    ours = settings(short_path)
    plugin, api = claim_all(ours, [("plugin", handed(ours.plugin_socket))])
    plugin.release()
    api.release()
    assert ours.plugin_socket.exists()
    assert not ours.api_socket.exists()


def test_t43_a_socket_of_systemd_that_everyone_can_use_is_refused(short_path: Path) -> None:
    ours = settings(short_path)
    sock = handed(ours.plugin_socket, 0o666)
    with pytest.raises(Refused, match="can be used by everyone"):
        claim_all(ours, [("plugin", sock)])
    sock.close()


def test_a_socket_of_systemd_that_nobody_asked_for(short_path: Path) -> None:
    sock = handed(short_path / "other.sock")
    with pytest.raises(Refused, match="not ours"):
        claim_all(settings(short_path), [("other", sock)])
    sock.close()


def test_handed_sockets_are_ours_only_with_our_pid(monkeypatch: pytest.MonkeyPatch, short_path: Path) -> None:
    for pid in (str(os.getpid() + 1), ""):
        monkeypatch.setenv("LISTEN_PID", pid)
        monkeypatch.setenv("LISTEN_FDS", "1")
        assert systemd.handed_sockets() == []
        assert "LISTEN_FDS" not in os.environ
    sock = handed(short_path / "p.sock")
    monkeypatch.setattr(systemd, "FIRST", sock.fileno())
    os.set_inheritable(sock.fileno(), True)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "plugin")
    ((name, found),) = systemd.handed_sockets()
    assert (name, found.getsockname()) == ("plugin", str(short_path / "p.sock"))
    assert not os.get_inheritable(found.fileno())
    assert "LISTEN_FDNAMES" not in os.environ
    sock.detach()
    found.close()


def test_a_promise_of_sockets_that_is_not_kept(monkeypatch: pytest.MonkeyPatch, short_path: Path) -> None:
    with (short_path / "file").open("w") as file:
        monkeypatch.setattr(systemd, "FIRST", file.fileno())
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", "1")
        with pytest.raises(Refused, match="is none"):
            systemd.handed_sockets()


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_of_us(monkeypatch: pytest.MonkeyPatch, short_path: Path, abstract: bool) -> None:
    address = f"\0{short_path}/n" if abstract else f"{short_path}/n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(address)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        notifier = systemd.Notifier()
        assert "NOTIFY_SOCKET" not in os.environ
        notifier.tell("READY=1")
        assert ear.recv(100) == b"READY=1"
    notifier.tell("STOPPING=1")  # nobody listens any more: no error


def test_one_daemon_for_each_root(short_path: Path) -> None:
    lock = claim_root(short_path / "new/root")
    with pytest.raises(InUse, match=f"process {os.getpid()}"):
        claim_root(short_path / "new/root")
    os.close(lock)
    os.close(claim_root(short_path / "new/root"))


def test_a_root_that_cannot_be_made(short_path: Path) -> None:
    (short_path / "file").touch()
    with pytest.raises(Refused, match="cannot be made"):
        claim_root(short_path / "file/root")
