"""W ranks are one process: the judge is the same mathematics in this one process, and torch's own batch norm.

Each world is started once, does all the work of this file, and the tests look at what it found.
"""

from __future__ import annotations

import copy

import pytest
import ranks
import torch
from torch import nn
from torch.testing import assert_close

from mec.distributed import ALONE, Ranks, SyncBatchNorm, average_gradients, current, synchronise_batch_norm
from mec.objectives import METHODS, OBJECTIVES
from mec.siamese import Siamese

WORLDS = [1, 2, 4]
ROWS = {"even": {1: [12], 2: [6, 6], 4: [3] * 4}, "uneven": {1: [12], 2: [5, 7], 4: [1, 4, 2, 5]}}

# Every objective as it comes, and as each method sets it.
CASES = {name: (name, {}) for name in OBJECTIVES} | {
    f"method {name}": (method.objective, dict(method.settings)) for name, method in METHODS.items()
}
NORMS = {
    "rows": lambda: nn.BatchNorm1d(5),
    "images": lambda: nn.BatchNorm2d(5),
    "without affine": lambda: nn.BatchNorm1d(5, affine=False),
    "cumulative average": lambda: nn.BatchNorm1d(5, momentum=None),
    "other eps and momentum": lambda: nn.BatchNorm2d(5, eps=0.1, momentum=0.3),
}


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mine(x: torch.Tensor, counts: list[int], group: Ranks, dim: int = 0) -> torch.Tensor:
    return x.split(counts, dim)[group.rank]


def objective_found(case: str, targets: bool, counts: list[int], group: Ranks) -> dict[str, torch.Tensor]:
    """Loss, and gradient of a weight that every rank holds: online = tanh(rows · weight), targets given."""
    name, settings = CASES[case]
    objective = copy.deepcopy(OBJECTIVES[name])  # one with memory keeps it to itself
    weight = nn.Parameter(random(6, 8, seed=0))
    online = torch.tanh(mine(random(3, 12, 6, seed=1), counts, group, 1) @ weight)
    target = mine(random(2, 12, 8, seed=2), counts, group, 1) if targets else None
    labels = mine(torch.arange(12) % 3, counts, group)
    loss = objective(online, target, labels=labels, ranks=group, **settings)
    loss.backward()
    average_gradients([weight], group)
    return {"loss": loss.detach(), "gradient": weight.grad}


def norm_found(norm: nn.Module, counts: list[int], group: Ranks) -> dict[str, torch.Tensor]:
    """Two steps in train mode: output, gradients and buffers; then the output in eval mode."""
    norm = norm.double()
    shape = (12, 5, 2, 3) if isinstance(norm, nn.BatchNorm2d) else (12, 5)
    if group.size > 1:
        norm = synchronise_batch_norm(nn.Sequential(norm))[0]
    assert isinstance(norm, SyncBatchNorm) == (group.size > 1)
    if norm.affine:
        norm.weight.data, norm.bias.data = random(5, seed=3), random(5, seed=4)
    for step in (0, 1):
        norm.zero_grad()
        x = (3 + 2 * mine(random(*shape, seed=5 + step), counts, group)).requires_grad_()
        out = norm(x)
        loss = group.sum((out * mine(random(*shape, seed=7), counts, group)).sin().sum())
        loss.backward()
        average_gradients(norm.parameters(), group)
    found = {"out": out.detach(), "to input": x.grad / group.size, "loss": loss.detach()}
    found |= {f"gradient of {name}": p.grad for name, p in norm.named_parameters()}
    found |= {name: buffer.clone() for name, buffer in norm.named_buffers()}
    return found | {"eval": norm.eval()(x).detach()}


def small_siamese() -> Siamese:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Siamese(encoder, 4, projector_widths=(6, 8), predictor_widths=(5, 8), target="momentum").double()


def training_found(objective: str, group: Ranks) -> dict[str, torch.Tensor]:
    """Three steps of SGD and EMA on the whole chain, under DDP where there are ranks: weights, buffers, losses."""
    network = small_siamese()
    model: nn.Module = network
    if group.size > 1:
        model = nn.parallel.DistributedDataParallel(synchronise_batch_norm(network))
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.3, momentum=0.9)
    losses = []
    for step in range(3):
        views = random(2, 12, 3, 5, 5, seed=step)[:, group.share(12)]
        online, target = model(list(views))
        loss = OBJECTIVES[objective](online, target, ranks=group)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        network.update_target(0.7)
        losses.append(loss.detach())
    return {"losses": torch.stack(losses), **{k: v.clone() for k, v in network.state_dict().items()}}


def far_from_zero(group: Ranks, counts: list[int]) -> torch.Tensor:
    """Batch norm, float32, of values around 10,000 with a standard deviation of 1: E[x²] - E[x]² has no digits."""
    norm = synchronise_batch_norm(nn.Sequential(nn.BatchNorm1d(5)))
    return norm(mine(10_000 + random(12, 5, seed=9), counts, group).float()).detach()


