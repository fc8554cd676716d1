"""Protocols as published, read from their sources a second time: judges of every number of mec.evaluation.

A letter of an appendix, where no paper is named: Liu et al., NeurIPS 2022. SimCLR's appendix: ICML 2020. A file: of the
repository named. Where no source that we hold has a number, a comment says whose it is.
"""

# --- classifiers on a backbone --------------------------------------------------------------------------------------

TRAINING = {  # what most share; crops and flips are torchvision's defaults
    "head_lr": None, "scaled": True, "batch_size": 256, "micro_batch_size": None, "epochs": 100, "steps": None,
    "optimizer": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 0, "schedule": "cosine by epoch",
    "drops": (), "frozen": False, "head_norm": False, "head_std": 0.01, "norm_rule": False,
    "interpolation": "bilinear", "resize": 256 / 224, "crop": (0.08, 1.0), "flip": 0.5,
}  # fmt: skip
FROZEN = TRAINING | {"frozen": True}
LARS = FROZEN | {"optimizer": "lars", "batch_size": 4096, "trust": 0.001}  # apex's LARC as the released script wraps it
SGD_4096 = FROZEN | {"batch_size": 4096, "nesterov": True, "epochs": 90}

PROBES = {
    "paper": LARS | {"base_lr": 0.05},  # appendix C
    "released": LARS | {"base_lr": 0.03, "head_norm": True},  # xinliu20/MEC benchmarks/linearprob/main_lincls.py
    "simclr": SGD_4096 | {"base_lr": 0.1, "schedule": "cosine by step"},  # its appendix B.6; schedule as in its code
    "simsiam": LARS | {"base_lr": 0.1, "epochs": 90},  # mmselfsup resnet50_linear-8xb512-coslr-90e_in1k.py: 1.6 in all
    "barlow-twins": FROZEN | {"base_lr": 0.3, "scaled": False, "weight_decay": 1e-6},  # its evaluate.py
    "vicreg": FROZEN | {"base_lr": 0.02, "scaled": False, "weight_decay": 1e-6},  # its README
    "lightly": FROZEN | {"base_lr": 0.1, "epochs": 90, "schedule": "cosine by step"},  # benchmarks/imagenet/resnet50
}
RELEASED_HEAD_EPS = 1e-6  # of the batch norm before the linear layer

PAPER_SEMI = TRAINING | {"base_lr": 0.05, "batch_size": 1024, "epochs": 50}  # appendix C
SIMCLR_SEMI = TRAINING | {"base_lr": 0.05, "batch_size": 4096, "nesterov": True, "schedule": "cosine by step"}
UNSCALED_20 = TRAINING | {"scaled": False, "epochs": 20}
SWAV_SEMI = UNSCALED_20 | {"schedule": "drops", "drops": (12, 16), "drop": 0.2}
VISSL_SEMI = TRAINING | {
    "base_lr": 0.05, "epochs": 70, "nesterov": True, "schedule": "drops", "drops": (30,), "drop": 0.1,
}  # fmt: skip
SEMI = {  # of 1 % of the labels, and of 10 %
    "paper": (PAPER_SEMI, PAPER_SEMI),
    "simclr": (SIMCLR_SEMI | {"epochs": 60}, SIMCLR_SEMI | {"epochs": 30}),  # its appendix B.5
    "barlow-twins": (UNSCALED_20 | {"base_lr": 0.005, "head_lr": 0.5}, None),  # its README has 1 % alone
    "vicreg": (  # its README
        UNSCALED_20 | {"base_lr": 0.03, "head_lr": 0.08},
        UNSCALED_20 | {"base_lr": 0.01, "head_lr": 0.1},
    ),
    "swav": (  # its README, eval_semisup.py
        SWAV_SEMI | {"base_lr": 0.02, "head_lr": 5.0},
        SWAV_SEMI | {"base_lr": 0.01, "head_lr": 0.2},
    ),
    "vissl": (VISSL_SEMI, VISSL_SEMI),  # configs/config/benchmark/semi_supervised
}

