"""PUBLISHED: recipes of the methods that MEC is set against, with the settings that were published, as literals.

A value that stands here from memory is said to in `source`; such a recipe expects no figure. `scale` is the multiple of
our unscaled loss that was published. Deviations that are ours: batch norm is synchronised over all ranks everywhere
(MoCo's shuffling, VICReg's and Barlow Twins' smaller groups are not imitated).
"""

from dataclasses import replace
from typing import Any

from mec.recipes.recipe import Linear, Network, Optimizer, Recipe, View

# fmt: off
# BYOL's pair, as MEC's appendix C says, too; blur to sigma 2 px at 224.
BYOL_VIEWS = (View(blur=1.0), View(blur=0.1, solarize=0.2))
MOCO_V3_VIEWS = tuple(replace(view, scale=(0.2, 1.0), interpolation="bilinear") for view in BYOL_VIEWS)
WEAK = View(scale=(0.2, 1.0), saturation=0.4, blur=0.5, interpolation="bilinear", copies=2)  # MoCo v2, SimSiam
JITTER: dict[str, Any] = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
STRONG = View(**JITTER, blur=0.5, copies=2)  # SimCLR

# SwAV's scales, which MEC follows: two crops that show most of an image, and six that show little.
GLOBAL_SCALE, LOCAL_SCALE = (0.14, 1.0), (0.05, 0.14)
MULTI_CROP = (
    *(replace(view, scale=GLOBAL_SCALE) for view in BYOL_VIEWS), View(size=96, scale=LOCAL_SCALE, blur=0.5, copies=6))
DINO_VIEWS = (*MULTI_CROP[:2], replace(MULTI_CROP[2], copies=8))
SWAV_STRONG = replace(STRONG, interpolation="bilinear")
SWAV_VIEWS = (replace(SWAV_STRONG, scale=GLOBAL_SCALE), replace(SWAV_STRONG, size=96, scale=LOCAL_SCALE, copies=6))
CIFAR = View(size=32, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))
CIFAR_ASYM = (CIFAR, replace(CIFAR, solarize=0.2))
CIFAR_STRONG = (replace(CIFAR, **JITTER, blur=0.5, copies=2),)
CIFAR_WEAK = (replace(CIFAR, saturation=0.4, blur=0.5, copies=2),)
CIFAR_GLOBAL = replace(CIFAR, scale=(0.2, 1.0), brightness=0.6, contrast=0.6, saturation=0.6, hue=0.2)
CIFAR_MULTI_CROP = (
    CIFAR_GLOBAL, replace(CIFAR_GLOBAL, solarize=0.2),
    replace(CIFAR_STRONG[0], size=18, scale=(0.08, 0.5), blur=0.1, solarize=0.1, copies=6))


def byol_heads(network: Network, **changes: Any) -> Network:
    """BYOL's projector, predictor and target around an encoder; MoCo v3's but for the projector's output."""
    heads = {"projector": (4096, 256), "projector_output": "linear", "predictor": (4096, 256), "predictor_bias": False}
    return replace(network, **{**heads, "target": "momentum", **changes})


def top_1(percent: float) -> dict[str, float]:
    """What a linear probe of ImageNet is expected to reach."""
    return {"linear top-1 (%)": percent}


def solo(method: str, accuracy: float | None, **changes: Any) -> Recipe:
    """solo-learn's settings for CIFAR-10; accuracy as its README lists it, of a classifier trained alongside."""
    source = f"solo-learn scripts/pretrain/cifar/{method.replace('-', '')}.yaml"
    expects = {} if accuracy is None else {"classifier alongside, top-1 (%)": accuracy}
    given = {"source": source, "method": method, "batch_size": 256, "epochs": 1000, "expects": expects}
    return Recipe(**{**given, **changes})


def solo_sgd(lr: float, decay: float) -> Optimizer:
    return Optimizer(base_lr=lr, weight_decay=decay, warmup_epochs=10, warmup_lr=3e-5)


def solo_lars(lr: float, decay: float, **more: Any) -> Optimizer:
    """Its LARS: the local rate capped at the global one; biases and norms without adaptation or decay."""
    return replace(solo_sgd(lr, decay), name="lars", decay_1d=False, trust=0.02, trust_clip=True, **more)


