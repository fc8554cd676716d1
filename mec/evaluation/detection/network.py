"""A C4 Faster R-CNN, or Mask R-CNN, around an encoder: torchvision's parts, with detectron2's numbers.

Equal to the R50-C4 networks of detectron2 with MoCo's extra batch norm after res5, to float noise (docs/originals.md).
Inside, class 0 is the background and classes are 1 ... K; outside they are 0 ... K - 1.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import RoIAlign

from mec.errors import BadInput
from mec.evaluation.detection.masks import mask_targets
from mec.objectives.coding import at_least_float32
from mec.runtime.distributed import ALONE, Ranks

STRIDE = 16  # px of the image a cell of res4
MASK_CHANNELS = 256
LARGEST_SHARE = 0.25  # of the sampled regions, foreground
RPN, HEADS = 1, 2  # whose draw it is

# Tensors that no encoder has: they start fresh.
FRESH = ("rpn.", "roi_heads.box_head.norm.", "roi_heads.box_predictor.", "roi_heads.mask_predictor.")


@dataclass(frozen=True)
class Regions:
    """How many boxes are looked at, an image. Pairs: while training, while testing."""

    anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)  # px, square roots of areas
    anchors: int = 256  # sampled for the RPN's loss
    before_nms: tuple[int, int] = (12_000, 6_000)
    after_nms: tuple[int, int] = (2_000, 1_000)
    regions: int = 512  # sampled for the heads' loss
    detections: int = 100  # kept
    pooled: int = 14  # cells of a region's side before res5


FULL = Regions()


class Detector(GeneralizedRCNN):
    """Normalised images and targets -> losses while training, detections otherwise; see `build_detector`."""

    def draw(self, seeds: Sequence[int], ranks: Ranks = ALONE) -> None:
        """Fix what the next forward pass samples: one seed an image, so that no rank or resume changes it."""
        self.rpn.fg_bg_sampler.seeds = self.roi_heads.fg_bg_sampler.seeds = seeds
        self.roi_heads.ranks = ranks


class Sampler:
    """At most `count` rows an image, at most a share of them positive, drawn by the image's own seed."""

    def __init__(self, count: int, share: float, salt: int):
        self.count, self.share, self.salt = count, share, salt
        self.seeds: Sequence[int] = ()

    def __call__(self, labels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of the chosen positive (label >= 1) and negative (0) rows of each image; -1 is never chosen."""
        chosen: tuple[list[Tensor], list[Tensor]] = ([], [])
        for seed, rows in zip(self.seeds, labels, strict=True):
            generator = torch.Generator().manual_seed(hash((seed, self.salt)) % 2**63)
            positive, negative = torch.where(rows >= 1)[0], torch.where(rows == 0)[0]
            most = min(len(positive), int(self.count * self.share))
            for part, found, number in zip(chosen, (positive, negative), (most, self.count - most)):
                kept = torch.randperm(len(found), generator=generator)[:number].to(rows.device)
                mask = torch.zeros_like(rows, dtype=torch.uint8)
                mask[found[kept]] = 1
                part.append(mask)
        return chosen


class Anchors(AnchorGenerator):
    """Boxes of every size and ratio around (16 i, 16 j), not rounded, in at least single precision."""

    def generate_anchors(self, scales, aspect_ratios, dtype=torch.float64, device=torch.device("cpu")):  # noqa: B008
        sizes = torch.as_tensor(scales, dtype=torch.float64)
        roots = torch.as_tensor(aspect_ratios, dtype=torch.float64).sqrt()  # of height / width
        width, height = (sizes / roots[:, None]).flatten(), (sizes * roots[:, None]).flatten()
        return torch.stack([-width, -height, width, height], 1).to(device) / 2

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        features = feature_maps[0]
        high, wide = features.shape[-2:]
        rows, columns = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
        centres = STRIDE * torch.stack([columns, rows, columns, rows], 2).reshape(-1, 1, 4)
        boxes = (centres + self.cell_anchors[0].cpu()).reshape(-1, 4)
        boxes = boxes.to(features.device, torch.float64 if features.dtype == torch.float64 else torch.float32)
        return [boxes] * len(image_list.image_sizes)


class ExactHead(RPNHead):
    """Objectness and deltas in at least single precision, for the boxes that are made from them."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [at_least_float32(v) for v in logits], [at_least_float32(v) for v in deltas]


class ProposalNetwork(RegionProposalNetwork):
    """Its losses are sums over the sampled anchors of a batch, over `anchors` x images: also where fewer are found."""

    def compute_loss(self, objectness, pred_bbox_deltas, labels, regression_targets):
        positive, negative = (torch.cat(part).bool() for part in self.fg_bg_sampler(labels))
        sampled = positive | negative
        scale = self.fg_bg_sampler.count * len(labels)
        wanted = torch.cat(labels).to(objectness.dtype)
        scores = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], wanted[sampled], reduction="sum")
        boxes = (pred_bbox_deltas[positive] - torch.cat(regression_targets)[positive]).abs().sum()
        return scores / scale, boxes / scale


