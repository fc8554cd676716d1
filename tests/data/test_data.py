"""Data sets by name or folder, images in odd formats, and batches that depend on the seed alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import labelled_folder, noise_image, write_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from mec.data import dataset, folders
from mec.data.batches import ViewBatches
from mec.data.dataset import Split, stratified
from mec.data.decoding import Picture, decode, read_image
from mec.data.folders import unreadable
from mec.data.images import Files, InMemory
from mec.data.opening import open_data
from mec.recipes.recipe import View

VIEWS = (View(size=8, scale=(0.5, 1.0), blur=0.5, copies=2),)
CPU = torch.device("cpu")

# --- digits ------------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_split_70_to_30_in_every_class():
    data = open_data("digits")
    assert (len(data.train), len(data.test), data.typical_size) == (1257, 540, (8, 8))
    x, y = load_digits(return_X_y=True)
    for label in range(10):
        held_out = (data.test.labels == label).sum()
        assert abs(held_out - 0.3 * (y == label).sum()) <= 1
    ours = torch.cat([data.train.images.pixels, data.test.images.pixels])
    assert (ours == ours[:, :1]).all()  # grey, repeated
    together = {(int(label), *image) for label, image in zip(y, np.rint(x * 255 / 16).astype(int).tolist())}
    labels = np.concatenate([data.train.labels, data.test.labels])
    assert {(int(label), *image) for label, image in zip(labels, ours[:, 0].flatten(1).tolist())} == together


def test_the_split_of_digits_never_changes():
    """Frozen: figures of different versions are figures on the same 540 images."""
    one, other = open_data("digits"), open_data("digits", seed=5)
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint == "55157e956f5a1ded"  # made with scikit-learn 1.9.1


def test_small_images_live_in_memory_unless_they_are_too_many(tmp_path, monkeypatch):
    labelled_folder(tmp_path, width=10, height=9)  # 36 + 18 images of 270 bytes
    monkeypatch.setattr(dataset, "KEEP_BYTES", 54 * 270)
    assert isinstance(open_data(str(tmp_path)).train.images, InMemory)
    monkeypatch.setattr(dataset, "KEEP_BYTES", 54 * 270 - 1)
    assert isinstance(open_data(str(tmp_path)).train.images, Files)


# --- a part of the images ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.floats(0.05, 1), st.integers(0, 2**31))
def test_a_limited_set_keeps_every_class_in_proportion(sizes, share, seed):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = max(1, int(share * len(labels)))
    chosen = stratified(labels, len(labels), count, seed)
    assert len(set(chosen.tolist())) == count
    assert (np.diff(chosen) > 0).all()
    kept = np.bincount(labels[chosen], minlength=len(sizes))
    assert (np.abs(kept - count / len(labels) * np.array(sizes)) < 1 + 1e-9 + len(sizes) / 2).all()


@pytest.mark.parametrize("labels", [None, np.repeat(np.arange(5), 40)], ids=["no labels", "labels"])
def test_fewer_images_are_a_subset_of_more_and_another_seed_draws_others(labels):
    draws = [set(stratified(labels, 200, count, 0).tolist()) for count in (10, 20, 50, 150, 200)]
    assert all(few < more for few, more in itertools.pairwise(draws))
    assert draws[1] != set(stratified(labels, 200, 20, 1).tolist())
    assert len(draws[-1]) == 200


def test_a_draw_without_labels_is_even_over_the_set():
    hits = np.zeros(100)
    for seed in range(300):
        hits[stratified(None, 100, 20, seed)] += 1
    assert abs(hits[:50].sum() / hits.sum() - 0.5) < 0.03
    assert 30 < hits.min() <= hits.max() < 95  # 60 expected, deviation 7


def test_limit_takes_so_many_training_images_and_leaves_the_test_images():
    data = open_data("digits", limit=100)
    assert len(data.train) == 100
    assert (np.bincount(data.train.labels) >= 9).all()
    assert len(data.test) == 540
    assert data.fingerprint != open_data("digits").fingerprint
    assert data.fingerprint != open_data("digits", limit=100, seed=1).fingerprint


# --- folders -----------------------------------------------------------------------------------------------------


def test_a_folder_nested_in_any_way_is_all_trained_on_without_labels(tmp_path):
    write_images(tmp_path / "a" / "b" / "c", 3)
    write_images(tmp_path, 2, seed=1)
    write_images(tmp_path / "test", 2, seed=2)  # without a train folder beside it, just a name
    write_images(tmp_path / ".thumbnails", 2)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "A.JPG").write_bytes(b"")
    noise_image(9).save(tmp_path / "A.JPG", format="jpeg")
    data = open_data(str(tmp_path))
    assert len(data.train) == 8
    assert data.train.labels is None
    assert data.test is None
    assert not data.can_be_measured


@pytest.mark.parametrize("name", ["val", "test", "validation"])
def test_train_and_test_folders_give_labels_that_serve_evaluation_only(tmp_path, name):
    labelled_folder(tmp_path, test_name=name)
    data = open_data(str(tmp_path))
    assert data.can_be_measured
    assert data.classes == ("a", "b", "c")
    assert np.bincount(data.train.labels).tolist() == [12, 12, 12]
    assert np.bincount(data.test.labels).tolist() == [6, 6, 6]


def test_labels_belong_to_their_images(tmp_path):
    for label, colour in enumerate(["red", "lime", "blue"]):
        for part, count in (("train", 4), ("val", 2)):
            folder = tmp_path / part / colour / "deeper"
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), colour).save(folder / f"{i}{label}.png")
    data = open_data(str(tmp_path))
    assert data.classes == ("blue", "lime", "red")
    for split in (data.train, data.test):
        brightest = split.images.pixels[:, :, 0, 0].argmax(1).numpy()  # channel: red 0, lime 1, blue 2
        assert split.labels.tolist() == (2 - brightest).tolist()


def test_training_images_without_a_class_are_trained_on_and_not_measured(tmp_path):
    labelled_folder(tmp_path)
    write_images(tmp_path / "train", 7, seed=90)
    data = open_data(str(tmp_path))
    assert len(data.train) == 43
    assert len(data.train.labelled()) == 36
    assert (data.train.labels == -1).sum() == 7


@pytest.mark.parametrize("layout", ["one class", "no class", "other classes", "empty val"])
def test_folders_that_name_no_classes_are_trained_on_without_labels(tmp_path, layout):
    write_images(tmp_path / "train" / ("photos" if layout != "no class" else ""), 6)
    write_images(
        tmp_path / "val" / {"other classes": "x", "one class": "photos"}.get(layout, ""), layout != "empty val"
    )
    if layout == "other classes":
        write_images(tmp_path / "train" / "b", 6, seed=1)
    data = open_data(str(tmp_path))
    assert len(data.train) == (12 if layout == "other classes" else 6)
    assert not data.can_be_measured


def test_small_images_of_one_size_live_in_memory_and_others_on_disk(tmp_path):
    write_images(tmp_path / "small", 5, width=12, height=10)
    write_images(tmp_path / "large", 5, width=100, height=90)
    write_images(tmp_path / "mixed", 5, width=12, height=10)
    write_images(tmp_path / "mixed" / "other", 5, width=13, height=10)
    kinds = {name: open_data(str(tmp_path / name)) for name in ("small", "large", "mixed")}
    assert [type(d.train.images) for d in kinds.values()] == [InMemory, Files, Files]
    assert kinds["small"].typical_size == (10, 12)
    pixels = np.array(noise_image(3, 12, 10))
    assert np.array_equal(kinds["small"].train.images.pixels[3].permute(1, 2, 0).numpy(), pixels)


def test_the_fingerprint_of_a_folder_changes_with_its_files(tmp_path):
    paths = write_images(tmp_path, 6)
    first = open_data(str(tmp_path)).fingerprint
    assert open_data(str(tmp_path)).fingerprint == first
    noise_image(1, 9, 8).save(paths[0])
    changed = open_data(str(tmp_path)).fingerprint
    paths[1].rename(tmp_path / "renamed.png")
    assert len({first, changed, open_data(str(tmp_path)).fingerprint}) == 3


def test_the_sample_photographs_can_all_be_read(samples):
    data = open_data(str(samples / "jpeg200"), limit=40)
    assert len(data.train) == 40
    assert not data.skipped
    assert min(data.typical_size) > 200


# --- odd formats -------------------------------------------------------------------------------------------------


def pattern(width: int = 24, height: int = 16) -> np.ndarray:
    """A smooth ramp of colours, which lossy formats keep within a few steps."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, 255 - x * 255 // width], 2).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options) -> np.ndarray:
    image.save(path, **options)
    found = decode(path.read_bytes())
    assert found.mode == "RGB"
    return np.asarray(found).astype(int)


