"""The C4 detector against a plain restatement in float64, what is loaded into it, and which statistics move when."""

from __future__ import annotations

import copy

import detection_reference as plain
import numpy as np
import pytest
import ranks as processes
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from mec.errors import BadInput
from mec.evaluation.detection.masks import draw_polygons, paste_masks
from mec.evaluation.detection.network import (
    HEADS,
    Anchors,
    Regions,
    Sampler,
    build_detector,
    check_loaded,
    mask_predictor,
    parameter_groups,
    place_of,
)
from mec.evaluation.detection.training import pooled_statistics
from mec.networks.backbones import build_encoder
from mec.runtime.distributed import ALONE, Ranks, current, synchronise_batch_norm

CLASSES = 3
# pycocotools with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def encoder(name: str | None = None) -> nn.Module:
    """By name, or a ResNet of one narrow block a stage."""
    torch.manual_seed(0)
    narrow = {"layers": (1, 1, 1, 1), "channels": (8, 12, 16, 24)}
    made = build_encoder(name, 64) if name else timm.create_model("resnet18", num_classes=0, **narrow)
    with torch.no_grad():
        for norm in (m for m in made.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.3)
    return made


def detector(masks: bool = True, loud: bool = True, **regions):
    """In float64, with predictions that differ from box to box."""
    torch.manual_seed(1)
    made = build_detector(encoder(), CLASSES, masks=masks, mean=MEAN, std=STD, regions=Regions(**regions))
    if loud:
        with torch.no_grad():
            for layer, deviation in (
                (made.rpn.head.cls_logits, 0.3), (made.rpn.head.bbox_pred, 0.02),
                (made.roi_heads.box_predictor.cls_score, 0.3), (made.roi_heads.box_predictor.bbox_pred, 0.1),
            ):  # fmt: skip
                nn.init.normal_(layer.weight, std=deviation)
            if masks:
                nn.init.normal_(made.roi_heads.mask_predictor.mask_fcn_logits.weight, std=0.3)
    return made.double()


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([x0, y0, x1, y0, x1, y1, x0, y1], dtype=np.float32)


def batch(generator_seed: int = 0):
    """Two images of different sizes with two and one objects: their anchors are all sampled."""
    generator = torch.Generator().manual_seed(generator_seed)
    images = [255 * torch.rand(3, h, w, generator=generator, dtype=torch.float64) for h, w in ((64, 60), (52, 64))]
    boxes = [[[3, 5, 38, 44], [20, 22, 59, 60]], [[8, 4, 50, 49]]]
    targets = [
        {
            "boxes": torch.tensor(b, dtype=torch.float64),
            "labels": torch.arange(len(b)) + n,
            "polygons": [[rectangle(*box)] for box in b],
        }
        for n, b in enumerate(boxes)
    ]
    return images, targets


# --- parts -------------------------------------------------------------------------------------------------------


def test_anchors_are_not_rounded_and_have_stride_16_whatever_the_width():
    from torchvision.models.detection.image_list import ImageList

    made = Anchors(((32.0, 64.0, 128.0, 256.0, 512.0),), ((0.5, 1.0, 2.0),))
    images = ImageList(torch.zeros(1, 3, 800, 1333), [(800, 1333)])  # 1333 // 84 is 15
    (found,) = made(images, [torch.zeros(1, 4, 50, 84, dtype=torch.float64)])
    assert_close(found, torch.tensor(plain.anchors(50, 84), dtype=torch.float64), rtol=1e-12, atol=1e-9)
    (single,) = made(images, [torch.zeros(1, 4, 2, 2, dtype=torch.bfloat16)])
    assert single.dtype == torch.float32  # 8 bits cannot hold a pixel's place
    widths = (found[:15, 2] - found[:15, 0]).tolist()
    assert any(abs(w - round(w)) > 0.1 for w in widths)


