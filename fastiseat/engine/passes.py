"""Forward passes of one module, and the input gradient that the attack climbs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastiseat.attacks.record import Look
from fastiseat.engine.backward import Graph, check_replaced, input_gradients, no_grads_left
from fastiseat.engine.place import Buffers, weights_in_place
from fastiseat.engine.precision import DTYPES, FP16_ATTACK_SCALE, autocast
from fastiseat.errors import UserError
from fastiseat.fusion.fuse import fuse
from fastiseat.fusion.trace import saved_tensors_hooks
from fastiseat.methods import Method
from fastiseat.models import Network
from fastiseat.models.answers import logits_of
from fastiseat.models.factory import is_as_built, needs_no_autocast
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
        self._is_as_built = self._reads_late = self._is_elsewhere = False
        self._own: Mapping[str, Tensor] = {}

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
        """Passes in the block are at ``theta``: the module's own weights, or leaves that stand for them."""
        self.theta = theta
        # Our own networks' backwards run none of their code, or run it on tensors that they have kept.
        self._is_as_built = is_as_built(self.model) and saved_tensors_hooks() is None
        self._reads_late = not self._is_as_built and self._compiled is None
        self._own = dict(self.model.named_parameters())
        self._is_elsewhere = any(self._own.get(name) is not weight for name, weight in theta.items())
        try:
            yield
        finally:
            self.theta, self._own = {}, {}

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (m, C) at θ in the dtype of ``x``, which is the parameters'."""
        return logits_of(self.raw(x, self.theta)).to(x.dtype)

    def graph(
        self, x: Tensor, weights: Mapping[str, Tensor] | None = None, *, scratch: Buffers | None = None
    ) -> Graph:
        """The same with its backward to come: losses and ranks never see half precision.

        ``weights`` replace θ. With ``scratch`` the pass is on copies of these buffers, and the module's own, such as
        BatchNorm's running statistics, are left alone.
        """
        weights = self.theta if weights is None else weights
        buffers = self.buffers() if scratch is None else scratch
        # What leads to the images alone, as reentrant checkpointing does, runs in a backward only if their
        # gradient is asked for.
        images = x.detach().requires_grad_() if self._reads_late and not x.requires_grad else None
        x = x if images is None else images
        with nullcontext() if scratch is None else scratch.in_place():
            logits = logits_of(self.raw(x, weights)).to(x.dtype)
        # Another's code may have kept a weight elsewhere, and then the pass was at θ where θ+ν was meant.
        if not self._is_as_built:
            check_replaced(logits, self._own, self._replaced(weights))
        if not self._reads_late or buffers is None:
            return Graph(logits, weights, buffers=buffers)
        again = partial(self._again, weights, buffers, shared=scratch is not None)
        return Graph(logits, weights, again, buffers, images)

    def buffers(self) -> Buffers | None:
        """As they are, where a pass of now may read them again later on."""
        return None if self._is_as_built else Buffers(self.model)

    @contextmanager
    def _again(
        self, weights: Mapping[str, Tensor], buffers: Buffers, *, shared: bool, last: bool
    ) -> Iterator[None]:
        """The module as a pass found it; ``shared`` by several. Its mode is the same still."""
        replaced = self._replaced(weights)
        in_place = buffers.in_place(last=last and not shared)
        with (
            no_grads_left([*self._own.values(), *replaced.values()]),
            weights_in_place(self.model, replaced),
            in_place,
        ):
            yield

    def raw(self, x: Tensor, weights: Mapping[str, Tensor]) -> Any:
        """Whatever the module returns; another's module may write to what it is given."""
        replaced, half = self._replaced(weights), DTYPES[self.precision]
        in_half = half is not None and any(weight.dtype == half for weight in weights.values())
        if in_half:  # nothing is left for autocast to cast
            x = x.to(half)
        with autocast("full" if in_half else self.precision, self.device):
            if self._compiled is not None and torch.is_grad_enabled():
                with torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS):
                    return self._compiled(dict(replaced or self.theta), x)
            with weights_in_place(self.model, replaced):
                return self._network(self._to_give_away(x))

    def _to_give_away(self, x: Tensor) -> Tensor:
        # The step reads the same images again, and only our own networks are known not to write to them.
        return x if isinstance(self.model, Network) else x.clone()

    def _replaced(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {} if weights is self.theta and not self._is_elsewhere else weights

    def compile(self, backend: str = "inductor") -> None:
        """Passes from here on are by torch.compile; for :meth:`detached` weights it compiles a backward of its own."""

        def forward(weights: dict[str, Tensor], x: Tensor) -> Any:
            return functional_call(self.model, weights, (self._to_give_away(x),))

        # Its limit of graphs counts them by code object, which all closures of a function share.
        forward.__code__ = forward.__code__.replace()
        self._compiled = torch.compile(forward, backend=backend, dynamic=False)

    def detached(self) -> Mapping[str, Tensor] | None:
        """θ for passes that want no gradient of it, where that has to be told; eager autograd sees it by itself."""
        return None if self._compiled is None else {name: weight.detach() for name, weight in self.theta.items()}


@cache
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    # One for all steps: the allocator keeps the memory of each stream apart, and what one has freed another can't
    # have.
    return torch.cuda.Stream(device)


@contextmanager
def second_stream(device: torch.device) -> Iterator[Callable[[], AbstractContextManager[object]]]:
    """What opens blocks there, which come after all that was asked for before; at the end all that follows waits."""
    current, stream = torch.cuda.current_stream(device), _second_stream(device)
    # The block reads what is under way here, and may get memory that work of this stream was the last to read.
    stream.wait_stream(current)
    yield partial(torch.cuda.stream, stream)
    # What the block made is read here next.
    current.wait_stream(stream)


class InputGradient:
    """x' → ∇ₓ of the method's inner loss; keeps its first call's pass, which is the clean one.

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
        tells: bool = False,
    ) -> None:
        self.passes, self.method, self.labels, self.reference = passes, method, labels, reference
        self.keep_graph, self.weights_at, self.aside = keep_graph, weights_at, aside
        self.tells = tells
        self.calls = 0
        self.first: Graph | None = None
        """Its graph is there where it was to be kept."""
        self.at_weights: dict[str, Tensor] | None = None
        self.scale = FP16_ATTACK_SCALE if passes.precision == "fp16" else 1.0

    def __call__(self, x: Tensor) -> Tensor | Look:
        """The gradient at ``x``, up to a positive factor; where it ``tells``, the logits besides."""
        self.calls += 1
        if not (self.aside and self.calls == 1):
            return self._gradient(x)
        with second_stream(x.device) as beside, beside():
            return self._gradient(x)

    def _gradient(self, x: Tensor) -> Tensor | Look:
        # A leaf: PGD's iterates must not hang together by the graphs of all the steps before.
        x = x.detach().requires_grad_()
        weights = self.weights_too()
        graph = self.passes.graph(x, None if weights else self.passes.detached())
        keep = self.calls == 1 and self.keep_graph
        loss = self.method.inner_loss(graph.logits, self.labels, self.reference) * self.scale
        # Asked for one by one: what the attack computes must never land in the user's .grad.
        wanted, found = [x, *weights.values()], list[Any]()
        # Logits that hang on nothing, as under a no_grad in the model, are explained below rather than by
        # autograd.
        if loss.requires_grad:
            found = input_gradients(graph, loss, wanted, keep=keep, last=self.calls > 1)
        if not found or found[0] is None:
            raise UserError(
                "the model's logits have no gradient for its input: take what cuts it out of its forward, such as "
                "detach, no_grad or argmax"
            )
        gradient: Tensor
        gradient, *others = found
        if self.calls == self.weights_at:
            by_name = zip(weights, others, strict=True)
            # In full precision, as norms of ν's gradients are taken of them.
            self.at_weights = {name: other.to(x.dtype) for name, other in by_name if other is not None}
        if self.calls == 1:
            # Without its graph where that was not to be kept: its activations would live through the whole attack.
            self.first = graph if keep else replace(graph, logits=graph.logits.detach())
        return Look(gradient, graph.logits.detach()) if self.tells else gradient

    def weights_too(self) -> Mapping[str, Tensor]:
        """Whose gradients this call computes beside that of the input."""
        return perturbable(self.passes.theta) if self.calls == self.weights_at else {}
