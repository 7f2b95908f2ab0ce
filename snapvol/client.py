"""The only HTTP client: the daemon's admin API as typed methods, over its unix socket.

A method returns what the route returns, or raises the error that the daemon met, as the class it was there.
"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from snapvol.api import (
    BackupInfo,
    ChangeInfo,
    Event,
    Finding,
    Forecast,
    JobInfo,
    Plan,
    PolicyInfo,
    SnapshotInfo,
    Status,
    TrashInfo,
    VolumeInfo,
)
from snapvol.errors import DaemonUnreachable, SnapvolError, UsageError, by_kind

CONNECT_SECONDS = 10.0
"""How long the daemon may take to accept; a full backlog is the only honest cause."""

SILENCE_SECONDS = 60.0
"""How long a job's events may stay away: the daemon sends one every few seconds, also where nothing happens."""

Answer = TypeVar("Answer")


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket; ``seconds`` limits every wait for the daemon."""

    def __init__(self, path: Path, seconds: float | None) -> None:
        super().__init__("snapvol")
        self._path = path
        self._seconds = seconds

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_SECONDS)
        self.sock.connect(os.fspath(self._path))
        self.sock.settimeout(self._seconds)


class RestoreRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to restore, and where to.

    Attributes:
        backup: an id, ``VOLUME`` (the newest) or ``VOLUME@TIME``.
        volume: a new volume's name; the backup's own where None.
        in_place: into the backup's volume, or that of this name, which exists.
        path: only this file or directory.
        repository: the default one where None.
    """

    backup: str
    volume: str | None = None
    in_place: bool = False
    path: str | None = None
    repository: str | None = None
    dry_run: bool = False