BY_STEPS = TRAINING | {"scaled": False, "nesterov": True, "schedule": "cosine by step", "interpolation": "bicubic"}
FINETUNES = {  # steps and batch: SimCLR's appendix B.8, ssl-transfer finetune.py. One rate of their grids: our choice
    "simclr": BY_STEPS | {"base_lr": 0.01, "steps": 20_000, "norm_rule": True},
    "simclr-random": BY_STEPS | {"base_lr": 0.1, "steps": 40_000, "norm_rule": True},
    "budget": BY_STEPS | {"base_lr": 0.01, "steps": 5_000, "batch_size": 64, "resize": 1.0},
}

# --- transfer: SimCLR's appendix B.8 --------------------------------------------------------------------------------

PENALTIES = {"count": 45, "weakest": 1e-6, "strongest": 1e5}
FINETUNING = {
    "paper": {
        "steps": 20_000, "batch_size": 256, "norm_rule": True, "resize": 256 / 224,
        "learning_rates": (1e-4, 10**-3.5, 1e-3, 10**-2.5, 1e-2, 10**-1.5, 1e-1),
        "weight_decays": (0, 1e-6, 10**-5.5, 1e-5, 10**-4.5, 1e-4, 10**-3.5, 1e-3),
    },
    "random": {
        "steps": 40_000, "batch_size": 256, "norm_rule": True, "resize": 256 / 224,
        "learning_rates": (1e-3, 10**-2.5, 1e-2, 10**-1.5, 1e-1, 10**-0.5, 1.0),
        "weight_decays": (1e-5, 10**-4.5, 1e-4, 10**-3.5, 1e-3, 10**-2.5, 1e-2, 10**-1.5),
    },
    "budget": {  # ssl-transfer finetune.py: 4 rates x (4 decays and 0) between the same ends
        "steps": 5_000, "batch_size": 64, "norm_rule": False, "resize": 1.0,
        "learning_rates": (1e-4, 1e-3, 1e-2, 1e-1), "weight_decays": (0, 1e-6, 1e-5, 1e-4, 1e-3),
    },
}  # fmt: skip

# Metric, and images to choose settings by: (held out, of all training images). The latter are BYOL's, by memory; each
# pair adds up to the public totals. None: an official validation set.
TRANSFER = {
    "food101": ("top-1", (7_575, 68_175 + 7_575)),
    "cifar10": ("top-1", (5_000, 45_000 + 5_000)),
    "cifar100": ("top-1", (5_067, 44_933 + 5_067)),
    "sun397": ("top-1", (3_970, 15_880 + 3_970)),
    "cars": ("top-1", (1_650, 6_494 + 1_650)),
    "aircraft": ("mean per class", None),
    "voc2007": ("11-point mAP", None),
    "dtd": ("top-1", None),
    "pets": ("mean per class", (740, 2_940 + 740)),
    "caltech101": ("mean per class", (510, 2_550 + 510)),
    "flowers102": ("mean per class", None),
}
CALTECH_IMAGES_A_CLASS = 30

# --- detection: appendix C, MoCo's detection/configs, detectron2's defaults -----------------------------------------