def test_regions_are_pooled_without_a_shift():
    made = detector()
    features = torch.randn(1, 5, 6, 7, dtype=torch.float64)
    boxes = [[10.0, 20.0, 70.0, 60.0], [-5.0, 0.0, 112.0, 96.0], [40.0, 40.0, 41.0, 43.0]]
    found = made.roi_heads.box_roi_pool(features, [torch.tensor(boxes, dtype=torch.float64)])
    for row, box in zip(found, boxes, strict=True):
        assert_close(row, torch.from_numpy(plain.pooled(features[0].numpy(), box)))
    # A region that needs several samples a bin: 14 bins over 30 cells.
    wide = torch.randn(1, 2, 40, 40, dtype=torch.float64)
    box = [8.0, 12.0, 488.0, 500.0]
    found = made.roi_heads.box_roi_pool(wide, [torch.tensor([box], dtype=torch.float64)])
    assert_close(found[0], torch.from_numpy(plain.pooled(wide[0].numpy(), box)))


def test_images_are_normalised_then_padded_with_zeros_to_the_largest():
    made = detector()
    images = [torch.full((3, 5, 9), 120, dtype=torch.uint8), torch.full((3, 8, 4), 250, dtype=torch.uint8)]
    batch, _ = made.transform(images)
    assert batch.tensors.shape == (2, 3, 8, 9)  # no multiple of 32
    assert batch.image_sizes == [(5, 9), (8, 4)]
    for channel in range(3):
        assert_close(batch.tensors[0, channel, :5], torch.full((5, 9), (120 - MEAN[channel]) / STD[channel]))
    assert batch.tensors[0, :, 5:].abs().sum() == batch.tensors[1, :, :, 4:].abs().sum() == 0


def test_initial_weights_have_their_spreads():
    torch.manual_seed(0)
    made = build_detector(build_encoder("resnet18", 64), 80, masks=True)
    spread = {
        "rpn.head.conv.0.0.weight": 0.01, "rpn.head.cls_logits.weight": 0.01, "rpn.head.bbox_pred.weight": 0.01,
        "roi_heads.box_predictor.cls_score.weight": 0.01, "roi_heads.box_predictor.bbox_pred.weight": 0.001,
        "roi_heads.mask_predictor.mask_fcn_logits.weight": 0.001,
    }  # fmt: skip
    state = {n: t.detach() for n, t in made.state_dict().items()}
    for name, deviation in spread.items():
        assert float(state[name].std()) == pytest.approx(deviation, rel=0.1), name
    fresh = ("rpn.head", "roi_heads.box_predictor", "roi_heads.mask_predictor")
    biases = [t for n, t in state.items() if n.startswith(fresh) and n.endswith("bias")]
    assert len(biases) == 7
    assert all(not bias.any() for bias in biases)
    # Of R50: fan-out 2048 x 2 x 2 of the transposed weight.
    assert float(mask_predictor(2048, 80).conv5_mask.weight.detach().std()) == pytest.approx(
        (2 / 8192) ** 0.5, rel=0.02
    )
    assert state["rpn.head.cls_logits.weight"].shape[0] == 15
    assert state["rpn.head.bbox_pred.weight"].shape[0] == 60


@pytest.mark.parametrize(("positive", "negative", "expected"), [(300, 900, (128, 384)), (20, 900, (20, 492)),
                                                               (20, 100, (20, 100)), (0, 900, (0, 512))])  # fmt: skip
def test_a_quarter_of_the_regions_at_most_is_foreground(positive, negative, expected):
    labels = torch.tensor([1] * positive + [0] * negative + [-1] * 50)
    sampler = Sampler(512, 0.25, HEADS)
    sampler.seeds = (7,)
    (chosen,), (others,) = sampler([labels])
    assert (int(chosen.sum()), int(others.sum())) == expected
    assert (labels[chosen.bool()] > 0).all()
    assert (labels[others.bool()] == 0).all()


def test_a_draw_depends_on_the_images_own_seed_alone():
    labels = [torch.randint(0, 2, (400,)), torch.randint(0, 2, (500,))]
    sampler = Sampler(64, 0.25, HEADS)
    sampler.seeds = (3, 4)
    both = sampler(labels)
    sampler.seeds = (4,)
    alone = sampler(labels[1:])
    assert torch.equal(both[0][1], alone[0][0])
    assert torch.equal(both[1][1], alone[1][0])
    sampler.seeds = (5,)
    assert not torch.equal(sampler(labels[1:])[0][0], alone[0][0])
    sampler.seeds = (3,)
    with pytest.raises(ValueError, match="zip"):
        sampler(labels)  # a seed for each image


