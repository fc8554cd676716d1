"""What is no image, comes twice, waits, or starts a program: left out, counted, told, and stored with the run."""

from __future__ import annotations

import ast
import logging
import os
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import lines, noise_image, small_subject, tiny_run, write_images
from PIL import Image, PngImagePlugin
from processes import printed

from mec.data import listing
from mec.data.decoding import formats, open_image, read_image
from mec.data.opening import open_data
from mec.data.pack import pack
from mec.errors import BadInput
from mec.evaluation import evaluate
from mec.exports import embed as embedding
from mec.exports.embed import embed
from mec.runtime.files import read_json

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
SMALL_RUN = {"limit": None, "batch_size": 4, "recipe": "digits", "epochs": 1, "workers": 0}


def test_files_of_other_kinds_and_hidden_ones_are_counted_and_told_in_one_line(tmp_path):
    write_images(tmp_path / "set", 5)
    for name in ("one.txt", "two.TXT", "README", ".hidden.png"):
        (tmp_path / "set" / name).write_text("no image")
    found = open_data(str(tmp_path / "set"))
    (line,) = found.words()
    assert line == "Left out: 2 files with the suffix .txt, 1 file without a suffix, 1 hidden file or folder"


@pytest.mark.skipif(".heic" in listing.KINDS, reason="pillow-heif is here")
def test_photographs_of_a_kind_that_is_not_read_here_are_told_with_the_extra_that_reads_them(tmp_path):
    write_images(tmp_path, 4)
    for i in range(6):
        (tmp_path / f"IMG_{i}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (line,) = open_data(str(tmp_path)).words()
    assert "6 files with the suffix .heic are no images that can be read here (pip install 'mec-ssl[heif]'" in line


def test_photographs_of_telephones_are_read_where_the_extra_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    Image.new("RGB", (64, 48), "red").save(tmp_path / "telephone.heic")
    (image,) = [read_image(tmp_path / "telephone.heic")]
    assert image.size == (64, 48)
    assert len(open_data(str(tmp_path)).train) == 1


STAND_IN = """
from PIL import Image, PngImagePlugin
from processes import printed

def register_heif_opener():
    Image.register_open("HEIF", lambda file, name: PngImagePlugin.PngImageFile(file, name), lambda start: True)
"""


def test_with_the_extra_photographs_of_telephones_are_found_and_its_reader_reads_them(tmp_path):
    """Where pillow-heif is not installed; what stands in for it here reads PNG."""
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "pillow_heif.py").write_text(STAND_IN)
    for path in write_images(tmp_path / "set", 3):
        path.rename(path.with_suffix(".HEIC"))
    code = """
from mec.data.decoding import formats
from mec.data.opening import open_data
found = open_data({!r})
print(len(found.train), found.words(), formats()[-1])
"""
    assert printed(code.format(str(tmp_path / "set")), folder=tmp_path, path=tmp_path / "extra") == "3 [] HEIF\n"


def test_a_folder_linked_into_others_is_read_once_by_its_own_name(tmp_path):
    for name in "abc":
        write_images(tmp_path / name, 3)
        for other in "abc":
            (tmp_path / name / f"to-{other}").symlink_to(f"../{other}")
    found = open_data(str(tmp_path))
    assert len(found.train) == 9
    assert found.left_out == {"folders linked twice": 9}


def test_a_file_linked_twice_counts_once_and_a_link_to_elsewhere_is_followed(tmp_path):
    write_images(tmp_path / "set", 3)
    (outside,) = write_images(tmp_path / "outside", 1, seed=5)
    (tmp_path / "set" / "again.png").symlink_to("0001.png")
    os.link(tmp_path / "set" / "0002.png", tmp_path / "set" / "hard.png")
    (tmp_path / "set" / "far.png").symlink_to(outside)
    found = listing.list_images(tmp_path / "set")
    assert found.names == ["0000.png", "0001.png", "0002.png", "far.png"]
    assert found.sizes.tolist() == [(tmp_path / "set" / name).stat().st_size for name in found.names]
    assert found.left_out == {"files linked twice": 2}


def test_a_pipe_is_never_opened(tmp_path):
    write_images(tmp_path / "set", 3)
    os.mkfifo(tmp_path / "set" / "pipe.png")
    found = open_data(str(tmp_path / "set"))
    assert (len(found.train), found.left_out) == (3, {"no regular files (pipes, devices)": 1})
    pack(tmp_path / "set", tmp_path / "packed", quiet=True)
    with pytest.raises(OSError, match="not a regular file"):  # one that became a pipe after it was listed
        read_image(tmp_path / "set" / "pipe.png")


