"""What several tests need: small image folders, tiny runs, and commands in processes of their own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

TINY = ("views.size=8", "network.projector=[32,16]")  # digits as they are, small heads
TINY_SERIES = ("network.predictor=[8,16]", "settings.distortion=guaranteed")  # in range at the rate of the joint form


def tiny_run(out: Path, data="digits", **changes) -> Path:
    """Six steps in two epochs on 96 digits, on a CPU, in this process, measured by nothing."""
    from mec.training.pretrain import pretrain

    options = {"limit": 96, "batch_size": 32, "epochs": 2, "set": TINY, "device": "cpu"} | changes
    if options.get("method") in ("mec", "mec-exact"):
        options["set"] = [*options["set"], *TINY_SERIES]
    return pretrain(data, out=out, **{"evaluate": False, "quiet": True, **options})


class Crash(Exception):
    """Power went off."""


def crash() -> None:
    raise Crash


def at_step(monkeypatch, number: int, act) -> None:
    """Call `act` as step `number` (1, 2, ...) begins."""
    from mec.training.trainer import Trainer

    set_lr, seen = Trainer.set_lr, []

    def counted(self, lr):
        seen.append(lr)
        if len(seen) == number:
            act()
        set_lr(self, lr)

    monkeypatch.setattr(Trainer, "set_lr", counted)


def crashed_run(monkeypatch, number: int, out: Path, data="digits", **changes) -> Path:
    """A `tiny_run` whose power goes off as step `number` begins."""
    with monkeypatch.context() as patch:
        at_step(patch, number, crash)
        with pytest.raises(Crash):
            tiny_run(out, data, **changes)
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "encoder.safetensors")


def untrained_encoder(backbone: str, size: int = 8) -> dict[str, torch.Tensor]:
    """The parameters that a run of seed 0 with views of 8 px, or another size, starts from."""
    from mec.networks.backbones import build_encoder

    torch.manual_seed(0)
    return dict(build_encoder(backbone, size).named_parameters())


def identical(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves of nested dicts and sequences, by their paths."""
    if isinstance(value, (dict, list, tuple)) and len(value):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, part in items for k, v in flat(part, f"{path}.{name}").items()}
    return {path: value}


def differing(ours: Any, printed: Any) -> dict[str, tuple[Any, Any]]:
    """What of ours is not as printed, by its path; numbers are equal but for rounding in the last digits."""
    one, other = flat(ours), flat(printed)

    def same(a: Any, b: Any) -> bool:
        number = isinstance(a, (int, float)) and isinstance(b, (int, float))
        return math.isclose(a, b, rel_tol=1e-12) if number else a == b

    paths = dict.fromkeys([*one, *other])
    pairs = {path: (one.get(path, "absent"), other.get(path, "absent")) for path in paths}
    return {path: pair for path, pair in pairs.items() if not same(*pair)}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def stored_in(folder: Path) -> list[dict]:
    """The lines of a folder's results.jsonl, without the times."""
    return [{name: value for name, value in line.items() if name != "time"} for line in lines(folder / "results.jsonl")]


def as_stored(results) -> list[dict]:
    """Results as `stored_in` gives them."""
    from mec.evaluation.results import as_records

    values = json.loads(json.dumps(as_records(results)))
    return [{name: value for name, value in line.items() if name != "time"} for line in values]


def noise_image(seed: int, width: int = 8, height: int = 8) -> Image.Image:
    """Pixels of many colours, different for each seed."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def digit_images(count: int) -> list[Image.Image]:
    """The first of scikit-learn's digits, 8x8 px."""
    from sklearn.datasets import load_digits

    return [Image.fromarray((x * (255 / 16)).astype(np.uint8)) for x in load_digits().images[:count]]


def write_images(folder: Path, count: int, suffix: str = ".png", seed: int = 0, **size) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:04}{suffix}" for i in range(count)]
    for i, path in enumerate(paths):
        noise_image(1000 * seed + i, **size).save(path)
    return paths


def small_subject(folder: Path, size: int = 8):
    """A convolution with batch norm and statistics of its own, to be evaluated in moments: 72 features at 8 px."""
    from torch import nn

    from mec.evaluation.subject import Subject
    from mec.networks.encoder_file import EncoderInfo

    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    encoder(2 * torch.randn(64, 3, size, size))
    side = (size - 1) // 2
    info = EncoderInfo("custom", 8 * side * side, size, True, "bilinear", (0.5,) * 3, (0.25,) * 3, "", "", "", "", 0)
    return Subject("small", encoder.eval(), info, "", "cpu", folder)


def labelled_folder(
    root: Path, train: int = 12, test: int = 6, classes: str = "abc", test_name: str = "val", **size
) -> Path:
    """train/CLASS/ and val/CLASS/, each class with so many images."""
    for c, name in enumerate(classes):
        write_images(root / "train" / name, train, seed=c, **size)
        write_images(root / test_name / name, test, seed=c + 50, **size)
    return root


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "400"}


def command(*words: str | Path, cwd: Path | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """`python WORDS` in a process of its own, to its end."""
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout
    )


def started(*words: str | Path, cwd: Path | None = None, **options: bool) -> subprocess.Popen[str]:
    """`python WORDS` in a process of its own, going on."""
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def wait_for(condition, process, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
