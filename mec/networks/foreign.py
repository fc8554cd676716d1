"""Weights that others have published or trained: which tensors of a file are the backbone's, and of which backbone.

No list of projects decides: in a file's tensors, however nested and prefixed, a backbone is where the names of one are.
Nothing is unpickled but tensors, plain values, `argparse.Namespace` and numpy's scalars, by torch's own list of names.
"""

import argparse
import contextlib
import io
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from mec.errors import BadInput, plain
from mec.networks.encoder_file import check_weights
from mec.runtime.files import first_line

# Blocks per stage, and whether they are bottlenecks -> torchvision's name.
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((1, 1, 1, 1), False): "resnet10", ((2, 2, 2, 2), False): "resnet18", ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50", ((3, 4, 23, 3), True): "resnet101", ((3, 8, 36, 3), True): "resnet152",
}  # fmt: skip
VITS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}  # by width
SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}  # lightly's ResNets
ANCHORS = ("layer1.0.conv1.weight", "4.0.conv1.weight", "patch_embed.proj.weight")  # a backbone begins where one is
# First words of what is beside a backbone in the same module.
HEADS = (
    "fc", "head", "heads", "classifier", "projector", "projection_head", "projection", "prototypes", "predictor",
    "prediction_head", "mask_token", "decoder", "linear", "queue", "queue_ptr",
)  # fmt: skip
WRAPPERS = ("state_dict", "model", "module", "_orig_mod", "net", "")
LATER = ("student", "momentum", "target", "encoder_k", "ema")  # taken where there is nothing else
DEEPEST = 24  # words of the names of dictionaries in dictionaries
LAYOUTS = {  # of a file that fits nothing, the nearest: by words in its names
    "the official MEC, SimSiam (module.encoder.)": ("module.encoder", "predictor"),
    "MoCo v2 (module.encoder_q.)": ("encoder_q", "queue"),
    "MoCo v3 (module.base_encoder.)": ("base_encoder", "momentum_encoder"),
    "SwAV (module., prototypes)": ("prototypes", "projection_head"),
    "DINO (teacher.backbone.)": ("teacher", "student", "dino"),
    "Barlow Twins, VICReg (module.backbone.)": ("module.backbone", "projector"),
    "BYOL (online_encoder.net.)": ("online", "target"),
    "VISSL (trunk._feature_blocks.)": ("trunk", "_feature_blocks", "classy_state_dict"),
    "MMSelfSup, solo-learn, lightly (backbone.)": ("backbone", "neck"),
    "a vision transformer of timm (blocks.0.attn.qkv.)": ("blocks", "patch_embed", "cls_token", "attn.qkv"),
    "a vision transformer of transformers, which timm names otherwise": ("encoder.layer", "embeddings.", "attention"),
    "a torchvision ResNet (layer1.0.conv1.)": ("layer1", "conv1", "bn1"),
}  # fmt: skip


@dataclass(frozen=True)
class Foreign:
    """The tensors of a file's backbone, by their names below its prefix, and what is said about them."""

    path: Path
    tensors: dict[str, Tensor]
    prefix: str
    told: tuple[str, ...]


