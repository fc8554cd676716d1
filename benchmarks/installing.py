"""What `pip install` brings, of this project and others, each in a fresh environment: seconds, MB on disk, packages.

    python benchmarks/installing.py --wheel dist/mec_ssl-0.2.0-py3-none-any.whl    minutes and 6 GB each
    python benchmarks/installing.py lightly --parts

Packages come from pip's own cache or index, whichever it finds: the seconds are those of this machine and its network.
docs/install.md has what was found.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from reporting import report
from rich.table import Column, Table

from mec.runtime.machine import machine

# What it measures in the new environment: all files of each distribution there, by its own list, in MB.
SIZES = """
import importlib.metadata as m, json
def size(d):
    found = (d.locate_file(f) for f in d.files or ())
    return sum(f.stat().st_size for f in found if f.is_file())
print(json.dumps({d.metadata["Name"]: size(d) / 1e6 for d in m.distributions() if d.metadata["Name"] not in ("pip", "setuptools")}))
"""  # noqa: E501


def installed(what: str) -> tuple[float, dict[str, float]]:
    """Seconds of `pip install`, and MB of every distribution that it brought."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        began = time.perf_counter()
        subprocess.run([python, "-m", "pip", "install", "--quiet", what], check=True)
        seconds = time.perf_counter() - began
        return seconds, json.loads(subprocess.check_output([python, "-I", "-c", SIZES], text=True))


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("others", nargs="*", default=["lightly", "lightly-train"])
    parser.add_argument("--wheel", help="of this project")
    parser.add_argument("--parts", action="store_true", help="every distribution that takes at least 1 MB")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    asked = parser.parse_args(words)
    columns = [Column(name, justify="right") for name in ("seconds", "MB", "MB without torch's", "packages")]
    table, found = Table("pip install", *columns), {}
    for what in [*([asked.wheel] if asked.wheel else []), *asked.others]:
        seconds, sizes = installed(what)
        own = {k: v for k, v in sizes.items() if not k.lower().startswith(("torch", "nvidia", "triton", "cuda"))}
        cells = (f"{seconds:.0f}", f"{sum(sizes.values()):,.0f}", f"{sum(own.values()):,.0f}", str(len(sizes)))
        table.add_row(Path(what).name, *cells)
        found[Path(what).name] = {"seconds": seconds, "MB": sizes}
        if asked.parts:
            for name, size in sorted(sizes.items(), key=lambda one: -one[1]):
                print(f"{name:30} {size:8.1f} MB" if size >= 1 else "", end="\n" if size >= 1 else "")
    report(machine("cpu"), [table], {"installed": found}, asked.out / "installing.json")


if __name__ == "__main__":
    main()
