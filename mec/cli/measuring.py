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

    more = """\
  mec table 7 runs/imagenet-mec                        ImageNet, linear probing
  mec table 8 runs/*/ --format latex --out table8.tex  transfer to eleven data sets
  mec table figure1 runs/one runs/other                the figures of Figure 1, what was measured alike, mean ranks
  mec table suite runs/suite                           what `mec suite` found, and why figures are missing

The best figure of a column is bold, the second best italic (underlined in LaTeX and HTML); what was not measured is
shown as missing, and quick looks (--limit) are left out. Of several results for one cell the latest counts."""

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

    more = """\
  mec figure transfer runs/one runs/other             Figure 1: image and video tasks, from what was measured

Radars and mean ranks of encoders side by side, from their results.jsonl. Figures 4 and 6 are made by distortion.py and
series.py of the repository's benchmarks/."""

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
    more = """\
  mec suite runs/a --data digits --preset quick                what there is without any data set
  mec suite runs/a random:resnet50 --data imagenet,cifar10/ --data-root /data --dry-run
  mec suite runs/a --data-root /data --only voc,coco --budget 8

The plan comes first: what runs, about how long, and what is missing and where it belongs. A part that fails is told,
the others go on, and the exit code is 1. Stopped, the same command goes on with the part that it was at. Under torchrun
each process takes its share of the parts."""

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN", help_behavior_hint="")]
    """What `mec evaluate` takes: run folders, files, names."""


@dataclass(frozen=True, kw_only=True)
class Report(Reporting, Command):
    more = """\
  mec report runs/digits-digits                    report.html in the run folder, as training leaves it
  mec report runs/one runs/other --out both.html   runs side by side
  mec report runs/compare-digits                   all runs of a comparison
  mec report runs/suite runs/one                   the table of a suite and Figure 1, then a run

The page is one file for any browser; nothing in it comes from elsewhere, and nothing leaves it. What `mec evaluate` has
added to a run since it was trained is in it, too."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN", help_behavior_hint="")]
    """Run folders, or the folder of a comparison or a suite."""

    def run(self) -> None:
        print(f"Written: {super().run()}")
