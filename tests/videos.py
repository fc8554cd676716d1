"""Videos in the benchmarks' layouts, made by the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def squares(root: Path, frames: int = 8, side: tuple[int, int] = (40, 56), step: int = 2) -> Path:
    """DAVIS's layout with one video: a bright square (1) and a striped one (3) go right over a textured ground."""
    random = np.random.default_rng(0)
    for kind in ("JPEGImages", "Annotations"):
        (root / kind / "480p" / "squares").mkdir(parents=True)
    ground = random.integers(0, 60, (*side, 3), dtype=np.uint8)
    stripes = np.zeros((12, 12, 3), np.uint8) + np.array([[0, 0, 255], [255, 0, 0]] * 6, np.uint8)
    for i in range(frames):
        frame, ids = ground.copy(), np.zeros(side, np.uint8)
        x = 8 + step * i
        frame[4:16, x : x + 12], ids[4:16, x : x + 12] = (250, 250, 80), 1
        frame[22:34, x : x + 12], ids[22:34, x : x + 12] = stripes, 3
        Image.fromarray(frame).save(root / "JPEGImages" / "480p" / "squares" / f"{i:05}.jpg", quality=95)
        mask = Image.fromarray(ids)
        mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
        mask.save(root / "Annotations" / "480p" / "squares" / f"{i:05}.png")
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("squares\n")
    return root
