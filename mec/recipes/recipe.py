"""What a recipe is made of: frozen dataclasses, the one home of every default and of what each value may be.

No torch here: the command line reads recipes before it loads anything heavy.
"""

import ast
import contextlib
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from mec.errors import BadInput, nearest
from mec.recipes.fields import Checked, fitted, hints_of
from mec.runtime.ranges import Count, Finite, NotNegative, Positive, Range, Share, Whole


@dataclass(frozen=True)
class Linear(Checked):
    """A setting that moves in a straight line over the first epochs, then stays."""

    key = "Linear"
    start: Finite
    end: Finite
    epochs: Positive


Hidden = Literal["bn-relu", "relu", "gelu", "bn-gelu"]  # what follows each hidden linear layer of a projector
Output = Literal["bn", "bn-affine", "linear", "linear-bias"]  # its last layer; bn has no affine
Target = Literal["momentum", "stop-gradient"]
Interpolation = Literal["bicubic", "bilinear"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB in [0, 1]

# Of an objective: "guaranteed" is a distortion, the next three say how embeddings are normalised.
Setting = bool | int | Finite | Literal["guaranteed", "l2", "bn", "both"] | Linear | None


@dataclass(frozen=True)
class View(Checked):
    """How one view of an image is made, in this order: crop, flip, upend, turn, affine, colour, grey, blur, solarize,
    noise, erase."""

    key = "views"
    size: Count = 224  # px, square
    scale: tuple[Positive, Positive] = (0.08, 1.0)  # share of the image's area that a crop covers
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)  # width / height of the crop
    interpolation: Interpolation = "bicubic"
    flip: Share = 0.5  # probability, as are upend, turn, jitter, grey, blur, solarize and erase
    upend: Share = 0.0  # upside down
    turn: Share = 0.0  # by a quarter; with flip and upend at 0.5 each, all eight positions are equally likely
    rotate: NotNegative = 0.0  # degrees, uniform in ±rotate
    shear: Annotated[float, Range(float, 0, 90, below=True)] = 0.0  # degrees
    shift: NotNegative = 0.0  # share of the side, uniform in ±shift
    zoom: Annotated[float, Range(float, 0, 1, below=True)] = 0.0  # uniform in 1 ± zoom
    jitter: Share = 0.8
    brightness: NotNegative = 0.4
    contrast: NotNegative = 0.4
    saturation: NotNegative = 0.2
    hue: Annotated[float, Range(float, 0, 0.5)] = 0.1  # turns
    grey: Share = 0.2
    blur: Share = 0.0
    blur_sigma: tuple[NotNegative, NotNegative] = (0.1, 2.0)  # px
    solarize: Share = 0.0
    noise: NotNegative = 0.0  # standard deviation, pixel values in [0, 1]
    erase: Share = 0.0  # a rectangle of 2 to 33 % of the view becomes its mean colour
    mean: tuple[Finite, Finite, Finite] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD
    copies: Whole = 1  # how many views of this kind

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scale", "ratio", *(["blur_sigma"] if self.blur else [])):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise BadInput(f"views.{name} is {[low, high]}: two numbers above 0, the larger one last.")


@dataclass(frozen=True)
class Network(Checked):
    """Backbone by name, heads by the widths of their layers."""

    key = "network"
    backbone: str = "resnet18"  # any timm name, or one of mec.networks.backbones.SMALL
    small_stem: bool | None = None  # 3x3 first convolution, no max-pool; None: where views are under 64 px
    zero_init: bool = True  # ResNets: the last batch norm of each block starts at zero; SMALL ones always at one
    freeze_patches: bool = False  # the patch projection of a transformer stays as it was drawn (MoCo v3: stabler)
    projector: tuple[Count, ...] = (2048, 2048, 2048)  # () for none; the last is the embedding size
    projector_hidden: Hidden = "bn-relu"
    projector_output: Output = "bn"
    prototypes: Whole = 0  # above 0: the projector ends in cosines with so many trained unit rows (DINO)
    predictor: tuple[Count, ...] = ()  # () for none; hidden widths, then the embedding size
    predictor_bias: bool = True  # of its last layer
    views_together: bool = False  # one forward pass for all views of a size, and one for the heads: shared statistics
    target: Target | None = None
    target_momentum: Share = 0.996  # at the start; to target_momentum_end by cosine
    target_momentum_end: Share = 1.0


