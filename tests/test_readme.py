"""README and documentation: short, their commands are commands, their links lead somewhere, no registry is named."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mec.cli.main import parsed

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
PAST = ("log.md", "results.md", "reliability.md")  # commands as they were, with what stands for many


def blocks(page: Path, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The command lines of a page's blocks, without comments; lines that go on are one."""
    lines = "\n".join(blocks(page)).replace("\\\n", " ").splitlines()
    lines = [part.strip() for line in lines for part in line.removeprefix("$ ").split("&&")]
    lines = [re.sub(r"^torchrun .* -m mec ", "mec ", line) for line in lines]
    return [line for line in lines if line.startswith("mec ") and "..." not in line]


def test_the_readme_is_read_in_a_few_minutes():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


COMMANDS = [(page.name, line) for page in PAGES if page.name not in PAST for line in commands(page)]


def test_there_are_commands():
    assert sum(name == "README.md" for name, _ in COMMANDS) >= 6
    assert len(COMMANDS) > 40


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line[:50]}" for page, line in COMMANDS])
def test_every_command_that_is_shown_is_one(page, line, capsys):
    words = shlex.split(line, comments=True)[1:]
    try:
        parsed(words)
    except SystemExit as end:
        pytest.fail(f"{page}: {line}: exit {end.code}: {capsys.readouterr()}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    found = [*re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text), *re.findall(r'src="(?!https?:)([^"]+)"', text)]
    assert [link for link in found if not (page.parent / link).exists()] == []


def test_the_output_in_the_readme_is_the_whole_one_shortened():
    whole = {line.rstrip() for block in blocks(ROOT / "docs/index.md") for line in block.splitlines()}
    shown = next(block for block in blocks(ROOT / "README.md") if "┏━" in block).splitlines()
    assert [line for line in shown if line != "..." and line.rstrip() not in whole] == []


def test_the_method_table_in_the_readme_is_that_of_the_results():
    def cells(line: str) -> list[str]:
        return [cell.strip().replace("*", "").replace("`", "") for cell in line.strip("| \n").split("|")]

    results = [cells(line) for line in (ROOT / "docs/results.md").read_text(encoding="utf-8").splitlines()]
    measured = {row[0]: (row[3], row[4]) for row in results if len(row) == 8 and " / " in row[1]}
    top, _, knn, linear = [
        cells(line)
        for line in (ROOT / "README.md").read_text(encoding="utf-8").split("| top-1 (%) ")[1].splitlines()[:4]
    ]
    for method, *found in zip(top, knn[1:], linear[1:]):
        assert tuple(found) == measured[method.partition(" ")[0]]


def test_the_python_in_the_readme_is_python_and_names_what_there_is():
    import mec

    (code,) = blocks(ROOT / "README.md", "python")
    named = {node.attr for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute)
             and isinstance(node.value, ast.Name) and node.value.id == "mec"}  # fmt: skip
    assert {"pretrain", "evaluate", "load_encoder"} <= named
    assert all(hasattr(mec, name) for name in named)


def test_the_site_has_every_page_once_and_asks_nobody():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    site = yaml.safe_load(text)

    def pages(part) -> list[str]:
        if isinstance(part, str):
            return [part]
        return [page for each in (part if isinstance(part, list) else part.values()) for page in pages(each)]

    notebooks = [f"notebooks/{path.stem}.md" for path in (ROOT / "docs" / "notebooks").glob("*.ipynb")]
    assert sorted(pages(site["nav"])) == sorted([*(path.name for path in (ROOT / "docs").glob("*.md")), *notebooks])
    assert site["theme"]["font"] is False
    assert not re.search(r"https?://", text)


@pytest.mark.parametrize("file", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda file: file.name)
def test_forms_and_workflows_are_yaml_without_a_registry(file):
    assert yaml.safe_load(file.read_text(encoding="utf-8"))
    assert "://" not in file.read_text(encoding="utf-8")


BROWSERS = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]


@pytest.mark.slow
def test_the_site_opened_as_a_file_finds_a_word_and_asks_nobody(tmp_path):
    pytest.importorskip("mkdocs")
    playwright = pytest.importorskip("playwright.sync_api")
    if not BROWSERS:
        pytest.skip("no chromium on this machine")
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "batch_size" in (tmp_path / "site/api.html").read_text(encoding="utf-8")
    asked, wrong = [], []
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSERS[0], args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((tmp_path / "site/index.html").as_uri())
        page.click(".md-search__input")
        page.keyboard.type("distortion")
        page.wait_for_selector(".md-search-result__item")
        browser.close()
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    assert wrong == []
