"""The units in packaging/systemd, and the daemon under systemd's own tools."""

from __future__ import annotations

import configparser
import socket
from collections.abc import Callable
from pathlib import Path

from snapvol.settings import DaemonSettings
from support import needs
from support.process import Server, wait_until
from support.servers import Snapvol, call

UNITS = Path(__file__).parents[2] / "packaging/systemd"


def unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((UNITS / name).read_text())
    return parser


def test_the_sockets_are_where_the_daemon_expects_them() -> None:
    plugin, api, settings = unit("snapvol.socket"), unit("snapvol-api.socket"), DaemonSettings()
    assert plugin["Socket"]["ListenStream"] == str(settings.plugin_socket)
    assert api["Socket"]["ListenStream"] == str(settings.api_socket)
    assert (plugin["Socket"]["SocketMode"], api["Socket"]["SocketMode"]) == ("0600", "0660")
    assert api["Socket"]["SocketGroup"] == settings.socket_group


def test_docker_never_starts_without_us() -> None:
    """G12, G13: the plugin's socket is there before Docker, holds all its questions, and no unit waits for Docker."""
    socket_unit, service = unit("snapvol.socket"), unit("snapvol.service")
    assert socket_unit["Unit"]["Before"] == service["Unit"]["Before"] == "docker.service"
    assert int(socket_unit["Socket"]["Backlog"]) >= 4096
    assert int(service["Service"]["LimitNOFILE"]) >= 65536
    assert "docker" not in service["Unit"]["After"] + service["Unit"]["Requires"]


def test_the_service_makes_no_mount_namespace() -> None:
    """T13: what the daemon mounts in a namespace of its own would not reach Docker."""
    namespaced = ("Private", "Protect", "ReadOnly", "ReadWrite", "Inaccessible", "TemporaryFileSystem", "Bind", "Mount")
    assert [key for key in unit("snapvol.service")["Service"] if key.startswith(namespaced)] == []


def test_the_first_request_waits_for_the_daemon_that_it_starts(snapvol: Callable[..., Snapvol], place: Path) -> None:
    """G12: under socket activation a client finds the socket before the daemon runs, and gets its answer."""
    needs.program("systemd-socket-activate")
    daemon = snapvol("ext4", start=False, sockets=place / "activated")
    daemon.plugin_socket.parent.mkdir()
    daemon.api_socket.parent.mkdir()
    sockets = (daemon.plugin_socket, daemon.api_socket)
    server = Server(
        [
            *("systemd-socket-activate", "--fdname=plugin:api", *(f"--listen={path}" for path in sockets)),
            *(f"--setenv={key}={value}" for key, value in daemon.env.items()),
            *daemon.command,
        ],
        log=daemon.log,
    )
    try:
        for path in sockets:
            wait_until(path.exists)
            path.chmod(0o600)  # as SocketMode= does
        assert call(daemon.plugin_socket, "POST", "/Plugin.Activate")[1] == {"Implements": ["VolumeDriver"]}
        assert call(daemon.api_socket, "GET", "/v1/volumes") == (200, [])
    finally:
        server.stop()
    assert daemon.plugin_socket.exists(), "the socket is systemd's: the next daemon gets it"


def test_systemd_hears_when_the_daemon_is_ready_and_when_it_stops(snapvol: Callable[..., Snapvol], place: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(place / "notify.sock"))
        notify.settimeout(10)
        daemon = snapvol("ext4", env={"NOTIFY_SOCKET": str(place / "notify.sock")})
        assert b"READY=1" in notify.recv(4096).split(b"\n")
        daemon.stop()
        assert b"STOPPING=1" in notify.recv(4096).split(b"\n")
    assert not daemon.plugin_socket.exists(), "without socket activation the socket goes with the daemon (G12)"
