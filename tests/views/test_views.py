"""Views against torchvision and Pillow on the same numbers, and the numbers against their distributions."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torchvision.transforms import InterpolationMode, RandomResizedCrop, v2
from torchvision.transforms.v2 import functional as T

from mec.data.batches import ViewBatches, crops_of
from mec.data.dataset import Split
from mec.data.decoding import Picture
from mec.data.images import InMemory
from mec.recipes.recipe import View
from mec.recipes.table import BYOL_VIEWS, CIFAR_VIEW, DIGITS_VIEW
from mec.views import augment_cpu
from mec.views.augment_gpu import BRIGHTNESS, CONTRAST, HUE, SATURATION, Jitter, apply_jitter, gaussian_blur, turn_hue
from mec.views.views import COLUMNS, LATER, Draw, augment, colour_on_gpu, crop_batch, crop_boxes, numbered, uniforms

# A view that does nothing, to add one operation to.
PLAIN = View(size=32, scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, grey=0, mean=(0, 0, 0), std=(1, 1, 1))


def stored(photographs: list[Image.Image], count: int, width: int = 40, height: int = 30) -> torch.Tensor:
    """Pieces of real photographs, uint8 [count, 3, height, width]."""
    whole = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in photographs])
    places = np.random.default_rng(0).integers(0, [2, 427 - height, 640 - width], (count, 3))
    return torch.stack([whole[i, :, y : y + height, x : x + width] for i, y, x in places])


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


# --- crop, resize, flip ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [16, 48])  # smaller and larger than the crops
def test_crop_of_stored_images_is_torchvisions_resized_crop_and_flip(photographs, interpolation, size):
    images = stored(photographs, 64)
    draw = Draw(View(size=size, interpolation=interpolation), 0, 0, 0, np.arange(64))
    found = crop_batch(images, draw)
    flipped = set(draw.chosen("flip").tolist())
    assert 20 < len(flipped) < 44
    mode = InterpolationMode(interpolation)
    for i, box in enumerate(crop_boxes(draw, np.full(64, 30), np.full(64, 40)).tolist()):
        crop = T.resized_crop(images[i].float() / 255, *box, [size, size], interpolation=mode, antialias=True).clamp(
            0, 1
        )
        close(found[i], T.horizontal_flip(crop) if i in flipped else crop, 1e-5)


def file_crop(picture, draw: Draw) -> np.ndarray:
    """uint8 [3, s, s], by the code of the workers; `draw` has one row."""
    return crops_of(picture, [draw])[0]


def decoded(pixels: np.ndarray) -> Picture:
    return Picture(pixels, *pixels.shape[:2])


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [96, 300])
def test_crop_of_a_file_is_torchvisions_and_pillows_within_a_level(photographs, interpolation, size):
    view = View(size=size, interpolation=interpolation)
    kind = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[interpolation]
    pixels, flips = np.array(photographs[0]), 0
    for index in range(8):
        draw = Draw(view, 1, 3, 2, [index])
        top, left, height, width = crop_boxes(draw, np.array([427]), np.array([640]))[0].tolist()
        pillow = photographs[0].crop((left, top, left + width, top + height)).resize((size, size), kind)
        judge = T.resized_crop(
            torch.from_numpy(pixels).permute(2, 0, 1), top, left, height, width, [size, size], interpolation, True
        ).permute(1, 2, 0)
        if flipped := len(draw.chosen("flip")):
            judge, flips = judge.flip(1), flips + 1
            pillow = pillow.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        found = file_crop(decoded(pixels), draw).transpose(1, 2, 0).astype(int)
        assert np.array_equal(found, judge.numpy()), flipped
        off = np.abs(found - np.asarray(pillow))  # more than a level only where a bicubic filter overshoots twice
        assert (off > 1).mean() < 1e-3
        assert off.mean() < 0.3
    assert 0 < flips < 8


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_same_image_gives_the_same_view_from_a_file_and_from_memory(photographs, interpolation):
    images = stored(photographs, 32)
    draw = Draw(View(size=24, interpolation=interpolation), 0, 1, 0, np.arange(32))
    memory = crop_batch(images, draw)
    for i in range(32):
        row = Draw(draw.view, 0, 1, 0, [i])
        crop = file_crop(decoded(images[i].permute(1, 2, 0).numpy()), row)
        file = torch.from_numpy(crop).float() / 255
        close(file, memory[i], 5 / 255)  # rounded and clipped to 8 bits between the two passes
        assert (file - memory[i]).abs().mean() < 0.5 / 255


def test_a_jpeg_is_decoded_smaller_only_when_every_crop_has_pixels_to_spare(photographs):
    large = photographs[0].resize((1280, 854), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    large.save(file, "JPEG", quality=95)
    picture, sizes = Picture.of(file.getvalue()), []

    class Watched:
        height, width = picture.height, picture.width

        def pixels(self, reduce=1):
            sizes.append(reduce)
            return picture.pixels(reduce)

    for index in range(30):
        side = 96 if index < 26 else 500  # the last ones are too large for anything but the whole image
        view = View(size=side, scale=(0.05, 1.0))
        draws = [Draw(view, v, 0, 0, [index]) for v in (0, 1)]
        found = crops_of(Watched(), draws)
        whole = crops_of(decoded(picture.pixels()), draws)
        shorter = min(crop_boxes(d, np.array([854]), np.array([1280]))[0, 2:].min() for d in draws)
        assert sizes[-1] == max(r for r in (1, 2, 4, 8) if r == 1 or shorter >= side * r)
        for one, other in zip(found, whole):  # the same crop, half a pixel of the smaller image off at most
            assert np.abs(one.astype(int) - other).mean() < (0.01 if sizes[-1] == 1 else 10)
    assert {1, 2, 4} <= set(sizes)


@pytest.mark.parametrize(("height", "width"), [(60, 100), (32, 32)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.2, 1.0)])
def test_crop_boxes_are_distributed_as_torchvisions(height, width, scale):
    view, n = View(scale=scale), 3000
    ours = crop_boxes(Draw(view, 0, 0, 0, np.arange(n)), np.full(n, height), np.full(n, width))
    image = torch.empty(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array([RandomResizedCrop.get_params(image, list(scale), list(view.ratio)) for _ in range(n)])
    for number, name in enumerate(("top", "left", "height", "width")):
        assert stats.ks_2samp(ours[:, number], theirs[:, number]).pvalue > 1e-3, name
    for name, of in {"area": lambda b: b[:, 2] * b[:, 3], "ratio": lambda b: b[:, 3] / b[:, 2]}.items():
        assert stats.ks_2samp(of(ours), of(theirs)).pvalue > 1e-3, name


@pytest.mark.parametrize(("height", "width"), [(20, 400), (400, 20)])
def test_a_very_long_image_gives_its_largest_central_box_as_torchvision(height, width):
    view = View(scale=(0.9, 1.0))  # no box of so much area fits
    box = crop_boxes(Draw(view, 0, 0, 0, np.arange(5)), np.full(5, height), np.full(5, width))
    theirs = RandomResizedCrop.get_params(torch.empty(3, height, width), [0.9, 1.0], list(view.ratio))
    assert box.tolist() == [list(theirs)] * 5


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 70), st.integers(1, 70), st.floats(0.01, 1), st.integers(0, 10**6), st.sampled_from([0.2, 0.75, 1.0])
)
def test_every_crop_box_lies_inside_its_image(height, width, low, seed, narrow):
    draw = Draw(View(scale=(low, 1.0), ratio=(narrow, 1 / narrow)), 0, seed, 0, np.arange(20))
    top, left, h, w = crop_boxes(draw, np.full(20, height), np.full(20, width)).T
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()


# --- colour, blur, solarize --------------------------------------------------------------------------------------

JUDGES = {
    BRIGHTNESS: (T.adjust_brightness, 1e-6),
    CONTRAST: (T.adjust_contrast, 5e-4),  # torchvision's luma has 0.2989 for red, Pillow's and ours 0.299
    SATURATION: (T.adjust_saturation, 5e-4),
    HUE: (T.adjust_hue, 2e-5),
}


def adjusted(x: torch.Tensor, operation: int, value: float) -> torch.Tensor:
    """One colour operation on every image, by the code that applies all four."""
    values = np.tile([1.0, 1.0, 1.0, 0.0], (len(x), 1))
    values[:, operation] = value
    order = np.tile(np.arange(4), (len(x), 1))
    return apply_jitter(x.clone(), Jitter.of(order, values, np.ones(len(x), bool)))


@pytest.mark.parametrize("operation", JUDGES)
@pytest.mark.parametrize("strength", [-0.5, -0.2, 0.0, 0.3, 0.5])
def test_colour_operations_are_torchvisions(photographs, operation, strength):
    x = stored(photographs, 8).float() / 255
    judge, tolerance = JUDGES[operation]
    value = strength if operation == HUE else 1 + 2 * strength
    close(adjusted(x, operation, value), judge(x, value), tolerance)


def test_the_hue_of_any_colour_turned_by_any_amount_is_torchvisions():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(64, 3, 16, 16, generator=generator)
    x[:, :, :4] = (x[:, :, :4] * 3).floor() / 2  # ties between channels, greys, black and white
    turns = np.linspace(-0.5, 0.5, 64)
    found = turn_hue(x, turns)
    for i in range(64):
        # By 2e-5 but at ties of channels, where torchvision's own rounding may fall on the other side of a turn.
        close(found[i], T.adjust_hue(x[i], float(turns[i])), 2e-5)


def test_turning_the_hue_by_thirds_swaps_the_channels(photographs):
    x = stored(photographs, 4).float() / 255
    close(turn_hue(x, np.full(4, 1 / 3)), x.roll(1, 1), 1e-5)
    close(turn_hue(x, np.full(4, 1.0)), x, 1e-5)


def test_blur_is_torchvisions_with_a_sigma_for_each_image(photographs):
    x = stored(photographs, 6).float() / 255
    sigma = np.array([0.1, 0.3, 0.7, 1.0, 1.6, 2.0])
    found = gaussian_blur(x, sigma, 2.0)
    for i in range(6):
        close(found[i], T.gaussian_blur(x[i], [13, 13], [float(sigma[i])] * 2), 1e-4)  # 6e-5 of the weight is cut


def by_torchvision(crops: torch.Tensor, draw: Draw) -> torch.Tensor:
    """`finish` without affine and noise, restated one image and one torchvision call at a time."""
    view, out = draw.view, []
    order = draw["order"].argsort(1)
    reach = int(np.ceil(3 * view.blur_sigma[1]))
    for i, x in enumerate(crops):
        if draw["jitter"][i] < view.jitter:
            for operation in order[i]:
                strength = (view.brightness, view.contrast, view.saturation, view.hue)[operation]
                spread = strength * (2 * draw["factors"][i, operation] - 1)
                x = JUDGES[operation][0](x, spread if operation == HUE else 1 + spread)
        if draw["grey"][i] < view.grey:
            x = T.rgb_to_grayscale(x, num_output_channels=3)
        if draw["blur"][i] < view.blur:
            low, high = view.blur_sigma
            x = T.gaussian_blur(x, [2 * reach + 1] * 2, [low + (high - low) * float(draw["sigma"][i])] * 2)
        if draw["solarize"][i] < view.solarize:
            x = T.solarize(x, 0.5)
        out.append(T.normalize(x, list(view.mean), list(view.std)))
    return torch.stack(out)


@pytest.mark.parametrize("view", [*BYOL_VIEWS, CIFAR_VIEW], ids=["byol-1", "byol-2", "cifar"])
@pytest.mark.parametrize("how", ["compiled", "compiled, threads", "tensors"])
def test_a_finished_view_is_what_torchvision_makes_of_the_same_numbers(photographs, view, how, monkeypatch):
    view = replace(view, size=32)
    draw = Draw(view, 0, 0, 0, np.arange(64))
    crops = crop_batch(stored(photographs, 64), draw)
    expected = by_torchvision(crops, draw)
    if how == "tensors":  # as on a GPU
        found = T.normalize(colour_on_gpu(crops, draw), list(view.mean), list(view.std))
    else:
        if how == "compiled, threads":
            monkeypatch.setattr(augment_cpu, "THREADED_FROM", 1000)
            monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        found = augment(crops, draw)
    unlike = (found - expected).abs() > 5e-3  # 0.001 of 1, divided by a std of 0.22
    # A pixel within 1e-3 of the threshold may be solarized by one and not by the other.
    assert unlike.float().mean() < (2e-3 if view.solarize else 1e-9)


def in_torchvisions_words(view: View) -> v2.Compose:
    """A view by torchvision's own transforms, with its own random numbers."""
    mode = InterpolationMode(view.interpolation)
    jitter = v2.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    return v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomResizedCrop(view.size, view.scale, view.ratio, mode, antialias=True),
            v2.RandomHorizontalFlip(view.flip),
            v2.RandomApply([jitter], view.jitter),
            v2.RandomGrayscale(view.grey),
            v2.RandomApply([v2.GaussianBlur(13, view.blur_sigma)], view.blur),
            v2.RandomSolarize(0.5, view.solarize),
            v2.Normalize(list(view.mean), list(view.std)),
        ]
    )


