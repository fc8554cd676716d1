"""MEC's relatives against lightly, against the formulas as printed in float64, and at the corners where they meet."""

import math

import pytest
import torch
from lightly.loss import FroSSLLoss, MMCRLoss
from lightly.loss.emp_ssl_loss import invariance_loss, tcr_loss
from lightly.loss.wmse_loss import Whitening2d, norm_mse_loss

import mec
from mec.errors import BadInput
from mec.objectives import (
    CorInfoMax,
    emp_ssl,
    frossl,
    joint_coding,
    lower_bound,
    matrix_ssl,
    maximum_entropy_coding,
    mmcr,
    simdino,
    w_mse,
)

SHAPES = [(24, 8), (6, 16)]  # more rows than dimensions, and fewer


def stack(views: int, m: int, d: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(m, d, generator=generator, dtype=torch.float64)
    return shared + 0.5 * torch.randn(views, m, d, generator=generator, dtype=torch.float64)


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def value_and_gradient(function, x):
    x = x.clone().requires_grad_()
    value = function(x)
    value.backward()
    return value.detach(), x.grad


def assert_same(ours, theirs, x):
    for mine, other in zip(value_and_gradient(ours, x), value_and_gradient(theirs, x)):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("m", "d"), SHAPES)
@pytest.mark.parametrize("local", [0.0, 0.3])
def test_mmcr_is_lightly_s(m, d, local):
    views = stack(4, m, d)

    def lightly(x):
        online, momentum = unit(x).transpose(0, 1).split(2, dim=1)
        return MMCRLoss(lmda=local)(online, momentum)

    assert_same(lambda x: mmcr(x, local=local), lightly, views)


@pytest.mark.parametrize(("m", "d"), SHAPES)
def test_emp_ssl_s_terms_are_lightly_s(m, d):
    """Its coding rate is maximised: lightly 1.6.0 adds it where the paper and 1.6.1 take it away."""
    for eps, weight in ((0.2, 200.0), (1.5, 0.0)):
        assert_same(
            lambda x, e=eps, w=weight: emp_ssl(x, distance=e, agreement=w),
            lambda x, e=eps, w=weight: w * invariance_loss(unit(x)) - tcr_loss(unit(x), e),
            stack(3, m, d),
        )


@pytest.mark.parametrize(("m", "d"), SHAPES)
def test_frossl_is_lightly_s(m, d):
    assert_same(lambda x: frossl(x, invariance=1.4), lambda x: FroSSLLoss(invariance_weight=1.4)([*x]), stack(3, m, d))


