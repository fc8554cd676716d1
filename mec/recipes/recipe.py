"""What a recipe is made of: frozen dataclasses, the one home of every default; changing and storing them, with checks.

No torch here: the command line reads recipes before it loads anything heavy.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mec.errors import BadInput, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Linear:
    """A setting that moves in a straight line over the first epochs, then stays."""

    start: float
    end: float
    epochs: float

    def __post_init__(self) -> None:
        if not 0 < self.epochs < math.inf:
            raise BadInput(f"a setting moves from {self.start} to {self.end} in {self.epochs} epochs: above 0.")


Hidden = Literal["bn-relu", "relu", "gelu", "bn-gelu"]  # what follows each hidden linear layer of a projector


Output = Literal["bn", "bn-affine", "linear", "linear-bias"]  # its last layer; bn has no affine


Target = Literal["momentum", "stop-gradient"]


# Of an objective: "guaranteed" is a distortion, the next three say how embeddings are normalised.
Setting = int | float | Literal["guaranteed", "l2", "bn", "both"] | Linear | None


@dataclass(frozen=True)
class View:
    """How one view of an image is made, in this order: crop, flip, affine, colour, grey, blur, solarise, noise."""

    size: int = 224  # px, square
    scale: tuple[float, float] = (0.08, 1.0)  # share of the image's area that a crop covers
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of the crop
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    flip: float = 0.5  # probability, as are jitter, grey, blur and solarize
    rotate: float = 0.0  # degrees, uniform in ±rotate
    shear: float = 0.0  # degrees
    shift: float = 0.0  # share of the side, uniform in ±shift
    zoom: float = 0.0  # uniform in 1 ± zoom
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1  # turns
    grey: float = 0.2
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # px
    solarize: float = 0.0
    noise: float = 0.0  # standard deviation, pixel values in [0, 1]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # ImageNet's
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    copies: int = 1  # how many views of this kind


@dataclass(frozen=True)
class Network:
    """Backbone by name, heads by the widths of their layers."""

    backbone: str = "resnet18"  # any timm name, or one of mec.encoders.SMALL
    small_stem: bool | None = None  # 3x3 first convolution, no max-pool; None: where views are under 64 px
    zero_init: bool = True  # ResNets: the last batch norm of each block starts at zero; SMALL ones always at one
    projector: tuple[int, ...] = (2048, 2048, 2048)  # () for none; the last is the embedding size
    projector_hidden: Hidden = "bn-relu"
    projector_output: Output = "bn"
    prototypes: int = 0  # above 0: the projector ends in cosines with so many trained unit rows (DINO)
    predictor: tuple[int, ...] = ()  # () for none; hidden widths, then the embedding size
    predictor_bias: bool = True  # of its last layer
    views_together: bool = False  # one forward pass for all views of a size, and one for the heads: shared statistics
    target: Target | None = None
    target_momentum: float = 0.996  # at the start; to target_momentum_end by cosine
    target_momentum_end: float = 1.0


@dataclass(frozen=True)
class Optimizer:
    """lr = base_lr x batch / 256, linear warm-up, cosine to end_lr x batch / 256; per step."""

    name: Literal["sgd", "lars", "adamw"] = "sgd"
    base_lr: float = 0.5
    end_lr: float = 0.0
    warmup_epochs: float = 0.0  # never more than a tenth of the run
    warmup_lr: float = 0.0  # where the warm-up starts, x batch / 256
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_1d: bool = True  # also biases and norms; with LARS, False leaves them without decay and adaptation
    base_lr_1d: float | None = None  # of biases and norms, in the same schedule; None: base_lr
    predictor_lr_constant: bool = False  # SimSiam: the predictor's rate stays at base_lr x batch / 256
    trust: float = 0.001  # LARS
    trust_clip: bool = False  # LARS: the layer-wise rate is never above the global one
    clip: float = 0.0  # largest gradient norm of a single tensor; 0: any
    freeze_prototypes_epochs: float = 0.0  # prototypes (SwAV, DINO) do not move so long


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is learned from given images."""

    source: str
    method: str = "mec-joint"
    settings: Mapping[str, Setting] = field(default_factory=dict)  # over those of the method
    views: tuple[View, ...] = (View(blur=1.0), View(blur=0.1, solarize=0.2))
    network: Network = Network()
    optimizer: Optimizer = Optimizer()
    batch_size: int = 256  # global
    micro_batch_size: int | None = None  # rows a forward pass, a rank; None: all. Exact but for BN statistics
    epochs: int = 100
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the device has units for it
    expects: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positive = {"batch_size": self.batch_size, "epochs": self.epochs, "optimizer.base_lr": self.optimizer.base_lr}
        for name, value in positive.items():
            if not value > 0 or not math.isfinite(value):
                raise BadInput(f"{name} is {value}: it is above 0.")
        for name, value in asdict(self.optimizer).items():
            if isinstance(value, (int, float)) and not value >= 0:
                raise BadInput(f"optimizer.{name} is {value}: it is 0 or above.")
        if self.micro_batch_size is not None and not 0 < self.micro_batch_size <= self.batch_size:
            raise BadInput(f"micro_batch_size is {self.micro_batch_size}: from 1 to batch_size, {self.batch_size}.")
        if sum(view.copies for view in self.views) < 2 and self.method != "supervised":
            raise BadInput("the recipe has one view: agreement needs at least two.")
        for view in self.views:
            ranges = {
                "scale": view.scale,
                "ratio": view.ratio,
                **({"blur_sigma": view.blur_sigma} if view.blur else {}),
            }
            for name, (low, high) in ranges.items():
                if not 0 < low <= high < math.inf:
                    raise BadInput(f"views.{name} is {[low, high]}: two numbers above 0, the larger one last.")
            if view.size < 1 or view.copies < 0:
                raise BadInput(f"a view has size {view.size}, {view.copies} copies: size >= 1, copies >= 0.")
            if not min(view.std) > 0:
                raise BadInput(f"views.std is {[*view.std]}: pixels are divided by it, so all three are above 0.")
            chances = {name: getattr(view, name) for name in ("flip", "jitter", "grey", "blur", "solarize")}
            for name, value in chances.items():
                if not 0 <= value <= 1:
                    raise BadInput(f"views.{name} is {value}: it is a probability, from 0 to 1.")


