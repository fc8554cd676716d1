"""What is released is whole: wheel and sdist are built, and the wheel works by itself, away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from helpers import write_images

import mec

ROOT = Path(__file__).parents[1]
KEPT_OUT = ("__pycache__", "*.pyc", "*.egg-info", "build", "dist", "runs", ".git")


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    """The folder with both files, built from a copy of the tree, so that the checkout stays as it is."""
    pytest.importorskip("build")
    copy, out = tmp_path_factory.mktemp("source") / "mec", tmp_path_factory.mktemp("dist")
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "mec", copy / "mec", ignore=shutil.ignore_patterns(*KEPT_OUT))
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, copy]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def files_of_the_package() -> set[str]:
    """All but what Python and numba have compiled."""
    kept = [p for p in (ROOT / "mec").rglob("*") if p.is_file() and p.suffix not in (".pyc", ".nbc", ".nbi")]
    return {path.relative_to(ROOT).as_posix() for path in kept}


@pytest.mark.slow
def test_wheel_and_sdist_hold_every_file_of_the_package_and_the_licence(released):
    (wheel,), (source,) = released.glob("*.whl"), released.glob("*.tar.gz")
    assert wheel.name == f"mec_ssl-{mec.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in names if name.startswith("mec/")} == files_of_the_package()
    assert {Path(name).suffix for name in names} >= {".py", ".pyi", ".typed", ".html", ".css", ".js", ".md"} - {
        ".typed"
    }
    assert "mec/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert inside >= files_of_the_package() | {"LICENSE", "README.md", "pyproject.toml"}


@pytest.mark.slow
def test_the_wheel_alone_trains_measures_embeds_and_exports(released, tmp_path):
    """In an environment of its own, which borrows what mec needs from the one that runs the tests, but not mec."""
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    (wheel,) = released.glob("*.whl")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}

    def run(*words: str | Path) -> str:
        done = subprocess.run(
            [*map(str, words)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(scripts / "python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel)
    own = Path(run(scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (own / "needs.pth").write_text(sysconfig.get_path("purelib"))
    assert Path(run(scripts / "python", "-c", "import mec; print(mec.__file__)").strip()).parent == own / "mec"
    write_images(tmp_path / "photos", 4)
    small = ["--set", "views.size=8", "network.projector=[32,16]", "--limit", "192", "--device", "cpu"]
    assert "Training was" in run(scripts / "mec", "pretrain", "digits", "--steps", "6", "--out", "run", *small)
    assert (tmp_path / "run" / "report.html").stat().st_size > 100_000
    assert "knn top-1" in run(scripts / "mec", "evaluate", "run", "knn", "digits")
    run(scripts / "mec", "embed", "run", "photos", "--out", "features.npz")
    assert "create_model" in run(scripts / "mec", "export", "run", "--to", "timm")
    assert (tmp_path / "features.npz").exists()
