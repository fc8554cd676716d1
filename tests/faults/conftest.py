"""The campaign's words at its end; with MEC_FAULTS_WRITE=1 its counts go into docs/reliability.md."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import campaign
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- counts: written by pytest -m faults -->\n", "<!-- end of counts -->"


@pytest.fixture(autouse=True)
def _little_memory():
    with campaign.little_memory():
        yield


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Of several workers each hands over what it tried."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["kinds"] = {name: asdict(kind) for name, kind in campaign.KINDS.items()}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    for name, found in getattr(node, "workeroutput", {}).get("kinds", {}).items():
        kind = campaign.KINDS.setdefault(name, campaign.Kind())
        kind.tried += found["tried"]
        kind.bad |= found["bad"]


def pytest_terminal_summary(terminalreporter) -> None:
    if not campaign.KINDS:
        return
    terminalreporter.write_line("\n" + campaign.table())
    for name, kind in sorted(campaign.KINDS.items()):
        for label, problem in kind.bad.items():
            terminalreporter.write_line(f"NOT GOOD  {name}: {label}: {problem}")
    if os.environ.get("MEC_FAULTS_WRITE"):
        text = PAGE.read_text(encoding="utf-8")
        before, after = text.partition(BEGIN)[0], text.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}{campaign.table()}\n{END}{after}", encoding="utf-8")
