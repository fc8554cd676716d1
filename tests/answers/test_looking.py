"""Search, copies, strange images and doubtful labels: against brute force, and on digits whose answer is known."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import digit_images
from PIL import Image
from sklearn.datasets import load_digits

import mec
from mec.answers import neighbours
from mec.answers.looking import alike
from mec.answers.neighbours import exact, nearest, others
from mec.cli.main import main
from mec.errors import BadInput


def unit(n: int, e: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, e)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("at_once", [7, 100, 1000])
def test_the_nearest_are_those_of_all_cosines_in_float64(at_once):
    bank, queries = unit(100, 6), unit(30, 6, 1)
    cosines = queries.astype(np.float64) @ bank.astype(np.float64).T
    similarity, index = exact(bank, queries, 9, at_once)
    assert (index == np.argsort(-cosines, axis=1)[:, :9]).all()
    assert np.allclose(similarity, -np.sort(-cosines, axis=1)[:, :9], atol=1e-6)


def test_an_index_finds_the_nearest_in_clusters_and_tells_how_many(monkeypatch, capsys):
    centres = unit(40, 16)
    x = np.repeat(centres, 100, axis=0) + 0.1 * np.random.default_rng(2).normal(size=(4000, 16)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    monkeypatch.setattr(neighbours, "EXACT", 1000)
    found, right = nearest(x, x, 5)[1], exact(x, x, 5)[1]
    recall = np.mean([len({*a.tolist()} & {*b.tolist()}) / 5 for a, b in zip(found, right)])
    told = float(re.search(r"faiss: ([\d.]+) %", capsys.readouterr().out)[1])
    assert recall > 0.95
    assert abs(100 * recall - told) < 4


def test_an_image_is_not_its_own_neighbour_even_among_many_copies():
    x = np.concatenate([np.repeat(unit(1, 5), 8, axis=0), unit(10, 5, 3)])
    similarity, index = others(x, 3)
    assert (index != np.arange(18)[:, None]).all()
    assert np.allclose(similarity[:8], 1, atol=1e-6)


def test_groups_are_the_connected_parts_of_all_pairs():
    x = unit(60, 3, 5)
    cosines = x @ x.T
    group = {i: {i} for i in range(60)}
    for i, j in zip(*np.nonzero(np.triu(cosines >= 0.98, 1))):
        if group[i] is not group[j]:
            group[i] |= group[j]
            for member in group[i]:
                group[member] = group[i]
    wanted = {tuple(sorted(g)) for g in group.values() if len(g) > 1}
    assert len(wanted) > 5
    assert {tuple(sorted(members.tolist())) for members in alike(x, 0.98)} == wanted
    assert alike(x[:1], 0.9) == []


@pytest.fixture
def labelled(tmp_path: Path, finished: Path) -> tuple[Path, Path]:
    """A run, and train/ and test/ of digits 0 to 4 in folders of their class."""
    y = load_digits().target
    for i, image in enumerate(digit_images(300)):
        if y[i] < 5:
            folder = tmp_path / "set" / ("train" if i < 200 else "test") / f"d{y[i]}"
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{i:04}.png")
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run", tmp_path / "set"


def test_a_copy_in_the_test_part_is_named_as_a_leak_from_the_command_line(labelled, tmp_path, capsys):
    run, folder = labelled
    first = sorted((folder / "train" / "d0").iterdir())[0]
    shutil.copy(first, folder / "test" / "d1" / "copy.png")
    shutil.copy(first, folder / "train" / "d2" / "again.png")
    assert main(["duplicates", str(run), str(folder), "--out", str(tmp_path / "c.csv"), "--above", "0.99999"]) == 0
    group = next(row for row in rows(tmp_path / "c.csv") if row["path"].endswith(first.name))["group"]
    members = {row["path"]: row for row in rows(tmp_path / "c.csv") if row["group"] == group}
    assert members.keys() == {f"train/d0/{first.name}", "test/d1/copy.png", "train/d2/again.png"}
    assert {row["leak"] for row in members.values()} == {"test train"}
    assert "leak between parts" in capsys.readouterr().out


def test_the_strangest_image_is_the_one_of_another_kind(labelled, tmp_path, photographs):
    run, folder = labelled
    photographs[0].save(folder / "train" / "d0" / "flower.png")
    found = mec.outliers(run, folder, out=tmp_path / "o.csv", n=5)
    assert found[0][1] == "train/d0/flower.png"
    similarity = [float(row["similarity"]) for row in rows(tmp_path / "o.csv")]
    assert similarity == sorted(similarity)
    assert len(similarity) == 5


def test_search_gives_the_image_itself_first_and_then_by_cosine(labelled, tmp_path):
    run, folder = labelled
    asked = sorted((folder / "test" / "d3").iterdir())[:2]
    found = mec.search(run, folder, query=",".join(map(str, asked)), out=tmp_path / "s.csv", top=4)
    assert [row[1] for row in found] == [1, 2, 3, 4] * 2
    features = mec.features(run, folder)
    x = features.unit().numpy()
    at = {name: i for i, name in enumerate(features.names)}
    for query, mine in zip(asked, (found[:4], found[4:])):
        cosines = x @ x[at[f"test/d3/{query.name}"]]
        assert mine[0][2] == f"test/d3/{query.name}"
        assert np.allclose([float(row[3]) for row in mine], -np.sort(-cosines)[:4], atol=1e-3)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        mec.search(run, folder, query="nowhere.png", out=tmp_path / "s.csv")


def test_labels_that_were_changed_are_doubted_first(labelled, tmp_path):
    run, folder = labelled
    moved = {
        f"d{(d + 1) % 5}/{p.name}": p for d in range(5) for p in sorted((folder / "train" / f"d{d}").iterdir())[:2]
    }
    for name, path in moved.items():
        path.rename(folder / "train" / name)
    wrong = moved.keys()
    found = mec.mislabelled(run, folder / "train", out=tmp_path / "m.csv")
    doubted = {row[1]: row for row in found[:12]}
    assert len(wrong & doubted.keys()) >= 7
    given_and_right = [
        (doubted[name][2:4], (name[:2], f"d{(int(name[1]) - 1) % 5}")) for name in wrong & doubted.keys()
    ]
    assert sum(found == wanted for found, wanted in given_and_right) > len(given_and_right) / 2
    quality = [float(row[4]) for row in found]
    assert quality == sorted(quality)


def test_the_page_asks_for_nothing_and_names_in_it_do_nothing(labelled, tmp_path):
    run, folder = labelled
    bad = "<img src=x onerror=alert(1)>&\x1b.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "train" / "d0" / bad)
    mec.outliers(run, folder, out=tmp_path / "o.csv", n=3)
    page = (tmp_path / "o.html").read_text()
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;\\x1b.png" in page
    assert "onerror=alert(1)>" not in page
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert "<script" not in page
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r'src="([^"]*)"', page))
    assert not re.search(r"https?://|url\(|href", page)


@pytest.mark.parametrize("function", ["search", "duplicates", "outliers", "mislabelled"])
def test_a_wrong_out_is_told_before_any_image_is_read(function, tmp_path):
    more = {"query": "x.png"} if function == "search" else {}
    with pytest.raises(BadInput, match=r"x\.txt: its name ends with \.csv"):
        getattr(mec, function)("no-run", "no-images", out=tmp_path / "x.txt", **more)
