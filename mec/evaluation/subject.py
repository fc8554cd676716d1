"""The encoder under test: a run, a file, a name or a module -> its backbone in evaluation mode, a folder for results.

Nothing is unpickled: .pth files are read with weights_only, and nothing is fetched from anywhere.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from mec.data.dataset import Data, Split
from mec.errors import BadInput, home
from mec.evaluation.cache import state_hash
from mec.evaluation.features import Features, extract, tell_skipped
from mec.networks.backbones import SMALL, SMALL_STEM_BELOW, build_encoder, feature_size
from mec.networks.encoder_file import (
    ENCODER,
    EncoderInfo,
    check_weights,
    encoder_file,
    image_transform,
    load_encoder,
    read_info,
)
from mec.recipes.recipe import IMAGENET_MEAN, IMAGENET_STD, Interpolation
from mec.runtime.device import chosen_device
from mec.runtime.files import SETTINGS, file_hash, first_line, read_json
from mec.runtime.progress import Console

PIXELS = "pixels"  # the raw-pixel baseline: colours of an image reduced to 32 px
UNTRAINED = "@untrained"  # after a run: its encoder before the first step
FEATURES = "features"  # folder beside results.jsonl

# Prefixes under which published checkpoints keep the backbone, longest first. MEC's: module.encoder.
PREFIXES = ("module.encoder.", "encoder.", "module.backbone.", "backbone.", "module.", "")
HEAD_PREFIXES = ("fc.", "head.", "classifier.")  # what follows the backbone; in MEC's layout fc is the projector

# Blocks per stage, and whether they are bottlenecks -> torchvision's name.
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((1, 1, 1, 1), False): "resnet10", ((2, 2, 2, 2), False): "resnet18", ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50", ((3, 4, 23, 3), True): "resnet101", ((3, 8, 36, 3), True): "resnet152",
}  # fmt: skip


@dataclass
class Subject:
    """An encoder under test: images [m, 3, s, s] -> features [m, e], on its device, in evaluation mode."""

    name: str  # what results call it: the method of a run, a file's or a model's name
    encoder: nn.Module
    info: EncoderInfo
    checkpoint: str  # 16 hex digits: of the file, or of the tensors where there is none
    device: str
    folder: Path  # for results
    workers: int = 0
    own_transform: Callable[[Any], Tensor] | None = None  # of an encoder in memory
    kept: bool = True  # whether the folder stays when results are there
    rows: int = 256  # images that go through the encoder together where features are extracted

    @property
    def transform(self) -> Callable[[Any], Tensor]:
        """PIL image (or uint8 tensor) -> the encoder's input, without augmentation."""
        return self.own_transform or image_transform(self.info)

    def features(
        self, split: Split, transform: Callable[[Any], Tensor] | None = None, *, whole: bool = False
    ) -> Features:
        """Features of a split's images, in order: extracted once, then found in the folder's features/."""
        where: dict[str, Any] = {"device": self.device, "workers": self.workers, "cache": self.folder / FEATURES}
        where["batch_size"] = self.rows
        found = extract(self.encoder, split, transform or self.transform, **where, whole=whole)
        tell_skipped([found], Console(stderr=True))
        return found

    def where(self, folder: Path) -> str:
        """For messages: where files are, if they stay."""
        return f"; files in {folder}" if self.kept else ""

    def both(self, data: Data) -> tuple[Features, Features]:
        """Features of the labelled training and test images."""
        assert data.test is not None
        return self.features(data.train.labelled()), self.features(data.test.labelled())


