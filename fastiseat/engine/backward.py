"""Backwards of one pass each, in which the module is what it was in the forward.

Its code may run again there, or for the first time: activation checkpointing, offloading, hooks on saved tensors, on
gradients and on modules. What they read of it must be the weights and buffers of the pass that they belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from fastiseat.engine.place import Buffers
from fastiseat.engine.precision import LossScale
from fastiseat.errors import UserError

Weights = Mapping[str, Tensor]
Place = Callable[[], AbstractContextManager[object]]
Beside = Callable[[], AbstractContextManager[Place]]


class State(Protocol):
    """What a module is in a block."""

    def __call__(self, *, last: bool) -> AbstractContextManager[object]:
        """Enter it; ``last``: for the last time."""


def as_it_is(*, last: bool) -> AbstractContextManager[object]:
    """A :class:`State`: that of now."""
    return nullcontext()


@dataclass(frozen=True)
class Graph:
    """A pass whose backward is to come."""

    logits: Tensor
    """(m, C), with their graph."""
    weights: Weights
    """By name, the leaves that they hang on."""
    again: State = as_it_is
    """The module as this pass found it, for the backward."""
    buffers: Buffers | None = None
    """As this pass found them, where it may have read them."""
    images: Tensor | None = None
    """A leaf whose gradient is asked for besides. What leads to the images alone, as reentrant checkpointing does,
    would else not be run, and its weights' gradients would be missing without a word."""


def input_gradients(
    graph: Graph, loss: Tensor, inputs: Sequence[Tensor], *, keep: bool = False, last: bool = True
) -> list[Any]:
    """∇ of ``loss``, a function of the graph's logits, for each of ``inputs``, None where it does not depend on it.

    ``keep`` the graph for another backward; not the ``last`` one where its buffers are wanted again.
    """
    # The module as the pass found it: code that runs in the backward reads the weights and buffers of now.
    with graph.again(last=last):
        return grad(loss, inputs, retain_graph=keep)


def grad(outputs: Any, inputs: Sequence[Tensor], **options: Any) -> list[Any]:
    """``torch.autograd.grad``; :class:`UserError` where the module can't have gradients this way."""
    try:
        return list(torch.autograd.grad(outputs, inputs, allow_unused=True, **options))
    except RuntimeError as error:
        if "inplace operation" in str(error):
            raise UserError(
                "the model overwrites what its own backward needs, its input perhaps: have it write to a copy, "
                "x.clone()"
            ) from error
        if "use_reentrant" not in str(error):
            raise
    raise UserError(
        "the model checkpoints activations with use_reentrant=True, which gives gradients by loss.backward() alone: "
        "pass use_reentrant=False to torch.utils.checkpoint"
    )


def check_replaced(logits: Tensor, own: Weights, replaced: Weights) -> None:
    """:class:`UserError` where ``logits`` hang on one of a module's ``own`` weights that others stood for.

    Code that keeps a weight in a list or a closure reads it past the module, at θ where θ+ν was meant. Where none is
    read so nothing is computed: autograd sees that no path leads there.
    """
    names = [name for name, weight in replaced.items() if own[name] is not weight and own[name].requires_grad]
    if not names or not logits.requires_grad:
        return
    # Of zeros: only whether a path leads there counts, and retained, as the real backward is to come.
    found = grad(logits, [own[name] for name in names], grad_outputs=torch.zeros_like(logits), retain_graph=True)
    read = [name for name, gradient in zip(names, found, strict=True) if gradient is not None]
    if read:
        raise UserError(
            f"the model reads its parameter {read[0]} past its module, from a list or a closure that keeps it, where "
            "perturbed weights are in its place: read it as an attribute of its module in the forward, or train with "
            "gamma=0"
        )


@contextmanager
def no_grads_left(tensors: Sequence[Tensor]) -> Iterator[None]:
    """:class:`UserError` where the block adds to the ``.grad`` of ``tensors``, which stay as they are."""
    # Taken away meanwhile: autograd would add to the user's own .grad in place, which nothing could undo.
    found = [(tensor, tensor.grad) for tensor in tensors if tensor.grad is not None]
    for tensor, _ in found:
        tensor.grad = None
    try:
        yield
    finally:
        touched = [tensor for tensor in tensors if tensor.grad is not None]
        for tensor in touched:
            tensor.grad = None
        for tensor, grad in found:
            tensor.grad = grad
    if touched:
        raise UserError(
            "the model's backward adds gradients to .grad by itself, as reentrant checkpointing does, where only "
            "those that are asked for count: take torch.utils.checkpoint with use_reentrant=False"
        )


@dataclass(frozen=True)
class _Pass:
    """One whose logits an objective sees as a leaf."""

    leaf: Tensor
    graph: Callable[[], Graph]
    aside: bool


