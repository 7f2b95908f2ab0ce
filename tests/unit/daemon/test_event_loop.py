"""Proof that no handler blocks the event loop: while one request waits for its thread, all others are served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster, BlockingError, blockbuster_ctx

from support import raw
from support.examples import api_requests
from support.service import FakeKernel, directory_service


@pytest.fixture
def blockbuster() -> Iterator[BlockBuster]:
    with blockbuster_ctx() as active:
        yield active


def test_t19_no_handler_blocks(blockbuster: BlockBuster, served: Any, caplog: pytest.LogCaptureFixture) -> None:
    service = served.service
    for number in range(50):
        service.add(f"v{number}")
    service.add("web")
    # What runs in threads may block, and does here; what is answered in the loop must not.
    for verb in ("create", "mount", "unmount", "remove", "resize", "set_options"):
        service.steps[verb] = lambda: Path("/proc/self/stat").read_bytes()
    for endpoint in ("/Plugin.Activate", "Capabilities", "List"):
        assert raw.plugin(served.plugin, endpoint).status == 200
    for verb in ("Create", "Get", "Path", "Mount", "Unmount", "Remove", "Create"):
        assert raw.plugin(served.plugin, verb, {"Name": "web", "ID": "x"}).status == 200, verb
    for method, target, body in api_requests():
        answer = raw.exchange(served.api, raw.request(target, body, method))
        assert answer.status in (200, 404), (method, target, answer.body)
    assert raw.exchange(served.api, raw.request("/metrics", method="GET")).status == 200
    assert not [record for record in caplog.records if record.exc_info]


def test_the_proof_would_notice(blockbuster: BlockBuster, served: Any, caplog: pytest.LogCaptureFixture) -> None:
    served.service.add("web")
    served.service.steps["volume"] = lambda: Path("/proc/self/stat").read_bytes()
    assert raw.plugin(served.plugin, "Get", {"Name": "web"}).status == raw.NOTHING
    assert any(record.exc_info and record.exc_info[0] is BlockingError for record in caplog.records)


def test_t19_the_real_service_is_asked_without_blocking(
    blockbuster: BlockBuster, serve: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = directory_service(tmp_path, FakeKernel())
    served = serve(service)
    for verb in ("Create", "Mount", "Get", "Path", "Unmount", "Get", "Remove", "Create"):
        assert raw.plugin(served.plugin, verb, {"Name": "web", "ID": "x"}).status == 200, verb
        assert raw.plugin(served.plugin, "List").status == 200
    service.snapshot(["web"], "s")
    for method, target, body in api_requests():
        answer = raw.exchange(served.api, raw.request(target, body, method))
        assert answer.status != raw.NOTHING, (method, target)
        assert raw.plugin(served.plugin, "List").status == 200
    assert not [record for record in caplog.records if record.exc_info]
    service.close()
