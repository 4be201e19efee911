"""What the step takes: each refusal names what it found, why it can't be trained, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastiseat.errors import UserError


def check_alone() -> None:
    """:class:`UserError` in one of several ranks of a process group: each would go on with its own gradient."""
    group = torch.distributed
    if group.is_available() and group.is_initialized() and group.get_world_size() > 1:
        raise UserError(
            f"torch.distributed runs here with a world size of {group.get_world_size()}: a step does not average its "
            "gradient over ranks, so their weights would drift apart; train in one process, or destroy the process "
            "group first where each rank trains a network of its own"
        )


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a step perturbs and updates, tied ones once; :class:`UserError` if it can't."""
    _check_module(model)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not weights:
        raise UserError("the model has no trainable parameter: set requires_grad on those to train")
    for name, weight in weights.items():
        if isinstance(weight, nn.parameter.UninitializedParameter):
            raise UserError(f"parameter {name} has no shape yet: run one forward pass first (lazy module)")
        if weight.dtype not in (torch.float32, torch.float64):
            raise UserError(f"parameter {name} is {weight.dtype}: master weights are float32 or float64")
    for what, found in {
        "dtypes": {str(weight.dtype) for weight in weights.values()},
        "devices": {str(weight.device) for weight in weights.values()},
    }.items():
        if len(found) > 1:
            raise UserError(f"trainable parameters of several {what}, {', '.join(sorted(found))}: one is needed")
    return weights


def _check_module(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise UserError(f"model is a {type(model).__name__}: a torch.nn.Module is needed")
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError("model is a TorchScript module, whose weights can't be replaced: pass the eager module")
    if isinstance(model, torch._dynamo.eval_frame.OptimizedModule):
        raise UserError("model is compiled already: pass the module that torch.compile was given")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise UserError(f"model is wrapped in {type(model).__name__}: pass its .module")


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


def check_images(images: Tensor, weight: Tensor) -> None:
    """What can be told without their values; :class:`UserError` where they are not as described above."""
    if images.dim() != 4:
        raise UserError(f"images have shape {tuple(images.shape)}: NCHW (float) or NHWC (uint8) is needed")
    if images.device != weight.device:
        raise UserError(f"images lie on {images.device}, the model on {weight.device}: move one of them")
    if images.dtype not in (torch.uint8, weight.dtype):
        raise UserError(f"images are {images.dtype}, the model {weight.dtype}: convert one, or pass uint8")


def check_labels(images: Tensor, labels: Tensor) -> None:
    """One int64 an image, beside it."""
    if labels.shape != (len(images),) or labels.dtype != torch.int64:
        raise UserError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}: int64 of shape ({len(images)},) is needed"
        )
    if labels.device != images.device:
        raise UserError(f"labels lie on {labels.device}, images on {images.device}: move one of them")


def check_perturbations(images: Tensor, delta: Tensor | None, start: Tensor | None, *, views: int = 1) -> None:
    """Of the shape of the images (m, C, H, W), their number times ``views``, and one of them at most."""
    shape = images.shape if images.dtype != torch.uint8 else images.permute(0, 3, 1, 2).shape
    shape = torch.Size((views * len(images), *shape[1:]))
    for name, perturbation in {"delta": delta, "start": start}.items():
        if perturbation is not None and perturbation.shape != shape:
            raise UserError(f"{name} has shape {tuple(perturbation.shape)}: that of the images, {tuple(shape)}")
    if delta is not None and start is not None:
        raise UserError("delta and start exclude each other: delta is a finished perturbation, start a first one")


def check_places(images: Tensor, index: Tensor | None, rows: Tensor | None, *, views: int = 1) -> None:
    """uint8 images to augment, by their places in the data set and among ``images``."""
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
    return logits.shape[1]


def check_held(networks: Sequence[nn.Module], model: nn.Module) -> None:
    """A method's own networks: of the trained one's dtype, on its device, and sharing no weight with it."""
    trained = next(weight for weight in model.parameters() if weight.requires_grad)
    own = {id(weight) for weight in model.parameters()}
    for weight in (weight for network in networks for weight in network.parameters()):
        if id(weight) in own:
            raise UserError("the method's network shares weights with the model in training: pass a copy of it")
        if (weight.dtype, weight.device) != (trained.dtype, trained.device):
            raise UserError(
                f"the method's network is {weight.dtype} on {weight.device}, the model {trained.dtype} on "
                f"{trained.device}: convert or move one of them"
            )


def check_same_classes(logits: Tensor, batch_size: int, num_classes: int) -> None:
    """What a method's own network answered, beside the number of classes of the one in training."""
    found = count_classes(logits, batch_size)
    if found != num_classes:
        raise UserError(
            f"the method's network has {found} classes, the model {num_classes}: pass one of the same data set"
        )


def check_values(images: Tensor, labels: Tensor, num_classes: int) -> None:
    """Ranges that need the values themselves; on a GPU this waits for it."""
    low, high = images.aminmax() if images.is_floating_point() else (0, 1)
    if not (low >= 0 and high <= 1):  # NaN fails too
        raise UserError(f"images reach from {low:.4g} to {high:.4g}: pixel values lie in 0 … 1, unnormalised")
    lowest, highest = labels.aminmax()
    if lowest < 0 or highest >= num_classes:
        wrong = lowest if lowest < 0 else highest
        raise UserError(
            f"label {wrong} is out of range: the model has {num_classes} classes, 0 … {num_classes - 1}"
        )