def test_grey_images_are_repeated_over_three_channels(tmp_path):
    grey = pattern()[:, :, 0]
    found = saved(tmp_path / "grey.png", Image.fromarray(grey))
    assert np.array_equal(found, np.repeat(grey[:, :, None], 3, 2))
    one_bit = saved(tmp_path / "bit.png", Image.fromarray(grey > 100))
    assert np.array_equal(one_bit[:, :, 0], 255 * (grey > 100))


def test_a_palette_with_transparency_keeps_its_colours(tmp_path):
    image = Image.fromarray(pattern()).quantize(64)
    found = saved(tmp_path / "palette.png", image, transparency=bytes([0, 128] + [255] * 62))
    assert np.array_equal(found, np.asarray(image.convert("RGB")))


def test_transparency_is_dropped_and_colours_kept(tmp_path):
    alpha = np.dstack([pattern(), np.full((16, 24), 77, np.uint8)])
    assert np.array_equal(saved(tmp_path / "rgba.png", Image.fromarray(alpha)), pattern())
    grey = Image.fromarray(pattern()[:, :, 0]).convert("LA")
    assert np.array_equal(saved(tmp_path / "la.png", grey)[:, :, 1], pattern()[:, :, 0])


def test_cmyk_jpeg_is_converted(tmp_path):
    cmyk = Image.fromarray(pattern()).convert("CMYK")
    found = saved(tmp_path / "print.jpg", cmyk, quality=100)
    with Image.open(tmp_path / "print.jpg") as image:
        assert image.mode == "CMYK"
    assert np.abs(found - pattern()).mean() < 4


