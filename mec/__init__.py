"""mec: learn image encoders from unlabelled images by maximum entropy coding (MEC, NeurIPS 2022).

The public names stand in `__init__.pyi`. They are loaded when they are first used, so that `import mec` and
`mec --help` stay light.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
