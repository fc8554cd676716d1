"""What a run starts from where weights are given: fitted to the recipe's network; stages of it that stand still."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mec.errors import BadInput
from mec.evaluation.subject import PIXELS, resolve
from mec.networks.encoder_file import EncoderInfo
from mec.networks.foreign import with_own_positions
from mec.networks.siamese import Siamese
from mec.runtime.paths import START


@dataclass
class Start:
    """Given weights, what is known of them, and what is said of them, in lines."""

    name: str
    info: EncoderInfo
    weights: Mapping[str, Tensor]
    told: list[str] = field(default_factory=list)


def start_from(init: str | Path, resumed: Path | None) -> Start:
    """The weights that RUN names; or what the run in the folder that is resumed started from.
    Raises BadInput: of no backbone that is built by name, or gone; else as `resolve`."""
    kept = None if resumed is None else resumed / START
    if kept and not kept.exists():
        raise BadInput(f"{kept} is gone: the weights that this run started from. Put it back to resume.")
    subject = resolve(str(kept or init), device="cpu")
    if subject.info.backbone in ("custom", PIXELS):
        raise BadInput(f"--init is {init}: of no backbone with a name, so it cannot be built again to be trained.")
    return Start(str(init), subject.info, subject.encoder.state_dict(), [*subject.told])


def take(encoder: nn.Module, start: Start) -> list[str]:
    """Load given weights into the recipe's encoder, in place; returns what was taken, resized and left, in lines."""
    own, resized, left = encoder.state_dict(), list[str](), list[str]()
    given = with_own_positions(encoder, dict(start.weights))
    taken: dict[str, Tensor] = {}
    for name, shape in {name: tensor.shape for name, tensor in own.items()}.items():
        found = given.get(name)
        if found is not None and found.shape != shape and found.ndim == 4 and found.shape[:2] == shape[:2]:
            # A convolution with another kernel size, that gives a smooth image about the same response.
            area = found.shape[2] * found.shape[3] / (shape[2] * shape[3])
            found = F.interpolate(found, shape[2:], mode="bicubic", antialias=True) * area
        if found is None or found.shape != shape:
            left.append(name)
            continue
        before = start.weights[name].shape
        if before != shape:
            resized.append(f"{name} {[*before]} -> {[*shape]}")
        taken[name] = found
    encoder.load_state_dict({**own, **taken})
    beside = sorted(start.weights.keys() - own.keys())
    words = f"starts from {start.name} ({start.info.backbone}): {len(taken)} of {len(own)} tensors taken"
    for what, names in (("resized", resized), ("left as they are at random", left), ("not used", beside)):
        words += f"; {what}: {', '.join(names[:3])}" * bool(names) + f" and {len(names) - 3} more" * (len(names) > 3)
    return [words]


def freeze(network: Siamese, stages: int) -> list[str]:
    """The stem and the first stages (blocks of a transformer) stand still, their batch norms and drops too, in place.
    Raises BadInput: the encoder has no so many, with one left to train."""
    from timm.models import group_parameters

    encoder: Any = network.encoder
    if not hasattr(encoder, "group_matcher"):
        raise BadInput(f"--freeze is {stages}, but {type(encoder).__name__} does not say what its stages are.")
    stage_of = group_parameters(encoder, encoder.group_matcher(coarse=True), reverse=True)
    numbers = sorted({*stage_of.values()})
    if not 1 <= stages < len(numbers) - 1:
        raise BadInput(f"--freeze is {stages}: 1 to {len(numbers) - 2} stages, so that one is left to train.")
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(stage_of[name] > numbers[stages])
    still = [name for name, part in encoder.named_modules() if (own := [*part.parameters()])
             and not any(p.requires_grad for p in own)]  # fmt: skip
    for tower in filter(None, (network.encoder, network.target_encoder)):
        for name in still:
            tower.get_submodule(name).eval()
    count = sum(p.numel() for p in encoder.parameters() if not p.requires_grad)
    return [f"the stem and {stages} of {len(numbers) - 1} stages stand still: {count / 1e6:.2g} M parameters"]
