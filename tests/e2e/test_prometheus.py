"""A real Prometheus scrapes the daemon and judges by the rules that we ship; only their waiting is shortened."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.rgw import free_port
from support import needs
from support.process import Server, wait_until
from support.servers import Snapvol, password_file

RULES = Path(__file__).parents[2] / "packaging/prometheus/snapvol.rules.yml"


class Prometheus:
    """A server that scrapes one daemon every second."""

    def __init__(self, place: Path, target: int) -> None:
        needs.program("prometheus")
        place.mkdir()
        rules = yaml.safe_load(RULES.read_text())
        for rule in rules["groups"][0]["rules"]:
            rule.pop("for", None)
        (place / "rules.yml").write_text(yaml.safe_dump(rules))
        scrape = {"job_name": "snapvol", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [scrape],
        }
        (place / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.port = free_port()
        self.server = Server(
            [
                *("prometheus", f"--config.file={place}/prometheus.yml", f"--storage.tsdb.path={place}/data"),
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            log=place / "prometheus.log",
        )
        self.server.ready(lambda: self.ask("targets") is not None)

    def ask(self, what: str) -> Any:
        """Return its API's answer, None while there is none."""
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{what}") as answer:
            return json.load(answer)["data"]
        return None

    def healthy(self) -> bool:
        """Whether the last scrape could be read."""
        return [target["health"] for target in self.ask("targets")["activeTargets"]] == ["up"]

    def firing(self) -> dict[str, dict[str, str]]:
        """The alerts that fire, and the labels of each."""
        alerts = self.ask("alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert["labels"] for alert in alerts if alert["state"] == "firing"}


@pytest.fixture
def host(place: Path) -> Iterator[Snapvol]:
    directory = place / "scraped"
    directory.mkdir()
    daemon = Snapvol(
        directory,
        {
            "daemon": {"metrics": f"127.0.0.1:{free_port()}"},
            "repositories": {"default": {"url": directory / "repository", "password_file": password_file(directory)}},
        },
    )
    yield daemon
    daemon.stop()


def test_alerts_fire_on_their_causes_and_clear(host: Snapvol, place: Path) -> None:
    host.cli("repo", "init")
    host.start()
    host.cli("create", "web")
    prometheus = Prometheus(place / "prometheus", int(host.settings["daemon"]["metrics"].rpartition(":")[2]))
    try:
        wait_until(prometheus.healthy, 30, "a scrape")
        wait_until(lambda: "SnapvolDown" not in prometheus.firing(), 30)

        config = host.place / "repository/config"
        whole = config.read_bytes()
        config.write_bytes(b"damaged")
        host.cli("backup", "web", check=False)
        host.cli("doctor", check=False)
        wait_until(lambda: "SnapvolRepositoryUnreachable" in prometheus.firing(), 30, "the alert for the repository")
        assert prometheus.firing()["SnapvolRepositoryUnreachable"]["repository"] == "default"

        config.write_bytes(whole)
        host.cli("backup", "web")
        wait_until(lambda: prometheus.firing() == {}, 30, lambda: f"all to clear: {prometheus.firing()}")

        host.stop()
        wait_until(lambda: "SnapvolDown" in prometheus.firing(), 30, "the alert for the daemon")
        host.start()
        wait_until(lambda: prometheus.firing() == {}, 30, lambda: f"all to clear: {prometheus.firing()}")
    finally:
        prometheus.server.stop()
