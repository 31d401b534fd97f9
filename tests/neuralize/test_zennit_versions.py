"""zennit 1.0 as well: it rewrote hooks and signatures, and composites of both are taken."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OTHER = "1.0.0"


@pytest.fixture(scope="module")
def other_zennit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the other release, which pip does not choose on every Python."""
    if importlib.metadata.version("zennit") == OTHER:
        pytest.skip("this is the installed release")
    folder = tmp_path_factory.mktemp("zennit")
    options = ["-q", "--no-deps", "--ignore-requires-python", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder)]
    if subprocess.run([*command, f"zennit=={OTHER}"], capture_output=True, check=False).returncode:
        pytest.skip(f"zennit {OTHER} cannot be installed here")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["tests/neuralize/test_zennit_parity.py"], "resnet18 or mobilenet"),
        (["tests/xai/test_explainer.py", "tests/neuralize/test_encoder.py"], ""),
        (["tests/neuralize/test_networks.py", "neuralize/zennit_composites.py"], "zennit"),
    ],
)
def test_zennit_1_0(other_zennit: Path, files: list[str], chosen: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", chosen],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(other_zennit)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert " passed" in run.stdout
