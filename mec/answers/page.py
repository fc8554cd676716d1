"""A page of thumbnails in one file: nothing is fetched from anywhere, and no name in it can do anything."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mec.data.images import Images
from mec.errors import plain
from mec.runtime.files import write_text

SIDE, MOST = 128, 600  # px of a thumbnail; most of them in a page
HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>body{{font:14px sans-serif;margin:1em;background:#fff;color:#222}}
section{{margin:0 0 1em;border-top:1px solid #ccc}}
figure{{display:inline-block;width:130px;margin:4px;vertical-align:top}}
img{{width:128px;height:128px;object-fit:contain;background:#eee}}figcaption{{overflow-wrap:anywhere;font-size:12px}}
</style></head><body><h1>{title}</h1>"""


def thumbnail(images: Images, index: int, side: int = SIDE) -> bytes:
    """A JPEG of at most side x side px. Raises as `Images.read`."""
    image = images.read(index)
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return file.getvalue()


def write_page(path: Path, title: str, groups: Sequence[tuple[str, Sequence[tuple[Images, int, str]]]]) -> None:
    """Groups under a heading, each of (images, index, caption); those beyond `MOST` thumbnails are counted."""
    parts, left = [HEAD.format(title=html.escape(plain(title)))], MOST
    for heading, shown in groups:
        if left <= 0:
            break
        parts.append(f"<section><h2>{html.escape(plain(heading))}</h2>")
        for images, index, caption in shown[:left]:
            code = base64.b64encode(thumbnail(images, index)).decode()
            words = html.escape(plain(caption))
            parts.append(
                f'<figure><img alt="" src="data:image/jpeg;base64,{code}"><figcaption>{words}</figcaption></figure>'
            )
        left -= len(shown)
        parts.append("</section>")
    more = sum(len(shown) for _, shown in groups) - MOST
    parts.append(f"<p>{more:,} more are in the CSV.</p>" * (more > 0) + "</body></html>")
    write_text(path, "\n".join(parts))
