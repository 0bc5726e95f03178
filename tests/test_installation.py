"""`pip install .` and `pip install -e .` in a fresh virtual environment give a `mirror` that works from any folder."""

from __future__ import annotations

import shutil
import subprocess
import venv
from pathlib import Path

import pytest

from mirror.cli.targets.demo import scene

ROOT = Path(__file__).parents[1]
NEEDED = ("agent", "cli", "layer", "protocol", "hatch_build.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The source as it is published, without what was built in it."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "lib"))
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--editable",)], ids=["wheel", "editable"])
def test_installation(options: tuple[str, ...], source: Path, tmp_path: Path) -> None:
    place = tmp_path / "environment"
    venv.create(place, with_pip=True)
    python = str(place / "bin/python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *options, str(source)], check=True, cwd=tmp_path)
    if not options:
        shutil.rmtree(source)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [str(place / "bin/mirror"), "exec", "-t", "demo", "--", "cat", "/app/config/orders.ini"]
    run = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, timeout=180)
    assert (run.returncode, run.stdout, run.stderr) == (0, scene.CONFIG["orders.ini"], "")
    subprocess.run([python, "-c", "import mirror.agent, mirror.cli, mirror.layer, mirror.protocol"], check=True)
