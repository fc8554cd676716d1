"""Ways to choose images, each against what it says in words, computed one by one in float64."""

from __future__ import annotations

import numpy as np
import pytest

from mec.answers import choosing
from mec.answers.choosing import CHOSEN_ERROR, OTHERS_ERROR, WAYS, choose
from mec.errors import BadInput


def rows(n: int = 60, e: int = 7, seed: int = 0) -> np.ndarray:
    """Features of three uneven kinds, of any length."""
    draw = np.random.default_rng(seed)
    kinds = draw.normal(size=(3, e))[draw.choice(3, n, p=[0.6, 0.3, 0.1])]
    return ((kinds + 0.5 * draw.normal(size=(n, e))) * draw.uniform(0.1, 9, (n, 1))).astype(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def remaining(x: np.ndarray, chosen: list[int]) -> float:
    """tr(Σ A): what is left of all rows given those chosen, to first order."""
    a = np.linalg.inv(np.eye(x.shape[1]) + x[chosen].T @ x[chosen] / OTHERS_ERROR)
    return float(np.trace(x.T @ x / len(x) @ a))


def length(x: np.ndarray, chosen: list[int]) -> float:
    return float(np.linalg.slogdet(np.eye(x.shape[1]) + x[chosen].T @ x[chosen] / CHOSEN_ERROR)[1])


def greedily(x: np.ndarray, count: int, known: list[int], value) -> list[int]:
    found: list[int] = []
    for _ in range(count):
        others = [i for i in range(len(x)) if i not in (*known, *found)]
        found.append(max(others, key=lambda i: value(x, [*known, *found, i])))
    return found


@pytest.mark.parametrize("known", [[], [3, 17, 40]])
def test_the_code_of_the_chosen_grows_the_most_at_each_choice(known):
    x = unit(rows())
    start = [] if known else [int((x @ x.sum(0)).argmax())]
    wanted = start + greedily(x, 9 - len(start), [*known, *start], length)
    assert choose(x, 9, way="coding-chosen", labelled=np.array(known)).tolist() == wanted


@pytest.mark.parametrize("known", [[], [3, 17, 40]])
def test_the_others_are_left_with_the_least_at_each_choice(known, monkeypatch):
    monkeypatch.setattr(choosing, "ROUNDS", 0)
    x = rows()
    wanted = greedily(unit(x), 9, known, lambda x, chosen: -remaining(x, chosen))
    assert choose(x, 9, way="coding", labelled=np.array(known)).tolist() == wanted


@pytest.mark.parametrize("known", [[], [3, 17, 40]])
def test_no_exchange_of_one_image_leaves_the_others_with_less(known, monkeypatch):
    monkeypatch.setattr(choosing, "ROUNDS", 100)
    x = unit(rows())
    found = choose(x, 6, way="coding", labelled=np.array(known)).tolist()
    least = remaining(x, [*known, *found])
    assert least < remaining(x, [*known, *greedily(x, 6, known, lambda x, c: -remaining(x, c))]) + 1e-12
    for place in range(6):
        for other in {*range(60)} - {*known, *found}:
            swapped = [*found[:place], other, *found[place + 1 :]]
            assert remaining(x, [*known, *swapped]) > least - 1e-12


def test_what_is_left_stays_exact_through_many_choices_and_exchanges():
    x = choosing.Rows(rows(300, 16, seed=1))
    code = choosing.Code(x, 0.01)
    order = np.random.default_rng(0).integers(0, 300, 200)
    for index in order:
        code.take(x[np.array([index])][0], index)
    for index in order[:150]:
        code.take(x[np.array([index])][0], index, -1)
    kept = x[order[150:]]
    a = np.linalg.inv(np.eye(16) + kept.T @ kept / 0.01)
    everything = x[slice(0, 300)]
    assert np.allclose(code.d, np.einsum("ij,jk,ik->i", everything, a, everything), rtol=1e-9, atol=0)
    moment = everything.T @ everything / 300
    assert np.allclose(code.q, np.einsum("ij,jk,ik->i", everything, a @ moment @ a, everything), rtol=1e-8, atol=0)


@pytest.mark.parametrize("known", [[], [3, 17, 40]])
def test_the_farthest_is_the_least_like_any_chosen(known):
    x = unit(rows())
    found = choose(x, 9, way="farthest", labelled=np.array(known)).tolist()
    start = [] if known else [int((x @ x.sum(0)).argmax())]
    wanted = start + greedily(x, 9 - len(start), [*known, *start], lambda x, c: -(x[c[:-1]] @ x[c[-1]]).max())
    assert found == wanted


def test_typical_images_lie_in_clusters_that_no_label_covers():
    centres = 5 * np.eye(6)
    x = np.concatenate([c + 0.1 * np.random.default_rng(i).normal(size=(10 + i, 6)) for i, c in enumerate(centres)])
    kind = np.repeat(np.arange(6), 10 + np.arange(6))
    labelled = np.flatnonzero(kind == 5)[:1]
    found = choose(x, 5, way="typical", labelled=labelled)
    assert kind[found].tolist() == [4, 3, 2, 1, 0]  # the largest first
    for index in found:
        members = unit(x)[kind == kind[index]]
        assert np.isclose(
            np.linalg.norm(members - members.mean(0), axis=1).min(),
            np.linalg.norm(unit(x)[index] - members.mean(0)), atol=1e-6,
        )  # fmt: skip


@pytest.mark.parametrize("way", ["auto", *WAYS])
def test_every_way_gives_as_many_as_were_asked_once_each_and_none_that_is_labelled(way):
    x = rows(40, 5)
    x[10:30] = x[10]  # copies of one image
    x[5] = 0
    known = np.array([0, 11, 39])
    for count in (1, 20, 37):
        found = choose(x, count, way=way, labelled=known)
        assert len({*found.tolist()}) == len(found) == count
        assert not {*found.tolist()} & {*known.tolist()}
        assert (found == choose(x, count, way=way, labelled=known)).all()
        assert (found == choose(7 * x, count, way=way, labelled=known)).all()


@pytest.mark.parametrize("way", WAYS)
def test_features_mapped_from_disk_in_parts_give_the_same_choice(way, tmp_path, monkeypatch):
    x = rows(200, 9, seed=3)
    wanted = choose(x, 12, way=way, labelled=np.array([7]))
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr(choosing, "AT_ONCE", 33)
    monkeypatch.setattr(choosing, "HELD_BYTES", 0)
    assert choose(np.load(tmp_path / "x.npy", mmap_mode="r"), 12, way=way, labelled=np.array([7])).tolist() == (
        wanted.tolist()
    )


@pytest.mark.parametrize(
    ("count", "known", "way"), [(50, 0, "typical"), (51, 0, "coding"), (40, 11, "coding"), (39, 11, "typical")]
)
def test_auto_is_typical_up_to_fifty_labels_in_all_and_coding_above(count, known, way):
    x, labelled = rows(80, 6), np.arange(known)
    assert choose(x, count, labelled=labelled).tolist() == choose(x, count, way=way, labelled=labelled).tolist()
    other = {"typical": "coding", "coding": "typical"}[way]
    assert {*choose(x, count, labelled=labelled)} != {*choose(x, count, way=other, labelled=labelled)}


def test_a_smaller_random_draw_begins_a_larger_one_and_seeds_differ():
    x = rows()
    assert choose(x, 5, way="random").tolist() == choose(x, 30, way="random")[:5].tolist()
    assert choose(x, 30, way="random").tolist() != choose(x, 30, way="random", seed=1).tolist()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count": 58, "labelled": np.array([1, 2, 3])}, "--n is 58: of 60 images 3 are labelled; 1 to 57 fit"),
        ({"count": 0}, "--n is 0"),
        ({"way": "typcal"}, "'typcal'. Did you mean 'typical'"),
        ({"labelled": np.array([60])}, "indices of its rows"),
        ({"labelled": np.array([-1])}, "indices of its rows"),
        ({"features": np.full((60, 2), np.nan)}, "not finite"),
    ],
)
def test_what_does_not_fit_is_told(changes, words):
    asked = {"features": rows(), "count": 5, "way": "coding"} | changes
    with pytest.raises(BadInput, match=words.replace("(", r"\(")):
        choose(asked.pop("features"), asked.pop("count"), **asked)