def statistics_of(views: torch.Tensor) -> dict[str, np.ndarray]:
    """What an image looks like in a few numbers: [n] each."""
    grey = views.mean(1)
    return {
        "mean": views.mean((1, 2, 3)).numpy(),
        "contrast": grey.std((1, 2)).numpy(),
        "sharpness": (grey[:, 1:] - grey[:, :-1]).abs().mean((1, 2)).numpy(),
        "colour": (views - grey[:, None]).abs().mean((1, 2, 3)).numpy(),
        "red over blue": (views[:, 0] - views[:, 2]).mean((1, 2)).numpy(),
        "left over right": (grey[:, :, :16].mean((1, 2)) - grey[:, :, 16:].mean((1, 2))).numpy(),
    }


@pytest.mark.parametrize("view", [*BYOL_VIEWS, CIFAR_VIEW], ids=["byol-1", "byol-2", "cifar"])
def test_views_are_distributed_as_torchvisions_by_its_own_random_numbers(photographs, view):
    view, n = replace(view, size=32), 600
    images = stored(photographs, 20)
    draw = Draw(view, 0, 0, 0, np.arange(n))
    ours = augment(crop_batch(images[torch.arange(n) % 20], draw), draw)
    transform = in_torchvisions_words(view)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        theirs = torch.stack([transform(images[i % 20]) for i in range(n)])
    judge = statistics_of(theirs)
    for name, found in statistics_of(ours).items():
        assert stats.ks_2samp(found, judge[name]).pvalue > 1e-3, name