RESNET18 = Network("resnet18", zero_init=False, target_momentum=0.99)
LINEAR_18 = replace(RESNET18, projector_output="linear")
PLAIN_256 = replace(RESNET18, projector=(2048, 256), projector_hidden="relu", projector_output="linear-bias")
SWAV_18 = replace(RESNET18, projector=(2048, 128), projector_output="linear-bias")
DINO_HEAD = replace(
    RESNET18, projector=(2048, 2048, 256), projector_hidden="gelu", projector_output="linear-bias", prototypes=4096,
    target="momentum", target_momentum=0.9995)
SWAV_CIFAR_SETTINGS = {"prototypes": 3000, "queue": 3840, "use_queue": Linear(0.0, 1.0, epochs=50), "scale": 1.0}

CIFAR_RECIPES = {
    "cifar10-simsiam": solo("simsiam", 90.51, views=CIFAR_WEAK,
        network=replace(RESNET18, predictor=(512, 2048), target="stop-gradient"),
        optimizer=replace(solo_sgd(0.5, 1e-5), predictor_lr_constant=True)),
    "cifar10-byol": solo("byol", 92.58, settings={"scale": 4.0}, views=CIFAR_ASYM,
        network=byol_heads(RESNET18), optimizer=solo_lars(1.0, 1e-5)),
    "cifar10-simclr": solo("simclr", 90.74, settings={"temperature": 0.2}, views=CIFAR_STRONG,
        network=PLAIN_256, optimizer=solo_lars(0.4, 1e-4)),
    "cifar10-moco-v2": solo("moco-v2", 92.94, source="solo-learn scripts/pretrain/cifar/mocov2plus.yaml",
        settings={"temperature": 0.2, "queue": 32768}, views=CIFAR_WEAK,
        network=replace(PLAIN_256, target="momentum", target_momentum_end=0.999), optimizer=solo_sgd(0.3, 1e-4)),
    "cifar10-moco-v3": solo(
        "moco-v3", 93.10, settings={"temperature": 0.2, "scale": 0.8}, views=CIFAR_ASYM,  # scale: 4τ
        network=byol_heads(RESNET18, projector_output="bn"), optimizer=solo_lars(0.3, 1e-6)),
    "cifar10-barlow-twins": solo("barlow-twins", 92.10, source="solo-learn scripts/pretrain/cifar/barlow.yaml",
        settings={"off_diagonal": 0.0051, "scale": 0.1}, views=CIFAR_ASYM,
        network=LINEAR_18, optimizer=solo_lars(0.3, 1e-4)),
    "cifar10-vicreg": solo("vicreg", 92.07,
        settings={"invariance": 25.0, "variance": 50.0, "covariance": 1.0, "scale": 1.0},  # its 25 is not halved
        views=(replace(CIFAR, scale=(0.2, 1.0), solarize=0.1, copies=2),),
        network=LINEAR_18, optimizer=solo_lars(0.3, 1e-4)),
    "cifar10-swav": solo("swav", 89.17, settings=SWAV_CIFAR_SETTINGS, views=CIFAR_STRONG,
        network=SWAV_18, optimizer=solo_lars(0.6, 1e-6, freeze_prototypes_epochs=2.0)),
    "cifar10-swav-multicrop": solo("swav", None,
        source="solo-learn scripts/pretrain/cifar-multicrop/swav.yaml (no figure); the rest as in cifar/swav.yaml",
        settings=SWAV_CIFAR_SETTINGS, views=CIFAR_MULTI_CROP,
        network=SWAV_18, optimizer=solo_lars(0.6, 1e-6, freeze_prototypes_epochs=2.0, end_lr=0.0006)),
    "cifar10-dino": solo("dino", 89.52, settings={"temperature": 0.1, "target_temperature": 0.07}, views=CIFAR_ASYM,
        network=DINO_HEAD, optimizer=solo_lars(0.3, 1e-6, freeze_prototypes_epochs=1.0)),
    "cifar10-unigrad": solo("unigrad", None,
        source="no CIFAR run was published: UniGrad's weights with SimSiam's optimizer and views, our choice",
        settings={"weight": 100.0, "correlation_momentum": 0.99, "scale": 1.0}, views=CIFAR_WEAK,
        network=replace(RESNET18, projector_output="linear-bias", target="momentum"), optimizer=solo_sgd(0.5, 1e-5)),
    "cifar10-frossl": solo(
        "frossl", None, source="FroSSL scripts/pretrain/cifar/frossl.yaml (a fork of solo-learn; no figure there)",
        settings={"invariance": 1.0, "scale": 1.0}, views=CIFAR_WEAK,
        network=replace(RESNET18, projector=(2048, 2048, 1024), projector_output="linear-bias"),
        optimizer=solo_lars(0.3, 1e-4)),
    "cifar10-corinfomax": Recipe(
        "CorInfoMax README, CIFAR-10; views and the warm-up's length are not stated there, our choice", "corinfomax",
        settings={"invariance": 250.0, "kept": 0.01, "floor": 1e-8, "scale": 1.0}, views=CIFAR_WEAK,
        network=Network("resnet18", projector=(2048, 2048, 64), projector_output="linear"),
        optimizer=Optimizer(base_lr=0.25, weight_decay=1e-4, warmup_epochs=10),  # 0.5 at its batch
        batch_size=512, epochs=1000, expects={"linear top-1 (%)": 93.18}),
    "cifar10-emp-ssl": Recipe(
        "EMP-SSL main.py, dataset/aug.py and model/model.py, with the 20 patches of its paper; it measures features of "
        "4096 numbers behind the encoder, averaged over 128 patches: its 93.1 is no figure to expect here", "emp-ssl",
        settings={"distance": 0.2, "agreement": 200.0, "scale": 1.0},
        views=(View(
            size=32, scale=(0.25, 0.25), ratio=(1.0, 1.0), saturation=0.4, hue=0.2, blur=0.1, solarize=0.1,
            interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), copies=20,
        ),), network=Network("resnet18", zero_init=False, projector=(4096, 4096, 1024), projector_output="linear-bias"),
        optimizer=Optimizer("lars", base_lr=0.768, weight_decay=1e-4, decay_1d=False, trust=0.005, trust_clip=True),
        batch_size=100, epochs=30,  # 0.3 at its batch
    ),
    "cifar10-mmcr": Recipe("MMCR (NeurIPS 2023), from memory of its code: 40 views, Adam; AdamW here", "mmcr",
        settings={"local": 0.0, "scale": 1.0}, views=(replace(CIFAR, saturation=0.4, copies=40),),
        network=Network("resnet18", projector=(512, 128), projector_output="linear"),
        optimizer=Optimizer("adamw", base_lr=8e-3, weight_decay=1e-6), batch_size=32, epochs=500,  # 1e-3 at its batch
    ),
    "cifar10-w-mse": Recipe(
        "W-MSE README, CIFAR-10 with two views; views, batch and AdamW for Adam from memory; parts of 128 images are "
        "whitened there, the whole batch here", "w-mse",
        settings={"shrink": 0.0, "scale": 1.0},
        views=(replace(CIFAR, scale=(0.2, 1.0), saturation=0.4, grey=0.1, copies=2),),
        network=Network("resnet18", projector=(1024, 64), projector_output="linear-bias"),
        optimizer=Optimizer("adamw", base_lr=7.5e-4, weight_decay=1e-6), batch_size=1024, epochs=1000,  # 3e-3 at it
    ),
    "cifar10-supervised": Recipe(
        "common practice for ResNet-18 on CIFAR-10, from memory; crops in place of shifts by 4 px, our choice",
        "supervised", views=(replace(CIFAR, scale=(0.5, 1.0), jitter=0.0, grey=0.0),),
        network=Network("resnet18", projector=(10,), projector_output="linear-bias"),
        optimizer=Optimizer(base_lr=0.2, weight_decay=5e-4), batch_size=128, epochs=200),
}

