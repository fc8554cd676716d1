"""Whatever trains or sweeps goes on after a stop by one core: the same tests for each that uses it.

Each is cut off twice and ends as one that never stopped, bit for bit; a torn file is passed over with a word, or
refused with one where nothing stands in for it; a file of other work is refused. A new user gets a row in `USERS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import photographs
import pytest
import torch
from helpers import small_subject, tiny_run
from torch import nn
from transfer_layouts import LAYOUTS

from mec.data.opening import open_data
from mec.errors import BadInput
from mec.evaluation import classifier
from mec.evaluation.classifier import Training
from mec.evaluation.detection import runs, training
from mec.evaluation.detection.batches import Sizes
from mec.evaluation.detection.network import Regions
from mec.evaluation.detection.presets import PRESETS, preset_named
from mec.evaluation.detection.protocols import Coco
from mec.evaluation.finetuning.finetune import finetune
from mec.evaluation.probing.logistic import PENALTIES
from mec.evaluation.probing.probe import train_probe
from mec.evaluation.subject import resolve
from mec.evaluation.transfer import sweeps
from mec.evaluation.transfer.protocols import Transfer
from mec.evaluation.transfer.sweeps import Finetuning
from mec.networks.backbones import SMALL
from mec.runtime import checkpoints, records
from mec.runtime.checkpoints import Checkpoints
from mec.runtime.records import read_records
from mec.training import trainer


def transfer(subject, names, root, *, finetuning=None, say, **flags):
    return sweeps.transfer(subject, Transfer(data=",".join(names), data_root=root, **flags), finetuning, say)


class Cut(Exception):
    """Power went off."""


def pretrains(folder: Path) -> Any:
    tiny_run(folder, method="mec", resume=True, save_minutes=0, quiet=False)
    return checkpoints.in_run(folder).newest()[0], logged(folder, "step")


def detects(folder: Path) -> Any:
    options = Coco(data_root=photographs.coco(folder / "data"), resume=True)
    subject = resolve("random:resnet10-narrow", device="cpu", image_size=64, out=folder / "run")
    results = runs.detect(subject, options, *preset_named("coco", None), save_minutes=0)
    (run,) = (path for path in folder.glob("run/*/lr-*") if path.is_dir())
    return checkpoints.in_run(run).newest()[0], logged(run, "iteration"), [r.value for r in results]


def logged(run: Path, count: str) -> list[tuple[int, float]]:
    return [(line[count], line["loss"]) for line in read_records(run / "metrics.jsonl")]


RECIPE = Training("", base_lr=0.2, batch_size=40, epochs=2, nesterov=True, crop=(0.7, 1.0))


def probes(folder: Path) -> Any:
    recipe = replace(RECIPE, frozen=True, head_norm=True, optimizer="lars", base_lr=30.0)
    return train_probe(small_subject(folder), open_data("digits", limit=120), recipe, seed=3)


def finetunes(folder: Path) -> Any:
    return finetune(small_subject(folder), open_data("digits", limit=120), replace(RECIPE, norm_rule=True), seed=3)


def sweeps_pairs(folder: Path) -> Any:
    pairs = Finetuning("a test", 3, 4, (0.01, 0.1), (0.0, 1e-3), True, 256 / 224)
    return transfers(folder, finetuning=pairs)


def sweeps_penalties(folder: Path) -> Any:
    return transfers(folder, standardise=True)


def transfers(folder: Path, **options: Any) -> Any:
    return list(transfer(small_subject(folder), ["dtd"], folder / "data", say=lambda line: None, **options))


@dataclass(frozen=True)
class User:
    run: Callable[[Path], Any]  # to its end, in a folder; run again, it resumes
    step: tuple[Any, str]  # what is called once a step, or once a part
    parts: int  # how often, when nothing stops it
    cuts: tuple[int, int]  # at which call the power goes off, first and next time
    kept: str  # files that it resumes from


BACKWARD = (classifier, "backward")
USERS = {
    "pretrain": User(pretrains, (trainer.Trainer, "set_lr"), 6, (3, 5), "checkpoints/step-*.pt"),
    "detection": User(detects, (training.DetectorRun, "check"), 4, (2, 4), "run/*/*/checkpoints/step-*.pt"),
    "probe": User(probes, BACKWARD, 6, (3, 5), "unfinished/*.pt"),
    "finetune": User(finetunes, BACKWARD, 6, (3, 5), "unfinished/*.pt"),
    "pairs": User(sweeps_pairs, BACKWARD, 15, (5, 9), "transfer/*.pt"),
    "ledger of pairs": User(sweeps_pairs, BACKWARD, 15, (4, 8), "transfer/*.jsonl"),
    "ledger of penalties": User(sweeps_penalties, (records, "append_records"), 6, (3, 6), "transfer/*.jsonl"),
}
every_user = pytest.mark.parametrize("user", USERS.values(), ids=USERS)


@pytest.fixture(autouse=True)
def _tiny(tmp_path, monkeypatch):
    """Small sets, networks and presets; a state that is kept and a line that is logged after every step."""
    monkeypatch.setattr(checkpoints, "SAVE_MINUTES", 0.0)
    monkeypatch.setitem(trainer.LOG_EVERY, "cpu", 1)
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(SMALL, "resnet10-narrow", {**SMALL["resnet10-tiny"], "channels": (8, 12, 16, 24)})
    short = {"iterations": 4, "drops": (3,), "warmup": 2, "seeds": (0,), "batch_size": 2, "precise": 2}
    regions = Regions(anchors=32, before_nms=(200, 100), after_nms=(50, 20), regions=16)
    preset = replace(PRESETS["coco"]["coco-1x"], **short, regions=regions, sizes=Sizes((48, 64), 64, 96))
    monkeypatch.setitem(PRESETS["coco"], "coco-1x", preset)
    monkeypatch.setattr(sweeps, "PENALTIES", PENALTIES[::11])


@pytest.fixture
def calls(monkeypatch):
    """Counts the steps of a user, and cuts it off at those that are listed."""

    def watch(user: User, folder: Path) -> tuple[list[int], list[int]]:
        if user.kept.startswith("transfer"):
            LAYOUTS["dtd"](folder / "data", monkeypatch)
        where, name = user.step
        real, seen, cuts = getattr(where, name), [], []

        def counted(*arguments, **keywords):
            seen.append(1)
            if len(seen) in cuts:
                raise Cut
            return real(*arguments, **keywords)

        monkeypatch.setattr(where, name, counted)
        return seen, cuts

    return watch


def cut_off(user: User, folder: Path, calls) -> tuple[list[int], list[Path]]:
    """A user stopped at its second cut: the count of its steps from now on, and what files it left, oldest first."""
    seen, cuts = calls(user, folder)
    cuts.append(user.cuts[1])
    with pytest.raises(Cut):
        user.run(folder)
    cuts.clear()
    seen.clear()
    return seen, sorted(folder.glob(user.kept))


def same(one: Any, other: Any) -> bool:
    """Bit for bit, through lists and mappings of tensors."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@every_user
