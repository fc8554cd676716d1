"""The encoder under test: a run, a file, a name or a module -> its backbone in evaluation mode, a folder for results.

Nothing is unpickled: .pth files are read with weights_only, and nothing is fetched from anywhere.
"""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
from mec.networks.encoder_file import ENCODER, EncoderInfo, encoder_file, image_transform, load_encoder, read_info
from mec.networks.foreign import architecture, fit, local_weights, read_backbone, read_state
from mec.recipes.recipe import IMAGENET_MEAN, IMAGENET_STD, Interpolation
from mec.runtime.device import chosen_device
from mec.runtime.distributed import Ranks, shared
from mec.runtime.files import SETTINGS, file_hash, read_json
from mec.runtime.paths import START, run_folder
from mec.runtime.progress import Console

PIXELS = "pixels"  # the raw-pixel baseline: colours of an image reduced to 32 px
UNTRAINED = "@untrained"  # after a run: its encoder before the first step
FEATURES = "features"  # folder beside results.jsonl


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
    told: tuple[str, ...] = ()  # which of a file's tensors were taken, left and resized
    rows: int = 256  # images that go through the encoder together where features are extracted
    ranks: Ranks = field(default_factory=shared)  # that share the work on it

    @property
    def transform(self) -> Callable[[Any], Tensor]:
        """PIL image (or uint8 tensor) -> the encoder's input, without augmentation."""
        return self.own_transform or image_transform(self.info)

    def features(
        self, split: Split, transform: Callable[[Any], Tensor] | None = None, *, whole: bool = False
    ) -> Features:
        """Features of a split's images, in order: extracted once, then found in the folder's features/."""
        where: Any = {"device": self.device, "workers": self.workers, "cache": self.folder / FEATURES}
        where |= {"batch_size": self.rows, "ranks": self.ranks}
        found = extract(self.encoder, split, transform or self.transform, **where, whole=whole)
        tell_skipped([found], Console(stderr=True))
        return found

    def where(self, folder: Path) -> str:
        """For messages: where files are, if they stay."""
        return f"; files in {folder}" if self.kept else ""

    def both(self, data: Data) -> tuple[Features, Features]:
        assert data.test is not None
        return self.features(data.train.labelled()), self.features(data.test.labelled())


def resolve(
    run: str | Path | tuple[nn.Module, Callable[[Any], Tensor]], *, device: str = "auto",
    out: str | Path | None = None, image_size: int | None = None, workers: int = 0,
) -> Subject:  # fmt: skip
    """The encoder that RUN names.

    Args:
        run: a run folder; an encoder.safetensors; a file of weights (`mec export`, the official MEC checkpoint, what
            `mec.networks.foreign` knows, with "@WORD" for one of several backbones in it); "RUN@untrained", "RUN@300"
            (a step that was kept), "RUN@last"; "random:NAME"; "pixels"; "NAME:FILE"; or a timm or torchvision name
            (with a tag of weights, too) whose weights lie in their local caches. Or an encoder in memory and its
            transform, which stay as they are.
        device: "auto", "cpu" or "cuda".
        out: folder for results; default: the run, or runs/NAME.
        image_size: px, where it is not that of training.
        workers: processes that decode images.
    Raises:
        FileNotFoundError: no such run, file or local weights.
        BadInput: no such backbone, or a file that does not fit it or is not read here."""
    chosen, own, run, told = chosen_device(device), None, home(run), list[str]()
    if isinstance(run, tuple):
        encoder, own = copy.deepcopy(run[0]).eval(), run[1] if isinstance(run[1], v2.Compose) else OneByOne(run[1])
        name, folder, info, checkpoint = type(encoder).__name__, Path(), _info_of(encoder, own), state_hash(encoder)
        if image_size not in (None, info.image_size):
            raise BadInput(f"--image-size is {image_size}, but the transform makes images of {info.image_size} px.")
    else:
        name, folder, encoder, info, checkpoint, told = _found(str(run), image_size)
    there = encoder.to(chosen).eval()
    return Subject(name, there, info, checkpoint, chosen, Path(out or folder), workers, own, told=tuple(told))


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
    moments: Any = [tuple(round(float(v), 6) for v in values) for values in (-low * scale, scale)]
    size = feature_size(encoder, torch.stack([black, white]))
    return EncoderInfo("custom", size, black.shape[1], False, "bicubic", moments[0], moments[1], type(encoder).__name__)