RESNET50 = Network("resnet50")
LARS = Optimizer("lars", decay_1d=False, warmup_epochs=10)  # trust 0.001; 1-d parameters: no adaptation, no decay

SIMSIAM = Recipe("SimSiam main_simsiam.py and README, 100 epochs", "simsiam", views=(WEAK,),
    network=replace(RESNET50, predictor=(512, 2048), target="stop-gradient"),
    optimizer=Optimizer(base_lr=0.05, weight_decay=1e-4, predictor_lr_constant=True),
    batch_size=512, epochs=100, expects=top_1(68.1))
BYOL = Recipe("BYOL byol/configs/byol.py, 1000 epochs (row BYOL of MEC's Table 7); batch size from memory", "byol",
    settings={"scale": 4.0}, views=BYOL_VIEWS, network=byol_heads(RESNET50),
    optimizer=replace(LARS, base_lr=0.2, weight_decay=1.5e-6), batch_size=4096, epochs=1000)
BYOL_99 = replace(BYOL.network, target_momentum=0.99)
MOCO_V3 = Recipe("MoCo v3 CONFIG.md and main_moco.py, 300 epochs", "moco-v3",
    settings={"temperature": 1.0, "scale": 4.0}, views=MOCO_V3_VIEWS,  # scale: 4τ
    network=byol_heads(RESNET50, projector_output="bn", target_momentum=0.99),
    optimizer=replace(LARS, base_lr=0.3, weight_decay=1e-6), batch_size=4096, epochs=300, expects=top_1(72.8))