def test_hue_and_order_of_the_colour_operations_vary_from_image_to_image():
    order = Draw(CIFAR_VIEW, 0, 0, 0, np.arange(2400))["order"].argsort(1)
    found, counts = np.unique(order, axis=0, return_counts=True)
    assert len(found) == 24  # every order of four operations
    assert stats.chisquare(counts).pvalue > 1e-3


def test_rotation_zoom_and_shift_are_torchvisions(photographs):
    x = stored(photographs, 16, 32, 32).float() / 255
    indices = np.arange(16)

    def found(**change) -> tuple[torch.Tensor, np.ndarray]:
        draw = Draw(replace(PLAIN, **change), 0, 0, 0, indices)
        return augment(x.clone(), draw), 2 * draw["affine"] - 1

    def judged(i: int, angle=0.0, move=(0.0, 0.0), scale=1.0, shear=0.0) -> torch.Tensor:
        return T.affine(x[i], angle, list(move), scale, [shear, 0.0], interpolation=InterpolationMode.BILINEAR)

    rotated, chance = found(rotate=30.0)
    for i in indices:
        close(rotated[i], judged(i, angle=-30 * chance[i, 0]), 1e-4)
    zoomed, chance = found(zoom=0.3)
    for i in indices:
        close(zoomed[i], judged(i, scale=1 + 0.3 * chance[i, 2]), 1e-4)
    shifted, chance = found(shift=0.2)
    for i in indices:
        close(shifted[i], judged(i, move=-0.2 * 32 * chance[i, 3:]), 1e-4)
    sheared, chance = found(shear=20.0)
    for i in indices:
        close(sheared[i], judged(i, shear=20 * chance[i, 1]), 1e-4)


