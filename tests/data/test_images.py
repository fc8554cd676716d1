"""Every kind of image set answers the same: the same pictures as pixels, files and shards, and opened by the caller."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import noise_image
from PIL import Image
from torch import nn

from mec.data.batches import ViewBatches
from mec.data.dataset import Split
from mec.data.decoding import quiet
from mec.data.images import Files, Images, InMemory, Opened, median_size, sample_sizes
from mec.data.pack import pack
from mec.data.shards import Shards, open_packed
from mec.errors import BadInput
from mec.evaluation.features import extract
from mec.recipes.recipe import View

N, HEIGHT, WIDTH = 9, 70, 90


def pictures() -> list[Image.Image]:
    return [noise_image(i, WIDTH, HEIGHT) for i in range(N)]


def as_pixels(folder: Path) -> Images:
    return InMemory(torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures()]))


def as_files(folder: Path, suffix: str = ".png") -> Images:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i:02}{suffix}" for i in range(N)]
    for path, picture in zip(paths, pictures()):
        picture.save(path)
    return Files(tuple(map(str, paths)))


def as_shards(folder: Path, suffix: str = ".png") -> Images:
    as_files(folder, suffix)
    out = pack(folder, folder.with_name("shards"), shard_size=0.02, quiet=True)
    table = open_packed(str(out))
    assert len(table.tars) > 1
    return Shards(table, np.argsort(table.names))  # packing shuffles


def as_opened(folder: Path) -> Images:
    return Opened(tuple(pictures()))


KINDS: dict[type[Images], Callable[[Path], Images]] = {
    InMemory: as_pixels, Files: as_files, Shards: as_shards, Opened: as_opened,
}  # fmt: skip


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def images(request, tmp_path) -> Images:
    made = KINDS[request.param](tmp_path / "pictures")
    assert type(made) is request.param
    return made


def seen(images: Images) -> list[np.ndarray]:
    return [np.asarray(images.read(i)) for i in range(len(images))]


def test_these_are_all_kinds():
    assert set(Images.__subclasses__()) == set(KINDS)


def test_every_kind_gives_the_same_pictures_by_index(images):
    assert len(images) == N
    with quiet():
        for i, picture in enumerate(pictures()):
            assert images.size(i) == (HEIGHT, WIDTH)
            assert images.read(i).mode == "RGB"
            assert np.array_equal(np.asarray(images.read(i)), np.asarray(picture))
            found = images.open(i)
            assert (found.height, found.width) == (HEIGHT, WIDTH)
            assert np.array_equal(found.pixels(), np.asarray(picture))
            assert np.array_equal(np.asarray(found.image()), np.asarray(picture))
            if images.pixels is not None:
                assert np.array_equal(images.pixels[i].permute(1, 2, 0).numpy(), np.asarray(picture))
    assert median_size(sample_sizes(images)) == (HEIGHT, WIDTH)


def test_every_kind_takes_images_in_the_order_asked_for_and_keeps_its_own(images):
    order = np.array([4, 0, 4, 8])
    part = images.take(order)
    assert type(part) is type(images)
    assert all(np.array_equal(a, np.asarray(pictures()[i])) for a, i in zip(seen(part), order, strict=True))
    assert len(images) == N
    if isinstance(images, (Files, Shards)):
        assert [part.name(i) for i in range(4)] == [images.name(i) for i in order]
    assert len(images.take(np.array([], dtype=np.int64))) == 0


def test_names_are_distinct_and_end_with_the_files(images):
    names = [images.name(i) for i in range(N)]
    assert len(set(names)) == N
    if isinstance(images, (Files, Shards)):
        assert [name[-6:] for name in names] == [f"{i:02}.png" for i in range(N)]


def test_the_hash_tells_what_images_in_what_order(images):
    found = images.content_hash()
    if isinstance(images, Opened):  # the caller may draw on them
        assert found is None
        return
    assert images.take(np.arange(N)).content_hash() == found
    others = {
        images.take(rows).content_hash() for rows in (np.arange(1, N), np.arange(N)[::-1].copy(), np.zeros(N, int))
    }
    assert len({found, *others}) == 4


@pytest.mark.parametrize("make", [as_files, as_shards])
def test_the_hash_tells_changed_files_and_is_none_where_one_is_gone(tmp_path, make):
    images = make(tmp_path / "pictures")
    before, path = images.content_hash(), Path(images.name(2).partition("#")[0])
    path.write_bytes(path.read_bytes() + b" ")
    assert images.content_hash() != before
    path.unlink()
    assert images.content_hash() is None


def test_the_hash_of_files_tells_their_time_of_change(tmp_path):
    images = as_files(tmp_path / "pictures")
    before = images.content_hash()
    os.utime(images.name(2), ns=(1, 1))
    assert images.content_hash() != before


def test_a_jpeg_is_read_from_a_shard_as_from_its_file(tmp_path):
    files, shards = (make(tmp_path / make.__name__, ".jpg") for make in (as_files, as_shards))
    with quiet():
        for i, (one, other) in enumerate(zip(seen(files), seen(shards), strict=True)):
            assert np.array_equal(one, other)
            assert np.array_equal(files.open(i).pixels(2), shards.open(i).pixels(2))


def test_views_and_features_do_not_depend_on_how_encoded_images_are_stored(tmp_path):
    views, sets = (View(size=16, copies=2),), [make(tmp_path / make.__name__) for make in KINDS.values()]

    def batch(images: Images) -> torch.Tensor:
        made = ViewBatches(Split(images), views, N, seed=0, device=torch.device("cpu"), workers=0)
        return torch.stack(next(made.batches(0, 1, lambda n: slice(n))).views)

    memory, files, *others = map(batch, sets)
    for other in others:
        torch.testing.assert_close(files, other, atol=1e-5, rtol=0)
    assert (memory - files).abs().mean() < 0.05  # from bytes, rounded between crop and colour

    def mean_colour(image) -> torch.Tensor:
        x = image if isinstance(image, torch.Tensor) else torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return x.float().mean((-2, -1))

    first, *others = (extract(nn.Identity(), Split(images), mean_colour).x for images in sets)
    for other in others:
        torch.testing.assert_close(first, other)


def test_an_image_that_cannot_be_read_raises_and_is_passed_over_for_the_size(tmp_path):
    images = as_files(tmp_path / "pictures")
    Path(images.name(0)).write_bytes(b"")
    with pytest.raises(ValueError, match="0 bytes"):
        images.read(0)
    assert sample_sizes(images) == [(HEIGHT, WIDTH)] * (N - 1)
    with pytest.raises(BadInput, match=r"00\.png: none of"):
        sample_sizes(images.take(np.array([0])))
