"""Names, labels and features of images -> one file, a block of rows at a time: .npz, .npy, .parquet or .csv."""

import importlib.util
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas

from mec.errors import BadInput, plain
from mec.runtime.files import atomic

PARQUET_EXTRA = "pip install 'mec-ssl[parquet]'"
NAMES_AT_ONCE = 65_536


@dataclass(frozen=True)
class Rows:
    """What is to be written of n images."""

    names: Sequence[str]
    labels: Sequence[str] | None  # "" where an image has none
    told: Sequence[str]  # what there is to know about the images
    size: int  # e
    blocks: Callable[[], Iterator[np.ndarray]]  # features [m, e] float32, in order

    def parts(self) -> Iterator[tuple[list[str], list[str] | None, np.ndarray]]:
        """Names, labels and features of a block each."""
        done = 0
        for block in self.blocks():
            rows = slice(done, done + len(block))
            yield [*self.names[rows]], None if self.labels is None else [*self.labels[rows]], block
            done += len(block)


def write_array(file: IO[bytes], blocks: Iterator[np.ndarray], shape: tuple[int, ...], kind: Any) -> None:
    """An .npy, from blocks of its rows."""
    about = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    for block in blocks:
        file.write(np.ascontiguousarray(block, kind).tobytes())


def to_npz(rows: Rows, part: Path) -> None:
    """`paths` [n], `features` [n, e], `told`, and `labels` [n] where there are any."""
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, blocks: Iterator[np.ndarray], shape: tuple[int, ...], kind: Any) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                write_array(file, blocks, shape, kind)

        def add_words(name: str, words: Sequence[str]) -> None:
            kind = np.dtype(("<U", max(map(len, words), default=0) or 1))
            steps = range(0, len(words), NAMES_AT_ONCE)
            add(name, (np.array(words[i : i + NAMES_AT_ONCE], kind) for i in steps), (len(words),), kind)

        add("features", rows.blocks(), (len(rows.names), rows.size), np.dtype("<f4"))
        add_words("paths", rows.names)
        add_words("told", rows.told)
        if rows.labels is not None:
            add_words("labels", rows.labels)


def to_npy(rows: Rows, part: Path) -> None:
    """Features [n, e] alone; paths and labels stand beside them, in `beside`."""
    with open(part, "wb") as file:
        write_array(file, rows.blocks(), (len(rows.names), rows.size), np.dtype("<f4"))


def to_csv(rows: Rows, part: Path, *, features: bool = True) -> None:
    """A row an image: path, label where there are any, f0, f1, ... in nine digits, which give float32 exactly."""
    with open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        for names, labels, block in rows.parts():
            table = pandas.DataFrame({"path": names, **({} if labels is None else {"label": labels})})
            if features:
                table = table.join(pandas.DataFrame(block).add_prefix("f"))
            table.to_csv(file, index=False, header=file.tell() == 0, float_format="%.9g", lineterminator="\n")


def to_parquet(rows: Rows, part: Path) -> None:
    """Columns path, label where there are any, and features: lists of e float32; `told` in the file's metadata."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    fields = [("path", pa.string()), *[("label", pa.string())] * (rows.labels is not None)]
    schema = pa.schema([*fields, ("features", pa.list_(pa.float32(), rows.size))], {"told": json.dumps([*rows.told])})
    with ParquetWriter(part, schema) as file:
        for names, labels, block in rows.parts():
            features = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), rows.size)
            words = [] if labels is None else [labels]
            file.write_table(
                pa.Table.from_arrays([pa.array(map(plain, names)), *map(pa.array, words), features], schema=schema)
            )


WRITERS: dict[str, Callable[[Rows, Path], None]] = {
    ".npz": to_npz, ".npy": to_npy, ".parquet": to_parquet, ".csv": to_csv
}  # fmt: skip


def check_out(out: Path) -> None:
    """Raise BadInput where no file of this name can be written."""
    if out.suffix not in WRITERS:
        raise BadInput(f"--out is {out}: its name ends with {', '.join(WRITERS)}.")
    if out.is_dir():
        raise BadInput(f"--out is {out}: a folder; give the name of a file.")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise BadInput(f"--out is {out}: {PARQUET_EXTRA} writes .parquet; .npz, .npy and .csv are written without it.")


def write_rows(rows: Rows, out: Path) -> list[Path]:
    """Write the file, and beside an .npy its paths; returns what was written."""
    with atomic(out) as part:
        WRITERS[out.suffix](rows, part)
    if out.suffix != ".npy":
        return [out]
    beside = out.with_suffix(".paths.csv")
    with atomic(beside) as part:
        to_csv(rows, part, features=False)
    return [out, beside]