def _found(run: str, size: int | None) -> tuple[str, Path, nn.Module, EncoderInfo, str, list[str]]:
    """Name, folder for results, encoder, what is known of it, its hash, and what is said about its weights."""
    if run == PIXELS and not Path(run).exists():
        info = pixels_info(size or 32)
        return PIXELS, _folder_of(PIXELS), nn.Flatten(), info, "", []
    if run.endswith(UNTRAINED) and not Path(run).exists():
        return *_untrained(encoder_file(run.removesuffix(UNTRAINED)), size), []
    before, colon, after = run.partition(":")
    if before == "random" and colon:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the randomly initialised baseline is the same network each time
            encoder, info = _built(after, size, method="random")
        return run, _folder_of(run), encoder, info, state_hash(encoder), []
    path, part = _with_part(Path(run))
    if path.is_file() and not _is_ours(path):
        stem = path.stem.removesuffix(".pth")  # checkpoint.pth.tar
        twin = _twin_info(path)
        if twin is None:
            found = read_backbone(path, part=part)
            backbone, small, side = architecture(found)
            encoder, info = _built(backbone, size or side or (32 if small else 224), small=small, method=stem)
        else:
            info = replace(twin, image_size=size or twin.image_size)
            encoder = build_encoder(info.backbone, info.image_size, info.small_stem)
            found = read_backbone(path, encoder)
        told = [*found.told, *fit(path, encoder, found.tensors)] if twin is None else fit(path, encoder, found.tensors)
        inside = (path.parent / ENCODER).exists()
        return info.method, path.parent if inside else _folder_of(stem), encoder, info, file_hash(path), told
    if path.exists() or not _is_model(before):
        file = encoder_file(run)
        info = read_info(run)
        encoder, _ = load_encoder(file)
        if size is not None and size != info.image_size:
            info, weights = replace(info, image_size=size), encoder.state_dict()
            encoder = build_encoder(info.backbone, size, info.small_stem)
            fit(file, encoder, weights)
        folder = run_folder(file)
        name = info.method if folder == file.parent else f"{info.method}@{info.steps}"
        return name, folder, encoder, info, file_hash(file), []
    file, part = _with_part(Path(after)) if colon else (local_weights(before), "")
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file of weights for {before}.")
    encoder, info = _built(before, size, method=before, small=False)
    found = read_backbone(file, encoder, part)
    told = [*found.told, *fit(file, encoder, found.tensors)]
    return before, _folder_of(before if not colon else f"{before}-{file.stem}"), encoder, info, file_hash(file), told


def _with_part(path: Path) -> tuple[Path, str]:
    """A file, and the word after its @ that chooses among the backbones in it."""
    before, _, word = str(path).rpartition("@")
    return (Path(before), word) if not path.exists() and Path(before).is_file() else (path, "")


def _untrained(file: Path, size: int | None) -> tuple[str, Path, nn.Module, EncoderInfo, str]:
    """`_found` of a run's encoder as it was before its first step: as given, or by the seed in its settings.json."""
    info = read_info(file)
    if info.backbone == "custom":
        raise BadInput(f"{file}: a module of your own; what it was before training is not known.")
    if (file.parent / START).exists():
        encoder, info = load_encoder(file.parent / START)[0], read_info(file.parent / START)
        if size not in (None, info.image_size):
            return _found(str(file.parent / START), size)[:5]
        return "start", file.parent, encoder, replace(info, method="start"), state_hash(encoder)
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
    return EncoderInfo(PIXELS, 3 * side * side, side, False, "bilinear", (0.0,) * 3, (1.0,) * 3, PIXELS)


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
    `small` is whether it has the stem for small images; None: where they are."""
    import timm

    config = timm.get_pretrained_cfg(name) if _is_model(name) and name not in SMALL else None
    shape = config.input_size if config is not None else (3, 224, 224)
    side = size or (shape[1] if shape[1] == shape[2] else 224)
    small = side < SMALL_STEM_BELOW if small is None else small
    encoder = build_encoder(name, side, small)
    kind: Interpolation = "bilinear" if config is not None and config.interpolation == "bilinear" else "bicubic"
    moments: Any = (config.mean, config.std) if config is not None else (IMAGENET_MEAN, IMAGENET_STD)
    size = feature_size(encoder, torch.zeros(2, 3, side, side))
    return encoder, EncoderInfo(name, size, side, small, kind, moments[0], moments[1], method)


def _twin_info(path: Path) -> EncoderInfo | None:
    """What a run folder's encoder.safetensors says, where the file beside it holds the very same tensors."""
    twin = path.parent / ENCODER
    if not twin.exists():
        return None
    weights, other = read_state(path), safetensors.torch.load_file(twin)
    same = weights.keys() == other.keys() and all(torch.equal(weights[k], other[k]) for k in other)
    return read_info(twin) if same else None
