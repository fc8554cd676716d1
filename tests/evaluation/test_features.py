"""Features come once, in order, from a network that is left as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import labelled_folder, write_images
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from mec.data import images
from mec.data.dataset import Split
from mec.data.images import Files
from mec.data.opening import open_data
from mec.errors import BadInput
from mec.evaluation.features import Features, extract, measured_parts, pixels
from mec.evaluation.probing.fewshot import fewshot
from mec.evaluation.probing.knn import knn
from mec.evaluation.probing.linear import linear

TO_FLOAT = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])  # one that says what it does


def mean_colour(image) -> torch.Tensor:
    """A transform whose result can be read off the image."""
    x = image if isinstance(image, torch.Tensor) else torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return x.float().mean((-2, -1))


@pytest.mark.parametrize("size", [8, 70], ids=["in memory", "files"])
def test_features_are_in_the_order_of_the_images_with_their_labels(tmp_path, size):
    labelled_folder(tmp_path, width=size, height=size)
    data = open_data(str(tmp_path))
    expected = torch.stack([mean_colour(data.train.images.read(i)) for i in range(len(data.train))])
    for batch_size in (5, 256):
        found = extract(nn.Identity(), data.train, mean_colour, batch_size=batch_size)
        torch.testing.assert_close(found.x, expected)
        assert found.y.tolist() == data.train.labels.tolist()


def test_an_image_that_cannot_be_read_has_neither_row_nor_label(tmp_path):
    paths = write_images(tmp_path / "images", 12, width=70, height=70)
    split = Split(Files(tuple(map(str, paths))), np.arange(12))
    whole = extract(nn.Identity(), split, mean_colour)
    for i in (3, 7):
        paths[i].write_bytes(paths[i].read_bytes()[:300])
    kept = [i for i in range(12) if i not in (3, 7)]
    for cache in (None, tmp_path / "features", tmp_path / "features"):
        found = extract(nn.Identity(), split, mean_colour, batch_size=5, cache=cache)
        assert found.y.tolist() == kept
        assert torch.equal(found.x, whole.x[kept])
        assert [s.path for s in found.skipped] == [str(paths[3]), str(paths[7])]
        assert "truncated" in found.skipped[0].reason
    with pytest.raises(BadInput, match=r"0003.png cannot be read: .*truncated.* needs all of its images"):
        extract(nn.Identity(), split, mean_colour, whole=True)


def test_too_many_images_that_cannot_be_read_are_an_error(tmp_path):
    paths = write_images(tmp_path, 12, width=70, height=70)
    split = Split(Files(tuple(map(str, paths))))
    for path in paths[:3]:
        path.write_bytes(b"nothing")
    with pytest.raises(BadInput, match="3 of 12 images cannot be read"):
        extract(nn.Identity(), split, mean_colour)
    with pytest.raises(BadInput, match="3 of 12 images cannot be read"):  # the first batch is of these
        extract(nn.Identity(), split, mean_colour, batch_size=2)
    with pytest.raises(BadInput, match=r"none of 3 images can be read \(.*0000.png: "):
        extract(nn.Identity(), split.take(np.arange(3)), mean_colour)


@pytest.mark.parametrize("broken", [0, 11], ids=["first", "last"])
def test_a_batch_of_one_image_that_cannot_be_read_costs_only_its_row(tmp_path, broken):
    paths = write_images(tmp_path / "images", 12, width=70, height=70)
    split = Split(Files(tuple(map(str, paths))), np.arange(12))
    kept = np.delete(np.arange(12), broken)
    whole = extract(nn.Flatten(), split.take(kept), TO_FLOAT)
    paths[broken].write_bytes(b"nothing")
    for cache in (None, tmp_path / "features"):
        found = extract(nn.Flatten(), split, TO_FLOAT, batch_size=1, cache=cache)
        assert found.y.tolist() == kept.tolist()
        assert torch.equal(found.x, whole.x)


def test_going_on_with_nothing_but_images_that_cannot_be_read(tmp_path):
    """Extraction stopped when all but the last batch were kept, and that one holds a single broken image."""
    paths = write_images(tmp_path / "images", 12, width=70, height=70)
    split = Split(Files(tuple(map(str, paths))), np.arange(12))
    paths[11].write_bytes(b"nothing")
    encoder, seen = nn.Flatten(), []

    def stop_at_the_last(_, inputs):
        seen.append(inputs)
        if len(seen) == 11:
            raise KeyboardInterrupt

    hook = encoder.register_forward_hook(lambda module, inputs, out: stop_at_the_last(module, inputs))
    with pytest.raises(KeyboardInterrupt):
        extract(encoder, split, TO_FLOAT, batch_size=1, cache=tmp_path / "features")
    hook.remove()
    found = extract(encoder, split, TO_FLOAT, batch_size=1, cache=tmp_path / "features")
    assert found.y.tolist() == list(range(11))


def test_an_image_that_could_not_be_read_once_has_its_row_when_it_can(tmp_path, monkeypatch):
    """A network or disk failed for a moment: the file has not changed."""
    paths = write_images(tmp_path / "images", 12, width=70, height=70)
    split = Split(Files(tuple(map(str, paths))), np.arange(12))
    whole = extract(nn.Flatten(), split, TO_FLOAT)
    read = images.read_file
    for lost in (str(paths[5]), ""):
        monkeypatch.setattr(images, "read_file", lambda path, lost=lost: b"" if path == lost else read(path))
        found = extract(nn.Flatten(), split, TO_FLOAT, batch_size=4, cache=tmp_path / "features")
    assert len([*(tmp_path / "features").glob("*.npy")]) == 1
    assert torch.equal(found.x, whole.x)
    assert found.y.tolist() == list(range(12))
    assert not found.skipped


@pytest.mark.parametrize("measure", [knn, linear, fewshot])
@pytest.mark.parametrize("side", [0, 1], ids=["train", "test"])
def test_features_that_are_not_finite_are_refused(measure, side):
    parts = [Features(torch.rand(20, 4), torch.arange(20) % 2) for _ in range(2)]
    parts[side].x[[3, 7], 1] = torch.tensor([torch.nan, torch.inf])
    with pytest.raises(BadInput, match=r"the features of 2 of 20 images are not finite: .* diverged"):
        measure(*parts)


def test_an_encoder_that_gives_nan_is_not_taken_for_unreadable_images(tmp_path):
    write_images(tmp_path, 12, width=70, height=70)
    found = extract(nn.Identity(), open_data(str(tmp_path)).train, lambda image: mean_colour(image) * torch.nan)
    assert len(found.x) == 12
    assert not found.skipped


@pytest.mark.slow
def test_worker_processes_give_the_features_of_none(tmp_path):
    write_images(tmp_path, 12, width=70, height=70)
    split = open_data(str(tmp_path)).train
    one, two = (extract(nn.Identity(), split, mean_colour, batch_size=4, workers=w) for w in (0, 2))
    assert torch.equal(one.x, two.x)
    assert (one.y == -1).all()


def test_the_network_runs_in_evaluation_mode_and_is_put_back():
    split = open_data("digits").test.take(np.arange(40))
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(192), nn.Linear(192, 4))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    for training in (True, False):
        network.train(training)
        first, second = (extract(network, split, lambda x: x.float()).x for _ in range(2))
        assert torch.equal(first, second)
        assert network.training is training
        assert not first.requires_grad
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_raw_pixels_are_the_images_themselves(tmp_path):
    digits = open_data("digits").test
    grey = pixels(digits)
    assert grey.x.shape == (540, 64)  # one of three equal channels
    assert torch.equal(grey.x, digits.images.pixels[:, 0].flatten(1).float() / 255)
    labelled_folder(tmp_path, width=90, height=70)
    files = open_data(str(tmp_path)).test
    found = pixels(files, side=10)
    judge = np.asarray(files.images.read(4).resize((10, 10), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    np.testing.assert_allclose(found.x[4], judge.ravel())


def test_measured_parts_are_seeded_stratified_and_labelled():
    data = open_data("digits")
    bank, test = measured_parts(data, 200, 100)
    assert (len(bank), len(test)) == (200, 100)
    assert (abs(np.bincount(test.labels) - 10) <= 1).all()
    again, _ = measured_parts(data, 200, 100)
    assert torch.equal(again.images.pixels, bank.images.pixels)


def test_features_and_labels_have_to_match():
    with pytest.raises(BadInput, match=r"x is \[3, 2\], y \[4\]"):
        Features(torch.zeros(3, 2), torch.zeros(4, dtype=torch.long))
    with pytest.raises(BadInput, match=r"x is \[3\]"):
        Features(torch.zeros(3), torch.zeros(3, dtype=torch.long))
    unit = Features(torch.tensor([[3.0, 4.0]]), torch.zeros(1, dtype=torch.long)).unit()
    torch.testing.assert_close(unit, torch.tensor([[0.6, 0.8]]))
