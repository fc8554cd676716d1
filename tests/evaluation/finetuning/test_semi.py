"""Few labels by share or by list, and the published recipes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import small_subject, write_images

from mec.data.dataset import Split
from mec.data.images import Files, InMemory
from mec.data.opening import open_data
from mec.errors import BadInput
from mec.evaluation.finetuning.finetune import FINETUNES, finetune, with_decay
from mec.evaluation.finetuning.semi import SEMI, labelled_part, semi_recipe, share_asked, share_of

# --- which images keep their label -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uneven() -> np.ndarray:
    """Classes of 1300, 732, 50 and 3 images, mixed."""
    labels = np.repeat([0, 1, 2, 3], [1300, 732, 50, 3])
    return np.random.default_rng(0).permutation(labels)


@pytest.mark.parametrize(
    ("share", "counts"), [(0.01, [13, 7, 1, 1]), (0.1, [130, 73, 5, 1]), (1.0, [1300, 732, 50, 3])]
)
def test_every_class_keeps_its_share_and_at_least_one(uneven, share, counts):
    rows = share_of(uneven, share, seed=0)
    assert np.bincount(uneven[rows]).tolist() == counts
    assert (np.diff(rows) > 0).all()


def test_a_smaller_share_is_part_of_a_larger_one_and_the_seed_decides(uneven):
    one, two, ten = (set(share_of(uneven, share, seed=5).tolist()) for share in (0.01, 0.02, 0.1))
    assert one < two < ten
    assert one == set(share_of(uneven, 0.01, seed=5).tolist())
    assert one != set(share_of(uneven, 0.01, seed=6).tolist())


def imagenet_like(root: Path) -> Split:
    """train/<wnid>/<wnid>_<number>.JPEG, as ImageNet lies on disk."""
    for wnid in ("n04235860", "n01440764"):
        write_images(root / "train" / wnid, 6, width=70, height=66)
        write_images(root / "val" / wnid, 2, width=70, height=66)
        for i, path in enumerate(sorted((root / "train" / wnid).iterdir())):
            path.rename(path.with_name(f"{wnid}_{i * 10}.JPEG"))
    return open_data(str(root)).train


def test_simclrs_lists_are_read(tmp_path):
    """A bare file name a line; labels are ranks of the sorted wnids."""
    split = imagenet_like(tmp_path)
    names = ["n04235860_50.JPEG", "n01440764_0.JPEG", "n04235860_10.JPEG"]
    listing = tmp_path / "1percent.txt"
    listing.write_text("\n".join(names) + "\n")
    part = labelled_part(split, str(listing), seed=0)
    assert isinstance(part.images, Files)
    assert {Path(p).name for p in part.images.paths} == set(names)
    assert [(Path(p).parent.name, int(y)) for p, y in zip(part.images.paths, part.labels)] == [
        ("n01440764", 0),
        ("n04235860", 1),
        ("n04235860", 1),
    ]
    listing.write_text("n01440764/n01440764_20.JPEG\r\n\r\n")  # with its class, as Windows writes lines
    assert len(labelled_part(split, str(listing), seed=0)) == 1


def test_lists_that_do_not_fit_the_images_are_refused(tmp_path):
    split = imagenet_like(tmp_path)
    listing = tmp_path / "list.txt"
    listing.write_text("n04235860_50.JPEG\nn99999999_1.JPEG\n")
    with pytest.raises(BadInput, match=r"1 of its 2 names are not among.*n99999999_1"):
        labelled_part(split, str(listing), seed=0)
    listing.write_text("")
    with pytest.raises(BadInput, match="file is empty"):
        labelled_part(split, str(listing), seed=0)
    listing.write_text("0001.png\n")
    with pytest.raises(BadInput, match="not single files"):
        labelled_part(open_data("digits").train, str(listing), seed=0)
    for name in ("a", "b"):
        write_images(tmp_path / "twins" / "train" / name, 2, width=70, height=70)
        write_images(tmp_path / "twins" / "val" / name, 1, width=70, height=70)
    twins = open_data(str(tmp_path / "twins")).train
    with pytest.raises(BadInput, match=r"name of 2 images; write CLASS/0001\.png"):
        labelled_part(twins, str(listing), seed=0)
    listing.write_text("b/0001.png\n")
    assert labelled_part(twins, str(listing), seed=0).labels.tolist() == [1]


@pytest.mark.parametrize("labels", ["0%", "101%", "one%", "-1%", "%"])
def test_shares_that_make_no_sense_are_refused(labels):
    with pytest.raises(BadInput, match="--labels is"):
        labelled_part(open_data("digits").train, labels, seed=0)


# --- recipes -----------------------------------------------------------------------------------------------------


def test_the_recipe_is_that_of_the_share_that_was_asked_for():
    """1 % of twenty images a class is one: 5 %."""
    everything = Split(InMemory(torch.zeros(40, 3, 2, 2, dtype=torch.uint8)), np.arange(40) % 2)
    part = labelled_part(everything, "1%", 0)
    assert len(part) == 2
    assert share_asked("1%", part, everything) == 0.01
    assert semi_recipe("barlow-twins", share_asked("1%", part, everything)) == SEMI["barlow-twins"][0]


def test_a_preset_that_is_published_for_one_percent_alone_is_refused_for_ten():
    with pytest.raises(BadInput, match="barlow-twins is published for 1 %"):
        semi_recipe("barlow-twins", 0.1)


def test_weight_decay_is_divided_by_the_rate():
    """Appendix B.8 of SimCLR's paper."""
    point = with_decay(FINETUNES["simclr"], 0.01, 1e-5)
    assert (point.base_lr, point.weight_decay) == pytest.approx((0.01, 1e-3))


# --- from end to end ---------------------------------------------------------------------------------------------


def test_fine_tuning_trains_a_copy_and_beats_the_frozen_backbone(tmp_path):
    from dataclasses import replace

    subject = small_subject(tmp_path)
    before = copy.deepcopy(subject.encoder.state_dict())
    data = open_data("digits", limit=200)
    recipe = replace(FINETUNES["simclr"], steps=40, batch_size=50, base_lr=0.05)
    tuned = finetune(subject, data, recipe)
    assert all(torch.equal(before[k], v) for k, v in subject.encoder.state_dict().items())
    still = finetune(subject, data, replace(recipe, base_lr=1e-9))
    assert tuned[0].value > still[0].value + 25
    assert [r.metric for r in tuned] == ["top-1", "top-5", "balanced accuracy"]
    assert tuned[0].settings["steps"] == 40
    assert finetune(subject, data, recipe)[0].value == tuned[0].value  # the seed decides
