"""Judges: lightly's losses (values, gradients, state), torch's cross-entropy, the formulas written out in float64."""

import math

import pytest
import torch
from lightly import loss as lightly
from torch.nn import functional as F
from torch.testing import assert_close

from mec.errors import BadInput
from mec.objectives import (
    DINO,
    OBJECTIVES,
    QueuedInfoNCE,
    SwAV,
    UniGrad,
    barlow_twins,
    cross_entropy,
    info_nce,
    negative_cosine,
    nt_xent,
    vicreg,
)
from mec.objectives.matched import normalised, pairs
from mec.objectives.memory import sinkhorn

M, D = 12, 6


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stack(views: int, seed: int = 0, m: int = M, d: int = D) -> torch.Tensor:
    """Views of m images that agree in part."""
    return rows(m, d, seed=seed) + 0.5 * rows(views, m, d, seed=seed + 1)


def value_and_gradient(function, *tensors):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    value = function(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def assert_same(found, expected):
    assert_close(found, expected, rtol=1e-11, atol=1e-13)


# --- formulas on two sets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.1, 0.5, 3.0])
def test_nt_xent_is_lightly_s(temperature):
    judge = lightly.NTXentLoss(temperature=temperature)
    found = value_and_gradient(lambda a, b: nt_xent(a, b, temperature=temperature), *stack(2))
    assert_same(found, value_and_gradient(judge, *stack(2)))


def test_nt_xent_of_orthonormal_views_that_agree_is_known_in_closed_form():
    z = torch.eye(8, dtype=torch.float64)
    expected = math.log(math.exp(1 / 0.2) + 14) - 1 / 0.2  # 14 other rows at cosine 0, itself left out
    assert nt_xent(z, z, temperature=0.2).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_info_nce_is_the_cross_entropy_of_each_row_with_its_own_key(temperature):
    def judge(p, z):
        scores = F.normalize(p, dim=1) @ F.normalize(z, dim=1).T / temperature
        return torch.stack([-scores[i, i] + scores[i].exp().sum().log() for i in range(M)]).mean()

    found = value_and_gradient(lambda p, z: info_nce(p, z, temperature=temperature), *stack(2))
    assert_same(found, value_and_gradient(judge, *stack(2)))


@pytest.mark.parametrize(("m", "d"), [(12, 6), (5, 9)])
@pytest.mark.parametrize("weight", [0.0051, 1.0, 0.0])
def test_barlow_twins_is_lightly_s(m, d, weight):
    judge = lightly.BarlowTwinsLoss(lambda_param=weight)
    found = value_and_gradient(lambda a, b: barlow_twins(a, b, off_diagonal=weight), *stack(2, m=m, d=d))
    assert_same(found, value_and_gradient(judge, *stack(2, m=m, d=d)))


@pytest.mark.parametrize("normalise", ["l2", "both"])
def test_barlow_twins_of_unit_rows_is_its_formula_on_the_scaled_correlation(normalise):
    def judge(a, b):
        if normalise == "both":
            a, b = (F.batch_norm(x, None, None, training=True) for x in (a, b))
        c = D / M * F.normalize(a, dim=1).T @ F.normalize(b, dim=1)
        on = torch.stack([(1 - c[i, i]) ** 2 for i in range(D)]).sum()
        return on + 0.3 * torch.stack([c[i, j] ** 2 for i in range(D) for j in range(D) if i != j]).sum()

    found = value_and_gradient(lambda a, b: barlow_twins(a, b, off_diagonal=0.3, normalise=normalise), *stack(2))
    assert_same(found, value_and_gradient(judge, *stack(2)))


@pytest.mark.parametrize("weights", [(25, 25, 1), (3, 2, 5), (0, 0, 1), (1, 0, 0), (0, 1, 0)])
def test_vicreg_is_lightly_s(weights):
    judge = lightly.VICRegLoss(*(float(w) for w in weights))
    given = dict(zip(("invariance", "variance", "covariance"), weights))
    for scale in (0.2, 3.0):  # hinges on, hinges off
        found = value_and_gradient(lambda a, b: vicreg(a, b, **given), *(scale * stack(2)))
        assert_same(found, value_and_gradient(judge, *(scale * stack(2))))


def test_negative_cosine_of_the_loop_is_lightly_s_simsiam_loss():
    judge = lightly.NegativeCosineSimilarity()
    p, z = stack(2), stack(2, seed=5)
    found = value_and_gradient(lambda p: OBJECTIVES["negative_cosine"](p, z), p)
    assert_same(found, value_and_gradient(lambda p: 0.5 * (judge(p[0], z[1]) + judge(p[1], z[0])), p))
    # BYOL's published loss: squared distances of unit rows, summed over dimensions and both directions.
    unit = [F.normalize(x, dim=2) for x in (p, z)]
    published = sum((unit[0][v] - unit[1][1 - v]).square().sum(1).mean() for v in (0, 1))
    assert_close(published, 4 + 4 * found[0])


@pytest.mark.parametrize("formula", [negative_cosine, nt_xent, info_nce, barlow_twins, vicreg])
def test_gradients_of_formulas_pass_gradcheck(formula):
    pair = [x.requires_grad_() for x in stack(2, m=4, d=3).unbind()]
    assert torch.autograd.gradcheck(formula, pair)


@pytest.mark.parametrize("how", ["l2", "bn", "both"])
def test_normalised_rows_have_mean_square_length_one(how):
    x = 3 + 5 * rows(40, 7)
    z = normalised(x, how)
    assert_close(z.square().sum(1).mean(), torch.tensor(1.0, dtype=torch.float64), rtol=1e-6, atol=0)
    if how != "bn":
        assert_close(z.norm(dim=1), torch.ones(40, dtype=torch.float64))
    if how == "bn":
        assert_close(z, F.batch_norm(x, None, None, training=True) / 7**0.5)
    if how == "both":
        assert_close(z, F.normalize(F.batch_norm(x, None, None, training=True), dim=1))


# --- with memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.2, 0.07, 1.5])
def test_moco_v2_with_keys_of_one_view_is_lightly_s_ntxent_with_its_memory_bank_over_several_steps(temperature):
    judge = lightly.NTXentLoss(temperature=temperature, memory_bank_size=(3 * M, D))
    ours = QueuedInfoNCE(D, queue=3 * M).double()
    judge.memory_bank.bank = ours.keys[1].clone()
    judge.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.long)
    for step in range(5):
        q, k = stack(2, seed=10 * step)
        target = torch.stack([rows(M, D, seed=99), k])  # the first view's keys are not used
        found = value_and_gradient(
            lambda q, t=target: ours(torch.stack([q, q]), t, temperature=temperature, key_views=1), q
        )
        assert_same(found, value_and_gradient(lambda q, k=k: judge(q, k), q))
        assert_close(ours.keys[1], judge.memory_bank.bank.double())
        assert int(ours.pointer) == (step + 1) * M % (3 * M)


