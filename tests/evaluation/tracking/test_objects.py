"""Front-ends: boxes, masks and poses to features, each against a plain statement or torch's own resizing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mec.evaluation.tracking import objects


def blob(height: int, width: int, seed: int = 0, share: float = 0.5) -> np.ndarray:
    """A random mask with some shape: smooth noise above its quantile."""
    noise = torch.rand(1, 1, height // 8 + 2, width // 8 + 2, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(noise, (height, width), mode="bilinear")[0, 0].numpy()
    return smooth > np.quantile(smooth, 1 - share)


# --- boxes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("h", "w"), [(1080, 1920), (480, 640), (608, 1088), (301, 77)])
def test_a_frame_fits_in_the_letterbox_and_the_rest_is_grey(h, w):
    whole, scale, (left, top) = objects.letterboxed(np.full((h, w, 3), 200, np.uint8))
    assert whole.shape == (3, 608, 1088)
    inside = whole[0] == 200
    assert set(whole.unique().tolist()) <= {128, 200}
    rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
    assert (rows[0], columns[0]) == (top, left)
    assert len(rows) == pytest.approx(h * scale, abs=0.5)
    assert len(columns) == pytest.approx(w * scale, abs=0.5)
    assert abs(int(rows[0]) - (607 - int(rows[-1]))) <= 1
    assert abs(int(columns[0]) - (1087 - int(columns[-1]))) <= 1


def test_a_box_gives_forty_vectors_from_where_it_is():
    ramp = torch.arange(136.0).expand(76, -1)[None]  # a cell's value is its column
    boxes = np.array([[100.0, 50, 180, 250]])
    found = objects.box_objects(ramp, boxes, np.ones(1), scale=0.5, corner=(20, 0))
    assert found.features[0].shape == (40, 1)
    # Ten columns from (100 / 2 + 20) / 8 to (180 / 2 + 20) / 8 cells; RoIAlign (not aligned) samples their middles.
    edges = np.linspace(70 / 8, 110 / 8, 11)
    np.testing.assert_allclose(
        found.features[0].view(4, 10).numpy(), np.tile((edges[1:] + edges[:-1]) / 2, (4, 1)), rtol=1e-5
    )
    assert (found.boxes == boxes).all()


@pytest.mark.parametrize(
    ("size", "corner", "moved"),
    [
        # 480 x 640 at 608 / 480: 810.67 px wide, pasted as 811 at 138, believed at 138.5, mapped back by 138.67.
        ((480, 640), (138.5, 0.0), (-1 / 6 / (608 / 480), 0.0)),
        ((1080, 1920), (3.5, 0.0), (-1 / 18 / (608 / 1080), 0.0)),  # 1080.89 px as 1081
        ((301, 77), (466.0, 0.0), ((77 * 608 / 301 - 156) / 2 / (608 / 301), 0.0)),  # 155.53 px as 156
        ((600, 1800), (0.0, 122.5), (0.0, (600 * 1088 / 1800 - 363) / 2 / (1088 / 1800))),  # 362.67 px as 363
        ((608, 1088), (0.0, 0.0), (0.0, 0.0)),
    ],
)
def test_unitracks_padding_is_unrounded_for_boxes_and_another_on_the_way_back(size, corner, moved):
    _, scale, pasted = objects.letterboxed(np.zeros((*size, 3), np.uint8))
    (_, found), off = objects.unitracks_padding(size, scale)
    assert found == corner
    assert off == pytest.approx(moved)
    assert pasted == (int(found[0]), int(found[1]))  # the pixels lie at the rounded one


def test_a_box_off_the_image_has_zero_features():
    found = objects.box_objects(torch.ones(3, 76, 136), np.array([[-900.0, -900, -800, -700]]), np.ones(1), 1.0, (0, 0))
    assert not found.features[0].any()


def test_no_boxes_give_no_objects():
    assert len(objects.box_objects(torch.ones(3, 76, 136), np.empty((0, 4)), np.empty(0), 1.0, (0, 0))) == 0


# --- masks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("h", "w"), [(96, 160), (97, 165), (50, 8)])
def test_a_mask_is_taken_to_cells_as_torch_takes_the_nearest(h, w):
    mask = blob(h, w)
    size = (-(-h // 8), -(-w // 8))
    expected = F.interpolate(torch.from_numpy(mask)[None, None].float(), size, mode="nearest")[0, 0].bool()
    assert (objects.on_cells(mask, size) == expected.numpy()).all()


def test_a_box_of_cells_is_twice_the_mean_distance_on_each_side():
    grid = np.zeros((20, 30), bool)
    grid[4:12, 10:15] = True
    # Rows 4 to 11: mean 7.5, mean distance 2. Columns 10 to 14: mean 12, mean distance 1.2.
    np.testing.assert_allclose(objects.box_of_cells(grid), (12 - 2.4, 7.5 - 4, 12 + 2.4, 7.5 + 4))
    grid[:] = False
    grid[3, 7] = True
    assert objects.box_of_cells(grid) == (5, 1, 9, 5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("most", [200, 60])
def test_a_large_mask_is_reduced_as_torch_reduces(seed, most):
    features, grid = torch.randn(5, 24, 40, generator=torch.Generator().manual_seed(seed)), blob(24, 40, seed)
    area = int(grid.sum())
    assert area > most
    scale, mask = (most / area) ** 0.5, torch.from_numpy(grid).float()
    maps = F.interpolate(
        (features * mask)[None], scale_factor=scale, mode="bilinear", align_corners=False, recompute_scale_factor=False
    )[0]
    inside = (
        F.interpolate(mask[None, None], scale_factor=scale, mode="nearest", recompute_scale_factor=False)[0, 0] >= 0.5
    )
    found = objects.cells_under(features, grid, most)
    assert len(found) == int(inside.sum())
    torch.testing.assert_close(found, maps[:, inside].T)


def test_a_small_mask_gives_its_cells_as_they_are():
    features, grid = torch.randn(5, 6, 7), np.zeros((6, 7), bool)
    grid[2, 3] = grid[4, 1] = True
    torch.testing.assert_close(objects.cells_under(features, grid), torch.stack([features[:, 2, 3], features[:, 4, 1]]))


def test_a_mask_thinner_than_the_reduced_grid_keeps_its_cells():
    features, grid = torch.randn(2, 40, 40), np.zeros((40, 40), bool)
    grid[1] = True
    assert len(objects.cells_under(features, grid, most=2)) > 0


def test_masks_without_a_cell_and_second_ones_in_the_same_place_are_left_out():
    tiny, whole, same, other = (np.zeros((80, 80), bool) for _ in range(4))
    tiny[3, 3] = True  # not the top left pixel of its cell
    whole[8:48, 8:48], same[8:48, 8:52], other[56:, 56:] = True, True, True
    found, kept = objects.mask_objects(torch.randn(4, 10, 10), [tiny, whole, same, other])
    assert kept == [1, 3]
    assert len(found) == len(found.features) == 2


def test_a_mask_of_one_pixel_on_a_cells_corner_is_one_vector():
    mask = np.zeros((80, 80), bool)
    mask[16, 24] = True
    features = torch.randn(4, 10, 10)
    found, kept = objects.mask_objects(features, [mask])
    assert kept == [0]
    torch.testing.assert_close(found.features[0], features[None, :, 2, 3])


def test_no_masks_give_no_objects():
    found, kept = objects.mask_objects(torch.randn(4, 10, 10), [])
    assert (len(found), kept) == (0, [])


# --- poses -------------------------------------------------------------------------------------------------------

STANDING = {
    0: (40, 180), 1: (42, 140), 2: (45, 100), 3: (75, 100), 4: (78, 140), 5: (80, 180), 6: (20, 100), 7: (25, 70),
    8: (40, 40), 9: (80, 40), 10: (95, 70), 11: (100, 100), 12: (60, 35), 13: (60, 20), 14: (60, 5),
}  # fmt: skip


def test_a_pose_is_drawn_as_torso_and_thick_limbs_without_the_nose():
    mask = objects.pose_mask(STANDING, (200, 120))
    assert mask[70, 60]  # inside the torso
    for a, b in objects.LIMBS:
        x, y = ((STANDING[a][i] + STANDING[b][i]) // 2 for i in (0, 1))
        assert mask[y, x]
    # 175 px high: limbs are 8 px thick.
    assert mask[160, 36:46].sum() >= 7
    assert not mask[160, 48:70].any()
    nose = {12: (60.0, 35.0), 13: (10.0, 10.0), 14: (60.0, 5.0)}
    assert not objects.pose_mask(nose, (200, 120))[8:13, 8:13].any()


def test_a_large_pose_has_thicker_limbs():
    large = {joint: (4 * x, 4 * y) for joint, (x, y) in STANDING.items()}
    column = objects.pose_mask(large, (800, 480))[640, 120:200]
    assert column.sum() == pytest.approx(4 * 175 / 20, abs=3)  # 35 px


def test_absent_joints_skip_their_limbs():
    arm = {joint: STANDING[joint] for joint in (8, 7, 6)}
    mask = objects.pose_mask(arm, (200, 120))
    assert mask[55, 32]
    assert not mask[60:, 60:].any()


def test_a_pose_off_the_image_or_without_joints_has_no_cell_but_is_kept():
    away = {joint: (x + 5e6, y) for joint, (x, y) in STANDING.items()}
    found = objects.pose_objects(torch.ones(4, 25, 15), [away, {}, STANDING], (200, 120), 400)
    assert [len(f) for f in found.features[:2]] == [1, 1]
    assert not torch.cat(list(found.features[:2])).any()
    assert found.features[2].any()
    assert np.isfinite(found.boxes).all()


def test_the_box_of_a_pose_is_around_whole_pixels_and_never_flat():
    assert objects.pose_box({1: (3.9, 7.2), 5: (10.7, 30.9)}) == (3, 7, 10, 30)
    assert objects.pose_box({1: (3.9, 7.2)}) == (3, 7, 13, 17)
    assert objects.pose_box({1: (3.9, 7.2), 2: (3.1, 20)}) == (3, 7, 13, 20)