def test_masks_are_pasted_as_pixel_by_pixel():
    masks = torch.rand(3, 14, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masks[2] = 1
    boxes = torch.tensor([[3.2, 4.7, 30.1, 25.9], [0.0, 0.0, 40.0, 30.0], [10.0, 2.5, 12.4, 29.0]], dtype=torch.float64)
    found = paste_masks(masks, boxes, 30, 40)
    for one, mask, box in zip(found, masks.numpy(), boxes.tolist(), strict=True):
        assert (one == plain.pasted(mask, box, 30, 40)).all()
    assert 0 < found[0].sum() < found[0].size
    assert found[2].sum() == 2 * 27  # pixel centres inside a full mask


def test_polygons_are_drawn_on_the_regions_own_grid():
    from pycocotools import mask

    box = np.array([10.0, 20.0, 66.0, 48.0])
    polygons = [np.array([12.0, 22.0, 60.0, 25.0, 40.0, 60.0]), rectangle(5, 21, 20, 30)]
    scaled = [((p.reshape(-1, 2) - [10, 20]) * [14 / 56, 14 / 28]).ravel().tolist() for p in polygons]
    expected = mask.decode(mask.merge(mask.frPyObjects(scaled, 14, 14)))
    assert (draw_polygons(polygons, box, 14) == expected).all()
    assert 20 < expected.sum() < 180
    full = draw_polygons([rectangle(0, 0, 100, 100)], box, 14)
    assert full.min() == 1


# --- the whole ---------------------------------------------------------------------------------------------------


def stages(made, images, train: bool):
    """res4 by torch's own layers from the encoder's, padded batch included."""
    high, wide = max(i.shape[1] for i in images), max(i.shape[2] for i in images)
    x = torch.zeros(len(images), 3, high, wide, dtype=torch.float64)
    for row, image in zip(x, images):
        for c in range(3):
            row[c, : image.shape[1], : image.shape[2]] = (image[c] - MEAN[c]) / STD[c]
    net = encoder().double().train(train)
    x = net.maxpool(F.relu(net.bn1(net.conv1(x))))
    return net, net.layer3(net.layer2(net.layer1(x)))


def flat(head: torch.Tensor, numbers: int) -> torch.Tensor:
    """[m, A numbers, h, w] -> [m, h w A, numbers]."""
    m, _, h, w = head.shape
    return head.view(m, -1, numbers, h, w).permute(0, 3, 4, 1, 2).reshape(m, -1, numbers)


def test_losses_are_those_of_the_plain_restatement():
    from pycocotools import mask as coco_mask

    made = detector()
    made.train()
    images, targets = batch()
    made.draw((1, 2))
    losses = made(images, targets)

    net, features = stages(made, images, train=True)
    head = made.rpn.head
    hidden = F.relu(F.conv2d(features, head.conv[0][0].weight, head.conv[0][0].bias, padding=1))
    logits = flat(F.conv2d(hidden, head.cls_logits.weight, head.cls_logits.bias), 1)[..., 0]
    found = flat(F.conv2d(hidden, head.bbox_pred.weight, head.bbox_pred.bias), 4)
    all_anchors = plain.anchors(*features.shape[2:])
    truths = [t["boxes"].tolist() for t in targets]
    scores, boxes = plain.rpn_losses(logits, found, all_anchors, truths)
    assert_close(losses["loss_objectness"], scores)
    assert_close(losses["loss_rpn_box_reg"], boxes)

    regions, objects, owners = [], [], []
    for n, (image, truth) in enumerate(zip(images, truths)):
        mine = (
            plain.proposals(logits[n].detach(), found[n].detach(), all_anchors, image.shape[2], image.shape[1]) + truth
        )
        assert len(mine) <= 512
        for box in mine:
            table = [plain.overlap(box, t) for t in truth]
            best = max(range(len(truth)), key=lambda k: table[k])
            regions.append(box)
            owners.append(n)
            objects.append(sum(map(len, truths[:n])) + best if table[best] >= 0.5 else -1)
    assert 8 < sum(which >= 0 for which in objects) <= 128
    pooled = np.stack([plain.pooled(features[n].detach().numpy(), b) for n, b in zip(owners, regions)])
    extra = made.roi_heads.box_head.norm
    maps = net.layer4(torch.from_numpy(pooled))
    maps = F.batch_norm(maps, None, None, extra.weight, extra.bias, training=True)
    means = maps.mean((2, 3))
    predictor = made.roi_heads.box_predictor
    logits = means @ predictor.cls_score.weight.T
    moves = (means @ predictor.bbox_pred.weight.T).view(len(regions), CLASSES + 1, 4)
    truth = [box for boxes in truths for box in boxes]
    classes = torch.cat([t["labels"] for t in targets]).tolist()
    classifier, box_loss = plain.head_losses(logits, moves, regions, objects, truth, classes)
    assert_close(losses["loss_classifier"], classifier)
    assert_close(losses["loss_box_reg"], box_loss)

    foreground = [n for n, which in enumerate(objects) if which >= 0]
    masks = made.roi_heads.mask_predictor
    x = F.relu(F.conv_transpose2d(maps[foreground], masks.conv5_mask.weight, masks.conv5_mask.bias, stride=2))
    x = F.conv2d(x, masks.mask_fcn_logits.weight, masks.mask_fcn_logits.bias)
    assert x.shape[1:] == (CLASSES + 1, 14, 14)
    total = torch.zeros((), dtype=torch.float64)
    for row, n in zip(x, foreground):
        x0, y0, x1, y1 = regions[n]
        corners = rectangle(*truth[objects[n]]).reshape(-1, 2)
        scaled = ((corners - [x0, y0]) * [14 / (x1 - x0), 14 / (y1 - y0)]).ravel().tolist()
        drawn = torch.from_numpy(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([scaled], 14, 14)))).double()
        logit = row[classes[objects[n]] + 1]
        total = total + (F.softplus(logit) - logit * drawn).mean()
    assert_close(losses["loss_mask"], total / len(foreground))


