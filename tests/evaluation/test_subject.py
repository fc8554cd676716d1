"""What RUN may be: each spelling gives the backbone that its own tool gives, and nothing is unpickled."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from timm.models.vision_transformer import checkpoint_filter_fn
from torch.testing import assert_close

from mec.cli.main import main
from mec.data.opening import open_data
from mec.errors import BadInput
from mec.evaluation.subject import resolve
from mec.networks.backbones import build_encoder
from mec.networks.encoder_file import EncoderInfo, probe, read_info, save_encoder
from mec.networks.foreign import Foreign, architecture, read_backbone
from mec.runtime.files import file_hash


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(1)
    network = torchvision.models.resnet18()
    network(torch.randn(4, 3, 64, 64))  # so that statistics are not those of the start
    return network.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def features_of(network, images):
    """Of a torchvision ResNet, by hand."""
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = stage(x)
    return x.mean((2, 3))


def official(network, prefix: str) -> dict:
    """The released layout: the encoder below a prefix, with the projector as its fc, and a predictor beside it."""
    state = {prefix + name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}
    for name in ("0.weight", "1.running_mean", "6.bias"):
        state[f"{prefix}fc.{name}"] = torch.randn(4)
    beside = prefix.removesuffix("encoder.")
    state[f"{beside}predictor.0.weight"] = torch.randn(4, 4)
    state[f"{beside}teacher.conv1.weight"] = torch.randn(64, 3, 7, 7)
    return {"epoch": 100, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}}}


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["module.encoder.", "encoder."])
def test_the_official_checkpoint_gives_its_online_encoder_without_the_projector(
    resnet18, images, tmp_path, monkeypatch, prefix
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint_0099.pth.tar"
    torch.save(official(resnet18, prefix), path)
    subject = resolve(path, device="cpu")
    assert_close(subject.encoder(images), features_of(resnet18, images), rtol=1e-4, atol=1e-5)
    assert not subject.encoder.training
    assert subject.checkpoint == file_hash(path)
    assert (subject.info.backbone, subject.info.image_size, subject.info.feature_size) == ("resnet18", 224, 512)
    assert (subject.info.mean, subject.info.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert subject.folder.parts == ("runs", "checkpoint_0099")


def test_an_official_checkpoint_with_a_tensor_too_many_or_too_few_is_refused(resnet18, tmp_path):
    path = tmp_path / "c.pth"
    state = official(resnet18, "module.encoder.")
    state["state_dict"]["module.encoder.layer1.0.extra"] = torch.zeros(2)
    torch.save(state, path)
    with pytest.raises(BadInput, match=r"1 tensors differ \(layer1\.0\.extra: file \(2,\), module has none"):
        resolve(path)
    state = official(resnet18, "module.encoder.")
    del state["state_dict"]["module.encoder.layer4.1.bn2.running_var"]
    torch.save(state, path)
    with pytest.raises(BadInput, match=r"layer4\.1\.bn2\.running_var: file has none"):
        resolve(path)


@torch.no_grad()
def test_the_state_dict_of_a_torchvision_model_is_read_without_its_classifier(resnet18, images, tmp_path):
    for name, dump in (("a.pth", torch.save), ("a.safetensors", safetensors.torch.save_file)):
        dump(resnet18.state_dict(), tmp_path / name)
        assert_close(
            resolve(tmp_path / name, device="cpu").encoder(images), features_of(resnet18, images), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_torchvisions_resnets_are_told_apart_by_their_tensors(tmp_path, name):
    with torch.device("meta"):
        weights = getattr(torchvision.models, name)().state_dict()
    assert architecture(Foreign(tmp_path, weights, "", ())) == (name, False, None)


def test_counters_that_old_files_lack_are_not_missed(resnet18, tmp_path):
    state = {k: v for k, v in resnet18.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    assert resolve(tmp_path / "old.pth").info.backbone == "resnet18"
    assert read_backbone(tmp_path / "old.pth").tensors.keys() == state.keys()


@torch.no_grad()
def test_a_backbone_keeps_what_its_head_shares_with_it(tmp_path, images):
    """ConvNeXt's last norm is called head.norm."""
    torch.manual_seed(0)
    network = timm.create_model("convnext_atto", num_classes=10).eval()
    for p in network.parameters():
        p.add_(0.1 * torch.randn_like(p))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "c.safetensors")
    found = resolve(f"convnext_atto:{tmp_path / 'c.safetensors'}", device="cpu", image_size=64).encoder(images)
    assert_close(found, network.forward_head(network.forward_features(images), pre_logits=True))


@torch.no_grad()
def test_a_vision_transformer_takes_another_image_size_as_timm_does(tmp_path, images):
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    network.pos_embed.normal_()
    path = tmp_path / "v.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    judge = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64).eval()
    judge.load_state_dict(checkpoint_filter_fn(network.state_dict(), judge))
    found = resolve(f"vit_tiny_patch16_224:{path}", device="cpu", image_size=64)
    assert_close(found.encoder(images), judge(images))
    info = replace(found.info, image_size=224, feature_size=192, small_stem=False)
    (tmp_path / "run").mkdir()
    save_encoder(tmp_path / "run" / "encoder.safetensors", network, info)
    assert_close(resolve(tmp_path / "run", device="cpu", image_size=64).encoder(images), judge(images))


