"""The command line: parse, look up, call one function. Heavy imports wait until a command runs."""

import functools
import importlib
import io
import operator
import os
import sys
import textwrap
import traceback
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any

from tyro.conf import subcommand

from mec.cli.parsing import HELP, parse, refused
from mec.errors import BadInput, TrainingStopped, home, plain
from mec.version import __version__

COMMANDS = {name: line for name, (line, _) in HELP.items() if name != "mec"}
MEASURING = ("table", "suite", "report", "figure")
ANSWERING = {  # from images to answers: the commands that are options of mec.answers and nothing else
    "select": "Selecting", "label": "Labelling", "predict": "Predicting", "search": "Searching",
    "duplicates": "Duplicates", "outliers": "Outliers", "mislabelled": "Mislabelled",
}  # fmt: skip

BAD_USE = (BadInput, FileNotFoundError, FileExistsError, NotADirectoryError)
TOLD = (*BAD_USE, TrainingStopped, OSError)  # in a sentence, without a traceback


def kind_of(command: str) -> Any:
    if command in ANSWERING:
        from mec.cli.command import OnRun

        options = getattr(importlib.import_module("mec.answers.options"), ANSWERING[command])
        return dataclass(frozen=True, kw_only=True)(type(command.title(), (options, OnRun), {}))
    module = "measuring" if command in MEASURING else "commands"
    return getattr(importlib.import_module(f"mec.cli.{module}"), command.title())


def parsed(arguments: list[str]):
    """The command and its flags; bad ones exit with 2, --help with 0."""
    command = arguments[0] if arguments else "-"
    if command in COMMANDS:
        kind = kind_of(command)
        if command == "evaluate":
            return kind.parsed(arguments[1:])
        from mec.objectives.methods import methods_in_words

        methods = "Methods:\n" + textwrap.indent(methods_in_words(), "  ")
        text = f"{kind.__doc__}\n\n{kind.more}".replace("{methods}", methods)
        return parse(kind, arguments[1:], prog=f"mec {command}", text=text)
    if command == "--version":
        print(__version__)
        sys.exit(0)
    if not command.startswith("-"):
        refused(command, "command", COMMANDS, "mec")
    kinds = [Annotated[make_dataclass(name, []), subcommand(name, description=line)] for name, line in COMMANDS.items()]
    return parse(functools.reduce(operator.or_, kinds), arguments, prog="mec", text="\n\n".join(HELP["mec"]))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 1 failed, 2 bad use."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # one that takes ASCII alone, or a name that is no UTF-8
            stream.reconfigure(errors="backslashreplace")
    command = parsed([home(word) for word in (sys.argv[1:] if arguments is None else arguments)])
    try:
        command.run()
        sys.stdout.flush()
    except BrokenPipeError:  # who reads the output has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except TOLD as error:
        return _told(error, 2 if isinstance(error, BAD_USE) else 1)
    except (RuntimeError, MemoryError) as error:
        words = first_words(error)
        if not words:
            raise
        return _told(TrainingStopped(words), 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    return 0


def first_words(error: BaseException) -> str:
    """What of the machine's doing an error tells, in words; "" for what is the program's own fault."""
    line = next(iter(str(error).splitlines()), "")[:200]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in line:
        return f"memory has run out ({line}). A smaller --batch-size or --set micro_batch_size=N takes less."
    if type(error).__name__.startswith("Dist") or "gloo" in line or "Connection closed by peer" in line:
        return (
            f"another process of this run ended or did not answer in time ({line}). What is saved stays; all go on "
            "with the same command (mec pretrain: and --resume)."
        )
    return ""


def _told(error: BaseException, code: int) -> int:
    if os.environ.get("MEC_TRACEBACK"):
        traceback.print_exc()
    print(plain(f"mec: {error}"), file=sys.stderr)
    return code
