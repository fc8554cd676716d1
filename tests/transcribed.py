"""Recipes and tables as published, read from their sources a second time: judges of every number that mec states.

Sources. A letter of an appendix: Liu et al., "Self-Supervised Learning via Maximum Entropy Coding", NeurIPS 2022. A
file: of the repository named. Where no source that we hold has a number, a comment says whose it is.
"""

# --- views: of 224 px unless said -----------------------------------------------------------------------------------

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# Of its training images, as solo-learn and most others have them.
CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.2435, 0.2616)}

PLAIN = {  # torchvision's RandomResizedCrop and a flip; nothing else happens to pixels
    "size": 224, "scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "interpolation": "bicubic", "flip": 0.5,
    "rotate": 0, "shear": 0, "shift": 0, "zoom": 0,
    "jitter": 0, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grey": 0,
    "blur": 0, "blur_sigma": (0.1, 2.0), "solarize": 0, "noise": 0, "copies": 1, **IMAGENET,
    "upend": 0, "turn": 0, "erase": 0,
}  # fmt: skip
COLOURED = PLAIN | {"jitter": 0.8, "grey": 0.2}

# BYOL's pair, also of Barlow Twins, VICReg, MoCo v3, DINO and (appendix C) MEC.
ASYM = (COLOURED | {"blur": 1.0}, COLOURED | {"blur": 0.1, "solarize": 0.2})
# MoCo v2 and SimSiam; crops from a fifth of the image, torchvision's bilinear.
WEAK = COLOURED | {"scale": (0.2, 1.0), "interpolation": "bilinear", "saturation": 0.4, "blur": 0.5}
STRONG = COLOURED | {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "blur": 0.5}  # SimCLR

LARGE, SMALL = (0.14, 1.0), (0.05, 0.14)  # of multi-crop: SwAV scripts/swav_400ep_pretrain.sh
LOCAL = COLOURED | {"size": 96, "scale": SMALL, "blur": 0.5}  # its blur: DINO main_dino.py
GLOBAL = tuple(view | {"scale": LARGE} for view in ASYM)


def times(count, view):
    return view | {"copies": count}


def released(views):
    """xinliu20/MEC main_pretrain.py; MoCo v3 main_moco.py (there the filter is torchvision's default)."""
    return tuple(view | {"interpolation": "bilinear", "scale": (0.2, 1.0)} for view in views)


SWAV = tuple(
    times(
        n, STRONG | {"size": size, "scale": scale, "interpolation": "bilinear"}
    )  # strength: SwAV's src/multicropdataset
    for n, size, scale in ((2, 224, LARGE), (6, 96, SMALL))
)

SMALL32 = COLOURED | CIFAR10 | {"size": 32}  # solo-learn scripts/pretrain/cifar
ASYM32 = (SMALL32, SMALL32 | {"solarize": 0.2})
STRONG32 = SMALL32 | {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "blur": 0.5}
WEAK32 = SMALL32 | {"saturation": 0.4, "blur": 0.5}
# Jitter and the crops' blur and solarization: solo-learn scripts/pretrain/cifar-multicrop/swav.yaml.
GLOBAL32 = SMALL32 | {"scale": (0.2, 1.0), "brightness": 0.6, "contrast": 0.6, "saturation": 0.6, "hue": 0.2}
LOCAL32 = STRONG32 | {"size": 18, "scale": (0.08, 0.5), "blur": 0.1, "solarize": 0.1}

# Appendix B says no blur; the rest is SimSiam's on CIFAR-10.
PAPER32 = SMALL32 | {"scale": (0.2, 1.0), "interpolation": "bilinear", "saturation": 0.4}

# --- networks and optimizers ----------------------------------------------------------------------------------------

