"""What a frozen encoder sees in a video frame: a map of features with one cell for every 8 px.

`open_appearance` turns a run, a name or a module into an `Appearance`; `feature_maps` runs it over frames.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mec.checkpoint import atomic, encoder_file, file_hash, load_encoder, read_info
from mec.errors import BadInput, nearest

CELL = 8  # px
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NAMES = "a run folder or encoder.safetensors, pixels, random:NAME, timm:NAME or torchvision:NAME"


@dataclass(frozen=True)
class Appearance:
    """Frames -> feature maps; made by `open_appearance`.

    Where frames are warped or padded, they are normalised first, so that zeros outside mean the average colour.
    """

    name: str  # of the encoder, as results call it
    stage: int  # 3 or 4 (of a vision transformer: after three quarters of its blocks, or all); 0 for pixels
    network: nn.Module  # normalised frames [n, 3, h, w] -> maps [n, channels, ceil(h / 8), ceil(w / 8)]
    channels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fingerprint: str  # of weights, stage and normalisation: equal ones give equal maps
    checkpoint: str = ""  # hash of the encoder's file, for results
    device: torch.device | str = "cpu"

    def normalised(self, frames: Tensor) -> Tensor:
        """uint8 frames [..., 3, h, w] -> float32, on the encoder's device."""
        mean, std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (self.mean, self.std))
        return (frames.to(self.device).float() / 255 - mean) / std

    @torch.inference_mode()
    def maps(self, normalised: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, channels, ceil(h / 8), ceil(w / 8)], float32, not normalised."""
        return self.network(normalised.to(self.device)).float()


def feature_maps(
    appearance: Appearance, frames: Iterable[Tensor], *, batch_size: int = 4, cache: Path | None = None
) -> Iterator[Tensor]:
    """The map [channels, ceil(h / 8), ceil(w / 8)] of each uint8 frame [3, h, w], in order.

    Args:
        frames: neighbours of one size go through the encoder together.
        cache: a folder where maps are kept by the fingerprint of encoder and frame, and found again.
    """
    waiting: list[tuple[Tensor, Path | None]] = []
    for frame in frames:
        kept = None if cache is None else _place(cache, appearance, frame)
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
            kept.parent.mkdir(parents=True, exist_ok=True)
            with atomic(kept) as part, open(part, "wb") as file:
                np.save(file, found.cpu().numpy())
        yield found


def _place(cache: Path, appearance: Appearance, frame: Tensor) -> Path:
    state = hashlib.sha256(repr(tuple(frame.shape)).encode())
    state.update(frame.contiguous().numpy().data)
    return cache / appearance.fingerprint / f"{state.hexdigest()[:32]}.npy"


# --- encoders ----------------------------------------------------------------------------------------------------


def open_appearance(
    encoder: str | Path | nn.Module,
    stage: int = 3,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    download: bool = False,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Appearance:
    """The appearance model of an encoder: total stride 8, all convolutions of layer3 and layer4 with stride 1.

    An encoder that then strides by less (a stem for small images) sees the frame reduced by area, so that a cell
    still spans 8 px. A vision transformer gives its patches, frames scaled so that a patch spans 8 px.

    Args:
        encoder: a run folder or encoder.safetensors; "pixels" (raw 8 x 8 colour patches, no learning);
            "random:NAME" (timm or torchvision, untrained weights from `seed`); "timm:NAME" or "torchvision:NAME" (their
            pretrained weights, from the local cache unless `download`); or a ResNet or vision transformer as a module.
        stage: 3 or 4, the last stage that is kept.
        mean, std: normalisation of a module; named encoders bring their own.

    Raises:
        BadInput: no such name, weights not here, or an architecture without stages 3 and 4.
        FileNotFoundError: no such run.
    """
    if stage not in (3, 4):
        raise BadInput(f"stage is {stage}: 3 or 4.")
    checkpoint = ""
    if isinstance(encoder, nn.Module):
        name, module = type(encoder).__name__, copy.deepcopy(encoder)
    elif str(encoder) == "pixels":
        return Appearance("pixels", 0, Patches(), 3 * CELL**2, mean, std, "pixels-8", device=device)
    elif Path(encoder).exists() or ":" not in str(encoder):
        info = read_info(encoder)
        name, mean, std = info.method, info.mean, info.std
        module = load_encoder(encoder)[0]
        checkpoint = file_hash(encoder_file(encoder))
    else:
        name = str(encoder)
        module, mean, std = _named(name, seed, download)
    network = strided(module, stage, name).to(device)
    with torch.inference_mode():
        channels = network(torch.zeros(1, 3, 64, 64, device=device)).shape[1]
    fingerprint = _fingerprint(network, stage, mean, std)
    return Appearance(name, stage, network, channels, mean, std, fingerprint, checkpoint, device)


def _fingerprint(network: nn.Module, stage: int, mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    state = hashlib.sha256(repr((stage, mean, std, type(network).__name__, CELL)).encode())
    for name, tensor in network.state_dict().items():
        state.update(name.encode())
        state.update(tensor.detach().cpu().contiguous().numpy().data)
    return state.hexdigest()[:16]


def strided(module: Any, stage: int, name: str = "the encoder") -> nn.Module:
    """The module, changed in place, as a network from normalised frames to maps of stride 8 (see `open_appearance`)."""
    module.eval().requires_grad_(False)
    if all(hasattr(module, part) for part in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")):
        for part in (module.layer3, module.layer4):
            _without_stride(part)
        act = module.act1 if hasattr(module, "act1") else module.relu
        stages = (getattr(module, f"layer{i}") for i in range(1, stage + 1))
        body = nn.Sequential(module.conv1, module.bn1, act, module.maxpool, *stages)
        with torch.inference_mode():
            cells = body(torch.zeros(1, 3, 64, 64)).shape[-1]
        stride = 64 // cells
        if stride * cells != 64 or CELL % stride:
            raise BadInput(f"{name}: its maps have {cells} cells for 64 px, no whole number of them in {CELL} px.")
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


class Reduced(nn.Module):
    """A convolutional network on frames reduced by a whole factor, by area; cells at the border cover what is there."""

    def __init__(self, body: nn.Module, factor: int):
        super().__init__()
        self.body, self.factor = body, factor

    def forward(self, frames: Tensor) -> Tensor:
        if self.factor > 1:
            frames = F.avg_pool2d(frames, self.factor, ceil_mode=True, count_include_pad=False)
        return self.body(frames)


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
        if self.patch < CELL:
            frames = F.interpolate(frames, size, mode="area")
        elif self.patch > CELL:
            frames = F.interpolate(frames, size, mode="bilinear", align_corners=False)
        return self.transformer.forward_intermediates(
            frames, indices=[self.block], norm=self.last, stop_early=True, intermediates_only=True
        )[0]


def _whole_cells(frames: Tensor) -> Tensor:
    h, w = frames.shape[-2:]
    return F.pad(frames, (0, -w % CELL, 0, -h % CELL))


def _named(name: str, seed: int, download: bool) -> tuple[nn.Module, tuple, tuple]:
    """A module by 'random:NAME', 'timm:NAME' or 'torchvision:NAME', and its normalisation."""
    source, _, model = name.partition(":")
    if source == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _untrained(model), IMAGENET_MEAN, IMAGENET_STD
    if source == "torchvision":
        return _torchvision(model, download), IMAGENET_MEAN, IMAGENET_STD
    if source == "timm":
        module = _timm(model, download)
        return module, tuple(module.default_cfg["mean"]), tuple(module.default_cfg["std"])  # type: ignore[index]
    raise BadInput(f"{name!r} is no encoder: {NAMES}.")


def _untrained(model: str) -> nn.Module:
    from torchvision.models import get_model, list_models

    from mec.encoders import build_encoder

    if model in list_models():
        return get_model(model, weights=None)
    return build_encoder(model, 224)


def _torchvision(model: str, download: bool) -> nn.Module:
    from torchvision.models import get_model, get_model_weights, list_models

    if model not in list_models():
        raise BadInput(f"torchvision has no model {model!r}. {nearest(model, list_models())}")
    url = get_model_weights(model).DEFAULT.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if download:
        weights = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    elif file.exists():
        weights = torch.load(file, map_location="cpu", weights_only=True)
    else:
        raise BadInput(f"torchvision's weights of {model} are not on this machine ({file}). --download fetches them.")
    module = get_model(model, weights=None)
    module.load_state_dict(weights)
    return module


def _timm(model: str, download: bool) -> nn.Module:
    import timm
    from huggingface_hub import try_to_load_from_cache

    if not timm.is_model(model):
        raise BadInput(f"timm has no model {model!r}. {nearest(model, timm.list_models())[:200]}")
    if download:
        return timm.create_model(model, pretrained=True, num_classes=0)
    config = timm.get_pretrained_cfg(model)
    place = try_to_load_from_cache(config.hf_hub_id, "model.safetensors") if config and config.hf_hub_id else None
    if not isinstance(place, str):
        raise BadInput(f"timm's weights of {model} are not on this machine. --download fetches them.")
    return timm.create_model(model, pretrained=True, num_classes=0, pretrained_cfg_overlay={"file": place})
