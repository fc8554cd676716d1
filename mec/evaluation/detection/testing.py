"""What a trained detector finds on the test photographs, in the px of the photographs as stored; by all ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mec.evaluation.detection.annotations import Annotations
from mec.evaluation.detection.batches import Sizes, TestImages, loader
from mec.evaluation.detection.masks import paste_masks, run_lengths
from mec.evaluation.detection.metrics import Detections
from mec.runtime.distributed import Ranks


@torch.no_grad()
def detections_of(
    detector: nn.Module, test: Annotations, sizes: Sizes, device: torch.device, workers: int, bf16: bool, ranks: Ranks
) -> list[Detections]:
    """Of every photograph, in its own px, on every rank; each rank looks at its share."""
    mine = range(ranks.rank, len(test), ranks.size)
    detector.eval()
    found = []
    for index, image in zip(mine, loader(TestImages(test, sizes), mine, workers)):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            result = detector([image.to(device)])[0]
        seen = (image.shape[2], image.shape[1])
        found.append(in_original(result, seen, tuple(test.sizes[index].tolist())))
    return interleaved(gathered(found, ranks), ranks.size)


def in_original(result: Mapping[str, Tensor], seen: tuple[int, int], original: tuple[int, int]) -> Detections:
    """From px of the image seen (w, h) to the original's (w, h): scaled, clipped, empty ones left out, masks pasted."""
    scale = torch.tensor([original[0] / seen[0], original[1] / seen[1]] * 2)
    boxes = result["boxes"].float().cpu() * scale
    boxes = boxes.clamp(min=torch.zeros(4), max=torch.tensor([*original, *original], dtype=torch.float32))
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, scores, labels = boxes[kept], result["scores"].float().cpu()[kept], result["labels"].cpu()[kept]
    masks = None
    if "masks" in result:
        pasted = paste_masks(result["masks"].float().cpu()[kept], boxes, original[1], original[0])
        masks = tuple(map(run_lengths, pasted))
    return Detections(boxes.numpy(), scores.numpy(), labels.numpy(), masks)


def gathered(found: Sequence[Detections], ranks: Ranks) -> list[Detections]:
    """All ranks' detections, in rank order; they travel as JSON."""
    if ranks.size == 1:
        return list(found)
    rows = [(d.boxes.tolist(), d.scores.tolist(), d.labels.tolist(), d.masks) for d in found]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else "cpu"
    everything = ranks.gather(torch.frombuffer(bytearray(text.encode() + b"\n"), dtype=torch.uint8).to(device))
    lines = bytes(everything.cpu().numpy()).decode().splitlines()
    return [
        Detections(
            np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64), masks
        )
        for boxes, scores, labels, masks in map(json.loads, filter(None, lines))
    ]


def interleaved(parts: Sequence[Any], ranks: int) -> list[Any]:
    """Rank r had photographs r, r + W, ...: back to the order of photographs.

    >>> interleaved([0, 2, 4, 1, 3], 2)
    [0, 1, 2, 3, 4]
    """
    order = np.concatenate([np.arange(rank, len(parts), ranks) for rank in range(ranks)])
    return [parts[place] for place in np.argsort(order)]