@pytest.mark.parametrize("shrink", [0.0, 0.2])
def test_w_mse_is_lightly_s_whitening_of_the_whole_batch(shrink):
    def lightly(x):
        white = [Whitening2d(8, eps=shrink, track_running_stats=False).double()(rows) for rows in x]
        losses = [norm_mse_loss(white[a], white[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
        return sum(losses) / 3

    assert_same(lambda x: w_mse(x, shrink=shrink), lightly, stack(3, 24, 8))


def test_w_mse_refuses_to_whiten_fewer_images_than_numbers():
    with pytest.raises(BadInput, match="w-mse got 6 images and embeddings of 16 numbers"):
        w_mse(stack(2, 6, 16))
    assert w_mse(stack(2, 6, 16), shrink=0.1).isfinite()


@pytest.mark.parametrize(("m", "d"), SHAPES)
def test_simdino_is_its_formula(m, d):
    views, teacher = stack(3, m, d), stack(2, m, d, seed=1)

    def printed(x):
        student, slow = unit(x), unit(teacher)
        cosines = [(student[v] * slow[t]).sum(1).mean() for t in range(2) for v in range(3) if v != t]
        rates = [
            torch.logdet(torch.eye(d, dtype=x.dtype) + d / (m * 0.5) * y.T @ y) / 2 for y in (student[:2] + slow) / 2
        ]
        return -2.0 * sum(cosines) / 4 - (d + m) / (d * m) * sum(rates) / 2

    assert_same(lambda x: simdino(x, teacher, agreement=2.0), printed, views)


@pytest.mark.parametrize(("m", "d"), SHAPES)
def test_matrix_ssl_is_its_formula_and_its_first_term_mec_s_cross_form(m, d):
    p, z = stack(2, m, d)
    centring = torch.eye(m, dtype=p.dtype) - 1 / m

    def series(c):
        return sum((-1) ** (k + 1) / k * torch.linalg.matrix_power(c, k) for k in range(1, 5))

    def printed(x):
        a, b = unit(x), unit(z)
        cross, first, second = (u.T @ centring @ v / m for u, v in ((a, b), (a, a), (b, b)))
        return -series(cross).trace() - 0.7 * ((torch.eye(d, dtype=x.dtype) + first) @ series(second)).trace()

    assert_same(lambda x: matrix_ssl(x, z, own=0.7), printed, p)
    for order in (None, 3):
        assert_same(
            lambda x, n=order: matrix_ssl(x, z, own=0.0, centred=False, order=n),
            lambda x, n=order: maximum_entropy_coding(x, z, distortion=1.0, order=n),
            p,
        )
    far = matrix_ssl(p, z, order=60)
    torch.testing.assert_close(matrix_ssl(p, z, order=None), far, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("m", "d"), SHAPES)
def test_corinfomax_is_its_formula_over_two_steps(m, d):
    ours = CorInfoMax(d).double()
    means, covariances = torch.zeros(2, d).double(), torch.eye(d).double().repeat(2, 1, 1)
    for seed in (0, 1):
        views = stack(2, m, d, seed)

        def printed(x, means=means, covariances=covariances):
            z = unit(x)
            new = 0.01 * means + 0.99 * z.mean(1)
            centred = z - new[:, None]
            matrices = 0.01 * covariances + 0.99 * centred.transpose(1, 2) @ centred / m
            return 250 * torch.nn.functional.mse_loss(z[0], z[1]) - torch.logdet(
                matrices + 1e-8 * torch.eye(d).double()
            ).sum() / d, (new, matrices)

        state = {k: v.clone() for k, v in ours.state_dict().items()}
        for mine, other in zip(
            value_and_gradient(lambda x: ours(x, None), views), value_and_gradient(lambda x: printed(x)[0], views)
        ):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)
        means, covariances = (part.detach() for part in printed(views)[1])
        torch.testing.assert_close(ours.covariances, covariances)
        torch.testing.assert_close(ours.means, means)
        assert not torch.equal(state["means"], ours.means)


def printed_family(x, distortion, exponent, agreement, centred):
    m = x.shape[1]
    average = unit(x).mean(0)
    cosine = (unit(x) * unit(average)).sum(2).mean()
    rows = average - average.mean(0) if centred else average
    sigma = torch.linalg.svdvals(rows)
    each = ((1 + sigma**2 / (m * distortion)) ** exponent - 1) / exponent
    return -distortion * each.sum() - agreement * cosine


@pytest.mark.parametrize(("m", "d"), SHAPES)
@pytest.mark.parametrize(
    ("exponent", "agreement", "centred"), [(0.5, 0.0, False), (0.25, 1.5, True), (1.0, 0.3, False)]
)
def test_the_family_is_its_formula(m, d, exponent, agreement, centred):
    assert_same(
        lambda x: joint_coding(x, distortion=0.02, exponent=exponent, agreement=agreement, centred=centred),
        lambda x: printed_family(x, 0.02, exponent, agreement, centred),
        stack(3, m, d),
    )


@pytest.mark.parametrize(("m", "d"), SHAPES)
def test_the_family_s_corners_are_the_logarithm_agreement_and_mmcr(m, d):
    views = stack(3, m, d)
    plain = joint_coding(views, distortion=0.02)
    assert torch.equal(joint_coding(views, distortion=0.02, exponent=0.0, agreement=0.0), plain)
    torch.testing.assert_close(joint_coding(views, distortion=0.02, exponent=1e-7), plain, rtol=1e-5, atol=0)
    lengths = unit(views).mean(0).square().sum(1).mean()
    torch.testing.assert_close(joint_coding(views, distortion=0.02, exponent=1.0), -lengths)
    tiny = 1e-12  # -ε Σ 2 (sqrt(1 + σ² / (m ε)) - 1) -> -2 sqrt(ε / m) Σ σ
    near = joint_coding(views, distortion=tiny, exponent=0.5) / (2 * math.sqrt(tiny / m))
    torch.testing.assert_close(near, mmcr(views), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("m", "d"), [(8, 8), (6, 16), (16, 4)])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_agreeing_views_that_spread_evenly_reach_the_bound_of_the_family_and_none_goes_below(m, d, exponent):
    even = torch.eye(max(m, d), dtype=torch.float64)[:m, :d]
    if m > d:
        even = torch.eye(d, dtype=torch.float64).repeat(m // d, 1)
    settings = {"distortion": 0.05, "exponent": exponent, "agreement": 0.7}
    bound = lower_bound(m, d, **settings)
    assert joint_coding(even.expand(2, m, d), **settings).item() == pytest.approx(bound)
    for seed in range(5):
        assert joint_coding(stack(2, m, d, seed), **settings).item() >= bound - 1e-9
        centred = joint_coding(stack(2, m, d, seed), **settings, centred=True).item()
        assert centred >= lower_bound(m, d, **settings, centred=True) - 1e-9


def test_relatives_are_indifferent_to_turning_all_embeddings():
    views, turn = stack(3, 24, 8), torch.linalg.qr(torch.randn(8, 8).double()).Q
    for formula in (mmcr, emp_ssl):
        torch.testing.assert_close(formula(views @ turn), formula(views))
    torch.testing.assert_close(matrix_ssl(*views[:2] @ turn), matrix_ssl(*views[:2]))
    assert not torch.isclose(frossl(views @ turn), frossl(views))  # it normalises columns


@pytest.mark.parametrize("name", ["mmcr", "emp-ssl", "simdino", "corinfomax", "matrix-ssl", "frossl", "w-mse"])
def test_relatives_are_methods(name):
    assert name in mec.METHODS