BARLOW = Recipe("Barlow Twins main.py, README, on 16 GPUs (row Barlow of MEC's Table 7)", "barlow-twins",
    # It sums C over GPUs outside autograd: each pulls by its own rows alone, and their mean is 1/16 of the gradient.
    # LARS hides that for matrices, but not for biases and norms, whose rate was chosen with it.
    settings={"off_diagonal": 0.0051, "scale": 1 / 16}, views=BYOL_VIEWS,
    network=replace(RESNET50, projector=(8192,) * 3, projector_output="linear"),
    optimizer=replace(LARS, base_lr=0.2, base_lr_1d=0.0048, end_lr=0.0002, weight_decay=1e-6),
    batch_size=2048, epochs=1000, expects=top_1(73.2))
VICREG = Recipe("VICReg main_vicreg.py and README (row VICReg of MEC's Table 7)", "vicreg",
    settings={"scale": 1.0}, views=BYOL_VIEWS, network=BARLOW.network,
    optimizer=replace(LARS, base_lr=0.2, end_lr=0.0002, weight_decay=1e-6),
    batch_size=2048, epochs=1000, expects=top_1(73.2))
SWAV = Recipe("SwAV scripts/swav_800ep_pretrain.sh, README", "swav",
    settings={"prototypes": 3000, "queue": 0, "scale": 1.0}, views=SWAV_VIEWS,
    network=replace(
        RESNET50, zero_init=False, projector=(2048, 128), projector_output="linear-bias", views_together=True),
    # In all 4.8, from 0.3 and to 0.0048, at batch 4096; LARC over all parameters. Frozen for 313 steps, an epoch.
    optimizer=Optimizer(
        "lars", base_lr=4.8 / 16, warmup_epochs=10, warmup_lr=0.3 / 16, end_lr=0.0048 / 16, weight_decay=1e-6,
        freeze_prototypes_epochs=1.0),
    batch_size=4096, epochs=800, expects=top_1(75.3))
DINO = Recipe("DINO README and script defaults, 100 epochs", "dino",
    settings={"temperature": 0.1, "target_temperature": 0.04}, views=DINO_VIEWS,
    network=replace(DINO_HEAD, backbone="resnet50", prototypes=65536, target_momentum=0.996, views_together=True),
    optimizer=Optimizer(
        base_lr=0.03, weight_decay=1e-4, decay_1d=False, clip=3.0, warmup_epochs=10, freeze_prototypes_epochs=1),
    batch_size=512, epochs=100)
UNIGRAD = Recipe("UniGrad configs/unigrad.py, README", "unigrad",
    settings={"weight": 100.0, "correlation_momentum": 0.99, "scale": 1.0}, views=(WEAK,),
    network=replace(RESNET50, projector_output="linear-bias", target="momentum"),
    optimizer=Optimizer(base_lr=0.05, warmup_epochs=5, warmup_lr=0.05e-3, end_lr=0.05e-3, weight_decay=1e-4),
    batch_size=1024, epochs=100, expects=top_1(70.3))