def test_sixteen_bit_png_is_scaled_to_eight(tmp_path):
    deep = pattern()[:, :, 0].astype(np.uint16) * 257
    found = saved(tmp_path / "deep.png", Image.fromarray(deep))
    assert np.array_equal(found[:, :, 2], pattern()[:, :, 0])


@pytest.mark.parametrize("peak", [1.0, 255.0, 65535.0])
def test_float_tiff_is_scaled_by_the_range_that_its_values_suggest(tmp_path, peak):
    values = pattern()[:, :, 0] / 255.0
    values[0, 0] = 1
    found = saved(tmp_path / "float.tiff", Image.fromarray((values * peak).astype(np.float32)))
    assert np.abs(found[:, :, 0] - values * 255).max() <= 1


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (24, 16), colour) for colour in ("red", "lime", "blue")]
    found = saved(tmp_path / "moving.gif", frames[0], save_all=True, append_images=frames[1:])
    assert (found == [255, 0, 0]).all()
    found = saved(tmp_path / "moving.webp", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    assert (found == [255, 0, 0]).all()


@pytest.mark.parametrize(("suffix", "options"), [("webp", {"lossless": True}), ("bmp", {}), ("tif", {}), ("ppm", {})])
def test_lossless_formats_are_read_exactly(tmp_path, suffix, options):
    assert np.array_equal(saved(tmp_path / f"image.{suffix}", Image.fromarray(pattern()), **options), pattern())


def test_a_photograph_taken_sideways_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    found = saved(tmp_path / "sideways.jpg", Image.fromarray(pattern()), exif=exif, quality=100, subsampling=0)
    assert found.shape == (24, 16, 3)
    assert np.abs(found - np.rot90(pattern(), -1)).mean() < 3


# --- batches -----------------------------------------------------------------------------------------------------


def whole(n: int) -> slice:
    return slice(0, n)


def batches_of(split: Split, start: int, stop: int, share=whole, seed: int = 0, workers: int = 0) -> list:
    made = ViewBatches(split, VIEWS, 8, seed=seed, device=CPU, workers=workers)
    return list(made.batches(start, stop, share))


def alike(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.views, other.views)) and torch.equal(one.labels, other.labels)


