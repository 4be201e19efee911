"""Forward passes of one module, and the input gradient that the attack climbs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastiseat.engine.precision import DTYPES, FP16_ATTACK_SCALE, autocast
from fastiseat.methods import Method
from fastiseat.models import Network
from fastiseat.models.answers import logits_of
from fastiseat.models.factory import needs_no_autocast
from fastiseat.models.fuse import fuse
from fastiseat.weights import full_precision_names, perturbable

# Of one network under torch.compile: by mode, settings, precision, batch size, and which gradients are wanted.
MOST_GRAPHS = 64


class Passes:
    """The only place where the step calls the module: at chosen weights, in one precision."""

    def __init__(self, model: nn.Module, *, precision: str, device: torch.device) -> None:
        self.model, self.precision, self.device = model, precision, device
        autocast(precision, device)  # refuses an unknown precision at once
        # The module's own tensors under their own names; our networks are written with the fused op already.
        self._network = model if isinstance(model, Network) else fuse(model)
        self.full_precision = full_precision_names(model)
        self.theta: Mapping[str, Tensor] = {}
        self._compiled: Callable[[dict[str, Tensor], Tensor], Any] | None = None

    def half(self) -> torch.dtype | None:
        """What weights are to be of at the next passes, but those of ``full_precision``; None for their own dtype.

        The network may have changed since the last step: others than ours as we build them need autocast.
        """
        dtype = DTYPES[self.precision]
        if dtype is None or not needs_no_autocast(self.model):
            return None
        return dtype if full_precision_names(self.model) == self.full_precision else None

    @contextmanager
    def at(self, theta: Mapping[str, Tensor]) -> Iterator[None]:
        """Passes in the block are at ``theta``, the module's own weights or their half-precision shadow."""
        self.theta = theta
        try:
            yield
        finally:
            self.theta = {}

    def __call__(self, x: Tensor, weights: Mapping[str, Tensor] | None = None, *, trace: bool = True) -> Tensor:
        """Logits (m, C) in the dtype of ``x``, which is the parameters': losses and ranks never see half precision.

        ``weights`` replace θ; without ``trace`` the module's buffers, such as BatchNorm's running statistics, are
        left alone.
        """
        return logits_of(self.raw(x, weights, trace=trace)).to(x.dtype)

    def raw(self, x: Tensor, weights: Mapping[str, Tensor] | None = None, *, trace: bool = True) -> Any:
        """Whatever the module returns; another's module may write to what it is given."""
        x = x if isinstance(self.model, Network) else x.clone()
        weights, half = self.theta if weights is None else weights, DTYPES[self.precision]
        in_half = half is not None and any(weight.dtype == half for weight in weights.values())
        replaced = dict(weights) if in_half or weights is not self.theta else {}
        if not trace:
            replaced |= {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        if in_half:  # nothing is left for autocast to cast
            x = x.to(half)
        with autocast("full" if in_half else self.precision, self.device):
            if self._compiled is not None and torch.is_grad_enabled():
                with torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS):
                    return self._compiled(replaced or dict(self.theta), x)
            return functional_call(self._network, replaced, (x,)) if replaced else self._network(x)

    def compile(self, backend: str = "inductor") -> None:
        """Passes from here on are by torch.compile; for :meth:`detached` weights it compiles a backward of its own."""

        def forward(weights: dict[str, Tensor], x: Tensor) -> Any:
            return functional_call(self.model, weights, (x,))

        # Its limit of graphs counts them by code object, which all closures of a function share.
        forward.__code__ = forward.__code__.replace()
        self._compiled = torch.compile(forward, backend=backend, dynamic=False)

    def detached(self) -> Mapping[str, Tensor] | None:
        """θ for passes that want no gradient of it, where that has to be told; eager autograd sees it by itself."""
        return None if self._compiled is None else {name: weight.detach() for name, weight in self.theta.items()}


@cache
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextmanager
def on_second_stream(device: torch.device) -> Iterator[None]:
    """The block there, after all that was asked for before it and before all that comes after it."""
    current, stream = torch.cuda.current_stream(device), _second_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


class InputGradient:
    """x' → ∇ₓ of the method's inner loss; keeps the logits of its first call, which is the clean pass.

    Only the input's gradient is asked for: eager autograd then computes none of the weights'. The call number
    ``weights_at``, counted from 1, computes these too and keeps them. The first one runs on
    a second stream where ``aside``.
    """

    def __init__(
        self,
        passes: Passes,
        method: Method,
        labels: Tensor,
        *,
        reference: Tensor | None = None,
        keep_graph: bool,
        weights_at: int | None = None,
        aside: bool = False,
    ) -> None:
        self.passes, self.method, self.labels, self.reference = passes, method, labels, reference
        self.keep_graph, self.weights_at, self.aside = keep_graph, weights_at, aside
        self.calls = 0
        self.first_logits: Tensor | None = None
        self.at_weights: dict[str, Tensor] | None = None
        self.scale = FP16_ATTACK_SCALE if passes.precision == "fp16" else 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """The gradient at ``x``, up to a positive factor."""
        self.calls += 1
        with on_second_stream(x.device) if self.aside and self.calls == 1 else nullcontext():
            return self._gradient(x)

    def _gradient(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        weights = perturbable(self.passes.theta) if self.calls == self.weights_at else {}
        logits = self.passes(x, None if weights else self.passes.detached())
        keep = self.calls == 1 and self.keep_graph
        loss = self.method.inner_loss(logits, self.labels, self.reference) * self.scale
        gradient, *others = torch.autograd.grad(
            loss, [x, *weights.values()], retain_graph=keep, allow_unused=bool(weights)
        )
        if weights:
            found = zip(weights, others, strict=True)
            self.at_weights = {name: other.to(x.dtype) for name, other in found if other is not None}
        if self.calls == 1:
            self.first_logits = logits if keep else logits.detach()
        return gradient
