"""The compiled pass over pixels: the same bits in the process that compiles it and in those that find it on disk."""

from pathlib import Path

from processes import printed

SCRIPT = """
import hashlib, os, numba
import numpy as np
numba.config.CACHE_DIR = os.getcwd()
from mec.views.augment_cpu import colour
from mec.views.augment_gpu import Jitter

random = np.random.default_rng(0)
images = random.random((64, 3, 16, 16), dtype=np.float32)
factor, mean = random.uniform(0.5, 1.5, (64, 4)), random.uniform(0.1, 0.3, (64, 4))  # the mean of an image is a sum
jitter = Jitter(factor, np.zeros((64, 4)), mean, hue_at=np.full(64, -1), turns=np.zeros(64))
taps = np.tile([0.4, 0.2, 0.1], (64, 1))
on = np.arange(64) % 2 == 0
out = colour(images, jitter, grey=on & False, taps=taps, reach=2 * on, solarize=~on, mean=(0.3,) * 3, std=(0.35,) * 3,
             threads=1)
print(hashlib.sha256(out.tobytes()).hexdigest())
"""


def test_pixels_of_the_process_that_compiles_are_bit_identical_to_those_of_later_ones(tmp_path: Path):
    """A run is killed in its first process and resumed in another: its views have to be the same."""

    def pixels() -> str:
        return printed(SCRIPT, folder=tmp_path)

    first = pixels()
    assert any(tmp_path.rglob("*.nbc"))  # what it compiled is kept
    assert pixels() == first
