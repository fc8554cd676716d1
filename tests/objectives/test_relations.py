"""What the paper's appendix H says about other methods, as it is, on random and on real pairs (docs/relations.md).

Judges: the equations as they are printed, in float64.
"""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mec.data.batches import ViewBatches
from mec.data.opening import open_data
from mec.objectives import UniGrad, barlow_twins, info_nce, negative_cosine
from mec.objectives.mec import maximum_entropy_coding
from mec.recipes.table import RECIPES

M, D = 16, 10


def pair(seed: int = 0, noise: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(M, D, dtype=torch.float64, generator=generator)
    one, two = images + noise * torch.randn(2, M, D, dtype=torch.float64, generator=generator)
    return F.normalize(one, dim=1), F.normalize(two, dim=1)


def real_pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Two views of 64 digits, pixels less their mean, as unit rows [64, 768]."""
    batches = ViewBatches(
        open_data("digits").train, RECIPES["digits"].views, 64, seed=0, device=torch.device("cpu"), workers=0
    )
    (batch,) = batches.batches(0, 1, lambda n: slice(0, n))
    rows = [view.flatten(1).double() for view in batch.views]
    one, two = (F.normalize(x - x.mean(0), dim=1) for x in rows)
    return one, two


def traces(c: torch.Tensor) -> torch.Tensor:
    """Eqn 25, first line, over μ."""
    return -torch.trace(c - c @ c / 2)


def printed(c: torch.Tensor) -> torch.Tensor:
    """Eqn 25, second line, over μ."""
    diagonal = c.diagonal()
    off = c - torch.diag(diagonal)
    return (-diagonal + diagonal.square() / 2).sum() + off.square().sum() / 2


def test_first_order_is_simsiam_s_and_byol_s_negative_cosine():
    one, two = pair()
    for distortion in (0.01, 0.06, 3.0):
        assert_close(maximum_entropy_coding(one, two, distortion=distortion, order=1), negative_cosine(one, two))
    # Eqn 22 is the sum over images, m times it.
    assert_close(-(one * two).sum(), M * negative_cosine(one, two))


def test_second_order_feature_wise_is_the_trace_form_with_transposed_products():
    one, two = pair()
    lam = 1 / (M * 0.06)
    c = lam * one.T @ two
    products = -c.diagonal().sum() + 0.5 * sum(c[i, j] * c[j, i] for i in range(D) for j in range(D))
    assert_close(traces(c), products)
    assert_close(maximum_entropy_coding(one, two, distortion=0.06, order=2), products / (lam * M))


def test_the_printed_second_order_is_it_for_symmetric_matrices_only():
    one, two = pair()
    symmetric = one.T @ one
    assert_close(printed(symmetric), traces(symmetric))
    cross = one.T @ two
    assert printed(cross) > traces(cross) + 1e-3  # Σ C_ij² - Σ C_ij C_ji = ½ ‖C - Cᵀ‖² >= 0
    assert_close(printed(cross) - traces(cross), (cross - cross.T).square().sum() / 4)


def test_on_real_pairs_the_printed_second_order_is_off():
    one, two = real_pair()
    c = one.T @ two / (64 * 0.06)
    assert printed(c) - traces(c) > 0.01 * traces(c).abs()


def test_for_equal_views_barlow_twins_with_weight_one_is_the_second_order_up_to_constants():
    rows, _ = pair()
    order_2 = maximum_entropy_coding(rows, rows, distortion=1 / D, order=2)  # C = (d/m) zᵀz has a mean diagonal of 1
    assert_close(barlow_twins(rows, rows, off_diagonal=1.0, normalise="l2"), D + 2 * D * order_2)


def test_for_different_views_barlow_twins_is_not_the_second_order():
    one, two = pair()
    order_2 = maximum_entropy_coding(one, two, distortion=1 / D, order=2)
    gap = barlow_twins(one, two, off_diagonal=1.0, normalise="l2") - (D + 2 * D * order_2)
    c = D / M * one.T @ two
    assert_close(gap, (c - c.T).square().sum() / 2)
    assert gap > 1e-2


def equation_26(c: torch.Tensor, temperature: float) -> torch.Tensor:
    """As printed: exp(c_ii/τ) inside the sum over j != i."""
    total = torch.zeros((), dtype=c.dtype)
    for i in range(len(c)):
        inner = sum((c[i, j] / temperature).exp() + (c[i, i] / temperature).exp() for j in range(len(c)) if j != i)
        total = total - c[i, i] / temperature + inner.log()
    return total


def test_equation_26_with_the_positive_counted_once_is_infonce_of_one_direction():
    one, two = pair()
    c = one @ two.T
    once = sum(-c[i, i] / 0.2 + (c[i] / 0.2).exp().sum().log() for i in range(M))
    assert_close(M * info_nce(one, two, temperature=0.2), once)
    assert equation_26(c, 0.2) > once + 1  # as printed the positive counts m - 1 times


def test_unigrad_s_gradient_is_that_of_order_2_at_a_distortion_of_one_over_its_weight():
    z, _ = pair()
    online = z.clone().requires_grad_()
    views = torch.stack([online, online])
    (found,) = torch.autograd.grad(UniGrad(D).double()(views, torch.stack([z, z]), weight=100.0), online)
    # Both views have the gradient of their own mean: together that of order 2 to the online side.
    leaf = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(maximum_entropy_coding(leaf, z, distortion=0.01, order=2), leaf)
    assert_close(found, expected)


@pytest.mark.parametrize("order", [2, 4, None])
def test_batch_wise_and_feature_wise_are_one_number(order):
    # Eqn 4: the left side is how SimCLR sees it, the right side how Barlow Twins does.
    one, two = pair()
    lam = 1 / (M * 0.3)
    left, right = lam * one @ two.T, lam * one.T @ two
    if order is None:
        values = [torch.linalg.slogdet(torch.eye(len(c), dtype=c.dtype) + c).logabsdet for c in (left, right)]
    else:
        values = [
            sum((-1) ** (k + 1) * torch.trace(torch.linalg.matrix_power(c, k)) / k for k in range(1, order + 1))
            for c in (left, right)
        ]
    assert_close(*values)
    assert_close(maximum_entropy_coding(one, two, distortion=0.3, order=order), -values[0] * 0.3)