class Leaves:
    """The logits that an objective sees: leaves, behind which each pass's own backward begins.

    By the chain rule these come to the gradient of the whole, in as many passes. They are taken from the last pass to
    the first and added up, as one backward would: the same bits where weights are in the precision of the loss. A
    context, after which the module is in no pass's state any more.
    """

    def __init__(self, beside: Beside = lambda: nullcontext(nullcontext)) -> None:
        """``beside`` gives the place, for the time of all backwards, of those that are taken aside."""
        self._beside = beside
        self._passes: list[_Pass] = []
        self._joined: list[Graph] = []
        self._states = ExitStack()

    def leaf(self, logits: Tensor, graph: Callable[[], Graph], *, aside: bool = False) -> Tensor:
        """What stands for ``logits``, whose ``graph`` is asked for when its backward is due."""
        # Here the graph is cut: the loss's backward ends at the leaf, and the pass's begins there when its turn
        # comes.
        leaf = logits.detach().requires_grad_()
        self._passes.append(_Pass(leaf, graph, aside))
        return leaf

    def of(self, graph: Graph, images: Tensor) -> Tensor:
        """What stands for the logits of ``images``.

        A method that differentiates them by its images gets them as they are: the module is put into the state of
        the pass whenever a backward enters it.
        """
        if not graph.logits.requires_grad:
            return graph.logits
        if not images.requires_grad:
            return self.leaf(graph.logits, lambda: graph)
        enter = graph.again  # the graph itself would hold itself by its hook
        # `and None`: what a hook returns would take the gradient's place.
        graph.logits.register_hook(lambda _: self._states.enter_context(enter(last=False)) and None)
        self._joined.append(graph)
        return graph.logits

    def gradients(self, loss: Tensor, scale: LossScale, *groups: Weights) -> list[dict[str, Tensor]]:
        """∇ of ``loss``, unscaled, for each of ``groups`` of weights; those that it does not depend on are left out.

        Unscaled in the dtype of ``loss``, in which those of several passes are added too: in half precision small ones
        would be lost.
        """
        sums: list[dict[str, Tensor]] = [{} for _ in groups]
        joined = _places(groups, self._joined)
        wanted = [weight for *_, weight in joined]
        # The loss's own backward, small: it ends at the logits, but for methods that differentiate by images.
        found = grad(scale.scaled(loss), [*wanted, *[one.leaf for one in self._passes]])
        _add(sums, joined, found, loss.dtype)
        # What one stream has made and another reads is held in ``found`` until they meet.
        with self._beside() as aside:
            for one, by_logits in self._last_first(found[len(wanted) :]):
                with aside() if one.aside else nullcontext():
                    _through(one.graph(), by_logits, groups, sums, loss.dtype)
        return scale.unscaled(sums, loss.dtype)

    def _last_first(self, by_logits: list[Any]) -> list[tuple[_Pass, Tensor]]:
        """The passes that the loss depends on, those aside before all: so the others run beside them."""
        pairs = list(zip(self._passes, by_logits, strict=True))[::-1]
        # sorted is stable, so within both kinds the last pass still comes first.
        return sorted([pair for pair in pairs if pair[1] is not None], key=lambda pair: not pair[0].aside)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Takes the module out of every state."""
        self._states.close()


def _through(
    graph: Graph, by_logits: Tensor, groups: Sequence[Weights], sums: list[dict[str, Tensor]], dtype: torch.dtype
) -> None:
    """One pass's backward, from the gradient for its logits on."""
    places = _places(groups, [graph])
    wanted = [weight for *_, weight in places] + ([] if graph.images is None else [graph.images])
    with graph.again(last=True):
        found = grad(graph.logits, wanted, grad_outputs=by_logits)
    _add(sums, places, found, dtype)


def _places(groups: Sequence[Weights], graphs: Sequence[Graph]) -> list[tuple[int, str, Tensor]]:
    """Of the weights that ``graphs`` ran at and that are asked for: number of the group, name, and the leaf itself."""
    return [
        (number, name, weight)
        for number, group in enumerate(groups)
        for name, weight in group.items()
        if any(graph.weights.get(name) is weight for graph in graphs)
    ]


def _add(
    sums: list[dict[str, Tensor]],
    places: Sequence[tuple[int, str, Tensor]],
    gradients: Sequence[Tensor | None],
    dtype: torch.dtype,
) -> None:
    # Not strict: behind the weights' gradients come those of leaves or images, which nobody adds up.
    for (number, name, _), gradient in zip(places, gradients, strict=False):
        if gradient is not None:
            before = sums[number].get(name)
            sums[number][name] = gradient if before is None else before.to(dtype) + gradient.to(dtype)
