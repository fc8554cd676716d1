"""The whole story on a CPU: learn from unlabelled digits, then see what one label per class is worth.

The same as `mec pretrain digits`, from Python, with the objective in sight. About a minute on two cores.
"""

from __future__ import annotations

import sys

import torch

import mec


def main(out: str = "runs/minimal", epochs: int | None = None) -> float:
    """Accuracy (%) with one label per class."""
    # The objective is a function: two views that agree, of images that differ, have a long code.
    views = torch.nn.functional.normalize(torch.randn(2, 64, 32), dim=-1)
    print(f"random embeddings: loss {mec.joint_coding(views, distortion=0.06):.3f}")
    print(f"views that agree:  loss {mec.joint_coding(views[:1].repeat(2, 1, 1), distortion=0.06):.3f}")

    run = mec.pretrain("digits", out=out, epochs=epochs)

    results = mec.evaluate(run, "fewshot", "digits", labels_per_class=1)
    print(*results, sep="\n")
    return next(result.value for result in results if result.metric == "top-1")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/minimal")
