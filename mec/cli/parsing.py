"""Words of the command line -> a dataclass: tyro parses; text keeps to the terminal's width, near words are named."""

import io
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

import tyro

from mec.errors import nearest

CONFIG: Any = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff)
MARK = "description"  # stands for it until tyro has written the rest
WIDEST = 100  # columns of text
_, *_parts = re.split(r"^# (\w+)\n(.+)\n", Path(__file__).with_name("help.md").read_text("utf-8"), flags=re.MULTILINE)
# By command: the line that `mec --help` has of it, which is the first of its own help, and what that ends with.
HELP = {name: (line, more.strip("\n")) for name, line, more in zip(_parts[::3], _parts[1::3], _parts[2::3])}


def parse(kind: Any, words: list[str], *, prog: str, text: str) -> Any:
    """What the words after the command `prog` say, as a dataclass or one of a union; bad ones exit with 2, --help
    with 0, after the text, `wrapped`, and the flags."""
    if not {"-h", "--help"} & {*words}:
        return tyro.cli(kind, args=words, prog=prog, description=MARK, config=CONFIG)
    written = Written()
    try:
        with redirect_stdout(written):
            return tyro.cli(kind, args=words, prog=prog, description=MARK, config=CONFIG)
    finally:
        text = wrapped(text, columns())
        sys.stdout.write(re.sub(rf"^{MARK}$", lambda _: text, written.getvalue(), flags=re.MULTILINE))


def columns() -> int:
    """How wide text is written: as the terminal is, but not too wide to be read."""
    return min(WIDEST, shutil.get_terminal_size().columns)


class Written(io.StringIO):
    """What is written to the terminal, to be completed first: it asks as the terminal would answer."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return sys.__stdout__ is not None and sys.__stdout__.isatty()


def wrapped(text: str, width: int) -> str:
    """Paragraphs in lines of at most `width` columns; indented lines (lists, examples) stay as they are.

    >>> print(wrapped("One sentence that\\ngoes on.\\n\\n  mec pretrain digits    as it is", 20))
    One sentence that
    goes on.
    <BLANKLINE>
      mec pretrain digits    as it is"""
    lines: list[str] = []
    for line in text.splitlines():
        if line[:1] not in ("", " ", "-") and lines and lines[-1][:1] not in ("", " "):  # it goes on
            lines[-1] += " " + line
        else:
            lines.append(line)
    wrapper = textwrap.TextWrapper(width, break_on_hyphens=False, break_long_words=False)
    return "\n".join(line if line.startswith(" ") else wrapper.fill(line) for line in lines)


def refused(word: str, what: str, known: Iterable[str], command: str) -> NoReturn:
    """Exit with 2 for a word that is none of those known, with the nearest one."""
    print(f"mec: no {what} {word!r}. {nearest(word, known)} {command} --help lists them.", file=sys.stderr)
    sys.exit(2)
