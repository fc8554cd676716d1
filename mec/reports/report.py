"""`mec.report`: the page of one run, of several, or of a comparison."""

from collections.abc import Sequence
from pathlib import Path

from mec.errors import BadInput
from mec.reports.options import Reporting
from mec.reports.suite import TABLE, suite_section
from mec.runtime.files import SETTINGS
from mec.runtime.flags import takes
from mec.training.page import REPORT, write_report


@takes(Reporting)
def report(runs: str | Path | Sequence[str | Path], options: Reporting) -> Path:
    """Write a page of runs: what was trained on what, how well, curves, maps before and after, neighbours, settings.

    Args:
        runs: a run folder, that of a comparison or of a suite, or several of them.
    {options}

    Returns:
        The page: one file, which asks for nothing from elsewhere.

    Raises:
        FileNotFoundError: no such folder.
        BadInput: not the folder of a run, or a damaged file in it; or a page that cannot be written."""
    given = [Path(run) for run in ([runs] if isinstance(runs, (str, Path)) else runs)]
    if not given:
        raise BadInput("no run was given: name at least one run folder.")
    suites = [suite_section(folder) for folder in given if (folder / TABLE).exists()]
    folders = list(dict.fromkeys(run for folder in given if not (folder / TABLE).exists() for run in runs_in(folder)))
    out = Path(options.out) if options.out else given[0] / REPORT if len(given) == 1 else Path(REPORT)
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        words = "a folder; a page is a file" if out.is_dir() else "a page is called NAME.html"
        raise BadInput(f"out is {out}: {words}.")
    if not out.parent.is_dir():
        raise BadInput(f"out is {out}: there is no folder {out.parent}. Make it first.")
    return write_report(folders, out, suites)


def runs_in(folder: Path) -> list[Path]:
    """The run folder itself; of a comparison its runs.
    Raises FileNotFoundError: no such folder. BadInput: neither of them."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such run folder.")
    if (folder / SETTINGS).exists():
        return [folder]
    found = sorted(path.parent for path in (folder / "runs").glob(f"*/{SETTINGS}"))
    if not found:
        raise BadInput(f"{folder}: neither the folder of a run (no {SETTINGS} in it) nor of a comparison or suite.")
    return found
