"""Images and labels in lists, as people have them: what fits is taken, what does not is told or refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import labelled_folder, write_images

from mec.data.opening import open_data
from mec.data.pack import pack
from mec.data.sources import open_images
from mec.data.tables import drawn, read_table
from mec.errors import BadInput
from mec.evaluation.evaluate import evaluate, features
from mec.reports.comparison import compare

CELLS = Path(__file__).parents[3] / "shared" / "data" / "cells"


@pytest.fixture
def images(tmp_path):
    """Twenty images of 80 px, a/0000.png to b/9.png, and a CSV that calls those of a/ ant and those of b/ bee."""
    for i, folder in enumerate("ab"):
        write_images(tmp_path / "images" / folder, 10, seed=i, width=80, height=80)
    names = sorted(path.relative_to(tmp_path / "images") for path in (tmp_path / "images").rglob("*.png"))
    rows = {str(name): "ant" if str(name).startswith("a") else "bee" for name in names}
    return tmp_path / "images", rows


def table(path: Path, rows, header="path,label") -> Path:
    path.write_text("\n".join([header, *(",".join(row) for row in (rows.items() if isinstance(rows, dict) else rows))]))
    return path


def of(split) -> dict[str, int]:
    return dict(zip((Path(path).name for path in split.images.paths), split.labels.tolist()))


def test_labels_of_a_csv_make_classes_and_a_part_that_is_held_out(images, tmp_path):
    folder, rows = images
    data = open_data(str(folder), labels=table(tmp_path / "labels.csv", rows))
    assert data.classes == ("ant", "bee")
    assert (len(data.train), len(data.test)) == (14, 6)
    assert sorted(data.test.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    assert "6 of 20 labelled images (30% of each class, the same each time) are held out" in " ".join(data.words())
    paths = [*data.train.images.paths, *data.test.images.paths]
    labels = [*data.train.labels, *data.test.labels]
    assert {p: "ab"[y] for p, y in zip(paths, labels)} == {p: Path(p).parent.name for p in paths}
    assert len({*paths}) == 20


def test_what_is_held_out_stays_so_when_other_images_and_rows_come(images, tmp_path):
    folder, rows = images
    before = of(open_data(str(folder), labels=table(tmp_path / "labels.csv", rows)).test)
    write_images(folder / "c", 10, seed=7, width=80, height=80)
    more = {**rows, **{f"c/{path.name}": "cat" for path in (folder / "c").iterdir()}}
    after = open_data(str(folder), labels=table(tmp_path / "labels.csv", [*more.items()][::-1])).test
    assert before.keys() <= of(after).keys()


def test_a_draw_takes_three_of_ten_of_each_class_and_leaves_rare_ones():
    held_out = drawn([str(i) for i in range(41)], ["a"] * 20 + ["b"] * 10 + ["c"] + [None] * 10)
    assert [held_out[:20].sum(), held_out[20:30].sum(), held_out[30:].sum()] == [6, 3, 0]


def test_a_column_of_parts_decides(images, tmp_path):
    folder, rows = images
    parts = ["Train", "val", "TEST", ""]
    file = table(
        tmp_path / "t.csv", [(n, c, parts[i % 4]) for i, (n, c) in enumerate(rows.items())], "Path,Label,Split"
    )
    data = open_data(str(folder), labels=file)
    assert (len(data.train), len(data.validation), len(data.test), data.split) == (10, 5, 5, "test")
    assert open_data(str(folder), labels=file, split="val").split == "val"
    assert not any("held out" in words for words in data.words())
    assert "t.csv: 5 images have no part in its column split: train, or that of their folder" in data.words()


def test_a_column_of_parts_that_holds_out_no_labelled_image_is_told(images, tmp_path):
    folder, rows = images
    parts = [(n, c if i else "", "train" if i else "val") for i, (n, c) in enumerate(rows.items())]
    data = open_data(str(folder), labels=table(tmp_path / "t.csv", parts, "path,label,split"))
    assert not data.can_be_measured
    assert "t.csv: its column split holds out no labelled image, so nothing is measured" in data.words()


@pytest.mark.parametrize("place", ["beside", "inside", "elsewhere"])
@pytest.mark.parametrize("spelling", ["from the folder", "with the folder", "ends", "absolute", "windows", "no suffix"])
def test_rows_are_found_however_their_paths_are_written(images, tmp_path, place, spelling):
    folder, _ = images
    unique = [path.rename(path.with_name(f"{path.parent.name}{path.name}")) for path in sorted(folder.rglob("*.png"))]
    written = {
        "from the folder": lambda p: str(p.relative_to(folder)),
        "with the folder": lambda p: str(p.relative_to(tmp_path)),
        "ends": lambda p: p.name,
        "absolute": str,
        "windows": lambda p: str(p.relative_to(tmp_path)).replace("/", "\\"),
        "no suffix": lambda p: p.stem,
    }[spelling]
    (tmp_path / "other").mkdir()
    home = {"beside": tmp_path, "inside": folder, "elsewhere": tmp_path / "other"}[place]
    file = table(home / "labels.csv", {written(p): p.parent.name for p in unique})
    found = open_images(folder, file)
    assert [found.data.classes[y] for y in found.split.labels] == [name[0] for name in found.names]
    assert len(found.names) == 20


def test_what_does_not_fit_is_told(images, tmp_path):
    folder, rows = images
    some = [(n, c, "2020") for n, c in [*rows.items()][:-2]]
    some += [some[0], ("gone.png", "ant", ""), (list(rows)[-1], "", "")]
    words = open_images(folder, table(tmp_path / "t.csv", some, "path,label,year")).data.words()
    assert words == [
        "t.csv: 1 rows are in it twice, and count once",
        "t.csv: columns that are not used: year",
        "t.csv: 1 of 20 rows are of no image here (gone.png)",
        f"t.csv: 2 of 20 images have no label in it ({', '.join([*rows][-2:])})",
    ]


REFUSED = {
    "no rows": ("path,label\n", "no row in it"),
    "empty": ("", "no table"),
    "no column of labels": ("path,size\na/0000.png,3\n", r"no column 'label' \(nor class.*Its columns: path, size"),
    "no column of paths": ("x,label\na/0000.png,3\n", "no column 'path'"),
    "two labels": ("path,label\na/0000.png,ant\na/0000.png,bee\n", "a/0000.png stands in it twice, as ant and as bee"),
    "two spellings": (
        "path,label\na/0000.png,ant\n./a/0000.png,bee\n",
        "./a/0000.png stands in it twice, as ant and as bee",
    ),
    "an end and a path": ("path,label\na/0000.png,ant\nx/a/0000.png,bee\n", "are one image with two labels or parts"),
    "two parts": ("path,label,split\na/0000.png,ant,train\n./a/0000.png,ant,val\n", "as ant, train and as ant, val"),
    "an end in two parts": (
        "path,label,split\na/0000.png,ant,train\nx/a/0000.png,ant,val\n",
        "are one image with two labels or parts",
    ),
    "fits several": ("path,label\n0000.png,ant\n", r"0000.png fits 2 images \(a/0000.png, b/0000.png\)"),
    "nothing fits": ("path,label\nx.png,ant\n", "none of its 1 paths"),
    "a row is short": ("path,label\na/0000.png\n", "row 1 has 1 fields, the header 2"),
    "a row without a path": ("path,label\n,ant\n", "row 1 has no path"),
    "an odd part": ("path,label,split\na/0000.png,ant,fold1\n", r"split has 'fold1' \(1 rows\)"),
    "an open quote": ('path,label\n"a/0000.png,ant\n', "no table"),
    "bytes": (b"path,label\n\xff\xfe\x00,a\n", "cannot be read"),
    "escapes": ("path,label\n\x1b[2Jx.png,ant\n", r"\\x1b"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused(images, tmp_path, case):
    text, words = REFUSED[case]
    folder, _ = images
    file = tmp_path / "labels.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    for opened in (lambda: open_images(folder, file), lambda: open_data(str(folder), labels=file)):
        with pytest.raises(BadInput, match=words):
            opened()


def test_a_csv_or_a_text_is_the_images(images, tmp_path, monkeypatch):
    folder, rows = images
    chosen = [*rows][3:11]
    file = table(folder / "some.csv", {name: rows[name] for name in chosen})
    text = tmp_path / "some.txt"
    text.write_text("\n".join(f"images/{name}" for name in chosen) + "\n\n")
    for given, names in ((file, chosen), (text, [f"images/{name}" for name in chosen])):
        found = open_images(given)
        assert [*found.names] == names
        assert [Path(p).resolve() for p in found.split.images.paths] == [folder / name for name in chosen]
    assert open_images(file).split.labels.tolist() == [int(rows[name] == "bee") for name in chosen]
    assert open_images(text).split.labels is None
    assert len(open_data(str(text)).train) == 8
    assert open_data(str(file)).classes == ("ant", "bee")
    elsewhere = tmp_path / "lists" / "some.txt"
    elsewhere.parent.mkdir()
    shutil.move(text, elsewhere)
    monkeypatch.chdir(tmp_path)
    found = open_images(elsewhere)
    assert len(found.names) == 8
    assert f"its paths lead from {tmp_path}" in found.data.words()[0]


@pytest.mark.parametrize("spelling", ["./{}", "{folder}/{}", "../images/{}", ".\\{}"])
def test_an_image_that_a_list_names_in_two_spellings_counts_once(images, spelling):
    folder, rows = images
    both = [(n, c) for name, c in rows.items() for n in (name, spelling.format(name, folder=folder))]
    data = open_data(str(table(folder / "list.csv", both)))
    assert len(data.train) + len(data.test) == 20
    assert "list.csv: 20 rows are in it twice, and count once" in data.words()
    with pytest.raises(BadInput, match=r"stands in it twice, as ant and as bee: keep one"):
        open_data(str(table(folder / "list.csv", [both[0], (both[1][0], "bee"), *both[2:]])))


def test_files_that_a_list_names_and_that_are_not_there_are_told_or_refused(images, tmp_path):
    folder, rows = images
    file = table(folder / "some.csv", {**rows, "gone.png": "ant"})
    found = open_images(file)
    assert (len(found.names), found.data.skipped[0].path) == (20, str(folder / "gone.png"))
    assert found.data.words() == ["Left out: 1 image that cannot be read"]
    assert [found.data.classes[y] for y in found.split.labels] == [*rows.values()]
    with pytest.raises(BadInput, match="30 of 50 images cannot be read"):
        open_images(table(folder / "some.csv", {**rows, **{f"gone{i}.png": "ant" for i in range(30)}}))


def test_labels_of_folders_and_parts(tmp_path):
    labelled_folder(tmp_path / "set")
    found = open_images(tmp_path / "set", "folders")
    assert found.data.classes == ("a", "b", "c")
    assert {*found.parts} == {"train", "val"}
    assert [found.data.classes[y] for y in found.split.labels] == [Path(n).parent.name for n in found.names]
    write_images(tmp_path / "flat", 3, seed=1)
    with pytest.raises(BadInput, match="fewer than two"):
        open_images(tmp_path / "flat", "folders")


def test_shards_take_labels_of_a_csv(images, tmp_path):
    folder, rows = images
    packed = pack(folder, tmp_path / "packed", quiet=True)
    file = table(tmp_path / "labels.csv", rows)
    data = open_data(str(packed), labels=file)
    assert (len(data.train), len(data.test), data.classes) == (14, 6, ("ant", "bee"))
    same = open_data(str(folder), labels=file)
    assert {data.test.images.name(i).rpartition("#")[2] for i in range(6)} == {
        str(Path(path).relative_to(folder)) for path in same.test.images.paths
    }
    assert data.fingerprint != open_data(str(packed)).fingerprint
    found = open_images(packed, file)
    assert [found.data.classes[y] for y in found.split.labels] == [rows[name] for name in found.names]


def test_packing_keeps_the_labels_and_parts_of_a_csv(images, tmp_path):
    folder, rows = images
    file = table(
        folder / "t.csv", [(n, c, "test" if "3" in n else "train") for n, c in rows.items()], "path,label,split"
    )
    for given, labels in ((folder, file), (file, None)):
        out = tmp_path / f"packed-{labels is None}"
        data = open_data(str(pack(given, out, labels=labels, quiet=True)))
        assert (len(data.train), len(data.test), data.classes) == (18, 2, ("ant", "bee"))
        names = [data.train.images.name(i).rpartition("#")[2] for i in range(18)]
        assert {n: data.classes[y] for n, y in zip(names, data.train.labels)} == {
            n: c for n, c in rows.items() if "3" not in n
        }


def test_other_labels_are_another_data_set(images, tmp_path):
    folder, rows = images
    told = []
    for other in ("ant", "bee"):  # of the first image; the parts stay
        changed = {**rows, next(iter(rows)): other}
        parts = [(n, c, "val" if "7" in n else "train") for n, c in changed.items()]
        told.append(open_data(str(folder), labels=table(tmp_path / "labels.csv", parts, "path,label,split")))
    assert of(told[0].train).keys() == of(told[1].train).keys()
    assert told[0].fingerprint != told[1].fingerprint


def test_what_is_no_file_of_a_table_is_refused_at_once(images, tmp_path):
    folder, _ = images
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    for name in ("pipe.csv", "folder.csv", "gone.csv"):
        with pytest.raises(BadInput, match=rf"{name}: cannot be read"):
            open_data(str(folder), labels=tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such folder or image"):
        open_images(tmp_path / "pipe.csv")


def test_named_data_have_labels_of_their_own(tmp_path):
    with pytest.raises(BadInput, match="digits has labels of its own"):
        open_data("digits", labels=table(tmp_path / "t.csv", {"a": "b"}))


def test_a_semicolon_a_mark_and_other_names_of_columns(tmp_path):
    (tmp_path / "t.csv").write_bytes('\ufeffFilename;Class\r\n"a;b.png";x\r\n'.encode())
    found = read_table(tmp_path / "t.csv", labels=True)
    assert (found.paths, found.labels) == (("a;b.png",), ("x",))


def test_evaluate_compare_and_features_take_labels(images, tmp_path):
    folder, rows = images
    file = table(tmp_path / "labels.csv", rows)
    (result, *_) = evaluate("pixels", "knn", str(folder), labels=file, k=3, out=tmp_path / "results")
    assert (result.split, result.data) == ("test", "images")
    found = features("pixels", folder, labels=file)
    assert found.y.tolist() == [0] * 10 + [1] * 10
    where = compare(
        str(folder), labels=file, methods="mec-joint", epochs=1, batch_size=4, recipe="digits", out=tmp_path / "c",
        device="cpu", quiet=True, set=["views.size=8", "network.projector=[16,8]"], workers=0,
    )  # fmt: skip
    assert (where / "compare.png").exists()


@pytest.mark.skipif(not CELLS.exists(), reason="needs ../shared/data")
def test_cells_as_they_come():
    by_folder = open_data(str(CELLS / "images"), labels=CELLS / "labels.csv")
    by_table = open_data(str(CELLS / "labels.csv"))
    assert (len(by_table.train), len(by_table.test), by_table.name) == (210, 90, "cells-labels")
    assert of(by_folder.test) == of(by_table.test)
    assert np.bincount(by_table.test.labels).tolist() == [0, 7, 16, 14, 53]
    assert any("no image of classes" in words and "basophil (1)" in words for words in by_table.words())
