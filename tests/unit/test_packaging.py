"""The wheel holds exactly the modules that are in the tree, and no top-level `backends`."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from snapvol.shell import run

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(120)
def test_the_wheel_holds_every_module(tmp_path: Path) -> None:
    tree = tmp_path / "tree"  # a copy: what an earlier build left in the tree would go into the wheel
    for part in ("snapvol", "backends"):
        shutil.copytree(ROOT / part, tree / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree)
    run(
        sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-cache-dir",
        "-w", tmp_path, tree,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    members = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    here = {str(path.relative_to(ROOT)) for path in (ROOT / "snapvol").rglob("*.py") if "backends" not in path.parts}
    here |= {f"snapvol/{path.relative_to(ROOT)}" for path in (ROOT / "backends").rglob("*.py")}
    assert members == here
