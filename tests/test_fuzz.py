"""Two thousand damaged images, in a folder and in shards: nothing hangs, nothing stops, each is listed once."""

from __future__ import annotations

import io
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import lines, tiny_run, write_images
from PIL import Image

from mec.data.batches import ViewBatches
from mec.data.dataset import Split
from mec.data.decoding import quiet, why_unreadable
from mec.data.folders import rows_without, unreadable
from mec.data.images import Files
from mec.data.opening import open_data
from mec.data.pack import pack
from mec.data.shards import ShardWriter, write_index
from mec.recipes.recipe import View

FORMATS = {"jpg": "JPEG", "png": "PNG", "gif": "GIF", "webp": "WEBP", "tiff": "TIFF"}
COUNT = 2000
VIEWS = (View(size=8, copies=2),)


def originals() -> dict[str, list[bytes]]:
    """A few smooth images of 80x72 px in every format, TIFF with several compressions."""
    y, x = np.mgrid[:72, :80]
    made: dict[str, list[bytes]] = {suffix: [] for suffix in FORMATS}
    for number in range(4):
        image = Image.fromarray(np.stack([x * 3, y * 3, (x * y + 40 * number) % 256], 2).astype(np.uint8))
        for suffix, name in FORMATS.items():
            file = io.BytesIO()
            options = (
                {"compression": ("raw", "tiff_lzw", "tiff_deflate", "packbits")[number]} if suffix == "tiff" else {}
            )
            if suffix == "jpg":
                options = {
                    "progressive": number % 2 == 1,
                    "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0" if number > 1 else b"",
                }
            image.save(file, name, **options)
            made[suffix].append(file.getvalue())
    return made


def mutated(data: bytes, generator: np.random.Generator) -> bytes:
    """Cut off, bytes changed, a stretch removed, doubled or zeroed, or numbers in the header made huge."""
    found = bytearray(data)
    place, kind = int(generator.integers(len(found))), int(generator.integers(6))
    length = int(generator.integers(1, 64))
    if kind == 0:
        return bytes(found[:place])
    if kind == 1:
        for at in generator.integers(len(found), size=generator.integers(1, 20)):
            found[at] = generator.integers(256)
    elif kind == 2:
        del found[place : place + length]
    elif kind == 3:
        found[place:place] = found[place : place + length]
    elif kind == 4:
        found[place : place + length] = bytes(length)
    else:
        at = int(generator.integers(min(200, len(found))))
        found[at : at + 4] = b"\xff\xff\xff\xff"
    return bytes(found)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> tuple[Path, dict[str, str | None]]:
    """A folder of 2,000 mutated files and 8,000 good ones; and why each of the first cannot be read, or None."""
    folder = tmp_path_factory.mktemp("fuzz") / "set"
    folder.mkdir()
    generator, sources = np.random.default_rng(0), originals()
    for number in range(COUNT):
        suffix = list(FORMATS)[number % len(FORMATS)]
        data = sources[suffix][int(generator.integers(4))]
        (folder / f"{number:04}.{suffix}").write_bytes(mutated(data, generator))
    # As many good ones as it takes for the bad to stay below the share at which a run refuses to start.
    write_images(folder / "good", 4 * COUNT, ".png", width=70, height=66)
    with quiet():  # a warning is no error, though it is one in these tests
        verdict = {str(path): why_unreadable(str(path)) for path in sorted(folder.glob("*.*"))}
    return folder, verdict


def most_memory() -> float:
    """MiB, the most that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.slow
def test_of_two_thousand_damaged_files_each_unreadable_one_is_listed_once_with_its_reason(damaged, tmp_path):
    folder, verdict = damaged
    bad = {path for path, reason in verdict.items() if reason}
    assert 400 < len(bad) < COUNT  # some mutations do no harm
    for suffix in FORMATS:
        assert sum(path.endswith(suffix) for path in bad) > 20
    before = most_memory()
    run = tiny_run(tmp_path / "run", str(folder), limit=None, batch_size=256, epochs=1, recipe="digits", workers=0)
    listed = [line["path"] for line in lines(run / "skipped.jsonl")]
    assert sorted(listed) == sorted(bad)
    assert all(line["reason"] for line in lines(run / "skipped.jsonl"))
    assert (run / "encoder.safetensors").exists()
    assert most_memory() - before < 2048


@pytest.mark.slow
def test_damaged_files_are_set_aside_when_packing_and_skipped_once_when_found_in_a_tar(damaged, tmp_path):
    folder, verdict = damaged
    bad = {path for path, reason in verdict.items() if reason}
    out = pack(folder, tmp_path / "out", quiet=True)
    listed = [line["path"] for line in lines(out / "quarantine.jsonl")]
    assert sorted(listed) == sorted(bad)

    # The same files in tars that somebody else packed, unchecked.
    (tmp_path / "raw").mkdir()
    writer = ShardWriter(tmp_path / "raw", "train", 10**6)
    for path in [*verdict, *sorted(map(str, (folder / "good").iterdir()))]:
        writer.add(Path(path).read_bytes(), Path(path).suffix, path, -1)
    writer.close()
    write_index(tmp_path / "raw", [writer], (), {})
    split = open_data(str(tmp_path / "raw")).train
    batches = ViewBatches(split, VIEWS, 500, seed=0, device=torch.device("cpu"), workers=2)
    found = [s for batch in batches.batches(0, 20, lambda n: slice(0, n)) for s in batch.skipped]
    assert {s.path.partition("#")[2] for s in found} == bad
    assert all(s.reason for s in found)


def test_a_few_damaged_files_of_each_format_are_judged_alike_by_the_check_and_by_the_loader(tmp_path):
    generator, sources = np.random.default_rng(1), originals()
    paths = []
    for number in range(100):
        suffix = list(FORMATS)[number % len(FORMATS)]
        paths.append(tmp_path / f"{number:03}.{suffix}")
        paths[-1].write_bytes(mutated(sources[suffix][number % 4], generator))
    paths += write_images(tmp_path / "good", 400, width=70, height=66)
    names = tuple(map(str, paths))
    skipped = unreadable([*names], tmp_path)
    split = Split(Files(names)).take(rows_without(names, skipped))
    assert 10 < len(skipped) < 100
    batches = ViewBatches(split, VIEWS, len(split), seed=0, device=torch.device("cpu"), workers=0)
    (batch,) = batches.batches(0, 1, lambda n: slice(0, n))
    assert batch.skipped == ()  # what passed the check can be read