class Client:
    """The daemon behind a socket. Connects per request; any method may raise `DaemonUnreachable`.

    Args:
        path: the socket.
        seconds: how long an answer may take; None for honest work, which takes as long as it takes (T20).
    """

    def __init__(self, path: Path, seconds: float | None = None) -> None:
        self.path = path
        self._seconds = seconds

    # -- volumes ------------------------------------------------------------------------------------------------

    def volumes(self) -> list[VolumeInfo]:
        """List the volumes."""
        return self._ask("GET", "/v1/volumes", list[VolumeInfo])

    def volume(self, name: str, *, measure: bool = False) -> VolumeInfo:
        """Return one volume; ``measure`` finds out anew what it takes, which may take long."""
        return self._ask("GET", f"/v1/volumes/{_part(name)}", VolumeInfo, query=_flags(measure=measure))

    def create(self, name: str, options: Mapping[str, str], labels: Mapping[str, str]) -> VolumeInfo:
        """Create a volume; where it is filled from a backup, ``job`` names the job that does it."""
        body = {"name": name, "options": dict(options), "labels": dict(labels)}
        return self._ask("POST", "/v1/volumes", VolumeInfo, body)

    def remove(self, name: str, *, dry_run: bool = False, permanent: bool = False) -> Plan:
        """Move a volume to the trash, or remove it for good."""
        return self._ask(
            "DELETE", f"/v1/volumes/{_part(name)}", Plan, query=_flags(dry_run=dry_run, permanent=permanent)
        )

    def set_options(self, name: str, changes: Mapping[str, str | None]) -> VolumeInfo:
        """Change options; None takes one away."""
        return self._ask("PATCH", f"/v1/volumes/{_part(name)}", VolumeInfo, {"options": dict(changes)})

    def rename(self, name: str, to: str) -> VolumeInfo:
        """Give a volume another name."""
        return self._ask("POST", f"/v1/volumes/{_part(name)}/rename", VolumeInfo, {"name": to})

    def resize(self, name: str, size: str) -> VolumeInfo:
        """Change a volume's size: ``10G``."""
        return self._ask("POST", f"/v1/volumes/{_part(name)}/resize", VolumeInfo, {"size": size})

    def mount(self, name: str, holder: str) -> Path:
        """Mount a volume on behalf of ``holder`` and return where."""
        answer = self._ask("POST", f"/v1/volumes/{_part(name)}/mount", dict[str, Any], {"id": holder})
        return Path(answer["mountpoint"])

    def unmount(self, name: str, holder: str) -> None:
        """End ``holder``'s use of a volume."""
        self._ask("POST", f"/v1/volumes/{_part(name)}/unmount", dict[str, Any], {"id": holder})

    def log(self, name: str) -> list[Event]:
        """Return what happened to a volume, oldest first."""
        return self._ask("GET", f"/v1/volumes/{_part(name)}/log", list[Event])

    # -- snapshots ----------------------------------------------------------------------------------------------

    def snapshots(self, volume: str | None = None) -> list[SnapshotInfo]:
        """List the snapshots of one volume, or of all."""
        path = "/v1/snapshots" if volume is None else f"/v1/volumes/{_part(volume)}/snapshots"
        return self._ask("GET", path, list[SnapshotInfo])

    def snapshot(self, volumes: Sequence[str], name: str | None, message: str) -> list[SnapshotInfo]:
        """Snapshot several volumes at one instant; without a name the daemon makes one of the time."""
        body = {"volumes": list(volumes), "name": name, "message": message}
        return self._ask("POST", "/v1/snapshots", list[SnapshotInfo], body)

    def destroy_snapshot(self, volume: str, snapshot: str, *, dry_run: bool = False) -> Plan:
        """Remove a snapshot."""
        return self._ask("DELETE", _snapshot_path(volume, snapshot), Plan, query=_flags(dry_run=dry_run))

    def hold(self, volume: str, snapshot: str, tag: str) -> SnapshotInfo:
        """Keep a snapshot from being removed."""
        return self._ask("POST", f"{_snapshot_path(volume, snapshot)}/hold", SnapshotInfo, {"tag": tag})

    def release(self, volume: str, snapshot: str, tag: str) -> SnapshotInfo:
        """Take a hold away."""
        return self._ask("POST", f"{_snapshot_path(volume, snapshot)}/release", SnapshotInfo, {"tag": tag})

    def rollback(self, volume: str, snapshot: str, *, dry_run: bool = False) -> Plan:
        """Make a volume's contents those of its snapshot."""
        body = {"snapshot": snapshot, "dry_run": dry_run}
        return self._ask("POST", f"/v1/volumes/{_part(volume)}/rollback", Plan, body)

    def diff(self, a: str, b: str) -> list[ChangeInfo]:
        """Return what differs from ``V@A`` to ``V@B``, or to ``V`` as it is now."""
        return self._ask("GET", "/v1/diff", list[ChangeInfo], query={"a": a, "b": b})

    # -- backups ------------------------------------------------------------------------------------------------

    def back_up(self, objects: Sequence[str], *, every: bool = False, repository: str | None = None) -> list[JobInfo]:
        """Start backups of volumes or snapshots; ``every`` means all volumes."""
        body = {"objects": list(objects), "all": every, "repository": repository}
        return self._ask("POST", "/v1/backups", list[JobInfo], body)

    def backups(self, volume: str | None = None, repository: str | None = None) -> list[BackupInfo]:
        """List the backups in a repository."""
        query = {"volume": volume, "repository": repository}
        return self._ask("GET", "/v1/backups", list[BackupInfo], query=query)

    def restore(self, request: RestoreRequest) -> JobInfo:
        """Start a restore."""
        return self._ask("POST", "/v1/restores", JobInfo, request)

    def plan_restore(self, request: RestoreRequest) -> Plan:
        """Return what `restore` would do."""
        return self._ask("POST", "/v1/restores", Plan, msgspec.structs.replace(request, dry_run=True))

    def verify(self, backups: Sequence[str], repository: str | None = None) -> list[JobInfo]:
        """Start reading and checking whole backups."""
        body = {"backups": list(backups), "repository": repository}
        return self._ask("POST", "/v1/verifications", list[JobInfo], body)

    def forget(self, backups: Sequence[str], repository: str | None, *, dry_run: bool, force: bool) -> Plan:
        """Take backups out of a repository; ``force`` takes the last good one of a volume too."""
        body = {"backups": list(backups), "repository": repository, "dry_run": dry_run, "force": force}
        return self._ask("POST", "/v1/forget", Plan, body)

    # -- jobs ---------------------------------------------------------------------------------------------------

    def jobs(self) -> list[JobInfo]:
        """List the jobs, running ones and history."""
        return self._ask("GET", "/v1/jobs", list[JobInfo])

    def job(self, job: str) -> JobInfo:
        """Return one job."""
        return self._ask("GET", f"/v1/jobs/{_part(job)}", JobInfo)

    def job_log(self, job: str) -> list[str]:
        """Return a job's log, a line each."""
        lines: list[str] = self._ask("GET", f"/v1/jobs/{_part(job)}/log", dict[str, Any])["lines"]
        return lines

    def cancel(self, job: str) -> JobInfo:
        """Ask for a job to be stopped."""
        return self._ask("POST", f"/v1/jobs/{_part(job)}/cancel", JobInfo, {})

    def retry(self, job: str) -> JobInfo:
        """Start a failed job again, as a new one."""
        return self._ask("POST", f"/v1/jobs/{_part(job)}/retry", JobInfo, {})

    def watch(self, job: str) -> Iterator[JobInfo]:
        """Yield a job's states as they change, the last one when it has ended."""
        with self._exchange("GET", f"/v1/jobs/{_part(job)}/events", None, SILENCE_SECONDS) as response:
            self._check(response)
            decoder = msgspec.json.Decoder(JobInfo)
            while line := response.readline():
                if line.strip():
                    yield decoder.decode(line)

    # -- trash, reports -----------------------------------------------------------------------------------------

    def trash(self) -> list[TrashInfo]:
        """List the removed volumes that can be brought back."""
        return self._ask("GET", "/v1/trash", list[TrashInfo])

    def undelete(self, reference: str, name: str | None = None) -> VolumeInfo:
        """Bring a removed volume back, by its name or id, under its own or another name."""
        return self._ask("POST", f"/v1/trash/{_part(reference)}/undelete", VolumeInfo, {"name": name})

    def empty_trash(self, reference: str | None = None, *, dry_run: bool = False) -> Plan:
        """Remove one volume in the trash, or all of them, for good."""
        return self._ask("DELETE", "/v1/trash", Plan, query={"name": reference, **_flags(dry_run=dry_run)})

    def status(self, volume: str | None = None) -> Status:
        """Return what is protected and what needs attention."""
        return self._ask("GET", "/v1/status", Status, query={"volume": volume})

    def config(self) -> dict[str, Any]:
        """Return the daemon's effective settings and where each came from."""
        return self._ask("GET", "/v1/config", dict[str, Any])

    def doctor(self) -> list[Finding]:
        """Return what the daemon finds wrong with this machine."""
        return self._ask("GET", "/v1/doctor", list[Finding])

    # -- transport ----------------------------------------------------------------------------------------------

    def _ask(
        self,
        method: str,
        path: str,
        kind: type[Answer],
        body: object = None,
        query: Mapping[str, str | None] | None = None,
    ) -> Answer:
        given = {key: value for key, value in (query or {}).items() if value is not None}
        with self._exchange(method, f"{path}?{urlencode(given)}" if given else path, body) as response:
            self._check(response)
            content = response.read()
        try:
            return msgspec.json.decode(content or b"null", type=kind)
        except msgspec.MsgspecError as error:
            raise _misunderstood(f"{method} {path}: {error}") from error

    @contextmanager
    def _exchange(
        self, method: str, path: str, body: object, seconds: float | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        content = None if body is None else _encoded(body)
        connection = _Connection(self.path, seconds or self._seconds)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise _unreachable(self.path, error) from error
            headers = {} if body is None else {"Content-Type": "application/json"}
            try:
                connection.request(method, path, content, headers)
                yield connection.getresponse()
            except TimeoutError as error:
                raise DaemonUnreachable(
                    "the daemon does not answer any more", "look why: journalctl -u snapvol"
                ) from error
            except (OSError, http.client.HTTPException) as error:
                raise DaemonUnreachable(
                    "the daemon ended before it answered", "look why: journalctl -u snapvol; then: snapvol status"
                ) from error
        finally:
            connection.close()

    @staticmethod
    def _check(response: http.client.HTTPResponse) -> None:
        if response.status < 400:
            return
        try:
            answer = msgspec.json.decode(response.read(), type=_Refusal).error
        except msgspec.MsgspecError as error:
            raise _misunderstood(f"status {response.status}, {response.reason}") from error
        raise rebuilt(answer.kind, answer.message, answer.hint)


class _Error(msgspec.Struct, frozen=True):
    kind: str
    message: str
    hint: str | None = None


class _Refusal(msgspec.Struct, frozen=True):
    error: _Error


def rebuilt(kind: str, message: str, hint: str | None) -> SnapvolError:
    """Return the error that the daemon met: of the class called ``kind``, with the message that it had there."""
    # Not by calling the class: some take other arguments, of which the daemon has made the message already.
    found = by_kind(kind)
    failure = found.__new__(found)
    SnapvolError.__init__(failure, message, hint)
    return failure


def _encoded(body: object) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError as error:
        raise UsageError(
            "what was given is not UTF-8, and the daemon takes only that",
            "for a file with such a name: restore the directory that it is in, or to a directory: --to DIR",
        ) from error


def _part(name: str) -> str:
    return quote(name, safe="")


def _snapshot_path(volume: str, snapshot: str) -> str:
    return f"/v1/volumes/{_part(volume)}/snapshots/{_part(snapshot)}"


def _flags(**flags: bool) -> dict[str, str | None]:
    return {name: "true" for name, on in flags.items() if on}


def _misunderstood(what: str) -> SnapvolError:
    return SnapvolError(
        f"the daemon's answer is not understood ({what})", "after an upgrade restart it: systemctl restart snapvol"
    )


def _unreachable(path: Path, error: OSError) -> DaemonUnreachable:
    if isinstance(error, PermissionError):
        return DaemonUnreachable(
            f"no permission to use {path}", "run this as root, or join its group: usermod -aG snapvol USER"
        )
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return DaemonUnreachable(
            f"no daemon answers at {path}", "start it: systemctl start snapvol, or: snapvol daemon"
        )
    why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
    return DaemonUnreachable(f"no daemon answers at {path}: {why}", "check the path: --socket, or daemon.api_socket")