def test_detections_are_those_of_the_plain_restatement():
    made = detector()
    made.train()
    for seed in range(3):  # running statistics of its own
        made.draw((1, 2))
        made(*batch(seed))
    made.eval()
    images, _ = batch(5)
    with torch.no_grad():
        results = made(images)
        features = made.backbone.body(made.transform(images)[0].tensors)["0"]
        logits, found = (part[0] for part in made.rpn.head([features]))
    logits, found = flat(logits, 1)[..., 0], flat(found, 4)
    predictor = made.roi_heads.box_predictor
    for n, (image, result) in enumerate(zip(images, results, strict=True)):
        height, width = image.shape[1:]
        regions = plain.proposals(logits[n], found[n], plain.anchors(*features.shape[2:]), width, height)

        def res5(boxes, n=n):
            pooled = np.stack([plain.pooled(features[n].numpy(), b) for b in boxes])
            return made.roi_heads.box_head(torch.from_numpy(pooled))

        with torch.no_grad():
            means = res5(regions).mean((2, 3))
            scores = predictor.cls_score(means).softmax(1)
            moves = predictor.bbox_pred(means).view(len(regions), CLASSES + 1, 4)
        kept = []
        for label in range(1, CLASSES + 1):
            rows = [r for r in range(len(regions)) if scores[r, label] > 0.05]
            boxes = [
                plain.clipped(plain.moved(regions[r], moves[r, label].tolist(), (10, 10, 5, 5)), width, height)
                for r in rows
            ]
            values = [float(scores[r, label]) for r in rows]
            live = [k for k, b in enumerate(boxes) if b[2] - b[0] > 0.01 and b[3] - b[1] > 0.01]
            boxes, values = [boxes[k] for k in live], [values[k] for k in live]
            kept += [(values[k], label - 1, boxes[k]) for k in plain.suppressed(boxes, values, 0.5)]
        kept = sorted(kept, reverse=True)[:100]
        assert len(kept) > 5
        assert_close(result["scores"], torch.tensor([k[0] for k in kept], dtype=torch.float64))
        assert result["labels"].tolist() == [k[1] for k in kept]
        assert_close(result["boxes"], torch.tensor([k[2] for k in kept], dtype=torch.float64))
        with torch.no_grad():
            masks = made.roi_heads.mask_predictor(res5([k[2] for k in kept])).sigmoid()
        assert_close(result["masks"], torch.stack([m[k[1] + 1] for m, k in zip(masks, kept)]))


