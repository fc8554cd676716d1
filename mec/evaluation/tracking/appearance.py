"""What a frozen encoder sees in a video frame: a map of features with one cell for every 8 px.

`open_appearance` turns a run, a name or a module into an `Appearance`; `feature_maps` runs it over frames.
"""

import copy
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mec.errors import BadInput
from mec.evaluation.cache import state_hash
from mec.evaluation.subject import PIXELS, Subject, resolve
from mec.evaluation.tracking.winograd import Winograd
from mec.recipes.recipe import IMAGENET_MEAN, IMAGENET_STD
from mec.runtime.files import atomic, content_hash

CELL = 8  # px


@dataclass(frozen=True)
class Appearance:
    """Frames -> feature maps; made by `open_appearance`.
    Where frames are warped or padded, they are normalised first, so that zeros outside mean the average colour."""

    stage: int  # 3 or 4 (of a vision transformer: after three quarters of its blocks, or all); 0 for pixels
    network: nn.Module  # normalised frames [n, 3, h, w] -> maps [n, channels, ceil(h / 8), ceil(w / 8)]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fingerprint: str  # of weights, stage and normalisation: equal ones give equal maps
    device: torch.device | str = "cpu"

    def normalised(self, frames: Tensor) -> Tensor:
        """uint8 frames [..., 3, h, w] -> float32, on the encoder's device."""
        mean, std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (self.mean, self.std))
        return (frames.to(self.device).float() / 255 - mean) / std

    @torch.no_grad()
    def maps(self, normalised: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, channels, ceil(h / 8), ceil(w / 8)], float32, not normalised."""
        return self.network(normalised.to(self.device)).float().contiguous()


def feature_maps(
    appearance: Appearance, frames: Iterable[Tensor], *, batch_size: int = 4, cache: str | Path | None = None
) -> Iterator[Tensor]:
    """The map [channels, ceil(h / 8), ceil(w / 8)] of each uint8 frame [3, h, w], in order.

    Args:
        frames: neighbours of one size go through the encoder together.
        cache: a folder where maps are kept by the fingerprint of encoder and frame, and found again."""
    waiting: list[tuple[Tensor, Path | None]] = []
    for frame in frames:
        kept = None
        if cache is not None:
            state = hashlib.sha256(repr(tuple(frame.shape)).encode())
            state.update(frame.contiguous().numpy().data)
            kept = Path(cache) / appearance.fingerprint / f"{state.hexdigest()[:32]}.npy"
        found = kept is not None and kept.exists()
        if waiting and (found or len(waiting) == batch_size or waiting[0][0].shape != frame.shape):
            yield from _computed(appearance, waiting)
            waiting = []
        if found:
            yield torch.from_numpy(np.load(kept, allow_pickle=False)).to(appearance.device)  # type: ignore[arg-type]
        else:
            waiting.append((frame, kept))
    if waiting:
        yield from _computed(appearance, waiting)


def _computed(appearance: Appearance, waiting: list[tuple[Tensor, Path | None]]) -> Iterator[Tensor]:
    maps = appearance.maps(appearance.normalised(torch.stack([frame for frame, _ in waiting])))
    for found, (_, kept) in zip(maps, waiting):
        if kept is not None:
            with atomic(kept) as part, open(part, "wb") as file:
                np.save(file, found.cpu().numpy())
        yield found


def open_appearance(encoder: Subject | nn.Module | str | Path, stage: int = 3, *, device: str = "cpu") -> Appearance:
    """The appearance model of an encoder: total stride 8, all convolutions of layer3 and layer4 with stride 1.
    An encoder that then strides by less (a stem for small images) sees the frame reduced by area, so that a cell
    still spans 8 px. A vision transformer gives its patches, frames scaled so that a patch spans 8 px.

    Args:
        encoder: a `Subject`; what `resolve` takes (a run, a file, a name; "pixels" is raw 8 x 8 colour patches); or a
            ResNet or vision transformer as a module, for ImageNet's normalisation. A module is copied, not changed.
        stage: 3 or 4, the last stage that is kept.
        device: of a name or module; a subject brings its own.
    Raises BadInput: no such name, or an architecture without stages 3 and 4. FileNotFoundError: no such run or
    weights."""
    if stage not in (3, 4):
        raise BadInput(f"stage is {stage}: 3 or 4.")
    if isinstance(encoder, (str, Path)):
        encoder = resolve(encoder, device=device)
    if isinstance(encoder, nn.Module):
        name, module, mean, std = type(encoder).__name__, encoder, IMAGENET_MEAN, IMAGENET_STD
    elif encoder.name == PIXELS:
        # Centred, unlike the subject's own pixels: all colours are above 0, and would all be alike.
        name, module, mean, std = PIXELS, Patches(), IMAGENET_MEAN, IMAGENET_STD
        stage, device = 0, encoder.device
    else:
        name, module, mean, std = encoder.name, encoder.encoder, encoder.info.mean, encoder.info.std
        device = encoder.device
    network = strided(copy.deepcopy(module).cpu().to(memory_format=torch.contiguous_format), stage, name).to(device)
    fingerprint = content_hash([stage, mean, std, CELL, state_hash(network)])
    return Appearance(stage, network, mean, std, fingerprint, device)


def appearances(subject: Subject, stage: str = "both") -> list[Appearance]:
    """Those of the stages asked for ("3", "4" or "both"); one where they do not differ, as for pixels."""
    found = [open_appearance(subject, number) for number in ((3, 4) if stage == "both" else (int(stage),))]
    return found[:1] if found[0].stage == 0 else found


def strided(module: Any, stage: int, name: str = "the encoder") -> nn.Module:
    """The module, changed in place, as a network from normalised frames to maps of stride 8 (see `open_appearance`)."""
    module.eval().requires_grad_(False)
    if isinstance(module, Patches):
        return module
    if all(hasattr(module, part) for part in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")):
        for part in (module.layer3, module.layer4):
            _without_stride(part)
        act = getattr(module, "act1", None) or module.relu
        stages = (getattr(module, f"layer{i}") for i in range(1, stage + 1))
        module.conv1.to(memory_format=torch.channels_last)  # so that pooling is quick
        body = nn.Sequential(module.conv1, module.bn1, act, module.maxpool, *stages)
        with torch.inference_mode():
            cells = body(torch.zeros(1, 3, 64, 64)).shape[-1]
        stride = 64 // cells
        if stride * cells != 64 or CELL % stride:
            raise BadInput(f"{name}: its maps have {cells} cells for 64 px, no whole number of them in {CELL} px.")
        for part in without_norms(body).modules():
            if type(part) is nn.Conv2d:
                part.__class__ = Winograd
        return Reduced(body, CELL // stride)
    if hasattr(module, "forward_intermediates") and hasattr(module, "patch_embed") and hasattr(module, "blocks"):
        return PatchMaps(module, stage)
    raise BadInput(
        f"{name} is a {type(module).__name__}: tracking takes stages 3 and 4 of a ResNet (conv1, bn1, layer1 to "
        "layer4), or the patches of a timm vision transformer."
    )


def _without_stride(part: nn.Module) -> None:
    for name, module in list(part.named_modules()):
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        elif isinstance(module, (nn.AvgPool2d, nn.MaxPool2d)) and module.stride not in (1, (1, 1)):
            setattr(part.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], nn.Identity())


def without_norms(module: Any) -> Any:
    """Batch norms become part of the convolutions before them, in place: maps move by float noise, some 1e-6."""
    for (name, one), (other, norm) in pairwise([*module.named_children()]):
        if isinstance(one, nn.Conv2d) and type(norm) is nn.BatchNorm2d and norm.track_running_stats:
            setattr(module, name, fuse_conv_bn_eval(one, norm))
            setattr(module, other, nn.Identity())
    for child in module.children():
        without_norms(child)
    return module


class Reduced(nn.Module):
    """A convolutional network on frames reduced by a whole factor, by area; cells at the border cover what is there."""

    def __init__(self, body: nn.Module, factor: int):
        super().__init__()
        self.body, self.factor = body, factor

    def forward(self, frames: Tensor) -> Tensor:
        if self.factor > 1:
            frames = F.avg_pool2d(frames, self.factor, ceil_mode=True, count_include_pad=False)
        # On a CPU one by one: caches hold one.
        return torch.cat([self.body(some) for some in frames.split(1 if frames.device.type == "cpu" else len(frames))])


class Patches(nn.Module):
    """Raw colours: a cell is its 8 x 8 px, 192 numbers; zeros beyond the border."""

    def forward(self, frames: Tensor) -> Tensor:
        return F.pixel_unshuffle(_whole_cells(frames), CELL)


class PatchMaps(nn.Module):
    """Patch features of a timm vision transformer, after three quarters of the blocks or (normalised) after all."""

    def __init__(self, transformer: Any, stage: int):
        super().__init__()
        from timm.layers import Format

        embed = transformer.patch_embed
        self.patch: int = embed.patch_size[0]
        # As timm builds it with dynamic_img_size: positions are interpolated to the grid at hand.
        transformer.dynamic_img_size = True
        embed.strict_img_size, embed.flatten, embed.output_fmt = False, False, Format("NHWC")
        depth = len(transformer.blocks)
        self.transformer, self.last = transformer, stage == 4
        self.block = depth - 1 if self.last else max(1, 3 * depth // 4) - 1

    def forward(self, frames: Tensor) -> Tensor:
        frames = _whole_cells(frames)
        size = [side // CELL * self.patch for side in frames.shape[-2:]]
        if self.patch != CELL:
            frames = F.interpolate(frames, size, mode="area" if self.patch < CELL else "bilinear")
        how = {"indices": [self.block], "norm": self.last, "stop_early": True, "intermediates_only": True}
        return self.transformer.forward_intermediates(frames, **how)[0]


def _whole_cells(frames: Tensor) -> Tensor:
    h, w = frames.shape[-2:]
    return F.pad(frames, (0, -w % CELL, 0, -h % CELL))
