"""What Prometheus reads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from snapvol import __version__
from snapvol.api import BackupRef, Finding, JobState, Level, RepositoryInfo, Status
from snapvol.daemon.exposition import Exposition, metrics_address
from snapvol.errors import SettingsError, SnapvolError
from snapvol.model import State
from support import raw


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_state_and_the_answers_are_measured(served: Any, created: Any) -> None:
    backup = BackupRef(id="b", time=created, repository="default")
    served.service.add("web", used=5, snapshots=3, last_backup=backup)
    served.service.add("bad", damaged=True)
    raw.plugin(served.plugin, "Get", {"Name": "web"})
    raw.plugin(served.plugin, "Invented", {"Name": "web"})
    raw.exchange(served.api, raw.request("/v1/volumes/web", method="GET"))
    raw.exchange(served.api, raw.request("/v1/volumes/x/y/z", method="GET"))
    answer = raw.exchange(served.api, raw.request("/metrics", method="GET"))
    assert answer.headers["content-type"].startswith("text/plain")
    seen = samples(answer.body.decode())

    def value(name: str, **labels: str) -> float:
        return seen[name, frozenset(labels.items())]

    assert value("snapvol_volumes", pool="p", state="ready") == 1
    assert value("snapvol_volumes", pool="p", state="damaged") == 1
    assert value("snapvol_volume_used_bytes", volume="web", pool="p") == 5
    assert value("snapvol_volume_snapshots", volume="web") == 3
    assert value("snapvol_volume_last_backup_timestamp_seconds", volume="web") == created.timestamp()
    assert value("snapvol_pool_ok", pool="p") == 1
    assert (value("snapvol_pool_size_bytes", pool="p"), value("snapvol_pool_free_bytes", pool="p")) == (100, 40)
    assert (value("snapvol_jobs", state="running"), value("snapvol_jobs", state="failed")) == (1, 0)
    assert value("snapvol_request_seconds_count", socket="plugin", endpoint="Get") == 1
    assert value("snapvol_request_seconds_count", socket="api", endpoint="GET /v1/volumes/{volume}") == 1
    # What clients make up must not become labels: there would be no end to them.
    assert value("snapvol_request_seconds_count", socket="api", endpoint="other") == 1
    assert not [labels for _, labels in seen if ("endpoint", "Invented") in labels]


def metrics(served: Any) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return samples(raw.exchange(served.api, raw.request("/metrics", method="GET")).body.decode())


def test_what_alert_rules_need_is_there(served: Any, created: Any) -> None:
    served.service.add("web", last_snapshot=created, options={"policy": "none"})
    served.service.add("new", state=State.RESTORING)
    served.service.pulse.expect("pools", 10)
    served.service.pulse.began("pools")
    served.service.pulse.ended("pools")
    served.service.status = Status(
        ok=False,
        repositories=[
            RepositoryInfo(name="near", url="/x", ok=True),
            RepositoryInfo(name="far", url="s3://x", ok=False),
            RepositoryInfo(name="new", url="/y"),
        ],
        findings=[
            Finding(level=Level.ERROR, subject="repository 'far'", message="x"),
            Finding(level=Level.ERROR, subject="backup of 'web'", message="x"),
            Finding(level=Level.WARNING, subject="volume 'web'", message="x"),
            Finding(level=Level.WARNING, subject="'old' in the trash", message="x"),
        ],
    )
    seen = metrics(served)

    def value(name: str, **labels: str) -> float:
        return seen[name, frozenset(labels.items())]

    assert value("snapvol_build_info", version=__version__) == 1
    assert value("snapvol_volume_last_snapshot_timestamp_seconds", volume="web") == created.timestamp()
    assert value("snapvol_volume_created_timestamp_seconds", volume="new") == created.timestamp()
    assert (value("snapvol_volume_ready", volume="web"), value("snapvol_volume_ready", volume="new")) == (1, 0)
    assert value("snapvol_volume_unprotected", volume="web") == 1
    assert value("snapvol_repository_reachable", repository="near") == 1
    assert value("snapvol_repository_reachable", repository="far") == 0
    assert ("snapvol_repository_reachable", frozenset({("repository", "new")})) not in seen, "it was not asked"
    assert value("snapvol_findings", level="error", kind="repository") == 1
    assert value("snapvol_findings", level="error", kind="job") == 1
    assert value("snapvol_findings", level="warning", kind="volume") == 1
    assert value("snapvol_findings", level="warning", kind="other") == 1
    assert value("snapvol_findings", level="error", kind="pool") == 0
    assert value("snapvol_housekeeping_last_end_timestamp_seconds", task="pools") > created.timestamp()
    assert value("process_start_time_seconds") > 0


def test_jobs_that_end_are_counted_and_the_count_never_falls(served: Any) -> None:
    def failures() -> float:
        return metrics(served)["snapvol_jobs_ended_total", frozenset({("kind", "backup"), ("state", "failed")})]

    jobs = served.service.jobs.infos
    assert failures() == 0
    for number in range(3):
        jobs[f"f{number}"] = replace(jobs["j1"], id=f"f{number}", state=JobState.FAILED)
    assert (failures(), failures()) == (3, 3)
    del jobs["f0"]  # history is cut
    assert failures() == 3
    jobs["f9"] = replace(jobs["j1"], id="f9", state=JobState.FAILED)
    assert failures() == 4


def test_labels_are_escaped(served: Any) -> None:
    """T44: the names of damaged volumes are what lies on the storage."""
    name = 'a"} 1\nsnapvol_pool_ok{pool="p"} 1\\'
    served.service.add(name, damaged=True)
    seen = metrics(served)
    assert seen["snapvol_volume_ready", frozenset({("volume", name)})] == 0


def test_two_volumes_of_one_name_give_one_value(served: Any, created: Any) -> None:
    """Prometheus refuses a scrape that has a series twice."""
    first = served.service.add("web", last_snapshot=created)
    served.service.known["other"] = replace(first, id="other", damaged=True)
    text = raw.exchange(served.api, raw.request("/metrics", method="GET")).body.decode()
    series = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))


def test_the_tcp_address_serves_metrics_and_nothing_else(served: Any) -> None:
    async def fetch(port: int, line: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer

    async def main() -> list[bytes]:
        exposition = Exposition(served.metrics)
        port = await exposition.listen("127.0.0.1:0")
        assert port
        with pytest.raises(SnapvolError, match=f"127.0.0.1:{port} cannot be listened on"):
            await Exposition(served.metrics).listen(f"127.0.0.1:{port}")
        answers = [await fetch(port, line) for line in ("GET /metrics", "GET /v1/volumes", "POST /metrics")]
        await exposition.edge.refuse()
        await exposition.edge.finish()
        return answers

    metrics, volumes, posted = asyncio.run(main())
    assert b"snapvol_pool_free_bytes" in metrics
    assert volumes.startswith(b"HTTP/1.1 404")
    assert posted.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("127.0.0.1:9750", ("127.0.0.1", 9750)),
        ("[::1]:9750", ("::1", 9750)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_addresses(text: str, address: tuple[str, int] | None) -> None:
    assert metrics_address(text) == address


@pytest.mark.parametrize("text", ["9750", ":9750", "host:", "host:port", "host:65536", "host:-1", "host:²"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(SettingsError, match="is not ADDRESS:PORT"):
        metrics_address(text)
