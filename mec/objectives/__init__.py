"""The formulas of all methods, by name: `mec.objectives.vicreg(online, target)`. All names: `__init__.pyi`.

Loaded when first used, so that the tables of methods are read without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
