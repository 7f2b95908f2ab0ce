"""Messages on their way: through Apprise to a server of this machine, past outages, and without a secret in sight."""

from __future__ import annotations

import logging
import shlex
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from snapvol.api import BackupRef, Finding, Level, Status, VolumeStatus
from snapvol.daemon import logs
from snapvol.errors import NotFound, SettingsError
from snapvol.model import State, now
from snapvol.service import announcer as announcing
from snapvol.service import notices, outlet
from snapvol.service.alarms import Alarm, Notice
from snapvol.service.announcer import Announcer
from snapvol.service.outlet import Outlet, masked
from snapvol.service.state import StateDatabase
from snapvol.settings import Settings, load
from support.process import wait_until
from support.receiver import Receiver, receiver

SECRET = "T0ken-that-nobody-may-see"
GONE = Finding(level=Level.ERROR, subject="pool 'tank'", message="its disk is missing", command="snapvol doctor")
NEVER = Finding(level=Level.WARNING, subject="volume 'web'", message="has never been backed up")


def url_file(path: Path, url: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(f"{url}\n# a remark\n")
    return path


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(announcing, "AGAIN_SECONDS", 0.0)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What the root logger gets, as in the daemon; caplog would also ask loggers that keep to themselves."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    root, handler, level = logging.getLogger(), Handler(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    for library in logs.LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
    yield lines
    for library in logs.LIBRARIES:
        logging.getLogger(library).setLevel(logging.NOTSET)
    root.removeHandler(handler)
    root.setLevel(level)


class World:
    """An announcer whose findings the test writes; `restart` gives it a new life over the same history."""

    def __init__(self, root: Path, **targets: dict[str, object]) -> None:
        self.root, self.found = root, [GONE]
        text = "".join(
            f"[notify.{name}]\ngroup = '0'\n" + "".join(f"{key} = '{value}'\n" for key, value in target.items())
            for name, target in targets.items()
        )
        file = root / "config.toml"
        file.write_text(text)
        self.settings: Settings = load(file, {"SNAPVOL_ROOT": str(root), "SNAPVOL_DAEMON__HOST": "alpha"})
        self._open()

    def _open(self) -> None:
        self.state = StateDatabase(self.root / "state.db")
        self.announcer = Announcer(self.settings, self.state, self.look)

    def look(self) -> Status:
        findings = [*self.found, *self.announcer.findings()]
        return Status(ok=not findings, findings=findings)

    def settle(self, condition: Callable[[], bool]) -> None:
        def look_again() -> bool:
            self.announcer.announce()
            return condition()

        wait_until(look_again, 20)

    def quiet(self) -> None:
        """Look several times, and wait for whatever that sent."""
        for _ in range(5):
            self.announcer.announce()
            for target in self.announcer._targets.values():
                thread = target._sending
                if thread is not None:
                    thread.join(20)

    def close(self) -> None:
        self.announcer.close()
        self.state.close()

    def restart(self) -> None:
        self.close()
        self._open()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(**targets: dict[str, object]) -> World:
        made.append(World(tmp_path, **targets))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_an_alarm_and_its_end_arrive_with_object_cause_and_command(
    world: Callable[..., World], server: Receiver, tmp_path: Path
) -> None:
    told = world(mail={"url_file": url_file(tmp_path / "mail", server.url(SECRET))})
    told.settle(lambda: len(server.requests) == 1)
    alarm = server.requests[0].json
    assert alarm["title"] == "alpha: error: pool 'tank'"
    assert alarm["message"] == "error: pool 'tank': its disk is missing\n  do: snapvol doctor"
    assert alarm["type"] == "failure"
    told.quiet()
    assert len(server.requests) == 1
    told.found = []
    told.settle(lambda: len(server.requests) == 2)
    end = server.requests[1].json
    assert (end["title"], end["type"]) == ("alpha: recovered: pool 'tank'", "success")
    assert end["message"] == "recovered: pool 'tank' (it was: its disk is missing)"


def test_each_target_hears_what_it_wants(world: Callable[..., World], server: Receiver, tmp_path: Path) -> None:
    told = world(
        pager={"url_file": url_file(tmp_path / "pager", server.url("pager")), "level": "error"},
        mail={"url_file": url_file(tmp_path / "mail", server.url("mail"))},
    )
    told.found = [NEVER]
    told.settle(lambda: len(server.requests) == 1)
    told.quiet()
    assert [request.path for request in server.requests] == ["/mail"]
    told.found = [NEVER, GONE]
    told.settle(lambda: len(server.requests) == 3)
    assert sorted(request.path for request in server.requests[1:]) == ["/mail", "/pager"]


def test_t21_a_restart_repeats_nothing_and_tells_what_ended_meanwhile(
    world: Callable[..., World], server: Receiver, tmp_path: Path
) -> None:
    told = world(mail={"url_file": url_file(tmp_path / "mail", server.url("mail"))})
    told.settle(lambda: len(server.requests) == 1)
    told.quiet()
    told.restart()
    told.quiet()
    assert len(server.requests) == 1
    told.close()
    told.found = []
    told._open()
    told.settle(lambda: len(server.requests) == 2)
    assert server.titles[1] == "alpha: recovered: pool 'tank'"


def test_an_unreachable_service_is_tried_again_and_is_a_finding_until_it_answers(
    world: Callable[..., World], server: Receiver, tmp_path: Path
) -> None:
    told = world(mail={"url_file": url_file(tmp_path / "mail", server.url(SECRET))})
    server.status = 503
    told.settle(lambda: bool(told.announcer.findings()))
    (finding,) = told.announcer.findings()
    assert (finding.level, finding.subject) == (Level.ERROR, "notification target 'mail'")
    assert finding.command == "snapvol notify test mail"
    assert len(server.requests) >= outlet.TRIES
    server.status = 200
    told.settle(lambda: not told.announcer.findings())
    assert server.titles[-1] == "alpha: error: pool 'tank'"
    told.quiet()
    arrived = [title for title in server.titles if "mail" in title]
    assert arrived == [], "a target is not told that it cannot be told"


def test_t19_a_service_that_hangs_holds_up_nobody(
    world: Callable[..., World], server: Receiver, tmp_path: Path
) -> None:
    with receiver() as other:
        told = world(
            stuck={"url_file": url_file(tmp_path / "stuck", server.url("x"))},
            mail={"url_file": url_file(tmp_path / "mail", other.url("x"))},
        )
        server.hold.clear()
        told.settle(lambda: len(other.requests) == 1 and len(server.requests) == 1)
        told.found = []
        told.settle(lambda: len(other.requests) == 2)
        assert len(server.requests) == 1, "one message at a time"
        server.hold.set()


def test_t42_no_secret_is_logged_shown_or_remembered(
    world: Callable[..., World], server: Receiver, tmp_path: Path, logged: list[str]
) -> None:
    told = world(mail={"url_file": url_file(tmp_path / "mail", server.url(f"{SECRET}?key={SECRET}%21"))})
    server.status = 404
    told.settle(lambda: bool(told.announcer.findings()))
    server.stop()
    (trial,) = told.announcer.test("mail")
    shown = [*told.announcer.findings(), *told.announcer.targets(), trial]
    (info,) = told.announcer.targets()
    assert (info.service, info.problem is not None, trial.accepted) == ("json", True, False)
    assert SECRET not in msgspec.json.encode(shown).decode()
    assert any("cannot be told" in line for line in logged)
    assert SECRET not in "".join(logged)
    told.close()
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("state.db*"))


