"""Single-object tracking against the formulas in float64, on made videos, and on OTB's Crossing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
from helpers import as_stored, lines, stored_in
from PIL import Image
from torchvision.transforms import v2

from mec.cli.main import main
from mec.errors import BadInput
from mec.evaluation.evaluate import evaluate
from mec.evaluation.tracking import sot
from mec.evaluation.tracking.appearance import open_appearance
from mec.evaluation.tracking.protocols import Sot
from mec.evaluation.tracking.sot import (
    CELLS,
    BoxVideo,
    CorrelationFilter,
    CrossCorrelation,
    TargetBox,
    crop,
    hann,
    overlaps,
    precision,
    read_otb,
    sot_scores,
    success_auc,
    track_targets,
    write_otb_boxes,
)
from mec.networks.backbones import build_encoder


def features(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, CELLS, CELLS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moving_square(root: Path, name: str = "Square", frames: int = 6, step: tuple[int, int] = (5, 3)) -> Path:
    """OTB's layout with one video: a textured square goes over a textured ground."""
    random = np.random.default_rng(0)

    def texture(side_y: int, side_x: int, low: int, high: int) -> np.ndarray:
        blocks = random.integers(low, high, (side_y // 4, side_x // 4, 3), dtype=np.uint8)
        return blocks.repeat(4, 0).repeat(4, 1)

    ground, square = texture(120, 160, 0, 128), texture(24, 24, 100, 255)
    boxes, paths = [], []
    for i in range(frames):
        x, y = 40 + step[0] * i, 40 + step[1] * i
        frame = ground.copy()
        frame[y : y + 24, x : x + 24] = square
        path = root / name / "img" / f"{i + 1:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(path)
        paths.append(str(path.relative_to(root)))
        boxes.append([x + 1, y + 1, 24, 24])
    listing = root / "OTB2015.json"
    listed = json.loads(listing.read_text()) if listing.exists() else {}
    listed[name] = {"video_dir": name, "init_rect": boxes[0], "img_names": paths, "gt_rect": boxes}
    listing.write_text(json.dumps(listed))
    return root


def test_cross_correlation_is_the_sum_of_products_in_float64():
    first, search = features(0, 3), features(1, 2, 3)
    head = CrossCorrelation()
    head.start(first)
    found = head.responses(search).numpy()
    bell = [0.5 - 0.5 * math.cos(2 * math.pi * i / 64) for i in range(65)]
    windowed = search.numpy() * np.outer(bell, bell)
    template = first.numpy()[:, 25:39, 25:39]
    assert found.shape == (2, 52, 52)
    for row, column in ((0, 0), (25, 25), (51, 7), (13, 51)):
        expected = 0.1 * (windowed[:, :, row : row + 14, column : column + 14] * template).sum((1, 2, 3))
        np.testing.assert_allclose(found[:, row, column], expected, rtol=1e-10)


def test_the_correlation_filter_is_the_formula_in_float64():
    first, later, search = features(0, 3), features(1, 3), features(2, 2, 3)
    head = CorrelationFilter()
    head.start(first)
    head.update(later)
    found = head.responses(search).numpy()

    steps = np.array([min(i, 65 - i) for i in range(65)])  # the peak is at index (0, 0)
    wanted = np.fft.fft2(np.exp(-(steps[:, None] ** 2 + steps**2) / (2 * (65 / 4.5 * 0.1) ** 2)))
    inside = np.zeros((65, 65))
    inside[25:39, 25:39] = 1

    def model(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        spectrum = np.fft.fft2(z * inside)
        return spectrum, wanted / ((np.abs(spectrum) ** 2).sum(0) + 1e-4)

    z, alpha = (0.99 * one + 0.01 * two for one, two in zip(model(first.numpy()), model(later.numpy())))
    spectra = np.fft.fft2(search.numpy() * hann(like=search).numpy())
    expected = np.fft.ifft2(alpha * (spectra * z.conj()).sum(1))
    np.testing.assert_allclose(found, expected.real, atol=1e-9 * np.abs(expected).max())
    assert np.abs(expected.imag).max() < 1e-9 * np.abs(expected).max()


@pytest.mark.parametrize("head", [CrossCorrelation(), CorrelationFilter()], ids=["xcorr", "dcf"])
@pytest.mark.parametrize("moved", [(0, 0), (2, -3), (-4, 1)])
def test_features_that_are_rolled_are_found_where_they_went(head, moved):
    first = features(0, 8)
    head.start(first)
    response = head.responses(first.roll(moved, (1, 2))[None])[0]
    index = divmod(int(response.argmax()), response.shape[1])
    down, right = head.displacement(index)
    assert (down * 65, right * 65) == pytest.approx(moved)


def test_unitracks_mode_drags_by_one_cell_and_overstates_displacements():
    assert CrossCorrelation().displacement((25, 25)) == (0, 0)
    assert CrossCorrelation(unitrack=True).displacement((25, 28)) == pytest.approx((-1 / 52, 2 / 52))


def test_unitracks_centre_lies_half_a_pixel_to_the_top_left_and_gives_the_same_box():
    box, image = np.array([11, 21, 20, 11.0]), (100, 50)
    clean, theirs = TargetBox(box, image), TargetBox(box, image, unitrack=True)
    assert clean.centre.tolist() == [11 + 10 - 1.5, 21 + 5.5 - 1.5]
    assert theirs.centre.tolist() == [11 + 10 - 2, 21 + 5.5 - 2]
    assert clean.box().tolist() == theirs.box().tolist() == box.tolist()
    theirs.centre += (3, -4)
    assert theirs.box().tolist() == [14, 17, 20, 11]


@pytest.mark.parametrize(("centre", "window"), [((30.3, 20.8), (40, 25)), ((-5, 70), (33, 60)), ((200, 200), (10, 10))])
def test_a_crop_has_its_corners_at_the_windows_corners_and_zeros_outside(centre, window):
    image = torch.randn(3, 60, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = crop(image, np.array(centre), np.array(window), side=11).numpy()
    padded = np.pad(image.numpy(), ((0, 0), (300, 300), (300, 300)))
    for i in range(11):
        for j in range(11):
            x, y = (c - size / 2 + size * n / 10 for c, size, n in zip(centre, window, (j, i)))
            left, top = math.floor(x), math.floor(y)
            part = padded[:, top + 300 : top + 302, left + 300 : left + 302]
            weights = np.outer([top + 1 - y, y - top], [left + 1 - x, x - left])
            np.testing.assert_allclose(found[:, i, j], (part * weights).sum((1, 2)), atol=1e-10)


def test_the_best_scale_is_penalised_and_sizes_stay_within_limits():
    target = TargetBox(np.array([11, 21, 20, 10.0]), (100, 50))
    assert target.centre.tolist() == [19.5, 24.5]
    assert target.box().tolist() == [11, 21, 20, 10]
    assert target.smallest.tolist() == [4, 4]
    assert target.largest.tolist() == [100, 50]
    responses = np.zeros((3, 52, 52))
    responses[0, 25, 25], responses[1, 26, 25], responses[2, 25, 25] = 1, 0.99, 1.0  # 0.985, 0.99, 0.985
    target.move(responses, CrossCorrelation())
    np.testing.assert_allclose(target.centre, [19.5, 24.5 + 4.5 * 10 / 65])
    np.testing.assert_allclose(target.size, [20, 10])
    responses[2] *= 2
    target.move(responses, CrossCorrelation())
    np.testing.assert_allclose(target.size, [20 * 1.0275, 10 * 1.0275])
    responses[0] *= 5  # the largest: the target shrinks, down to its limit
    for _ in range(50):
        target.move(responses, CrossCorrelation())
    assert target.size[1] == 4


def stays(video: BoxVideo) -> np.ndarray:
    return np.repeat(video.first[None], len(video.frames), 0)


@pytest.mark.parametrize("head", ["xcorr", "dcf"])
def test_a_moving_square_is_followed_and_a_tracker_that_stays_is_left_behind(tmp_path, head):
    videos = read_otb(moving_square(tmp_path))
    (found,) = track_targets(open_appearance("pixels"), videos, head)
    assert found[0].tolist() == videos[0].first.tolist()
    assert success_auc(found, videos[0].boxes) > 0.75
    assert success_auc(stays(videos[0]), videos[0].boxes) < 0.5


@pytest.mark.parametrize(
    ("name", "stage", "margin"), [("resnet10-tiny", 3, 11), ("resnet10-tiny", 4, 11), ("pixels", 3, 11)]
)
def test_the_targets_own_features_are_those_of_the_whole_window(name, stage, margin, tmp_path, monkeypatch):
    torch.manual_seed(0)
    encoder = name if name == "pixels" else build_encoder(name, 224, False)
    for module in encoder.modules() if name != "pixels" else ():
        if isinstance(module, torch.nn.BatchNorm2d):  # some begin at 0: blocks would look at nothing
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    appearance = open_appearance(encoder, stage)
    assert sot.margin_of(appearance) == 11
    videos = read_otb(moving_square(tmp_path, frames=3))
    (found,) = track_targets(appearance, videos, "dcf")
    monkeypatch.setattr(sot, "margin_of", lambda _: None)
    (whole,) = track_targets(appearance, videos, "dcf")
    np.testing.assert_allclose(found, whole, atol=1e-6)


def test_features_that_depend_on_all_of_the_window_are_taken_from_all_of_it():
    appearance = open_appearance("pixels")
    pixels = appearance.network.forward
    appearance.network.forward = lambda x: pixels(x) + x.mean((2, 3), keepdim=True).repeat(1, 64, 1, 1)
    assert sot.margin_of(appearance) is None
    assert sot.margin_of(open_appearance(build_encoder("vit_tiny_patch16_224", 224))) is None


def test_videos_that_go_in_step_give_what_each_gives_alone(tmp_path):
    moving_square(tmp_path, "Long", frames=4)
    videos = read_otb(moving_square(tmp_path, "Short", frames=2, step=(-4, 2)))
    appearance = open_appearance("pixels")
    together = track_targets(appearance, videos, "dcf", batch_size=5)
    for video, boxes in zip(videos, together):
        assert len(boxes) == len(video.frames)
        np.testing.assert_allclose(boxes, track_targets(appearance, [video], "dcf")[0], rtol=1e-4)


def test_videos_are_shared_among_ranks_and_each_is_that_of_one(tmp_path):
    for name, step in (("A", (5, 3)), ("B", (-4, 2)), ("C", (0, 4))):
        moving_square(tmp_path / "data", name, frames=3, step=step)
    kind = Sot(data_root=tmp_path / "data", stage="3")
    assert len(ranks.same_on_two(kind, tmp_path)) == 6  # of both heads


def test_the_perfect_tracker_scores_20_of_21_and_invalid_rows_fail_at_every_threshold():
    truth = np.array([[10, 10, 20, 20], [11, 12, 20, 22], [5, 5, 8, 9.0]])
    assert success_auc(truth, truth) == pytest.approx(20 / 21)
    assert precision(truth, truth) == 1
    invalid = truth.copy()
    invalid[1] = 0
    assert success_auc(truth, invalid) == pytest.approx(20 / 21 * 2 / 3)
    assert precision(truth - 100, invalid) == pytest.approx(1 / 3)  # a centre that is not above 0 counts as met


def test_precision_counts_centres_within_20_px():
    truth = np.tile([100.0, 100, 30, 40], (6, 1))
    found = truth.copy()
    found[:, 0] += [0, 19.9, 20, 20.1, 12, 16]
    found[4:, 1] += [16, 12.1]  # 3, 4, 5: at 20 px, and just beyond
    assert precision(found, truth) == pytest.approx(4 / 6)
    found[:, 2:] += 1  # a larger box at the same corner: its centre is half a pixel on
    assert precision(found, truth) == pytest.approx(1 / 6)


def test_the_command_s_precision_is_that_at_20_px(tmp_path):
    (video,) = read_otb(moving_square(tmp_path, frames=3, step=(12, 16)))  # the truth moves 20 px a frame
    auc, near = sot_scores([stays(video)], [video], {})
    assert (auc.metric, near.metric, near.value) == ("AUC", "precision@20px", pytest.approx(100 * 2 / 3))


@pytest.mark.parametrize(("other", "stays"), [(1 / 0.985 - 1e-4, True), (1 / 0.985 + 1e-4, False)])
@pytest.mark.parametrize("which", [0, 2])
def test_another_scale_is_taken_where_its_response_is_larger_by_the_penalty(which, other, stays):
    target = TargetBox(np.array([11, 21, 20, 10.0]), (100, 50))
    responses = np.zeros((3, 52, 52))
    responses[1, 25, 25], responses[which, 25, 25] = 1.0, other
    target.move(responses, CrossCorrelation())
    factor = 1 if stays else 1.0275 ** (which - 1)
    np.testing.assert_allclose(target.size, [20 * factor, 10 * factor])


def test_overlaps_are_counted_pixels():
    random = np.random.default_rng(0)
    found, truth = (np.column_stack([random.integers(1, 30, (20, 2)), random.integers(1, 25, (20, 2))]) for _ in "ab")
    for share, a, b in zip(overlaps(found.astype(float), truth.astype(float)), found, truth):
        one, other = np.zeros((60, 60), bool), np.zeros((60, 60), bool)
        one[a[1] : a[1] + a[3], a[0] : a[0] + a[2]] = True
        other[b[1] : b[1] + b[3], b[0] : b[0] + b[2]] = True
        assert share == pytest.approx((one & other).sum() / (one | other).sum())


def test_success_is_the_mean_over_thresholds_of_strict_comparisons():
    random = np.random.default_rng(1)
    found, truth = random.uniform(1, 40, (2, 30, 4))
    truth[:, :2], truth[:3] = found[:, :2] + 2, found[:3]
    shares = [(overlaps(found, truth) > t / 20).mean() for t in range(21)]
    assert success_auc(found, truth) == pytest.approx(np.mean(shares))


def test_the_command_stores_a_line_for_each_stage_and_head_boxes_and_a_video(tmp_path, monkeypatch, capsys):
    root = moving_square(tmp_path / "otb", frames=3)
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "pixels", "sot", "--data-root", str(root), "--video", "gif"]) == 0
    folder = tmp_path / "runs" / "pixels"
    found = lines(folder / "results.jsonl")
    assert [(line["metric"], line["settings"]["head"]) for line in found] == [
        (metric, head) for head in ("still", "xcorr", "dcf") for metric in ("AUC", "precision@20px")
    ]
    assert found[0]["data"] == "OTB2015"
    assert "sot AUC" in capsys.readouterr().out
    boxes = np.loadtxt(folder / "sot" / "stage0-dcf-clean" / "Square.txt", delimiter=",")
    assert boxes.shape == (3, 4)
    assert boxes[0].tolist() == [41, 41, 24, 24]
    assert success_auc(boxes, read_otb(root)[0].boxes) == pytest.approx(found[4]["value"] / 100)
    again = as_stored(evaluate("pixels", "sot", data_root=root, out=tmp_path / "again"))
    assert again == stored_in(tmp_path / "again") == stored_in(folder)
    with Image.open(folder / "sot" / "stage0-dcf-clean" / "Square.gif") as video:
        assert video.n_frames == 3
        assert video.size == (160, 120)


def test_an_encoder_in_memory_tracks_and_leaves_no_file_and_no_word_of_one(tmp_path, monkeypatch, capsys):
    root = moving_square(tmp_path / "otb", frames=2)
    monkeypatch.chdir(tmp_path)
    encoder = build_encoder("resnet10-tiny", 64, small_stem=False)
    transform = v2.Compose([v2.ToImage(), v2.Resize((64, 64)), v2.ToDtype(torch.float32, scale=True)])
    results = evaluate((encoder, transform), "sot", data_root=root, stage="3", head="xcorr", device="cpu")
    assert [result.settings["head"] for result in results] == ["still"] * 2 + ["xcorr"] * 2
    assert {result.encoder for result in results} == {"ResNet"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["otb"]
    said = capsys.readouterr().out
    assert "sot stage 3, xcorr: 2 frames" in said
    assert "files in" not in said


def test_boxes_are_written_as_the_benchmark_reads_them(tmp_path):
    boxes = np.array([[1, 2, 3.5, 4], [5, 6, 7, 8.25]])
    write_otb_boxes(tmp_path / "deep" / "a.txt", boxes)
    assert np.loadtxt(tmp_path / "deep" / "a.txt", delimiter=",").tolist() == boxes.tolist()


def changed(root: Path, **values) -> Path:
    path = root / "OTB2015.json"
    listed = json.loads(path.read_text())
    listed["Square"].update(values)
    path.write_text(json.dumps(listed))
    return root


def test_what_does_not_fit_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="OTB-2015's layout"):
        read_otb(tmp_path)
    root = moving_square(tmp_path, frames=3)
    with pytest.raises(BadInput, match=r"no sequence 'Sqare'\. Did you mean 'Square'"):
        read_otb(root, ("Sqare",))
    with pytest.raises(BadInput, match=r"Square has 3 frames and boxes \[2, 4\]"):
        read_otb(changed(root, gt_rect=[[1, 1, 2, 2]] * 2))
    with pytest.raises(BadInput, match="w and h above 0"):
        read_otb(changed(root, gt_rect=[[1, 1, 2, 2]] * 3, init_rect=[1, 1, 0, 5]))
    with pytest.raises(BadInput, match="needs img_names, gt_rect and init_rect"):
        read_otb(changed(root, gt_rect=[["a"] * 4] * 3))
    root = changed(root, gt_rect=[[1, 1, 2, 2]] * 3, init_rect=[1, 1, 4, 5])
    (root / "Square/img/0002.png").write_bytes(b"")
    with pytest.raises(BadInput, match=r"0002\.png: cannot be read.*every frame"):
        track_targets(open_appearance("pixels"), read_otb(root))
    (root / "Square/img/0002.png").unlink()
    with pytest.raises(BadInput, match=r"sequence Square: 1 of 3 files are missing, the first is .*0002\.png"):
        read_otb(root)
    (root / "OTB2015.json").write_text("[1]")
    with pytest.raises(BadInput, match="holds a list where an object of named values is wanted"):
        read_otb(root)


def test_a_box_off_the_image_and_one_of_a_single_pixel_are_followed_without_a_crash(tmp_path):
    root = moving_square(tmp_path, frames=3)
    for box in ([-500, -500, 20, 20], [41, 41, 1, 1], [1, 1, 5000, 5000]):
        (found,) = track_targets(open_appearance("pixels"), read_otb(changed(root, init_rect=box)))
        assert np.isfinite(found).all()


@pytest.mark.slow
@pytest.mark.samples
def test_crossing_is_tracked_better_by_colours_than_by_standing_still(samples):
    videos = read_otb(samples / "samples" / "otb_crossing")
    still = success_auc(stays(videos[0]), videos[0].boxes)
    (found,) = track_targets(open_appearance("pixels"), videos, "dcf")
    assert success_auc(found, videos[0].boxes) > still