def changed(recipe: Recipe, settings: list[str] | tuple[str, ...]) -> Recipe:
    """The recipe with KEY=VALUE changes: `optimizer.base_lr=0.3`, `views.flip=0` (all views), `views.0.flip=0`.

    Raises:
        BadInput: not KEY=VALUE, a key the recipe lacks (with the nearest right one), or a value of another type.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise BadInput(f"--set got {setting!r}: write KEY=VALUE, for example --set optimizer.base_lr=0.3")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = {"None": None, "True": True, "False": False}.get(text, text)
        recipe = _replaced(recipe, key.strip().split("."), value, key)
    return recipe


def _replaced(node: Any, path: list[str], value: Any, key: str) -> Any:
    if not path:  # the caller, who knows the type hint, checks the value
        return value
    name, rest = path[0], path[1:]
    if isinstance(node, tuple):  # views: one by number, or all
        if name.isdigit():
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
    hint = get_type_hints(type(node))[name]
    whole: Any = node
    return dataclasses.replace(whole, **{name: fitted(value, hint, key)})


def fitted(value: Any, hint: Any, key: str) -> Any:
    """The value as the type hint wants it (a list as a tuple, a dict as a dataclass), or an error naming the key."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return fitted(value, option, key)
            except BadInput:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            variadic = len(arguments) == 2 and arguments[1] is Ellipsis
            hints = [arguments[0]] * len(value) if variadic else arguments
            if len(hints) == len(value):
                return tuple(fitted(v, h, key) for v, h in zip(value, hints))
    elif origin is not None and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {k: fitted(v, arguments[1], f"{key}.{k}") for k, v in value.items()}
    elif dataclasses.is_dataclass(hint):
        kind_of: Any = hint
        if isinstance(value, kind_of):
            return value
        if isinstance(value, Mapping):
            return from_dict(kind_of, value, key)
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif hint is type(None):
        if value is None:
            return None
    elif isinstance(value, hint):
        return value
    raise BadInput(f"{key} is {value!r}: it takes {in_words(hint)}.")


def in_words(hint: Any) -> str:
    """A type hint as a reader writes it.

    >>> in_words(int | Literal["all"] | None)
    "int | 'all' | None"
    >>> in_words(tuple[int, ...]), in_words(tuple[float, float])
    ('[int, ...]', '[float, float]')
    """
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(in_words(option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return " | ".join(repr(option) for option in get_args(hint))
    if get_origin(hint) is tuple:  # as JSON has it
        inner = ("..." if option is Ellipsis else in_words(option) for option in get_args(hint))
        return f"[{', '.join(inner)}]"
    if hint is type(None):
        return "None"
    return getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint).replace("typing.", "")


def from_dict(kind: type[T], values: Mapping[str, Any], key: str = "recipe") -> T:
    """A dataclass from what `dataclasses.asdict` and JSON made of it."""
    hints = get_type_hints(kind)
    unknown = [name for name in values if name not in hints]
    if unknown:
        raise BadInput(f"{key} has no {unknown[0]!r}. {nearest(unknown[0], hints)}")
    return kind(**{name: fitted(value, hints[name], f"{key}.{name}") for name, value in values.items()})