@dataclass(frozen=True)
class Optimizer(Checked):
    """lr = base_lr x batch / 256, linear warm-up, cosine to end_lr x batch / 256; per step."""

    key = "optimizer"
    name: Literal["sgd", "lars", "adamw", "muon"] = "sgd"
    base_lr: Positive = 0.5
    end_lr: NotNegative = 0.0
    warmup_epochs: NotNegative = 0.0  # never more than a tenth of the run
    warmup_lr: NotNegative = 0.0  # where the warm-up starts, x batch / 256
    momentum: Annotated[float, Range(float, 0, 1, below=True)] = 0.9
    weight_decay: NotNegative = 1e-4
    decay_1d: bool = True  # also biases and norms; with LARS, False leaves them without decay and adaptation
    base_lr_1d: NotNegative | None = None  # of biases and norms, in the same schedule; None: base_lr
    base_lr_kernels: Positive = 0.1  # Muon: of kernels, in the same schedule, as a share of their norm; the rest is SGD
    predictor_lr_constant: bool = False  # SimSiam: the predictor's rate stays at base_lr x batch / 256
    trust: Positive = 0.001  # LARS
    trust_clip: bool = False  # LARS: the layer-wise rate is never above the global one
    clip: NotNegative = 0.0  # largest gradient norm of a single tensor; 0: any
    average: Annotated[float, Range(float, 0, 1, below=True)] = 0.0  # above 0: the stored encoder is a running average
    # of the trained one, of which this share is kept at each step
    freeze_prototypes_epochs: NotNegative = 0.0  # prototypes (SwAV, DINO) do not move so long


@dataclass(frozen=True)
class Recipe(Checked):
    """Everything that decides what is learned from given images."""

    source: str
    method: str = "mec-joint"
    settings: Mapping[str, Setting] = field(default_factory=dict)  # over those of the method
    views: tuple[View, ...] = (View(blur=1.0), View(blur=0.1, solarize=0.2))
    network: Network = Network()
    optimizer: Optimizer = Optimizer()
    batch_size: Count = 256  # global
    micro_batch_size: Count | None = None  # rows a forward pass, a rank; None: all. Exact but for BN statistics
    epochs: Count = 100
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the device has units for it
    expects: Mapping[str, Finite] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise BadInput(f"micro_batch_size is {self.micro_batch_size}: from 1 to batch_size, {self.batch_size}.")
        if sum(view.copies for view in self.views) < 2 and self.method != "supervised":
            raise BadInput("the recipe has one view: agreement needs at least two.")


def changed(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with KEY=VALUE changes: `optimizer.base_lr=0.3`, `views.flip=0` (all views), `views.0.flip=0`.
    Raises BadInput: not KEY=VALUE, a key the recipe lacks (with the nearest right one), or a value of another type."""
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise BadInput(f"--set got {setting!r}: write KEY=VALUE, for example --set optimizer.base_lr=0.3")
        recipe = _replaced(recipe, key.strip().split("."), value_of(text.strip()), key)
    return recipe


def value_of(text: str) -> Any:
    """What is meant by the text of a value: JSON, or a number or list as Python has them; else the text itself.

    >>> [value_of(text) for text in (".5", "1_000", "1e3", "[64, 32.]", "None", "nan", "adamw")]
    [0.5, 1000, 1000, [64, 32.0], None, 'nan', 'adamw']"""
    if text in ("None", "True", "False"):
        return ast.literal_eval(text)
    value: Any = text
    try:
        value = json.loads(text, parse_constant=str)  # NaN and Infinity stay words, which no number's field takes
    except (ValueError, RecursionError):
        if re.fullmatch(r"[-+.,_eE\d\s\[\]()]*\d[-+.,_eE\d\s\[\]()]*", text):
            with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                value = ast.literal_eval(text)
    whole = isinstance(value, float) and value.is_integer() and re.fullmatch(r"[+-]?\d+[eE]\+?\d\d?", text)
    return int(value) if whole else value


def _replaced(node: Any, path: list[str], value: Any, key: str) -> Any:
    if not path:  # the caller, who knows the type hint, checks the value
        return value
    name, rest = path[0], path[1:]
    if isinstance(node, tuple):  # views: one by number, or all
        if name.isdecimal():
            if int(name) >= len(node):
                raise BadInput(f"a recipe has no {key!r}: the last one is number {len(node) - 1}, the first 0.")
            return tuple(_replaced(v, rest, value, key) if i == int(name) else v for i, v in enumerate(node))
        return tuple(_replaced(v, path, value, key) for v in node)
    if isinstance(node, Mapping):
        if rest and not dataclasses.is_dataclass(node.get(name)):
            raise BadInput(f"a recipe has no {key!r}: {name} is a single value.")
        return {**node, name: _replaced(node.get(name), rest, value, key)}
    if not dataclasses.is_dataclass(node):
        raise BadInput(f"a recipe has no {key!r}: {node!r} is a single value.")
    names = [f.name for f in dataclasses.fields(node)]
    if name not in names:
        prefix = key[: len(key) - len(".".join(path))]
        raise BadInput(f"a recipe has no {key!r}. {nearest(name, names).replace(chr(39), chr(39) + prefix, 1)}")
    if rest:
        inner = getattr(node, name)
        if not dataclasses.is_dataclass(inner) and not isinstance(inner, (tuple, Mapping)):
            raise BadInput(f"a recipe has no {key!r}: {name} is a single value.")
        value, key = _replaced(inner, rest, value, key), key[: -len(".".join(rest)) - 1]
    hint = hints_of(type(node))[name]
    whole: Any = node
    return dataclasses.replace(whole, **{name: fitted(value, hint, key)})
