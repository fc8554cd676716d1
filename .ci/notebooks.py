"""For mkdocs: each notebook of docs/ as a page, its text and its code, with the notebook itself to take along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files


def page(path: Path) -> str:
    """A notebook in Markdown, without outputs."""
    parts = []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        if not number:
            parts.append(f"As a notebook: [{path.name}]({path.name})")
    return "\n\n".join(parts) + "\n"


def on_files(files: Files, *, config: Any) -> Files:
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        text = page(Path(notebook.abs_src_path or ""))
        files.append(File.generated(config, notebook.src_uri.replace(".ipynb", ".md"), content=text))
    return files