def test_limits_on_boxes_are_kept():
    made = detector(before_nms=(60, 40), after_nms=(20, 10), detections=7)
    made.eval()
    images, targets = batch()
    with torch.no_grad():
        images_list, _ = made.transform(images)
        features = made.backbone(images_list.tensors)
        proposals, _ = made.rpn(images_list, features)
        assert [len(p) <= 10 for p in proposals] == [True, True]
        assert all(len(r["boxes"]) <= 7 for r in made(images))
        made.rpn.train()
        made.draw((1, 2))
        proposals, _ = made.rpn(images_list, features, targets)
        assert all(10 < len(p) <= 20 for p in proposals)


def test_no_gradient_goes_through_proposals_and_one_goes_everywhere_else():
    made = detector()
    made.train()
    made.draw((1, 2))
    losses = made(*batch())
    (losses["loss_classifier"] + losses["loss_box_reg"]).backward()
    assert all(p.grad is None for p in made.rpn.parameters())
    made.zero_grad()
    made.draw((1, 2))
    sum(made(*batch()).values()).backward()
    assert [n for n, p in made.named_parameters() if p.grad is None or not p.grad.any()] == []


# --- statistics --------------------------------------------------------------------------------------------------


def counters(made) -> dict[str, int]:
    return {n: int(t) for n, t in made.state_dict().items() if n.endswith("num_batches_tracked")}


def test_res5_and_every_norm_run_once_a_training_step_and_stand_still_in_a_test():
    made = detector()
    calls = []
    made.roi_heads.box_head.register_forward_hook(lambda *_: calls.append(1))
    before = counters(made)
    made.train()
    made.draw((1, 2))
    made(*batch())
    assert len(calls) == 1
    assert counters(made) == {name: count + 1 for name, count in before.items()}
    state = copy.deepcopy(made.state_dict())
    made.eval()
    with torch.no_grad():
        made(batch()[0])
    assert len(calls) == 3  # boxes, then masks on the final ones
    assert all(torch.equal(t, state[n]) for n, t in made.state_dict().items())


def test_precise_statistics_are_those_of_all_batches_together_and_touch_nothing_else():
    made = detector()
    made.train()
    before = copy.deepcopy(made.state_dict())
    inputs: dict[str, list[torch.Tensor]] = {"backbone.body.bn1": [], "roi_heads.box_head.norm": []}
    for name, heard in inputs.items():
        made.get_submodule(name).register_forward_pre_hook(lambda _, x, heard=heard: heard.append(x[0].clone()))
    with torch.no_grad(), pooled_statistics(made) as take:
        for seed in range(3):
            made.draw((seed, 9))
            made(*batch(seed))
            take()
    after = made.state_dict()
    for name, heard in inputs.items():
        values = torch.cat([x.transpose(0, 1).flatten(1) for x in heard], 1)  # of each channel, all batches
        assert_close(after[f"{name}.running_mean"], values.mean(1))
        assert_close(after[f"{name}.running_var"], values.var(1, unbiased=False))
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    statistics = {n for n in after if n.endswith(("running_mean", "running_var"))}
    assert moved == statistics
    assert all(m.momentum == 0.1 for m in made.modules() if isinstance(m, nn.BatchNorm2d))


def test_all_is_trained_and_only_norms_go_without_decay():
    made = detector()
    decayed, free = parameter_groups(made, 1e-4)
    assert (decayed["weight_decay"], free["weight_decay"]) == (1e-4, 0.0)
    names = {id(p): n for n, p in made.named_parameters()}
    assert len(names) == len(decayed["params"]) + len(free["params"])
    norms = {n.rpartition(".")[0] for n in counters(made)}
    assert {names[id(p)].rpartition(".")[0] for p in free["params"]} == norms
    assert any(names[id(p)].endswith("cls_score.bias") for p in decayed["params"])
    assert all(p.requires_grad for p in made.parameters())


