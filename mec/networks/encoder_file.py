"""The encoder that a run leaves behind: safetensors with metadata that says what it is. Nothing is unpickled."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from mec.data.values import Scale
from mec.errors import MALFORMED, BadInput
from mec.networks.backbones import build_encoder, evaluating
from mec.recipes.fields import from_file
from mec.recipes.recipe import Interpolation
from mec.runtime.files import atomic
from mec.runtime.paths import ENCODER as ENCODER
from mec.runtime.paths import encoder_file as encoder_file
from mec.runtime.ranges import Finite, Positive, Whole
from mec.version import __version__

NOT_FINITE = "{} of this encoder are NaN or infinite: it diverged. Take an earlier checkpoint, or train again."
LONGEST = 8  # times the shorter side: of what lies further out a central crop sees nothing
PROBE_TOLERANCE = 0.02  # of the largest feature; TF32 on a GPU differs from a CPU by up to a few thousandths


@dataclass(frozen=True)
class EncoderInfo:
    """What is known about an encoder's weights; stored with them. What has no default is needed to use them."""

    backbone: str  # timm name, one of mec.networks.backbones.SMALL, or "custom"
    feature_size: Whole
    image_size: Whole  # px, square; 0 for encoders of other things than images
    small_stem: bool
    interpolation: Interpolation
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Positive, Positive, Positive]
    method: str = ""
    recipe: str = ""
    data: str = ""
    data_fingerprint: str = ""
    steps: int = 0
    value_range: tuple[Finite, ...] = ()  # lowest and highest of deep values (16-bit, float, signed), where it saw any
    probe: tuple[float, ...] = ()  # features of a fixed input: tells whether this code builds the same encoder
    version: str = __version__

    @property
    def scale(self) -> Scale | None:
        """How deep values become 8 bits: as in training."""
        return Scale(*self.value_range) if len(self.value_range) == 2 else None


def probe(encoder: nn.Module, image_size: int) -> tuple[float, ...]:
    """The first features of a fixed image, rounded: the same wherever the same encoder is built."""
    return tuple(round(v, 6) for v in of_fixed_image(encoder, image_size)[:8].tolist())


