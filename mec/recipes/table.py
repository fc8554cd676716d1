"""RECIPES: the papers' settings and ours, with their source. A variant is `replace` of a few fields; those of the
methods that MEC is set against stand in published.yaml."""

from dataclasses import replace
from pathlib import Path

import yaml

from mec.errors import BadInput, nearest
from mec.recipes.fields import from_dict
from mec.recipes.recipe import Linear, Network, Optimizer, Recipe, View

# Of the methods that MEC is set against; a recipe is a block of that file.
FILE = Path(__file__).with_name("published.yaml")
PUBLISHED = {
    name: from_dict(Recipe, values, name)
    for name, values in yaml.safe_load(FILE.read_text(encoding="utf-8"))["recipes"].items()
}
BYOL_VIEWS = PUBLISHED["imagenet-byol"].views
MULTI_CROP = PUBLISHED["imagenet-dino-800ep"].views  # SwAV's scales
CIFAR = PUBLISHED["cifar10-byol"].views[0]


def top_1(percent: float) -> dict[str, float]:
    """What a linear probe of ImageNet is expected to reach."""
    return {"linear top-1 (%)": percent}


# The released code's pair: bilinear, scale from 0.2.
RELEASED_VIEWS = tuple(replace(view, interpolation="bilinear", scale=(0.2, 1.0)) for view in BYOL_VIEWS)

# SimSiam's CIFAR views, from memory of its appendix; the paper says only that there is no blur.
CIFAR_VIEW = replace(CIFAR, scale=(0.2, 1.0), interpolation="bilinear", saturation=0.4)

DIGITS_VIEW = View(size=16, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, rotate=18.0, shear=12.0, shift=0.1, zoom=0.2,
    jitter=1.0, brightness=0.5, contrast=0.5, saturation=0.0, hue=0.0, grey=0.0,
    blur=0.3, blur_sigma=(0.1, 1.0), noise=0.07, mean=(0.3, 0.3, 0.3), std=(0.35, 0.35, 0.35), copies=2,
)  # fmt: skip

DIGITS = Recipe(source="this project, docs/results.md",
    views=(DIGITS_VIEW,),
    settings={"distortion": 0.25},  # larger than for photographs: ten classes need few directions, docs/log.md
    network=Network("resnet10-fast", projector=(512, 128), target_momentum=0.99),  # of methods that have one
    optimizer=Optimizer(base_lr=2.0, warmup_epochs=1),  # 0.5 at batch 64
    batch_size=64, epochs=37, precision="fp32",
    expects={"1 label a class (%)": 88.9, "5 labels a class (%)": 96.5, "k-NN (%)": 98.6},
)  # fmt: skip

CIFAR10_PAPER = Recipe(
    source="Liu et al., NeurIPS 2022, appendices B and H; view parameters and warm-up are not stated there",
    method="mec",
    settings={"distortion": 0.12, "order": 4},
    views=(replace(CIFAR_VIEW, copies=2),),
    network=Network("resnet18", projector=(2048, 2048)),  # symmetric: Algorithm 1 has no predictor and no target
    optimizer=Optimizer(base_lr=0.03, weight_decay=5e-4), batch_size=1024, epochs=600,
)  # fmt: skip

IMAGENET_100EP = Recipe(source="Liu et al., NeurIPS 2022, appendix C",
    method="mec",
    settings={"distortion": 0.06, "order": 4}, views=BYOL_VIEWS,
    network=Network("resnet50", projector=(2048,) * 3, predictor=(512, 2048), target="momentum"),
    optimizer=Optimizer(base_lr=0.5, warmup_epochs=10, weight_decay=1e-5), batch_size=1024, epochs=100,
)  # fmt: skip

IMAGENET_800EP = replace(IMAGENET_100EP,
    optimizer=Optimizer("lars", base_lr=0.3, warmup_epochs=10, weight_decay=1.5e-6, decay_1d=False),
    batch_size=4096, epochs=800, expects=top_1(74.5),  # Table 7
)  # fmt: skip

