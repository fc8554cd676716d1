"""`mec.objectives`: every formula by name, documented, and refusing in the same words what does not fit."""

import inspect
import math
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import mec.objectives
from mec.errors import BadInput
from mec.objectives.methods import METHODS, Method, differs_from_paper, methods_in_words
from mec.objectives.table import OBJECTIVES, setting_types
from mec.recipes.table import RECIPES

M, D = 6, 4
PAIR = (torch.randn(M, D), torch.randn(M, D))
STACKS = (torch.randn(2, M, D), torch.randn(2, M, D))
LABELS = torch.arange(M) % D
# Each formula and each objective with memory, called with its settings on embeddings that fit.
CALLS = {
    "negative_cosine": lambda *at, **s: mec.objectives.negative_cosine(*(at or PAIR), **s),
    "nt_xent": lambda *at, **s: mec.objectives.nt_xent(*(at or PAIR), **s),
    "info_nce": lambda *at, **s: mec.objectives.info_nce(*(at or PAIR), **s),
    "barlow_twins": lambda *at, **s: mec.objectives.barlow_twins(*(at or PAIR), **s),
    "vicreg": lambda *at, **s: mec.objectives.vicreg(*(at or PAIR), **s),
    "maximum_entropy_coding": lambda *at, **s: mec.objectives.maximum_entropy_coding(*(at or PAIR), **s),
    "joint_coding": lambda *at, **s: mec.objectives.joint_coding(*(at or STACKS[:1]), **s),
    "coding_length": lambda *at, **s: mec.objectives.coding_length(*(at or PAIR[:1]), **{"distortion": 0.06} | s),
    "lower_bound": lambda **s: mec.objectives.lower_bound(**{"m": 4, "d": 3, "distortion": 0.06} | s),
    "cross_entropy": lambda *at, **s: mec.objectives.cross_entropy(*(at or STACKS[:1]), **{"labels": LABELS} | s),
    "QueuedInfoNCE": lambda *at, queue=M, **s: mec.objectives.QueuedInfoNCE(D, queue=queue)(*(at or STACKS), **s),
    "SwAV": lambda *at, prototypes=3, queue=0, **s: mec.objectives.SwAV(D, prototypes=prototypes, queue=queue)(
        *(at or STACKS), **s
    ),
    "DINO": lambda *at, **s: mec.objectives.DINO(D)(*(at or STACKS), **s),
    "UniGrad": lambda *at, **s: mec.objectives.UniGrad(D)(*(at or STACKS), **s),
    "CorInfoMax": lambda *at, **s: mec.objectives.CorInfoMax(D)(*(at or STACKS), **s),
    "simdino": lambda *at, **s: mec.objectives.simdino(*(at or STACKS), **s),
    "matrix_ssl": lambda *at, **s: mec.objectives.matrix_ssl(*(at or PAIR), **s),
    "mmcr": lambda *at, **s: mec.objectives.mmcr(*(at or STACKS[:1]), **s),
    "emp_ssl": lambda *at, **s: mec.objectives.emp_ssl(*(at or STACKS[:1]), **s),
    "frossl": lambda *at, **s: mec.objectives.frossl(*(at or STACKS[:1]), **s),
    "w_mse": lambda *at, **s: mec.objectives.w_mse(*(at or STACKS[:1]), **s),
}
POSITIVE, WEIGHT, SHARE, COUNT = (0.0, -0.1), (-0.1,), (-0.1, 1.1), (0, -3, 2.5)
OUT_OF_RANGE = {
    "nt_xent": {"temperature": POSITIVE},
    "info_nce": {"temperature": POSITIVE},
    "barlow_twins": {"off_diagonal": WEIGHT},
    "vicreg": {"invariance": WEIGHT, "variance": WEIGHT, "covariance": WEIGHT},
    "maximum_entropy_coding": {"distortion": POSITIVE, "order": COUNT},
    "joint_coding": {"distortion": POSITIVE, "exponent": SHARE, "agreement": WEIGHT},
    "coding_length": {"distortion": POSITIVE, "order": COUNT},
    "lower_bound": {"m": COUNT, "d": COUNT, "distortion": POSITIVE, "exponent": SHARE, "agreement": WEIGHT},
    "cross_entropy": {"label_smoothing": SHARE},
    "QueuedInfoNCE": {"temperature": POSITIVE, "queue": COUNT},
    "SwAV": {
        "temperature": POSITIVE, "sharpness": POSITIVE, "iterations": COUNT, "use_queue": SHARE,
        "prototypes": (1, *COUNT), "queue": (-1, 0.5),
    },
    "DINO": {"temperature": POSITIVE, "target_temperature": POSITIVE, "centre_momentum": SHARE},
    "UniGrad": {"weight": WEIGHT, "correlation_momentum": SHARE},
    "CorInfoMax": {"invariance": WEIGHT, "kept": SHARE, "floor": POSITIVE},
    "simdino": {"distance": POSITIVE, "agreement": WEIGHT},
    "matrix_ssl": {"order": COUNT, "own": WEIGHT},
    "mmcr": {"local": WEIGHT},
    "emp_ssl": {"distance": POSITIVE, "agreement": WEIGHT},
    "frossl": {"invariance": WEIGHT},
    "w_mse": {"shrink": SHARE},
}  # fmt: skip
CASES = [(name, setting) for name, settings in OUT_OF_RANGE.items() for setting in settings]