def safe_globals() -> list[Any]:
    """What torch may build beside tensors and plain containers: it holds values and does nothing."""
    scalar: Any = getattr(np, "_core", None) or np.core
    kinds = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdSU"}
    named = [(scalar.multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [argparse.Namespace, np.dtype, *kinds, *named]


def read_state(path: Path) -> dict[str, Tensor]:
    """All the tensors in a file, by their names with those of the dictionaries around them.
    Raises BadInput: not readable without unpickling, or no tensor in it."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(safe_globals()):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken and foreign files fail in many ways
        named = re.search(r"GLOBAL ([\w.]+)|global `?([\w.]+)", str(error))
        holds = f"holds a {next(filter(None, named.groups()))}" if named else first_line(error)[:120]
        raise BadInput(
            f"{path}: cannot be read ({plain(holds)}). It is cut off, or holds pickled code; tensors, plain values, "
            "argparse.Namespace and numpy's scalars are read here (weights_only), nothing is unpickled."
        ) from error
    return dict(_flat(state, set()))


def _flat(state: Any, seen: set[int], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of nested dictionaries, each of which is looked into once, however often it stands there."""
    if isinstance(state, Tensor) and prefix:
        yield prefix, state
    elif isinstance(state, Mapping) and id(state) not in seen and prefix.count(".") < DEEPEST:
        seen.add(id(state))
        for key, value in state.items():
            yield from _flat(value, seen, f"{prefix}.{key}" if prefix else str(key))


def read_backbone(path: Path, encoder: nn.Module | None = None, part: str = "") -> Foreign:
    """The tensors of a file that are a backbone's: the encoder's, by its names, or any that is known.

    Of several (a student and a teacher) the one that its method evaluates, or the one with `part` in its prefix.

    Raises:
        BadInput: not readable without unpickling, or no backbone in it: names its first keys and the nearest layout."""
    state = read_state(path)
    names = [*encoder.state_dict()] if encoder is not None else []
    anchors = (*names[:1], *ANCHORS)
    found = dict.fromkeys(n.removesuffix(a) for n in state for a in anchors if n == a or n.endswith(f".{a}"))
    below = {prefix: {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)} for prefix in found}
    if names:
        own = {*names}
        fitting = {prefix: len(own & renamed(tensors).keys()) for prefix, tensors in below.items()}
        below = {p: t for p, t in below.items() if fitting[p] and 2 * fitting[p] >= max(fitting.values())}
    else:
        below = {p: t for p, t in below.items() if any("blocks." in n or n.startswith("layer1.") for n in renamed(t))}
    if not below:
        raise BadInput(nothing_known(path, state))
    there = [*below]
    if part:
        below = {prefix: tensors for prefix, tensors in below.items() if part in prefix}
        if not below:
            raise BadInput(f"{path}: no backbone with {part!r} in its prefix. There: {plain(', '.join(there))}.")
    prefix = min(below, key=lambda p: (_rank(p), len(p)))
    others = [p for p in there if p != prefix]
    told = f"{path.name}: {len(below[prefix])} tensors of {plain(prefix) or 'the file itself'}"
    left = Counter(  # by their first word that is no mere wrapper's
        next((word for word in name.split(".") if word not in WRAPPERS), name)
        for name in state if not name.startswith(prefix) and "optimizer" not in name
    )  # fmt: skip
    left.update(name.partition(".")[0] for name in below[prefix] if is_head(name) and name not in names)
    if left:
        told += "; left: " + ", ".join(f"{plain(word)} ({n})" for word, n in left.most_common(6))
    if others:
        told += f"; also there: {plain(', '.join(others))} (FILE@WORD takes the one with the word in it)"
    return Foreign(path, renamed(below[prefix]), prefix, (told,))


def _rank(prefix: str) -> int:
    """How late a backbone with this prefix is chosen: SSL's online network first, DINO's teacher before its student."""
    return 2 if any(word in prefix for word in LATER) else int("teacher" in prefix)


def is_head(name: str) -> bool:
    first = name.partition(".")[0]
    return first in HEADS or first.startswith("decoder")


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by torchvision's or timm's names, where lightly numbers the parts or DINOv2 chunks its blocks."""
    found = {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name): tensor for name, tensor in tensors.items()}
    first = found.get("0.weight")
    if first is not None and first.ndim == 4 and "4.0.conv1.weight" in found:
        parts = {name: name.partition(".") for name in found}
        found = {f"{SEQUENTIAL.get(a, a)}{dot}{b}": found[name] for name, (a, dot, b) in parts.items()}
    return found


def nothing_known(path: Path, state: Mapping[str, Tensor]) -> str:
    """The message about a file without a backbone that is known."""
    bare = [name for name in state if not is_head(name)]
    if not bare:
        return f"{path}: no tensors of a backbone in it; a state dict, or a dict with one, is read."
    words = " ".join(state)
    near = max(LAYOUTS, key=lambda layout: sum(word in words for word in LAYOUTS[layout]) / len(LAYOUTS[layout]))
    return (
        f"{path}: not the tensors of a torchvision ResNet or of a vision transformer as timm names it "
        f"({plain(', '.join(bare[:3]))[:200]}, ...). Nearest to {near}. For another backbone give its timm name "
        f"with the file: NAME:{path}"
    )


def architecture(found: Foreign) -> tuple[str, bool, int | None]:
    """The backbone's name, whether it has the stem for small images, and the side of its images, px, where that shows.
    Raises BadInput: none that can be built here by name."""
    path, weights = found.path, found.tensors
    if "patch_embed.proj.weight" in weights and weights["patch_embed.proj.weight"].ndim == 4:
        return _transformer(found)
    stages = (f"layer{stage}." for stage in range(1, 5))
    blocks = tuple(len({name.split(".")[1] for name in weights if name.startswith(stage)}) for stage in stages)
    name = RESNETS.get((blocks, "layer1.0.conv3.weight" in weights))
    first = weights.get("conv1.weight")
    if name is None or first is None or first.ndim != 4 or first.shape[0] != 64:
        raise BadInput(nothing_known(path, weights))
    return name, first.shape[-1] == 3, None


def _transformer(found: Foreign) -> tuple[str, bool, int | None]:
    import timm

    weights = found.tensors
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    kind = VITS.get(width, f"width {width}")
    if "base_encoder" in found.prefix and kind == "small":
        raise BadInput(f"{found.path}: MoCo v3's ViT-S has 12 heads, timm's vit_small 6: no name here builds it.")
    registers = "reg4_" if {"register_tokens", "reg_token"} & weights.keys() else ""
    if "storage_tokens" in weights:
        plus = "_plus" if "blocks.0.mlp.w3.weight" in weights and width < 1024 else ""
        bias = "_qkvb" if bool(weights.get("blocks.0.attn.qkv.bias", torch.zeros(1)).any()) else ""
        name = f"vit_{kind}{plus}_patch{patch}_dinov3{bias}"
    elif "blocks.0.ls1.gamma" in weights:
        name = f"vit_{kind}_patch{patch}_{registers}dinov2"
    else:
        name = f"vit_{kind}_patch{16 if patch == 4 else patch}_224"
    if not timm.is_model(name):
        words = f"a vision transformer of width {width} with patches of {patch} px, which has no name in timm ({name})"
        raise BadInput(f"{found.path}: {words}. Give one that it fits: NAME:{found.path}")
    positions = weights.get("pos_embed")
    side = None if positions is None or positions.ndim != 3 else math.isqrt(positions.shape[1]) * patch  # 1 + g x g
    return name, patch == 4, side


def fit(path: Path, encoder: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Load a backbone's tensors, each of them; returns what was changed. Raises BadInput: they do not fit."""
    own, weights, told = encoder.state_dict(), dict(weights), list[str]()
    given = weights.get("pos_embed")
    convert = getattr(sys.modules[type(encoder).__module__], "checkpoint_filter_fn", None)
    if convert is not None and own.keys() - weights.keys():
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):  # of another family: told below
            weights = dict(convert(dict(weights), encoder))
    # Old files lack the counters; of a head only what the backbone has too is kept (ConvNeXt's last norm).
    counters = {k: v for k, v in own.items() if k.endswith("num_batches_tracked")}
    kept = {k: v for k, v in weights.items() if k in own or not is_head(k)}
    weights = with_own_positions(encoder, {**counters, **kept})
    if given is not None and given.ndim == 3 and "pos_embed" in weights:
        before, now = (math.isqrt(tensor.shape[1]) for tensor in (given, weights["pos_embed"]))  # beside a class token
        told += [f"position embeddings resampled: {before} x {before} -> {now} x {now}"] * (before != now)
    check_weights(path, encoder, weights)
    encoder.load_state_dict(weights)
    return told