@pytest.mark.parametrize("temperature", [0.2, 0.7])
def test_moco_v2_symmetric_is_the_mean_of_both_directions_with_the_queues_as_they_were(temperature):
    ours = QueuedInfoNCE(D, queue=2 * M).double()
    before = ours.keys.clone()
    p, z = stack(2), stack(2, seed=3)
    q, k = F.normalize(p, dim=2), F.normalize(z, dim=2)
    expected = 0
    for v, t in ((0, 1), (1, 0)):
        positive = (q[v] * k[t]).sum(1)
        everything = torch.cat([positive[:, None], q[v] @ before[t].T], 1) / temperature
        expected = expected + (everything.exp().sum(1).log() - positive / temperature).mean() / 2
    assert_close(ours(p, z, temperature=temperature), expected)
    assert_close(ours.keys[:, :M], k)
    assert torch.equal(ours.keys[:, M:], before[:, M:])


def test_moco_v2_says_which_queue_fits_the_batch():
    with pytest.raises(BadInput, match=r"queue 30 with batches of 12: .* --set settings.queue=24"):
        QueuedInfoNCE(D, queue=30).double()(stack(2), stack(2))


SWAV = [
    {},
    {"temperature": 0.3},
    {"sharpness": 0.02},
    {"sharpness": 1.0},
    {"iterations": 1},
    {"iterations": 9},
    {"temperature": 2.0, "sharpness": 0.1, "iterations": 5, "use_queue": 0.0},
]


