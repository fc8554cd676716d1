from .baselines import barlow_twins, cross_entropy, info_nce, negative_cosine, nt_xent, vicreg
from .coding import Distortion, coding_length, distortion_for
from .matched import Normalise
from .mec import joint_coding, lower_bound, maximum_entropy_coding
from .memory import DINO, QueuedInfoNCE, SwAV, UniGrad
from .methods import METHODS, Method, differs_from_paper, method_named, methods_in_words
from .relatives import CorInfoMax, emp_ssl, frossl, matrix_ssl, mmcr, simdino, w_mse
from .table import OBJECTIVES

__all__ = [
    "DINO", "METHODS", "OBJECTIVES", "CorInfoMax", "Distortion", "Method", "Normalise", "QueuedInfoNCE", "SwAV",
    "UniGrad", "barlow_twins", "coding_length", "cross_entropy", "differs_from_paper", "distortion_for", "emp_ssl",
    "frossl", "info_nce", "joint_coding", "lower_bound", "matrix_ssl", "maximum_entropy_coding", "method_named",
    "methods_in_words", "mmcr", "negative_cosine", "nt_xent", "simdino", "vicreg", "w_mse",
]  # fmt: skip
