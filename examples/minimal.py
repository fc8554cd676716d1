"""The whole story on a CPU: learn from unlabelled digits, then see what one label a class is worth.

The same as `mec pretrain digits`, from Python, with the objective in sight. About a minute on two cores.
"""

from __future__ import annotations

import sys

import torch

import mec
from mec.data.opening import open_data
from mec.evaluation.features import extract
from mec.evaluation.probing.fewshot import fewshot


def main(out: str = "runs/minimal", epochs: int | None = None) -> float:
    """Accuracy (%) with one label a class."""
    # The objective is a function: two views that agree, of images that differ, have a long code.
    views = torch.nn.functional.normalize(torch.randn(2, 64, 32), dim=-1)
    print(f"random embeddings: loss {mec.joint_coding(views, distortion=0.06):.3f}")
    print(f"views that agree:  loss {mec.joint_coding(views[:1].repeat(2, 1, 1), distortion=0.06):.3f}")

    run = mec.pretrain("digits", out=out, epochs=epochs)

    encoder, transform = mec.load_encoder(run)
    digits = open_data("digits")
    assert digits.test is not None
    train, test = (extract(encoder, split, transform) for split in (digits.train, digits.test))
    (result,) = fewshot(train, test, labels_per_class=[1])
    print(result)
    return result.value


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/minimal")