NETWORK = {
    "backbone": "resnet50", "small_stem": None, "zero_init": True, "freeze_patches": False,
    "projector": (2048, 2048, 2048), "projector_hidden": "bn-relu", "projector_output": "bn", "prototypes": 0,
    "predictor": (), "predictor_bias": True, "views_together": False, "target": None,
}  # fmt: skip
MEC = NETWORK | {"predictor": (512, 2048), "target": "momentum", "target_momentum": 0.996, "target_momentum_end": 1.0}
BYOL = NETWORK | {
    "projector": (4096, 256), "projector_output": "linear", "predictor": (4096, 256), "predictor_bias": False,
    "target": "momentum", "target_momentum": 0.996, "target_momentum_end": 1.0,
}  # fmt: skip
MOCO_V3 = BYOL | {"projector_output": "bn", "target_momentum": 0.99}
DINO = NETWORK | {
    "zero_init": False, "projector": (2048, 2048, 256), "projector_hidden": "gelu", "projector_output": "linear-bias",
    "prototypes": 65536, "views_together": True, "target": "momentum", "target_momentum": 0.996,
    "target_momentum_end": 1.0,
}  # fmt: skip
UNIGRAD = NETWORK | {
    "projector_output": "linear-bias", "target": "momentum", "target_momentum": 0.996, "target_momentum_end": 1.0,
}  # fmt: skip
SWAV_NETWORK = NETWORK | {"zero_init": False, "projector": (2048, 128), "projector_output": "linear-bias"}
SMALL_NETWORK = NETWORK | {"backbone": "resnet18", "zero_init": False}
EMA_99 = {"target": "momentum", "target_momentum": 0.99, "target_momentum_end": 1.0}

SGD = {
    "name": "sgd", "end_lr": 0, "warmup_epochs": 0, "warmup_lr": 0, "momentum": 0.9, "decay_1d": True,
    "base_lr_1d": None, "base_lr_kernels": 0.1, "predictor_lr_constant": False, "clip": 0, "average": 0,
    "freeze_prototypes_epochs": 0,
}  # fmt: skip
LARS = SGD | {"name": "lars", "warmup_epochs": 10, "decay_1d": False, "trust": 0.001, "trust_clip": False}
SOLO_SGD = SGD | {"warmup_epochs": 10, "warmup_lr": 3e-5}
SOLO_LARS = LARS | {"warmup_lr": 3e-5, "trust": 0.02, "trust_clip": True}


def at(optimizer, lr, decay, **more):
    return optimizer | {"base_lr": lr, "weight_decay": decay, **more}


# --- settings of objectives: those of a run, with the formula's own constants ----------------------------------------

CODING = {"order": 4, "normalise": "l2", "scale": 1}
SWAV_SETTINGS = {"prototypes": 3000, "queue": 0, "use_queue": 1, "temperature": 0.1, "sharpness": 0.05, "iterations": 3,
                 "scale": 1}  # fmt: skip
SOLO_SWAV = SWAV_SETTINGS | {"queue": 3840, "use_queue": {"start": 0, "end": 1, "epochs": 50}}
DINO_SETTINGS = {"temperature": 0.1, "target_temperature": 0.04, "centre_momentum": 0.9, "scale": 1}
BARLOW = {"off_diagonal": 0.0051, "normalise": "bn", "scale": 1}
VICREG = {"invariance": 25, "variance": 25, "covariance": 1, "scale": 1}
UNIGRAD_SETTINGS = {"weight": 100, "correlation_momentum": 0.99, "scale": 1}

# --- recipes: method, settings, views, network, optimizer, batch, epochs, figures -----------------------------------

LINEAR, ALONGSIDE = "linear top-1 (%)", "classifier alongside, top-1 (%)"
SOLO = (256, 1000)  # batch and epochs of all of solo-learn's
SIMSIAM_R50 = (
    "simsiam", {"scale": 1}, (times(2, WEAK),), NETWORK | {"predictor": (512, 2048), "target": "stop-gradient"},
    at(SGD, 0.05, 1e-4, predictor_lr_constant=True), 512,
)  # fmt: skip
BYOL_R50 = ("byol", {"scale": 4}, ASYM)
MOCO_V3_R50 = ("moco-v3", {"temperature": 1.0, "scale": 4 * 1.0}, released(ASYM))
VICREG_R50 = ("vicreg", VICREG, ASYM, NETWORK | {"projector": (8192,) * 3, "projector_output": "linear"})
SWAV_R50 = SWAV_NETWORK | {"views_together": True}
MEC_SETTINGS = CODING | {"distortion": 0.06}
LARGER = MEC | {"projector": (8192, 8192, 8192), "predictor": (512, 8192)}

