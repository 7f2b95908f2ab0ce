"""The alert rules and the dashboard in packaging/: judged by Prometheus itself, and made of metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from snapvol.api import Level
from snapvol.daemon.metrics import Metrics
from support import needs
from support.process import run
from support.service import memory_service

PACKAGING = Path(__file__).parents[2] / "packaging"
RULES, CASES = PACKAGING / "prometheus/snapvol.rules.yml", PACKAGING / "prometheus/snapvol.test.yml"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
}
# Only where the storage has them, which the pool of these tests has not.
OPTIONAL = {"snapvol_pool_metadata_free_bytes", "snapvol_pool_metadata_size_bytes"}


def test_prometheus_takes_the_rules() -> None:
    needs.program("promtool")
    assert f"{len(ALERTS)} rules found" in run("promtool", "check", "rules", RULES).stdout


def test_every_alert_fires_on_its_cause_and_clears() -> None:
    needs.program("promtool")
    run("promtool", "test", "rules", CASES, cwd=CASES.parent)
    fires: dict[str, set[bool]] = {}
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for check in case["alert_rule_test"]:
            fires.setdefault(check["alertname"], set()).add(bool(check.get("exp_alerts")))
    assert fires == {alert: {True, False} for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS)
def test_the_proof_would_notice(alert: str, tmp_path: Path) -> None:
    """With an alert that never fires, or one that always does, the tests of the rules fail."""
    needs.program("promtool")
    cases = yaml.safe_load(CASES.read_text())
    cases["tests"] = [case for case in cases["tests"] if f"'{alert}'" in repr(case["alert_rule_test"])]
    (tmp_path / CASES.name).write_text(yaml.safe_dump(cases))
    for expression in ("vector(0) > 1", "vector(1)"):
        rules = [{**ALERTS[alert], "expr": expression}]
        (tmp_path / RULES.name).write_text(yaml.safe_dump({"groups": [{"name": "snapvol", "rules": rules}]}))
        assert run("promtool", "test", "rules", tmp_path / CASES.name, check=False).code != 0, expression


def _expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in ALERTS.values())
    dashboard = json.loads((PACKAGING / "grafana/snapvol.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["query"] for variable in dashboard["templating"]["list"])


@pytest.fixture(scope="module")
def exposition(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a daemon says that has done a little of everything."""
    service = memory_service(tmp_path_factory.mktemp("metrics") / "root")
    try:
        service.create_volume("web", {"policy": "none"})
        volume = service.volume("web")
        service.snapshot(["web"])
        service.refresh_usage("web")
        service.state.set_last_backup(volume.id, _backup())
        service.backups.library._note("default", None)
        service.pulse.expect("pools", 10)
        service.pulse.began("pools")
        service.pulse.ended("pools")
        metrics = Metrics(service)
        metrics.answered("plugin", "Get", 0.1)
        return metrics.text().decode()
    finally:
        service.close()


def _backup() -> Any:
    from snapvol.api import BackupRef

    return BackupRef(id="b", time=datetime(2026, 11, 20, tzinfo=UTC), repository="default")


def test_rules_and_dashboard_use_metrics_that_there_are(exposition: str) -> None:
    there = {re.split(r"[{ ]", line)[0] for line in exposition.splitlines() if not line.startswith("#")}
    used = {name for text in _expressions() for name in re.findall(r"\b(?:snapvol|process)_[a-z_]+\b", text)}
    assert used
    assert used - there - OPTIONAL == set()


def test_rules_and_dashboard_ask_for_kinds_and_levels_that_there_are(exposition: str) -> None:
    asked = {
        (label, word)
        for text in _expressions()
        for label, words in re.findall(r'(kind|level|task|state|socket)=~?"([a-z|]+)"', text)
        for word in words.split("|")
    }
    assert {("level", "error"), ("kind", "job"), ("task", "pools"), ("state", "damaged")} <= asked
    from snapvol.api import JobState
    from snapvol.daemon.housekeeping import Housekeeping
    from snapvol.daemon.metrics import KINDS
    from snapvol.model import State
    from snapvol.service.pulse import Pulse

    service: Any = _Anything()
    valid = {
        "kind": set(KINDS),
        "level": {level.value for level in Level},
        "task": set(Housekeeping(service, Pulse())._tasks),
        "state": {*(it.value for it in State), *(it.value for it in JobState), "damaged"},
        "socket": {"plugin", "api"},
    }
    assert [(label, word) for label, word in asked if word not in valid[label]] == []


class _Anything:
    def __getattr__(self, name: str) -> object:
        return lambda: None


def test_prometheus_can_read_what_we_say(exposition: str) -> None:
    needs.program("promtool")
    # It also lints names and help texts; what it complains of goes to its output.
    assert run("promtool", "check", "metrics", stdin=exposition).stdout == ""
