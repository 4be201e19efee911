"""The step itself, in the order of the paper's Algorithm 1; every engine runs this code, or a record of it.

The algorithm's lines, counted from ``for each batch do``, are marked in :meth:`Algorithm1._step`:

    2-4    δ_i = PGD(x_i, y_i)                                      ``_attack``
    5      ν = γ ‖θ‖ g / ‖g‖,  g = ∇θ mean ℓ(x_i + δ_i; θ)          ``_weight_perturbation``
    6-8    w_i = 1 - r(ℓ(x_i + δ_i; θ+ν) - ℓ(x_i; θ)) / m           the method's ``objective``
    9-11   o_i = ‖f(x_i + δ_i; θ+ν) - f(x_i; θ)‖²                   the same
    12     L = Σ (ℓ(x_i + δ_i; θ+ν) + λ w_i o_i) / m                the same
    13     θ ← θ - l ∇θ L, in two backwards (Eq. 17), at θ+ν        ``gradients`` and ``descend``
           from where ν is taken off again (Eq. 18)

Other methods have another L, and no ν where γ = 0. docs/step.md tells what the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastiseat.attacks import pgd
from fastiseat.attacks.balls import ball_named
from fastiseat.attacks.record import AttackRecord
from fastiseat.attacks.verdict import is_right
from fastiseat.engine.accept import as_network_input, layout_of
from fastiseat.engine.backward import Graph, Leaves
from fastiseat.engine.frozen import Frozen
from fastiseat.engine.passes import InputGradient, Passes, second_stream
from fastiseat.engine.place import Buffers
from fastiseat.engine.precision import LossScale, autocast
from fastiseat.engine.restore import Rewind, fastest_convolutions
from fastiseat.engine.settings import Settings
from fastiseat.engine.weight_hooks import through_hooks, without_hooks
from fastiseat.methods import Outputs
from fastiseat.pipelines.protocol.augmentation import Augmentation
from fastiseat.weights import perturbable
from fastiseat.weights.updates import Update


class StepInputs(NamedTuple):
    """One call's tensors, as :class:`fastiseat.TrainStep` takes them."""

    images: Tensor
    labels: Tensor
    delta: Tensor | None = None
    start: Tensor | None = None
    index: Tensor | None = None  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    rows: Tensor | None = None


class Attacked(NamedTuple):
    """What the attack leaves."""

    x_adv: Tensor
    """x' = clamp(x + δ)."""
    clean_x: Tensor
    """Where the clean logits were taken."""
    clean_logits: Tensor | None = None
    """Of it, without their graph; None where no term needs them."""
    clean_graph: Callable[[], Graph] | None = None
    """Their graph, which was kept or is computed a second time."""
    nan_gradient: Tensor | None = None
    """bool (): whether a gradient of the attack was NaN."""
    at_weights: Mapping[str, Tensor] | None = None
    """The gradients of its last step for the weights, where they are wanted."""
    record: AttackRecord | None = None
    """What the method has had kept of it."""