def test_what_is_cut_off_twice_and_resumed_ends_as_what_never_stopped_bit_for_bit(user, tmp_path, calls):
    seen, cuts = calls(user, tmp_path / "whole")
    whole = user.run(tmp_path / "whole")
    assert len(seen) == user.parts
    seen, cuts = calls(user, tmp_path / "cut")
    cuts += user.cuts
    for _ in cuts:
        with pytest.raises(Cut):
            user.run(tmp_path / "cut")
    assert same(user.run(tmp_path / "cut"), whole)
    assert len(seen) == user.parts + len(user.cuts)  # a step that was cut off is done again, and no other


@every_user
def test_a_torn_file_is_passed_over_with_a_word_or_refused_with_one(user, tmp_path, calls, capsys):
    seen, _ = calls(user, tmp_path / "whole")
    whole = user.run(tmp_path / "whole")
    seen, files = cut_off(user, tmp_path / "cut", calls)
    files[-1].write_bytes(files[-1].read_bytes()[:-10])
    if files[-1].name.startswith("step-"):  # the one before it stands in
        assert same(user.run(tmp_path / "cut"), whole)
        assert len(seen) == user.parts - (user.cuts[1] - 2)
        assert f"{files[-1]}: cannot be read" in (words := capsys.readouterr().out.replace("\n", ""))
        assert "the one before it is used" in words
    elif files[-1].suffix == ".jsonl":
        assert same(user.run(tmp_path / "cut"), whole)
        assert seen
    else:
        with pytest.raises(BadInput) as told:
            user.run(tmp_path / "cut")
        assert f"{files[-1]}: cannot be read" in str(told.value)
        assert f"so that it cannot be resumed. Remove {files[-1]} to start again" in str(told.value)
        assert not seen


@every_user
def test_a_file_of_other_work_is_refused_with_a_word(user, tmp_path, calls):
    seen, files = cut_off(user, tmp_path, calls)
    if files[-1].suffix == ".jsonl":
        _, *rest = files[-1].read_text().splitlines()
        files[-1].write_text("\n".join(['{"about": {"set": "another"}}', *rest, ""]))
    else:
        module = nn.Linear(2, 3)
        parts = dict.fromkeys(("network", "detector", "encoder", "head"), module)
        other = Checkpoints(tmp_path / "other.pt")
        other.save(1, {**parts, "optimizer": torch.optim.SGD(module.parameters(), lr=1.0, momentum=0.9)})
        other.path.replace(files[-1])
    with pytest.raises(BadInput, match=r"cannot be resumed, it is .*Remove .* to start again") as told:
        user.run(tmp_path)
    assert files[-1].name in str(told.value)
    assert not seen


@every_user
def test_files_as_older_versions_laid_them_out_are_resumed(user, tmp_path, calls):
    calls(user, tmp_path / "whole")
    whole = user.run(tmp_path / "whole")
    seen, files = cut_off(user, tmp_path / "cut", calls)
    for file in files:
        if file.suffix == ".jsonl":
            first, *rest = read_records(file)
            written = [
                json.dumps({"about": first["about"]}),
                *(json.dumps({"key": r["key"], "value": r["value"]}) for r in rest),
            ]
            file.write_text("".join(line + "\n" for line in written))
            continue
        state = torch.load(file, weights_only=True)
        parts = {name: state[name] for name in ("network", "detector", "encoder", "head", "optimizer") if name in state}
        found = {} if file.name.startswith("step-") else {"found": state["found"]}
        torch.save({**parts, **found, "step": state["step"]}, file)
    assert same(user.run(tmp_path / "cut"), whole)
    assert len(seen) < user.parts