def numbers_of(function) -> set[str]:
    """Settings of a formula, or of making and calling a module, that are numbers by their hint."""
    made = getattr(mec.objectives, function)
    parts = [made.__init__, made.forward] if inspect.isclass(made) else [made]
    hints = {k: str(v) for part in parts for k, v in inspect.get_annotations(part).items()}
    number = re.compile(r"Positive|NotNegative|Share|Count|Whole|Distortion|FROM_2|int\b|float\b")
    return {k for k, v in hints.items() if number.search(v) and k not in ("embedding", "return", "key_views")}


@pytest.mark.parametrize("name", CALLS)
def test_every_number_that_a_formula_takes_is_among_those_tried_here(name):
    assert numbers_of(name) == OUT_OF_RANGE.get(name, {}).keys()


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_a_setting_that_is_not_finite_or_out_of_range_is_refused_by_name(name, setting):
    CALLS[name]()
    for value in (*OUT_OF_RANGE[name][setting], math.nan, math.inf, -math.inf, True, "many"):
        with pytest.raises(BadInput) as caught:
            CALLS[name](**{setting: value})
        assert str(caught.value).startswith(f"{setting} is {value!r}: it takes a ")


TWO_SETS = ["negative_cosine", "nt_xent", "info_nce", "barlow_twins", "vicreg", "maximum_entropy_coding", "matrix_ssl"]


@pytest.mark.parametrize("name", TWO_SETS)
def test_formulas_on_two_sets_refuse_rows_that_do_not_match(name):
    a = PAIR[0]
    for online, target in ((a, a[1:]), (a, a[:, 1:]), (a[0], a[0]), (a[None], a[None]), (a[:0], a[:0]), (a, [1.0])):
        with pytest.raises(BadInput, match=r"^online is .*, target .*: both are \[m, d\], row i the same image\.$"):
            CALLS[name](online, target)


@pytest.mark.parametrize("name", ["QueuedInfoNCE", "DINO", "UniGrad", "SwAV", "CorInfoMax"])
def test_objectives_with_memory_refuse_stacks_that_do_not_match(name):
    a = STACKS[0]
    for online, target in ((a, a[:, 1:]), (a[0], a), (a[:, :, 1:], a[:, :, 1:]), (a[:1], a), ([1.0], a)):
        if name not in ("SwAV", "CorInfoMax") or online is not a:  # they have no use for a target
            with pytest.raises(BadInput, match=r"^online is "):
                CALLS[name](online, target)
    for size in (0, -1, 2.0, math.nan):
        with pytest.raises(BadInput, match=r"^embedding is .*: it takes a whole number, at least 1\.$"):
            getattr(mec.objectives, name)(size)
    if name not in ("SwAV", "CorInfoMax"):
        with pytest.raises(BadInput, match="needs a target network"):
            CALLS[name](a, None)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (LABELS[1:], r"labels are \[5\]: whole numbers \[6\], the class of each image\."),
        (LABELS.double(), r"labels are \[6\]: whole numbers \[6\], the class of each image\."),
        (LABELS - 1, "labels go from -1 to 2, and there are logits of 4 classes, from 0"),
        (LABELS + 1, "labels go from 1 to 4, and there are logits of 4 classes, from 0"),
    ],
)
def test_labels_that_have_no_logit_or_no_image_are_refused(labels, text):
    with pytest.raises(BadInput, match=f"^{text}"):
        CALLS["cross_entropy"](labels=labels)