@pytest.mark.parametrize("name", ["holiday.jpg", "holiday.png", "holiday.tif"])
def test_no_program_is_started_whatever_a_file_is_called(tmp_path, name, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", refused)
    monkeypatch.setattr(os, "system", refused)
    write_images(tmp_path, 9)
    (tmp_path / name).write_bytes(EPS)
    found = open_data(str(tmp_path))
    assert [Path(s.path).name for s in found.skipped] == [name]
    assert "cannot identify image file" in found.skipped[0].reason
    assert "EPS" not in formats()


def test_images_are_opened_in_one_place_only():
    """Pillow's own `open` tries every decoder that it has."""
    package = Path(evaluate.__file__).parents[1]
    calls = {
        path.name
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open"
    }
    assert calls == {"decoding.py"}


def big_note() -> PngImagePlugin.PngInfo:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("workflow", '{"a":1}' * 300_000, zip=True)
    return notes


def test_a_png_is_read_whatever_its_notes_are(tmp_path):
    image = noise_image(3, 20, 10)
    image.save(tmp_path / "before.png", pnginfo=big_note())
    image.save(tmp_path / "profile.png", icc_profile=b"\0" * 3_000_000)
    plain = tmp_path / "plain.png"
    image.save(plain)
    whole = plain.read_bytes()
    text = b"zTXt" + b"note\0\0" + zlib.compress(b"x" * 3_000_000)
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    (tmp_path / "after.png").write_bytes(whole[:-12] + chunk + whole[-12:])  # behind the pixels
    found = open_data(str(tmp_path))
    assert (len(found.train), found.skipped) == (4, ())
    for path in tmp_path.glob("*.png"):
        assert np.array_equal(np.asarray(read_image(path)), np.asarray(image)), path.name


def test_damaged_exif_is_no_reason_to_leave_out_a_photograph(tmp_path):
    noise_image(0, 80, 70).save(tmp_path / "odd.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    found = open_data(str(tmp_path))
    assert (len(found.train), found.skipped) == (1, ())


def tiff(path: Path, channels: int, photometric: int = 1) -> None:
    """An uncompressed 16-bit TIFF of any number of channels, which Pillow cannot write."""
    width = height = 12
    data = np.zeros((height, width, channels), "<u2").tobytes()
    tags = [(256, width), (257, height), (258, 16), (259, 1), (262, photometric), (273, 0), (277, channels)]
    tags += [(278, height), (279, len(data)), (284, 1)]
    at = 8 + 2 + 12 * len(tags) + 4
    values = {tag: at if tag == 273 else value for tag, value in tags}
    entries = b"".join(tag.to_bytes(2, "little") + b"\4\0" + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
                       for tag, value in values.items())  # fmt: skip
    path.write_bytes(b"II*\0\x08\0\0\0" + len(tags).to_bytes(2, "little") + entries + b"\0\0\0\0" + data)


@pytest.mark.parametrize("channels", [5, 13])
def test_images_of_many_channels_are_refused_for_their_true_reason(tmp_path, channels, capfd, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's, with which a line of Pillow's log shows nowhere
    for i in range(6):
        tiff(tmp_path / f"{i}.tif", channels)
    with pytest.raises(BadInput) as error:
        open_data(str(tmp_path))
    words = str(error.value)
    assert f"{channels} channels of 16 bits" in words
    assert "examples/any_modality.py" in words
    assert words.count("channels of") == 1  # once for all of them
    assert "wrong suffix" not in words
    assert capfd.readouterr().err == ""  # nor a line of Pillow's for each


def test_colours_and_one_channel_more_are_refused_and_transparency_is_not(tmp_path):
    Image.new("RGBA", (9, 9)).save(tmp_path / "seen.tif")
    assert open_image(tmp_path / "seen.tif").mode == "RGBA"
    data = bytearray((tmp_path / "seen.tif").read_bytes())
    place = data.index((338).to_bytes(2, "little"))  # extra samples: 2 is transparency, 0 anything
    data[place + 8] = 0
    (tmp_path / "infrared.tif").write_bytes(data)
    with pytest.raises(ValueError, match="4 channels"):
        read_image(tmp_path / "infrared.tif")


# --- stored with what is made of it ----------------------------------------------------------------------------------


def test_a_run_stores_what_was_left_out_and_its_list_of_unreadable_images_is_as_things_are(tmp_path):
    write_images(tmp_path / "set", 9, width=70, height=66)
    (tmp_path / "set" / "notes.txt").write_text("no image")
    (tmp_path / "set" / "rot.png").write_bytes(b"rot")
    run = tiny_run(tmp_path / "run", str(tmp_path / "set"), **SMALL_RUN)
    assert read_json(run / "settings.json")["left_out"] == {"files with the suffix .txt": 1}
    assert [Path(line["path"]).name for line in lines(run / "skipped.jsonl")] == ["rot.png"]
    tiny_run(run, str(tmp_path / "set"), resume=True, **SMALL_RUN | {"epochs": 2})
    assert len(lines(run / "skipped.jsonl")) == 1


def test_what_an_interrupted_run_could_not_read_leaves_the_list_when_it_can_be_read_again(tmp_path):
    from mec.data.decoding import Skipped
    from mec.training.pretrain import renew_skipped

    mended, rotten = write_images(tmp_path, 2)
    rotten.write_bytes(b"rot")
    renew_skipped(tmp_path / "skipped.jsonl", [Skipped(str(mended), "rot"), Skipped(str(rotten), "rot")])
    renew_skipped(tmp_path / "skipped.jsonl", [])
    assert [line["path"] for line in lines(tmp_path / "skipped.jsonl")] == [str(rotten)]
    rotten.unlink()
    mended.rename(rotten)
    renew_skipped(tmp_path / "skipped.jsonl", [])
    assert not (tmp_path / "skipped.jsonl").exists()


@pytest.fixture
def subject(tmp_path, monkeypatch):
    for module in ("evaluation.evaluate", "exports.embed"):
        monkeypatch.setattr(f"mec.{module}.resolve", lambda *_, **__: small_subject(tmp_path))


def test_embedding_tells_and_keeps_what_was_left_out_and_an_old_list_goes(tmp_path, subject, capsys, monkeypatch):
    write_images(tmp_path / "set", 9)
    (tmp_path / "set" / "notes.txt").write_text("no image")
    rotten = tmp_path / "set" / "rot.png"
    rotten.write_bytes(b"rot")
    out = tmp_path / "features.npz"
    extracted = []
    stored = embedding.stored
    monkeypatch.setattr(
        embedding, "stored", lambda *a, **k: extracted.append(capsys.readouterr().out) or stored(*a, **k)
    )
    embed("any", tmp_path / "set", out=out)
    told = "Left out: 1 file with the suffix .txt, 1 image that cannot be read"
    assert told in extracted[0]  # before the encoder runs
    assert told not in capsys.readouterr().out  # and not twice
    assert np.load(out)["told"].tolist() == [told]
    assert len(lines(tmp_path / "features.skipped.jsonl")) == 1
    rotten.unlink()
    embed("any", tmp_path / "set", out=out)
    assert not (tmp_path / "features.skipped.jsonl").exists()


def test_names_that_are_not_utf8_are_packed_trained_on_and_embedded(tmp_path, subject, capsys, monkeypatch):
    for part in ("train", "val"):
        for name in (b"chat\xe9", b"b"):
            write_images(tmp_path / "set" / part / os.fsdecode(name), 6, width=70, height=66)
    found = open_data(str(pack(tmp_path / "set", tmp_path / "packed", quiet=True)))
    assert found.classes == open_data(str(tmp_path / "set")).classes == ("b", "chat\\udce9")
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    (tmp_path / "set").rename(odd)
    monkeypatch.chdir(tmp_path)
    run = tiny_run(None, str(odd), evaluate=True, **SMALL_RUN)
    assert run.name == "caf\\udce9-digits"
    assert (run / "results.jsonl").exists()
    embed("any", odd, out=tmp_path / "features.npz")
    paths = np.load(tmp_path / "features.npz")["paths"].tolist()
    assert b"train/chat\xe9/0000.png" in map(os.fsencode, paths)  # as the file is found again
    capsys.readouterr().out.encode()


def test_a_resume_that_finds_no_run_says_so(tmp_path, capsys):
    tiny_run(tmp_path / "run", resume=True, quiet=False, epochs=1)
    assert f"{tmp_path / 'run'}: no run to resume there; a new one starts" in " ".join(capsys.readouterr().out.split())