RECIPES = {
    # Appendices B and H: 600 epochs of batch 1024, ε 0.12 or 0.01; Algorithm 1 has no predictor and no target.
    "cifar10-paper": (
        "mec", CODING | {"distortion": 0.12}, (times(2, PAPER32),),
        NETWORK | {"backbone": "resnet18", "projector": (2048, 2048)}, at(SGD, 0.03, 5e-4), 1024, 600, {},
    ),
    "cifar10-paper-0.01": (
        "mec", CODING | {"distortion": 0.01}, (times(2, PAPER32),),
        NETWORK | {"backbone": "resnet18", "projector": (2048, 2048)}, at(SGD, 0.03, 5e-4), 1024, 600, {},
    ),
    "cifar10-paper-asymmetric": (
        "mec", CODING | {"distortion": 0.12}, (times(2, PAPER32),),
        MEC | {"backbone": "resnet18", "projector": (2048, 2048)}, at(SGD, 0.03, 5e-4), 1024, 600, {},
    ),
    # Four crops of 16 px more are this project's choice, and so is what they show.
    "cifar10-paper-multicrop": (
        "mec", CODING | {"distortion": 0.12},
        (times(2, PAPER32), times(4, PAPER32 | {"size": 16, "scale": (0.08, 0.5)})),
        NETWORK | {"backbone": "resnet18", "projector": (2048, 2048)}, at(SGD, 0.03, 5e-4), 1024, 600, {},
    ),
    # Appendix C; figures of Table 7.
    "imagenet-100ep": ("mec", MEC_SETTINGS, ASYM, MEC, at(SGD, 0.5, 1e-5, warmup_epochs=10), 1024, 100, {}),
    "imagenet-800ep": ("mec", MEC_SETTINGS, ASYM, MEC, at(LARS, 0.3, 1.5e-6), 4096, 800, {LINEAR: 74.5}),
    "imagenet-800ep-multicrop": (
        "mec", MEC_SETTINGS, (*GLOBAL, times(6, LOCAL)), MEC, at(LARS, 0.3, 1.5e-6), 4096, 800, {LINEAR: 75.5},
    ),
    "imagenet-800ep-large-projector": (
        "mec", MEC_SETTINGS, ASYM, LARGER, at(LARS, 0.3, 1.5e-6), 4096, 800, {LINEAR: 75.1},
    ),
    # xinliu20/MEC main_pretrain.py: eps 64 of d 2048, that is ε_d² 1/32, from 8 times it; README: 70.8.
    "imagenet-100ep-released": (
        "mec", CODING | {"distortion": {"start": 8 / 32, "end": 1 / 32, "epochs": 10}}, released(ASYM), MEC,
        at(SGD, 0.5, 1e-5, warmup_epochs=10), 1024, 100, {LINEAR: 70.8},
    ),
    # solo-learn scripts/pretrain/cifar/*.yaml, figures of its README. The published loss is `scale` times the formula.
    "cifar10-simsiam": (
        "simsiam", {"scale": 1}, (times(2, WEAK32),),
        SMALL_NETWORK | {"predictor": (512, 2048), "target": "stop-gradient"},
        at(SOLO_SGD, 0.5, 1e-5, predictor_lr_constant=True), *SOLO, {ALONGSIDE: 90.51},
    ),
    "cifar10-byol": (
        "byol", {"scale": 4}, ASYM32, BYOL | EMA_99 | {"backbone": "resnet18", "zero_init": False},
        at(SOLO_LARS, 1.0, 1e-5), *SOLO, {ALONGSIDE: 92.58},
    ),
    "cifar10-simclr": (
        "simclr", {"temperature": 0.2, "scale": 1}, (times(2, STRONG32),),
        SMALL_NETWORK | {"projector": (2048, 256), "projector_hidden": "relu", "projector_output": "linear-bias"},
        at(SOLO_LARS, 0.4, 1e-4), *SOLO, {ALONGSIDE: 90.74},
    ),
    "cifar10-moco-v2": (
        "moco-v2", {"temperature": 0.2, "queue": 32768, "key_views": 2, "scale": 1}, (times(2, WEAK32),),
        SMALL_NETWORK | {
            "projector": (2048, 256), "projector_hidden": "relu", "projector_output": "linear-bias",
            "target": "momentum", "target_momentum": 0.99, "target_momentum_end": 0.999,
        },
        at(SOLO_SGD, 0.3, 1e-4), *SOLO, {ALONGSIDE: 92.94},
    ),
    "cifar10-moco-v3": (
        "moco-v3", {"temperature": 0.2, "scale": 4 * 0.2}, ASYM32,
        MOCO_V3 | {"backbone": "resnet18", "zero_init": False}, at(SOLO_LARS, 0.3, 1e-6), *SOLO, {ALONGSIDE: 93.10},
    ),
    "cifar10-barlow-twins": (
        "barlow-twins", BARLOW | {"scale": 0.1}, ASYM32, SMALL_NETWORK | {"projector_output": "linear"},
        at(SOLO_LARS, 0.3, 1e-4), *SOLO, {ALONGSIDE: 92.10},
    ),
    "cifar10-vicreg": (  # its 25 of the variance is not halved, so that it acts as 50 here
        "vicreg", VICREG | {"variance": 50}, (times(2, SMALL32 | {"scale": (0.2, 1.0), "solarize": 0.1}),),
        SMALL_NETWORK | {"projector_output": "linear"}, at(SOLO_LARS, 0.3, 1e-4), *SOLO, {ALONGSIDE: 92.07},
    ),
    "cifar10-swav": (
        "swav", SOLO_SWAV, (times(2, STRONG32),), SWAV_NETWORK | {"backbone": "resnet18"},
        at(SOLO_LARS, 0.6, 1e-6, freeze_prototypes_epochs=2), *SOLO, {ALONGSIDE: 89.17},
    ),
    "cifar10-swav-multicrop": (  # no figure was published
        "swav", SOLO_SWAV, (GLOBAL32, GLOBAL32 | {"solarize": 0.2}, times(6, LOCAL32)),
        SWAV_NETWORK | {"backbone": "resnet18"},
        at(SOLO_LARS, 0.6, 1e-6, freeze_prototypes_epochs=2, end_lr=0.0006), *SOLO, {},
    ),
    "cifar10-dino": (
        "dino", DINO_SETTINGS | {"target_temperature": 0.07}, ASYM32,
        DINO | {"backbone": "resnet18", "prototypes": 4096, "views_together": False, "target_momentum": 0.9995},
        at(SOLO_LARS, 0.3, 1e-6, freeze_prototypes_epochs=1), *SOLO, {ALONGSIDE: 89.52},
    ),
    # No CIFAR run was published: UniGrad's weights with SimSiam's optimizer and views, this project's choice.
    "cifar10-unigrad": (
        "unigrad", UNIGRAD_SETTINGS, (times(2, WEAK32),),
        UNIGRAD | EMA_99 | {"backbone": "resnet18", "zero_init": False}, at(SOLO_SGD, 0.5, 1e-5), *SOLO, {},
    ),
    "cifar10-frossl": (  # OFSkean/FroSSL scripts/pretrain/cifar/frossl.yaml
        "frossl", {"invariance": 1, "scale": 1}, (times(2, WEAK32),),
        SMALL_NETWORK | {"projector": (2048, 2048, 1024), "projector_output": "linear-bias"},
        at(SOLO_LARS, 0.3, 1e-4), 256, 1000, {},
    ),
    "cifar10-corinfomax": (  # serdarozsoy/corinfomax-ssl README: rate 0.5 as used, batch 512, 2048-2048-64
        "corinfomax", {"invariance": 250, "kept": 0.01, "floor": 1e-8, "scale": 1}, (times(2, WEAK32),),
        NETWORK | {"backbone": "resnet18", "projector": (2048, 2048, 64), "projector_output": "linear"},
        at(SGD, 0.5 / 2, 1e-4, warmup_epochs=10), 512, 1000, {LINEAR: 93.18},
    ),
    "cifar10-emp-ssl": (  # tsb0601/EMP-SSL: rate 0.3 as used, batch 100, eta 0.005, clipped, no warm-up
        "emp-ssl", {"distance": 0.2, "agreement": 200, "scale": 1},
        (times(20, COLOURED | {
            "size": 32, "scale": (0.25, 0.25), "ratio": (1, 1), "saturation": 0.4, "hue": 0.2, "blur": 0.1,
            "solarize": 0.1, "interpolation": "bilinear", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
        }),),
        SMALL_NETWORK | {"projector": (4096, 4096, 1024), "projector_output": "linear-bias"},
        at(LARS, 0.3 * 256 / 100, 1e-4, warmup_epochs=0, trust=0.005, trust_clip=True), 100, 30, {},
    ),
    # From memory of their code, as their sources say: rates 1e-3 and 3e-3 as used, at batches of 32 and 1024.
    "cifar10-mmcr": (
        "mmcr", {"local": 0, "scale": 1}, (times(40, SMALL32 | {"saturation": 0.4}),),
        NETWORK | {"backbone": "resnet18", "projector": (512, 128), "projector_output": "linear"},
        at(SGD | {"name": "adamw"}, 1e-3 * 256 / 32, 1e-6), 32, 500, {},
    ),
    "cifar10-w-mse": (
        "w-mse", {"shrink": 0, "scale": 1}, (times(2, PAPER32 | {"interpolation": "bicubic", "grey": 0.1}),),
        NETWORK | {"backbone": "resnet18", "projector": (1024, 64), "projector_output": "linear-bias"},
        at(SGD | {"name": "adamw"}, 3e-3 / 4, 1e-6), 1024, 1000, {},
    ),
    # From memory of common practice, as its source says.
    "cifar10-supervised": (
        "supervised", {"label_smoothing": 0, "scale": 1}, (SMALL32 | {"scale": (0.5, 1.0), "jitter": 0, "grey": 0},),
        NETWORK | {"backbone": "resnet18", "projector": (10,), "projector_output": "linear-bias"},
        at(SGD, 0.2, 5e-4), 128, 200, {},
    ),
    # ImageNet, ResNet-50.
    "imagenet-simsiam": (*SIMSIAM_R50, 100, {LINEAR: 68.1}),
    "imagenet-simsiam-800ep": (*SIMSIAM_R50, 800, {LINEAR: 71.3}),
    "imagenet-byol": (*BYOL_R50, BYOL, at(LARS, 0.2, 1.5e-6), 4096, 1000, {}),
    "imagenet-byol-300ep": (*BYOL_R50, BYOL | EMA_99, at(LARS, 0.3, 1e-6), 4096, 300, {}),
    "imagenet-byol-100ep": (*BYOL_R50, BYOL | EMA_99, at(LARS, 0.45, 1e-6), 4096, 100, {}),
    "imagenet-simclr": (
        "simclr", {"temperature": 0.1, "scale": 2}, (times(2, STRONG),),
        NETWORK | {"projector": (2048, 2048, 128), "projector_output": "bn-affine", "views_together": True},
        at(LARS, 0.3, 1e-4), 4096, 1000, {},
    ),
    "imagenet-moco-v2": (
        "moco-v2", {"temperature": 0.2, "queue": 65536, "key_views": 1, "scale": 1}, (times(2, WEAK),),
        NETWORK | {
            "zero_init": False, "projector": (2048, 128), "projector_hidden": "relu",
            "projector_output": "linear-bias", "target": "momentum", "target_momentum": 0.999,
            "target_momentum_end": 0.999,
        },
        at(SGD, 0.03, 1e-4), 256, 200, {LINEAR: 67.5},
    ),
    "imagenet-moco-v3": (*MOCO_V3_R50, MOCO_V3, at(LARS, 0.3, 1e-6), 4096, 300, {LINEAR: 72.8}),
    "imagenet-moco-v3-100ep": (*MOCO_V3_R50, MOCO_V3, at(LARS, 0.6, 1e-6), 4096, 100, {LINEAR: 68.9}),
    "imagenet-moco-v3-1000ep": (
        *MOCO_V3_R50, MOCO_V3 | {"target_momentum": 0.996}, at(LARS, 0.3, 1.5e-6), 4096, 1000, {LINEAR: 74.6},
    ),
    "imagenet-barlow-twins": (  # on 16 GPUs, each of which pulls by its own rows: their mean is 1/16 of the gradient
        "barlow-twins", BARLOW | {"scale": 1 / 16}, *VICREG_R50[2:],
        at(LARS, 0.2, 1e-6, base_lr_1d=0.0048, end_lr=0.2 / 1000), 2048, 1000, {LINEAR: 73.2},
    ),
    "imagenet-vicreg": (*VICREG_R50, at(LARS, 0.2, 1e-6, end_lr=0.2 / 1000), 2048, 1000, {LINEAR: 73.2}),
    "imagenet-vicreg-100ep": (*VICREG_R50, at(LARS, 0.3, 1e-6, end_lr=0.3 / 1000), 512, 100, {LINEAR: 68.6}),
    "imagenet-swav": (  # 4.8 in all at batch 4096, from 0.3 and to 0.0048; LARC over all parameters
        "swav", SWAV_SETTINGS, SWAV, SWAV_R50,
        at(LARS, 4.8 / 16, 1e-6, warmup_lr=0.3 / 16, end_lr=0.0048 / 16, decay_1d=True, freeze_prototypes_epochs=1),
        4096, 800, {LINEAR: 75.3},
    ),
    "imagenet-swav-bs256": (
        "swav", SWAV_SETTINGS | {"queue": 3840, "use_queue": {"start": 0, "end": 1, "epochs": 15}}, SWAV, SWAV_R50,
        at(LARS, 0.6, 1e-6, end_lr=0.0006, warmup_epochs=0, decay_1d=True, freeze_prototypes_epochs=1),
        256, 200, {LINEAR: 72.7},
    ),
    "imagenet-dino": (
        "dino", DINO_SETTINGS, (*GLOBAL, times(8, LOCAL)), DINO,
        at(SGD, 0.03, 1e-4, warmup_epochs=10, decay_1d=False, clip=3, freeze_prototypes_epochs=1), 512, 100, {},
    ),
    # Its arguments were not at hand: batch, rate, decay and number of crops are from memory, so it expects no figure.
    "imagenet-dino-800ep": (
        "dino", DINO_SETTINGS | {"target_temperature": {"start": 0.04, "end": 0.07, "epochs": 50}},
        (*GLOBAL, times(6, LOCAL)), DINO | {"projector_hidden": "bn-gelu", "prototypes": 60000},
        at(LARS, 0.3, 1e-6, clip=3, freeze_prototypes_epochs=1), 4080, 800, {},
    ),
    "imagenet-unigrad": (  # warm-up from, and cosine to, a thousandth of the peak
        "unigrad", UNIGRAD_SETTINGS, (times(2, WEAK),), UNIGRAD,
        at(SGD, 0.05, 1e-4, warmup_epochs=5, warmup_lr=0.05 / 1000, end_lr=0.05 / 1000), 1024, 100, {LINEAR: 70.3},
    ),
    # Optimizer and batch from memory: not released.
    "imagenet-unigrad-800ep": (
        "unigrad", UNIGRAD_SETTINGS, (*GLOBAL, times(6, LOCAL)), UNIGRAD | {"projector": (8192,) * 3},
        at(LARS, 0.3, 1e-6), 4096, 800, {},
    ),
    # torchvision's reference training, from memory.
    "imagenet-supervised": (
        "supervised", {"label_smoothing": 0, "scale": 1}, (PLAIN | {"interpolation": "bilinear"},),
        NETWORK | {"zero_init": False, "projector": (1000,), "projector_output": "linear-bias"},
        at(SGD, 0.1, 1e-4), 256, 90, {},
    ),
}  # fmt: skip

