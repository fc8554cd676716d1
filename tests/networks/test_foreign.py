"""Checkpoints in the layouts of other projects: the backbone in them gives the known network's features, or a reason.

Each layout is made here from a known network by the names that the project gives its parts.
"""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mec.errors import BadInput
from mec.evaluation.evaluate import evaluate
from mec.evaluation.subject import resolve
from mec.networks.backbones import build_encoder

pytestmark = pytest.mark.usefixtures("blank_networks")


def known(name: str, size: int, small: bool = False):
    torch.manual_seed(1)
    network = build_encoder(name, size, small).eval()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand_like(tensor))
    return network


@pytest.fixture(scope="module")
def resnet():
    return known("resnet18", 64)


@pytest.fixture(scope="module")
def bottlenecks():
    return known("resnet50", 64)


@pytest.fixture(scope="module")
def vit():
    return known("vit_tiny_patch16_224", 64)


def of(state, prefix: str) -> dict:
    """The tensors below a prefix, some of them another's: the momentum network's must not be taken."""
    return {prefix + name: tensor for name, tensor in state.items()}


def other(state, prefix: str) -> dict:
    """A second network, whose features differ."""
    return {prefix + name: tensor * 1.5 for name, tensor in state.items()}


def head(prefix: str, *names: str) -> dict:
    return {prefix + name: torch.randn(3, 3) for name in names}


def numbered(state) -> dict:
    """As `nn.Sequential(*list(resnet.children())[:-1])` names a ResNet's parts."""
    words = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    return {".".join([words[name.split(".")[0]], *name.split(".")[1:]]): tensor for name, tensor in state.items()}