@pytest.mark.parametrize("url", ["nonsense", f"jsn://{SECRET}/x", f"tgram://{SECRET}/1"])
def test_t42_what_is_no_url_is_said_without_it(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Outlet("mail", url_file(tmp_path / "mail", url)).send(notices.trial("alpha", "mail"))
    assert "notify.mail.url_file: its first line is no URL" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "url", "result"),
    [
        ("POST /bot123456/send failed", "tgram://bot123456/-100", "POST /***/send failed"),
        ("user me with p w", "mailtos://me:p w@example.com", "user me with p w"),
        ("no\nsuch host example.com", "json://example.com/", "no such host ***"),
        ("bad key pass+word", "json://h/?key=pass%2Bword", "bad key ***"),
        ("json is not accepted", "json://json.example.com", "json is not accepted"),
    ],
)
def test_t42_masking(text: str, url: str, result: str) -> None:
    assert masked(text, url) == result


def test_t43_a_url_that_others_can_read_is_refused_with_the_command(
    world: Callable[..., World], server: Receiver, tmp_path: Path
) -> None:
    file = url_file(tmp_path / "mail", server.url("x"))
    file.chmod(0o644)
    told = world(mail={"url_file": file})
    (finding,) = told.announcer.findings()
    assert finding.command == f"chmod 600 {shlex.quote(str(file))}"
    told.quiet()
    assert server.requests == []
    file.chmod(0o600)
    told.settle(lambda: len(server.requests) == 1)
    told.quiet()
    assert told.announcer.findings() == []
    file.unlink()
    (finding,) = told.announcer.findings()
    assert "does not exist" in finding.message


def test_a_test_says_of_each_target_whether_it_accepted(
    world: Callable[..., World], server: Receiver, tmp_path: Path
) -> None:
    with receiver() as refusing:
        refusing.status = 500
        told = world(
            mail={"url_file": url_file(tmp_path / "mail", server.url("x"))},
            pager={"url_file": url_file(tmp_path / "pager", refusing.url("x"))},
        )
        mail, pager = told.announcer.test()
        assert (mail.target, mail.accepted, mail.problem) == ("mail", True, None)
        assert (pager.target, pager.accepted) == ("pager", False)
        assert pager.problem
        assert server.titles == ["alpha: this is a test"]
        assert len(refusing.requests) == 1, "a person waits: no second try"
        with pytest.raises(NotFound, match=r"no notification target is called 'mial'; did you mean 'mail'\?"):
            told.announcer.test("mial")