def test_noise_is_normal_with_the_stated_deviation():
    grey = torch.full((64, 3, 16, 16), 0.5)
    draw = Draw(replace(PLAIN, size=16, noise=0.05), 0, 0, 0, np.arange(64))
    noise = (augment(grey, draw) - 0.5).flatten().numpy() / 0.05
    assert stats.kstest(noise[:20_000], "norm").pvalue > 1e-3
    assert abs(noise.std() - 1) < 0.01


def test_upside_down_and_quarter_turns_make_all_eight_positions_alike_often(photographs):
    images = stored(photographs, 1, 32, 32).expand(4000, -1, -1, -1)
    draw = Draw(replace(PLAIN, flip=0.5, upend=0.5, turn=0.5), 0, 0, 0, np.arange(4000))
    found = (augment(crop_batch(images, draw), draw) * 255).round().numpy()
    one = images[0].numpy()
    positions = [np.rot90(mirrored, k, (1, 2)) for mirrored in (one, one[:, :, ::-1]) for k in range(4)]
    which = np.array([[np.array_equal(x, position) for position in positions] for x in found])
    assert (which.sum(1) == 1).all()
    assert stats.chisquare(which.sum(0)).pvalue > 1e-3


def test_a_rectangle_is_erased_as_torchvision_draws_it(photographs):
    """Of so many views, in shares and shapes of torchvision's RandomErasing, inside the view; the rest is untouched."""
    images = stored(photographs, 1, 64, 64).expand(2000, -1, -1, -1)
    view = replace(PLAIN, size=64, mean=(-1, -1, -1))  # so that only what is erased is 0
    draw = Draw(replace(view, erase=0.5), 0, 0, 1, np.arange(2000))
    found, whole = augment(images, draw), augment(images, Draw(view, 1, 0, 0, np.arange(2000)))
    gone = (found == 0).all(1).numpy()
    kept = torch.from_numpy(~gone)[:, None].expand_as(found)
    assert torch.equal(found[kept], whole[kept])
    some = gone.any((1, 2))
    assert abs(some.mean() - 0.5) < 4 * np.sqrt(0.25 / 2000)
    high, wide = gone.any(2).sum(1)[some], gone.any(1).sum(1)[some]
    assert (high * wide == gone.sum((1, 2))[some]).all()  # one rectangle
    theirs = [v2.RandomErasing(p=1, scale=(0.02, 0.33), ratio=(0.3, 3.3)).make_params([images[0]]) for _ in range(2000)]
    theirs = np.array([(each["h"], each["w"]) for each in theirs if each["v"] is not None])
    assert stats.ks_2samp(high * wide, theirs.prod(1)).pvalue > 1e-3
    assert abs(np.median(high / wide) / np.median(theirs[:, 0] / theirs[:, 1]) - 1) < 0.1
    top, left = gone.any(2).argmax(1)[some], gone.any(1).argmax(1)[some]
    assert (top == 0).any()
    assert (left + wide == 64).any()


