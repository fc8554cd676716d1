"""Judges: Algorithm 1 and the released scaling as printed (reference.py), gradcheck, lightly, limits and symmetries."""

import math

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import NegativeCosineSimilarity
from torch.nn import functional as F
from torch.testing import assert_close

from mec.errors import BadInput
from mec.objectives.baselines import barlow_twins
from mec.objectives.coding import coding_length
from mec.objectives.mec import joint_coding, lower_bound, maximum_entropy_coding
from mec.objectives.methods import METHODS, method_named
from mec.objectives.table import OBJECTIVES, build

SIDES = [(7, 12), (9, 9), (12, 7)]  # batch-wise, square, feature-wise


def stack(views, m, d, seed=0, noise=0.5):
    """Views of m images that agree in part, as in training; rows of any length."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(m, d, dtype=torch.float64, generator=generator)
    return images + noise * torch.randn(views, m, d, dtype=torch.float64, generator=generator)


def value_and_gradient(function, *tensors):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    value = function(*leaves)
    return value.detach(), *torch.autograd.grad(value, leaves)


def assert_same(found, expected, relative=1e-10):
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, rtol=relative, atol=relative * float(b.abs().max()))


@pytest.mark.parametrize("feature_wise", [False, True])
@pytest.mark.parametrize(("m", "d"), SIDES)
@pytest.mark.parametrize("order", range(1, 9))
def test_maximum_entropy_coding_is_algorithm_1_over_lambda_m_mu(m, d, order, feature_wise):
    def printed(online, target):
        online, target = F.normalize(online, dim=1), F.normalize(target, dim=1)
        return reference.algorithm_1(online, target, mu, lam, order, feature_wise) / (lam * m * mu)

    for distortion in (0.06, 2.0):  # where the series may diverge, and where it converges
        mu, lam = reference.constants(m, d, distortion)
        found = value_and_gradient(
            lambda p, z, eps=distortion: maximum_entropy_coding(p, z, distortion=eps, order=order), *stack(2, m, d)
        )
        assert_same(found, value_and_gradient(printed, *stack(2, m, d)))


@pytest.mark.parametrize(("m", "d"), SIDES)
@pytest.mark.parametrize("distortion", [0.02, 0.06, 2.0])
def test_without_an_order_it_is_the_log_determinant_itself(m, d, distortion):
    found = value_and_gradient(
        lambda p, z: maximum_entropy_coding(p, z, distortion=distortion, order=None), *stack(2, m, d)
    )
    assert_same(found, value_and_gradient(lambda p, z: reference.exact_loss(p, z, distortion), *stack(2, m, d)))


@pytest.mark.parametrize(("m", "d"), SIDES)
def test_the_loop_scores_two_views_as_the_released_code_does(m, d):
    online, target = stack(2, m, d, seed=1), stack(2, m, d, seed=2)
    found = OBJECTIVES["maximum_entropy_coding"](online, target, distortion=64 / d, order=4)
    p1, p2, z1, z2 = *online, *target
    assert_close(found, reference.released_loss(p1, z2, p2, z1, eps=64), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("m", "d"), SIDES)
@pytest.mark.parametrize("weights", [None, (0.5, 0.2, 0.3)])
@pytest.mark.parametrize("distortion", [0.02, 0.06, 2.0])
def test_joint_coding_is_equation_1_of_the_view_average(m, d, weights, distortion):
    weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    views = stack(3, m, d)
    found = value_and_gradient(lambda v: joint_coding(v, distortion=distortion, weights=weights), views)
    assert_same(found, value_and_gradient(lambda v: reference.joint_loss(v, distortion, weights), views))


@pytest.mark.parametrize(("m", "d"), [(3, 5), (5, 3)])
@pytest.mark.parametrize("order", [1, 2, 4, None])
def test_gradient_of_maximum_entropy_coding_passes_gradcheck(m, d, order):
    online, target = (x.requires_grad_() for x in stack(2, m, d).unbind())
    check = torch.autograd.gradcheck
    assert check(lambda p, z: maximum_entropy_coding(p, z, distortion=0.5, order=order), (online, target))
    assert check(lambda p: maximum_entropy_coding(p, target.detach(), distortion=0.5, order=order), online)
    assert check(lambda z: maximum_entropy_coding(online.detach(), z, distortion=0.5, order=order), target)


@pytest.mark.parametrize(("m", "d"), [(3, 5), (5, 3)])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.7, 0.3], dtype=torch.float64)])
def test_gradient_of_joint_coding_passes_gradcheck(m, d, weights):
    views = stack(2, m, d).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: joint_coding(v, distortion=0.06, weights=weights), views)


@pytest.mark.parametrize(("m", "d"), SIDES)
@pytest.mark.parametrize("distortion", [0.02, 5.0])
def test_first_order_is_the_negative_cosine_whatever_the_distortion(m, d, distortion):
    judge = NegativeCosineSimilarity()
    online, target = stack(2, m, d)
    found = value_and_gradient(
        lambda p, z: maximum_entropy_coding(p, z, distortion=distortion, order=1), online, target
    )
    assert_same(found, value_and_gradient(judge, online, target), relative=1e-12)
    p, z = stack(2, m, d, seed=1), stack(2, m, d, seed=2)
    simsiam = (judge(p[0], z[1]) + judge(p[1], z[0])) / 2
    assert_close(OBJECTIVES["maximum_entropy_coding"](p, z, order=1), simsiam, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("m", "d"), SIDES)
def test_joint_coding_becomes_the_agreement_of_views_as_distortion_grows(m, d):
    views = stack(2, m, d)
    cosine = F.cosine_similarity(*views).mean()
    assert_close(joint_coding(views, distortion=1e5), -(1 + cosine) / 2, rtol=1e-4, atol=0)
    views = stack(4, m, d)  # V views: -|Ȳ|² a row
    assert_close(
        joint_coding(views, distortion=1e5), -F.normalize(views, dim=2).mean(0).square().sum() / m, rtol=1e-4, atol=0
    )


@pytest.mark.parametrize(("m", "d"), SIDES)
def test_joint_coding_of_equal_views_is_the_coding_length_of_one(m, d):
    one = F.normalize(stack(1, m, d)[0], dim=1)
    mu, lam = reference.constants(m, d, 0.06)
    expected = -coding_length(one, 0.06) / (mu * lam * m)
    assert_close(joint_coding(one.expand(3, m, d)), expected, rtol=1e-12, atol=0)
    assert_close(joint_coding(one.expand(2, m, d), weights=torch.tensor([0.9, 0.1])), expected, rtol=1e-6, atol=0)
    assert_close(maximum_entropy_coding(one, one, order=None), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("m", "d"), SIDES)
def test_orders_approach_the_exact_loss_as_fast_as_the_tail_allows(m, d):
    online, target = (F.normalize(x, dim=1) for x in stack(2, m, d))
    q = float(torch.linalg.matrix_norm(online @ target.T / (m * 1.5), ord=2))
    assert q < 1
    exact = maximum_entropy_coding(online, target, distortion=1.5, order=None)
    for order in range(1, 30):
        tail = 1.5 * min(m, d) * q ** (order + 1) / ((order + 1) * (1 - q))
        assert abs(maximum_entropy_coding(online, target, distortion=1.5, order=order) - exact) <= tail + 1e-13


@pytest.mark.parametrize(("m", "d"), [(4, 9), (6, 6), (12, 4), (9, 4)])
@pytest.mark.parametrize("distortion", [0.02, 0.06, 2.0])
def test_views_that_agree_and_spread_evenly_reach_the_lower_bound(m, d, distortion):
    r = min(m, d)
    expected = -r * distortion * math.log(1 + 1 / (r * distortion))
    rows = reference.even_spread(m, d)
    assert lower_bound(m, d, distortion) == pytest.approx(expected, rel=1e-13)
    assert lower_bound(m, d, "guaranteed") == lower_bound(m, d, d / m if d > m else 1.01)
    assert joint_coding(rows.expand(2, m, d), distortion=distortion).item() == pytest.approx(expected, rel=1e-11)
    exact = maximum_entropy_coding(rows, rows, distortion=distortion, order=None)
    assert exact.item() == pytest.approx(expected, rel=1e-11)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.sampled_from([(1, 4), (4, 9), (6, 6), (12, 4), (9, 4)]),
    views=st.integers(1, 4),
    distortion=st.floats(1e-3, 10),
    noise=st.floats(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_exact_form_goes_below_the_lower_bound(shape, views, distortion, noise, seed):
    torch.manual_seed(seed)
    z = reference.even_spread(*shape) + noise * torch.randn(views, *shape, dtype=torch.float64)
    bound = lower_bound(*shape, distortion) * (1 + 1e-12)
    assert bound <= joint_coding(z, distortion=distortion) <= 0
    assert bound <= maximum_entropy_coding(z[0], z[-1], distortion=distortion, order=None)
    assert bound <= maximum_entropy_coding(z[0], -z[-1], distortion=distortion, order=None)


def test_the_paper_s_order_4_rewards_turning_a_view_by_45_degrees_beyond_what_any_entropy_allows():
    # Why the bound is watched. C = c R, R a rotation by θ in every plane, has eigenvalues c exp(±iθ); the series of
    # order 4 is Σ (-1)^(k+1) c^k cos(kθ) / k for each, and at θ = 45° its last term, +c⁴ / 4, runs away with c.
    m, distortion, angle = 8, 0.01, math.pi / 4
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    online, target = torch.eye(m, dtype=torch.float64), torch.block_diag(*[turn] * (m // 2))
    c = 1 / (m * distortion)
    series = m * sum((-1) ** (k + 1) * c**k * math.cos(k * angle) / k for k in range(1, 5))
    loss = maximum_entropy_coding(online, target, distortion=distortion, order=4)
    assert loss.item() == pytest.approx(-distortion * series, rel=1e-12)
    assert loss < 100 * lower_bound(m, m, distortion)
    assert maximum_entropy_coding(online, target, distortion=distortion, order=None) > lower_bound(m, m, distortion)


NORMALISED = ("maximum_entropy_coding", "joint_coding", "negative_cosine", "nt_xent", "info_nce")


@pytest.mark.parametrize("name", NORMALISED)
def test_the_length_of_an_embedding_the_order_of_images_and_the_axes_do_not_matter(name):
    online, target = stack(3, 8, 5, seed=1), stack(2, 8, 5, seed=2)
    order, rotation = torch.randperm(8), torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q

    def changed(x):
        return (x * torch.rand(*x.shape[:2], 1, dtype=x.dtype).add(0.1))[:, order] @ rotation

    for other in (None, target):
        moved = None if other is None else changed(other)
        assert_close(OBJECTIVES[name](changed(online), moved), OBJECTIVES[name](online, other))


def test_pairs_without_a_target_are_all_pairs_of_views_with_gradient_to_both():
    views = stack(3, 6, 5)
    found = value_and_gradient(lambda v: OBJECTIVES["maximum_entropy_coding"](v, None, distortion=0.3), views)

    def expected(v):
        return sum(maximum_entropy_coding(v[a], v[b], distortion=0.3) for a, b in ((0, 1), (0, 2), (1, 2))) / 3

    assert_same(found, value_and_gradient(expected, views), relative=1e-12)


def test_with_a_target_each_prediction_meets_the_other_views_targets_never_its_own():
    online, target = stack(3, 6, 5, seed=1), stack(2, 6, 5, seed=2)
    pairs = [(1, 0), (2, 0), (0, 1), (2, 1)]
    expected = sum(maximum_entropy_coding(online[v], target[t], distortion=0.3) for v, t in pairs) / 4
    assert_close(OBJECTIVES["maximum_entropy_coding"](online, target, distortion=0.3), expected)
    expected = sum(joint_coding(torch.stack([online[v], target[t]]), distortion=0.3) for v, t in pairs) / 4
    assert_close(OBJECTIVES["joint_coding"](online, target, distortion=0.3), expected)


def test_joint_objective_without_a_target_takes_all_views_at_once():
    views = stack(4, 6, 5)
    assert_close(OBJECTIVES["joint_coding"](views, None, distortion=0.3), reference.joint_loss(views, 0.3))


FORMS = {
    "order 4": lambda views: maximum_entropy_coding(views[0], views[1]),
    "exact": lambda views: maximum_entropy_coding(views[0], views[1], order=None),
    "joint": joint_coding,
    "weighted": lambda views: joint_coding(views, weights=torch.tensor([0.8, 0.2])),
}


@pytest.mark.parametrize(("m", "d"), [(48, 96), (96, 48)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_under_autocast_losses_are_float32_and_as_exact_as_their_inputs(m, d, form, dtype):
    views = stack(2, m, d).to(dtype)
    value, gradient = value_and_gradient(FORMS[form], views.double())
    leaf = views.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = FORMS[form](leaf)
    found.backward()
    assert found.dtype == torch.float32
    assert_close(found.double(), value, rtol=2e-5, atol=0)
    rounding = 1e-4 if dtype == torch.float32 else 1e-2  # the gradient is handed back in the input's precision
    assert_same([leaf.grad.double()], [gradient], relative=rounding)


@pytest.mark.parametrize(("m", "d"), SIDES)
@pytest.mark.parametrize("form", FORMS)
def test_nan_in_is_nan_out_without_an_exception(m, d, form):
    for view in (0, 1):
        views = stack(2, m, d)
        views[view, m - 1, d - 1] = math.nan
        loss, _ = value_and_gradient(FORMS[form], views)
        assert loss.isnan()


@pytest.mark.slow
@pytest.mark.parametrize(("m", "d"), [(6, 9), (9, 6)])
@pytest.mark.parametrize("form", FORMS)
def test_under_torch_compile_each_form_is_one_graph_with_the_same_value_and_gradient(m, d, form):
    torch._dynamo.reset()
    # Weights are looked at before they are used, and so break the graph.
    compiled = torch.compile(FORMS[form], backend="aot_eager", fullgraph=form != "weighted")
    views = stack(2, m, d)
    assert_same(value_and_gradient(compiled, views), value_and_gradient(FORMS[form], views), relative=1e-12)


def test_a_second_derivative_is_refused_not_returned_as_zero():
    views = stack(2, 5, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(joint_coding(views), views, create_graph=True)
    with pytest.raises(RuntimeError, match="coding lengths differentiate once"):
        torch.autograd.grad(gradient.sum(), views)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: maximum_entropy_coding(torch.ones(4, 3), torch.ones(4, 2)),
            "online is [4, 3], target [4, 2]: both are [m, d], row i the same image.",
        ),
        (
            lambda: maximum_entropy_coding(torch.ones(4), torch.ones(4)),
            "online is [4], target [4]: both are [m, d], row i the same image.",
        ),
        (
            lambda: maximum_entropy_coding(torch.ones(0, 3), torch.ones(0, 3)),
            "online is [0, 3], target [0, 3]: both are [m, d], row i the same image.",
        ),
        (
            lambda: maximum_entropy_coding(torch.ones(4, 3), torch.ones(4, 3), distortion=0),
            "distortion is 0: it takes a number above 0 (the paper's is 0.06), or 'guaranteed'.",
        ),
        (
            lambda: maximum_entropy_coding(torch.ones(4, 3), torch.ones(4, 3), order=-2),
            "order is -2: it takes a whole number, at least 1, or None for the log-determinant itself.",
        ),
        (lambda: joint_coding(torch.ones(4, 3)), "views is [4, 3]: it is [V, m, d], V views of the same m images."),
        (
            lambda: joint_coding(torch.ones(2, 4, 3), distortion=-0.1),
            "distortion is -0.1: it takes a number above 0 (the paper's is 0.06), or 'guaranteed'.",
        ),
        (
            lambda: joint_coding(torch.ones(2, 4, 3), weights=torch.tensor([0.5, 0.25])),
            "weights are [0.5, 0.25] for 2 views: a share for each, adding up to 1.",
        ),
        (
            lambda: joint_coding(torch.ones(2, 4, 3), weights=torch.tensor([1.0])),
            "weights are [1.0] for 2 views: a share for each, adding up to 1.",
        ),
        (lambda: method_named("mec-jiont"), "no method is called 'mec-jiont'. Did you mean 'mec-joint'?"),
    ],
)
def test_errors_repeat_what_came_and_say_what_fits(call, text):
    with pytest.raises(BadInput) as caught:
        call()
    assert str(caught.value) == text


def test_the_paper_s_method_is_order_4_with_predictor_and_momentum_target_and_converges_for_any_images():
    mec = METHODS["mec"]
    assert mec.settings == {"distortion": "guaranteed", "order": 4}  # order: section 3
    assert (mec.predictor, mec.target) == ("narrow", "momentum")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_names_an_objective_and_settings_that_it_takes(name):
    method = METHODS[name]
    settings = {k: v for k, v in method.settings.items() if k != "scale"}
    objective, call = build(method.objective, 5, settings)
    target = stack(2, 8, 5, seed=2).float() if method.target else None
    labels = torch.arange(8) % 5 if method.labels else None
    assert objective(stack(2, 8, 5).float(), target, labels=labels, **call).isfinite()


@pytest.mark.parametrize("order", [1, 2, 4, None])
@pytest.mark.parametrize("how", ["l2", "bn", "both"])
def test_normalised_by_columns_the_coding_forms_are_those_of_the_standardised_rows(how, order):
    def rows(x):
        if how != "l2":
            x = F.batch_norm(x, None, None, training=True) / x.shape[1] ** 0.5
        return x if how == "bn" else F.normalize(x, dim=1)

    views = 3 + stack(2, 12, 7)
    lam = 1 / (12 * 0.06)
    matrix = lam * rows(views[0]) @ rows(views[1]).T
    if order is None:
        expected = torch.linalg.slogdet(torch.eye(12) + matrix).logabsdet
    else:
        powers = [torch.linalg.matrix_power(matrix, k).trace() / k for k in range(1, order + 1)]
        expected = sum((-1) ** k * power for k, power in enumerate(powers))
    found = maximum_entropy_coding(*views, distortion=0.06, order=order, normalise=how)
    assert_close(found, -0.06 * expected)
    average = (rows(views[0]) + rows(views[1])) / 2
    expected = torch.logdet(torch.eye(12) + lam * average @ average.T)
    assert_close(joint_coding(views, distortion=0.06, normalise=how), -0.06 * expected)
    weights = torch.tensor([0.8, 0.2], dtype=torch.float64)
    average = 0.8 * rows(views[0]) + 0.2 * rows(views[1])
    expected = torch.logdet(torch.eye(12) + lam * average @ average.T)
    assert_close(joint_coding(views, distortion=0.06, normalise=how, weights=weights), -0.06 * expected)


def test_small_crops_are_not_paired_with_each_other_where_there_is_no_target():
    views = stack(5, 6, 4)
    chosen = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4)]  # T(T-1)/2 + T(V-T) = 7
    expected = sum(barlow_twins(views[v], views[t]) for v, t in chosen) / 7
    assert_close(OBJECTIVES["barlow_twins"](views, None), expected)