def resolve(
    run: str | Path | tuple[nn.Module, Callable[[Any], Tensor]],
    *,
    device: str = "auto",
    out: str | Path | None = None,
    image_size: int | None = None,
    workers: int = 0,
) -> Subject:
    """The encoder that RUN names.

    Args:
        run: a run folder; an encoder.safetensors; a file of weights (`mec export`, the official MEC checkpoint, the
            state dict of a torchvision ResNet); "RUN@untrained"; "random:NAME"; "pixels"; "NAME:FILE"; or a timm or
            torchvision name whose weights lie in their local caches. Or an encoder in memory and its transform, which
            stay as they are.
        device: "auto", "cpu" or "cuda".
        out: folder for results; default: the run, or runs/NAME.
        image_size: px, where it is not that of training.
        workers: processes that decode images.

    Raises:
        FileNotFoundError: no such run, file or local weights.
        BadInput: no such backbone, or a file that does not fit it or is not read here.
    """
    chosen, own, run = chosen_device(device), None, home(run)
    if isinstance(run, tuple):
        encoder, own = copy.deepcopy(run[0]).eval(), run[1] if isinstance(run[1], v2.Compose) else OneByOne(run[1])
        name, folder, info, checkpoint = type(encoder).__name__, Path(), _info_of(encoder, own), state_hash(encoder)
        if image_size not in (None, info.image_size):
            raise BadInput(f"--image-size is {image_size}, but the transform makes images of {info.image_size} px.")
    else:
        name, folder, encoder, info, checkpoint = _found(str(run), image_size)
    return Subject(name, encoder.to(chosen).eval(), info, checkpoint, chosen, Path(out or folder), workers, own)


@dataclass(frozen=True)
class OneByOne:
    """A transform that may take PIL images alone, for batches uint8 [m, 3, h, w] too."""

    transform: Callable[[Any], Tensor]

    def __call__(self, image: Any) -> Tensor:
        if not isinstance(image, Tensor) or image.ndim < 4:
            return self.transform(image)
        return torch.stack([self.transform(Image.fromarray(one.permute(1, 2, 0).numpy())) for one in image])


def _info_of(encoder: nn.Module, transform: Callable[[Any], Tensor]) -> EncoderInfo:
    """Image size and normalisation of an encoder in memory, by what its transform makes of black and white images."""
    black, white = (transform(Image.new("RGB", (256, 256), (value,) * 3)) for value in (0, 255))
    if not isinstance(black, Tensor) or black.ndim != 3 or len(black) != 3 or black.shape[1] != black.shape[2]:
        shape = [*black.shape] if isinstance(black, Tensor) else type(black).__name__
        raise BadInput(f"the transform turned a PIL image into {shape}: it has to give a tensor [3, s, s].")
    low, high = (image.double().mean((1, 2)) for image in (black, white))
    scale = 1 / (high - low)
    mean, std = (tuple(round(float(v), 6) for v in values) for values in (-low * scale, scale))
    size = feature_size(encoder, torch.stack([black, white]))
    return _info("custom", size, black.shape[1], False, "bicubic", (mean, std), type(encoder).__name__)


def _info(
    backbone: str, features: int, side: int, small: bool, kind: Interpolation, moments: tuple[Any, Any], method: str
) -> EncoderInfo:
    """What is known of an encoder that was not trained here; moments: mean and standard deviation of its input."""
    return EncoderInfo(backbone, features, side, small, kind, *moments, method, "", "", "", 0)


def _found(run: str, size: int | None) -> tuple[str, Path, nn.Module, EncoderInfo, str]:
    """Name, folder for results, encoder, what is known of it, and its hash."""
    if run == PIXELS and not Path(run).exists():
        info = pixels_info(size or 32)
        return PIXELS, _folder_of(PIXELS), nn.Flatten(), info, ""
    if run.endswith(UNTRAINED) and not Path(run).exists():
        return _untrained(encoder_file(run.removesuffix(UNTRAINED)), size)
    before, colon, after = run.partition(":")
    if before == "random" and colon:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the randomly initialised baseline is the same network each time
            encoder, info = _built(after, size, method="random")
        return run, _folder_of(run), encoder, info, state_hash(encoder)
    path = Path(run)
    if path.is_file() and not _is_ours(path):
        stem = path.stem.removesuffix(".pth")  # checkpoint.pth.tar
        weights = read_weights(path)
        twin = _twin_info(path, weights)
        if twin is None:
            backbone, small = backbone_of(path, weights)
            encoder, info = _built(backbone, size or (32 if small else 224), small=small, method=stem)
        else:
            info = replace(twin, image_size=size or twin.image_size)
            encoder = build_encoder(info.backbone, info.image_size, info.small_stem)
        _load(path, encoder, weights)
        inside = (path.parent / ENCODER).exists()
        return info.method, path.parent if inside else _folder_of(stem), encoder, info, file_hash(path)
    if path.exists() or not _is_model(before):
        file = encoder_file(run)
        info = read_info(run)
        encoder, _ = load_encoder(file)
        if size is not None and size != info.image_size:
            info, weights = replace(info, image_size=size), encoder.state_dict()
            encoder = build_encoder(info.backbone, size, info.small_stem)
            _load(file, encoder, weights)
        return info.method, file.parent, encoder, info, file_hash(file)
    file = Path(after) if colon else local_weights(before)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file of weights for {before}.")
    weights = read_weights(file)
    encoder, info = _built(before, size, method=before, small=False)
    _load(file, encoder, weights)
    return before, _folder_of(before if not colon else f"{before}-{file.stem}"), encoder, info, file_hash(file)


