"""What formulas refuse, in one way: shapes that do not match, and settings that are not finite or out of range.

Numbers are held against the ranges of `mec.runtime.ranges`; a NaN in the embeddings is no setting: it gives a NaN.
"""

from typing import Any

from torch import Tensor

from mec.errors import BadInput
from mec.runtime.ranges import ABOVE_0, FROM_1


def shape_of(x: Any) -> str:
    if isinstance(x, Tensor):
        return str([*x.shape])
    turns = hasattr(x, "__array__") or isinstance(x, (list, tuple))
    return f"a {type(x).__name__}" + " (torch.as_tensor(...) makes a tensor of it)" * turns


def check_real(name: str, x: Tensor) -> None:
    if not x.is_floating_point():
        raise BadInput(f"{name} is of {x.dtype}: embeddings are real numbers; .float() makes them of whole ones.")


def check_matrix(name: str, x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.ndim != 2 or 0 in x.shape:
        raise BadInput(f"{name} is {shape_of(x)}: it is [m, d], one embedding a row, at least one of each.")
    check_real(name, x)


def check_pair(online: Tensor, target: Tensor) -> None:
    both = isinstance(online, Tensor) and isinstance(target, Tensor)
    if not both or online.ndim != 2 or online.shape != target.shape or 0 in online.shape:
        shapes = f"online is {shape_of(online)}, target {shape_of(target)}"
        raise BadInput(f"{shapes}: both are [m, d], row i the same image.")
    check_real("online", online)
    check_real("target", target)


def check_stack(views: Tensor, name: str = "views") -> None:
    if not isinstance(views, Tensor) or views.ndim != 3 or 0 in views.shape:
        raise BadInput(f"{name} is {shape_of(views)}: it is [V, m, d], V views of the same m images.")
    check_real(name, views)


def check_stacks(online: Tensor, target: Tensor | None, embedding: int | None = None) -> None:
    """Online [V, m, d], V at least 2, and target [T, m, d] where there is one; d is `embedding` where that is given."""
    check_stack(online, "online")
    if target is not None:
        check_stack(target, "target")
        if online.shape[1:] != target.shape[1:]:
            shapes = f"online is {shape_of(online)}, target {shape_of(target)}"
            raise BadInput(f"{shapes}: [V, m, d] and [T, m, d], the same images.")
    if len(online) < 2:
        raise BadInput(f"online is {shape_of(online)}, one view of each image: one is compared with another.")
    if embedding is not None and online.shape[2] != embedding:
        raise BadInput(f"online is {shape_of(online)}: this objective was made for embeddings of {embedding} numbers.")


def check_labels(labels: Tensor, images: int, classes: int) -> None:
    if not isinstance(labels, Tensor) or labels.shape != (images,) or labels.is_floating_point():
        raise BadInput(f"labels are {shape_of(labels)}: whole numbers [{images}], the class of each image.")
    if labels.device.type == "cpu":  # elsewhere looking at them would wait for the device
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise BadInput(f"labels go from {low} to {high}, and there are logits of {classes} classes, from 0.")


def check_distortion(distortion: float | str) -> None:
    if distortion != "guaranteed" and not ABOVE_0.fits(distortion):
        raise BadInput(f"distortion is {distortion!r}: it takes {ABOVE_0} (the paper's is 0.06), or 'guaranteed'.")


def check_order(order: int | None) -> None:
    if order is not None and not FROM_1.fits(order):
        raise BadInput(f"order is {order!r}: it takes {FROM_1}, or None for the log-determinant itself.")


def needed(target: Tensor | None, method: str) -> Tensor:
    if target is None:
        raise BadInput(f"{method} needs a target network: --set network.target=momentum")
    return target
