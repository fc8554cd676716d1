"""The command line: parse, look up, call one function. Heavy imports wait until a command runs."""

from __future__ import annotations

import functools
import operator
import os
import sys
import textwrap
import traceback
from typing import Annotated, Any

from tyro.conf import subcommand

from mec.cli.commands import Compare, Embed, Evaluate, Export, Health, Pack, Pretrain, Recipes
from mec.cli.measuring import Bench, Figure, Table
from mec.cli.parsing import parse, refused
from mec.errors import BadInput, TrainingStopped
from mec.objectives.methods import methods_in_words
from mec.version import __version__

KINDS = (Pretrain, Evaluate, Recipes, Health, Embed, Export, Pack, Compare, Bench, Table, Figure)
COMMANDS = {kind.__name__.lower(): kind for kind in KINDS}

DESCRIPTION = """Self-supervised learning of image encoders by maximum entropy coding.

Start here:
  mec pretrain digits            train on real images that come with the package, and see what was learned
  mec pretrain FOLDER            train on your own images; no labels needed
  mec COMMAND --help             what a command takes, with examples

Exit codes: 0 done, 1 failed (what was saved is named), 2 bad use. MEC_TRACEBACK=1 shows where an error arose;
mec --version says which version this is.
"""


def parsed(arguments: list[str]):
    """The command and its flags; bad ones exit with 2, --help with 0."""
    command = arguments[0] if arguments else "-"
    if command == "evaluate":
        return Evaluate.parsed(arguments[1:])
    if command in COMMANDS:
        kind: Any = COMMANDS[command]
        methods = "Methods:\n" + textwrap.indent(methods_in_words(), "  ")
        text = f"{kind.__doc__}\n\n{kind.more}".replace("{methods}", methods)
        return parse(kind, arguments[1:], prog=f"mec {command}", text=text)
    if command == "--version":
        print(__version__)
        sys.exit(0)
    if not command.startswith("-"):
        refused(command, "command", COMMANDS, "mec")
    union: Any = functools.reduce(operator.or_, [Annotated[kind, subcommand(name)] for name, kind in COMMANDS.items()])
    return parse(union, arguments, prog="mec", text=DESCRIPTION)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 1 failed, 2 bad use."""
    command = parsed(sys.argv[1:] if arguments is None else arguments)
    try:
        command.run()
        sys.stdout.flush()
    except BrokenPipeError:  # who reads the output has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (BadInput, FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        return _told(error, 2)
    except (TrainingStopped, OSError) as error:
        return _told(error, 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    return 0


def _told(error: BaseException, code: int) -> int:
    if os.environ.get("MEC_TRACEBACK"):
        traceback.print_exc()
    print(f"mec: {error}", file=sys.stderr)
    return code
