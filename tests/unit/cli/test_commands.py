"""What each command asks of the daemon, and what it prints of the answer."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from snapvol.api import (
    Action,
    BackupInfo,
    BackupRef,
    ChangeInfo,
    Event,
    Finding,
    JobProgress,
    JobState,
    Level,
    Plan,
    PoolInfo,
    RepositoryInfo,
    SnapshotInfo,
    Status,
    TargetInfo,
    TrashInfo,
    TrialResult,
    VolumeStatus,
)
from snapvol.model import State
from support.fake_api import CREATED, Api, Result, job, volume

Snapvol = Callable[..., Result]
ID = "0123456789abcdef" * 4
WIKI = volume("wiki", used=5 << 20, size=10 << 30, snapshots=2, options={"size": "10G"})
SNAPSHOT = SnapshotInfo(volume="wiki", name="before", id="7", created=CREATED, message="why", holds=("a", "b"))
BACKUP = BackupInfo(id=ID, time=CREATED, repository="default", volume="wiki", host="h", size=1 << 20, files=3)
PLANNED = Plan(actions=[Action(verb="remove", object="volume wiki")], done=False)
DONE = Plan(actions=PLANNED.actions, done=True)


def test_ls(api: Api, snapvol: Snapvol) -> None:
    api.on(
        "GET",
        "/v1/volumes",
        [WIKI, volume("db", mounted=True, last_backup=BackupRef(id=ID, time=CREATED, repository="r"))],
    )
    result = snapvol("ls")
    assert result.code == 0
    head, wiki, db = result.out.splitlines()
    assert head.split("  ")[0] == "NAME"
    assert wiki.split() == ["wiki", "default", "ready", "10.0", "GiB", "5.0", "MiB", "2", "-", "-"]
    assert db.split()[:3] == ["db", "default", "in"]
    assert [each["name"] for each in snapvol("ls", "--json").json] == ["wiki", "db"]
    assert snapvol("ls", "-q").out == "wiki\ndb\n"


def test_ls_of_nothing_tells_a_person_how_to_begin(api: Api, snapvol: Snapvol) -> None:
    api.on("GET", "/v1/volumes", [])
    assert snapvol("ls", terminal=True) == Result(0, "", "no volumes yet; make one: snapvol create NAME\n")


def test_create(api: Api, snapvol: Snapvol) -> None:
    api.on("POST", "/v1/volumes", WIKI)
    result = snapvol("create", "wiki", "-o", "size=10G", "--option", "a=b=c", "--label", "k=")
    assert result == Result(0, "wiki\n", "")
    body = {"name": "wiki", "options": {"size": "10G", "a": "b=c"}, "labels": {"k": ""}}
    assert api.said == [("POST", "/v1/volumes", body)]
    assert snapvol("create", "wiki", "--json").json["id"] == "id-wiki"


def test_create_from_a_backup_waits_for_the_restore(api: Api, snapvol: Snapvol) -> None:
    api.on("POST", "/v1/volumes", volume("new", state=State.RESTORING, job="1a2b3c4d"))
    api.on("GET", "/v1/jobs/1a2b3c4d", job(kind="restore", state=JobState.RUNNING))
    api.on("GET", "/v1/jobs/1a2b3c4d/events", lines=[job(kind="restore", state=JobState.RUNNING), job(kind="restore")])
    assert snapvol("create", "new", "-o", "backup=wiki") == Result(0, "new\n", "")
    api.requests.clear()
    assert snapvol("create", "new", "-o", "backup=wiki", "--detach") == Result(0, "new\n", "")
    assert [path for _, path, _ in api.said] == ["/v1/volumes"]


@pytest.mark.parametrize(
    ("source", "option"), [("wiki", "wiki"), ("wiki@before", "wiki@before")], ids=["now", "a snapshot"]
)
def test_clone_is_create_with_the_option_snapshot(api: Api, snapvol: Snapvol, source: str, option: str) -> None:
    api.on("POST", "/v1/volumes", volume("new"))
    assert snapvol("clone", source, "new", "-o", "protect=true") == Result(0, "new\n", "")
    assert api.said[0][2] == {"name": "new", "options": {"protect": "true", "snapshot": option}, "labels": {}}


def test_rm_takes_volumes_and_snapshots(api: Api, snapvol: Snapvol) -> None:
    api.on("DELETE", "/v1/volumes/wiki", DONE)
    api.on("DELETE", "/v1/volumes/db/snapshots/old", Plan(actions=[Action(verb="destroy", object="db@old")], done=True))
    assert snapvol("rm", "wiki", "db@old") == Result(0, "removed volume wiki\ndestroyed db@old\n", "")


def test_rm_stops_at_the_first_failure(api: Api, snapvol: Snapvol) -> None:
    api.on("DELETE", "/v1/volumes/a", DONE)
    api.refuse("DELETE", "/v1/volumes/b", "InUse", "volume 'b' is in use", "stop it", 409)
    result = snapvol("rm", "a", "b", "c")
    assert result == Result(4, "removed volume wiki\n", "snapvol: volume 'b' is in use; stop it\n")


def test_rm_dry_run_asks_for_the_plan_only(api: Api, snapvol: Snapvol) -> None:
    api.on("DELETE", "/v1/volumes/wiki?dry_run=true", PLANNED)
    api.on("DELETE", "/v1/volumes/wiki/snapshots/s?dry_run=true", PLANNED)
    assert snapvol("rm", "--dry-run", "wiki").out == "would remove volume wiki\n"
    assert snapvol("rm", "--dry-run", "wiki@s", "--json").json[0]["done"] is False


def test_rm_permanent_is_asked_about(api: Api, snapvol: Snapvol) -> None:
    api.on("DELETE", "/v1/volumes/wiki?dry_run=true&permanent=true", PLANNED)
    refused = snapvol("rm", "--permanent", "wiki")
    assert refused.code == 4
    assert refused.err == (
        "snapvol: removing past the trash cannot be undone, and nobody is there to ask; add --yes to do it\n"
    )
    api.on("DELETE", "/v1/volumes/wiki?permanent=true", DONE)
    assert snapvol("rm", "--permanent", "--yes", "wiki") == Result(0, "removed volume wiki\n", "")


def test_rename_resize_set(api: Api, snapvol: Snapvol) -> None:
    api.on("POST", "/v1/volumes/wiki/rename", volume("new"))
    assert snapvol("rename", "wiki", "new").out == "new\n"
    api.on("POST", "/v1/volumes/wiki/resize", WIKI)
    assert snapvol("resize", "wiki", "10G").out == "wiki: 10.0 GiB\n"
    api.on("PATCH", "/v1/volumes/wiki", WIKI)
    assert snapvol("set", "wiki", "protect=true", "uid=").out == "size=10G\n"
    assert api.said[-1][2] == {"options": {"protect": "true", "uid": None}}


def test_set_shows_that_nothing_is_left(api: Api, snapvol: Snapvol) -> None:
    api.on("PATCH", "/v1/volumes/wiki", volume("wiki"))
    assert snapvol("set", "wiki", "uid=", terminal=True) == Result(0, "", "snapvol: wiki has no options now\n")


def test_mount_and_unmount_print_the_path(api: Api, snapvol: Snapvol) -> None:
    api.on("POST", "/v1/volumes/wiki/mount", {"mountpoint": "/pool/volumes/wiki/data"})
    assert snapvol("mount", "wiki").out == "/pool/volumes/wiki/data\n"
    api.on("GET", "/v1/volumes/wiki", WIKI)
    api.on("POST", "/v1/volumes/wiki/unmount", {})
    assert snapvol("unmount", "wiki", "--id", "x").out == "/pool/volumes/wiki/data\n"
    assert [body for _, _, body in api.said] == [{"id": "cli"}, None, {"id": "x"}]


def test_snapshot_and_snapshots(api: Api, snapvol: Snapvol) -> None:
    api.on("POST", "/v1/snapshots", [SNAPSHOT])
    assert snapvol("snapshot", "wiki", "-n", "before", "-m", "why").out == "wiki@before\n"
    assert api.said[-1][2] == {"volumes": ["wiki"], "name": "before", "message": "why"}
    api.on("GET", "/v1/volumes/wiki/snapshots", [SNAPSHOT])
    api.on("GET", "/v1/snapshots", [SNAPSHOT, SnapshotInfo(volume="x", name="y", id="", created=None, error="bad")])
    assert snapvol("snapshots", "wiki", "-q").out == "wiki@before\n"
    listed = snapvol("snapshots").out.splitlines()
    assert "a,b" in listed[1]
    assert listed[2].endswith("damaged: bad")


def test_diff(api: Api, snapvol: Snapvol) -> None:
    kinds = {"new": "added", "a\nb": "removed", "c": "modified"}
    changes = [ChangeInfo(path=path, kind=kind) for path, kind in kinds.items()]
    api.on("GET", "/v1/diff?a=wiki%40a&b=wiki", changes)
    assert snapvol("diff", "wiki@a").out == "+ new\n- a\\nb\nM c\n"
    api.on("GET", "/v1/diff?a=wiki%40a&b=wiki%40b", changes)
    assert len(snapvol("diff", "wiki@a", "wiki@b", "--json").json) == 3


def test_rollback(api: Api, snapvol: Snapvol) -> None:
    api.on("POST", "/v1/volumes/wiki/rollback", PLANNED)
    assert snapvol("rollback", "--dry-run", "wiki@before").out == "would remove volume wiki\n"
    assert api.said[-1][2] == {"snapshot": "before", "dry_run": True}


def test_hold_and_release(api: Api, snapvol: Snapvol) -> None:
    api.on("POST", "/v1/volumes/wiki/snapshots/before/hold", SNAPSHOT)
    assert snapvol("hold", "wiki@before", "--tag", "a").out == "wiki@before: held by a, b\n"
    api.on("POST", "/v1/volumes/wiki/snapshots/before/release", SnapshotInfo(volume="w", name="b", id="", created=None))
    assert snapvol("release", "wiki@before").out == "wiki@before: not held\n"
    assert [body for _, _, body in api.said] == [{"tag": "a"}, {"tag": "user"}]


def test_log(api: Api, snapvol: Snapvol) -> None:
    api.on("GET", "/v1/volumes/wiki/log", [Event(time=CREATED, kind="create", object="wiki", message="made\nit")])
    assert snapvol("log", "wiki").out.endswith("  wiki  made\\nit\n")
    assert snapvol("log", "wiki", "--json").json[0]["time"] == "2026-11-20T03:00:00Z"


def test_trash(api: Api, snapvol: Snapvol) -> None:
    api.on("GET", "/v1/trash", [TrashInfo(id="id-1", name="wiki", pool="p", deleted=CREATED, expires=CREATED)])
    assert snapvol("trash", "-q").out == "wiki\n"
    assert "id-1" in snapvol("trash").out
    api.on("POST", "/v1/trash/wiki/undelete", volume("back"))
    assert snapvol("undelete", "wiki", "--name", "back").out == "back\n"
    assert api.said[-1][2] == {"name": "back"}


def test_notify(api: Api, snapvol: Snapvol) -> None:
    told = TargetInfo(name="mail", service="mailtos", level=Level.WARNING, digest="daily 08:00", told=CREATED, alarms=2)
    bad = TargetInfo(name="pager", service="", level=Level.ERROR, problem="its file is gone")
    api.on("GET", "/v1/notify", [told, bad])
    head, mail, pager = snapvol("notify", "ls").out.splitlines()
    assert head.split() == ["TARGET", "SERVICE", "LEVEL", "DIGEST", "OPEN", "LAST", "TOLD"]
    assert mail.split()[:6] == ["mail", "mailtos", "warning", "daily", "08:00", "2"]
    assert pager.endswith("its file is gone")
    assert snapvol("notify", "ls", "-q").out == "mail\npager\n"
    accepted = TrialResult(target="mail", accepted=True)
    api.on("POST", "/v1/notify/test", [accepted, TrialResult(target="pager", accepted=False, problem="404")])
    tried = snapvol("notify", "test")
    assert (tried.code, tried.out.splitlines()[1:]) == (1, ["mail    accepted", "pager   not accepted: 404"])
    assert api.said[-1] == ("POST", "/v1/notify/test", {"target": None})


def test_notify_test_of_one_target(api: Api, snapvol: Snapvol) -> None:
    api.on("POST", "/v1/notify/test", [TrialResult(target="mail", accepted=True)])
    assert snapvol("notify", "test", "mail", "--json").code == 0
    assert api.said[-1][2] == {"target": "mail"}


def test_empty_trash_shows_the_plan_and_wants_a_yes(api: Api, snapvol: Snapvol) -> None:
    api.on("DELETE", "/v1/trash?dry_run=true", PLANNED)
    refused = snapvol("empty-trash")
    assert (refused.code, refused.out) == (4, "would remove volume wiki\n")
    api.on("DELETE", "/v1/trash?name=wiki", DONE)
    assert snapvol("empty-trash", "wiki", "--yes").out == "removed volume wiki\n"


def test_empty_trash_of_nothing_asks_nobody(api: Api, snapvol: Snapvol) -> None:
    api.on("DELETE", "/v1/trash?dry_run=true", Plan(actions=[], done=False))
    assert snapvol("empty-trash") == Result(0, "nothing to do\n", "")


def test_backups(api: Api, snapvol: Snapvol) -> None:
    foreign = BackupInfo(id="f" * 64, time=CREATED, repository="default", tags=("old", "x"))
    api.on("GET", "/v1/backups", [BACKUP, foreign])
    lines = snapvol("backups").out.splitlines()
    assert lines[1].split()[:2] == ["01234567", "wiki"]
    assert lines[2].endswith("not made by snapvol: old x")
    api.on("GET", "/v1/backups?volume=wiki&repository=offsite", [BACKUP])
    assert snapvol("backups", "wiki", "--repository", "offsite", "-q").out == "01234567\n"


def test_forget(api: Api, snapvol: Snapvol) -> None:
    api.on("POST", "/v1/forget", PLANNED)
    assert snapvol("forget", "01234567").code == 4
    assert [body["dry_run"] for _, _, body in api.said] == [True]
    assert snapvol("forget", "--yes", "--force", "a", "b").code == 0
    assert api.said[-1][2] == {"backups": ["a", "b"], "repository": None, "dry_run": False, "force": True}


def test_restore(api: Api, snapvol: Snapvol) -> None:
    api.on("POST", "/v1/restores", job(kind="restore", result={"volume": "new", "files": 2, "bytes_written": 2048}))
    api.on(
        "GET",
        "/v1/jobs/1a2b3c4d/events",
        job(kind="restore", result={"volume": "new", "files": 2, "bytes_written": 2048}),
    )
    assert snapvol("restore", "wiki", "new", "--path", "/a").out == "new: 2 files, 2.0 KiB\n"
    where = {"backup": "wiki", "volume": "new", "path": "/a", "repository": None}
    assert api.said[0][2] == {**where, "in_place": False, "dry_run": False}


def test_restore_dry_run(api: Api, snapvol: Snapvol) -> None:
    api.on("POST", "/v1/restores", PLANNED)
    assert snapvol("restore", "wiki", "--in-place", "--dry-run").out == "would remove volume wiki\n"
    assert api.said[0][2]["dry_run"] is True
    assert api.said[0][2]["in_place"] is True


@pytest.mark.parametrize(
    ("object", "path", "answer"),
    [
        ("wiki", "/v1/volumes/wiki", WIKI),
        ("wiki@before", "/v1/volumes/wiki/snapshots", [SNAPSHOT]),
        ("01234567", "/v1/backups", [BACKUP]),
    ],
)
def test_inspect(api: Api, snapvol: Snapvol, object: str, path: str, answer: Any) -> None:
    if object == "01234567":
        api.refuse("GET", "/v1/volumes/01234567", "NotFound", "no such volume", None, 404)
    api.on("GET", path, answer)
    shown = snapvol("inspect", object).json
    assert shown["id"] in ("id-wiki", "7", ID)
    assert snapvol("inspect", object, "--json").json == shown


def test_inspect_of_nothing(api: Api, snapvol: Snapvol) -> None:
    api.refuse("GET", "/v1/volumes/none", "NotFound", "volume 'none' does not exist", "see: snapvol ls", 404)
    assert snapvol("inspect", "none") == Result(3, "", "snapvol: volume 'none' does not exist; see: snapvol ls\n")
    api.on("GET", "/v1/volumes/wiki/snapshots", [SNAPSHOT])
    assert snapvol("inspect", "wiki@s").err == (
        "snapvol: snapshot 'wiki@s' does not exist; see: snapvol snapshots wiki\n"
    )
    api.refuse("GET", "/v1/volumes/ffff", "NotFound", "volume 'ffff' does not exist", None, 404)
    api.on("GET", "/v1/backups", [BACKUP])
    assert snapvol("inspect", "ffff").err == (
        "snapvol: no volume or backup is called 'ffff'; see: snapvol ls, snapvol backups\n"
    )


def test_an_unreachable_daemon_is_not_an_absent_volume(api: Api, snapvol: Snapvol) -> None:
    api.refuse("GET", "/v1/volumes/ffff", "PoolUnavailable", "pool 'p' is missing", None, 503)
    assert snapvol("inspect", "ffff") == Result(5, "", "snapvol: pool 'p' is missing\n")


def test_jobs(api: Api, snapvol: Snapvol) -> None:
    running = job("22222222", JobState.RUNNING, progress=JobProgress(phase="reading", bytes_done=1, bytes_total=2))
    api.on("GET", "/v1/jobs", [job(started=CREATED, ended=CREATED, warnings=["w"]), running])
    lines = snapvol("jobs").out.splitlines()
    assert lines[1].endswith("1 warning")
    assert lines[2].endswith("50 %, reading, 1 B of 2 B")
    assert snapvol("jobs", "--running", "-q").out == "22222222\n"


def test_job_show_log_cancel(api: Api, snapvol: Snapvol) -> None:
    failed = job(state=JobState.FAILED, error="it broke", hint="mend it", warnings=["w"], result={"files": 3})
    api.on("GET", "/v1/jobs/1a2b3c4d", failed)
    shown = snapvol("job", "show", "1a2b3c4d")
    assert "what      backup of wiki" in shown.out
    assert "files     3" in shown.out
    assert shown.err == "snapvol: warning: w\nsnapvol: it broke; mend it\n"
    assert snapvol("job", "show", "1a2b3c4d", "--json").json["error"] == "it broke"
    api.on("GET", "/v1/jobs/1a2b3c4d/log", {"lines": ["a", "b"]})
    assert snapvol("job", "log", "1a2b3c4d").out == "a\nb\n"
    api.on("POST", "/v1/jobs/1a2b3c4d/cancel", job(state=JobState.CANCELLED))
    assert snapvol("job", "cancel", "1a2b3c4d").out == "1a2b3c4d: cancelled\n"


STATUS = Status(
    ok=False,
    volumes=[VolumeStatus(name="wiki", state=State.READY, would_lose=3600)],
    pools=[PoolInfo(name="p", backend="btrfs", ok=False, default=True, problem="read-only")],
    repositories=[RepositoryInfo(name="r", url="/srv/r", ok=None)],
    jobs=[job(state=JobState.FAILED, error="no")],
    findings=[
        Finding(level=Level.OK, subject="x", message="fine"),
        Finding(level=Level.WARNING, subject="volume wiki", message="has no backup", command="snapvol backup wiki"),
    ],
)


def test_status_exits_with_1_where_something_needs_attention(api: Api, snapvol: Snapvol) -> None:
    api.on("GET", "/v1/status", STATUS)
    result = snapvol("status")
    assert (result.code, result.err) == (1, "")
    assert result.out.splitlines()[1].split() == ["wiki", "ready", "-", "-", "an", "hour", "everything"]
    assert "not ok" in result.out  # the findings say why
    assert "not asked yet" in result.out
    assert result.out.endswith("warning: volume wiki: has no backup; snapvol backup wiki\n")
    assert "fine" not in result.out
    assert snapvol("status", "--json").code == 1
    api.on("GET", "/v1/status?volume=wiki", Status(ok=True))
    assert snapvol("status", "wiki").code == 0


def test_doctor(api: Api, snapvol: Snapvol) -> None:
    api.on("GET", "/v1/doctor", [Finding(level=Level.OK, subject="pools", message="open")])
    assert snapvol("doctor") == Result(0, "ok: pools: open\n", "")
    api.replies.clear()
    api.on("GET", "/v1/doctor", STATUS.findings)
    assert snapvol("doctor").code == 1


def test_doctor_without_a_daemon_says_so(monkeypatch: pytest.MonkeyPatch, snapvol: Snapvol) -> None:
    monkeypatch.setenv("SNAPVOL_SOCKET", "/nowhere/api.sock")
    result = snapvol("doctor")
    assert (result.code, result.err) == (5, "")
    assert result.out == (
        "error: daemon: no daemon answers at /nowhere/api.sock; start it: systemctl start snapvol, or: snapvol daemon\n"
    )
    monkeypatch.delenv("SNAPVOL_SOCKET")
    assert snapvol("--config", os.devnull + "/x", "doctor").code == 2


def test_config(api: Api, snapvol: Snapvol) -> None:
    values = {"daemon.jobs": {"value": 2, "origin": "default"}, "pools.p.full_copies": {"value": True, "origin": "/c"}}
    api.on("GET", "/v1/config", values)
    assert [line.split() for line in snapvol("config").out.splitlines()[1:]] == [
        ["daemon.jobs", "2", "default"],
        ["pools.p.full_copies", "true", "/c"],
    ]
    assert snapvol("config", "--json").json == values
    assert snapvol("config", "pools.p.full_copies").out == "true\n"
    unknown = snapvol("config", "daemon.job")
    assert unknown == Result(3, "", "snapvol: there is no setting 'daemon.job'; did you mean 'daemon.jobs'?\n")