def _untrained(file: Path, size: int | None) -> tuple[str, Path, nn.Module, EncoderInfo, str]:
    """`_found` of a run's encoder as it was before its first step: by the seed that its settings.json has."""
    info = read_info(file)
    if info.backbone == "custom":
        raise BadInput(f"{file}: a module of your own; what it was before training is not known.")
    place = file.parent / SETTINGS
    settings = read_json(place) if place.exists() else {}
    zero_init = settings.get("recipe", {}).get("network", {}).get("zero_init", False)
    info = replace(info, image_size=size or info.image_size, method="untrained", steps=0, probe=())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.get("seed", 0))
        encoder = build_encoder(info.backbone, info.image_size, info.small_stem, zero_init=zero_init)
    return info.method, file.parent, encoder, info, state_hash(encoder)


def pixels_info(side: int = 32) -> EncoderInfo:
    """How the images of the raw-pixel baseline are made."""
    return _info(PIXELS, 3 * side * side, side, False, "bilinear", ((0.0,) * 3, (1.0,) * 3), PIXELS)


def _folder_of(name: str) -> Path:
    return Path("runs") / re.sub(r"[^\w.-]+", "-", name)


def _is_ours(path: Path) -> bool:
    """Whether a file is for `load_encoder` to read, or to refuse: safetensors with our metadata, or unreadable."""
    if path.suffix != ".safetensors":
        return False
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return path.name == ENCODER or "mec" in (file.metadata() or {})
    except Exception:  # safetensors' own error type, or the system's: load_encoder says it in words
        return True


def _is_model(name: str) -> bool:
    import timm

    return name in SMALL or timm.is_model(name)


def _built(name: str, size: int | None, *, method: str, small: bool | None = None) -> tuple[nn.Module, EncoderInfo]:
    """A backbone by name and how its images are made: by timm's notes where it has some, else ImageNet's usual.

    `small` is whether it has the stem for small images; None: where they are.
    """
    import timm

    config = timm.get_pretrained_cfg(name) if _is_model(name) and name not in SMALL else None
    shape = config.input_size if config is not None else (3, 224, 224)
    side = size or (shape[1] if shape[1] == shape[2] else 224)
    small = side < SMALL_STEM_BELOW if small is None else small
    encoder = build_encoder(name, side, small)
    kind: Interpolation = "bilinear" if config is not None and config.interpolation == "bilinear" else "bicubic"
    moments = (tuple(config.mean), tuple(config.std)) if config is not None else (IMAGENET_MEAN, IMAGENET_STD)
    size = feature_size(encoder, torch.zeros(2, 3, side, side))
    return encoder, _info(name, size, side, small, kind, moments, method)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The backbone's tensors of a file, by the names below its published prefix, and its head's.

    Raises:
        BadInput: not readable without unpickling, or no tensors in it.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken and foreign files fail in many ways
        raise BadInput(
            f"{path}: cannot be read ({first_line(error)[:120]}). It is cut off, or holds pickled code; only tensors "
            "are read here (weights_only), nothing is unpickled."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, Mapping) else {}
    prefix = next(p for p in PREFIXES if not p or any(name.startswith(p) for name in tensors))
    tensors = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    if all(name.startswith(HEAD_PREFIXES) for name in tensors):
        raise BadInput(f"{path}: no tensors of a backbone in it; a state dict, or a dict with one, is read.")
    return tensors


