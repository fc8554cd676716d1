"""Tars without an index: read to their end, whatever their names are; what is lost is counted and told."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers import noise_image, small_subject

from mec.data.opening import open_data
from mec.errors import BadInput
from mec.evaluation.probing.protocols import Knn
from mec.exports.embed import embed


def png(seed: int) -> bytes:
    data = io.BytesIO()
    noise_image(seed, 70, 66).save(data, "PNG")
    return data.getvalue()


def write_tar(path: Path, members: dict[str, bytes], kind: int = tarfile.USTAR_FORMAT) -> list[int]:
    """Where each member's header lies."""
    places = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in members.items():
            places.append(tar.offset)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return places


def numbered(count: int, start: int = 0) -> dict[str, bytes]:
    return {f"{start + i:03}.png": png(start + i) for i in range(count)}


def spoil(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place + 3] ^= 0x40
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_behind_a_damaged_header_the_rest_is_found_and_the_loss_is_told(tmp_path, kind):
    tar = tmp_path / "photos.tar"
    places = write_tar(tar, numbered(12), kind)
    whole = open_data(str(tar))
    assert (len(whole.train), whole.words()) == (12, [])
    spoil(tar, places[4])
    spoil(tar, places[9])
    found = open_data(str(tar))
    names = [found.train.images.table.names[row] for row in found.train.images.rows]
    assert names == [f"{i:03}.png" for i in range(12) if i not in (4, 9)]
    assert [found.train.images.read(i).size for i in range(10)] == [(70, 66)] * 10
    words = " ".join(found.words())
    assert "Left out: 2 files or more at damaged headers" in words


def test_a_tar_whose_first_header_is_damaged_loses_one_image(tmp_path):
    tar = tmp_path / "photos.tar"
    spoil(tar, write_tar(tar, numbered(5))[0])
    assert len(open_data(str(tar)).train) == 4


def test_a_tar_that_is_cut_off_is_refused(tmp_path):
    tar = tmp_path / "photos.tar"
    places = write_tar(tar, numbered(6))
    tar.write_bytes(tar.read_bytes()[: places[4] + 900])
    with pytest.raises(BadInput, match=r"photos\.tar: not a readable tar file .*Is the copy whole\?"):
        open_data(str(tar))


def test_a_tar_that_ends_between_two_images_is_told(tmp_path):
    tar = tmp_path / "photos.tar"
    places = write_tar(tar, numbered(6))
    tar.write_bytes(tar.read_bytes()[: places[4]])
    found = open_data(str(tar))
    assert len(found.train) == 4
    assert any("has no end mark" in words for words in found.words())


def test_two_tars_put_together_are_read_to_the_end_of_the_second(tmp_path):
    for i in (0, 1):
        write_tar(tmp_path / f"{i}.tar", numbered(3, 10 * i))
    both = tmp_path / "both.tar"
    both.write_bytes((tmp_path / "0.tar").read_bytes() + (tmp_path / "1.tar").read_bytes())
    found = open_data(str(both))
    assert (len(found.train), found.words()) == (6, [])


def test_the_suffix_is_what_follows_the_last_dot(tmp_path):
    names = [*(f"IMG_{i}.png" for i in range(4)), *(f"Screenshot 2020.01.{i:02}.png" for i in range(4)), "v1.2/a.b.PNG"]
    members = {name: png(i) for i, name in enumerate(names)}
    members |= {"Screenshot 2020.01.02.cls": b"1", "v1.2/a.cls": b"2", "IMG_0.cls": b"0"}
    write_tar(tmp_path / "dots.tar", members)
    found = open_data(str(tmp_path / "dots.tar"))
    labels = {found.train.images.table.names[row]: label for row, label in zip(found.train.images.rows, found.train.y)}
    assert labels.keys() == {*names}
    assert {name: label for name, label in labels.items() if label >= 0} == {
        "IMG_0.png": 0,
        "Screenshot 2020.01.02.png": 1,
        "v1.2/a.b.PNG": 2,
    }