@pytest.fixture(params=["in memory", "files"])
def split(request, tmp_path) -> Split:
    size = {"width": 10, "height": 9} if request.param == "in memory" else {"width": 70, "height": 66}
    labelled_folder(tmp_path, train=9, **size)
    data = open_data(str(tmp_path))
    assert isinstance(data.train.images, InMemory if request.param == "in memory" else Files)
    return data.train


def test_an_epoch_sees_every_image_once_and_drops_the_last_incomplete_batch(split):
    batches = ViewBatches(split, VIEWS, 8, seed=0, device=CPU, workers=0)
    assert batches.steps_per_epoch == 3  # of 27 images
    for epoch in (0, 1):
        seen = np.concatenate([batches.indices(3 * epoch + i)[1] for i in range(3)])
        assert len(set(seen.tolist())) == 24
    assert [batches.indices(step)[0] for step in (0, 2, 3, 8)] == [0, 0, 1, 2]
    assert batches.indices(0)[1].tolist() != batches.indices(3)[1].tolist()
    assert (
        batches.indices(2)[1].tolist()
        == ViewBatches(split, VIEWS, 8, seed=0, device=CPU, workers=0).indices(2)[1].tolist()
    )


def test_starting_at_any_step_gives_the_batches_of_a_run_from_the_first(split):
    run = batches_of(split, 0, 7)
    for start in (1, 3, 5):
        assert all(alike(a, b) for a, b in zip(run[start:], batches_of(split, start, 7), strict=True))
    assert not alike(run[0], batches_of(split, 0, 1, seed=1)[0])


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_shares_of_the_ranks_put_together_are_the_batch_of_one(split, ranks):
    each = 8 // ranks
    run = batches_of(split, 2, 5)
    parts = [batches_of(split, 2, 5, lambda n, r=r: slice(r * each, (r + 1) * each)) for r in range(ranks)]
    for step, batch in enumerate(run):
        for v, view in enumerate(batch.views):
            torch.testing.assert_close(torch.cat([p[step].views[v] for p in parts]), view, atol=1e-5, rtol=0)
        assert torch.equal(torch.cat([p[step].labels for p in parts]), batch.labels)


def test_labels_of_a_batch_are_those_of_its_images(split):
    batches = ViewBatches(split, VIEWS, 8, seed=0, device=CPU, workers=0)
    for step, batch in enumerate(batches.batches(0, 3, whole)):
        assert batch.labels.tolist() == split.labels[batches.indices(step)[1]].tolist()


def test_worker_processes_give_the_batches_of_none(tmp_path):
    write_images(tmp_path, 20, width=80, height=70)
    split = open_data(str(tmp_path)).train
    one, other = (ViewBatches(split, VIEWS, 8, seed=0, device=CPU, workers=w).batches(1, 4, whole) for w in (0, 2))
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.views, b.views))


def test_an_image_that_turns_unreadable_is_replaced_by_the_next_and_reported(tmp_path):
    paths = write_images(tmp_path, 16, width=80, height=70)
    split = Split(Files(tuple(map(str, paths))))
    untouched = {step: batches_views(split, step) for step in (0, 1)}
    batches = ViewBatches(split, VIEWS, 8, seed=0, device=CPU, workers=0)
    step = next(s for s in (0, 1) if 5 in batches.indices(s)[1])
    row = batches.indices(step)[1].tolist().index(5)
    paths[5].write_bytes(paths[5].read_bytes()[:200])  # an interrupted copy

    views, skipped = batches_views(split, step)
    assert [s.path for s in skipped] == [str(paths[5])]
    assert "truncated" in skipped[0].reason
    assert torch.equal(views, batches_views(split, step)[0])  # and again the same
    others = [i for i in range(8) if i != row]
    assert torch.equal(views[:, others], untouched[step][0][:, others])
    # The replaced row: image 6 by the random numbers of image 5.
    paths[5].write_bytes(paths[6].read_bytes())
    assert torch.equal(views, batches_views(split, step)[0])