def test_numbers_of_later_parameters_are_others_than_those_of_the_noise():
    draw = Draw(PLAIN, 0, 0, 0, np.arange(50))
    later = np.concatenate([draw.later("upend", 7), draw.table, uniforms(*draw.key, count=6 * 224**2, first=41)], 1)
    assert len(np.unique(later)) == later.size
    # With four columns of the rectangle, none is used twice.
    assert sorted([*LATER.values()]) == [0, 1, 2, 3]


def test_finish_leaves_its_input_alone_and_takes_bytes_as_shares_of_255(photographs):
    images = stored(photographs, 16, 32, 32)
    before = images.clone()
    draw = Draw(replace(CIFAR_VIEW, blur=0.5, solarize=0.5), 0, 0, 0, np.arange(16))
    from_bytes = augment(images, draw)
    assert torch.equal(images, before)
    close(from_bytes, augment(images.float() / 255, draw), 1e-5)


# --- the random numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flip", "jitter", "grey", "blur", "solarize"])
@pytest.mark.parametrize("probability", [0.0, 0.1, 0.8, 1.0])
def test_an_operation_is_chosen_as_often_as_its_probability_says(name, probability):
    n = 40_000
    chosen = len(Draw(replace(PLAIN, **{name: probability}), 0, 0, 0, np.arange(n)).chosen(name))
    assert abs(chosen - n * probability) <= 4 * np.sqrt(n * probability * (1 - probability))


