"""For mkdocs: functions with the options that `mec.runtime.flags.takes` gives them, as a caller has them."""

from __future__ import annotations

import inspect
import re
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import griffe


class Written(griffe.Extension):
    """Docstrings with what is written into them when they are loaded; options as keywords, in place of a dataclass."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        if func.docstring is None or not any(word in func.docstring.value for word in ("{options}", "{protocols}")):
            return
        function: Any = griffe.dynamic_import(func.path)
        func.docstring.value = inspect.getdoc(function) or ""
        taken = typing.get_type_hints(inspect.unwrap(function)).get("options")
        if is_dataclass(taken) and "options" in func.parameters:
            own = func.parameters["options"]
            func.parameters = griffe.Parameters(*(each for each in func.parameters if each is not own))
            for field in (each for each in fields(taken) if each.name not in func.parameters):
                default = None if field.default is MISSING else repr(field.default)
                hint = re.sub(r"Annotated\[(.*?), (arg|[A-Z]).*", r"\1", str(field.type))
                kind = griffe.ParameterKind.keyword_only
                func.parameters.add(griffe.Parameter(field.name, kind=kind, default=default, annotation=hint))
