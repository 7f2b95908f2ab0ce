"""A Ceph RGW of one node for tests: monitor, object store in memory, S3 gateway; everything on 127.0.0.1.

Needs no root and no loop device, is ready in about a second, and keeps nothing. Started by hand, for a look at it:
``PYTHONPATH=tests python -m lab.rgw /tmp/rgw`` runs until Ctrl-C.
"""

from __future__ import annotations

import signal
import socket
import sys
import tempfile
import uuid
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from support.process import Server, run

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")

# crc is the only mode in which radosgw talks to a monitor that has no cephx; without tcp_nodelay each small GET takes
# 48 ms; without the cache a killed gateway can be started again at once.
_CONFIGURATION = """\
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr1 = false
ms mon client mode = crc
auth cluster required = none
auth service required = none
auth client required = none
keyring = /dev/null
run dir = {place}
admin socket = {place}/$name.$pid.asok
log file = {place}/$name.log
mon cluster log file = {place}/cluster.log
crash dir = {place}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
[mon]
mon data = {place}/mon
mon data avail crit = 1
paxos propose interval = 0.01
paxos min wait = 0.01
[osd]
osd data = {place}/osd
osd objectstore = memstore
memstore device bytes = {capacity}
[client.rgw]
rgw data = {place}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw thread pool size = 64
rgw cache enabled = false
rgw gc obj min wait = 5
rgw gc processor period = 5
rgw gc processor max time = 5
"""


@dataclass(frozen=True)
class Credentials:
    """A user's keys, and the user's name on the server."""

    user: str
    key: str
    secret: str


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Return whether somebody listens on the port of 127.0.0.1."""
    with closing(socket.socket()) as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Rgw:
    """The running servers.

    Args:
        place: an empty directory for configuration and logs.
        capacity: bytes that the store holds before it is full.
    """

    def __init__(self, place: Path, capacity: int = 8 << 30) -> None:
        self.place = place
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._servers: list[Server] = []
        self._environment = {"CEPH_CONF": str(place / "ceph.conf")}
        for directory in ("mon", "osd", "rgw"):
            (place / directory).mkdir()
        fsid, mon_port = str(uuid.uuid4()), free_port()
        (place / "ceph.conf").write_text(
            _CONFIGURATION.format(fsid=fsid, mon_port=mon_port, place=place, port=self.port, capacity=capacity)
        )
        try:
            self._start_store(fsid, mon_port)
            self.credentials = self.user("snapvol")
            self.gateway = self._serve("radosgw", "-f", "-n", "client.rgw")
            self.gateway.ready(lambda: listens(self.port), 60)
        except BaseException:
            self.stop()
            raise

    def _start_store(self, fsid: str, mon_port: int) -> None:
        monmap = self.place / "monmap"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", str(monmap))
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(monmap))
        self._serve("ceph-mon", "-f", "-i", "a")
        osd = str(uuid.uuid4())
        self._run("ceph", "--connect-timeout", "30", "osd", "new", osd)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self.store = self._serve("ceph-osd", "-f", "-i", "0")

    def _run(self, *argv: str) -> str:
        return run(*argv, env=self._environment, seconds=90).stdout

    def _serve(self, *argv: str) -> Server:
        server = Server(argv, log=self.place / f"{argv[0]}.out", env=self._environment)
        self._servers.append(server)
        return server

    def user(self, name: str) -> Credentials:
        """Make a user with full rights on its own buckets."""
        made = Credentials(name, f"{name}-key", f"{name}-secret")
        self._run(
            *("radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}"),
            *(f"--access-key={made.key}", f"--secret={made.secret}"),
        )
        return made

    def admin(self, *argv: str) -> str:
        """Run ``radosgw-admin``: suspend a user, set a quota …"""
        return self._run("radosgw-admin", *argv)

    def pause(self) -> None:
        """Let the gateway accept connections and never answer."""
        self.gateway.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End `pause`."""
        self.gateway.signal(signal.SIGCONT)

    def stop(self) -> None:
        """End everything. SIGTERM would take ten seconds to save what nobody wants."""
        for server in reversed(self._servers):
            server.kill_9()


if __name__ == "__main__":
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="rgw-"))
    directory.mkdir(parents=True, exist_ok=True)
    rgw = Rgw(directory)
    print(f"{rgw.endpoint} key={rgw.credentials.key} secret={rgw.credentials.secret}", flush=True)
    try:
        rgw.gateway.wait(3600)
    finally:
        rgw.stop()
