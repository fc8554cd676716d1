"""For mkdocs: docstrings with the options that `mec.runtime.flags.takes` writes into them, as help() has them."""

from __future__ import annotations

import inspect
from typing import Any

import griffe


class Written(griffe.Extension):
    """Where a docstring has a place for its options or protocols, the one of the function itself."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        if func.docstring is not None and any(word in func.docstring.value for word in ("{options}", "{protocols}")):
            func.docstring.value = inspect.getdoc(griffe.dynamic_import(func.path)) or ""