def splitmix(seed: int, epoch: int, index: int, view: int, column: int) -> float:
    """The same number by Python's own integers: nested splitmix64 finalisers."""

    def mixed(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    key = mixed(seed)
    for part in (epoch, index, view):
        key = mixed((key + part) % 2**64)
    return (mixed((key + (column + 1) * 0x9E3779B97F4A7C15) % 2**64) >> 11) / 2**53


@settings(deadline=None, max_examples=50)
@given(*[st.integers(0, 2**31)] * 3, st.integers(0, 20), st.integers(0, 60))
def test_numbers_are_a_stated_hash_so_that_they_never_change_between_versions(seed, epoch, index, view, column):
    table = uniforms(seed, epoch, np.array([index]), view, column + 1)
    assert table[0, column] == splitmix(seed, epoch, index, view, column)
    assert uniforms(seed, epoch, np.array([index]), view, 1, first=column)[0, 0] == table[0, column]


def test_numbers_are_uniform_and_unrelated_over_seeds_epochs_images_views_and_columns():
    indices, columns, n = np.arange(2000), 50, 100_000

    def table(seed=0, epoch=0, view=0) -> np.ndarray:
        return uniforms(seed, epoch, indices, view, columns)

    base = table()
    assert 0 <= base.min() < base.max() < 1
    assert stats.kstest(base.ravel(), "uniform").pvalue > 1e-3
    pairs = {
        "next seed": (base, table(seed=1)),
        "next epoch": (base, table(epoch=1)),
        "seed 1 epoch 0, seed 0 epoch 1": (table(seed=1), table(epoch=1)),
        "next view": (base, table(view=1)),
        "next image": (base[:-1], base[1:]),
        "next column": (base[:, :-1], base[:, 1:]),
        "image 1 view 0, image 0 view 1": (base[1:], table(view=1)[:-1]),
    }
    for name, (one, other) in pairs.items():
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(n), name
        assert (one == other).mean() < 1e-3, name


def test_every_parameter_has_numbers_of_its_own():
    used = [column for first, count in COLUMNS.values() for column in range(first, first + count)]
    assert sorted(used) == list(range(COLUMNS["noise"][0]))


def views_of(images: torch.Tensor, indices: np.ndarray, views, epoch: int = 0, seed: int = 0) -> torch.Tensor:
    made = []
    for number, view in numbered(views):
        draw = Draw(view, number, seed, epoch, indices)
        made.append(augment(crop_batch(images[torch.from_numpy(indices)], draw), draw))
    return torch.stack(made)


@pytest.mark.parametrize("view", [DIGITS_VIEW, replace(CIFAR_VIEW, blur=0.5, copies=2)], ids=["digits", "cifar"])
def test_any_split_of_a_batch_gives_the_same_views(photographs, view):
    images, indices = stored(photographs, 48), np.random.default_rng(1).permutation(48)
    whole = views_of(images, indices, [view])
    assert not torch.equal(whole[0], whole[1])
    for cuts in ([24], [1, 2, 17, 40], range(1, 48)):
        parts = [views_of(images, part, [view]) for part in np.split(indices, list(cuts))]
        close(torch.cat(parts, 1), whole, 1e-5)


def test_a_batch_from_memory_holds_the_views_that_are_made_one_by_one(photographs):
    images, labels = stored(photographs, 48), np.arange(48)
    views = (replace(CIFAR_VIEW, copies=2), replace(CIFAR_VIEW, size=16, scale=(0.1, 0.5), copies=3))
    batches = ViewBatches(Split(InMemory(images), labels), views, 16, seed=5, device=torch.device("cpu"), workers=0)
    batch = next(batches.batches(4, 5, lambda m: slice(4, 12)))  # the second step of the second epoch, rows of a rank
    assert [tuple(view.shape) for view in batch.views] == [(8, 3, 32, 32)] * 2 + [(8, 3, 16, 16)] * 3
    assert batch.labels is not None
    for number, view in numbered(views):
        draw = Draw(view, number, 5, 1, batch.labels.numpy())
        close(batch.views[number], augment(crop_batch(images[batch.labels], draw), draw), 1e-5)


def test_another_epoch_or_seed_gives_other_views(photographs):
    images, indices = stored(photographs, 8), np.arange(8)
    first = views_of(images, indices, [CIFAR_VIEW])
    assert torch.equal(first, views_of(images, indices, [CIFAR_VIEW]))
    for other in ({"epoch": 1}, {"seed": 1}):
        unlike = (views_of(images, indices, [CIFAR_VIEW], **other) - first).abs().mean((0, 2, 3, 4))
        assert (unlike > 0.01).all()


def test_copies_of_a_view_count_as_views_of_their_own():
    assert [number for number, _ in numbered([replace(PLAIN, copies=2), View()])] == [0, 1, 2]


def test_the_recipes_views_have_the_parameters_of_their_sources():
    """BYOL's pair, as the paper's appendix C says; torchvision's own words for it are the second opinion."""
    jitter = v2.ColorJitter(0.4, 0.4, 0.2, 0.1)
    for view in BYOL_VIEWS:
        assert jitter.brightness == (1 - view.brightness, 1 + view.brightness)
        assert jitter.saturation == (1 - view.saturation, 1 + view.saturation)
        assert jitter.hue == (-view.hue, view.hue)
        assert (view.size, view.scale, view.flip, view.jitter, view.grey) == (224, (0.08, 1.0), 0.5, 0.8, 0.2)
    assert [(v.blur, v.solarize) for v in BYOL_VIEWS] == [(1.0, 0.0), (0.1, 0.2)]