# --- loading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet10-tiny", "resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_every_tensor_of_the_encoder_is_in_the_detector_by_its_own_name(name):
    made = encoder(name)
    weights = {n: t.clone() for n, t in made.state_dict().items()}
    state = build_detector(made, CLASSES, masks=False).state_dict()
    for tensor_name, tensor in weights.items():
        (place,) = (
            place for prefix in ("backbone.body", "roi_heads.box_head") if (place := f"{prefix}.{tensor_name}") in state
        )
        assert place == place_of(tensor_name)
        assert torch.equal(state[place], tensor)
    used = {place_of(n) for n in weights}
    rest = {n.split(".")[0] if n.startswith("rpn") else ".".join(n.split(".")[:3]) for n in state if n not in used}
    assert rest == {
        "rpn",
        "roi_heads.box_head.norm",
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
    }


def test_what_is_left_over_missing_or_changed_is_named():
    made = detector()
    weights = {n.split("body.")[-1].split("box_head.")[-1]: t for n, t in made.state_dict().items()
               if n.startswith(("backbone.body.", "roi_heads.box_head.layer4."))}  # fmt: skip
    check_loaded(made, weights)
    with pytest.raises(BadInput, match=r"1 of its tensors find no place \(fc\.weight\), 0 places stay empty"):
        check_loaded(made, {**weights, "fc.weight": torch.zeros(2)})
    with pytest.raises(BadInput, match=r"1 places stay empty \(backbone\.body\.conv1\.weight\)"):
        check_loaded(made, {n: t for n, t in weights.items() if n != "conv1.weight"})
    with pytest.raises(BadInput, match=r"1 of its tensors find no place \(conv1\.weight\)"):
        check_loaded(made, {**weights, "conv1.weight": weights["conv1.weight"] + 1})


def test_encoders_that_fit_no_detector_are_refused():
    with pytest.raises(BadInput, match=r"VisionTransformer without conv1, .*--backbone resnet50"):
        build_detector(build_encoder("vit_tiny_patch16_224", 64), CLASSES, masks=False)
    with pytest.raises(BadInput, match=r"is 4 px of the image.*views\.size=64"):
        build_detector(build_encoder("resnet10-tiny", 32), CLASSES, masks=False)


# --- ranks -------------------------------------------------------------------------------------------------------


def losses_and_gradient(group: Ranks) -> tuple[dict[str, float], torch.Tensor]:
    """Of this rank's part of the batch, averaged over ranks."""
    made = detector()
    if group.size > 1:
        synchronise_batch_norm(made)
    made.train()
    images, targets = batch()
    # The same size for both: padding is to the largest of a rank.
    images = [images[0], torch.cat([images[1][:, :, :60], images[1][:, :12, :60]], 1)]
    part = group.share(2)
    made.draw((1, 2)[part], group)
    losses = made(images[part], targets[part])
    sum(losses.values()).backward()
    gradient = torch.cat([p.grad.flatten() for p in made.parameters()])
    return {k: float(group.mean(v.detach())) for k, v in losses.items()}, group.mean(gradient)


def on_a_rank() -> tuple[dict[str, float], torch.Tensor]:
    return losses_and_gradient(current())


@pytest.mark.slow
def test_two_ranks_have_the_losses_and_gradient_of_one():
    losses, gradient = losses_and_gradient(ALONE)
    for found, one in processes.run(on_a_rank, 2):
        assert found == pytest.approx(losses, rel=1e-9)
        assert_close(one, gradient, rtol=1e-7, atol=1e-9)


def pooled_on_a_rank() -> tuple[torch.Tensor, torch.Tensor]:
    """Statistics of a norm that sees two batches of different sizes, of which each rank has a part."""
    group = current()
    norm = nn.Sequential(nn.BatchNorm2d(3).double())
    if group.size > 1:
        synchronise_batch_norm(norm)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), pooled_statistics(norm, group) as take:
        for rows in (4, 8):
            norm(torch.randn(rows, 3, 2, 2, generator=generator, dtype=torch.float64)[group.share(rows)] * rows)
            take()
    return norm[0].running_mean, norm[0].running_var


@pytest.mark.slow
def test_two_ranks_pool_the_statistics_of_one():
    mean, var = pooled_on_a_rank()
    for found in processes.run(pooled_on_a_rank, 2):
        assert_close(found[0], mean)
        assert_close(found[1], var)