class Heads(RoIHeads):
    """Boxes and masks from one pass of res5: in training the masks' part are its foreground rows."""

    ranks: Ranks = ALONE

    def has_mask(self) -> bool:
        return self.mask_predictor is not None

    def forward(self, features, proposals, image_shapes, targets=None):
        if self.training:
            proposals, matched, labels, wanted = self.select_training_samples(proposals, targets)
        maps = self.box_head(self.box_roi_pool(features["0"], proposals))
        logits, deltas = (at_least_float32(v) for v in self.box_predictor(maps.mean((2, 3))))
        if self.training:
            found = torch.cat(labels)
            losses = box_losses(logits, deltas, found, torch.cat(wanted), self.ranks)
            if self.has_mask():
                foreground = found > 0
                mask_logits = at_least_float32(self.mask_predictor(maps[foreground]))
                drawn = mask_targets(targets, proposals, matched, labels, mask_logits.shape[-1]).to(mask_logits)
                losses["loss_mask"] = mask_loss(mask_logits, drawn, found[foreground], self.ranks)
            return [], losses
        found = self.postprocess_detections(logits, deltas, proposals, image_shapes)
        results = [{"boxes": b, "scores": s, "labels": c} for b, s, c in zip(*found)]
        if self.has_mask():
            counts = [r["boxes"].shape[0] for r in results]  # not len(): ONNX traces shapes
            maps = self.box_head(self.box_roi_pool(features["0"], [r["boxes"] for r in results]))
            classes = torch.cat([r["labels"] for r in results])
            masks = at_least_float32(self.mask_predictor(maps))[torch.arange(classes.shape[0]), classes].sigmoid()
            for result, part in zip(results, masks.split(counts)):
                result["masks"] = part  # [n, 14, 14] probabilities inside the box
        return [result | {"labels": result["labels"] - 1} for result in results], {}

    def select_training_samples(self, proposals, targets):
        outside = [{**t, "labels": t["labels"] + 1} for t in targets]  # 0 is the background, in here
        return super().select_training_samples(proposals, outside)

    def check_targets(self, targets) -> None:
        """Ours are made in one place; masks come as polygons, which torchvision does not know."""


def box_losses(logits: Tensor, deltas: Tensor, labels: Tensor, wanted: Tensor, ranks: Ranks = ALONE) -> dict:
    """Cross-entropy of all sampled regions, L1 of the true class's deltas of the foreground; both per sampled region.

    Args:
        logits, labels: [n, K + 1], class 0 the background; [n].
        deltas, wanted: [n, 4 (K + 1)], and [n, 4] that would give the true box."""
    count = mean_count(len(labels), logits, ranks)
    foreground = torch.where(labels > 0)[0]
    chosen = deltas.view(len(labels), -1, 4)[foreground, labels[foreground]]
    return {
        "loss_classifier": F.cross_entropy(logits, labels, reduction="sum") / count,
        "loss_box_reg": (chosen - wanted[foreground]).abs().sum() / count,
    }


