"""Which batches a step takes: each refusal names what it found, why it can't be trained, and what to do."""

from __future__ import annotations

from math import isfinite
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastiseat.attacks.balls import Ball
from fastiseat.errors import UserError
from fastiseat.fields import full_name, shown

ROUNDING = 1e-6
"""How far beyond [0, 1] pixel values may lie, which arithmetic leaves there; x' is clamped to [0, 1]."""

_Maybe = TypeVar("_Maybe", Tensor, Tensor | None)

# How many planes an image has, as far as its layout can be told by that.
_COLOURS = (1, 3)
# From labels of other dtypes, floating or not.
_WAYS = {
    False: "; labels.long() is",
    True: "; they are class numbers, no probabilities: labels.long(), or .argmax(1)",
}


def check_alone() -> None:
    """:class:`UserError` in one of several ranks of a process group: each would go on with its own gradient."""
    group = torch.distributed
    if group.is_available() and group.is_initialized() and group.get_world_size() > 1:
        raise UserError(
            f"torch.distributed runs here with a world size of {group.get_world_size()}: a step does not average its "
            "gradient over ranks, so their weights would drift apart; train in one process, or destroy the process "
            "group first where each rank trains a network of its own"
        )


def check_no_cache() -> None:
    """:class:`UserError` where parametrized weights are cached: one pass would read those of another."""
    if parametrize._cache_enabled:
        raise UserError(
            "torch.nn.utils.parametrize.cached() is on around the step, whose passes are at several weights: call "
            "the step outside of it"
        )


def as_network_input(images: Tensor, weight: Tensor) -> Tensor:
    """Images as the network reads them: (m, C, H, W) of the weights' dtype, in [0, 1].

    uint8 images are (m, H, W, C), 0 … 255, and come out in channels-last; float ones are in [0, 1] and of the weights'
    dtype already.
    """
    check_images(images, weight)
    if images.dtype == torch.uint8:
        return images.permute(0, 3, 1, 2).to(weight.dtype).div_(255)
    return images.detach()


def layout_of(model: nn.Module) -> torch.memory_format:
    """The layout of its convolutions. One that reads its features by ``view`` needs NCHW, and has it in its weights."""
    kernels = [weight for weight in model.parameters() if weight.dim() == 4]
    channels_last = any(
        weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        for weight in kernels
    )
    return torch.channels_last if channels_last else torch.contiguous_format


def outside_inference(tensor: _Maybe) -> _Maybe:
    """A tensor from ``torch.inference_mode`` as one that gradients may flow through; any other as it is."""
    return tensor.clone() if isinstance(tensor, Tensor) and tensor.is_inference() else tensor


def check_tensor(name: str, value: object) -> None:
    """A dense tensor with values; :class:`UserError` with the way to one."""
    if not isinstance(value, Tensor):
        way = "torch.from_numpy" if hasattr(value, "__array_interface__") else "torch.tensor"
        raise UserError(
            f"{name}={shown(value)}: a tensor is needed, not a {full_name(type(value))}; {way}({name}) is one"
        )
    if value.is_nested:
        raise UserError(f"{name} is a nested tensor: one of a single shape is needed, torch.stack makes it")
    if value.layout != torch.strided:
        raise UserError(f"{name} is {value.layout}: a dense tensor is needed, {name}.to_dense()")
    if value.device.type == "meta":
        raise UserError(f"{name} lies on the meta device, which holds no values: make it on the model's")
    if value.is_quantized:
        raise UserError(f"{name} is {value.dtype}: plain numbers are needed, {name}.dequantize()")


def check_images(images: Tensor, weight: Tensor) -> None:
    """What can be told without their values; :class:`UserError` where they are not as described above."""
    check_tensor("images", images)
    if images.dim() != 4:
        raise UserError(f"images have shape {tuple(images.shape)}: NCHW (float) or NHWC (uint8) is needed")
    if not images.numel():
        raise UserError(f"images have shape {tuple(images.shape)}, no images: give one at least")
    if images.device != weight.device:
        raise UserError(f"images lie on {images.device}, the model on {weight.device}: move one of them")
    if images.dtype not in (torch.uint8, weight.dtype):
        raise UserError(f"images are {images.dtype}, the model {weight.dtype}: convert one, or pass uint8")
    if images.dtype == torch.uint8 and images.shape[1] in _COLOURS and min(images.shape[2:]) > max(_COLOURS):
        raise UserError(
            f"uint8 images of shape {tuple(images.shape)} look like NCHW: bytes are NHWC, images.permute(0, 2, 3, 1)"
        )


def check_layout(images: Tensor, error: RuntimeError) -> None:
    """:class:`UserError` where the network failed on float images whose last dimension looks like that of colours."""
    if images.is_floating_point() and images.shape[3] in _COLOURS and images.shape[1] not in _COLOURS:
        raise UserError(
            f"the model can't read images of shape {tuple(images.shape)}, which look like NHWC: floats are NCHW, "
            "images.permute(0, 3, 1, 2)"
        ) from error