@pytest.mark.parametrize("weights", [(math.nan, 1.0), (-0.5, 1.5), (0.5, 0.6), (1.0,), (math.inf, -math.inf)])
def test_weights_of_views_are_shares(weights):
    with pytest.raises(BadInput, match=r"^weights are \[.*\] for 2 views: a share for each, adding up to 1\.$"):
        CALLS["joint_coding"](weights=torch.tensor(weights))


def test_key_views_are_one_or_two():
    with pytest.raises(BadInput, match=r"^key_views is 3: 1 or 2\.$"):
        CALLS["QueuedInfoNCE"](key_views=3)


@pytest.mark.parametrize("name", ["maximum_entropy_coding", "joint_coding", "barlow_twins"])
def test_an_unknown_normalisation_is_refused(name):
    with pytest.raises(BadInput, match=r"^normalise is 'l3': l2, bn or both\.$"):
        CALLS[name](normalise="l3")


@pytest.mark.parametrize("name", [n for n in mec.objectives.__all__ if n in CALLS])
def test_every_formula_says_what_it_takes_gives_and_refuses_and_where_it_comes_from(name):
    made = getattr(mec.objectives, name)
    parts = [made, made.forward] if isinstance(made, type) else [made]
    text = "\n".join(inspect.getdoc(part) or "" for part in parts)
    for heading in ("Args:", "Returns:", "Raises:", "Source:"):
        assert heading in text
    arguments = text.split("Args:", 1)[1]
    for part in (made.__init__, made.forward) if isinstance(made, type) else (made,):
        for parameter in inspect.signature(part).parameters:
            if parameter not in ("self", "labels", "ranks"):
                assert re.search(rf"^\s+(\w+, )*{parameter}(, \w+)*: ", arguments, re.M), parameter
    assert re.search(r"^\s+\[\], |^\s+-r ", text.split("Returns:")[1], re.M)


def test_the_names_are_those_of_the_stub_and_come_without_torch_until_one_is_used():
    formulas = set(CALLS)
    tables = {"METHODS", "OBJECTIVES", "Method", "method_named", "methods_in_words", "differs_from_paper"}
    assert set(mec.objectives.__all__) == formulas | tables | {"Distortion", "Normalise", "distortion_for"}
    assert all(getattr(mec.objectives, name) is not None for name in mec.objectives.__all__)
    with pytest.raises(AttributeError, match="vicregg"):
        _ = mec.objectives.vicregg
    code = (
        "import sys, mec.objectives as o; o.METHODS, o.methods_in_words(); print('torch' in sys.modules, end=' '); "
        "o.vicreg; print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False True\n"


# --- the list of methods -----------------------------------------------------------------------------------------


def test_every_method_is_described_in_a_line_that_fits_a_terminal_beside_its_name():
    lines = methods_in_words().splitlines()
    assert [line.split()[0] for line in lines] == list(METHODS)
    assert all(20 < len(line) <= 112 for line in lines)


def test_mec_says_that_its_distortion_is_not_the_paper_s_unless_it_was_asked_for():
    assert "0.06" in METHODS["mec"].about
    told = differs_from_paper("mec", {})
    assert told.startswith("mec: ε_d² is the smallest with which its series surely converges; the paper's 0.06")
    assert told.endswith("--set settings.distortion=0.06")
    assert differs_from_paper("mec", {"distortion": 0.06}) == ""
    assert differs_from_paper("mec", RECIPES["cifar10-paper"].settings) == ""
    for name in ("mec-exact", "mec-joint", "simclr", "supervised"):
        assert differs_from_paper(name, {}) == ""


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_has_other_than_its_paper_is_a_setting_that_it_takes_and_says_how_to_change(name):
    method: Method = METHODS[name]
    assert bool(method.paper) == bool(method.differs)
    known = setting_types(OBJECTIVES[method.objective])
    for setting, value in method.paper.items():
        assert setting in known
        assert method.settings.get(setting) != value
        assert f"--set settings.{setting}={value:g}" in method.differs


def test_no_published_recipe_differs_from_its_paper_by_a_default():
    for recipe in RECIPES.values():
        if recipe.source.startswith(("Liu", "official")) or recipe.expects:
            assert differs_from_paper(recipe.method, recipe.settings) == "", recipe.source


def test_modules_with_memory_are_modules_and_the_rest_plain_functions():
    for name in CALLS:
        made = getattr(mec.objectives, name)
        assert isinstance(made, type) and issubclass(made, nn.Module) if name[0].isupper() else inspect.isfunction(made)
