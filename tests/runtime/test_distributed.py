"""W ranks are one process: the judge is the same mathematics in this one process, and torch's own batch norm.

Each world is started once, does all the work of this file, and the tests look at what it found.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import ranks
import torch
import torch.distributed as dist
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from mec.errors import BadInput
from mec.networks.siamese import Siamese, build_siamese
from mec.objectives.coding import coding_length
from mec.objectives.mec import joint_coding, maximum_entropy_coding
from mec.objectives.methods import METHODS
from mec.objectives.table import OBJECTIVES, build
from mec.recipes.recipe import Network
from mec.runtime.distributed import ALONE, Ranks, SyncBatchNorm, average_gradients, current, synchronise_batch_norm

WORLDS = [1, 3]
ROWS = {"even": {1: [12], 3: [4] * 3}, "uneven": {1: [12], 3: [1, 7, 4]}}

# Every objective as the methods set it (each setting once), and as it comes where no method does; small memories, a
# multiple of the batch of 12.
MEMORIES = {"queued_info_nce": {"queue": 24}, "swav": {"queue": 24, "prototypes": 5}, "w_mse": {"shrink": 0.1}}
CASES: dict[str, tuple[str, dict]] = {}
for name, method in METHODS.items():
    case = (method.objective, {k: v for k, v in method.settings.items() if k != "scale"})
    if case not in CASES.values():
        CASES[f"{method.objective} of {name}"] = case
CASES |= {name: (name, {}) for name in OBJECTIVES if name not in {objective for objective, _ in CASES.values()}}
FAMILY = {"distortion": 0.02, "exponent": 0.5, "agreement": 1.0, "centred": True}
CASES["joint_coding with all of its family"] = ("joint_coding", FAMILY)
WITH_TARGET_ONLY = ("queued_info_nce", "dino", "unigrad", "simdino")
STEPS = 3  # of an objective with memory: the second and third meet what the first left
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


def built(name: str, settings: dict) -> tuple[nn.Module | Callable, dict]:
    """The objective for embeddings of 8, with the same random memory on every rank, and the settings of its calls."""
    torch.manual_seed(0)
    objective, call = build(name, 8, {**settings, **MEMORIES.get(name, {})})
    return objective.double() if isinstance(objective, nn.Module) else objective, call


def objective_found(case: str, targets: bool, counts: list[int], group: Ranks) -> dict[str, torch.Tensor]:
    """Losses, gradients of a weight that every rank holds (online = tanh(rows · weight)) and of the objective's own
    parameters, and the state that it keeps."""
    objective, settings = built(*CASES[case])
    weight = nn.Parameter(random(6, 8, seed=0))
    held = {"weight": weight, **(dict(objective.named_parameters()) if isinstance(objective, nn.Module) else {})}
    found = {}
    for step in range(STEPS if isinstance(objective, nn.Module) else 1):
        online = torch.tanh(mine(random(3, 12, 6, seed=10 + step), counts, group, 1) @ weight)
        target = mine(random(2, 12, 8, seed=20 + step), counts, group, 1) if targets else None
        labels = mine(torch.arange(12) % 3, counts, group)
        loss = objective(online, target, labels=labels, ranks=group, **settings)
        loss.backward()
        average_gradients(held.values(), group)
        found[f"loss {step}"] = loss.detach()
        for name, parameter in held.items():
            found[f"gradient {step} of {name}"], parameter.grad = parameter.grad, None
        if isinstance(objective, nn.Module):
            found |= {f"state {step}: {name}": value.clone() for name, value in objective.state_dict().items()}
    return found


def with_and_without_target(case: str) -> list[bool]:
    name, _ = CASES[case]
    return [True] if name in WITH_TARGET_ONLY else [False, True]


# Coding lengths that split their work: by row blocks (d 30), [d, d] summed (d 8), its powers on every rank (d 2).
FORMS = {
    **{
        f"cross order {n}": lambda p, z, group, n=n: maximum_entropy_coding(p, z, distortion=0.3, order=n, ranks=group)
        for n in (1, 2, 3, 4, 8, None)
    },
    **{
        f"coding length order {n}": lambda p, z, group, n=n: coding_length(p, 0.3, n, ranks=group)
        for n in (1, 2, 4, 7, None)
    },
    "guaranteed": lambda p, z, group: maximum_entropy_coding(p, z, distortion="guaranteed", ranks=group),
    "joint": lambda p, z, group: joint_coding(torch.stack([p, z, z * p]), distortion=0.06, ranks=group),
    "joint weighted": lambda p, z, group: joint_coding(
        torch.stack([p, z]), distortion=0.06, weights=torch.tensor([0.7, 0.3], dtype=torch.float64), ranks=group
    ),
}
SIZES = [30, 8, 2]
WORK = [(36, 128), (48, 48), (60, 24)]


def form_found(form: str, d: int, counts: list[int], group: Ranks) -> dict[str, torch.Tensor]:
    """Value and the gradients of this rank's own rows, averaged over ranks as DDP averages those of weights."""
    p, z = (mine(random(12, d, seed=seed), counts, group).requires_grad_() for seed in (1, 2))
    value = FORMS[form](p, z, group)
    (3 * value).backward()  # a factor, as that of a loss of several parts
    unused = torch.zeros_like(z)
    return {
        "value": value.detach(),
        "to online": p.grad / group.size,
        "to target": (unused if z.grad is None else z.grad) / group.size,
    }


