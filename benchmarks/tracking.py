"""SOT and VOS beside UniTrack's own arithmetic, written here in its plain form from the published description.

    python benchmarks/tracking.py --otb OTB2015/ --davis DAVIS/ [--frames 12] [--rounds 5]

The stand-in does what UniTrack does, the way it does it: every convolution and batch norm as it is, whole windows for
the first frame and the update, the response as a convolution with one output, the affinity of all cells of six frames
at once with what is too far set to -1e10, `topk` over all of it. Reading of files is left out of vos. Processor time of
this process, on one thread, in turns, so that other work on the machine weighs on both; ratios of each round, with
their spread. Networks have random weights: no figure of quality comes from here, only that both give the same.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mec.evaluation.tracking import appearance as appearances
from mec.evaluation.tracking import sot, vos
from mec.evaluation.tracking.appearance import Appearance, open_appearance
from mec.networks.backbones import build_encoder
from mec.runtime.machine import keep_freed


def encoder(name: str) -> nn.Module:
    """Random weights, with norms that let every block pass."""
    torch.manual_seed(0)
    made = build_encoder(name, 224, False)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return made


def plain(name: str) -> Appearance:
    """The network as it is: norms apart, torch's own convolutions, channels first."""
    kept = appearances.without_norms, appearances.Winograd
    appearances.without_norms, appearances.Winograd = (lambda module: module), nn.Conv2d
    try:
        made = open_appearance(encoder(name), 3)
    finally:
        appearances.without_norms, appearances.Winograd = kept
    made.network.to(memory_format=torch.contiguous_format)
    return made


class PlainCorrelation(sot.CrossCorrelation):
    def responses(self, features: Tensor) -> Tensor:
        return 0.1 * F.conv2d(features * sot.hann(like=features), self.template[None])[:, 0]


def plain_sot(appearance: Appearance, video: sot.BoxVideo, head: str) -> np.ndarray:
    kept = sot.margin_of, sot.CrossCorrelation
    sot.margin_of, sot.CrossCorrelation = (lambda _: None), PlainCorrelation
    try:
        return sot.track_targets(appearance, [video], head, batch_size=3)[0]
    finally:
        sot.margin_of, sot.CrossCorrelation = kept


def plain_propagate(query: Tensor, free: tuple[Tensor, Tensor], near: tuple[Tensor, Tensor]) -> Tensor:
    """All cells of the first frame and the five before against all of this one, hundred queries at a time."""
    h, w = query.shape[1:]
    keys, labels = (torch.cat(pair).transpose(0, 1).flatten(1) for pair in zip(free, near))
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], 1).float()
    far = torch.cdist(places, places) >= vos.RADIUS
    mask = torch.cat([torch.zeros_like(far), *[far] * len(near[0])], 1)
    found = []
    for start in range(0, h * w, 100):
        likeness = query.flatten(1)[:, start : start + 100].T @ keys
        likeness[mask[start : start + 100]] = -1e10
        values, chosen = (likeness / vos.PROPAGATION_TEMPERATURE).topk(vos.TOPK, dim=1)
        found.append((labels[:, chosen] * values.softmax(1)).sum(2))
    return torch.cat(found, 1).view(-1, h, w)


def plain_vos(appearance: Appearance, frames: list[Tensor], ids: np.ndarray) -> list[np.ndarray]:
    kept, vos.propagate = vos.propagate, plain_propagate
    try:
        return [*vos.segment(appearance, iter(frames), ids, batch_size=1)]
    finally:
        vos.propagate = kept


def in_turns(ours, theirs, rounds: int) -> None:
    """Processor seconds of both, and the ratio of each round."""
    seconds = []
    for _ in range(rounds + 1):
        pair = []
        for function in (ours, theirs):
            began = time.process_time()
            function()
            pair.append(time.process_time() - began)
        seconds.append(pair)
    ratios = [b / a for a, b in seconds[1:]]  # the first warms up
    mine, other = (statistics.median(column) for column in zip(*seconds[1:]))
    print(
        f"  {mine:.2f} s against {other:.2f} s: {statistics.median(ratios):.2f} times as fast "
        f"({min(ratios):.2f} to {max(ratios):.2f} in {rounds} rounds)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--otb", type=Path)
    parser.add_argument("--davis", type=Path)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", default="resnet18")
    asked = parser.parse_args()
    keep_freed()
    torch.set_num_threads(1)
    ours, theirs = open_appearance(encoder(asked.backbone), 3), plain(asked.backbone)
    if asked.otb:
        whole = sot.read_otb(asked.otb)[0]
        video = sot.BoxVideo(whole.name, whole.frames[: asked.frames], whole.first, whole.boxes[: asked.frames])
        for head in sot.HEADS:
            follow = partial(sot.track_targets, ours, [video], head, batch_size=3)
            beside = partial(plain_sot, theirs, video, head)
            apart = np.abs(follow()[0] - beside()).max()
            print(
                f"sot {head}, {asked.backbone}, {asked.frames} frames of {video.name}: boxes differ by {apart:.1e} px"
            )
            in_turns(follow, beside, asked.rounds)
    if asked.davis:
        clip = vos.read_davis(asked.davis)[0]
        frames = [*vos.frames_of(clip.frames[: asked.frames])]
        ids = vos.first_mask(clip, (frames[0].shape[2], frames[0].shape[1]))
        pair = [*vos.segment(ours, iter(frames), ids, batch_size=1)], plain_vos(theirs, frames, ids)
        apart = max(int((a != b).sum()) for a, b in zip(*pair))
        print(f"vos, {asked.backbone}, {len(frames)} frames of {clip.name}: at most {apart} px of a frame differ")
        follow = lambda: [*vos.segment(ours, iter(frames), ids, batch_size=1)]  # noqa: E731
        in_turns(follow, partial(plain_vos, theirs, frames, ids), asked.rounds)


if __name__ == "__main__":
    main()
