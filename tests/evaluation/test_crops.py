"""Features averaged over crops are those of the crops made by hand, and are never taken for those of whole images."""

import numpy as np
import pytest
import torch
from helpers import labelled_folder
from PIL import Image
from torch import nn

import mec
from mec.errors import BadInput
from mec.evaluation.crops import Averaged, FixedCrops
from mec.runtime.records import read_records


def as_input(image):
    """Any image or batch -> float [..., 3, 4, 4] by nearest pixels."""
    x = image if isinstance(image, torch.Tensor) else torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return nn.functional.interpolate(x.float().reshape(-1, *x.shape[-3:]), (4, 4)).reshape(*x.shape[:-3], 3, 4, 4)


@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_a_batch_and_single_pictures_give_the_same_crops(n):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 20, 32), dtype=np.uint8))
    crops = FixedCrops(as_input, n, 0.25)
    batch = crops(pixels)
    assert batch.shape == (3, n, 3, 4, 4)
    for image, found in zip(pixels, batch):
        assert torch.equal(crops(Image.fromarray(image.permute(1, 2, 0).numpy())), found)
    assert len({tuple(part.flatten().tolist()) for part in batch[0]}) == n  # no crop comes twice


def test_crops_cover_the_share_they_are_asked_for_and_the_whole_image_together():
    seen, sizes = torch.zeros(60, 60), []

    def look(image):
        sizes.append(image.shape[-2:])
        return image

    places = torch.arange(3600).view(1, 1, 60, 60).expand(1, 3, 60, 60)
    for part in FixedCrops(look, 64, 0.25)(places)[0, :, 0]:
        seen.view(-1)[part.flatten()] += 1
    assert {tuple(size) for size in sizes} == {(30, 30)}
    assert (seen > 0).float().mean() > 0.9  # the border is in few
    # The middle is in a quarter to all of them, and left and right, top and bottom have the same share.
    assert seen[:, :30].sum() / seen.sum() == pytest.approx(0.5, abs=0.02)
    assert seen[:30].sum() / seen.sum() == pytest.approx(0.5, abs=0.02)


def test_one_crop_of_a_long_image_is_a_square_inside_it():
    sizes = []
    FixedCrops(lambda image: sizes.append(image.size) or torch.zeros(3, 4, 4), 5, 1.0)(Image.new("RGB", (90, 10)))
    assert set(sizes) == {(10, 10)}


def test_the_mean_is_of_features_not_of_pixels():
    crops = torch.randn(5, 4, 3, 2, 2)
    squares = Averaged(nn.Sequential(nn.Flatten(), Square()))
    torch.testing.assert_close(squares(crops), crops.flatten(2).square().mean(1))


class Square(nn.Module):
    def forward(self, x):
        return x.square()


def test_results_in_crops_have_a_name_of_their_own_and_say_how_many(tmp_path, finished):
    whole = mec.evaluate(finished, "knn", "digits", k=20, limit=200, out=tmp_path)
    crops = mec.evaluate(finished, "knn", "digits", k=20, limit=200, crops=3, crop_area=0.5, out=tmp_path)
    assert [r.protocol for r in whole + crops] == ["knn"] * len(whole) + ["knn-crops"] * len(crops)
    assert crops[0].settings["crops"] == 3
    assert crops[0].settings["crop_area"] == 0.5
    assert "crops" in str(crops[0].line())
    assert crops[0].value != whole[0].value
    assert [r["protocol"] for r in read_records(tmp_path / "results.jsonl")][-1] == "knn-crops"


def test_photographs_are_cropped_before_they_are_made_smaller(tmp_path, finished):
    labelled_folder(tmp_path / "data", width=70, height=90)
    for protocol in ("knn", "fewshot", "linear"):
        found = mec.evaluate(finished, protocol, tmp_path / "data", crops=2, out=tmp_path)
        assert found[0].protocol.endswith("-crops")
        assert found[0].settings["crop_area"] == 0.25


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"crops": 0}, "crops is 0"),
        ({"crops": 2, "crop_area": 1.5}, "crop-area is 1.5"),
        ({"crops": 4, "preset": "paper"}, "makes its own crops"),
    ],
)
def test_what_does_not_fit_is_refused(finished, tmp_path, flags, words):
    with pytest.raises(BadInput, match=words):
        mec.evaluate(finished, "linear", "digits", out=tmp_path, **flags)


def test_features_that_were_made_have_no_crops():
    part = mec.Features(torch.randn(8, 3), torch.arange(8) % 2)
    with pytest.raises(BadInput, match="no crops"):
        mec.evaluate((part, part), "knn", crops=2)
