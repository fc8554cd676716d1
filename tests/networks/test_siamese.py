"""Judges: the network restated by its own parts, view by view, and the update rule as printed."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mec.errors import BadInput
from mec.networks.heads import Cosines
from mec.networks.siamese import Siamese, build_siamese, runs_of_one_shape
from mec.recipes.recipe import Network
from mec.recipes.table import RECIPES


def network(target=None, **options) -> Siamese:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU())
    return build_siamese(
        Network(target=target, **{"projector": (6, 8), "predictor": (3, 8)} | options), encoder, 4
    ).double()


def views(count=2, seed=0):
    return list(torch.randn(count, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def moved(net: Siamese) -> Siamese:
    """Online parameters away from the target's, as after some steps."""
    with torch.no_grad():
        for p in [*net.encoder.parameters(), *net.projector.parameters()]:
            p.add_(torch.randn_like(p))
    return net


def names(module: nn.Module) -> list[str]:
    return [f"{type(m).__name__}{[*m.weight.shape] if getattr(m, 'weight', None) is not None else ''}" for m in module]


def test_target_starts_as_a_copy_of_encoder_and_projector_that_learns_nothing_and_has_no_predictor():
    net = network("momentum")
    state = net.state_dict()
    target = {name: value for name, value in state.items() if name.startswith("target_")}
    online = {name: state[name.removeprefix("target_")] for name in target}
    assert {name.split(".")[0] for name in online} == {"target_encoder", "target_projector"}
    assert len(target) == len(net.encoder.state_dict()) + len(net.projector.state_dict())
    for name, value in target.items():
        assert torch.equal(value, online[name])
        assert value.data_ptr() != online[name].data_ptr()
    trained = {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad}
    assert trained == {"encoder", "projector", "predictor"}


def test_target_embeddings_are_projections_of_the_target_network_without_gradient():
    net = moved(network("momentum"))
    parts = copy.deepcopy(net)
    online, target = net(views())
    for v, view in enumerate(views()):
        assert_close(online[v], parts.predictor(parts.projector(parts.encoder(view))))
        assert_close(target[v], parts.target_projector(parts.target_encoder(view)))
    assert online.shape == target.shape == (2, 7, 8)
    assert online.requires_grad
    assert not target.requires_grad


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.996, 1.0])
def test_target_parameters_follow_by_the_moving_average_and_buffers_stay_its_own(momentum):
    net = moved(network("momentum"))
    net(views())
    before = copy.deepcopy(net.state_dict())
    net.update_target(momentum)
    parameters = dict(net.named_parameters())
    for name, value in net.state_dict().items():
        expected = before[name]
        if name.startswith("target_") and name in parameters:
            expected = momentum * before[name] + (1 - momentum) * before[name.removeprefix("target_")]
            assert not torch.equal(before[name], before[name.removeprefix("target_")])
        assert_close(value, expected, rtol=1e-14, atol=1e-15, msg=name)


def test_target_batch_statistics_come_from_its_own_forward_passes_view_by_view():
    net = moved(network("momentum"))
    alone = copy.deepcopy(net)
    net(views())
    for view in views():
        alone.target_projector(alone.target_encoder(view))
    assert_close(net.target_encoder.state_dict(), alone.target_encoder.state_dict())
    assert_close(net.target_projector.state_dict(), alone.target_projector.state_dict())
    assert not torch.allclose(net.target_encoder[1].running_mean, net.encoder[1].running_mean)
    assert net.target_encoder[1].num_batches_tracked == net.encoder[1].num_batches_tracked == 2


@pytest.mark.parametrize("target", [None, "stop-gradient", "momentum"])
def test_each_view_is_a_forward_pass_of_its_own(target):
    first, second = views()
    online, other = network(target)([first, second])
    changed, changed_other = network(target)([first, 100 + 50 * second])
    assert torch.equal(online[0], changed[0])
    assert not torch.equal(online[1], changed[1])
    if target:
        assert torch.equal(other[0], changed_other[0])


def test_stop_gradient_takes_the_online_projections_as_constants():
    net = network("stop-gradient")
    online, target = net(views())
    loss = (online[0] * target[1] + online[1] * target[0]).sum()
    found = torch.autograd.grad(loss, list(net.parameters()))
    parts = network("stop-gradient")
    z = [parts.projector(parts.encoder(view)) for view in views()]
    assert_close(target, torch.stack(z))
    p = [parts.predictor(x) for x in z]
    expected = (p[0] * z[1].detach() + p[1] * z[0].detach()).sum()
    assert_close(found, torch.autograd.grad(expected, list(parts.parameters())))


def test_without_a_target_there_is_none_and_every_view_has_gradient():
    net = network(None, predictor=())
    online, target = net(views(3))
    assert target is None
    assert torch.autograd.grad(online[2].square().sum(), net.encoder[0].weight)[0].abs().sum() > 0
    assert network("momentum")(views(), with_target=False)[1] is None
    net.update_target(0.5)  # nothing to move


@pytest.mark.parametrize("target", ["stop-gradient", "momentum"])
def test_small_crops_have_no_target(target):
    net = network(target)
    online, other = net(views(5))
    assert (len(online), len(other)) == (5, 2)
    assert_close(other, network(target)(views(5)[:2])[1])


def test_views_of_different_sizes_go_through_one_encoder():
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    online, _ = build_siamese(Network(projector=(8,)), encoder, 4)([torch.rand(6, 3, 16, 16), torch.rand(6, 3, 9, 9)])
    assert online.shape == (2, 6, 8)