def test_a_test_without_any_target_says_how_to_make_one(world: Callable[..., World]) -> None:
    told = world()
    with pytest.raises(NotFound, match=r"\[notify.NAME\]"):
        told.announcer.test()
    told.announcer.announce()
    assert told.announcer.targets() == []


def test_a_library_that_breaks_ends_nothing(
    world: Callable[..., World], server: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = world(mail={"url_file": url_file(tmp_path / "mail", server.url("x"))})

    def break_down(*given: Any) -> None:
        raise RuntimeError(SECRET)

    with monkeypatch.context() as patch:
        patch.setattr(Outlet, "_try", break_down)
        told.settle(lambda: bool(told.announcer.findings()))
        assert SECRET not in told.announcer.findings()[0].message
    told.settle(lambda: len(server.requests) == 1)


def test_a_message_that_is_on_its_way_at_the_end_is_not_sent_again(
    world: Callable[..., World], server: Receiver, tmp_path: Path
) -> None:
    told = world(mail={"url_file": url_file(tmp_path / "mail", server.url("x"))})
    server.hold.clear()
    told.settle(lambda: len(server.requests) == 1)
    threading.Timer(0.2, server.hold.set).start()
    told.restart()
    told.quiet()
    assert len(server.requests) == 1


# -- words ----------------------------------------------------------------------------------------------------------


def alarm(level: Level = Level.ERROR, message: str = "is gone", **more: Any) -> Alarm:
    return Alarm(level=level, told=Level.OK, since=now(), message=message, **more)


def notice(**parts: Any) -> Notice:
    return Notice(**{"raised": {}, "eased": {}, "recovered": {}, "reminded": {}, **parts})


def test_a_message_of_several_things_counts_them_and_has_the_worst_first() -> None:
    said = notice(
        raised={"volume 'b'": alarm(Level.WARNING), "volume 'c'": alarm(returns=3)},
        eased={"pool 'p'": alarm(Level.WARNING, "is DEGRADED")},
        recovered={"repository 'r'": alarm(Level.OK, "did not answer")},
        reminded={"volume 'a'": alarm(command="snapvol backup a")},
    )
    message = notices.message("alpha", said, Status(ok=False), now())
    assert message.title == "alpha: 2 new, 1 better, 1 recovered, 1 still wrong"
    assert message.body.splitlines() == [
        "error: volume 'c': is gone",
        "  it has come back 3 times; its end will be told when it lasts",
        "warning: volume 'b': is gone",
        "no longer an error, but a warning: pool 'p': is DEGRADED",
        "recovered: repository 'r' (it was: did not answer)",
        "still an error: volume 'a': is gone",
        "  do: snapvol backup a",
    ]
    assert message.level is Level.ERROR


def test_t44_names_and_reasons_break_no_line() -> None:
    said = notice(raised={"volume 'a\n\x1b[2Jerror: all is lost'": alarm(message="x\r\ny")})
    message = notices.message("alpha", said, Status(ok=False), now())
    assert len(message.body.splitlines()) == 1
    assert message.title.isprintable()


def test_hundreds_of_findings_fit_into_one_message() -> None:
    said = notice(raised={f"volume 'v{number:03}'": alarm() for number in range(500)})
    lines = notices.message("alpha", said, Status(ok=False), now()).body.splitlines()
    assert lines[-1] == "and 475 more: snapvol status"
    assert len(lines) == notices.MOST_LINES + 1


def test_a_digest_has_every_volume_with_its_age_and_what_is_wrong() -> None:
    present = now()
    backup = BackupRef(id="b", time=present - timedelta(hours=3), repository="default")
    volumes = [
        VolumeStatus(name="web", state=State.READY, last_backup=backup, would_lose_off_host=10800.0),
        VolumeStatus(name="new", state=State.READY),
    ]
    said = notices.message("alpha", notice(digest=True), Status(ok=True, volumes=volumes), present)
    assert (said.title, said.level) == ("alpha: all is well", Level.OK)
    assert said.body.splitlines() == [
        "Nothing needs attention.",
        "2 volumes, the longest without a backup first:",
        "  new: never backed up",
        "  web: backed up 3 hours ago",
    ]
    wrong = Status(ok=False, volumes=volumes, findings=[NEVER, GONE])
    said = notices.message("alpha", notice(digest=True), wrong, present)
    assert (said.title, said.level) == ("alpha: 2 to look at", Level.ERROR)
    assert said.body.splitlines()[1] == "  error: pool 'tank': its disk is missing; do: snapvol doctor"