def with_own_positions(encoder: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A vision transformer's position embeddings, resampled to its own grid where the weights are of another size."""
    wanted, found = encoder.state_dict().get("pos_embed"), weights.get("pos_embed")
    if wanted is None or found is None or found.shape == wanted.shape or found.ndim != 3:
        return weights
    from timm.layers import resample_abs_pos_embed

    before = 0 if getattr(encoder, "no_embed_class", False) else encoder.num_prefix_tokens
    grid = [*encoder.patch_embed.grid_size]
    if math.isqrt(found.shape[1] - before) ** 2 != found.shape[1] - before:  # no square: told as what does not fit
        return weights
    return {**weights, "pos_embed": resample_abs_pos_embed(found, grid, None, before, "bicubic")}


def local_weights(name: str) -> Path:
    """The file of weights that torchvision or timm has in its cache for a name, with or without a tag of weights.

    Raises:
        FileNotFoundError: none; says where it was looked for."""
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

        files = filter(None, (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin"))
        hits = (try_to_load_from_cache(config.hf_hub_id, file) for file in files)
        found = next((Path(hit) for hit in hits if isinstance(hit, str)), None)
        looked.append(f"the Hugging Face cache of {config.hf_hub_id}")
    if found is None:
        raise FileNotFoundError(
            f"{name}: no weights on this machine (looked for {', '.join(looked) or 'none published'}). Give a file as "
            f"{name}:FILE, or random:{name} for the untrained network; nothing is fetched here."
        )
    return found