@pytest.mark.parametrize("given", SWAV)
@pytest.mark.parametrize("prototypes", [2, 5, 40])
def test_swav_is_lightly_s_on_scores_with_local_views(prototypes, given):
    ours = SwAV(D, prototypes=prototypes).double()
    views = stack(4)
    found = value_and_gradient(lambda v: ours(v, **given), views)
    judge_of = lightly.SwaVLoss(
        temperature=given.get("temperature", 0.1),
        sinkhorn_iterations=given.get("iterations", 3),
        sinkhorn_epsilon=given.get("sharpness", 0.05),
    )

    def judge(views):
        scores = [F.normalize(x, dim=1) @ F.normalize(ours.prototypes.detach(), dim=1).T for x in views]
        return judge_of(scores[:2], scores[2:]).squeeze()

    assert_same(found, value_and_gradient(judge, views))


def test_swav_prototypes_are_unit_rows_and_get_the_gradient_of_the_formula():
    ours = SwAV(D, prototypes=5).double()
    with torch.no_grad():
        ours.prototypes.mul_(3)
    start = F.normalize(ours.prototypes.detach(), dim=1)
    ours(stack(2)).backward()
    assert_close(ours.prototypes.detach(), start)

    def judge(prototypes):
        scores = [F.normalize(x, dim=1) @ prototypes.T for x in stack(2)]
        return lightly.SwaVLoss()(scores, []).squeeze()

    assert_close(ours.prototypes.grad, value_and_gradient(judge, start)[1])


def test_swav_uses_its_queue_once_it_is_full_and_scores_it_with_present_prototypes():
    ours = SwAV(D, prototypes=5, queue=2 * M).double()
    plain = SwAV(D, prototypes=5).double()
    plain.load_state_dict({"prototypes": ours.prototypes.detach(), "queue": plain.queue})
    seen = []
    for step in range(4):
        views = stack(2, seed=20 * step)
        with torch.no_grad():
            ours.prototypes.add_(0.1 * rows(5, D, seed=step))
            plain.prototypes.copy_(ours.prototypes)
        if step >= 2:  # two batches fill it
            gamma = F.normalize(ours.prototypes.detach(), dim=1)
            newest_first = torch.stack([torch.cat([s[t] for s in seen[:-3:-1]]) for t in (0, 1)])
            assert_close(ours.queue, newest_first)
            queue_scores = [q @ gamma.T for q in newest_first]
            scores = [F.normalize(x, dim=1) @ gamma.T for x in views]
            expected = lightly.SwaVLoss()(scores, [], queue_scores).squeeze()
            assert not math.isclose(plain(views).item(), expected.item())
        else:
            expected = plain(views)
        assert_close(ours(views), expected)
        seen.append(F.normalize(views, dim=2))
    untouched = SwAV(D, prototypes=5, queue=2 * M).double()
    untouched(stack(2), use_queue=0.5)
    assert not untouched.queue.any()


