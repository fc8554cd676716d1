"""A benchmark times what it says: every contender computes the thing that it is compared by."""

import json
import platform
import sys
from pathlib import Path

import pytest
import reference
import torch
from helpers import write_images

from mec.data.opening import open_data
from mec.errors import BadInput
from mec.objectives.matched import unit_rows
from mec.recipes.recipe import View
from mec.runtime.machine import cpu_name, machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import coding
import loading
from coding import AGAINST, CONTENDERS, RELEASED, of_order, once, released_loop, time_coding


@pytest.mark.parametrize(("m", "d"), [(5, 8), (8, 5)])
@pytest.mark.parametrize("order", [1, 4, 8])
def test_the_released_loop_is_algorithm_1_and_ours_gives_the_same_value_and_gradient(m, d, order):
    online, target = (unit_rows(torch.randn(m, d, dtype=torch.float64)) for _ in range(2))
    expected = reference.algorithm_1(online, target, -1.0, 0.3, order)
    found = []
    for value in (lambda o, t, lam: released_loop(o, t, lam, order), of_order(order)):
        leaf = online.clone().requires_grad_()
        result = value(leaf, target, 0.3)
        torch.testing.assert_close(result.detach(), expected)
        found.append(torch.autograd.grad(result, leaf)[0])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(("m", "d"), [(5, 8), (8, 5)])
def test_the_bare_products_are_those_of_the_first_order(m, d):
    products = next(c for c in CONTENDERS if c.name == "cross products")
    leaves = [torch.randn(m, d, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    gradients = [
        torch.autograd.grad(f, leaves)
        for f in (
            products.value(*leaves, 1.0),
            (torch.trace((leaves[0] @ leaves[1].T) @ (leaves[0] @ leaves[1].T)) / 2),
        )
    ]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)  # d Tr(C²)/2 = Cᵀ: one product a side


def test_every_ratio_is_to_the_median_of_the_same_run():
    timings = time_coding([16, 8], [12], repeats=2)
    assert len(timings) == 2 * 2 * len(CONTENDERS)
    for timing in timings:
        same = {t.name: t for t in timings if (t.m, t.d, t.backward) == (timing.m, timing.d, timing.backward)}
        assert timing.against == AGAINST.get(timing.name, RELEASED)
        assert timing.ratio == timing.median / same[timing.against].median
        assert timing.low <= timing.median <= timing.high


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda c: c.name)
def test_gradients_are_asked_for_where_the_contender_says(contender):
    seen = []
    spy = type(contender)(
        contender.name,
        lambda o, t, lam: seen.append((o.requires_grad, t.requires_grad)) or contender.value(o, t, lam),
        contender.gradients,
    )
    for backward in (False, True):
        once(spy, torch.eye(4), torch.eye(4), 0.5, backward)
    assert seen == [(False, False), (True, contender.gradients == 2)]


def test_the_script_prints_a_table_and_writes_json_and_a_picture(tmp_path, capsys):
    flags = ["--rows", "8,16", "--sizes", "8", "--repeats", "2", "--device", "cpu", "--out", str(tmp_path / "b")]
    assert coding.main(flags) == 0
    said = capsys.readouterr().out
    assert "m 16, d 8: median ms" in said
    assert "joint exact" in said
    written = json.loads((tmp_path / "b" / "coding.json").read_text())
    assert written["machine"]["torch"] == torch.__version__
    assert {t["name"] for t in written["timings"]} == {c.name for c in CONTENDERS}
    assert (tmp_path / "b" / "coding.png").read_bytes()[:4] == b"\x89PNG"


def test_the_processor_is_named_as_the_system_names_it(tmp_path, monkeypatch):
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    assert machine("cpu")["device"] == (names[0] if names else cpu_name())
    monkeypatch.setattr(
        Path, "read_text", lambda self: "processor\t: 0\nmodel name\t: A Fast One @ 3 GHz\nflags\t: x\n"
    )
    assert cpu_name() == "A Fast One @ 3 GHz"
    monkeypatch.setattr(Path, "read_text", lambda self: "processor\t: 0\n")
    assert cpu_name() in (platform.processor(), platform.machine())
    assert cpu_name()


@pytest.mark.parametrize(("rows", "sizes", "repeats"), [([0], [4], 1), ([4], [-1], 1), ([4], [4], 0)])
def test_sizes_below_one_are_refused(rows, sizes, repeats):
    with pytest.raises(BadInput, match="at least 1"):
        time_coding(rows, sizes, repeats=repeats)


@pytest.mark.parametrize("side", [80, 12], ids=["decoded", "in memory"])
def test_the_stages_of_the_data_path_are_timed_alone_and_together(tmp_path, capsys, side):
    write_images(tmp_path / "photos", 12, ".png", width=side, height=side)
    out = tmp_path / "bench"
    flags = ["--images", "8", "--workers", "0", "--out", str(out)]
    loading.main([str(tmp_path / "photos"), *flags])
    stages = {s["name"]: s for s in json.loads((out / "data.json").read_text())["stages"]}
    alone = ["read", "decode", "crop, flip", "colour, blur"] if side == 80 else ["crop, flip", "colour, blur"]
    together = "together, 0 workers" if side == 80 else "together"
    assert list(stages) == [*alone, together]
    for stage in stages.values():
        assert stage["images_per_second"] == pytest.approx(1 / stage["seconds"])
    slowest = max(alone, key=lambda name: stages[name]["seconds"])
    assert f"{slowest} limits" in capsys.readouterr().out


def test_a_number_of_images_too_small_to_time_is_refused(tmp_path):
    with pytest.raises(BadInput, match="at least 2 are timed"):
        loading.main(["digits", "--images", "1", "--out", str(tmp_path)])


def test_only_batches_that_were_not_ready_beforehand_are_timed(tmp_path, monkeypatch):
    """Workers have two batches each ahead of the first one that is asked for."""
    write_images(tmp_path / "photos", 12, ".png", width=80, height=80)
    seen = []

    def batches(self, start, stop, share):
        seen.append(stop - start)
        return iter(range(start, stop))

    monkeypatch.setattr(loading.ViewBatches, "batches", batches)
    split = open_data(str(tmp_path / "photos")).train
    for workers in (0, 1, 8):
        stage = loading.time_together(split, (View(size=8, copies=2),), "cpu", workers)
        assert stage.name == f"together, {workers} workers"
    assert seen == [1 + 4, 3 + 8, 17 + 64]
