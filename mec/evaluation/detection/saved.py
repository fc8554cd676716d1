"""A trained detector in a file, and what it finds. Nothing is unpickled: safetensors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from mec.data.decoding import nothing_in
from mec.data.listing import list_images
from mec.errors import MALFORMED, BadInput
from mec.evaluation.detection import pictures
from mec.evaluation.detection.annotations import Annotations, from_photographs
from mec.evaluation.detection.batches import Sizes, TestImages, loader
from mec.evaluation.detection.masks import paste_masks, run_lengths
from mec.evaluation.detection.metrics import Detections, as_coco, coco_rows
from mec.evaluation.detection.network import Detector, Regions, build_detector
from mec.evaluation.detection.options import DETECTOR, Finding
from mec.evaluation.detection.reading import with_photographs
from mec.networks.backbones import build_encoder
from mec.recipes.fields import from_file
from mec.runtime.device import chosen_device
from mec.runtime.distributed import ALONE, Ranks
from mec.runtime.files import first_line, write_json
from mec.runtime.flags import takes
from mec.runtime.locks import only_one
from mec.runtime.progress import Console
from mec.version import __version__

DETECTOR_KEY = "mec-detector"  # of its file's metadata


@dataclass(frozen=True)
class DetectorInfo:
    """What is known of a trained detector; stored with its weights."""

    backbone: str
    image_size: int  # px, of the encoder's pretraining
    small_stem: bool
    classes: tuple[str, ...]
    masks: bool
    mean: tuple[float, ...]  # of pixels 0 to 255
    std: tuple[float, ...]
    test: int  # px, the shorter side of an image
    most: int  # px, the longest
    regions: Regions
    data: str = ""
    version: str = __version__


def detector_file(run: str | Path) -> Path:
    """The detector of a run: the file itself, its folder, or a folder above with one alone."""
    path = Path(run)
    if path.is_file():
        return path
    found = [p for pattern in (DETECTOR, f"lr-*/{DETECTOR}", f"*/lr-*/{DETECTOR}") for p in sorted(path.glob(pattern))]
    if not found:
        where = "`mec evaluate RUN voc|coco|yolo` leaves one in its lr-LR-seed-SEED folders."
        raise FileNotFoundError(f"{run}: no detector in it. {where}")
    if len(found) > 1:
        raise BadInput(f"{run}: {len(found)} detectors in it, give one: {', '.join(str(p.parent) for p in found[:8])}.")
    return found[0]


def load_detector(run: str | Path) -> tuple[Detector, DetectorInfo]:
    """The detector of a run in evaluation mode, on the CPU, and what is known of it."""
    path = detector_file(run)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            known = dict(json.loads((file.metadata() or {})[DETECTOR_KEY]))
        info = from_file(DetectorInfo, known, path)
        encoder = build_encoder(info.backbone, info.image_size, info.small_stem)
        shape: dict[str, Any] = {"masks": info.masks, "mean": info.mean, "std": info.std, "regions": info.regions}
        detector = build_detector(encoder, len(info.classes), **shape)
        detector.load_state_dict(safetensors.torch.load_file(path))
    except (*MALFORMED, RuntimeError, OSError, safetensors.SafetensorError) as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise BadInput(f"{path}: not a detector that can be read ({why}).") from error
    return detector.eval(), info


@takes(Finding)
def detect(run: str | Path, images: str | Path, options: Finding) -> list[Detections]:
    """Find objects in images by a trained detector; written as COCO's JSON, and drawn.

    Images that are cut off or none are left out, counted and told; where more than half are, nothing is written.

    Args:
        run: a detector's folder (RUN/PROTOCOL-PRESET/lr-LR-seed-SEED), its file, or a folder above with one alone.
        images: a folder of images, nested in any way, or an image.
    {options}

    Returns:
        Of each image, in the order of their names: boxes [n, 4] x0, y0, x1, y1 in px, scores [n], labels [n] (0 to K -
        1, as the file's categories 1 to K), run lengths of masks.

    Raises:
        FileNotFoundError: no such detector or images.
        BadInput: a file is none of a detector, no image can be read, or --out is no .json."""
    console, out, folder = Console(highlight=False), Path(options.out), Path(images)
    if out.suffix != ".json":
        raise BadInput(f"--out is {out}: its name ends with .json.")
    detector, info = load_detector(run)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder or image.")
    names = list_images(folder).names if folder.is_dir() else [folder.name]
    root = folder if folder.is_dir() else folder.parent
    if not names:
        raise BadInput(nothing_in(folder))
    with only_one(out), console.status(f"objects in {folder}"):
        seen = from_photographs([(name, str(root / name), (0, 0), []) for name in names], info.classes, {})
        seen = with_photographs(seen, str(folder))
        device, sizes = torch.device(chosen_device(options.device)), Sizes((), info.test, info.most)
        found = detections_of(detector.to(device), seen, sizes, device, options.workers, False, ALONE)
        for i, each in enumerate(found):
            kept = each.scores >= options.least_score
            masks = None if each.masks is None else tuple(compress(each.masks, kept))
            found[i] = Detections(each.boxes[kept], each.scores[kept], each.labels[kept], masks)
        write_json(out, as_coco(seen, coco_rows(found)))
        for i, name in enumerate(seen.ids if options.pictures else ()):
            path = Path(str(options.pictures)) / f"{name.replace('/', '-')}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pictures.detection_picture(seen, found, [i], path, masks=info.masks)
    for words, where in seen.flaws.items():
        console.print(f"left out: {len(where):,} {words}, the first: {where[0]}", soft_wrap=True)
    count, classes = sum(len(each.scores) for each in found), ", ".join(info.classes[:8])
    console.print(f"{out}: {count:,} detections in {len(found):,} images ({classes})", soft_wrap=True)
    return found


@torch.no_grad()
def detections_of(
    detector: nn.Module, test: Annotations, sizes: Sizes, device: torch.device, workers: int, bf16: bool, ranks: Ranks
) -> list[Detections]:
    """Of every photograph, in its own px, on every rank; each rank looks at its part."""
    mine = range(len(test) * ranks.rank // ranks.size, len(test) * (ranks.rank + 1) // ranks.size)
    detector.eval()
    found = []
    for index, image in zip(mine, loader(TestImages(test, sizes), mine, workers)):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            result = detector([image.to(device)])[0]
        found.append(in_original(result, (image.shape[2], image.shape[1]), tuple(test.sizes[index].tolist())))
    rows = [(d.boxes.tolist(), d.scores.tolist(), d.labels.tolist(), d.masks) for d in found]
    return [
        Detections(np.array(b, np.float32).reshape(-1, 4), np.array(s, np.float32), np.array(c, np.int64), masks)
        for b, s, c, masks in chain.from_iterable(ranks.values(rows))
    ]


def in_original(result: Mapping[str, Tensor], seen: tuple[int, int], original: tuple[int, int]) -> Detections:
    """From px of the image seen (w, h) to the original's (w, h): scaled, clipped, empty ones left out, masks pasted."""
    boxes = result["boxes"].float().cpu() * torch.tensor([original[0] / seen[0], original[1] / seen[1]] * 2)
    boxes = boxes.clamp(min=torch.zeros(4), max=torch.tensor([*original, *original], dtype=torch.float32))
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, scores, labels = boxes[kept], result["scores"].float().cpu()[kept], result["labels"].cpu()[kept]
    masks = None
    if "masks" in result:
        pasted = paste_masks(result["masks"].float().cpu()[kept], boxes, original[1], original[0])
        masks = tuple(map(run_lengths, pasted))
    return Detections(boxes.numpy(), scores.numpy(), labels.numpy(), masks)