def test_masks_beside_an_image_are_not_trained_on_and_counted(tmp_path):
    members = {f"{i}.{kind}": png(i) for i in range(4) for kind in ("png", "seg.png")}
    write_tar(tmp_path / "set.tar", members | {"0.txt": b"a caption", "0.json": b"{}"})
    found = open_data(str(tmp_path / "set.tar"))
    assert [found.train.images.table.names[row] for row in found.train.images.rows] == [f"{i}.png" for i in range(4)]
    assert found.left_out == {
        "files that belong to another image (as a.seg.png to a.jpg)": 4,
        "files with the suffix .txt": 1,
        "files with the suffix .json": 1,
    }


def test_labels_in_words_are_counted_as_left_out(tmp_path):
    members = {}
    for i in range(4):
        members |= {f"{i}.png": png(i), f"{i}.cls": b"cat" if i < 3 else b"1"}
    write_tar(tmp_path / "set.tar", members)
    found = open_data(str(tmp_path / "set.tar"))
    assert found.train.labels.tolist() == [-1, -1, -1, 1]
    assert found.words() == ["Left out: 3 labels (.cls) that are no whole numbers"]


def test_hidden_files_and_links_in_a_tar_are_counted(tmp_path):
    write_tar(tmp_path / "set.tar", {**numbered(3), "a/.hidden.png": png(8), "._000.png": b"\0\5\x16\7"})
    with tarfile.open(tmp_path / "set.tar", "a") as tar:
        for name, kind in (
            ("link.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("pipe.png", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "000.png"
            tar.addfile(member)
    found = open_data(str(tmp_path / "set.tar"))
    assert len(found.train) == 3
    assert found.left_out == {"hidden files": 2, "files that are links or no regular files": 3}


def test_what_is_no_tar_at_all_is_told(tmp_path):
    (tmp_path / "set.tar").write_bytes(np.random.default_rng(0).bytes(20_000))
    with pytest.raises(BadInput, match=r"not a readable tar file \(no valid header\)"):
        open_data(str(tmp_path / "set.tar"))


def test_a_pattern_with_stars_stands_for_the_tars_there(tmp_path):
    for i in range(3):
        write_tar(tmp_path / f"part-{i}.tar", numbered(2, 10 * i))
    assert len(open_data(str(tmp_path / "part-*.tar")).train) == 6
    assert len(open_data(str(tmp_path / "part-[01].tar")).train) == 4
    with pytest.raises(BadInput, match=r"other-\*\.tar: no such file"):
        open_data(str(tmp_path / "other-*.tar"))


def labelled_tars(folder: Path) -> str:
    for part, count in (("train", 8), ("val", 4)):
        members = {}
        for i in range(count):
            members |= {f"{i}.png": png(i), f"{i}.cls": str(i % 2).encode()}
        write_tar(folder / f"{part}-000.tar", members)
    return str(folder / "*.tar")


def test_tars_are_evaluated_on_the_part_that_their_names_say(tmp_path):
    found = open_data(labelled_tars(tmp_path / "set"))
    assert (len(found.train), len(found.test), found.split) == (8, 4, "val")
    results = Knn(data=labelled_tars(tmp_path / "set"), k=[1]).measure(small_subject(tmp_path))
    assert results[0].split == "val"
    alone = open_data(str(tmp_path / "set" / "val-000.tar"))  # asked for by name, it is what is trained on
    assert (len(alone.train), alone.test) == (4, None)


def test_tars_are_embedded_by_the_names_inside(tmp_path, monkeypatch):
    monkeypatch.setattr("mec.exports.embed.resolve", lambda *_, **__: small_subject(tmp_path))
    write_tar(tmp_path / "set.tar", numbered(5))
    embed("any", tmp_path / "set.tar", out=tmp_path / "features.npz")
    found = np.load(tmp_path / "features.npz")
    assert found["paths"].tolist() == [f"{i:03}.png" for i in range(5)]
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, data in numbered(5).items():
        (folder / name).write_bytes(data)
    embed("any", folder, out=tmp_path / "of-folder.npz")
    assert np.array_equal(found["features"], np.load(tmp_path / "of-folder.npz")["features"])


def test_a_packed_file_that_is_no_plain_tar_says_what_to_do(tmp_path):
    (tmp_path / "set.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(BadInput, match="is a packed file: unpack it first"):
        open_data(str(tmp_path / "set.tar.gz"))