def check_labels(images: Tensor, labels: Tensor) -> None:
    """One int64 an image, beside it."""
    check_tensor("labels", labels)
    if labels.shape != (len(images),) or labels.dtype != torch.int64:
        raise UserError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}: int64 of shape ({len(images)},) is needed"
            + _WAYS.get(labels.dtype.is_floating_point, "") * (labels.dtype != torch.int64)
        )
    if labels.device != images.device:
        raise UserError(f"labels lie on {labels.device}, images on {images.device}: move one of them")


def check_perturbations(
    images: Tensor, delta: Tensor | None, start: Tensor | None, weight: Tensor, *, views: int = 1
) -> None:
    """Like the images as the network reads them, (m, C, H, W), m times ``views``, and one of them at most."""
    shape = images.shape if images.dtype != torch.uint8 else images.permute(0, 3, 1, 2).shape
    shape = torch.Size((views * len(images), *shape[1:]))
    for name, perturbation in {"delta": delta, "start": start}.items():
        if perturbation is None:
            continue
        check_tensor(name, perturbation)
        if perturbation.shape != shape:
            raise UserError(f"{name} has shape {tuple(perturbation.shape)}: that of the images, {tuple(shape)}")
        if (perturbation.dtype, perturbation.device) != (weight.dtype, weight.device):
            raise UserError(
                f"{name} is {perturbation.dtype} on {perturbation.device}, the model {weight.dtype} on "
                f"{weight.device}: convert or move it"
            )
    if delta is not None and start is not None:
        raise UserError("delta and start exclude each other: delta is a finished perturbation, start a first one")


def check_places(images: Tensor, index: Tensor | None, rows: Tensor | None, *, views: int = 1) -> None:
    """uint8 images to augment, by their places in the data set and among ``images``."""
    for name, places in {"index": index, "rows": rows}.items():
        if places is not None:
            check_tensor(name, places)
    if index is None:
        if views > 1:
            raise UserError(
                f"images without index: the method sees {views} augmentations of each; pass uint8 images with their "
                "index"
            )
        if rows is not None:
            raise UserError("rows without index: samples of resident images are augmented by their index")
        return
    if images.dtype != torch.uint8:
        raise UserError(f"index with images of {images.dtype}: uint8 images (m, H, W, C) are augmented")
    size = len(images) if rows is None else len(rows)
    for name, places in {"index": index, "rows": rows}.items():
        if places is not None and (places.shape != (size,) or places.dtype != torch.int64):
            raise UserError(
                f"{name} is {places.dtype} of shape {tuple(places.shape)}: int64 of shape ({size},) is needed"
            )


def count_classes(logits: Tensor, batch_size: int) -> int:
    """C, from the network's first answer, which must be floating logits of shape (m, C)."""
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != batch_size:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"the model returned {found}: logits of shape ({batch_size}, classes) are needed")
    if logits.shape[1] < 2:
        raise UserError(
            f"the model returned {logits.shape[1]} logits an image: two classes at least are needed; for a binary head "
            "return torch.stack([-z, z], 1) / 2, whose cross entropy is the sigmoid's"
        )
    return logits.shape[1]


def check_same_classes(logits: Tensor, batch_size: int, num_classes: int) -> None:
    """What a method's own network answered, beside the number of classes of the one in training."""
    found = count_classes(logits, batch_size)
    if found != num_classes:
        raise UserError(
            f"the method's network has {found} classes, the model {num_classes}: pass one of the same data set"
        )


def check_values(images: Tensor, labels: Tensor, num_classes: int) -> None:
    """Ranges that need the values themselves; on a GPU this waits for it."""
    low, high = map(float, images.detach().aminmax()) if images.is_floating_point() else (0.0, 1.0)
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # NaN fails too
        raise UserError(
            f"images reach from {_digits(low)} to {_digits(high)}: pixel values lie in 0 … 1, unnormalised, but for "
            f"{ROUNDING} of rounding"
        )
    lowest, highest = labels.aminmax()
    if lowest < 0 or highest >= num_classes:
        wrong = lowest if lowest < 0 else highest
        raise UserError(
            f"label {wrong} is out of range: the model has {num_classes} classes, 0 … {num_classes - 1}"
        )


def check_in_ball(eps: float, ball: Ball, **given: Tensor | None) -> None:
    """Perturbations by name, or None: in the attack's ball but for rounding; this waits for a GPU."""
    for name, perturbation in given.items():
        if perturbation is None:
            continue
        longest = float(ball.length(perturbation.detach()).amax())
        if not isfinite(longest):
            raise UserError(f"{name} has entries that are no finite numbers: give others")
        if longest > eps + ROUNDING:
            raise UserError(
                f"{name} reaches {_digits(longest)}, beyond the attack's eps={_digits(eps)}: clamp it, or give the "
                "step an attack of that size, PGD(eps=...)"
            )


def _digits(end: float) -> str:
    """Of four digits, or as many as it takes to tell it from the ends of the range that is allowed."""
    for digits in range(4, 17):
        text = f"{end:.{digits}g}"
        if float(text) == end or float(text) < -ROUNDING or float(text) > 1 + ROUNDING or 0 < float(text) < 1:
            return text
    return repr(end)