class Malicious:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("spelling", ["{}", "resnet18:{}"])
def test_a_file_that_carries_pickled_code_is_refused_and_nothing_runs(resnet18, tmp_path, spelling):
    mark, path = tmp_path / "was-here", tmp_path / "c.pth.tar"
    for dump in (torch.save, pickle.dump):
        with open(path, "wb") as file:
            dump({**official(resnet18, "module.encoder."), "x": Malicious(mark)}, file)
        with pytest.raises(BadInput, match="nothing is unpickled"):
            resolve(spelling.format(path))
        assert not mark.exists()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "no tensors of a backbone"),
        ({"epoch": 3}, "no tensors of a backbone"),
        ({"fc.weight": torch.zeros(2)}, "no tensors of a backbone"),
        ({"blocks.0.weight": torch.zeros(2)}, "not the tensors of a torchvision ResNet"),
    ],
)
def test_files_without_a_backbone_are_refused(tmp_path, state, words):
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(BadInput, match=words):
        resolve(tmp_path / "c.pth")


def test_weights_of_one_backbone_are_not_taken_for_another(resnet18, tmp_path):
    torch.save(resnet18.state_dict(), tmp_path / "c.pth")
    with pytest.raises(BadInput, match="not the weights of this backbone"):
        resolve(f"resnet10-tiny:{tmp_path / 'c.pth'}")
    with pytest.raises(FileNotFoundError, match=r"none\.pth: no such file of weights for resnet10-tiny"):
        resolve(f"resnet10-tiny:{tmp_path / 'none.pth'}")


@torch.no_grad()
def test_a_name_finds_the_weights_that_torchvision_fetched_earlier(resnet18, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no weights on this machine.*resnet18-f37072fd\.pth.*resnet18:FILE"):
        resolve("resnet18")
    (tmp_path / "checkpoints").mkdir()
    torch.save(resnet18.state_dict(), tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    subject = resolve("resnet18", device="cpu")
    assert_close(subject.encoder(images), features_of(resnet18, images), rtol=1e-4, atol=1e-5)
    assert (subject.name, subject.folder.as_posix()) == ("resnet18", "runs/resnet18")


@torch.no_grad()
def test_random_weights_are_the_same_each_time_and_leave_the_callers_numbers_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one = resolve("random:resnet10-tiny", image_size=16, device="cpu")
    assert torch.equal(torch.rand(1), expected)
    two = resolve("random:resnet10-tiny", image_size=16, device="cpu")
    assert one.checkpoint == two.checkpoint
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(one.encoder(x), two.encoder(x))
    assert (one.name, one.folder.as_posix()) == ("random:resnet10-tiny", "runs/random-resnet10-tiny")
    with pytest.raises(BadInput, match="no backbone is called 'resnet5'"):
        resolve("random:resnet5")


@torch.no_grad()
def test_what_export_wrote_is_the_run_itself_wherever_it_lies(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "run")
    assert main(["export", "run", "--to", "timm"]) == 0
    run, x = resolve("run"), torch.randn(2, 3, 8, 8)
    inside = resolve("run/encoder-timm.safetensors")
    (tmp_path / "elsewhere").mkdir()
    shutil.move("run/encoder-timm.safetensors", "elsewhere/mine.safetensors")
    outside = resolve("elsewhere/mine.safetensors")
    for subject in (inside, outside):
        assert torch.equal(subject.encoder(x), run.encoder(x))
        assert subject.info == run.info
        assert repr(subject.transform) == repr(run.transform)
    assert inside.folder.name == "run"


@torch.no_grad()
def test_a_torchvision_export_keeps_size_and_statistics_while_it_lies_in_its_run(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    encoder = build_encoder("resnet10", 8).eval()
    info = EncoderInfo("resnet10", 512, 8, True, "bilinear", (0.4,) * 3, (0.2,) * 3, "mec", "auto", "x", "y", 7)
    save_encoder(run / "encoder.safetensors", encoder, replace(info, probe=probe(encoder, 8)))
    assert main(["export", str(run), "--to", "torchvision"]) == 0
    subject, x = resolve(run / "encoder-torchvision.pth"), torch.randn(2, 3, 8, 8)
    assert_close(subject.encoder(x), resolve(run).encoder(x))
    assert subject.info == read_info(run)
    assert subject.folder == run
    shutil.copy(run / "encoder-torchvision.pth", tmp_path / "c.pth")
    assert resolve(tmp_path / "c.pth").info.small_stem  # found by the shape of the first convolution
    assert_close(resolve(tmp_path / "c.pth", image_size=8).encoder(x), resolve(run).encoder(x))


@torch.no_grad()
def test_another_image_size_reaches_transform_and_network(finished):
    subject = resolve(finished, image_size=12, device="cpu")
    image = open_data("digits").test.images.read(0)
    assert subject.transform(image).shape == (3, 12, 12)
    plain = resolve(finished, device="cpu")
    assert plain.transform(image).shape == (3, 8, 8)
    x = torch.randn(2, 3, 12, 12)
    assert torch.equal(subject.encoder(x), plain.encoder(x))


def test_a_timm_name_brings_its_own_statistics(tmp_path):
    encoder = build_encoder("vit_tiny_patch16_224", 224, False)
    torch.save(encoder.state_dict(), tmp_path / "vit.pth")
    subject = resolve(f"vit_tiny_patch16_224:{tmp_path / 'vit.pth'}")
    assert subject.info.mean == (0.5, 0.5, 0.5)
    assert (subject.info.feature_size, subject.info.image_size) == (192, 224)


def test_cuda_that_is_not_there_is_refused(finished, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match="--device cuda: torch sees no CUDA"):
        resolve(finished, device="cuda")
    assert resolve(finished).device == "cpu"