def mask_loss(logits: Tensor, drawn: Tensor, labels: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """Binary cross-entropy of the true class's mask, mean over pixels of all foreground regions; 0 where none is.

    Args:
        logits, labels: [n, K + 1, s, s]; [n], 1 ... K.
        drawn: [n, s, s], 0 or 1."""
    count = mean_count(drawn.numel(), logits, ranks).clamp(min=1)
    return F.binary_cross_entropy_with_logits(logits[torch.arange(len(labels)), labels], drawn, reduction="sum") / count


def mean_count(count: int, like: Tensor, ranks: Ranks) -> Tensor:
    """A count's mean over ranks: sums over it, averaged over ranks, are means over all ranks' rows."""
    return ranks.mean(torch.tensor(float(count), dtype=like.dtype, device=like.device)).detach()


class PaddedBatch(nn.Module):
    """uint8 images of several sizes -> one padded batch: minus the mean, over the deviation, zeros right and below."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, images: Sequence[Tensor], targets=None) -> tuple[ImageList, Any]:
        high, wide = (max(image.shape[axis] for image in images) for axis in (1, 2))
        kind = torch.float64 if images[0].dtype == torch.float64 else torch.float32
        mean, std = (torch.tensor(v, dtype=kind, device=images[0].device).view(3, 1, 1) for v in (self.mean, self.std))
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        batch = [F.pad((x.to(kind) - mean) / std, (0, wide - w, 0, high - h)) for x, (h, w) in zip(images, sizes)]
        return ImageList(torch.stack(batch), sizes), targets

    def postprocess(self, result, image_shapes, original_image_sizes):
        """Detections stay in px of the image as given; `saved.in_original` scales them."""
        return result


def build_detector(
    encoder: nn.Module, classes: int, *, masks: bool, mean: Sequence[float] = (123.675, 116.28, 103.53),
    std: Sequence[float] = (58.395, 57.12, 57.375), regions: Regions = Regions(),
) -> Detector:  # fmt: skip
    """The detector whose backbone and res5 are the encoder's own stages, with their weights; all of it is trained.

    Args:
        encoder: a ResNet with torchvision's names (conv1, bn1, maxpool, layer1 ... layer4); it is taken apart.
        classes: K, without the background.
        masks: Mask R-CNN instead of Faster R-CNN.
        mean, std: of the pixels 0 to 255, RGB.
    Raises BadInput: another kind of encoder, one whose res4 has not stride 16, or one with tensors that find no
    place."""
    names = ("conv1", "bn1", "maxpool", "layer1", "layer2", "layer3", "layer4")
    if missing := [name for name in names if not hasattr(encoder, name)]:
        raise BadInput(
            f"the encoder is a {type(encoder).__name__} without {', '.join(missing)}: a C4 detector is made of a "
            "ResNet's stages. Pretrain with --backbone resnet50 (or resnet18, resnet10-tiny, ...)."
        )
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    layer4 = encoder.get_submodule("layer4")
    with torch.no_grad():  # sizes, found out by use
        body = IntermediateLayerGetter(encoder, {"layer3": "0"})
        training = encoder.training
        example = body.eval()(next(encoder.parameters()).new_zeros(1, 3, 64, 64))["0"]
        wide = layer4.eval()(example).shape[1]
        body.train(training), layer4.train(training)
    if example.shape[-1] != 64 // STRIDE:
        raise BadInput(
            f"a cell of this encoder's third stage is {64 // example.shape[-1]} px of the image: a detector needs "
            f"{STRIDE}. It has the stem for images under 64 px: pretrain with --set views.size=64 or more."
        )
    backbone = nn.Sequential(OrderedDict(body=body))  # stem, res2, res3, res4 -> {"0": [m, c, h / 16, w / 16]}
    res5 = nn.Sequential(OrderedDict(layer4=layer4, norm=nn.BatchNorm2d(wide)))  # [n, c, 14, 14] -> [n, e, 7, 7]
    anchors = Anchors((regions.anchor_sizes,), ((0.5, 1.0, 2.0),))
    head = ExactHead(example.shape[1], anchors.num_anchors_per_location()[0])
    modes = ("training", "testing")
    counts = dict(zip(modes, regions.before_nms)), dict(zip(modes, regions.after_nms))
    rpn = ProposalNetwork(anchors, head, 0.7, 0.3, regions.anchors, 0.5, *counts, 0.7)
    rpn.fg_bg_sampler = Sampler(regions.anchors, 0.5, RPN)
    # Without the half-pixel shift of older versions, with as many samples as a region needs.
    pool = RoIAlign(regions.pooled, 1 / STRIDE, sampling_ratio=0, aligned=True)
    heads = Heads(
        pool, res5, box_predictor(wide, classes), 0.5, 0.5, regions.regions,
        LARGEST_SHARE, (10.0, 10.0, 5.0, 5.0), 0.05, 0.5, regions.detections,
        mask_predictor=mask_predictor(wide, classes) if masks else None,
    )  # fmt: skip
    heads.fg_bg_sampler = Sampler(regions.regions, LARGEST_SHARE, HEADS)
    detector = Detector(backbone, rpn, heads, PaddedBatch(mean, std)).requires_grad_(True)
    check_loaded(detector, before)
    return detector


def box_predictor(features: int, classes: int) -> FastRCNNPredictor:
    predictor = FastRCNNPredictor(features, classes + 1)
    for layer, deviation in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=deviation)
        nn.init.zeros_(layer.bias)
    return predictor


def mask_predictor(features: int, classes: int) -> MaskRCNNPredictor:
    predictor = MaskRCNNPredictor(features, MASK_CHANNELS, classes + 1)
    nn.init.normal_(predictor.mask_fcn_logits.weight, std=0.001)
    for layer in (predictor.conv5_mask, predictor.mask_fcn_logits):
        nn.init.zeros_(layer.bias)
    return predictor


def place_of(name: str) -> str:
    """Where an encoder's tensor is in the detector.

    >>> place_of("conv1.weight"), place_of("layer4.0.bn1.bias")
    ('backbone.body.conv1.weight', 'roi_heads.box_head.layer4.0.bn1.bias')"""
    return f"{'roi_heads.box_head' if name.startswith('layer4.') else 'backbone.body'}.{name}"


def check_loaded(detector: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Every tensor of the encoder is in its place in the detector, and only the named new parts have none.
    Raises BadInput: names the tensors that are left over or missing."""
    state = detector.state_dict()
    left = [n for n, t in weights.items() if place_of(n) not in state or not torch.equal(state[place_of(n)], t)]
    filled = {place_of(name) for name in weights}
    empty = [name for name in state if name not in filled and not name.startswith(FRESH)]
    if left or empty:
        raise BadInput(
            f"the encoder does not fill the detector: {len(left)} of its tensors find no place "
            f"({', '.join(left[:3]) or 'none'}), {len(empty)} places stay empty ({', '.join(empty[:3]) or 'none'})."
        )


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimizer: all but norms with decay, norms without."""
    kinds = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    norms = {id(p) for m in module.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False)}
    parts = [[p for p in module.parameters() if (id(p) in norms) == which] for which in (False, True)]
    return [{"params": part, "weight_decay": decay} for part, decay in zip(parts, (weight_decay, 0.0))]
