"""Label propagation against the formula in float64, on made videos, and on two sequences of DAVIS."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import as_stored, lines, stored_in
from PIL import Image
from torch.nn import functional as F
from videos import squares

from mec.cli.main import main
from mec.errors import BadInput
from mec.evaluation.evaluate import evaluate
from mec.evaluation.tracking.appearance import open_appearance
from mec.evaluation.tracking.video import frames_of
from mec.evaluation.tracking.vos import (
    boundary_f,
    davis_score,
    first_mask,
    jaccard,
    largest,
    propagate,
    read_davis,
    read_mask,
    segment,
    soft_labels,
)


def all_pairs(query, contexts, *, radius=12, topk=10, temperature=0.05):
    """Soft labels [k, h, w] in float64; contexts are (features [c, h, w], labels [k, h, w], near cells only?)."""
    h, w = query.shape[1:]
    result = np.zeros((contexts[0][1].shape[0], h, w))
    for i in range(h):
        for j in range(w):
            found = [
                (float(query[:, i, j] @ features[:, a, b]), labels[:, a, b])
                for features, labels, near in contexts
                for a in range(h)
                for b in range(w)
                if not near or math.hypot(a - i, b - j) < radius
            ]
            best = sorted(found, key=lambda pair: -pair[0])[:topk]
            weights = np.exp(np.array([likeness for likeness, _ in best]) / temperature)
            result[:, i, j] = sum(weight * label for weight, (_, label) in zip(weights / weights.sum(), best))
    return result


def unit(seed: int, *shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-3)


@pytest.mark.parametrize(("radius", "tile"), [(12, 12), (3, 4), (2.5, 3), (100, 5)])
def test_labels_are_those_of_all_pairs_in_float64_whatever_the_tiles(radius, tile):
    query, first, recent = unit(0, 6, 7, 11), unit(1, 1, 6, 7, 11), unit(2, 3, 6, 7, 11)
    labels = torch.rand(4, 3, 7, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = propagate(query, (first, labels[:1]), (recent, labels[1:]), radius=radius, tile=tile)
    contexts = [(first[0].numpy(), labels[0].numpy(), False)]
    contexts += [(recent[i].numpy(), labels[i + 1].numpy(), True) for i in range(3)]
    np.testing.assert_allclose(found.numpy(), all_pairs(query.numpy(), contexts, radius=radius), atol=1e-12)


def test_a_frame_of_few_cells_takes_all_there_are():
    query, first, recent = unit(0, 2, 1, 2), unit(1, 1, 2, 1, 2), unit(2, 1, 2, 1, 2)
    labels = torch.rand(2, 2, 1, 2, dtype=torch.float64)
    found = propagate(query, (first, labels[:1]), (recent, labels[1:]), radius=1)  # itself only
    contexts = [(first[0].numpy(), labels[0].numpy(), False), (recent[0].numpy(), labels[1].numpy(), True)]
    np.testing.assert_allclose(found.numpy(), all_pairs(query.numpy(), contexts, radius=1), atol=1e-12)


@pytest.mark.parametrize(("columns", "count"), [(7, 10), (1000, 10), (1280, 10), (1283, 10), (5000, 3)])
def test_the_largest_of_rows_are_those_of_topk(columns, count):
    rows = torch.randn(4, columns, generator=torch.Generator().manual_seed(0))
    rows[1, 5:] = -torch.inf  # fewer than ten that count
    values, places = largest(rows, count)
    expected = rows.topk(min(count, columns), dim=1)
    assert torch.equal(values, expected.values)
    finite = values > -torch.inf
    assert torch.equal(places[finite], expected.indices[finite])
    assert places.max() < columns


def test_a_video_is_segmented_as_the_specification_says_it_in_float64(tmp_path):
    (video,) = read_davis(squares(tmp_path))
    appearance = open_appearance("pixels")
    frames = list(frames_of(video.frames))
    ids = first_mask(video, (56, 40))
    maps = [appearance.maps(appearance.normalised(f[None]))[0].double() for f in frames]
    features = [F.normalize(m, dim=0).numpy() for m in maps]
    hot = torch.from_numpy(np.stack([ids == i for i in (0, 1, 3)])).double()
    soft = [F.interpolate(hot[None], (5, 7), mode="bilinear", align_corners=False)[0].numpy()]
    for t in range(1, len(frames)):
        contexts = [(features[0], soft[0], False)]
        contexts += [(features[max(0, s)], soft[max(0, s)], True) for s in range(t - 5, t)]
        soft.append(all_pairs(features[t], contexts))
    found = list(segment(appearance, iter(frames), ids))
    assert len(found) == len(frames)
    for one, expected in zip(found, soft):
        full = F.interpolate(torch.from_numpy(expected)[None], (40, 56), mode="bilinear", align_corners=False)[0]
        margin = full.topk(2, dim=0).values.diff(dim=0)[0].abs().numpy()
        wanted = np.array([0, 1, 3])[full.argmax(0).numpy()]
        assert (one == wanted)[margin > 1e-4].all()
        assert (margin > 1e-4).mean() > 0.95
    j, f = davis_score(found, video, 3).T
    assert j[1] == f[1] == 1  # there is no object 2, and none was found
    assert j[0] > 0.6


def test_soft_labels_are_the_shares_of_a_resize_without_antialias():
    ids = np.zeros((16, 24), np.uint8)
    ids[3:5, 11:13] = 2  # the four pixels around the middle of cell (0, 1)
    soft, known = soft_labels(ids)
    assert known == [0, 2]
    assert soft[1].tolist() == [[0, 1, 0], [0, 0, 0]]
    ids[4] = 0
    assert soft_labels(ids)[0][1].tolist() == [[0, 0.5, 0], [0, 0, 0]]


def test_overlap_and_boundaries_are_those_of_a_count_over_all_pixels():
    random = np.random.default_rng(0)
    for trial in range(6):
        found, truth = np.zeros((2, 130, 150), bool)
        for mask in (found, truth):
            y, x = random.integers(0, 60, 2)
            mask[y : y + 40, x : x + 50 + trial] = True
        truth ^= random.random(truth.shape) < 0.001
        assert jaccard(found, truth) == pytest.approx((found & truth).sum() / (found | truth).sum())
        edges = [
            [
                (i, j)
                for i in range(130)
                for j in range(150)
                if any(mask[i, j] != mask[min(i + a, 129), min(j + b, 149)] for a, b in ((0, 1), (1, 0), (1, 1)))
            ]
            for mask in (found, truth)
        ]
        distances = np.linalg.norm(np.array(edges[0])[:, None] - np.array(edges[1]), axis=2)
        reach = math.ceil(0.008 * math.hypot(130, 150))
        shares = (distances.min(1) <= reach).mean(), (distances.min(0) <= reach).mean()
        expected = 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0
        assert boundary_f(found, truth) == pytest.approx(expected)


def test_empty_masks_agree_with_each_other_and_with_nothing_else():
    empty, full = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    full[3:5, 3:5] = True
    assert (jaccard(empty, empty), boundary_f(empty, empty)) == (1, 1)
    assert (jaccard(full, full), boundary_f(full, full)) == (1, 1)
    assert (jaccard(empty, full), boundary_f(empty, full), boundary_f(full, empty)) == (0, 0, 0)


def test_the_first_and_the_last_frame_are_not_measured_and_void_is_no_object(tmp_path):
    (video,) = read_davis(squares(tmp_path, frames=4))
    truth = [read_mask(path, (56, 40)) for path in video.masks]
    assert davis_score(truth, video, 3).tolist() == [[1, 1]] * 3
    nothing = np.zeros_like(truth[0])
    assert davis_score([nothing, *truth[1:3], nothing], video, 3).tolist() == [[1, 1]] * 3
    assert davis_score([truth[0], nothing, *truth[2:]], video, 3)[0].tolist() == [0.5, 0.5]
    ids = truth[1].copy()
    ids[ids == 1] = 255
    Image.fromarray(ids).save(video.masks[1])
    assert davis_score([truth[0], truth[1], *truth[2:]], video, 3)[0].tolist() == [0.5, 0.5]
    assert davis_score([truth[0], ids, *truth[2:]], video, 3)[0].tolist() == [1, 1]


def test_the_command_stores_a_line_a_stage_masks_and_a_video(tmp_path, monkeypatch, capsys):
    root = squares(tmp_path / "davis", frames=8)
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", "pixels", "vos", "--data-root", str(root), "--cache", "maps", "--video", "gif"]
    assert main(words) == 0
    folder = tmp_path / "runs" / "pixels"
    stored = lines(folder / "results.jsonl")
    assert [(line["metric"], line["settings"].get("head")) for line in stored] == [
        ("J-mean", "still"), ("F-mean", "still"), ("J-mean", None), ("F-mean", None),
    ]  # fmt: skip
    assert stored[2]["settings"] == {"stage": 0, "sequences": 1, "objects": 3}
    assert stored[2]["value"] > stored[0]["value"]
    assert "vos J-mean" in capsys.readouterr().out
    again = as_stored(evaluate("pixels", "vos", data_root=str(root), out=tmp_path / "again"))
    assert again == stored_in(folder)
    (video,) = read_davis(root)
    found = [folder / "vos" / "stage0" / "squares" / path.name for path in video.masks]
    again = davis_score([read_mask(path, (56, 40)) for path in found], video, 3)
    assert again.mean(0)[0] == pytest.approx(stored[2]["value"] / 100)
    with Image.open(found[1]) as one, Image.open(video.masks[1]) as other:
        assert one.getpalette()[:12] == other.getpalette()[:12]
    with Image.open(folder / "vos" / "stage0" / "squares.gif") as moving:
        assert moving.n_frames == 8
    assert len(list((tmp_path / "maps").rglob("*.npy"))) == 8


def test_what_does_not_fit_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="DAVIS-2017's layout"):
        read_davis(tmp_path / "nothing")
    root = squares(tmp_path, frames=4)
    with pytest.raises(BadInput, match=r"no sequence 'sqares'\. Did you mean 'squares'"):
        read_davis(root, ("sqares",))
    (video,) = read_davis(root)
    with pytest.raises(BadInput, match="56x40 px, but its frame has 60x40"):
        first_mask(video, (60, 40))
    Image.new("RGB", (56, 40)).save(video.masks[0])
    with pytest.raises(BadInput, match="mode RGB; a mask is a palette PNG"):
        first_mask(video, (56, 40))
    Image.new("L", (56, 40), 255).save(video.masks[0])
    with pytest.raises(BadInput, match=r"no object in the first frame.* 2,240 px of 255 are void.*numpy\.minimum"):
        first_mask(video, (56, 40))
    Image.new("L", (56, 40), 0).save(video.masks[0])
    with pytest.raises(BadInput, match=r"nothing to follow\.$"):
        first_mask(video, (56, 40))
    video.masks[0].write_bytes(b"")
    with pytest.raises(BadInput, match="cannot be read"):
        first_mask(video, (56, 40))
    video.masks[2].unlink()
    with pytest.raises(BadInput, match=r"masks of squares: 1 of 4 files are missing, the first is .*00002\.png"):
        read_davis(root)
    video.masks[2].touch()
    video.frames[3].unlink()
    with pytest.raises(BadInput, match=r"1 masks have no frame, the first is 00003\.png"):
        read_davis(root)
    for path in video.frames[1:3]:
        path.unlink()
    with pytest.raises(BadInput, match="1 frames"):
        read_davis(root)


def test_frames_of_another_size_are_told_and_a_mask_of_one_pixel_is_carried(tmp_path):
    (video,) = read_davis(squares(tmp_path, frames=4))
    appearance, frames = open_appearance("pixels"), list(frames_of(video.frames))
    ids = np.zeros((40, 56), np.uint8)
    ids[20, 20] = 7
    assert len(list(segment(appearance, iter(frames), ids))) == 4
    with pytest.raises(BadInput, match=r"frame 1 has \[4, 5\] cells, the first \[5, 7\]"):
        list(segment(appearance, iter([frames[0], frames[1][:, :32, :40]]), ids))


@pytest.mark.samples
def test_the_truth_of_davis_scores_1(samples):
    for video in read_davis(samples / "samples" / "davis_mini"):
        with Image.open(video.frames[0]) as frame:
            size = frame.size
        truth = (read_mask(path, size) for path in video.masks)
        assert davis_score(truth, video, 1).tolist() == [[1, 1]]
