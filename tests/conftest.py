"""What every test shares: the session's place, the rule that nothing real may be missing, and the leftovers guard."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from lab import uml
from support import counts, leftovers, needs
from support.leftovers import PLACE
from support.process import Server, run

LONGEST_SESSION = 85 * 60  # seconds; a session that takes longer has hung, and its servers with it
REAPER = pytest.StashKey[tuple[Server, int]]()
LEFT = pytest.StashKey[list[str]]()

hypothesis.settings.register_profile("dev", deadline=None, print_blob=True)
# A red run shall mean that the change is wrong, not that luck found an old fault: CI always draws the same examples.
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True, database=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_configure(config: pytest.Config) -> None:
    # Whoever was started in a shell's background ignores Ctrl-C and hands that on to all programs it starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    place = Path(tempfile.mkdtemp(prefix="snapvol-test-", dir=os.environ.get("TMPDIR", "/tmp"))).resolve()
    place.chmod(0o711)
    config.stash[PLACE] = place
    kernels = uml.cache()  # what takes minutes to build is not built anew for each session
    for variable in [name for name in os.environ if name.startswith(("SNAPVOL_", "AWS_", "RESTIC_", "DOCKER_"))]:
        if not variable.startswith("SNAPVOL_TEST_"):
            del os.environ[variable]
    os.environ.pop("PYTHONUNBUFFERED", None)  # users do not have it
    config.stash[REAPER] = _reaper(place)
    # No credentials of the person at the keyboard, no search for them in a cloud's metadata service.
    os.environ.update(
        {
            leftovers.MARK: str(place),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "XDG_CACHE_HOME": str(place / "cache"),
            "SNAPVOL_TEST_LAB_CACHE": str(kernels),
        }
    )
    if os.getuid() == 0:
        # Shared, as systemd makes the root: what is mounted here later is seen in dockerd's mount namespace too. And
        # shared with no other mount before: below a shared root, all would be mounted a second time underneath.
        run("mount", "--bind", place, place)
        run("mount", "--make-private", place)
        run("mount", "--make-shared", place)
    if config.option.basetemp is None:
        config.option.basetemp = place / "pytest"


def _reaper(place: Path) -> tuple[Server, int]:
    """Start the process that cleans up behind us; it notices our end, however it comes, by the pipe that closes."""
    reading, writing = os.pipe()
    reaper = Server(
        [sys.executable, "-m", "support.leftovers", place, str(LONGEST_SESSION)],
        log=Path(os.devnull),
        env={"PYTHONPATH": str(Path(__file__).parent)},
        stdin=reading,
    )
    os.close(reading)
    return reaper, writing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.getuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.skipped and not hasattr(report, "wasxfail") and needs.required("all"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped, and SNAPVOL_TEST_REQUIRE=all forbids it: {report.longrepr}"
    return report  # type: ignore[return-value]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    place = session.config.stash[PLACE]
    session.config.stash[LEFT] = leftovers.report(place)
    if session.config.stash[LEFT] and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    passed = [report.nodeid for report in terminalreporter.stats.get("passed", []) if report.when == "call"]
    terminalreporter.line(f"passed, by storage: {counts.by_storage(passed) or 'nothing'}")
    left = config.stash.get(LEFT, [])
    if left:
        terminalreporter.section("left behind by the tests: a failure", red=True)
        for line in left:
            terminalreporter.line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    if REAPER in config.stash:
        reaper, pipe = config.stash[REAPER]
        os.chdir(config.rootpath)
        os.close(pipe)
        reaper.wait(60)


@pytest.fixture(scope="session")
def place(pytestconfig: pytest.Config) -> Path:
    """The session's own directory: on the machine's file system, short enough for socket paths, gone at the end."""
    return pytestconfig.stash[PLACE]


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """The program sets its log up once, at its start; tests start it many times in one process."""
    log = logging.getLogger("snapvol")
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)