def backbone_of(path: Path, weights: Mapping[str, Tensor]) -> tuple[str, bool]:
    """Which torchvision ResNet these weights are of, and whether it has the stem for small images.

    Raises:
        BadInput: of none.
    """
    stages = (f"layer{stage}." for stage in range(1, 5))
    blocks = tuple(len({name.split(".")[1] for name in weights if name.startswith(stage)}) for stage in stages)
    name = RESNETS.get((blocks, "layer1.0.conv3.weight" in weights))
    first = weights.get("conv1.weight")
    if name is None or first is None or first.shape[0] != 64:
        raise BadInput(
            f"{path}: not the tensors of a torchvision ResNet ({', '.join(list(weights)[:3])}, ...). For another "
            f"backbone give its timm name with the file: NAME:{path}"
        )
    return name, first.shape[-1] == 3


def _twin_info(path: Path, weights: Mapping[str, Tensor]) -> EncoderInfo | None:
    """What a run folder's encoder.safetensors says, where the file beside it holds the very same tensors."""
    twin = path.parent / ENCODER
    if not twin.exists():
        return None
    other = safetensors.torch.load_file(twin)
    same = weights.keys() == other.keys() and all(torch.equal(weights[k], other[k]) for k in other)
    return read_info(twin) if same else None


def _load(path: Path, encoder: nn.Module, weights: dict[str, Tensor]) -> None:
    own = encoder.state_dict()
    # Old files lack the counters; of a head only what the backbone has too is kept (ConvNeXt's last norm).
    counters = {k: v for k, v in own.items() if k.endswith("num_batches_tracked")}
    kept = {k: v for k, v in weights.items() if k in own or not k.startswith(HEAD_PREFIXES)}
    weights = with_own_positions(encoder, {**counters, **kept})
    check_weights(path, encoder, weights)
    encoder.load_state_dict(weights)


def with_own_positions(encoder: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A vision transformer's position embeddings, resampled to its own grid where the weights are of another size."""
    wanted, found = encoder.state_dict().get("pos_embed"), weights.get("pos_embed")
    if wanted is None or found is None or found.shape == wanted.shape or found.ndim != 3:
        return weights
    from timm.layers import resample_abs_pos_embed

    before = 0 if getattr(encoder, "no_embed_class", False) else encoder.num_prefix_tokens
    grid = [*encoder.patch_embed.grid_size]
    return {**weights, "pos_embed": resample_abs_pos_embed(found, grid, None, before, "bicubic")}


def local_weights(name: str) -> Path:
    """The file of weights that torchvision or timm has in its cache for a name.

    Raises:
        FileNotFoundError: none; says where it was looked for.
    """
    import timm
    import torchvision

    cache = Path(torch.hub.get_dir()) / "checkpoints"
    published: list[Any] = []
    with contextlib.suppress(ValueError):  # not a torchvision name
        published = list(torchvision.models.get_model_weights(name))
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    addresses = [entry.url for entry in published] + ([config.url] if config is not None and config.url else [])
    looked = [str(cache / os.path.basename(str(address))) for address in addresses]
    found = next((Path(p) for p in reversed(looked) if Path(p).exists()), None)
    if found is None and config is not None and config.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        files = ("model.safetensors", "pytorch_model.bin")
        hits = (try_to_load_from_cache(config.hf_hub_id, file) for file in files)
        found = next((Path(hit) for hit in hits if isinstance(hit, str)), None)
        looked.append(f"the Hugging Face cache of {config.hf_hub_id}")
    if found is None:
        raise FileNotFoundError(
            f"{name}: no weights on this machine (looked for {', '.join(looked) or 'none published'}). Give a file as "
            f"{name}:FILE, or random:{name} for the untrained network; nothing is fetched here."
        )
    return found
