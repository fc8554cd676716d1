"""A page that is one file: no request leaves it, and no script runs in it but those that it came with."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mec.pages.charts import THEME
from mec.runtime.files import write_text

HERE = Path(__file__).parent


def write_page(path: Path, template: str, charts: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Fill a template of this folder and write it.

    Args:
        template: its name; it is given `facts`, `chart` (the element of each chart, by name), `style` and `head`.
        charts: bokeh's, by name.
        facts: plain values; all text is escaped where it is put in."""
    import jinja2
    from bokeh.embed import components
    from bokeh.resources import Resources
    from bokeh.themes import Theme

    script, found = components(dict(charts), wrap_script=False, theme=Theme(json=THEME)) if charts else ("", {})
    library = "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw) if charts else ""
    scripts = [text for text in (library, script, (HERE / "page.js").read_text("utf-8")) if text]
    house = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined)
    house.filters["count"] = "{:,}".format
    safe = jinja2.utils.markupsafe.Markup
    about = {"chart": {name: safe(element) for name, element in found.items()}, "scripts": [*map(safe, scripts)]}
    style = safe((HERE / "page.css").read_text("utf-8"))
    write_text(path, house.get_template(template).render(**facts, **about, style=style, policy=policy(scripts)))


def policy(scripts: list[str]) -> str:
    """A content security policy: a page may run these scripts, as they stand, show its own pictures, and no more."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def data_uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