class Moved:
    """Numbers that this rank receives: a gather brings each once, a sum twice (reduce-scatter and gather)."""

    def __enter__(self):
        self.numbers, self.before = 0, (dist.all_gather, dist.all_reduce)

        def gather(parts, x):
            self.numbers += sum(part.numel() for part in parts)
            return self.before[0](parts, x)

        def reduce(x):
            self.numbers += 2 * x.numel()
            return self.before[1](x)

        dist.all_gather, dist.all_reduce = gather, reduce
        return self

    def __exit__(self, *_):
        dist.all_gather, dist.all_reduce = self.before


def test_rows_that_do_not_divide_among_ranks_are_an_error_and_not_lost():
    assert [Ranks(rank, 4).share(12) for rank in (0, 3)] == [slice(0, 3), slice(9, 12)]
    with pytest.raises(BadInput, match="10 rows on 4 processes"):
        Ranks(0, 4).share(10)


@pytest.mark.parametrize("local", ["0", "1"])
def test_what_is_fetched_is_fetched_by_the_first_process_of_a_machine_before_the_others_look(local, monkeypatch):
    from mec.training import pretrain as pretraining
    from mec.training.options import Options

    order = []
    monkeypatch.setenv("LOCAL_RANK", local)
    monkeypatch.setattr(Ranks, "wait", lambda self: order.append("wait"))
    monkeypatch.setattr(pretraining, "open_data", lambda *_, **__: order.append("open"))
    for data, download in (("cifar10", True), ("https://here/packed/", False)):
        order.clear()
        pretraining.opened(data, Options(download=download), Ranks(int(local), 2))
        assert order == (["open", "wait"] if local == "0" else ["wait", "open"])
    order.clear()
    pretraining.opened("photos/", Options(), Ranks(int(local), 2))
    assert order == ["open"]


def work_found(m: int, d: int, order: int | None, group: Ranks) -> tuple[int, int]:
    """Floating-point operations of products on this rank, and numbers moved, for value and gradient to online."""
    rows = group.share(m)
    p, z = random(m, d, seed=1)[rows].requires_grad_(), random(m, d, seed=2)[rows]
    with FlopCounterMode(display=False) as flops, Moved() as moved:
        maximum_entropy_coding(p, z, order=order, ranks=group).backward()
    return flops.get_total_flops(), moved.numbers


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
    return build_siamese(Network(projector=(6, 8), predictor=(5, 8), target="momentum"), encoder, 4).double()


def training_found(objective: str, group: Ranks) -> dict[str, torch.Tensor]:
    """Two steps of SGD and EMA on the whole chain, under DDP where there are ranks: weights, buffers, losses."""
    network = small_siamese()
    model: nn.Module = network
    if group.size > 1:
        model = nn.parallel.DistributedDataParallel(synchronise_batch_norm(network))
    score, settings = built(objective, {})
    own = list(score.parameters()) if isinstance(score, nn.Module) else []
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD([*trained, *own], lr=0.01, momentum=0.9)
    losses = []
    for step in range(2):  # the second by weights, momentum and memory that the first left
        views = random(2, 12, 3, 5, 5, seed=step)[:, group.share(12)]
        online, target = model(list(views))
        labels = (torch.arange(12) % 3)[group.share(12)]
        loss = score(online, target, labels=labels, ranks=group, **settings)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(own, group)
        optimizer.step()
        network.update_target(0.7)
        losses.append(loss.detach())
    state = {**network.state_dict(), **(score.state_dict() if isinstance(score, nn.Module) else {})}
    return {"losses": torch.stack(losses), **{k: v.clone() for k, v in state.items()}}


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
            for targets in with_and_without_target(case):
                found["objective", case, targets, rows] = objective_found(case, targets, counts, group)
        for name, norm in NORMS.items():
            found["norm", name, rows] = norm_found(norm(), counts, group)
        found["gathered", rows] = group.gather(mine(random(2, 12, 3, seed=8), counts, group, 1), dim=1)
        found["far", rows] = far_from_zero(group, counts)
        for form in FORMS:
            for d in SIZES:
                found["form", form, d, rows] = form_found(form, d, counts, group)
    for m, d in WORK:
        for order in (4, None):
            found["work", m, d, order] = work_found(m, d, order, group)
    for name in OBJECTIVES:
        found["training", name] = training_found(name, group)
    part = group.share(12)
    found["share"] = (part.start, part.stop)
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


