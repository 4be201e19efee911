"""Which modules a step trains: each refusal names what it found, why it can't be trained, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastiseat.errors import UserError
from fastiseat.fields import full_name


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a step perturbs and updates, tied ones once; :class:`UserError` if it can't."""
    check_module(model)
    _check_kind(model)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not weights:
        raise UserError("the model has no trainable parameter: set requires_grad on those to train")
    for name, weight in weights.items():
        if weight.dtype not in (torch.float32, torch.float64):
            raise UserError(f"parameter {name} is {weight.dtype}: master weights are float32 or float64")
    for what, found in {
        "dtypes": {str(weight.dtype) for weight in weights.values()},
        "devices": {str(weight.device) for weight in weights.values()},
    }.items():
        if len(found) > 1:
            raise UserError(f"trainable parameters of several {what}, {', '.join(sorted(found))}: one is needed")
    return weights


def check_module(model: nn.Module) -> None:
    """A module whose passes can be differentiated; :class:`UserError` where it is none."""
    if not isinstance(model, nn.Module):
        raise UserError(f"model is a {type(model).__name__}: a torch.nn.Module is needed")
    for name, module in model.named_modules():
        if any(part == "quantized" for part in type(module).__module__.split(".")):
            raise UserError(
                f"{name or 'model'} is a {full_name(type(module))}: quantised layers have no gradient; pass the module "
                "from before the conversion"
            )
    for kind, tensors in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in tensors:
            _check_tensor(f"{kind} {name}", tensor)


def _check_tensor(name: str, tensor: Tensor) -> None:
    if isinstance(tensor, nn.parameter.UninitializedParameter | nn.parameter.UninitializedBuffer):
        raise UserError(f"{name} has no shape yet: run one forward pass first (lazy module)")
    if tensor.device.type == "meta":
        raise UserError(
            f"{name} lies on the meta device, without values: model.to_empty(device=...), then load some"
        )
    if tensor.is_inference():
        raise UserError(
            f"{name} was made in torch.inference_mode, which forbids gradients: make the model outside of it"
        )


def _check_kind(model: nn.Module) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError("model is a TorchScript module, whose weights can't be replaced: pass the eager module")
    if isinstance(model, torch._dynamo.eval_frame.OptimizedModule):
        raise UserError("model is compiled already: pass the module that torch.compile was given")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise UserError(f"model is wrapped in {type(model).__name__}: pass its .module")


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