@torch.no_grad()
def of_fixed_image(
    encoder: nn.Module, image_size: int, layout: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """Its features of an image of three ramps, on the CPU; layout: of the image in memory."""
    side = torch.linspace(-1, 1, image_size)
    image = torch.stack([side[None].expand(image_size, -1), side[:, None].expand(-1, image_size), side[:, None] * side])
    device = next(encoder.parameters()).device
    with evaluating(encoder):
        features: Tensor = encoder(image[None].to(device, memory_format=layout)).float().flatten().cpu()
    return features


def save_encoder(path: Path, encoder: nn.Module, info: Any, key: str = "mec") -> None:
    """The weights, and a dataclass of what is known of them, by a key of the file's metadata."""
    encoder = getattr(encoder, "_orig_mod", encoder)  # what torch.compile wraps
    stored = encoder.state_dict().items()
    several = len({t.data_ptr() for _, t in stored}) < len(stored)  # a layer that is used twice has two names
    tensors = {name: t.detach().cpu().contiguous() for name, t in stored}
    tensors = {name: t.clone() for name, t in tensors.items()} if several else tensors
    with atomic(path) as part:
        safetensors.torch.save_file(tensors, part, metadata={key: json.dumps(asdict(info))})


def read_info(run: str | Path) -> EncoderInfo:
    """What is stored about an encoder, without loading its weights."""
    path = encoder_file(run)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except Exception as error:  # safetensors' own error type, or the system's
        hint = "It holds pickled code or is cut off; only safetensors are read here, nothing is unpickled."
        raise BadInput(f"{path}: not a readable safetensors file ({error}). {hint}") from error
    if "mec" not in metadata:
        raise BadInput(f"{path}: a safetensors file, but without this project's metadata: it was not made by mec.")
    try:
        values = dict(json.loads(metadata["mec"]))
    except MALFORMED as error:
        raise BadInput(f"{path}: its metadata cannot be read ({error}); not made by mec, or damaged.") from error
    return from_file(EncoderInfo, {"version": "", **values}, path)


def load_encoder(run: str | Path, module: nn.Module | None = None) -> tuple[nn.Module, Callable[[Any], Tensor]]:
    """An encoder in evaluation mode, and the transform that turns a PIL image into its input [3, s, s].

    Args:
        run: a run folder, or an `encoder.safetensors`.
        module: for an encoder that was not built by name: the module to load the weights into.

    Returns:
        The encoder, images [m, 3, s, s] -> features [m, e], on the CPU; and the transform.

    Raises:
        FileNotFoundError: nothing there.
        BadInput: unreadable, of another backbone, of other code, or carrying pickled code."""
    path, info = encoder_file(run), read_info(run)
    if module is None:
        if info.backbone == "custom":
            raise BadInput(f"{path}: holds a module of your own; pass it: mec.load_encoder({str(run)!r}, module=...).")
        module = build_encoder(info.backbone, info.image_size, info.small_stem)
    weights = safetensors.torch.load_file(path)
    bare = getattr(module, "_orig_mod", module)
    check_weights(path, bare, weights)
    bare.load_state_dict(weights)
    module.eval()
    if info.probe:
        features = of_fixed_image(module, info.image_size)
        if not features.isfinite().all():
            raise BadInput(f"{path}: {NOT_FINITE.format('features')}")
        # In the layout of training too: a deep network that saw few images makes much of how sums are rounded.
        if not (fits(info, features) or fits(info, of_fixed_image(module, info.image_size, torch.channels_last))):
            raise BadInput(
                f"{path}: {info.backbone} built here gives other features than when it was saved (a fixed image: "
                f"{features[:3].tolist()} against {info.probe[:3]}): another version of the backbone's code. Saved by "
                f"mec {info.version}."
            )
    return module, image_transform(info)


def fits(info: EncoderInfo, features: Tensor) -> bool:
    """Whether features of the fixed image are those that were stored; NaN, on either side, is not."""
    stored = torch.tensor(info.probe)
    error = (features[: len(stored)] - stored).abs()
    return bool((error <= PROBE_TOLERANCE * stored.abs().max().clamp(min=1e-3)).all())


def check_weights(path: Path, module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Every tensor of the module is there, in its shape, and no other."""
    wanted = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in weights.items()}
    if wanted != found:
        wrong = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
        none = "has none"
        examples = "; ".join(f"{n}: file {found.get(n, none)}, module {wanted.get(n, none)}" for n in wrong[:3])
        raise BadInput(f"{path}: not the weights of this backbone; {len(wrong)} tensors differ ({examples}).")
    bad = [name for name, tensor in weights.items() if tensor.isnan().any()]
    if bad:
        raise BadInput(f"{path}: {NOT_FINITE.format(f'tensors ({len(bad)}, the first is {bad[0]})')}")


class CropLongSide(nn.Module):
    """Cuts off the ends of an image that is over `LONGEST` times as long as it is wide.

    A central crop never sees them, but resizing the shorter side of 3000 x 1 px would make 768,000 x 256 px of it."""

    def forward(self, image: Tensor) -> Tensor:
        h, w = image.shape[-2:]
        most = LONGEST * min(h, w)
        if max(h, w) <= most:
            return image
        from torchvision.transforms.v2.functional import center_crop

        most += (max(h, w) - most) % 2  # the middle stays where it is
        cropped: Tensor = center_crop(image, [min(h, most), min(w, most)])
        return cropped


def image_transform(info: EncoderInfo, resize: float = 256 / 224, crop: bool = False) -> Callable[[Any], Tensor]:
    """PIL image (or uint8 tensor) -> normalised [3, s, s]: the shorter side to `resize` s and a central crop of s.

    Under 64 px an image is resized whole, without a crop, unless `crop` asks for one."""
    from torchvision.transforms import v2

    modes = {"bicubic": v2.InterpolationMode.BICUBIC, "bilinear": v2.InterpolationMode.BILINEAR}
    mode, side = modes[info.interpolation], info.image_size
    if side < 64 and not crop:
        resized = [v2.Resize((side, side), mode, antialias=True)]
    else:
        resized = [CropLongSide(), v2.Resize(round(side * resize), mode, antialias=True), v2.CenterCrop(side)]
    as_numbers = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(info.mean), list(info.std))]
    deep = [info.scale.to_eight_bits] if info.scale else []
    transform: Callable[[Any], Tensor] = v2.Compose([*deep, v2.ToImage(), v2.RGB(), *resized, *as_numbers])
    return transform