@pytest.mark.parametrize("size", WORLDS[1:])
def test_ranks_agree_on_numbers_flags_and_shares(worlds, size):
    for rank, found in enumerate(worlds[size]):
        assert found["group"] == (rank, size)
        assert found["share"] == (rank * 12 // size, (rank + 1) * 12 // size)
        assert found["any"] == (True, False)
        assert found["first"] == 0.1
        assert found["sum"].item() == size * (size + 1) / 2
        assert found["mean"].item() == (size + 1) / 2


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", WORLDS[1:])
def test_gather_gives_every_rank_all_rows_in_rank_order(worlds, size, rows):
    for found in worlds[size]:
        assert torch.equal(found["gathered", rows], random(2, 12, 3, seed=8))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", WORLDS[1:])
@pytest.mark.parametrize(("case", "targets"), [(case, t) for case in CASES for t in with_and_without_target(case)])
def test_every_objective_gives_the_loss_gradient_and_state_of_one_process(worlds, case, targets, size, rows):
    expected = objective_found(case, targets, [12], ALONE)
    for found in worlds[size]:
        assert_equal(found["objective", case, targets, rows], expected)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", WORLDS[1:])
@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("form", FORMS)
def test_every_coding_length_gives_each_rank_the_value_and_the_gradient_of_its_rows(worlds, form, d, size, rows):
    (alone,) = worlds[1]
    expected = alone["form", form, d, rows]
    for found in worlds[size]:
        assert_close(found["form", form, d, rows]["value"], expected["value"], rtol=1e-11, atol=0)
    for gradient in ("to online", "to target"):
        parts = torch.cat([found["form", form, d, rows][gradient] for found in worlds[size]])
        assert_close(parts, expected[gradient], rtol=1e-9, atol=1e-11 * float(expected[gradient].abs().max()))


@pytest.mark.parametrize("size", WORLDS[1:])
@pytest.mark.parametrize(("m", "d"), WORK)
@pytest.mark.parametrize("order", [4, None])
def test_ranks_split_the_products_and_move_no_more_than_they_have_to(worlds, m, d, order, size):
    (alone,) = worlds[1]
    for found in worlds[size]:
        flops, moved = found["work", m, d, order]
        solving = 4 * min(m, d) ** 2 * max(m, d) if order is None else 0  # of both sides: not counted as products
        share = (alone["work", m, d, order][0] + solving) / size
        # Row by row a series costs 3 products of [m, d] with [d, d], where one process may take 2 of [d, d] and one.
        assert flops <= 2.2 * share if m > d and order == 4 else flops <= 1.01 * share
        batch_wise, feature_wise = 2 * m * d + m * m, 2 * d * d
        assert moved <= min(batch_wise, feature_wise) + 2 * (1 + 1 + 2 * size)  # and a few scalars


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", WORLDS[1:])
@pytest.mark.parametrize("name", NORMS)
def test_synchronised_batch_norm_is_torch_s_on_the_whole_batch(worlds, name, size, rows):
    expected = norm_found(NORMS[name](), [12], ALONE)
    parts = [found["norm", name, rows] for found in worlds[size]]
    for split in ("out", "to input", "eval"):
        assert_close(torch.cat([part.pop(split) for part in parts]), expected.pop(split), rtol=1e-10, atol=1e-10)
    for part in parts:
        assert_equal(part, expected)


@pytest.mark.parametrize("size", WORLDS[1:])
def test_synchronised_batch_norm_keeps_its_digits_far_from_zero(worlds, size):
    out = torch.cat([found["far", "uneven"] for found in worlds[size]])
    expected = nn.BatchNorm1d(5).double()((10_000 + random(12, 5, seed=9)).float().double())
    assert_close(out.double(), expected.detach(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("size", WORLDS[1:])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_under_ddp_gives_the_losses_weights_and_target_of_one_process(worlds, objective, size):
    (alone,) = worlds[1]
    for found in worlds[size]:
        assert_equal(found["training", objective], alone["training", objective])


def test_synchronised_batch_norm_keeps_no_more_than_its_input():
    norm = synchronise_batch_norm(nn.Sequential(nn.BatchNorm2d(3)))
    x = torch.randn(4, 3, 16, 16).bfloat16().requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        out = norm(x)
    assert out.dtype == torch.bfloat16
    assert sum(kept) < 1.1 * x.nbytes


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
