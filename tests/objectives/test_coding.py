"""Judges: Eqn 1 and 2 as printed (reference.py), gradcheck, and what the mathematics promises."""

import itertools
import math

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from mec.errors import BadInput
from mec.objectives.coding import coding_length, distortion_for, log_det_cross, series_value_and_slope

SIDES = [(7, 12), (9, 9), (12, 7)]  # batch-wise, square, feature-wise


def units(m, d, seed=0):
    return F.normalize(torch.randn(m, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=1)


def value_and_gradient(function, *tensors):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    value = function(*leaves)
    return value.detach(), *torch.autograd.grad(value, leaves)


def assert_same(found, expected, relative=1e-10):
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, rtol=relative, atol=relative * float(b.abs().max()))


@pytest.mark.parametrize(("m", "d"), SIDES)
@pytest.mark.parametrize("distortion", [0.01, 0.06, 2.0])
def test_coding_length_is_equation_1_value_and_gradient(m, d, distortion):
    z = units(m, d)
    found = value_and_gradient(lambda z: coding_length(z, distortion), z)
    assert_same(found, value_and_gradient(lambda z: reference.coding_length(z, distortion), z))


@pytest.mark.parametrize(("m", "d"), SIDES)
@pytest.mark.parametrize("order", [*range(1, 14), 16, 31, 32])
def test_series_is_equation_2_value_and_gradient_at_every_order(m, d, order):
    z = units(m, d)
    for distortion in (0.06, 2.0):  # where the series diverges, and where it converges
        found = value_and_gradient(lambda z, eps=distortion: coding_length(z, eps, order), z)
        assert_same(
            found, value_and_gradient(lambda z, eps=distortion: reference.coding_length_series(z, eps, order), z)
        )


