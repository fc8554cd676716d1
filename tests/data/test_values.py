"""Deep images (16-bit, float, signed): one scale for a whole set, told, kept with the encoder, used ever after."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import small_subject, tiny_run
from PIL import Image, TiffImagePlugin

import mec
from mec.answers.options import Duplicates
from mec.answers.pool import gather
from mec.data.decoding import quiet
from mec.data.images import common_scale
from mec.data.opening import open_data
from mec.data.pack import pack
from mec.data.values import GDAL_NO_DATA, PIXELS, Scale, sampled_values, to_rgb
from mec.errors import BadInput
from mec.evaluation import evaluate
from mec.evaluation.probing.protocols import Knn
from mec.networks.encoder_file import load_encoder, read_info

SMALL_RUN = {"limit": None, "batch_size": 8, "recipe": "digits", "epochs": 1, "workers": 0}


def ramp(low: float, high: float, side: int = 70) -> np.ndarray:
    return np.linspace(low, high, side * side).reshape(side, side)


def write(folder: Path, arrays: list[np.ndarray], suffix: str, **options) -> Path:
    folder.mkdir(parents=True)
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{i:02}{suffix}", **options)
    return folder


def test_values_become_bytes_by_one_rule():
    values = np.array([[-30.0, -5.0, -17.5], [np.nan, np.inf, -np.inf]])
    assert Scale(-30, -5).to_bytes(values).tolist() == [[0, 255, 128], [0, 255, 0]]


def test_dark_and_bright_images_of_a_set_keep_their_brightness(tmp_path):
    arrays = [ramp(0, 4000 if i % 2 else 200).astype(np.uint16) for i in range(20)]
    images = open_data(str(write(tmp_path / "set", arrays, ".png"))).train.images
    bright, dark = (np.asarray(images.read(i)).astype(int) for i in (1, 0))
    assert bright.max() == 255
    assert abs(dark.max() - 255 * 200 / 4000) <= 3


@pytest.mark.parametrize("suffix", [".tif", ".tiff"])
def test_values_below_zero_are_seen(tmp_path, suffix):
    arrays = [ramp(-30, -5).astype(np.float32) for _ in range(6)]
    found = open_data(str(write(tmp_path / "set", arrays, suffix)))
    picture = np.asarray(found.train.images.read(0))
    assert (picture.min(), picture.max()) == (0, 255)
    assert picture.std() > 60
    (words,) = found.words()
    assert "16-bit, float or signed images: values -29.8" in words
    assert "become 0 to 255, alike for all of them" in words


def test_a_few_wild_values_and_those_that_say_nothing_do_not_move_the_scale(tmp_path):
    array = ramp(10, 20).astype(np.float32)
    array[0, :3] = [np.nan, np.inf, 1e9]
    array[20:50] = -9999
    tag = TiffImagePlugin.ImageFileDirectory_v2()
    tag[GDAL_NO_DATA] = "777"
    other = ramp(10, 20).astype(np.float32)
    other[:30] = 777
    folder = write(tmp_path / "set", [array], ".tif")
    Image.fromarray(other).save(folder / "tagged.tif", tiffinfo=tag)
    found = open_data(str(folder))
    assert not found.skipped
    assert 9.9 < found.scale.low < 11
    assert 19 < found.scale.high < 20.1


def test_an_image_without_one_finite_value_cannot_be_read(tmp_path):
    folder = write(tmp_path / "set", [ramp(0, 9).astype(np.float32) for _ in range(6)], ".tif")
    Image.fromarray(np.full((70, 70), np.nan, np.float32)).save(folder / "empty.tif")
    found = open_data(str(folder))
    assert [(Path(s.path).name, s.reason) for s in found.skipped] == [("empty.tif", "pixel values are not finite")]


def test_images_of_eight_bits_have_no_scale_and_stay_as_they_are(tmp_path):
    arrays = [ramp(0, 90).astype(np.uint8) for _ in range(5)]
    found = open_data(str(write(tmp_path / "set", arrays, ".png")))
    assert found.scale is None
    assert found.words() == []
    assert np.asarray(found.train.images.read(0)).max() == 90


def test_packed_and_held_out_images_have_the_scale_of_the_training_images(tmp_path):
    for part, top in (("train", 1000), ("val", 3000)):
        for name in "ab":
            write(tmp_path / "set" / part / name, [ramp(0, top).astype(np.uint16) for _ in range(4)], ".png")
    folder, packed = (
        open_data(str(tmp_path / "set")),
        open_data(str(pack(tmp_path / "set", tmp_path / "out", quiet=True))),
    )
    assert folder.scale.high == pytest.approx(995, abs=1)
    assert packed.scale == folder.scale == folder.test.images.scale == packed.test.images.scale
    assert (np.asarray(folder.test.images.read(0)) == 255).mean() > 0.6  # brighter than any training image


def test_small_deep_images_in_memory_are_scaled_too(tmp_path):
    arrays = [ramp(0, 4000 if i % 2 else 200, side=12).astype(np.uint16) for i in range(8)]
    pixels = open_data(str(write(tmp_path / "set", arrays, ".png"))).train.images.pixels
    assert pixels[1].max() == 255
    assert pixels[0].max() < 20


def test_the_scale_is_kept_with_the_encoder_and_used_by_every_later_command(tmp_path):
    folder = write(tmp_path / "set", [ramp(-30, -5 - i % 3).astype(np.float32) for i in range(16)], ".tif")
    run = tiny_run(tmp_path / "run", str(folder), **SMALL_RUN)
    info = read_info(run)
    assert info.scale == open_data(str(folder)).scale
    other = write(tmp_path / "other", [ramp(-30, -5).astype(np.float32) * share for share in (1, 0.5)], ".tif")
    encoder, transform = load_encoder(run)
    found = evaluate.features(run, other, device="cpu")
    for i, row in enumerate(found.x):
        with Image.open(other / f"{i:02}.tif") as image:
            judge = Image.fromarray(info.scale.to_bytes(np.asarray(image))).convert("RGB")
            inputs = transform(image), transform(judge)
        assert (inputs[0] == inputs[1]).all()
        assert np.allclose(encoder(inputs[0][None]).detach()[0], row, atol=1e-4)
    assert not np.allclose(found.x[0], found.x[1])
    assert "as the encoder was trained" in found.told[0]
    assert common_scale(open_data(str(other)).train.images)[0] != info.scale  # it would have been another one


def test_evaluation_opens_data_in_the_scale_of_the_encoder(tmp_path, capsys):
    for part in ("train", "val"):
        for name in "ab":
            write(tmp_path / "set" / part / name, [ramp(0, 1000).astype(np.uint16) for _ in range(3)], ".png")
    subject = small_subject(tmp_path)
    subject.info = replace(subject.info, value_range=(0.0, 500.0))
    data = Knn(data=str(tmp_path / "set")).open(subject)
    assert data.train.images.scale == data.test.images.scale == Scale(0, 500)
    assert "values 0 to 500 become 0 to 255" in capsys.readouterr().err.replace("\n", " ")


@pytest.fixture
def deep_subject(tmp_path, monkeypatch):
    """An encoder that was trained on values from 0 to 500."""
    subject = small_subject(tmp_path / "subject")
    subject.info = replace(subject.info, value_range=(0.0, 500.0))
    for module in ("exports.embed", "answers.pool", "answers.looking"):
        monkeypatch.setattr(f"mec.{module}.resolve", lambda *_, **__: subject)
    return subject


def as_the_encoder_sees(folder: Path, out: Path) -> Path:
    """The images of a folder in 8 bits, by the scale of `deep_subject`."""
    out.mkdir()
    for path in folder.iterdir():
        with Image.open(path) as image:
            Image.fromarray(Scale(0, 500).to_bytes(np.asarray(image))).save(out / path.name)
    return out


def test_embedding_has_the_scale_of_the_encoder(tmp_path, deep_subject):
    folder = write(tmp_path / "set", [ramp(0, 100 + 80 * i).astype(np.uint16) for i in range(6)], ".png")
    judge = np.load(mec.embed("any", as_the_encoder_sees(folder, tmp_path / "eight"), out=tmp_path / "judge.npz"))
    found = np.load(mec.embed("any", folder, out=tmp_path / "x.npz"))
    np.testing.assert_allclose(found["features"], judge["features"], atol=1e-6)
    assert "values 0 to 500 become 0 to 255, alike for all of them, as the encoder was trained" in str(found["told"])


def test_a_search_has_the_scale_of_the_encoder_for_what_is_asked_too(tmp_path, deep_subject):
    """One image alone would have a scale of its own, by which a dark one is as bright as any."""
    folder = write(tmp_path / "set", [ramp(0, 100 + 80 * i).astype(np.uint16) for i in range(6)], ".png")
    eight = as_the_encoder_sees(folder, tmp_path / "eight")
    for query in ("00.png", "05.png"):
        judge = mec.search("any", eight, query=eight / query, out=tmp_path / "judge.csv")
        found = mec.search("any", folder, query=folder / query, out=tmp_path / "x.csv")
        assert [row[1:] for row in found] == [row[1:] for row in judge]
        assert found[0][2:] == (query, "1.0000")


def test_questions_about_images_have_the_scale_of_the_encoder(tmp_path, deep_subject):
    folder = write(tmp_path / "set", [ramp(0, 100 + 80 * i).astype(np.uint16) for i in range(6)], ".png")
    judge = gather("any", as_the_encoder_sees(folder, tmp_path / "eight"), Duplicates(out="x.csv"))
    np.testing.assert_allclose(gather("any", folder, Duplicates(out="x.csv")).x, judge.x, atol=1e-6)


def test_deep_held_out_images_beside_training_images_of_eight_bits_are_scaled_alike(tmp_path):
    for name in "ab":
        write(tmp_path / "set" / "train" / name, [ramp(0, 90).astype(np.uint8) for _ in range(4)], ".png")
        arrays = [ramp(0, 4000 if i % 2 else 200).astype(np.uint16) for i in range(4)]
        write(tmp_path / "set" / "val" / name, arrays, ".png")
    found = open_data(str(tmp_path / "set"))
    assert found.scale.high == pytest.approx(3960, abs=20)
    assert "become 0 to 255, alike for all of them" in " ".join(found.words())
    dark, bright = (np.asarray(found.test.images.read(i)).max() for i in (0, 1))
    assert (bright, dark) == (255, pytest.approx(255 * 200 / 3960, abs=2))


def test_deep_images_are_not_made_into_small_jpegs(tmp_path):
    folder = write(tmp_path / "set", [ramp(0, 3000, side=100).astype(np.uint16) for _ in range(3)], ".png")
    with pytest.raises(
        BadInput, match=r"--resize is 64: it makes JPEGs of 8 bits, and there are deep images \(14\.995 to 2984"
    ):
        pack(folder, tmp_path / "small", resize=64, quiet=True)
    assert not (tmp_path / "small").exists()
    assert open_data(str(pack(folder, tmp_path / "whole", quiet=True))).scale == open_data(str(folder)).scale


def test_of_images_with_several_pages_the_first_is_read_and_that_is_told(tmp_path):
    for i in range(3):
        pages = [Image.fromarray(ramp(0, 90).astype(np.uint8)) for _ in range(1 + 2 * (i > 0))]
        pages[0].save(tmp_path / f"{i}.tif", save_all=True, append_images=pages[1:])
    assert open_data(str(tmp_path)).words() == ["2 images of those looked at have several pages: the first is read."]


def test_the_sample_is_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr("mec.data.images.DEEP", 3)
    folder = write(tmp_path / "set", [ramp(0, 100 * i + 100).astype(np.uint16) for i in range(40)], ".png")
    assert len({open_data(str(folder)).scale for _ in range(4)}) == 1


def test_images_in_memory_that_were_scaled_otherwise_are_refused(tmp_path):
    for part, name in (("train", "a"), ("train", "b"), ("val", "a"), ("val", "b")):
        write(tmp_path / "set" / part / name, [ramp(0, 800, side=12).astype(np.uint16) for _ in range(3)], ".png")
    data, subject = open_data(str(tmp_path / "set")), small_subject(tmp_path)
    subject.info = replace(subject.info, value_range=(data.scale.low, data.scale.high))
    assert Knn(data=data, k=[1]).open(subject).scale == data.scale  # as it was trained
    subject.info = replace(subject.info, value_range=(0.0, 4000.0))
    with pytest.raises(
        BadInput, match=r"set: its images are in memory, where values 0 to 800 become 0 to 255; the encoder"
    ):
        Knn(data=data, k=[1]).open(subject)


def png_of_sixteen_bits(values: np.ndarray) -> bytes:
    """uint16 [h, w, c] as a PNG: c 2 is grey with transparency, 3 RGB, 4 with transparency. Pillow writes none."""
    height, width, channels = values.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_twelve_bits_in_sixteen_are_not_nearly_black(tmp_path, channels):
    (tmp_path / "set").mkdir()
    values = np.random.default_rng(0).integers(0, 4096, (10, 70, 80, channels), dtype=np.uint16)
    for i, one in enumerate(values):
        (tmp_path / f"set/{i}.png").write_bytes(png_of_sixteen_bits(one))
    data = open_data(str(tmp_path / "set"))
    assert data.scale.high == pytest.approx(0.995 * 4095, rel=0.02)
    assert "become 0 to 255" in data.words()[0]
    read, seen = np.asarray(data.train.images.read(3)), values[3, ..., : 3 if channels > 2 else 1].astype(float)
    expected = ((seen - data.scale.low) / (data.scale.high - data.scale.low) * 255).clip(0, 255)
    assert read.shape == (70, 80, 3)
    assert np.abs(read - expected).max() <= 0.51
    with quiet():
        np.testing.assert_array_equal(data.train.images.open(3).pixels(), read)


def test_colours_of_sixteen_bits_that_cannot_be_read_whole_are_told(tmp_path, monkeypatch):
    folder = write(tmp_path / "set", [ramp(0, 90).astype(np.uint8) for _ in range(3)], ".tif")
    assert open_data(str(folder)).words() == []
    monkeypatch.setattr("mec.data.images.is_wide", lambda image: image.format == "TIFF")  # Pillow writes none
    (told,) = open_data(str(folder)).words()
    assert (
        told
        == "3 images of those looked at have colours of 16 bits in a format other than PNG: the upper 8 bits are read."
    )


def test_one_deep_image_of_another_suffix_among_many_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("mec.data.images.LOOKED_AT", 4)
    folder = write(tmp_path / "set", [ramp(0, 90).astype(np.uint8) for _ in range(40)], ".png")
    Image.fromarray(ramp(0, 4000).astype(np.uint16)).save(folder / "xray.tif")
    assert open_data(str(folder)).scale.high == pytest.approx(3980, abs=5)


@pytest.mark.parametrize("scale", [None, Scale(0, 4000)])
def test_a_large_deep_image_takes_little_more_memory_than_its_pixels(scale):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 5000, (3000, 2000), dtype=np.uint16))
    tracemalloc.start()
    found = np.asarray(to_rgb(image, scale))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * image.width * image.height + (32 << 20)  # 2 read, 1 and 1 made, 3 + 3 as RGB; strips of float64
    values = np.asarray(image, np.float64) / (65535 if scale is None else 4000) * 255
    assert np.abs(found[..., 0] - values.clip(0, 255)).max() <= 0.502


def test_of_a_large_image_values_are_sampled_before_they_become_floats():
    image = Image.fromarray(np.zeros((3000, 2000), np.uint16))
    tracemalloc.start()
    assert len(sampled_values(image)) <= PIXELS
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * image.width * image.height


def tiff(values: np.ndarray, sign: int | None, order: str = "<") -> bytes:
    """A TIFF of one strip of 32-bit numbers; sign: tag 339 (1 without, 2 with, 3 floats), or left out."""
    height, width = values.shape
    pixels = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = {256: width, 257: height, 258: 32, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(pixels)}
    tags |= {} if sign is None else {339: sign}
    table = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(pixels))
    return head + pixels + struct.pack(f"{order}H", len(tags)) + table + struct.pack(f"{order}I", 0)


@pytest.mark.parametrize(
    ("dtype", "sign", "low", "high", "order"),
    [
        ("u4", 1, 0, 2**32 - 1, "<"), ("u4", None, 2**31, 2**32 - 2, "<"),  # Pillow reads none of the other order
        ("i4", 2, -(2**31), 2**31 - 1, "<"), ("i4", 2, -(2**31), 2**31 - 1, ">"),
        ("f4", 3, -5e9, 5e9, "<"), ("f4", 3, -5e9, 5e9, ">"),
    ],
)  # fmt: skip
def test_whole_numbers_of_32_bits_have_the_sign_that_their_file_says(dtype, sign, low, high, order, tmp_path):
    values = np.linspace(low, high, 48).astype(dtype).reshape(6, 8)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(values, sign, order))
    read = np.asarray(open_data(str(tmp_path)).train.images.read(0))[..., 0].ravel().astype(int)
    assert (np.diff(read) >= 0).all()
    assert (read[0], read[-1]) == (0, 255)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.sort(sampled_values(image)), np.sort(values.ravel().astype(np.float64)))
        shown = np.asarray(to_rgb(image, Scale(float(low), float(high))))[..., 0].ravel().astype(int)
        assert (shown[0], shown[-1]) == (0, 255)
        assert (np.diff(shown) >= 0).all()
        if dtype == "u4":
            plain = np.asarray(to_rgb(image))[..., 0].ravel().astype(int)
            assert (np.diff(plain) >= 0).all()
            assert plain[-1] == 255