@dataclass(kw_only=True)
class Algorithm1:
    """Attack, weight perturbation, objective and update of one batch. Nothing here waits for the device."""

    model: nn.Module
    passes: Passes
    update: Update
    loss_scale: LossScale
    frozen: Frozen
    recompute_clean: bool = False
    """Whether the clean pass's graph is made a second time, after the adversarial backward: 29 units for 28, and one
    graph alive at a time."""
    draws: bool = False
    """Whether the network draws random numbers."""
    overlap: bool = False
    """Whether the clean pass runs on a second stream, so that its backward, which follows it there, can share the
    device with that of the adversarial images."""
    settings: Settings = field(init=False)
    """Of the batch under way."""

    def recompute(self) -> None:
        """From now on make the clean graph a second time."""
        self.recompute_clean = True

    def run_on(self, *, streams: int) -> None:
        """From now on overlap, on two streams, or do not, on one."""
        self.overlap = streams == 2

    def tried(self, *, draws: bool) -> None:
        """The network has been run once, which has told whether it draws random numbers."""
        self.draws = draws

    def __call__(self, settings: Settings, given: StepInputs) -> dict[str, Tensor]:
        """Train on one batch; metrics as device tensors."""
        self.settings = settings
        self.update.begin(half=self.passes.half())
        x, y = self.batch(settings, given)
        with (
            # The caller may be under no_grad; the backwards below need graphs of their own.
            torch.enable_grad(),
            fastest_convolutions(x.device),
            autocast("full", x.device),  # backwards run outside of the passes' own
            self.passes.at(self._theta()),
        ):
            self.model.train()
            return self._step(x, y, given)

    def batch(self, settings: Settings, given: StepInputs) -> tuple[Tensor, Tensor]:
        """Images (m, C, H, W) in the parameters' dtype, and labels (m,); of two views all of the first, then all of
        the second.
        """
        weight = next(weight for weight in self.model.parameters() if weight.requires_grad)
        if given.index is None:
            x, labels = as_network_input(given.images, weight), given.labels
        else:
            views = [
                augmentation(given.images, given.index, given.rows, dtype=weight.dtype)
                for augmentation in _augmentations(settings)
            ]
            labels = given.labels if given.rows is None else given.labels.index_select(0, given.rows)
            x, labels = _joined(views), _joined([labels] * len(views))
        # Once here, or each of the step's passes would begin with a conversion of its own.
        return x.contiguous(memory_format=layout_of(self.model)), labels

    def _step(self, x: Tensor, y: Tensor, given: StepInputs) -> dict[str, Tensor]:
        method, theta = self.settings.trained, self.passes.theta
        # Lines 2 to 4. The attack climbs at θ; ν, which is made of its images, comes after it.
        attacked = self._attack(x, y, given)  # δ_i = PGD(x_i, y_i)
        # Line 5. θ+ν lies beside θ and is never written into the module, so the clean graph at θ lives on.
        theta_nu = self._weight_perturbation(x, attacked, y)  # θ+ν, ν = γ ‖θ‖ g / ‖g‖
        # Lines 6 to 12. The objective sees logits as leaves: each pass's graph is walked by a backward of its own,
        # in which the module is what it was in that pass.
        with Leaves(partial(second_stream, x.device)) if self.overlap else Leaves() as leaves:
            at = Outputs(
                x=x,
                x_adv=attacked.x_adv,
                perturbed=lambda images: leaves.of(self.passes.graph(images, theta_nu), images),  # f(.; θ+ν)
                unperturbed=lambda images: leaves.of(self.passes.graph(images, theta), images),  # f(.; θ)
                clean=self._clean_logits(attacked, leaves),  # f(x; θ)
                frozen=self.frozen,
                attack=attacked.record,
            )
            terms = method.objective(at, y)
            # Lines 7, 10 and 12: ranks, distances and their sum are the method's.
            loss = torch.stack(list(terms.values())).sum()  # L
            # Apart, as θ+ν and θ are different leaves: autograd would add nothing up, and in half precision the
            # sum belongs into the update, which takes it in the dtype of θ.
            # Eq. 17; where θ+ν is θ itself, all passes are at the first.
            of_theta: Mapping[str, Tensor] = {} if theta_nu is theta else theta
            found = leaves.gradients(loss, self.loss_scale, theta_nu, of_theta)
        # Line 13 from here on. User's hooks see the whole gradient at once, which no single pass has.
        at_theta_nu, at_theta = through_hooks(self.model, *found)
        # Once a step, after its last backward: it adapts the scale besides. One overflow voids the whole step,
        # since half an update would leave momentum and weights of two different steps.
        skip = self.loss_scale.skip([*at_theta_nu.values(), *at_theta.values()])
        settings = self.settings
        self.update.descend(  # θ ← (θ+ν) - l ∇L - ν
            at_theta_nu, at_theta, settings.optimizer, writes=settings.writes, skip=skip
        )
        metrics = {"loss": loss.detach()} | {f"loss_{name}": term.detach() for name, term in terms.items()}
        if attacked.nan_gradient is not None and not self.loss_scale.enabled:  # in fp16 one may overflow
            metrics["nan_gradient"] = attacked.nan_gradient
        if not method.attacked:
            return metrics | {"accuracy_clean": _accuracy(at.adversarial(), y)}
        of_clean = attacked.clean_logits if attacked.clean_logits is not None else at.of_clean_images()
        return metrics | _attack_metrics(at.adversarial(), of_clean, y)

    def _attack(self, x: Tensor, y: Tensor, given: StepInputs) -> Attacked:
        if not self.settings.trained.attacked:
            return Attacked(x, x)
        if given.delta is not None:
            return self._with_clean_pass(Attacked((x + given.delta.detach()).clamp(0, 1), x))
        attack, watch = self.settings.attack, self.settings.trained.watch
        start, clipped = self._start(x, given.start)
        in_train_mode = attack.bn_mode == "train"
        self.model.train(in_train_mode)
        gradient = InputGradient(
            self.passes,
            self.settings.trained,
            y,
            reference=self._reference(x),
            keep_graph=in_train_mode and self.settings.needs_clean and not self.recompute_clean,
            weights_at=attack.steps if self._takes_weight_gradients() else None,
            aside=self.overlap and self.settings.needs_clean,
            tells=watch is not None,
        )
        # Noted before the attack's first pass, which is the one that may have to be computed a second time.
        rewind = self._rewind(x)
        _, x_adv, nan, record = pgd(
            gradient,
            x,
            start,
            eps=attack.eps,
            step_size=attack.step_size,
            steps=attack.steps,
            norm=attack.norm,
            clip_start=clipped,
            watch=watch,
            labels=y,
        )
        self.model.train()
        found = Attacked(
            x_adv, (x + start).clamp(0, 1), nan_gradient=nan, at_weights=gradient.at_weights, record=record
        )
        if not clipped:  # the first pass saw noise besides, which no paper's clean branch does
            return self._with_clean_pass(found._replace(clean_x=x))
        # An eval-mode graph would not survive the update of the running statistics: a pass of its own.
        if not in_train_mode or gradient.first is None:
            return self._with_clean_pass(found)
        return self._with_clean_logits(found, gradient.first, rewind)

    def _start(self, x: Tensor, given: Tensor | None) -> tuple[Tensor, bool]:
        """The first δ, and whether x + δ is clipped before the first gradient."""
        attack = self.settings.attack
        if given is not None:
            return given.detach(), not attack.noise
        start = self.settings.trained.start_under(attack)
        return start(x, ball=ball_named(attack.norm), eps=attack.eps), start.clipped

    def _reference(self, x: Tensor) -> Tensor | None:
        """Clean logits that the attack compares with; they are the same in all of its steps."""
        if not self.settings.trained.needs_reference:
            return None
        with torch.no_grad():
            return self.passes(x)

    def _with_clean_pass(self, attacked: Attacked) -> Attacked:
        if not self.settings.needs_clean:
            return attacked
        rewind = self._rewind(attacked.clean_x)
        # A graph that is to be made again later would hold its activations for nothing.
        with torch.set_grad_enabled(not self.recompute_clean):
            graph = self.passes.graph(attacked.clean_x)
        return self._with_clean_logits(attacked, graph, rewind)

    def _with_clean_logits(self, attacked: Attacked, first: Graph, rewind: Rewind | None) -> Attacked:
        """Of the pass ``first``, whose graph was kept, or is computed again from its random numbers and buffers."""

        def again() -> Graph:
            with rewind() if rewind else nullcontext():
                # On copies of the buffers: the first time has updated the running statistics already.
                return self.passes.graph(attacked.clean_x, scratch=first.buffers or Buffers(self.model))

        # Cut off: the objective's own graph begins at these, and the pass's is kept, or not, apart from it.
        logits = first.logits.detach()
        return attacked._replace(clean_logits=logits, clean_graph=again if self.recompute_clean else lambda: first)

    def _clean_logits(self, attacked: Attacked, leaves: Leaves) -> Tensor | None:
        if not self.settings.needs_clean or attacked.clean_logits is None or attacked.clean_graph is None:
            return None
        aside = self.overlap and not self.recompute_clean
        return leaves.leaf(attacked.clean_logits, attacked.clean_graph, aside=aside)

    def _theta(self) -> Mapping[str, Tensor]:
        return without_hooks(self.update.theta())

    def _weight_perturbation(self, x: Tensor, attacked: Attacked, y: Tensor) -> Mapping[str, Tensor]:
        """θ+ν by name, θ itself where γ = 0."""
        awp, weights = self.settings.awp, perturbable(self.passes.theta)
        if not self.settings.perturbs or not weights:
            return self._theta()
        (found,) = through_hooks(self.model, self._perturbation_gradients(weights, x, attacked, y))
        gradients = self.loss_scale.finite_or_zero(found)
        return self.update.perturbed(gradients, gamma=awp.gamma, norm=awp.norm)

    def _perturbation_gradients(
        self, weights: Mapping[str, Tensor], x: Tensor, attacked: Attacked, y: Tensor
    ) -> Mapping[str, Tensor]:
        """∇θ of the method's loss for it, or what approximates its direction. Running statistics are left alone."""
        if (known := self.update.direction()) is not None:
            return {name: gradient for name, gradient in known.items() if name in weights}
        kind = self.settings.awp.gradient
        if attacked.at_weights is not None:
            return attacked.at_weights
        # Rounded up, so that a batch of one image has a half with something in it.
        count = (len(y) + 1) // 2 if kind == "half-batch" else len(y)
        # Copies for all of its passes: what only finds ν leaves no trace in the running statistics.
        buffers = Buffers(self.model)
        with Leaves() as leaves:

            def forward(images: Tensor) -> Tensor:
                return leaves.of(self.passes.graph(images, scratch=buffers), images)

            at = Outputs(
                x=x[:count],
                x_adv=attacked.x_adv[:count],
                perturbed=forward,
                unperturbed=forward,
                frozen=self.frozen,
                attack=attacked.record and attacked.record.of_first(count),
            )
            loss = self.settings.trained.perturbation_loss(at, y[:count])
            return leaves.gradients(loss, self.loss_scale, weights)[0]

    def _takes_weight_gradients(self) -> bool:
        return self.settings.perturbs and self.settings.awp.gradient == "last-attack-step"

    def _rewind(self, x: Tensor) -> Rewind | None:
        return Rewind(x.device) if self.draws and self.recompute_clean else None


def _augmentations(settings: Settings) -> list[Augmentation]:
    """One for each view that the method has of an image."""
    views = range(settings.trained.views)
    return (
        [replace(settings.augmentation, view=view) for view in views]
        if len(views) > 1
        else [settings.augmentation]
    )


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _accuracy(logits: Tensor, y: Tensor) -> Tensor:
    return is_right(logits, y).to(logits.dtype).mean()


@torch.no_grad()
def _attack_metrics(logits: Tensor, clean_logits: Tensor | None, y: Tensor) -> dict[str, Tensor]:
    metrics = {"accuracy_adversarial": _accuracy(logits, y)}
    if clean_logits is not None:
        clean_losses = F.cross_entropy(clean_logits, y, reduction="none")
        metrics["loss_clean"] = clean_losses.mean()
        metrics["accuracy_clean"] = _accuracy(clean_logits, y)
        metrics["av"] = F.cross_entropy(logits, y, reduction="none") - clean_losses
    return metrics