# MEC's objective and heads around MoCo v3's ViT-S: its optimizer, warm-up, first momentum and frozen patches.
IMAGENET_VIT_S = replace(IMAGENET_100EP,
    source="appendix C's objective with MoCo v3's ViT-S settings (CONFIG.md), from memory; not trained here",
    network=replace(IMAGENET_100EP.network,
        backbone="vit_small_patch16_224", freeze_patches=True, target_momentum=0.99),
    optimizer=Optimizer("adamw", base_lr=1.5e-4, warmup_epochs=40, weight_decay=0.1, decay_1d=False), epochs=300,
)  # fmt: skip

SMALL_VIT = Recipe(source="this project: MoCo v3's measures for ViTs, on small images; rate and clipping are ours",
    settings={"distortion": 0.02}, views=(replace(CIFAR_VIEW, copies=2),),
    network=Network("vit_tiny_patch16_224", freeze_patches=True, projector=(2048, 512), target_momentum=0.97),
    optimizer=Optimizer("adamw", base_lr=2e-3, warmup_epochs=10, weight_decay=0.05, decay_1d=False, clip=3.0),
    batch_size=256, epochs=200,
)  # fmt: skip

# A base that `auto` changes to fit the data and the machine (mec/training/plan.py).
AUTO = Recipe(
    source="this project: chosen from the data and the machine, docs/results.md",
    views=(replace(CIFAR_VIEW, copies=2),),
    network=Network("resnet18", projector=(2048, 512), target_momentum=0.97),  # as BYOL's of 12,500 steps
    optimizer=Optimizer(base_lr=0.5, warmup_epochs=1, weight_decay=1e-4),
)

RECIPES: dict[str, Recipe] = {
    "auto": AUTO,
    "digits": DIGITS,
    "cifar10-paper": CIFAR10_PAPER,
    "cifar10-paper-0.01": replace(CIFAR10_PAPER, settings={"distortion": 0.01, "order": 4}),
    "cifar10-paper-asymmetric": replace(CIFAR10_PAPER,
        network=replace(CIFAR10_PAPER.network, predictor=(512, 2048), target="momentum")),
    "cifar10-paper-multicrop": replace(CIFAR10_PAPER,
        source="Liu et al., appendix B, with four crops of 16 px more; their size and scale are our choice",
        views=(replace(CIFAR_VIEW, copies=2), replace(CIFAR_VIEW, size=16, scale=(0.08, 0.5), copies=4))),
    "imagenet-100ep": IMAGENET_100EP,
    "imagenet-100ep-released": replace(IMAGENET_100EP,
        source="official repository, main_pretrain.py: eps 64 at d 2048, λ raised from an eighth over 10 epochs",
        settings={"distortion": Linear(8 * 64 / 2048, 64 / 2048, epochs=10), "order": 4}, views=RELEASED_VIEWS,
        expects=top_1(70.8)),  # its README
    "imagenet-800ep": IMAGENET_800EP,
    "imagenet-vit-s": IMAGENET_VIT_S,
    "small-vit": SMALL_VIT,
    "imagenet-800ep-multicrop": replace(IMAGENET_800EP,
        source="Liu et al., NeurIPS 2022, appendix D, Table 7: six 96-px crops more; scales of SwAV", views=MULTI_CROP,
        expects=top_1(75.5)),
    "imagenet-800ep-large-projector": replace(IMAGENET_800EP,
        source="Liu et al., NeurIPS 2022, appendix D, Table 7: 8192 in every layer of the projector",
        network=replace(IMAGENET_800EP.network, projector=(8192,) * 3, predictor=(512, 8192)), expects=top_1(75.1)),
    **PUBLISHED,
}  # fmt: skip


def recipe_named(name: str) -> Recipe:
    if name not in RECIPES:
        raise BadInput(f"no recipe is called {name!r}. {nearest(name, RECIPES)}")
    return RECIPES[name]