class CountProducts(TorchDispatchMode):
    """Counts products of matrices."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("order", "products"), [(1, 0), (2, 0), (3, 1), (4, 2), (5, 3), (6, 3), (7, 4), (8, 4), (9, 4), (16, 6), (32, 10)]
)
def test_series_takes_few_products_beyond_c_for_value_and_slope(order, products):
    with CountProducts() as counted:
        series_value_and_slope(torch.eye(3) / 2, order)
    assert counted.count == products
    with CountProducts() as counted:
        (value, *_) = series_value_and_slope(torch.eye(3) / 2, order, with_slope=False)
    assert counted.count <= products
    if order in (4, 6, 8, 9, 16):
        assert counted.count == products - 1
    assert value == series_value_and_slope(torch.eye(3) / 2, order)[0]


@pytest.mark.parametrize(("m", "d"), [(12, 20), (20, 12)])
def test_the_exact_cross_form_is_right_where_the_factorisation_has_to_swap_rows(m, d):
    lam = 50.0  # I + C is far from the identity
    online, target = (units(m, d, seed=seed).requires_grad_() for seed in (1, 2))
    side = online.detach() @ target.detach().T if m <= d else target.detach().T @ online.detach()
    permutation, _, _ = torch.linalg.lu(torch.eye(min(m, d), dtype=torch.float64) + lam * side)
    places = permutation.argmax(1)
    assert not torch.equal(places, places.argsort())  # more than swaps of pairs
    value = log_det_cross(online, target, lam, None)
    expected = torch.linalg.slogdet(torch.eye(m, dtype=torch.float64) + lam * online @ target.T).logabsdet
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    found, wanted = (torch.autograd.grad(v, (online, target)) for v in (value, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("m", "d"), SIDES)
@pytest.mark.parametrize("order", [None, 1, 2, 5, 7, 8])
def test_gradient_of_coding_length_passes_gradcheck_on_rows_of_any_length(m, d, order):
    z = (1.7 * units(m, d)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: coding_length(z, 0.3, order), z)


@pytest.mark.parametrize(("m", "d"), SIDES)
def test_series_approaches_the_log_determinant_as_fast_as_its_tail_allows(m, d):
    z = units(m, d)
    mu, lam = reference.constants(m, d, 1.5)
    q = float(torch.linalg.matrix_norm(lam * z @ z.T, ord=2))
    assert q < 1
    for order in range(1, 30):
        tail = mu * min(m, d) * q ** (order + 1) / ((order + 1) * (1 - q))
        assert abs(coding_length(z, 1.5, order) - coding_length(z, 1.5)) <= tail + 1e-12


def test_coding_length_ignores_the_order_of_images_and_the_choice_of_axes():
    z = units(8, 5)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    assert_close(coding_length(z[torch.randperm(8)] @ rotation, 0.06), coding_length(z, 0.06))


def largest_coding_length(m, d, distortion):
    """μ r log(1 + λ m / r), in nats."""
    r = min(m, d)
    return (m + d) / 2 * r * math.log(1 + 1 / (r * distortion))


@pytest.mark.parametrize(("m", "d"), [(4, 9), (6, 6), (12, 4), (9, 4)])
def test_evenly_spread_rows_reach_the_largest_coding_length(m, d):
    expected = largest_coding_length(m, d, 0.06)
    assert coding_length(reference.even_spread(m, d), 0.06).item() == pytest.approx(expected, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([(1, 4), (4, 9), (6, 6), (12, 4), (9, 4)]),
    distortion=st.floats(1e-4, 10),
    noise=st.floats(0, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_unit_rows_exceed_the_largest_coding_length(shape, distortion, noise, seed):
    torch.manual_seed(seed)
    z = F.normalize(reference.even_spread(*shape) + noise * torch.randn(*shape, dtype=torch.float64), dim=1)
    assert 0 < coding_length(z, distortion) <= largest_coding_length(*shape, distortion) * (1 + 1e-12)


def test_images_that_all_look_alike_have_the_coding_length_of_one_direction():
    z = units(1, 5).expand(8, 5)
    assert coding_length(z, 0.06).item() == pytest.approx(13 / 2 * math.log(1 + 1 / 0.06), rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([(1, 4), (4, 9), (6, 6), (9, 4), (30, 3)]),
    distortion=st.floats(1e-3, 10),
    alike=st.floats(0, 1e3),
    seed=st.integers(0, 2**32 - 1),
)
def test_norms_of_c_keep_the_inequalities_of_appendix_h(shape, distortion, alike, seed):
    torch.manual_seed(seed)
    m, _ = shape
    online, target = (F.normalize(alike + torch.randn(*shape, dtype=torch.float64), dim=1) for _ in range(2))
    lam = 1 / (m * distortion)
    c = lam * online @ target.T
    columns, rows = c.abs().sum(0).max(), c.abs().sum(1).max()  # ‖C‖₁, Eqn 13, and ‖C‖_∞
    largest = lam * m * (1 + 1e-9)
    assert columns <= largest  # Eqn 14
    assert rows <= largest  # Eqn 15
    assert torch.linalg.matrix_norm(c, ord=2) <= (columns * rows).sqrt() * (1 + 1e-9)  # Eqn 12 and 16
    if lam < 1 / m:  # Eqn 17
        assert torch.linalg.matrix_norm(c, ord=2) < 1  # Eqn 11


@pytest.mark.parametrize(("m", "d"), [(4, 9), (8, 9), (9, 9), (12, 5)])
def test_the_guaranteed_distortion_converges_even_if_all_rows_are_one(m, d):
    distortion = distortion_for("guaranteed", m, d)
    assert distortion == (d / m if d > m else 1.01)
    z = units(1, d).expand(m, d)  # ‖C‖₂ = 1 / ε_d², the most there is
    assert torch.linalg.matrix_norm(z @ z.T / (m * distortion), ord=2) == pytest.approx(1 / distortion)
    assert coding_length(z, "guaranteed") == coding_length(z, distortion)
    gaps = [abs(coding_length(z, "guaranteed", n) - coding_length(z, "guaranteed")) for n in (1, 8, 64, 512)]
    assert all(later < before or later < 1e-12 for before, later in itertools.pairwise(gaps))
    assert gaps[0] > 1e-3
    for rows in (z, units(m, d)):
        expected = reference.coding_length_series(rows, distortion, 4)
        assert_close(coding_length(rows, "guaranteed", 4), expected, rtol=1e-12, atol=0)


def test_swapped_sides_give_the_swapped_gradients():
    # Tr((ABᵀ)ᵏ) = Tr((BAᵀ)ᵏ): the kernel may not tell online from target.
    a, b = units(6, 9, 1), units(6, 9, 2)
    for order in (None, 4):
        value, to_a, to_b = value_and_gradient(lambda a, b, n=order: log_det_cross(a, b, 0.5, n), a, b)
        assert_same(value_and_gradient(lambda b, a, n=order: log_det_cross(b, a, 0.5, n), b, a), (value, to_b, to_a))


def test_the_first_order_takes_no_product_of_matrices():
    z = units(6, 4).requires_grad_()
    with CountProducts() as counted:
        coding_length(z, 0.06, 1).backward()
    assert counted.count == 0


@pytest.mark.parametrize("order", [None, 4])
def test_a_second_derivative_is_refused_not_returned_as_zero(order):
    z = units(5, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(coding_length(z, 0.06, order), z, create_graph=True)
    with pytest.raises(RuntimeError, match="coding lengths differentiate once"):
        torch.autograd.grad(gradient.sum(), z)


@pytest.mark.parametrize(("m", "d"), [(48, 96), (96, 48)])
@pytest.mark.parametrize("order", [None, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_reduced_precision_and_autocast_change_neither_value_nor_gradient(m, d, order, dtype):
    z = units(m, d).to(dtype)
    expected = value_and_gradient(lambda z: coding_length(z, 0.06, order), z.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = value_and_gradient(lambda z: coding_length(z, 0.06, order), z)  # backward inside, too
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    rounding = 2e-5 if dtype == torch.float32 else 1e-2  # the gradient is handed back in the input's precision
    assert_same([value.double(), gradient.double()], expected, relative=rounding)
    assert_close(value.double(), expected[0], rtol=2e-5, atol=0)


@pytest.mark.parametrize(("m", "d"), SIDES)
@pytest.mark.parametrize("order", [None, 1, 4])
def test_nan_in_is_nan_out_without_an_exception(m, d, order):
    for place in ((0, 0), (m - 1, d - 1)):
        z = units(m, d)
        z[place] = math.nan
        value, _ = value_and_gradient(lambda z: coding_length(z, 0.06, order), z)
        assert value.isnan()


@pytest.mark.parametrize(
    ("shape", "distortion", "order", "text"),
    [
        ((4,), 0.06, None, "z is [4]: it is [m, d], one embedding a row, at least one of each."),
        ((2, 4, 3), 0.06, None, "z is [2, 4, 3]: it is [m, d], one embedding a row, at least one of each."),
        ((0, 3), 0.06, None, "z is [0, 3]: it is [m, d], one embedding a row, at least one of each."),
        ((4, 3), 0.0, None, "distortion is 0.0: it takes a number above 0 (the paper's is 0.06), or 'guaranteed'."),
        ((4, 3), -1, None, "distortion is -1: it takes a number above 0 (the paper's is 0.06), or 'guaranteed'."),
        (
            (4, 3),
            "guarantee",
            None,
            "distortion is 'guarantee': it takes a number above 0 (the paper's is 0.06), or 'guaranteed'.",
        ),
        (
            (4, 3),
            math.nan,
            None,
            "distortion is nan: it takes a number above 0 (the paper's is 0.06), or 'guaranteed'.",
        ),
        ((4, 3), 0.06, 0, "order is 0: it takes a whole number, at least 1, or None for the log-determinant itself."),
        (
            (4, 3),
            0.06,
            2.5,
            "order is 2.5: it takes a whole number, at least 1, or None for the log-determinant itself.",
        ),
    ],
)
def test_errors_repeat_what_came_and_say_what_fits(shape, distortion, order, text):
    with pytest.raises(BadInput) as caught:
        coding_length(torch.ones(shape), distortion, order)
    assert str(caught.value) == text


@pytest.mark.parametrize(("m", "d"), [(130, 200), (200, 130), (130, 130)])
@pytest.mark.parametrize("distortion", [0.02, 2e-4])
def test_where_a_side_is_inverted_the_gradient_in_float32_is_that_of_float64(m, d, distortion):
    gradients = []
    for kind in (torch.float64, torch.float32):
        rows = units(m, d).to(kind).requires_grad_()
        coding_length(rows, distortion).backward()
        gradients.append(rows.grad.double())
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[0].norm()
