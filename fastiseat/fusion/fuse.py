"""Any module's BatchNorms, fused with the ReLU that follows and the sum that precedes them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from fastiseat.fusion.norm import one_pass
from fastiseat.fusion.rewrite import has_hooks, is_plain, rewrite
from fastiseat.fusion.trace import UntraceableError, trace
from fastiseat.fusion.turns import taking_turns
from fastiseat.fusion.undo import STANDARD, identity, tensors_of, undone

logger = logging.getLogger(__name__)

Run = Callable[[nn.Module, Tensor], Any]

# Sums in another order agree at least this well after many layers; another program is off by more in half precision.
_DEVIATION = {torch.float64: 1e-6, torch.float32: 1e-2}
_DEVIATION_HALF = 0.25
# Code that depends on an attribute which is another one at each call is not worth a graph each time.
_MOST_GRAPHS = 8


def fuse(model: nn.Module) -> nn.Module:
    """``model`` with each BatchNorm → ReLU as one op, the sum before it included; or ``model`` itself.

    Parameters, buffers and submodules are the model's own, live, under the same names: ``state_dict``, ``.to()``,
    ``train()`` and ``torch.func.functional_call`` do to either what they do to the other. Fused are plain
    ``nn.BatchNorm1d`` and ``2d`` with weights, running statistics and a number as momentum that are called once and
    read by one ReLU alone. Their statistics are written at the end of the forward.

    The code is traced anew for each combination of train/eval flags and attributes that it could depend on, and the
    first pass of each is computed twice more and compared, leaving no trace. Where a graph can't be had, differs, or a
    hook is added later on, the model runs as it is; the log says why. One tensor is taken; any other call is the
    model's own.
    """
    fused = Fused(model)
    try:
        fused.graph()
    except UntraceableError as reason:
        logger.info("%s is not fused: %s", type(model).__name__, reason)
        return model
    return fused


class Fused(nn.Module):
    """What :func:`fuse` returns."""

    model: nn.Module

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # The model's own dicts, and the model itself as no submodule: names and tensors are the same for good.
        self._parameters, self._buffers, self._modules = model._parameters, model._buffers, model._modules
        self._non_persistent_buffers_set = model._non_persistent_buffers_set
        vars(self)["model"] = model
        self.all = list(model.modules())
        # Only what holds something to fuse is looked into; the rest is called as it is, and may do as it likes.
        inlined = [m for m in self.all if m is model or (_holds_norm(m) and not has_hooks(m))]
        self.inlined = inlined
        # These are never called where they are fused: hooks that they get later on would not run.
        fused = [m for m in self.all if (is_plain(m) or type(m) is nn.ReLU) and not has_hooks(m)]
        self.watched = inlined + fused
        self._children = self._identities()
        self._runs: dict[Hashable, Run | None] = {}

    def __reduce__(self) -> tuple[type[Fused], tuple[nn.Module]]:
        """A copy, or what is unpickled, is made anew of the copied model: graphs are of one model's parts."""
        return type(self), (self.model,)

    def train(self, mode: bool = True) -> Self:
        """The model's own method, which may do more than set flags."""
        self.model.train(mode)
        self.training = mode
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's."""
        run = None
        # A compiler follows the model's own code: graphs in graphs would only hide it.
        is_plain_call = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
        if is_plain_call and not torch.compiler.is_compiling() and not self._has_hooks():
            run = self._chosen(args[0])
        if run is None:
            return self.model(*args, **kwargs)
        with one_pass():
            return run(self.model, args[0])

    def graph(self) -> Run:
        """The fused forward for the present flags and attributes; :class:`UntraceableError` says why not."""
        if self._identities() != self._children:
            raise UntraceableError("its submodules are others than at first")
        if self._has_hooks():
            raise UntraceableError("it has hooks")
        graph = trace(self.model, self.inlined)
        rewrite(graph, self.model)
        code = graph.python_code(root_module="self")
        exec(code.src, code.globals)
        run: Run = code.globals["forward"]
        return run

    def _chosen(self, x: Tensor) -> Run | None:
        # Anew at each call: flags and attributes may have been set since, without anyone being told.
        state = self._state()
        if state not in self._runs:
            is_recorded = x.is_cuda and torch.cuda.is_current_stream_capturing()
            if is_recorded or _in_a_backward() or len(self._runs) == _MOST_GRAPHS:
                return None  # in a recording nothing can be compared: that waits for the device
            self._runs[state] = self._learned(x)
        return self._runs[state]

    @taking_turns()
    def _learned(self, x: Tensor) -> Run | None:
        try:
            run = self.graph()
            self._compare(run, x)
        except UntraceableError as reason:
            logger.info("%s runs as it is: %s", type(self.model).__name__, reason)
            return None
        return run

    @torch.no_grad()
    def _compare(self, run: Run, x: Tensor) -> None:
        """Outputs and buffers of both on ``x``."""
        # The user's code first: where this raises, the error is the user's to see, not a reason to run unfused.
        expected = self._trial(self.model, x)
        try:
            found = self._trial(_Running(self, run), x)
        except Exception as error:
            raise UntraceableError(f"its graph fails ({type(error).__name__}: {error})") from None
        half = torch.is_autocast_enabled(x.device.type)
        allowed = _DEVIATION_HALF if half else _DEVIATION.get(x.dtype, _DEVIATION_HALF)
        if not all(_deviation(*pair) <= allowed for pair in zip(found, expected, strict=True)):
            raise UntraceableError("its graph computes something else")

    def _trial(self, module: nn.Module, x: Tensor) -> list[Tensor]:
        """Output and buffers of a pass that leaves no trace: it draws the same random numbers each time."""
        numbers = torch.random.fork_rng(devices=[x.device] if x.is_cuda else [])
        with undone(self.model, tensors_of(self.model)), numbers:
            # A clone, as the module may write to its input, and the next trial reads it.
            output = module(x.clone())
            buffers = [buffer.clone() for buffer in self.model.buffers()]
        if not isinstance(output, Tensor):
            raise UntraceableError(f"it returns a {type(output).__name__}")
        return [output, *buffers]

    def _state(self) -> Hashable:
        """All of the model that its code could depend on, but for the tensors."""
        flags = tuple([module.training for module in self.all])
        attributes = [
            (name, identity(value))
            for module in self.inlined
            for name, value in vars(module).items()
            if name not in STANDARD
        ]
        # Gradients on or off too: code may ask for it, and take another way.
        return flags, tuple(attributes), self._identities(), torch.is_grad_enabled()

    def _identities(self) -> tuple[int, ...]:
        return tuple([id(child) for module in self.inlined for child in module._modules.values()])

    def _has_hooks(self) -> bool:
        """Whether code is to run that no graph has: of those looked into, of every module, or of a fused one."""
        return any(map(has_hooks, self.watched)) or bool(_has_any_global_hook())


class _Running(nn.Module):
    """One graph alone, under the model's names."""

    model: nn.Module

    def __init__(self, fused: Fused, run: Run) -> None:
        super().__init__()
        self._parameters, self._buffers, self._modules = fused._parameters, fused._buffers, fused._modules
        vars(self)["model"], self.run = fused.model, run

    def forward(self, x: Tensor) -> Any:
        with one_pass():
            return self.run(self.model, x)


def _in_a_backward() -> bool:
    """Of a GPU's it is a thread of autograd's own, for which the one whose turn it is waits."""
    return torch._C._current_graph_task_id() != -1


def _holds_norm(module: nn.Module) -> bool:
    return any(is_plain(below) for below in module.modules() if below is not module)


def _deviation(found: Tensor, expected: Tensor) -> float:
    """The difference's norm over that of what is expected; 1 for another kind of tensor."""
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return 1.0
    # A pass that gives no numbers gives none in either: what matters is whether they are the same.
    found, expected = found.double().nan_to_num(), expected.double().nan_to_num()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))