def test_without_projector_embeddings_are_features():
    net = network(None, projector=(), predictor=())
    online, _ = net(views())
    assert_close(online[0], network(None, projector=(), predictor=()).encoder(views()[0]))


def test_a_predictor_that_does_not_lead_back_to_the_embedding_is_an_error():
    text = "network.predictor ends with 9, embeddings have 8: they are compared, so the predictor's last width is 8."
    with pytest.raises(BadInput) as caught:
        network(predictor=(3, 9))
    assert str(caught.value) == text


def test_imagenet_heads_have_the_layers_of_the_released_code():
    # Projector three times 2048 without biases, its last BN without affine; predictor 512, 2048.
    with torch.device("meta"):
        net = build_siamese(RECIPES["imagenet-100ep"].network, nn.Identity(), 2048)
    linear, norm = "Linear[2048, 2048]", "BatchNorm1d[2048]"
    assert names(net.projector) == [linear, norm, "ReLU", linear, norm, "ReLU", linear, "BatchNorm1d"]
    assert [m.bias is None for m in net.projector if isinstance(m, nn.Linear)] == [True] * 3
    assert names(net.predictor) == ["Linear[512, 2048]", "BatchNorm1d[512]", "ReLU", "Linear[2048, 512]"]
    assert [m.bias is None for m in net.predictor if isinstance(m, nn.Linear)] == [True, False]
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm1d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-5, 0.1)}
    assert names(net.target_projector) == names(net.projector)


def test_the_recipe_decides_target_and_heads():
    base = replace(RECIPES["cifar10-paper-asymmetric"].network, projector=(16, 8), predictor=(4, 8))
    assert build_siamese(base, nn.Identity(), 5).target_projector is not None
    symmetric = build_siamese(replace(base, predictor=(), target=None), nn.Identity(), 5)
    assert symmetric.target_projector is None
    assert isinstance(symmetric.predictor, nn.Identity)


def test_views_of_one_size_together_share_a_pass_and_its_statistics():
    # SwAV's and DINO's multi-crop: the encoder once a size, the heads once on everything.
    net = moved(network("momentum", views_together=True))
    parts = copy.deepcopy(net)
    large, small = views(2), list(torch.randn(3, 7, 5, dtype=torch.float64))
    wide = [torch.cat([v, v]) for v in small]  # another shape: rows stand in for pixels
    found = net.projected([*large, *small], net.encoder, net.projector)
    features = parts.encoder(torch.cat([*large, *small]))
    assert_close(found, parts.projector(features).unflatten(0, (5, 7)))
    online, target = net([*large, *small])
    projected = parts.projector(parts.encoder(torch.cat([*large, *small])))
    assert_close(online, parts.predictor(projected).unflatten(0, (5, 7)))
    assert_close(target, parts.target_projector(parts.target_encoder(torch.cat(large))).unflatten(0, (2, 7)))
    assert [len(run) for run in runs_of_one_shape([*large, *wide])] == [2, 3]


def test_images_of_two_sizes_together_have_statistics_a_size():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = build_siamese(Network(projector=(8,), views_together=True), encoder, 4)
    parts = copy.deepcopy(net)
    large, small = torch.rand(2, 6, 3, 16, 16), 3 * torch.rand(4, 6, 3, 9, 9)
    online, _ = net([*large, *small])
    features = torch.cat([parts.encoder(torch.cat([*x])) for x in (large, small)])
    assert_close(online, parts.projector(features).unflatten(0, (6, 6)))
    assert net.encoder[1].num_batches_tracked == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["Linear[6, 4]", "BatchNorm1d[6]", "ReLU", "Linear[8, 6]", "BatchNorm1d"]),
        ({"projector_output": "bn-affine"},
         ["Linear[6, 4]", "BatchNorm1d[6]", "ReLU", "Linear[8, 6]", "BatchNorm1d[8]"]),
        ({"projector_output": "linear"}, ["Linear[6, 4]", "BatchNorm1d[6]", "ReLU", "Linear[8, 6]"]),
        ({"projector_hidden": "relu", "projector_output": "linear-bias"}, ["Linear[6, 4]", "ReLU", "Linear[8, 6]"]),
        (
            {"projector_hidden": "gelu", "projector_output": "linear", "prototypes": 9},
            ["Linear[6, 4]", "GELU", "Linear[8, 6]", "Cosines"],
        ),
    ],
)  # fmt: skip
def test_projectors_have_the_layers_that_the_recipe_names(options, expected):
    net = network(None, predictor=(), **options)
    assert names(net.projector) == expected
    biases = [layer.bias is not None for layer in net.projector if isinstance(layer, nn.Linear)]
    hidden = options.get("projector_hidden", "bn-relu") != "bn-relu"
    assert biases == [hidden, options.get("projector_output") == "linear-bias"]
    assert net(views())[0].shape[-1] == net.embedding == options.get("prototypes", 8)


def test_prototypes_give_cosines_whatever_the_length_of_their_rows():
    # DINO's last layer: weight-normalised rows with gain 1 on normalised inputs.
    layer = Cosines(5, 3).double()
    judge = nn.utils.parametrizations.weight_norm(nn.Linear(5, 3, bias=False).double())
    judge.parametrizations.weight.original0.data.fill_(1)
    judge.parametrizations.weight.original1.data.copy_(layer.prototypes.data)
    x = torch.randn(7, 5, dtype=torch.float64)
    assert_close(layer(x), judge(nn.functional.normalize(x, dim=1)))
    layer(x).square().sum().backward()
    judge(nn.functional.normalize(x, dim=1)).square().sum().backward()
    assert_close(layer.prototypes.grad, judge.parametrizations.weight.original1.grad)