def test_sinkhorn_balances_prototypes_and_every_row_adds_up_to_one():
    q = sinkhorn(rows(40, 8) * 30, iterations=400)
    assert_close(q.sum(1), torch.ones(40, dtype=torch.float64))
    assert_close(q.sum(0), torch.full((8,), 5.0, dtype=torch.float64), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("target_temperature", "given"),
    [  # exact in the float32 that lightly keeps it in
        (0.0625, {}),
        (0.25, {"temperature": 0.5}),
        (0.03125, {"centre_momentum": 0.0}),
        (1.0, {"temperature": 0.07, "centre_momentum": 0.996}),
        (0.125, {"centre_momentum": 1.0}),
    ],
)
def test_dino_is_lightly_s_and_its_centre_follows_over_several_steps(target_temperature, given):
    judge = lightly.DINOLoss(
        output_dim=D,
        teacher_temp=target_temperature,
        warmup_teacher_temp=target_temperature,
        student_temp=given.get("temperature", 0.1),
        center_momentum=given.get("centre_momentum", 0.9),
    ).double()
    ours = DINO(D).double()
    for step in range(3):
        online, target = stack(4, seed=step), stack(2, seed=50 + step)
        found = value_and_gradient(
            lambda s, t=target: ours(s, t, target_temperature=target_temperature, **given), online
        )
        assert_same(found, value_and_gradient(lambda s, t=target: judge(list(t), list(s)), online))
        assert_close(ours.centre, judge.center.flatten().double())


@pytest.mark.parametrize(("weight", "momentum"), [(100.0, 0.99), (20.0, 0.99), (0.0, 0.5), (3.5, 0.0), (1.0, 1.0)])
def test_unigrad_has_the_gradient_that_its_paper_writes_down_and_a_correlation_of_trace_one(weight, momentum):
    ours = UniGrad(D).double()
    correlation = None
    for step in range(3):
        p, z = stack(3, seed=step), stack(2, seed=70 + step)
        t = F.normalize(z, dim=2)
        now = sum(x.T @ x for x in t) / (2 * M)
        correlation = now if correlation is None else momentum * correlation + (1 - momentum) * now
        chosen = pairs(3, 2)

        def judge(p, t=t, chosen=chosen, correlation=correlation):
            # -u·t + λ u·(F u held still) has the gradient -t + λ F u at u; its value is another.
            u = F.normalize(p, dim=2)
            return sum(
                (-(u[v] * t[w]).sum(1) + weight * (u[v] * (u[v] @ correlation).detach()).sum(1)).mean() / len(chosen)
                for v, w in chosen
            )

        found = value_and_gradient(lambda p, z=z: ours(p, z, weight=weight, correlation_momentum=momentum), p)
        assert_same(found[1], value_and_gradient(judge, p)[1])
        assert_close(ours.correlation, correlation)
        assert ours.correlation.trace().item() == pytest.approx(1, rel=1e-12)


def test_unigrad_at_collapse_and_at_agreement_with_an_even_spread_has_the_values_of_its_closed_form():
    alike = torch.ones(2, M, D, dtype=torch.float64)
    assert UniGrad(D).double()(alike, alike).item() == pytest.approx(-1 + 50)
    even = torch.eye(D, dtype=torch.float64).repeat(2, 2, 1)
    assert UniGrad(D).double()(even, even).item() == pytest.approx(-1 + 100 / (2 * D))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_supervised_is_torch_s_cross_entropy_over_views(smoothing):
    labels = torch.arange(M) % D
    found = value_and_gradient(lambda x: cross_entropy(x, labels=labels, label_smoothing=smoothing), stack(2))

    def judge(x):
        return torch.stack([F.cross_entropy(v, labels, label_smoothing=smoothing) for v in x]).mean()

    assert_same(found, value_and_gradient(judge, stack(2)))


# --- all of them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: nt_xent(rows(4, 3), rows(4, 2)),
         "online is [4, 3], target [4, 2]: both are [m, d], row i the same image."),
        (lambda: barlow_twins(rows(4, 3), rows(4, 3), normalise="l3"), "normalise is 'l3': l2, bn or both."),
        (lambda: vicreg(rows(1, 3), rows(1, 3)), "vicreg got one image: a variance takes two."),
        (lambda: DINO(3)(rows(2, 4, 3), None), "dino needs a target network: --set network.target=momentum"),
        (
            lambda: cross_entropy(rows(2, 4, 3)),
            "supervised needs labels: images in train/CLASS/, or a data set that has them.",
        ),
    ],
)  # fmt: skip
def test_errors_repeat_what_came_and_say_what_fits(call, text):
    with pytest.raises(BadInput) as caught:
        call()
    assert str(caught.value) == text