MLP = ("0.weight", "0.bias", "1.running_mean", "3.weight")
TRAINED = {"epoch": 99, "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}}
LIGHTNING = {"pytorch-lightning_version": "2.1.0", "global_step": 10, "loops": {}, "callbacks": {}, "lr_schedulers": []}

LAYOUTS = {  # name -> a ResNet's (or a transformer's) state dict -> what the project's file holds
    "MoCo v2": lambda s: {**TRAINED, "arch": "resnet50", "state_dict": {
        **of(s, "module.encoder_q."), **head("module.encoder_q.fc.", "0.weight", "2.weight"),
        **other(s, "module.encoder_k."), "module.queue": torch.randn(8, 8), "module.queue_ptr": torch.zeros(1)}},
    "MoCo v3 ResNet": lambda s: {**TRAINED, "state_dict": {
        **of(s, "module.base_encoder."), **head("module.base_encoder.fc.", *MLP),
        **other(s, "module.momentum_encoder."), **head("module.predictor.", *MLP)}},
    "MoCo v3 ViT": lambda s: {**TRAINED, "arch": "vit_base", "state_dict": {
        **of(s, "module.base_encoder."), **head("module.base_encoder.head.", *MLP),
        **other(s, "module.momentum_encoder."), **head("module.predictor.", *MLP)}},
    "SwAV": lambda s: {
        **of(s, "module."), **head("module.projection_head.", *MLP), **head("module.prototypes.", "weight")},
    "SwAV, training": lambda s: {**TRAINED, "state_dict": {
        **of(s, "module."), **head("module.projection_head.", *MLP), **head("module.prototypes.", "weight")}},
    "DINO ResNet": lambda s: {**TRAINED,
        "student": {**other(s, "module.backbone."), **head("module.head.", "mlp.0.weight", "last_layer.weight_g")},
        "teacher": {**of(s, "backbone."), **head("head.", "mlp.0.weight", "last_layer.weight_g")},
        "dino_loss": {"center": torch.zeros(1, 3)}},
    "DINO ViT": lambda s: {**TRAINED,
        "student": {**other(s, "module.backbone."), **head("module.head.", "mlp.0.weight")},
        "teacher": {**of(s, "backbone."), **head("head.", "mlp.0.weight")}},
    "DINO ViT backbone": lambda s: dict(s),
    "MAE": lambda s: {"model": {
        **s, "mask_token": torch.zeros(1, 1, 192), **head("decoder_embed.", "weight"),
        **head("decoder_blocks.0.norm1.", "weight"), "decoder_pos_embed": torch.zeros(1, 17, 3)}},
    "Barlow Twins": lambda s: {**TRAINED, "model": {
        **of(s, "module.backbone."), **head("module.projector.", *MLP), **head("module.bn.", "running_mean")}},
    "Barlow Twins, backbone": lambda s: dict(s),
    "VICReg": lambda s: {**TRAINED, "model": {**of(s, "module.backbone."), **head("module.projector.", *MLP)}},
    "SimSiam": lambda s: {**TRAINED, "state_dict": {
        **of(s, "module.encoder."), **head("module.encoder.fc.", *MLP), **head("module.predictor.", *MLP)}},
    "BYOL (byol-pytorch)": lambda s: {
        **of(s, "online_encoder.net."), **head("online_encoder.projector.", *MLP), **head("online_predictor.", *MLP),
        **other(s, "target_encoder.net.")},
    "BYOL (PyTorch-BYOL)": lambda s: {
        "target_network_state_dict": {**other(numbered(s), "encoder."), **head("projetion.net.", *MLP)},
        "online_network_state_dict": {**of(numbered(s), "encoder."), **head("projetion.net.", *MLP)},
        "optimizer_state_dict": {}},
    "VISSL": lambda s: {"phase_idx": 3, "classy_state_dict": {"base_model": {"model": {
        "trunk": of(s, "_feature_blocks."), "heads": head("0.clf.0.", "weight")}, "meta": {}}}},
    "MMSelfSup": lambda s: {"meta": {"epoch": 3}, "state_dict": {
        **of(s, "backbone."), **head("neck.fc0.", "weight"), **head("head.predictor.", "weight"),
        "queue": torch.zeros(3)}},
    "MMSelfSup BYOL": lambda s: {"meta": {}, "state_dict": {
        **of(s, "backbone."), **other(s, "target_net.module.0."), **head("neck.fc0.", "weight")}},
    "solo-learn": lambda s: {**LIGHTNING, "state_dict": {
        **of(s, "backbone."), **head("projector.", *MLP), **other(s, "momentum_backbone."),
        **head("classifier.", "weight")}},
    "Lightning, model": lambda s: {**LIGHTNING, "state_dict": {**of(s, "model."), **head("criterion.", "weight")}},
    "Lightning, model.backbone": lambda s: {**LIGHTNING, "state_dict": {
        **of(s, "model.backbone."), **head("model.head.", "w")}},
    "lightly": lambda s: {**of(numbered(s), "backbone."), **head("projection_head.layers.", *MLP)},
    "lightly, Lightning, momentum": lambda s: {**LIGHTNING, "state_dict": {
        **of(numbered(s), "backbone."), **other(numbered(s), "backbone_momentum."),
        **head("projection_head.layers.", *MLP)}},
    "lightly-train": lambda s: {**LIGHTNING, "state_dict": {
        **other(s, "student_embedding_model.wrapped_model._model."), **head("student_head.", *MLP),
        **of(s, "teacher_embedding_model.wrapped_model._model.")}},
    "lightly-train, exported": lambda s: OrderedDict({**s, **head("fc.", "weight", "bias")}),
    "stable-pretraining": lambda s: {**LIGHTNING, "state_dict": {
        **of(s, "backbone."), **head("projector.", *MLP), **head("callbacks_modules.linear_probe.", "weight")}},
    "stable-pretraining, teacher": lambda s: {**LIGHTNING, "state_dict": {
        **other(s, "backbone.student."), **of(s, "backbone.teacher."), **head("projector.teacher.", *MLP)}},
    "torchvision": lambda s: {**s, **head("fc.", "weight", "bias")},
    "timm": lambda s: {"epoch": 3, "arch": "x", "state_dict": {**s, **head("fc.", "weight")}, "metric": 0.7},
    "torch.compile": lambda s: {"model": {**of(s, "_orig_mod."), **head("_orig_mod.fc.", "weight")}},
    "net": lambda s: {"net": {**of(s, "module.net."), **head("module.linear.", "weight")}},
    "the official MEC": lambda s: {"state_dict": {
        **of(s, "module.encoder."), **head("module.encoder.fc.", *MLP), **other(s, "module.teacher."),
        **head("module.predictor.", *MLP)}},
}  # fmt: skip
OF_VIT = {"MoCo v3 ViT", "DINO ViT", "DINO ViT backbone", "MAE"}


class Malicious:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def beside() -> dict:
    """What training scripts keep beside their tensors."""
    args = argparse.Namespace(
        lr=np.float64(0.1), arch="resnet50", n=np.int64(3), nested=argparse.Namespace(on=np.bool_(1))
    )
    return {"args": args, "best": np.float32(0.5)}


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_the_known_networks_features(resnet, vit, tmp_path, layout):
    network = vit if layout in OF_VIT else resnet
    made = {**LAYOUTS[layout](network.state_dict()), **beside()}
    torch.save(made, tmp_path / "c.pth")
    subject = resolve(tmp_path / "c.pth", device="cpu", image_size=64)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert_close(subject.encoder(images), network(images), rtol=1e-6, atol=1e-6)
    (told, *_) = subject.told
    own = len([*network.state_dict()])
    assert told.startswith("c.pth: ")
    if layout not in ("DINO ViT backbone", "Barlow Twins, backbone"):
        assert "left: " in told or "also there: " in told
    assert int(told.split(" ")[1]) >= own  # of heads below the same prefix there may be more


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_pickle_with_code_in_any_layout_runs_nothing(resnet, vit, tmp_path, layout):
    network, mark = vit if layout in OF_VIT else resnet, tmp_path / "was-here"
    made = LAYOUTS[layout]({k: v for k, v in [*network.state_dict().items()][:4]} if "numbered" in layout else {
        k: v for k, v in network.state_dict().items() if v.numel() < 600
    })  # fmt: skip
    for dump in (torch.save, pickle.dump):
        with open(tmp_path / "c.pth", "wb") as file:
            dump({**made, "args": argparse.Namespace(x=Malicious(mark))}, file)
        with pytest.raises(BadInput, match="nothing is unpickled"):
            resolve(tmp_path / "c.pth")
    assert not mark.exists()


@torch.no_grad()
def test_a_deeper_resnet_and_a_small_stem_are_told_by_their_tensors(bottlenecks, tmp_path):
    torch.save(LAYOUTS["lightly"](bottlenecks.state_dict()), tmp_path / "c.pth")
    subject = resolve(tmp_path / "c.pth", device="cpu", image_size=64)
    images = torch.randn(2, 3, 64, 64)
    assert_close(subject.encoder(images), bottlenecks(images), rtol=1e-6, atol=1e-6)
    small = known("resnet18", 32, True)
    torch.save(LAYOUTS["solo-learn"](small.state_dict()), tmp_path / "s.ckpt")
    subject = resolve(tmp_path / "s.ckpt", device="cpu")
    assert (subject.info.small_stem, subject.info.image_size) == (True, 32)
    assert_close(subject.encoder(images), small(images), rtol=1e-6, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("chunks", [False, True])
def test_dinov2_as_published_and_as_trained_in_chunks(tmp_path, registers, chunks):
    """The published files add the class token's position to it, and keep it apart from the registers."""
    name = f"vit_small_patch14_{'reg4_' if registers else ''}dinov2"
    network = known(name, 56)
    state = dict(network.state_dict())
    if registers:
        place, state["cls_token"] = torch.randn(1, 1, 384), network.cls_token.clone()
        network.cls_token += place
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.cat([place, state["pos_embed"]], 1)
    state["mask_token"] = torch.zeros(1, 384)
    if chunks:
        state = {n.replace("blocks.", f"blocks.{int(n.split('.')[1]) // 3}.") if n[:6] == "blocks" else n: t
                 for n, t in state.items()}  # fmt: skip
        state = {"teacher": {**of(state, "backbone."), **head("dino_head.", "weight")}}
    torch.save(state, tmp_path / "c.pth")
    subject = resolve(tmp_path / "c.pth", device="cpu")
    assert (subject.info.backbone, subject.info.image_size) == (name, 56)
    images = torch.randn(2, 3, 56, 56)
    assert_close(subject.encoder(images), network(images), rtol=1e-5, atol=1e-6)
    wide = resolve(tmp_path / "c.pth", device="cpu", image_size=112)
    assert wide.told[1:] == ("position embeddings resampled: 4 x 4 -> 8 x 8",)


@torch.no_grad()
def test_dinov3_as_published(tmp_path):
    network = known("vit_small_patch16_dinov3", 64)
    words = {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma", "reg_token": "storage_tokens"}
    state = {}
    for name, tensor in network.state_dict().items():
        for ours, theirs in words.items():
            name = name.replace(ours, theirs)
        state[name] = tensor
    for i in range(12):
        state[f"blocks.{i}.attn.qkv.bias"] = torch.zeros(3 * 384)
        state[f"blocks.{i}.attn.qkv.bias_mask"] = torch.zeros(3 * 384)
    state |= {"mask_token": torch.zeros(1, 384), "rope_embed.periods": torch.ones(16)}
    torch.save(state, tmp_path / "c.pth")
    subject = resolve(tmp_path / "c.pth", device="cpu", image_size=64)
    assert subject.info.backbone == "vit_small_patch16_dinov3"
    images = torch.randn(2, 3, 64, 64)
    assert_close(subject.encoder(images), network(images), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_student_and_teacher_are_both_to_be_had(resnet, tmp_path):
    torch.save(LAYOUTS["DINO ResNet"](resnet.state_dict()), tmp_path / "c.pth")
    images = torch.randn(2, 3, 64, 64)
    teacher, student = (resolve(f"{tmp_path / 'c.pth'}@{w}", device="cpu") for w in ("teacher", "student"))
    assert_close(teacher.encoder(images), resnet(images), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(student.encoder(images), resnet(images))
    assert "also there: student.module.backbone." in teacher.told[0]
    with pytest.raises(
        BadInput, match=r"no backbone with 'ema' in its prefix\. There: student\.module\.backbone\., teach"
    ):
        resolve(f"{tmp_path / 'c.pth'}@ema")
    named = resolve(f"resnet18:{tmp_path / 'c.pth'}@student", device="cpu", image_size=64)
    assert_close(named.encoder(images), student.encoder(images))


REFUSED = {
    "MoCo v3 ViT-S": (
        lambda v: {
            "state_dict": of({**v, "patch_embed.proj.weight": torch.zeros(384, 3, 16, 16)}, "module.base_encoder.")
        },
        "MoCo v3's ViT-S has 12 heads",
    ),
    "a wide one": (
        lambda v: {**v, "patch_embed.proj.weight": torch.zeros(500, 3, 16, 16)},
        "a vision transformer of width 500 with patches of 16 px, which has no name in timm",
    ),
    "transformers": (
        lambda v: {"embeddings.cls_token": torch.zeros(1), "encoder.layer.0.attention.query.weight": torch.zeros(2, 2)},
        r"\(embeddings\.cls_token, encoder\.layer.*Nearest to a vision transformer of transformers",
    ),
    "escapes": (lambda v: {"\x1b[2Jconv1.weight": torch.zeros(2)}, r"\\x1b\[2Jconv1\.weight, \.\.\.\)"),
    "a block too many": (lambda v: {**v, "blocks.0.attn.q_norm.weight": torch.zeros(3)}, "1 tensors differ"),
    "something beside": (
        lambda v: {**v, "norm_pre.weight": torch.zeros(192)},
        r"norm_pre\.weight: file \(192,\), module",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_fits_nothing_is_refused_with_a_reason(vit, tmp_path, case):
    make, words = REFUSED[case]
    torch.save(make(vit.state_dict()), tmp_path / "c.pth")
    with pytest.raises(BadInput, match=words) as error:
        resolve(tmp_path / "c.pth")
    assert "\x1b" not in str(error.value)


@torch.no_grad()
def test_numpy_scalars_of_an_older_numpy_are_read_too(resnet, tmp_path):
    """Before numpy 2 its module was called numpy.core."""
    torch.save({"state_dict": of(resnet.state_dict(), "backbone."), **beside()}, tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(tmp_path / "old.pth", "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    with zipfile.ZipFile(tmp_path / "old.pth") as old:
        assert any(b"cnumpy.core.multiarray" in old.read(name) for name in old.namelist())
    images = torch.randn(2, 3, 64, 64)
    assert_close(resolve(tmp_path / "old.pth", device="cpu").encoder(images), resnet(images), rtol=1e-6, atol=1e-6)


def in_itself() -> dict:
    state: dict = {"a": {}}
    for _ in range(30):  # as many paths as there are atoms
        state = {name: state for name in "abcdefgh"}
    state["self"] = state
    return state


@pytest.mark.parametrize(
    "state",
    [
        {"patch_embed.proj.weight": torch.tensor(1.0), "blocks.0.norm1.weight": torch.zeros(3)},
        {"layer1.0.conv1.weight": torch.tensor(1.0), "conv1.weight": torch.tensor(2.0)},
        {"0.weight": torch.zeros(2), "4.0.conv1.weight": torch.zeros(2)},
        {"x": {1: {(2, 3): {"conv1": torch.zeros(1)}}}},
        in_itself(),
        [torch.zeros(3)],
        torch.zeros(3),
        {"blocks.0.norm1.weight": torch.zeros(3), "pos_embed": torch.zeros(1, 6, 192),
         "patch_embed.proj.weight": torch.zeros(192, 3, 16, 16)},
    ],
)  # fmt: skip
def test_odd_files_are_refused_in_a_sentence(tmp_path, state):
    torch.save(state, tmp_path / "c.pth")
    for run in (tmp_path / "c.pth", f"resnet18:{tmp_path / 'c.pth'}", f"vit_tiny_patch16_224:{tmp_path / 'c.pth'}"):
        with pytest.raises(BadInput, match=r"c\.pth: "):
            resolve(run, device="cpu")


def test_arrays_and_other_classes_are_named_where_they_are_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(2), "x": np.zeros(3)}, tmp_path / "c.pth")
    with pytest.raises(BadInput, match=r"holds a numpy\.[\w.]+_reconstruct"):
        resolve(tmp_path / "c.pth")


def test_evaluate_says_what_was_taken_and_left(resnet, tmp_path, capsys, monkeypatch):
    from mec.cli.main import main

    monkeypatch.chdir(tmp_path)
    torch.save(LAYOUTS["MoCo v2"](resnet.state_dict()), tmp_path / "moco.pth.tar")
    words = ["evaluate", "moco.pth.tar", "knn", "digits", "--image-size", "32", "--limit", "40", "--k", "1"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "moco.pth.tar: 122 tensors of state_dict.module.encoder_q.; left: encoder_k (120), fc (2), " in out
    assert evaluate("moco.pth.tar", "knn", "digits", image_size=32, limit=40, k=1)
