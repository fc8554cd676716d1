"""Runs, data and folders that a user names: told when they are not there, before anything heavy is loaded. No torch."""

import os
import re
from pathlib import Path
from typing import Any

from mec.errors import BadInput, home

ENCODER, START = "encoder.safetensors", "start.safetensors"  # of a run; the second where weights were given
ALL = "@all"  # after a run: every encoder that it kept
STEPS = "encoders"  # folder in a run, with the encoders of --keep-every
LISTS, TABLES = (".txt", ".lst", ".list"), (".csv", ".tsv")  # of images: a path a line; with a column of paths
FILES = (".safetensors", ".pth", ".pt", ".tar", ".pkl", ".ckpt", ".bin")


def encoder_file(run: str | Path) -> Path:
    """The encoder's file of a run folder, of a step that it kept (RUN@300; RUN@last), or the file itself.
    Raises FileNotFoundError: there is none; names what lies near."""
    path = Path(home(run))
    folder, at, step = str(path).rpartition("@")
    if at and not path.exists() and os.path.isdir(folder) and (step.isdigit() or step == "last"):
        if step == "last":
            return encoder_file(folder)
        kept = kept_encoders(Path(folder))
        if int(step) not in kept:
            there = ", ".join(map(str, sorted(kept))) or "none (mec pretrain --keep-every N keeps every Nth epoch's)"
            raise FileNotFoundError(f"{path}: no encoder of step {step} was kept. There: {there}; and @last.")
        return kept[int(step)]
    file = path / ENCODER if path.is_dir() else path
    if not file.exists():
        near = [found.parent.name for folder in (path.parent, path) for found in sorted(folder.glob(f"*/{ENCODER}"))]
        what = f"no {ENCODER} in it. Runs with one near it" if path.is_dir() else "no such run or file. Runs near it"
        raise FileNotFoundError(f"{path}: {what}: {', '.join(near) or 'none'}.")
    return file


def kept_encoders(run: Path) -> dict[int, Path]:
    found = sorted(file for file in (run / STEPS).glob("*.safetensors") if file.stem.isdigit())
    return {int(file.stem): file for file in found}


def run_folder(file: Path) -> Path:
    return file.parent.parent if file.parent.name == STEPS else file.parent


def is_table(name: str | Path) -> bool:
    """Whether a file is read as a list of images, by its name."""
    return Path(name).suffix.lower() in (*LISTS, *TABLES) and not Path(name).is_dir()


def data_name(path: Path) -> str:
    """What images are called by where they lie: their folder's name, that of a tar's folder, and a list's own beside.

    >>> data_name(Path("/a/photos")), data_name(Path("/a/packed/x.tar")), data_name(Path("/a/cells/labels.csv"))
    ('photos', 'packed', 'cells-labels')"""
    if is_table(path):
        return "-".join(filter(None, [path.parent.name, path.stem]))
    return path.parent.name if path.suffix == ".tar" else path.name


def is_path(word: str) -> bool:
    """Whether a word can only be a path: it has a separator, or ends as files of weights do.

    >>> is_path("runs/photos"), is_path("model.pth.tar"), is_path("resnet18"), is_path("digits")
    (True, True, False, False)"""
    return os.sep in word or "/" in word or word.startswith(".") or word.endswith(FILES)


def is_url(word: str) -> bool:
    """Whether a word names a place elsewhere (https://, s3://, hf://, ...).

    >>> is_url("s3://bucket/packed"), is_url("C:/photos")
    (True, False)"""
    return re.match(r"[A-Za-z][\w+.-]+://", word) is not None


def check_run(run: Any) -> None:
    """Raise FileNotFoundError where a run, or a file of weights, is named and not there; other names pass."""
    word = str(run)
    word = word if os.path.exists(word) else word.removesuffix("@untrained").removesuffix(ALL)
    if os.path.isfile(word) or os.path.isfile(word.rpartition("@")[0]):  # FILE@student
        return
    if os.path.isdir(word):
        encoder_file(word)
        return
    before, colon, after = word.partition(":")
    if colon and len(before) > 1 and not is_path(before):  # random:NAME, NAME:FILE
        there = os.path.exists(after) or os.path.isfile(after.rpartition("@")[0])
        if before != "random" and is_path(after) and not there:
            raise FileNotFoundError(f"{after}: no such file of weights for {before}.")
    elif is_path(word):
        encoder_file(word)


def check_data(data: Any, root: Any = None, *, names: bool = True) -> None:
    """Raise BadInput where data, or the folder of `--data-root`, are named by a path that is not there.
    names: a word without separators may be the name of a data set."""
    if isinstance(data, (str, Path)) and (is_path(str(data)) or not names) and not os.path.exists(data):
        word = str(data)
        if not is_url(word) and re.search(r"[*?\[{]", word) is None:
            parent = Path(word).absolute().parent
            beside = sorted(p.name for p in parent.iterdir() if p.is_dir())[:5] if parent.is_dir() else []
            near = f" Beside it: {', '.join(beside)}." if beside else ""
            raise BadInput(f"{word}: no such folder, nor a data set of that name.{near}")
    # Of other sets that have a root, their own message says more: how they are fetched.
    if root is not None and str(data) in ("None", "imagenet") and not os.path.exists(root):
        raise BadInput(f"--data-root is {root}: no such folder.")
