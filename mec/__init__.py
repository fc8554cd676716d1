"""mec: learn image encoders from unlabelled images by maximum entropy coding (MEC, NeurIPS 2022).

Names are loaded when they are first used, so that `import mec` and `mec --help` stay light.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mec.version import __version__

if TYPE_CHECKING:
    from mec.checkpoint import load_encoder
    from mec.coding import coding_length
    from mec.objectives import METHODS, OBJECTIVES, joint_coding, maximum_entropy_coding
    from mec.pretraining import pretrain
    from mec.recipe import Recipe
    from mec.recipes import RECIPES

_HOME = {
    "METHODS": "objectives",
    "OBJECTIVES": "objectives",
    "RECIPES": "recipes",
    "Recipe": "recipe",
    "coding_length": "coding",
    "evaluate": "evaluate",
    "joint_coding": "objectives",
    "load_encoder": "checkpoint",
    "maximum_entropy_coding": "objectives",
    "pretrain": "pretraining",
}

__all__ = [
    "METHODS",
    "OBJECTIVES",
    "RECIPES",
    "Recipe",
    "__version__",
    "coding_length",
    "evaluate",
    "joint_coding",
    "load_encoder",
    "maximum_entropy_coding",
    "pretrain",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mec' has no attribute {name!r}")
    module = importlib.import_module(f"mec.{_HOME[name]}")
    value = getattr(module, name, module)  # `evaluate` is a package, the others are names in a module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