# --- this project's own, docs/results.md and docs/log.md ------------------------------------------------------------

JOINT = {"exponent": 0, "agreement": 0, "centred": False, "normalise": "l2", "scale": 1}
OURS = {
    "digits": (
        "mec-joint", JOINT | {"distortion": 0.25},
        (times(2, PLAIN | {
            "size": 16, "scale": (1, 1), "ratio": (1, 1), "flip": 0, "rotate": 18, "shear": 12, "shift": 0.1,
            "zoom": 0.2, "jitter": 1, "brightness": 0.5, "contrast": 0.5, "saturation": 0, "hue": 0, "blur": 0.3,
            "blur_sigma": (0.1, 1.0), "noise": 0.07, "mean": (0.3,) * 3, "std": (0.35,) * 3,
        }),),
        NETWORK | {"backbone": "resnet10-fast", "projector": (512, 128)}, at(SGD, 2.0, 1e-4, warmup_epochs=1), 64, 37,
        {"1 label a class (%)": 88.9, "5 labels a class (%)": 96.5, "k-NN (%)": 98.6},
    ),
    # MoCo v3 CONFIG.md, from memory: ViT-S with AdamW of 1.5e-4 at 256, decay 0.1, 40 epochs of warm-up, conv1 frozen.
    "imagenet-vit-s": (
        "mec", MEC_SETTINGS, ASYM,
        MEC | {"backbone": "vit_small_patch16_224", "freeze_patches": True, "target_momentum": 0.99},
        at(SGD | {"name": "adamw", "decay_1d": False}, 1.5e-4, 0.1, warmup_epochs=40), 1024, 300, {},
    ),
    "small-vit": (
        "mec-joint", JOINT | {"distortion": 0.02}, (times(2, PAPER32),),
        NETWORK | {"backbone": "vit_tiny_patch16_224", "freeze_patches": True, "projector": (2048, 512)},
        at(SGD | {"name": "adamw", "decay_1d": False}, 2e-3, 0.05, warmup_epochs=10, clip=3.0), 256, 200, {},
    ),
    "auto": (
        "mec-joint", JOINT | {"distortion": 0.02}, (times(2, PAPER32),),
        NETWORK | {"backbone": "resnet18", "projector": (2048, 512)}, at(SGD, 0.5, 1e-4, warmup_epochs=1), 256, 100, {},
    ),
}  # fmt: skip

