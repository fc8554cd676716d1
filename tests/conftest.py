"""Fixtures: real photographs, small image folders, a finished tiny run, and the sample data beside the checkout."""

from __future__ import annotations

import functools
import gc
import os
import re
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a test runs beside others; read when torch and numba are loaded
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # of the processes that tests start: the package is compiled once

import pytest
from PIL import Image

gc.disable()  # while tests are collected: nothing of that is given back


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: the collector need not look at them again, a twentieth of all time."""
    import torch  # not in the process that hands out the tests: it would wait for it

    from mec.training import report

    read_once()
    drawn_once()
    report.PICTURED, report.MAPPED_TEST = 60, 60  # images of a map: it takes longer than the training before it
    torch.set_num_threads(1)  # small matrices; and one number of threads here and in the processes that tests start
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)  # hypothesis has a call at each collection
    gc.enable()


def read_once() -> None:
    """What hundreds of runs do anew and always alike: parse the digits, look for plugins of Lightning's, and write
    through to the disk, for which nothing but a cut of the power would be a test."""
    from lightning_fabric import fabric
    from sklearn.datasets import _base

    read = functools.cache(_base.load_gzip_compressed_csv_data)

    def copied(*place, **options):
        values, text = read(*place, **options)
        return values.copy(), text

    _base.load_gzip_compressed_csv_data = copied
    plugins = functools.cache(fabric._load_external_callbacks)
    fabric._load_external_callbacks = lambda group: [*plugins(group)]
    os.fsync = lambda _: None


def drawn_once() -> None:
    """Of confusion matrices of the same classes, with the same odd characters in the title, the first is drawn and the
    others get its picture: a drawing takes longer than most tests. tests/evaluation/test_accuracy.py draws its own."""
    from mec.evaluation import results

    class Drawn:
        def __init__(self, figure):
            self.figure, self.content = figure, b""

        def savefig(self, path: Path, **options):
            if not self.content:
                self.figure.savefig(path, **options)
                self.content, self.figure = path.read_bytes(), None
            path.write_bytes(self.content)

    draw, seen = results.confusion_figure, {}

    def once(confusion, title: str) -> Drawn:
        kind = confusion.classes, re.sub(r"[0-9A-Za-z]+", "", title)
        if kind not in seen:
            seen[kind] = Drawn(draw(confusion, title))
        return seen[kind]

    results.confusion_figure = once


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    if session.items and not session.config.option.collectonly:  # none in the process that hands out the tests
        from processes import open_server

        open_server()


@pytest.fixture(scope="session")
def samples() -> Path:
    """The sample data: $MEC_SAMPLES, or ../shared/data beside the checkout."""
    place = os.environ.get("MEC_SAMPLES")
    folder = Path(place) if place else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no sample data at {folder}; MEC_SAMPLES names their folder")
    return folder


@pytest.fixture(scope="session")
def photographs() -> list[Image.Image]:
    """Two real photographs of 640x427 px that scikit-learn ships."""
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


@pytest.fixture
def digit_folder(tmp_path: Path) -> Path:
    """256 digits as PNG files in one folder: images without labels."""
    from helpers import digit_images

    folder = tmp_path / "scans"
    folder.mkdir()
    for i, image in enumerate(digit_images(256)):
        image.save(folder / f"{i:04}.png")
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on digits that went to its end; read it, do not change it."""
    from helpers import tiny_run

    return tiny_run(tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture
def quick_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end without logistic regressions, a map and a page: they take seconds, and other tests judge them."""
    monkeypatch.setattr("mec.training.report.FEW_CLASSES", 1)
    monkeypatch.setattr("mec.training.report.MAPPED", 10**9)
    monkeypatch.setattr("mec.training.report.write_report", lambda folders, out: out)


@pytest.fixture
def blank_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions are zeros until weights are loaded: it takes long to draw millions of numbers that none looks at."""
    import torch

    for name in ("kaiming_normal_", "kaiming_uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor.detach().zero_())