REGIONS = {
    "anchor_sizes": (32, 64, 128, 256, 512), "anchors": 256, "before_nms": (12_000, 6_000), "after_nms": (2_000, 1_000),
    "regions": 512, "detections": 100, "pooled": 14,
}  # fmt: skip
DETECTION = {
    "lr": 0.02, "warmup_factor": 1 / 1000, "batch_size": 16, "momentum": 0.9, "weight_decay": 1e-4, "flip": 0.5,
    "precise": 200, "regions": REGIONS, "photographs": None,
}  # fmt: skip
VOC_SIZES = {"train": (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800), "test": 800, "most": 1333}
COCO_SIZES = {"train": (640, 672, 704, 736, 768, 800), "test": 800, "most": 1333}
VOC = DETECTION | {"test": "2007 test", "warmup": 100, "sizes": VOC_SIZES, "seeds": (0, 1, 2, 3, 4)}  # five runs
DETECTORS = {
    ("voc0712", "voc0712-24k"): VOC
    | {"train": ("2007 trainval", "2012 trainval"), "iterations": 24_000, "drops": (18_000, 22_000)},
    # "smaller iterations according to the dataset size": 24,000 x 5,011 / 16,551 images, drops in proportion.
    ("voc", "voc07"): VOC | {"train": ("2007 trainval",), "iterations": 7_266, "drops": (5_450, 6_661)},
    # VISSL rn50_transfer_voc07_detectron2_e2e.yaml.
    ("voc", "voc07-vissl"): VOC | {"train": ("2007 trainval",), "iterations": 12_500, "drops": (9_500,)},
    ("coco", "coco-1x"): DETECTION | {
        "train": ("train2017",), "test": "val2017", "iterations": 90_000, "drops": (60_000, 80_000), "warmup": 1_000,
        "sizes": COCO_SIZES, "seeds": (0,),
    },
}  # fmt: skip
SEARCHED_RATES = (0.02, 0.03, 0.05, 0.1, 0.2)  # this project's choice around the rates that others state
PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

# --- tracking: UniTrack, its configs ssib_s3_womotion.yaml and ssib_s4_womotion.yaml --------------------------------

TRACKING = {
    "appearance.CELL": 8,
    "sot.SIDE": 520, "sot.CELLS": 65, "sot.CONTEXT": 1 + 3.5, "sot.SCALES": (1 / 1.0275, 1, 1.0275),
    "sot.SCALE_PENALTY": 0.985, "sot.LEARNING_RATE": 0.01, "sot.RIDGE": 1e-4, "sot.NEAR_PX": 20,
    "vos.MEMORY": 5, "vos.RADIUS": 12, "vos.TOPK": 10, "vos.PROPAGATION_TEMPERATURE": 0.05,
    "vos.VOID": 255, "vos.BOUNDARY": 0.008,
    "association.RECONSTRUCTION_TEMPERATURE": 100, "association.NORM_FLOOR": 1e-12,
    "kalman.POSITION": 1 / 20, "kalman.VELOCITY": 1 / 160, "kalman.ASPECT": 1e-2, "kalman.ASPECT_VELOCITY": 1e-5,
    "kalman.ASPECT_MEASURED": 1e-1, "kalman.CHI2_4": 9.4877,
    "mot.CONFIDENT": 0.5, "mot.SMALLEST": 200, "mot.WIDEST": 1.6, "mot.FIRST_ID": 2000,
    "objects.LETTERBOX": (608, 1088), "objects.LETTERBOX_GREY": 128, "objects.ROWS": 4, "objects.COLUMNS": 10,
    "objects.MOST_CELLS": 200, "objects.SAME_BOX": 0.7, "objects.TORSO": (2, 3, 9, 12, 8), "objects.JOINTS": 15,
    "objects.LIMBS": ((9, 10), (10, 11), (8, 7), (7, 6), (9, 12), (8, 12), (12, 14), (9, 3), (3, 4), (4, 5), (8, 2),
                      (2, 1), (1, 0)),
    "posetrack.NOT_TRACKED": 1000, "posetrack.POSE_CELLS": {3: 400, 4: 200}, "posetrack.BUFFER": 6,
    "trackscores.HEAD_SHARE": 0.6, "trackscores.NEAR_HEADS": 0.5,
}  # fmt: skip
# Costs above which nothing is matched; `buffer` at 30 frames a second.
TRACKS = {"appearance": 0.7, "overlap": 0.5, "confirm": 0.7, "duplicate": 0.15, "score": 0.5, "buffer": 30}
POSE_TRACKS = {"confirm": 0.6, "duplicate": 0.2}
WITH_MOTION = {"MotBenchmark": (0.98, True), "MotsBenchmark": (0.98, False), "PoseTrackBenchmark": (0.9999, False)}

# --- k nearest neighbours: DINO eval_knn.py; few labels: this project's -----------------------------------------------

KNN = {"k": (10, 20, 100, 200), "temperature": 0.07}
FEW_LABELS = {"labels_per_class": (1, 5), "draws": 20, "C": 10}