# --- what the paper prints ------------------------------------------------------------------------------------------

# Appendix D. † a projector of large dimensions, ‡ multi-crop.
TABLE_7 = """\
method	MEC‡	MEC†	MEC	BYOL	SimSiam	Barlow†	VICReg†	DINO‡	UniGrad†‡
epoch	800	800	800	1000	800	1000	1000	800	800
accuracy	75.5	75.1	74.5	74.3	71.3	73.2	73.2	75.3	75.5"""

TABLE_8 = """\
Method	Food101	CIFAR10	CIFAR100	SUN397	Cars	Aircraft	VOC2007	DTD	Pets	Caltech-101	Flowers
Linear probing
Supervised	72.3	93.6	78.3	61.9	66.7	61.0	82.8	74.9	91.5	94.5	94.7
SimCLR	68.4	90.6	71.6	58.8	50.3	50.3	80.5	74.5	83.6	90.3	91.2
BYOL	75.3	91.3	78.4	62.2	67.8	60.6	82.5	75.5	90.4	94.2	96.1
MEC	75.6	92.1	78.4	62.7	67.2	61.5	82.7	75.8	90.9	94.6	96.0
Fine-tuned
Random init	86.9	95.9	80.2	53.6	91.4	85.9	67.3	64.8	81.5	72.6	92.0
Supervised	88.3	97.5	86.4	64.3	92.1	86.0	85.0	74.6	92.1	93.3	97.6
SimCLR	88.2	97.7	85.9	63.5	91.3	88.1	84.1	73.2	89.2	92.1	97.0
BYOL	88.5	97.8	86.1	63.7	91.6	88.1	85.4	76.2	91.7	93.8	97.0
MEC	88.9	97.8	86.8	63.8	91.6	88.5	85.9	76.0	91.9	94.9	97.2"""
