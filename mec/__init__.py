"""mec: learn image encoders from unlabelled images by maximum entropy coding (MEC, NeurIPS 2022).

Names are loaded when they are first used, so that `import mec` and `mec --help` stay light.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mec.version import __version__

if TYPE_CHECKING:
    from mec.networks.encoder_file import load_encoder
    from mec.objectives.coding import coding_length
    from mec.objectives.mec import joint_coding, maximum_entropy_coding
    from mec.objectives.methods import METHODS
    from mec.objectives.table import OBJECTIVES
    from mec.recipes.recipe import Recipe
    from mec.recipes.table import RECIPES
    from mec.training.pretrain import pretrain

_HOME = {
    "METHODS": "objectives.methods",
    "OBJECTIVES": "objectives.table",
    "RECIPES": "recipes.table",
    "Recipe": "recipes.recipe",
    "coding_length": "objectives.coding",
    "joint_coding": "objectives.mec",
    "load_encoder": "networks.encoder_file",
    "maximum_entropy_coding": "objectives.mec",
    "pretrain": "training.pretrain",
}

__all__ = [
    "METHODS",
    "OBJECTIVES",
    "RECIPES",
    "Recipe",
    "__version__",
    "coding_length",
    "joint_coding",
    "load_encoder",
    "maximum_entropy_coding",
    "pretrain",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mec' has no attribute {name!r}")
    module = importlib.import_module(f"mec.{_HOME[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
