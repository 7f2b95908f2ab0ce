"""The wheel holds exactly the modules that are in the tree, and no top-level `backends`."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from snapvol.shell import run

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(120)
def test_the_wheel_holds_every_module(tmp_path: Path) -> None:
    run(
        sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-cache-dir",
        "-w", tmp_path, ROOT,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    members = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    here = {str(path.relative_to(ROOT)) for path in (ROOT / "snapvol").rglob("*.py") if "backends" not in path.parts}
    here |= {f"snapvol/{path.relative_to(ROOT)}" for path in (ROOT / "backends").rglob("*.py")}
    assert members == here
