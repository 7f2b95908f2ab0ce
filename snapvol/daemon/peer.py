"""Who is on the other side of a socket, as the kernel says."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from aiohttp.web import BaseRequest

from snapvol.service.holders import Client

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def process(request: BaseRequest) -> int | None:
    """Return the process id of the client, or None where it has gone or is in a namespace that we do not see."""
    sock = request.transport.get_extra_info("socket") if request.transport else None
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(credentials)[0] or None


def client(pid: int | None, proc: Path = Path("/proc")) -> Client | None:
    """Return the client with its start time, which tells a new dockerd from an old one with the same pid (G6)."""
    if pid is None:
        return None
    try:
        # The program's name stands in parentheses and may itself hold parentheses and spaces.
        name, _, rest = (proc / str(pid) / "stat").read_text(errors="replace").partition("(")[2].rpartition(")")
        return Client(pid=pid, start=int(rest.split()[19]), program=name)
    except (FileNotFoundError, ProcessLookupError):
        return None
