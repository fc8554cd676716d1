"""`mec table`, `mec figure`, `mec suite` and `mec report`: the paper's tables and figures, and pages to look at."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from mec.cli.command import Command
from mec.reports.options import Reporting
from mec.reports.options import Suite as Measuring
from mec.runtime.flags import File, Place


@dataclass(frozen=True)
class Table(Command):
    """The paper's tables: results of any number of runs beside the published rows; and what a suite found."""

    which: Positional[Literal["7", "8", "figure1", "suite"]]
    """The paper's table of that number, its Figure 1 in numbers, or the table of a suite."""
    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN")] = ()
    """Run folders, or results.jsonl files; none: the published rows alone. Of suite: its folder; none: runs/suite."""
    format: Literal["markdown", "latex", "html"] = "markdown"
    """How to write it."""
    out: File = None
    """A file, in place of the screen."""

    def run(self) -> None:
        from mec.reports import figure1, suite, tables
        from mec.runtime.files import write_text

        made = {"7": tables.table_7, "8": tables.table_8, "figure1": figure1.table_1, "suite": suite.suite_table}
        text = tables.written(made[self.which](self.runs), self.format)
        if self.out is None:
            print(text, end="")
            return
        out = Path(self.out)
        write_text(out, text)
        print(f"Written: {out}")


@dataclass(frozen=True)
class Figure(Command):
    """Make a figure of the paper from measurements taken here."""

    which: Positional[Literal["transfer"]]
    """The paper's Figure 1."""
    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN", help_behavior_hint="")]
    """Run folders, or results.jsonl files."""
    out: Place = Path("runs/figures/transfer.png")
    """The picture; an SVG and the figures as JSON are written beside it."""

    def run(self) -> None:
        from mec.reports.figure1 import of_runs

        print("Written: " + ", ".join(map(str, of_runs(self.runs, Path(self.out)))))


@dataclass(frozen=True, kw_only=True)
class Suite(Measuring, Command):
    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN", help_behavior_hint="")]
    """What `mec evaluate` takes: run folders, files, names."""


@dataclass(frozen=True, kw_only=True)
class Report(Reporting, Command):
    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN", help_behavior_hint="")]
    """Run folders, or the folder of a comparison or a suite."""

    def run(self) -> None:
        print(f"Written: {super().run()}")
