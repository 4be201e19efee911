"""What a step does to weights: first θ+ν, then the descent from there, by the parts that the settings name."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from fastiseat import config
from fastiseat.weights.arena import SHADOW, Arena
from fastiseat.weights.averages import Average
from fastiseat.weights.descent import Averaging, Descent, Gradients, Nu
from fastiseat.weights.optimizers import rule_of
from fastiseat.weights.perturbations import Theta
from fastiseat.weights.state import NamedState, buffer_of


class Update:
    """Optimizer, weight perturbation and average over weights in one arena.

    What they keep from step to step is ``kept``, there from construction; all else is made anew in each step.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        *,
        optimizer: config.Optimizer,
        awp: config.AWP,
        average: Average | None = None,
        full_precision: Collection[str] = (),
    ) -> None:
        """``full_precision`` names the weights that have no half-precision shadow.

        Raises:
            UserError: the optimizer cannot be had for these weights, or two parts keep something of one name.
        """
        self.optimizer = rule_of(optimizer)(weights)
        self.perturbation = self.optimizer.perturbation(awp)
        self.average = average
        self.arena = Arena(weights, full_precision=full_precision)
        parts = [self.optimizer, self.perturbation, *([] if average is None else [average])]
        self.kept = NamedState(self.arena, parts)
        self.written: tuple[Collection[str], Collection[str]] = ((), ())
        """Names and weights of the last :meth:`descend` that Python ran, which an engine passes to ``kept.touch``."""
        self._weights = weights
        self._half: torch.dtype | None = None
        self._nu: Nu | None = None
        self._theta_nu: Mapping[str, Tensor] | None = None
        self.begin()

    def refresh(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Take the module's parameters as they are now; those that were moved elsewhere come back into the arena."""
        if self.arena.refresh(weights):
            self.kept.renew()
        self._weights = weights

    def begin(self, *, half: torch.dtype | None = None) -> None:
        """A step begins, at the parameters' present values.

        ``half`` is what its passes compute in where they can take weights of that dtype: the shadow is cast anew.
        """
        self._half = half if self.optimizer.takes_half else None
        self._nu = self._theta_nu = None  # those of a step which never came to its descent are void
        if self._half is not None:
            self.arena.shadow(self._half)

    def theta(self) -> Mapping[str, Tensor]:
        """θ by name for passes: the parameters themselves, or leaves of its half-precision shadow, new at each call.

        Gradients of two passes at the same leaves would be added in half precision.
        """
        return self._weights if self._half is None else _leaves(self.arena.views(SHADOW))

    def direction(self) -> Gradients | None:
        """Along what ν goes, by name, where the perturbation knows it without a pass; valid until the next descent."""
        follows = self.perturbation.follows
        return None if follows is None else self.arena.views(buffer_of(follows))

    def perturbed(self, gradients: Gradients, *, gamma: float | Tensor, norm: str) -> dict[str, Tensor]:
        """θ+ν by name as new leaves (Eq. 11), all weights, of the dtypes of :meth:`theta`."""
        out = self._place()
        self._nu = self.perturbation.update(self.arena, gradients, gamma=gamma, norm=norm, out=out)
        self._theta_nu = self.arena.views(out.name)
        return _leaves(self._theta_nu)

    def _place(self) -> Theta:
        if self._half is None:
            return Theta("theta_nu", self.arena.flat("theta_nu"), None)
        return Theta("theta_nu_half", *self.arena.split("theta_nu_half", self._half))

    @torch.no_grad()
    def descend(
        self,
        gradients: Gradients,
        clean_gradients: Gradients,
        optimizer: config.Optimizer,
        *,
        writes: Collection[str] | None = None,
        skip: Tensor | None = None,
    ) -> None:
        """θ ← (θ+ν) - step - ν (Eq. 17 and 18), the gradients at θ+ν and at θ added.

        ν is that of :meth:`perturbed` since the last descent, or 0. A weight with neither gradient is left alone,
        and all are where ``skip``, bool (), is true. ``writes`` are the names of the optimizer's state that it is to
        write, which numbers on the device do not tell; None for all.
        """
        state, follows = self.kept.of(self.optimizer), self.perturbation.follows
        at = Descent(
            arena=self.arena,
            gradients=gradients,
            clean_gradients=clean_gradients,
            into="grad" if follows is None else buffer_of(follows),
            nu=self._nu,
            theta_nu=self._theta_nu,
            skip=skip,
            writes=state.keys() if writes is None else writes,
            averaging=self._averaging(),
        )
        self.optimizer.update(state, at, optimizer)
        # After the update, as it averages the new θ; an optimizer that averages in its own sweep has done so.
        if self.average is not None and at.averaging is None:
            self.average.update(self.kept.of(self.average), at)
        if follows is not None:
            _ = at.grad  # gathered, whether the optimizer looked at it or not
        self._nu = self._theta_nu = None
        self.written = at.writes, at.updated

    def _averaging(self) -> Averaging | None:
        if self.average is None or not isinstance(self.average, self.optimizer.averages):
            return None
        return Averaging(self.average, self.kept.of(self.average))

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights by name; there is an average."""
        assert self.average is not None
        return self.arena.alone(self.average.read(self.kept.of(self.average)))

    def tensors(self) -> list[Tensor]:
        """All memory that a step reads or writes, for recordings of it."""
        return [*self.arena.tensors(), *self.kept.tensors()]


def _leaves(views: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: view.detach().requires_grad_() for name, view in views.items()}