IMAGENET_RECIPES = {
    "imagenet-simsiam": SIMSIAM,
    "imagenet-simsiam-800ep": replace(
        SIMSIAM, source="SimSiam, 800 epochs (row SimSiam of MEC's Table 7)", epochs=800, expects=top_1(71.3)),
    "imagenet-byol": BYOL,
    "imagenet-byol-300ep": replace(
        BYOL, source="BYOL byol/configs/byol.py, 300 epochs; batch size from memory", epochs=300,
        network=BYOL_99, optimizer=replace(BYOL.optimizer, base_lr=0.3, weight_decay=1e-6)),
    "imagenet-byol-100ep": replace(
        BYOL, source="BYOL byol/configs/byol.py, 100 epochs; batch size from memory", epochs=100,
        network=BYOL_99, optimizer=replace(BYOL.optimizer, base_lr=0.45, weight_decay=1e-6)),
    "imagenet-simclr": Recipe(
        "SimCLR README and run.py (projector of 3 layers); 1000 epochs from memory; the output's batch norm has "
        "no bias there", "simclr", settings={"temperature": 0.1, "scale": 2.0}, views=(STRONG,),
        network=replace(RESNET50, projector=(2048, 2048, 128), projector_output="bn-affine", views_together=True),
        optimizer=replace(LARS, base_lr=0.3, weight_decay=1e-4), batch_size=4096, epochs=1000),
    "imagenet-moco-v2": Recipe("MoCo README, builder.py and main_moco.py --aug-plus, 200 epochs", "moco-v2",
        settings={"temperature": 0.2, "queue": 65536, "key_views": 1}, views=(WEAK,),
        network=replace(
            RESNET50, zero_init=False, projector=(2048, 128), projector_hidden="relu", projector_output="linear-bias",
            target="momentum", target_momentum=0.999, target_momentum_end=0.999),
        optimizer=Optimizer(base_lr=0.03, weight_decay=1e-4), batch_size=256, epochs=200, expects=top_1(67.5)),
    "imagenet-moco-v3": MOCO_V3,
    "imagenet-moco-v3-100ep": replace(MOCO_V3, source="MoCo v3 CONFIG.md and main_moco.py, 100 epochs",
        optimizer=replace(MOCO_V3.optimizer, base_lr=0.6), epochs=100, expects=top_1(68.9)),
    "imagenet-moco-v3-1000ep": replace(
        MOCO_V3, source="MoCo v3 CONFIG.md and main_moco.py, 1000 epochs", epochs=1000, expects=top_1(74.6),
        network=replace(MOCO_V3.network, target_momentum=0.996),
        optimizer=replace(MOCO_V3.optimizer, weight_decay=1.5e-6)),
    "imagenet-barlow-twins": BARLOW,
    "imagenet-vicreg": VICREG,
    "imagenet-vicreg-100ep": replace(VICREG, source="VICReg README, 100 epochs; figure: UniGrad README",
        optimizer=replace(VICREG.optimizer, base_lr=0.3, end_lr=0.0003), batch_size=512, epochs=100,
        expects=top_1(68.6)),
    "imagenet-swav": SWAV,
    "imagenet-swav-bs256": replace(SWAV, source="SwAV scripts/swav_200ep_bs256_pretrain.sh, README",
        settings={"prototypes": 3000, "queue": 3840, "use_queue": Linear(0.0, 1.0, epochs=15), "scale": 1.0},
        optimizer=replace(SWAV.optimizer, base_lr=0.6, end_lr=0.0006, warmup_epochs=0.0, warmup_lr=0.0),
        batch_size=256, epochs=200, expects=top_1(72.7)),
    "imagenet-dino": DINO,
    "imagenet-dino-800ep": replace(DINO,
        source="DINO, 800 epochs (row DINO of MEC's Table 7); batch, rate, decay and number of crops from memory",
        settings={"temperature": 0.1, "target_temperature": Linear(0.04, 0.07, epochs=50)}, views=MULTI_CROP,
        network=replace(DINO.network, projector_hidden="bn-gelu", prototypes=60000),
        optimizer=replace(LARS, base_lr=0.3, weight_decay=1e-6, clip=3.0, freeze_prototypes_epochs=1.0),
        batch_size=4080, epochs=800),
    "imagenet-unigrad": UNIGRAD,
    "imagenet-unigrad-800ep": replace(UNIGRAD,
        source="UniGrad, 800 epochs, large projector and multi-crop (row UniGrad of MEC's Table 7); optimizer from "
        "memory, crops SwAV's: none of it was released",
        views=MULTI_CROP, network=replace(UNIGRAD.network, projector=(8192,) * 3),
        optimizer=replace(LARS, base_lr=0.3, weight_decay=1e-6), batch_size=4096, epochs=800, expects={}),
    "imagenet-supervised": Recipe(
        "torchvision's reference training, from memory; the cosine is ours, its rate falls by steps", "supervised",
        views=(View(interpolation="bilinear", jitter=0.0, grey=0.0),),
        network=replace(RESNET50, zero_init=False, projector=(1000,), projector_output="linear-bias"),
        optimizer=Optimizer(base_lr=0.1, weight_decay=1e-4), batch_size=256, epochs=90),
}
# fmt: on

PUBLISHED = {**CIFAR_RECIPES, **IMAGENET_RECIPES}
