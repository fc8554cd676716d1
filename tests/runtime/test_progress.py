"""What is printed is what was given: names of files and classes may hold brackets and colons."""

from __future__ import annotations

import io

import torch
from rich.table import Table

from mec.data.decoding import Skipped
from mec.evaluation.features import Features, tell_skipped
from mec.runtime.progress import Console

NAMES = ("[bold]red[/bold]", "an [old] cell", "[/]", "x[/y].jpg", "[link=http://a]b", "\\[c]", "[0, 1]", ":smile:")


def test_names_are_no_tags_wherever_they_are_printed():
    for name in NAMES:
        console = Console(file=io.StringIO(), width=200)
        console.print(f"class {name}", highlight=False)
        table = Table(name, title=name)
        table.add_row(name)
        console.print(table)
        with console.status(f"reading {name}") as shown:
            console.print(shown.renderable)
        tell_skipped([Features(torch.zeros(1, 2), torch.zeros(1), (Skipped(name, f"no {name}"),))], console)
        assert console.file.getvalue().count(name) == 7, name
