"""What Prometheus reads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from snapvol.api import BackupRef
from snapvol.daemon.exposition import Exposition, metrics_address
from snapvol.errors import SettingsError, SnapvolError
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
