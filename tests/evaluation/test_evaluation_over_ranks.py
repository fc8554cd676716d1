"""What several processes measure together is what one measures: features, gradients, files, and who ends when."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
from helpers import command, environment, lines, small_subject, write_images
from torch import nn
from torchvision.transforms import v2
from transfer_layouts import LAYOUTS
from videos import squares

from mec.cli.main import main
from mec.data.dataset import Split
from mec.data.images import Files
from mec.data.opening import open_data
from mec.evaluation.cache import stored
from mec.evaluation.classifier import Training, backward, new_head, rows_of, train_classifier
from mec.evaluation.evaluate import results_of
from mec.evaluation.features import Extraction, extract
from mec.evaluation.probing.protocols import Knn
from mec.evaluation.protocol import Protocol
from mec.evaluation.results import Result
from mec.evaluation.tracking.protocols import Vos
from mec.evaluation.transfer.protocols import Transfer
from mec.evaluation.transfer.sweeps import Finetuning, transfer
from mec.networks.backbones import build_encoder
from mec.runtime.checkpoints import Checkpoints
from mec.runtime.distributed import current, synchronise_batch_norm

TUNED = Training("a test", 0.05, scaled=False, batch_size=7, steps=4, crop=(0.7, 1.0))


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return build_encoder("resnet10-tiny", 32)


# --- gradients ---------------------------------------------------------------------------------------------------


def gradients(recipe: Training, rows: int) -> list[torch.Tensor]:
    """Of encoder and head from a batch of so many images, in float64, and the loss."""
    network, head = encoder().double(), new_head(encoder_size(), 5, recipe, seed=0).double()
    network.train(not recipe.frozen)
    if current().size > 1 and not recipe.frozen:
        synchronise_batch_norm(network), synchronise_batch_norm(head)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(rows, 3, 32, 32, generator=generator, dtype=torch.float64)
    mine = rows_of(rows, recipe, current())
    loss = backward(network, head, images[mine], (torch.arange(rows) % 5)[mine], recipe, current())
    return [loss, *(p.grad for p in (*network.parameters(), *head.parameters()) if p.grad is not None)]


def encoder_size() -> int:
    return encoder()(torch.zeros(2, 3, 32, 32)).shape[1]


CASES = [(replace(TUNED, **changes), rows) for rows in (7, 2) for changes in (  # of two rows a rank of three has none
    {}, {"micro_batch_size": 4}, {"head_norm": True}, {"frozen": True, "head_norm": True},
)]  # fmt: skip


def gradients_of_all() -> list[list[torch.Tensor]]:
    return [gradients(*case) for case in CASES]


@pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_ranks_have_the_loss_and_the_gradients_of_one_process_also_of_uneven_batches(size):
    expected = gradients_of_all()
    assert min(map(len, expected)) > 2
    for found in ranks.run(gradients_of_all, size):
        for ours, theirs in zip(expected, found, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-11)


# --- training ----------------------------------------------------------------------------------------------------


def trained(recipe: Training, folder: Path, stop: int | None = None) -> dict[str, torch.Tensor]:
    """Head and encoder after twenty steps of digits, batches of 28, 28 and 14 in turn; perhaps stopped before."""
    subject, data = small_subject(folder), open_data("digits", limit=70)
    subject.ranks = current()
    head = new_head(subject.info.feature_size, 10, recipe, seed=0)
    state = Checkpoints(folder / "state.pt", minutes=0)

    def after(epoch: int) -> None:
        if epoch == stop:
            raise InterruptedError

    try:
        train_classifier(subject, head, data.train, recipe, after_epoch=after, state=state)
    except InterruptedError:
        return {}
    return {**head.state_dict(), **{f"encoder.{name}": t for name, t in subject.encoder.state_dict().items()}}


PROBE = Training("", 3.0, batch_size=28, steps=20, optimizer="lars", frozen=True, head_norm=True, crop=(0.7, 1.0))


RECIPES = {"probe": PROBE, "all": replace(PROBE, optimizer="sgd", base_lr=0.1, frozen=False)}


def trained_by_all(folder: Path) -> list[list[dict[str, torch.Tensor]]]:
    """By each recipe to the end, and stopped after three epochs."""
    return [[trained(r, folder / name), trained(r, folder / f"{name}-stopped", 3)] for name, r in RECIPES.items()]


def test_twenty_steps_of_two_ranks_are_those_of_one_also_when_resumed_by_one(tmp_path):
    expected = [trained(recipe, tmp_path / "one" / name) for name, recipe in RECIPES.items()]
    for found in ranks.run(trained_by_all, 2, tmp_path):
        for one, (whole, stopped_early) in zip(expected, found, strict=True):
            assert stopped_early == {}
            for name, value in one.items():
                torch.testing.assert_close(whole[name], value, rtol=1e-5, atol=1e-5, msg=name)
    for one, (word, recipe) in zip(expected, RECIPES.items()):
        for name, value in trained(recipe, tmp_path / f"{word}-stopped").items():
            torch.testing.assert_close(value, one[name], rtol=1e-5, atol=1e-5, msg=name)


# --- features ----------------------------------------------------------------------------------------------------

TO_PIXELS = v2.Compose([v2.Resize((8, 8)), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])


def made(folder: Path, cache: Path | None, batch: int = 4) -> list[torch.Tensor]:
    """Features and labels of 23 images, of which numbers 3 and 11 cannot be read."""
    files = Files(tuple(sorted(map(str, folder.glob("*.png")))))
    split = Split(files, np.arange(len(files)))
    network = small_subject(folder).encoder
    found = extract(network, split, TO_PIXELS, batch_size=batch, cache=cache, ranks=current())
    return [found.x.clone(), found.y, torch.tensor(len(found.skipped))]


def broken(folder: Path) -> Path:
    paths = write_images(folder, 23)
    for number in (3, 11):
        paths[number].write_bytes(b"no image")
    return folder


BATCHES = (4, 16)  # six batches, of which the last has three images; two: one rank of three has none


def made_in_all_ways(folder: Path, cache: Path) -> list[list[torch.Tensor]]:
    return [made(folder, place, batch) for batch in BATCHES for place in (None, cache / str(batch))]


@pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_features_are_those_of_one_process_bit_for_bit(tmp_path, size):
    folder = broken(tmp_path / "images")
    found = ranks.run(made_in_all_ways, size, folder, tmp_path)
    for number, batch in enumerate(BATCHES):
        expected = made(folder, None, batch)
        assert expected[0].shape == (21, 72)
        for of_rank in found:
            for one in of_rank[2 * number : 2 * number + 2]:
                assert all(torch.equal(x, y) for x, y in zip(expected, one, strict=True))
        (file,) = (tmp_path / str(batch)).glob("*.npy")
        before = file.stat().st_mtime_ns
        assert torch.equal(made(folder, tmp_path / str(batch), batch)[0], expected[0])  # found, not made again
        assert file.stat().st_mtime_ns == before


def stopped(folder: Path, cache: Path, rows: int) -> None:
    """Rows in the cache until so many are there, by four at a time; then an error on all ranks."""
    files = Files(tuple(sorted(map(str, folder.glob("*.png")))))
    way = Extraction(small_subject(folder).encoder, files, TO_PIXELS, batch_size=4, ranks=current())

    def until(start: int, size: int):
        for part in way.batches(start, size):
            if start >= rows:
                raise InterruptedError
            yield part
            start += len(part)

    try:
        stored(cache, "key", len(files), until, current())
    except InterruptedError:
        return


@pytest.mark.parametrize("sizes", [(2, 1), (1, 2), (3, 2)])
def test_what_some_ranks_began_others_go_on_with(tmp_path, sizes):
    folder = broken(tmp_path / "images")
    stopped(folder, tmp_path / "whole", 100)
    for size, rows in zip(sizes, (8, 100)):
        if size == 1:
            stopped(folder, tmp_path / "parts", rows)
        else:
            ranks.run(stopped, size, folder, tmp_path / "parts", rows)
        done = (tmp_path / "parts/key.npy").exists()
        assert done == (rows == 100)
    assert (tmp_path / "parts/key.npy").read_bytes() == (tmp_path / "whole/key.npy").read_bytes()


# --- transfer ----------------------------------------------------------------------------------------------------

PAIRS = Finetuning("a test", 3, 5, (0.01, 0.1), (0.0, 1e-3), True, 256 / 224)


def transferred(root: Path, folder: Path, recipe: Finetuning | None) -> list[float]:
    subject = small_subject(folder)
    subject.ranks = current()
    options = Transfer(data="dtd,dtd", data_root=root, standardise=recipe is None)
    found = [result.value for result in transfer(subject, options, recipe, lambda words: None)]
    (ledger,) = (folder / "transfer").glob("dtd-*.jsonl")
    return [*found, len(lines(ledger))]


@pytest.mark.parametrize("recipe", [None, PAIRS], ids=["linear", "finetune"])
def test_transfer_over_ranks_has_the_figures_and_the_ledger_of_one(tmp_path, monkeypatch, recipe):
    LAYOUTS["dtd"](tmp_path / "data", monkeypatch)
    expected = transferred(tmp_path / "data", tmp_path / "one", recipe)
    first, second = ranks.run(transferred, 2, tmp_path / "data", tmp_path / "two", recipe)
    assert first == pytest.approx(expected)
    assert len(second) == 1  # no figure; the first process keeps the ledger
    (tmp_path / "two").rename(tmp_path / "three")
    assert transferred(tmp_path / "data", tmp_path / "three", recipe) == pytest.approx(expected)  # read, not made again


# --- who measures and writes -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Videos(Protocol):
    """One that knows nothing of ranks."""

    def measure(self, subject):
        assert subject.ranks.size == 1
        return [Result("videos", "how many", 1.0)]


def measured(protocol: Protocol) -> tuple[list[float], int]:
    found, said = ranks.measured(protocol)
    return found, sum("One process" in words for words in said)


def test_the_first_process_alone_measures_by_protocols_that_know_nothing_of_ranks(tmp_path):
    first, second = ranks.run(measured, 2, Videos(out=tmp_path))
    assert (first, second) == (([1.0], 1), ([], 1))  # what another says is not shown
    assert len(lines(tmp_path / "results.jsonl")) == 1


def copied(sequence: Path, name: str) -> None:
    shutil.copytree(sequence, sequence.with_name(name))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Three videos with masks."""
    root = tmp_path_factory.mktemp("clips")
    squares(root / "davis", frames=4)
    for name in ("b", "c"):
        for kind in ("JPEGImages", "Annotations"):
            copied(root / "davis" / kind / "480p" / "squares", name)
    (root / "davis/ImageSets/2017/val.txt").write_text("squares\nb\nc\n")
    return root


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "results.jsonl"
    }