def work(worlds_rows: dict[str, list[int]]) -> dict:
    """Everything one rank finds."""
    group = current()
    found: dict = {"group": (group.rank, group.size)}
    for rows, counts in worlds_rows.items():
        for case in CASES:
            for targets in (False, True):
                found["objective", case, targets, rows] = objective_found(case, targets, counts, group)
        for name, norm in NORMS.items():
            found["norm", name, rows] = norm_found(norm(), counts, group)
        found["gathered", rows] = group.gather(mine(random(2, 12, 3, seed=8), counts, group, 1), dim=1)
        found["far", rows] = far_from_zero(group, counts)
    for name in OBJECTIVES:
        found["training", name] = training_found(name, group)
    found["share"] = group.share(12)
    found["any"] = (group.any(group.rank == group.size - 1), group.any(False))
    found["first"] = group.from_first(0.1 + group.rank)
    found["sum"], found["mean"] = (
        group.sum(torch.tensor([group.rank + 1.0])),
        group.mean(torch.tensor(group.rank + 1.0)),
    )
    return found


@pytest.fixture(scope="module")
def worlds() -> dict[int, list[dict]]:
    """What each rank found, by size of the world; a world of one is this process."""
    return {size: ranks.run(work, size, {rows: ROWS[rows][size] for rows in ROWS}) for size in WORLDS if size > 1} | {
        1: [work({rows: ROWS[rows][1] for rows in ROWS})]
    }


def assert_equal(found: dict, expected: dict, tolerance: float = 1e-10) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        assert_close(
            found[name], expected[name], rtol=tolerance, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_a_single_process_needs_no_group():
    assert current() == ALONE == Ranks(0, 1)
    x = torch.ones(3, requires_grad=True)
    assert ALONE.gather(x) is x
    assert ALONE.sum(x) is x


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_agree_on_numbers_flags_and_shares(worlds, size):
    for rank, found in enumerate(worlds[size]):
        assert found["group"] == (rank, size)
        assert found["share"] == slice(rank * 12 // size, (rank + 1) * 12 // size)
        assert found["any"] == (True, False)
        assert found["first"] == 0.1
        assert found["sum"].item() == size * (size + 1) / 2
        assert found["mean"].item() == (size + 1) / 2


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", [2, 4])
def test_gather_gives_every_rank_all_rows_in_rank_order(worlds, size, rows):
    for found in worlds[size]:
        assert torch.equal(found["gathered", rows], random(2, 12, 3, seed=8))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("targets", [False, True], ids=["without target", "with target"])
@pytest.mark.parametrize("case", CASES)
def test_every_objective_gives_the_loss_and_gradient_of_one_process(worlds, case, targets, size, rows):
    expected = objective_found(case, targets, [12], ALONE)
    for found in worlds[size]:
        assert_equal(found["objective", case, targets, rows], expected)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", NORMS)
def test_synchronised_batch_norm_is_torch_s_on_the_whole_batch(worlds, name, size, rows):
    expected = norm_found(NORMS[name](), [12], ALONE)
    parts = [found["norm", name, rows] for found in worlds[size]]
    for split in ("out", "to input", "eval"):
        assert_close(torch.cat([part.pop(split) for part in parts]), expected.pop(split), rtol=1e-10, atol=1e-10)
    for part in parts:
        assert_equal(part, expected)


@pytest.mark.parametrize("size", [2, 4])
def test_synchronised_batch_norm_keeps_its_digits_far_from_zero(worlds, size):
    out = torch.cat([found["far", "uneven"] for found in worlds[size]])
    expected = nn.BatchNorm1d(5).double()((10_000 + random(12, 5, seed=9)).float().double())
    assert_close(out.double(), expected.detach(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_under_ddp_gives_the_losses_weights_and_target_of_one_process(worlds, objective, size):
    (alone,) = worlds[1]
    for found in worlds[size]:
        assert_equal(found["training", objective], alone["training", objective])


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])  # the second has norm and activation in one module
def test_synchronising_keeps_state_names_and_outputs_of_timm_models(name):
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0)
    for module in model.modules():  # as after training: statistics that matter
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    changed = synchronise_batch_norm(copy.deepcopy(model))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in changed.modules())
    state = model.state_dict()
    assert list(changed.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in changed.state_dict().items())
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(changed.eval()(images), model.eval()(images))
        assert_close(changed.train()(images), model.train()(images), rtol=1e-3, atol=1e-3)
    assert_close(changed.state_dict(), model.state_dict(), rtol=1e-3, atol=1e-3)


def test_synchronising_keeps_precision_mode_and_what_is_frozen():
    network = small_siamese()
    network.encoder[1].eval()
    before = {name: (p.requires_grad, p.dtype) for name, p in network.named_parameters()}
    synchronise_batch_norm(network)
    assert {name: (p.requires_grad, p.dtype) for name, p in network.named_parameters()} == before
    assert isinstance(network.encoder[1], SyncBatchNorm)
    assert not network.encoder[1].training
    assert network.target_encoder[1].training
