"""What researchers hand to formulas: arrays, whole numbers, half precision, rows of zeros, other orders in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mec.objectives as objectives
from mec.errors import BadInput

PAIRS = ("barlow_twins", "info_nce", "matrix_ssl", "maximum_entropy_coding", "negative_cosine", "nt_xent", "vicreg")
STACKS = ("emp_ssl", "frossl", "joint_coding", "mmcr")
ALL = (*PAIRS, *STACKS)


def given_to(name: str, change=lambda x: x):
    random = torch.Generator().manual_seed(0)
    views = torch.randn(2, 8, 4, generator=random)
    inputs = [change(v) for v in views] if name in PAIRS else [change(views)]
    return getattr(objectives, name)(*inputs), inputs


@pytest.mark.parametrize("name", ALL)
def test_arrays_and_lists_are_told_what_to_do(name):
    for change in (lambda x: x.numpy(), lambda x: x.tolist()):
        with pytest.raises(BadInput, match=r"torch\.as_tensor\(\.\.\.\) makes a tensor of it"):
            given_to(name, change)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.complex64])
def test_numbers_that_are_not_real_are_refused(name, kind):
    with pytest.raises(BadInput, match="embeddings are real numbers"):
        given_to(name, lambda x: x.to(kind))


@pytest.mark.parametrize("name", ALL)
def test_half_precision_gives_nearly_the_same_in_float32(name):
    wanted, _ = given_to(name)
    for kind, close in ((torch.float16, 0.01), (torch.bfloat16, 0.05)):
        found, _ = given_to(name, lambda x, kind=kind: x.to(kind))
        assert found.dtype == torch.float32
        assert np.isclose(float(found), float(wanted), rtol=close, atol=close)


@pytest.mark.parametrize("name", ALL)
def test_another_order_in_memory_is_the_same(name):
    wanted, _ = given_to(name)
    found, _ = given_to(name, lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_a_row_of_zeros_has_a_small_gradient(name):
    def zeroed(x):
        x = x.clone()
        x[..., 0, :] = 0
        return x.requires_grad_()

    loss, inputs = given_to(name, zeroed)
    loss.backward()
    usual, others = given_to(name, lambda x: x.clone().requires_grad_())
    usual.backward()
    largest = max(float(x.grad.abs().max()) for x in others)
    assert max(float(x.grad.abs().max()) for x in inputs) < 10 * largest