def batches_views(split: Split, step: int):
    (batch,) = ViewBatches(split, VIEWS, 8, seed=0, device=CPU, workers=0).batches(step, step + 1, whole)
    return torch.stack(batch.views), batch.skipped


def test_the_neighbour_of_the_last_image_is_the_first(tmp_path):
    paths = write_images(tmp_path, 8, width=80, height=70)
    split = Split(Files(tuple(map(str, paths))))
    paths[7].unlink()
    _, skipped = batches_views(split, 0)
    assert [s.path for s in skipped] == [str(paths[7])]


def test_the_label_is_that_of_the_image_that_is_shown(tmp_path):
    paths = write_images(tmp_path, 8, width=80, height=70)
    split = Split(Files(tuple(map(str, paths))), np.arange(8))
    paths[5].unlink()
    (batch,) = ViewBatches(split, VIEWS, 8, seed=0, device=CPU, workers=0).batches(0, 1, whole)
    assert sorted(batch.labels.tolist()) == [0, 1, 2, 3, 4, 6, 6, 7]
    row = ViewBatches(split, VIEWS, 8, seed=0, device=CPU, workers=0).indices(0)[1].tolist().index(5)
    assert batch.labels[row] == 6


def test_large_folders_are_checked_by_a_spread_sample_and_the_rest_as_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "CHECK_ALL_BELOW", 10)
    paths = write_images(tmp_path, 40, width=80, height=70)
    for i in (4, 5):  # every fourth is checked
        paths[i].write_bytes(b"nothing")
    skipped = unreadable([str(p) for p in paths], tmp_path)
    split = Split(Files(tuple(map(str, paths[:4] + paths[5:]))))
    assert [s.path for s in skipped] == [str(paths[4])]
    found = {s.path for batch in batches_of(Split(split.images, np.zeros(39, int)), 0, 4) for s in batch.skipped}
    seen = ViewBatches(split, VIEWS, 8, seed=0, device=CPU, workers=0)
    among = 4 in np.concatenate([seen.indices(s)[1] for s in range(4)])  # index 4 of the readable ones is file 5
    assert found == ({str(paths[5])} if among else set())
    assert among


def picture(path: Path) -> Picture:
    return Picture.of(path.read_bytes())


def test_a_jpeg_can_be_decoded_smaller_and_other_formats_come_whole(tmp_path):
    noise_image(0, width=1601, height=1200).save(tmp_path / "large.jpg")
    for reduce, shape in {1: (1200, 1601), 2: (600, 801), 4: (300, 401), 8: (150, 201)}.items():
        assert picture(tmp_path / "large.jpg").pixels(reduce).shape == (*shape, 3)
    noise_image(0, width=160, height=120).save(tmp_path / "large.png")
    assert picture(tmp_path / "large.png").pixels(4).shape == (120, 160, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}], ids=["usual", "progressive", "444"]
)
def test_a_jpeg_is_decoded_to_pillows_pixels(tmp_path, mode, options):
    Image.fromarray(pattern(101, 67)).convert(mode).save(tmp_path / "image.jpg", quality=90, **options)
    found = picture(tmp_path / "image.jpg")
    judge = np.asarray(read_image(tmp_path / "image.jpg"))
    assert (found.height, found.width) == judge.shape[:2]
    assert np.abs(found.pixels().astype(int) - judge).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_picture_taken_in_any_orientation_is_upright_as_by_pillow(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pattern()).save(
        tmp_path / f"image.{suffix}", exif=exif, quality=95, **({"lossless": True} if suffix == "webp" else {})
    )
    found, judge = picture(tmp_path / f"image.{suffix}"), np.asarray(read_image(tmp_path / f"image.{suffix}"))
    assert (found.height, found.width) == judge.shape[:2] == ((24, 16) if orientation > 4 else (16, 24))
    assert np.abs(found.pixels().astype(int) - judge).max() <= 1