@pytest.mark.parametrize("size", [2, 5])  # of five, two have no sequence
def test_sequences_of_masks_are_shared_and_each_is_that_of_one_process(clips, tmp_path, size):
    kind = Vos(data_root=clips / "davis")
    expected, _ = measured(replace(kind, out=tmp_path / "one"))
    found = ranks.run(measured, size, replace(kind, out=tmp_path / "more"))
    assert found == [(expected, 0)] + [([], 0)] * (size - 1)
    assert len(expected) > 2
    assert files_below(tmp_path / "more") == files_below(tmp_path / "one")
    assert len(lines(tmp_path / "more/results.jsonl")) == len(expected)


def test_a_measurement_inside_another_group_does_not_wait_for_it(tmp_path):
    """As a run measures on its way, or a script on its first process alone."""
    assert ranks.run(alone, 2, tmp_path) == [1, 0]


def alone(folder: Path) -> int:
    return len([*results_of("pixels", Knn(data="digits", limit=20, k=1, out=folder))][:1]) if current().rank == 0 else 0


# --- commands ----------------------------------------------------------------------------------------------------

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mec")


def figures(folder: Path) -> list[tuple[str, float]]:
    return [(line["metric"], line["value"]) for line in lines(folder / "results.jsonl")]


@pytest.mark.slow
def test_a_command_under_torchrun_writes_each_figure_once_and_speaks_once(tmp_path):
    words = ["evaluate", "random:resnet10-tiny", "knn", "digits", "--limit", "90", "--image-size", "16"]
    words += ["--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    done = command(*TORCHRUN, *words, "--out", tmp_path / "two", timeout=300)
    assert done.returncode == 0, done.stderr
    assert figures(tmp_path / "two") == figures(tmp_path / "one")
    assert done.stdout.count("Results are added") == 1
    names = sorted(path.name for path in (tmp_path / "one/features").glob("*.npy"))
    assert len(names) == 2
    for name in names:
        assert (tmp_path / "two/features" / name).read_bytes() == (tmp_path / "one/features" / name).read_bytes()


def as_rank(rank: int, port: int, *words: str | Path) -> subprocess.Popen[str]:
    """A process of two that nobody looks after."""
    about = {
        "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "a test",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "mec", *map(str, words)], env={**environment(), **{k: str(v) for k, v in about.items()}},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_where_one_of_two_is_killed_the_other_ends_with_a_sentence_and_one_goes_on(tmp_path, killed):
    write_images(tmp_path / "images", 300, width=200, height=200)
    out = tmp_path / "features.npz"
    words = ["embed", "random:resnet10-tiny", tmp_path / "images", "--out", out, "--batch-size", "2", "--device", "cpu"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [as_rank(rank, port, *words) for rank in (0, 1)]
    part = tmp_path / "features.npz.unfinished"
    while not any(path.stat().st_size > 2**14 for path in part.glob("*.part")):
        assert all(process.poll() is None for process in both), both[0].communicate()
        time.sleep(0.05)
    os.kill(both[killed].pid, signal.SIGKILL)
    _, said = both[1 - killed].communicate(timeout=60)
    both[killed].communicate()
    assert both[1 - killed].returncode == 1
    assert "another process of this run ended" in said
    assert not out.exists()
    assert main([*map(str, words)]) == 0
    command_alone = [*map(str, words)]
    command_alone[command_alone.index(str(out))] = str(tmp_path / "alone.npz")
    assert main(command_alone) == 0
    with np.load(out) as found, np.load(tmp_path / "alone.npz") as expected:
        assert len(found["features"]) == 300
        assert np.array_equal(found["features"], expected["features"])
