"""Transfer: what is chosen on which images, how it is fitted, what results say."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import as_stored, lines, stored_in
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import nn
from transfer_layouts import LAYOUTS

from mec.cli.main import main
from mec.data.batches import ViewBatches
from mec.data.dataset import Split
from mec.data.images import InMemory
from mec.errors import BadInput, TrainingStopped
from mec.evaluation.evaluate import evaluate
from mec.evaluation.finetuning import finetune
from mec.evaluation.probing.logistic import PENALTIES
from mec.evaluation.subject import Subject
from mec.evaluation.transfer import sweeps
from mec.evaluation.transfer.protocols import Transfer
from mec.evaluation.transfer.sets import Choices, Parts
from mec.evaluation.transfer.sweeps import (
    FINETUNING,
    Finetuning,
    finetuned_or_none,
    logistic_transfer,
    square,
    transfer_preset,
)
from mec.networks.encoder_file import EncoderInfo
from mec.recipes.recipe import View
from mec.recipes.schedules import cosine
from mec.runtime.records import Ledger

SIDE = 8
QUICK = Finetuning("a test", 3, 4, (0.01, 0.1), (0.0, 1e-3), True, 256 / 224)


def transfer(subject, names, root, *, finetuning=None, choices=None, say, **flags):
    flags = {"data": ",".join(names), "data_root": root, **(asdict(choices) if choices else {}), **flags}
    return sweeps.transfer(subject, Transfer(**flags), finetuning, say)


@pytest.fixture
def subject(tmp_path, monkeypatch) -> Subject:
    monkeypatch.setattr(sweeps, "PENALTIES", PENALTIES[::11])  # noise images teach nothing about the others
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()).eval()
    encoder.requires_grad_(False)
    info = EncoderInfo("custom", 54, SIDE, True, "bicubic", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "mec", "", "", "", 0)
    return Subject("mec", encoder, info, "0" * 16, "cpu", tmp_path / "run")


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    for name in ("dtd", "voc2007", "cifar10"):
        LAYOUTS[name](tmp_path / "data", monkeypatch)
    return tmp_path / "data"


def state(module_: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module_.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


# --- the regression's choice -------------------------------------------------------------------------------------


def digit_parts(tmp_path, seed: int = 0):
    """Digits with noise, so that neither end of the grid is best: (x, labels) of three parts, and their frame."""
    x, y = load_digits(return_X_y=True)
    x = np.hstack([x, np.random.default_rng(0).normal(scale=4, size=(len(x), 30))]).astype(np.float32)
    cut = [slice(0, 200), slice(200, 350), slice(350, 1350)]
    fit, held_out, test = ((torch.from_numpy(x[c]), y[c]) for c in cut)
    nothing = Split(InMemory(torch.zeros(1, 3, 2, 2, dtype=torch.uint8)))
    parts = Parts("digits", nothing, nothing, nothing, tuple("0123456789"), "top-1", "", {})
    return fit, held_out, test, parts


def scikit_learns(x, y, penalty: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=1 / penalty, tol=1e-6, max_iter=5000).fit(np.asarray(x, np.float64), y)


def test_the_chosen_penalty_and_its_accuracy_are_scikit_learns(tmp_path):
    fit, held_out, test, parts = digit_parts(tmp_path)
    found = logistic_transfer(fit, held_out, test, parts, Ledger(tmp_path, "digits", {}))
    on_held_out = [100 * scikit_learns(*fit, p).score(*held_out) for p in PENALTIES[:32:6]]
    ours = [entry["value"] for entry in lines(next(tmp_path.glob("digits-*.jsonl")))[1:]]
    assert len(ours) == 45
    assert np.allclose(ours[:32:6], on_held_out, atol=0.7)  # one image of 150 at most
    assert found["held_out"] == max(ours)
    assert found["penalty"] == PENALTIES[int(np.argmax(ours))]  # of equal ones the strongest
    together = np.vstack([fit[0], held_out[0]]), np.concatenate([fit[1], held_out[1]])
    assert found["value"] == pytest.approx(100 * scikit_learns(*together, found["penalty"]).score(*test), abs=0.1)
    assert not found["end_of_grid"]
    assert found["train"] == 350


def test_test_images_decide_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "PENALTIES", PENALTIES[::4])
    fit, held_out, test, parts = digit_parts(tmp_path)
    honest = logistic_transfer(fit, held_out, test, parts, Ledger(tmp_path, "a", {}))
    shuffled = (test[0], np.random.default_rng(0).permutation(test[1]))
    other = logistic_transfer(fit, held_out, shuffled, parts, Ledger(tmp_path, "b", {}))
    assert (other["penalty"], other["held_out"]) == (honest["penalty"], honest["held_out"])
    assert other["value"] < 30 < honest["value"]


def test_standardised_features_are_those_of_the_fitted_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "PENALTIES", PENALTIES[8:24:4])
    fit, held_out, test, parts = digit_parts(tmp_path)
    stretched = 1000.0 ** torch.linspace(-1, 1, fit[0].shape[1])
    both = [
        logistic_transfer((fit[0] * s, fit[1]), (held_out[0] * s, held_out[1]), (test[0] * s, test[1]), parts,
                          Ledger(tmp_path, f"{i}", {}), standardise=True)
        for i, s in enumerate((1.0, stretched))
    ]  # fmt: skip
    assert both[0]["value"] == pytest.approx(both[1]["value"], abs=0.2)


def test_an_end_of_the_grid_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "PENALTIES", PENALTIES[:16:4])
    fit, held_out, test, parts = digit_parts(tmp_path)
    said: list[str] = []
    fit = (fit[0], np.where(fit[1] == 9, 8, fit[1]))
    nonsense = (held_out[0], np.full(150, 9))  # a class that is never right: all penalties are equally bad
    found = logistic_transfer(fit, nonsense, test, parts, Ledger(tmp_path, "digits", {}), say=said.append)
    assert found["penalty"] == PENALTIES[0]
    assert found["end_of_grid"]
    assert any("at an end of the grid" in line for line in said)


# --- from images -------------------------------------------------------------------------------------------------


def test_linear_transfer_leaves_the_encoder_as_it_is_and_says_what_was_measured(subject, data):
    before = state(subject.encoder)
    results = list(transfer(subject, ["dtd", "voc2007", "cifar10"], data, say=lambda line: None))
    assert same(before, state(subject.encoder))
    assert [(r.data, r.metric) for r in results] == [
        ("dtd", "top-1"),
        ("voc2007", "11-point mAP"),
        ("cifar10", "top-1"),
    ]
    for result in results:
        assert result.protocol == "transfer"
        assert result.data_fingerprint
        assert 0 <= result.value <= 100
        assert result.settings["mode"] == "linear"
        assert result.settings["preset"] == "paper"
        assert result.settings["penalty"] in PENALTIES
    held = json.loads((subject.folder / "transfer" / "cifar10-split.json").read_text())["held_out"]
    assert len(held) == 10


def test_a_second_run_of_the_same_command_measures_nothing_again(subject, data, monkeypatch):
    first = list(transfer(subject, ["dtd"], data, say=lambda line: None))
    monkeypatch.setattr(subject.__class__, "features", lambda *a: pytest.fail("extracted again"))
    assert list(transfer(subject, ["dtd"], data, say=lambda line: None)) == first
    monkeypatch.undo()
    other = list(transfer(subject, ["dtd"], data, choices=Choices(seed=1), say=lambda line: None))
    assert other[0].seed == 1
    assert len(list((subject.folder / "transfer").glob("dtd-linear-*.jsonl"))) == 2  # other settings, another sweep


def test_limits_take_a_part_of_each_part_and_are_recorded(subject, data):
    said: list[str] = []
    (result,) = transfer(subject, ["cifar10"], data, limit=40, say=said.append)
    assert "36 + 4 training images, 20 to test" in said[0]
    assert result.settings["limit"] == 40


def test_images_are_resized_by_the_shorter_side_then_cropped_in_the_middle(subject, photographs):
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import functional as F

    photo = photographs[0]  # 640 x 427
    for resize, side in ((1.0, 8), (256 / 224, 9)):
        found = square(subject.info, resize)(photo)
        small = F.resize(F.to_image(photo), [side, side * 640 // 427], v2.InterpolationMode.BICUBIC, antialias=True)
        expected = (F.center_crop(small, [8, 8]).float() / 255 - 0.5) / 0.2
        assert found.shape == (3, 8, 8)
        assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.samples
def test_voc2007_of_the_samples_goes_through_both_modes(subject, samples):
    root = samples / "samples" / "voc2007_mini"
    for recipe in (None, QUICK):
        (result,) = transfer(subject, ["voc2007"], root, finetuning=recipe, say=lambda line: None)
        assert result.metric == "11-point mAP"
        assert 0 < result.value <= 100


# --- fine-tuning -------------------------------------------------------------------------------------------------


def test_batch_norm_statistics_move_slower_on_large_sets(subject):
    """400 images, 2 a step: 200 steps an epoch, and a momentum of 10 / 200."""
    recipe = Finetuning("a test", 1, 2, (1e-9,), (0.0,), True, 1.0)
    split, norm = noise(400), subject.encoder[1]
    for rule, momentum in ((True, 0.05), (False, 0.1)):
        tuned = finetuned_or_none(subject, split, 2, replace(recipe, norm_rule=rule), rate=1e-9, decay=0.0, seed=5)
        view = View(SIDE, jitter=0.0, grey=0.0, mean=(0.5,) * 3, std=(0.2,) * 3)
        batches = ViewBatches(split, (view,), 2, seed=5, device=torch.device("cpu"), workers=0)
        images = next(iter(batches.batches(0, 1, lambda n: slice(0, n)))).views[0]
        seen = subject.encoder[0](images).mean((0, 2, 3))
        expected = (1 - momentum) * norm.running_mean + momentum * seen
        assert torch.allclose(tuned[0][1].running_mean, expected, atol=1e-5)


def noise(n: int, classes: int = 2, seed: int = 0) -> Split:
    random = np.random.default_rng(seed)
    y = np.arange(n) % classes
    pixels = random.integers(0, 200, (n, 3, SIDE, SIDE)) + (y[:, None, None, None] * 50)
    return Split(InMemory(torch.from_numpy(pixels.astype(np.uint8))), y)


def test_fine_tuning_is_nesterov_sgd_with_the_decay_over_the_rate_and_a_cosine_to_zero(subject):
    """The same steps written out; weights and statistics agree."""
    split, rate, decay, steps = noise(12), 0.05, 1e-3, 4
    recipe = Finetuning("a test", steps, 4, (rate,), (decay,), True, 1.0)
    tuned = finetuned_or_none(subject, split, 2, recipe, rate=rate, decay=decay, seed=5)

    head = nn.Linear(54, 2)
    with torch.no_grad():
        head.weight.copy_(0.01 * torch.randn(2, 54, generator=torch.Generator().manual_seed(5)))
        head.bias.zero_()
    twin = nn.Sequential(*[type(layer)(*extra) for layer, extra in
                           ((nn.Conv2d(3, 6, 3, stride=2), (3, 6, 3, 2)), (nn.BatchNorm2d(6), (6, 1e-5, 0.1)),
                            (nn.ReLU(), ()), (nn.Flatten(), ()))])  # fmt: skip
    twin.load_state_dict(subject.encoder.state_dict())
    twin = nn.Sequential(twin, head).train()
    view = View(SIDE, jitter=0.0, grey=0.0, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    batches = ViewBatches(split, (view,), 4, seed=5, device=torch.device("cpu"), workers=0)
    velocity = [torch.zeros_like(p) for p in twin.parameters()]
    for step, batch in enumerate(batches.batches(0, steps, lambda n: slice(0, n))):
        loss = nn.functional.cross_entropy(twin(batch.views[0]), batch.labels)
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        lr = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
        with torch.no_grad():
            for p, v, g in zip(twin.parameters(), velocity, gradients):
                g = g + decay / rate * p
                v.mul_(0.9).add_(g)
                p -= lr * (g + 0.9 * v)
    for name, value in twin.state_dict().items():
        assert torch.allclose(tuned.state_dict()[name], value, atol=1e-5), name
    assert cosine(rate, 0.0, 1.0) == pytest.approx(0)


def test_fine_tuning_works_on_a_copy_and_chooses_on_held_out_images(subject, data, monkeypatch):
    before = state(subject.encoder)
    seen = []

    def recorded(subject_, train, classes, recipe, **keywords):
        seen.append((len(train), keywords["rate"], keywords["decay"]))
        return finetuned_or_none(subject_, train, classes, recipe, **keywords)

    monkeypatch.setattr(sweeps, "finetuned_or_none", recorded)
    (result,) = transfer(subject, ["dtd"], data, finetuning=QUICK, say=lambda line: None)
    assert same(before, state(subject.encoder))
    assert not any(p.requires_grad for p in subject.encoder.parameters())
    trials = [(8, rate, decay) for rate in QUICK.learning_rates for decay in QUICK.weight_decays]
    chosen = (result.settings["learning_rate"], result.settings["weight_decay"])
    assert seen == [*trials, (16, *chosen)]  # the last on all training images
    found = {
        tuple(e["key"].split(", ")): e["value"] for e in lines(next(subject.folder.glob("transfer/*.jsonl")))[1:-1]
    }
    assert result.settings["held_out"] == max(found.values())
    assert result.settings["preset"] == "custom"


def test_figures_of_another_version_or_normalisation_are_not_resumed(subject, data, monkeypatch):
    def run(subject):
        list(transfer(subject, ["dtd"], data, say=lambda line: None))
        return len([*subject.folder.glob("transfer/dtd-linear-*.jsonl")])

    assert [run(subject), run(subject)] == [1, 1]
    assert run(replace(subject, info=replace(subject.info, mean=(0.4, 0.5, 0.5)))) == 2
    monkeypatch.setattr(sweeps, "__version__", "0.0.0")
    assert run(subject) == 3


def test_a_disk_that_goes_away_is_no_divergence(subject, data, monkeypatch):
    def gone(*arguments, **keywords):
        raise TrainingStopped("100 images in a row cannot be read")

    monkeypatch.setattr(finetune, "train_classifier", gone)
    with pytest.raises(TrainingStopped, match="in a row"):
        list(transfer(subject, ["dtd"], data, finetuning=QUICK, say=lambda line: None))
    (ledger,) = subject.folder.glob("transfer/*.jsonl")
    assert len(ledger.read_text().splitlines()) == 1  # what it is about, and no value


def test_figures_of_other_choices_than_the_protocol_s_say_so():
    assert transfer_preset(None, False, Choices(seed=3)) == "paper"
    assert transfer_preset(None, False, Choices(background=False)) == "paper, changed"
    assert transfer_preset(FINETUNING["budget"], False, Choices(difficult_as_absent=True)) == "budget, changed"


def test_a_rate_that_diverges_is_never_chosen_and_one_that_all_do_is_said(subject, data):
    wild = Finetuning("a test", 60, 4, (1e-3, 1e12), (0.0,), True, 1.0)
    (result,) = transfer(subject, ["dtd"], data, finetuning=wild, say=lambda line: None)
    assert result.settings["learning_rate"] == 1e-3
    hopeless = Finetuning("a test", 60, 4, (1e12,), (0.0,), True, 1.0)
    with pytest.raises(BadInput, match="every trial diverged"):
        list(transfer(subject, ["dtd"], data, finetuning=hopeless, say=lambda line: None))


# --- the command -------------------------------------------------------------------------------------------------


def test_the_command_measures_records_and_fills_the_table(finished, data, tmp_path, capsys):
    run = str(finished)
    out = str(tmp_path / "out")
    assert main(["evaluate", run, "transfer", "dtd,cifar10", "--data-root", str(data), "--out", out]) == 0
    grid = ["--steps", "2", "--batch-size", "4", "--learning-rates", "0.01", "--weight-decays", "0,1e-4"]
    tuning = ["transfer", "dtd", "--data-root", str(data), "--out", out, "--mode", "finetune", *grid]
    assert main(["evaluate", run, *tuning]) == 0
    stored = lines(tmp_path / "out" / "results.jsonl")
    assert [(r["data"], r["settings"]["mode"]) for r in stored] == [
        ("dtd", "linear"), ("cifar10", "linear"), ("dtd", "finetune")
    ]  # fmt: skip
    assert all(r["checkpoint"] and r["time"] and r["data_fingerprint"] for r in stored)
    again = evaluate(run, "transfer", ["dtd", "cifar10"], data_root=str(data), out=tmp_path / "again")
    again += evaluate(
        run, "transfer", "dtd", data_root=data, mode="finetune", steps=2, batch_size=4, learning_rates=0.01,
        weight_decays=[0, 1e-4], out=tmp_path / "again",
    )  # fmt: skip
    assert as_stored(again) == stored_in(tmp_path / "out")
    capsys.readouterr()
    assert main(["table", "8", out]) == 0
    text = capsys.readouterr().out
    assert f"{stored[0]['value']:.1f}" in next(line for line in text.splitlines() if "(out)" in line)


def test_all_sets_are_asked_for_before_anything_runs(finished, data, tmp_path, capsys):
    words = ["evaluate", str(finished), "transfer", "all", "--data-root", str(data), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    text = capsys.readouterr().err
    assert "8 data sets are not there" in text
    assert "give cifar10,voc2007,dtd as their name" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [(("--learning-rates", "fast"), "--learning-rates is 'fast'"), (("--steps", "0"), "steps is 0"),
     (("--limit", "1"), "--limit is 1")],
)  # fmt: skip
def test_flags_that_do_not_fit_are_named(finished, data, tmp_path, capsys, flags, words):
    command = ["evaluate", str(finished), "transfer", "dtd", "--data-root", str(data), "--out", str(tmp_path / "out")]
    assert main([*command, "--mode", "finetune", *flags]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [(("--preset", "budget"), "--preset belongs to fine-tuning"), (("--steps", "5"), "--steps belongs to fine-tuning"),
     (("--mode", "finetune", "--standardise"), "--standardise belongs to the mode linear")],
)  # fmt: skip
def test_flags_of_the_other_mode_are_refused(finished, data, tmp_path, capsys, flags, words):
    command = ["evaluate", str(finished), "transfer", "dtd", "--data-root", str(data), "--out", str(tmp_path / "out")]
    assert main([*command, *flags]) == 2
    assert words in capsys.readouterr().err
