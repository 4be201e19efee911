"""``fastiseat.evaluate``: a network of your own, on images of your own."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastiseat.engine.accept import (
    as_network_input,
    check_images,
    check_labels,
    check_layout,
    check_tensor,
    check_values,
    count_classes,
    outside_inference,
)
from fastiseat.engine.restore import own_randomness
from fastiseat.engine.trainable import check_module
from fastiseat.errors import UserError
from fastiseat.evaluation.arguments import AnyAttack, Choices, attacks_given, length_given
from fastiseat.evaluation.attack import Attack, EnsembleAttack, any_attack_named
from fastiseat.evaluation.ensemble.ensembles import ensemble_named
from fastiseat.evaluation.passes import EvaluationPasses, pixels_of
from fastiseat.evaluation.robustness import BATCH_SIZE, Evaluator, evaluating
from fastiseat.evaluation.samples import Samples
from fastiseat.evaluation.sanity.signs import sanity_checks
from fastiseat.evaluation.verdicts.ensemble_state import EnsembleState
from fastiseat.names import attack_called
from fastiseat.names.balls import Norm
from fastiseat.safe import one_line


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What one attack leaves of a network's accuracy."""

    robust: Tensor
    """bool (n,), on the CPU: which samples are classified correctly, whatever the attack did."""
    broken_by: tuple[str, ...] = ()
    """Of an ensemble, for each sample: ``clean`` where the network is wrong without an attack, the part that broke
    it, or nothing."""

    @property
    def accuracy(self) -> float:
        """The share of robust samples, 0 … 1."""
        return float(self.robust.double().mean())


@torch.inference_mode(mode=False)  # that of a caller lets no gradient flow
def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attacks: AnyAttack | Sequence[AnyAttack] = ("clean", "fgsm", "pgd-50"),
    *,
    eps: float | str | None = None,
    norm: Norm = "linf",
    restarts: int = 1,
    batch_size: int = BATCH_SIZE,
    precision: str = "full",
    engine: str = "auto",
    seed: int = 0,
    sanity: bool = False,
) -> dict[str, Verdicts]:
    """Verdicts on every sample under each attack, by its name; the model, in eval mode meanwhile, is left as found.

    Args:
        model: maps images to logits (n, classes), alone or as ``logits`` of a dict or an output object; parameters of
            any floating dtype. Images, δ and the ball are float64 where they are, else float32; a model in half
            precision reads x' rounded to its first parameter's dtype.
        images: floats (n, C, H, W) in [0, 1], up to 1e-6 beyond, of the model's dtype, for one in half precision
            float32 too, or uint8 (n, H, W, C), on any device.
        labels: int64 (n,).
        attacks: one or several, by names of :data:`fastiseat.names.ATTACKS`, ``clean``, ``fgsm``, ``pgd-20``,
            ``cw-20``, ``aa``, which ``autoattack`` is too, ``apgd-ce`` and its other parts, or attacks of
            :mod:`fastiseat.evaluation`, which tell their own ε. Of the result each is the key ``attack.name``: ``aa``
            and ``pgd-10``.
        eps: ε of the attacks named, in units of pixel values in [0, 1]; 8 of 255 levels are 8 / 255 or "8/255".
        norm: ``linf`` or ``l2``, of the attacks named.
        restarts: of ``pgd`` and ``cw``; the first starts at the image, further ones at random.
        batch_size: images at a time.
        precision: ``full``, ``bf16`` or ``fp16`` for finding adversarial images; verdicts are in the model's own.
        engine: as of :class:`fastiseat.TrainStep`.
        seed: of all random numbers; the caller's generators are left alone.
        sanity: look for masked gradients too, on 128 images at most, at each ε that is attacked with: one
            :class:`RuntimeWarning` says what is suspicious. Of few images it costs more than PGD does.

    Raises:
        UserError: an unknown attack, no ε for one that needs it, images that are no images in [0, 1], labels that
            the model has no class for, logits that are no finite numbers on an image that is not attacked. Such logits
            on an attacked image are wrong.
    """
    Choices(
        norm=norm,
        restarts=restarts,
        batch_size=batch_size,
        precision=precision,
        engine=engine,
        seed=seed,
        sanity=sanity,
    )
    asked, length = attacks_given(attacks), length_given(eps)
    samples, num_classes = _accepted(model, images, labels)
    evaluator = Evaluator(model, precision=precision, engine=engine, batch_size=batch_size)
    found: dict[str, Verdicts] = {}
    balls: dict[tuple[Norm, float], None] = {}  # a set in order
    for attack in asked:
        if isinstance(attack, str):
            attack = any_attack_named(attack, eps=_told(length, attack), norm=norm, restarts=restarts)
        found[attack.name] = _verdicts(evaluator, samples, attack, num_classes, seed)
        balls[attack.norm, attack.eps] = None
    if sanity:
        _warn_of_masking(evaluator, samples, balls, num_classes, seed)
    return found


def _warn_of_masking(
    evaluator: Evaluator, samples: Samples, balls: Iterable[tuple[Norm, float]], num_classes: int, seed: int
) -> None:
    found = [
        f"{check.name} at ε = {eps:.4g} ({check.finding})"
        for norm, eps in balls
        for check in sanity_checks(evaluator, samples, eps=eps, norm=norm, num_classes=num_classes, seed=seed)
        if check.suspicious
    ]
    if found:
        line = f"gradients may be masked, and these accuracies too high: {'; '.join(found)}"
        warnings.warn(one_line(line), RuntimeWarning, stacklevel=4)


def _verdicts(
    evaluator: Evaluator, samples: Samples, attack: Attack | EnsembleAttack, num_classes: int, seed: int
) -> Verdicts:
    if isinstance(attack, Attack):
        return Verdicts(robust=torch.from_numpy(evaluator(samples, attack, seed=seed)))
    ensemble = ensemble_named(attack.name, norm=attack.norm, num_classes=num_classes, seed=seed)
    ensemble_state = EnsembleState.fresh(len(samples))
    evaluator.run_ensemble(samples, attack, ensemble, ensemble_state, seed=seed)
    names = ("clean", *(part.name for part in ensemble.parts), "")
    return Verdicts(
        robust=torch.from_numpy(ensemble_state.unbroken),
        broken_by=tuple(names[number] for number in ensemble_state.broken_by),
    )


def _accepted(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Samples, int]:
    check_module(model)
    check_tensor("images", images)
    check_tensor("labels", labels)
    weight = next(model.parameters(), None)
    if weight is None:
        raise UserError("the model has no parameter, which would tell its dtype and device: give it one")
    if not len(images):
        raise UserError("no images: give one at least")
    like = pixels_of(model)
    if images.is_floating_point() and weight.dtype != like.dtype:  # a model in half precision
        images = images.to(like.dtype)
    check_images(images[:1].to(like.device) if images.dim() == 4 else images, like)
    check_labels(images, labels)
    with evaluating(model), own_randomness(like.device, 0):
        first = as_network_input(images[:1].to(like.device), like)
        num_classes = count_classes(_first_logits(model, first, images), 1)
    check_values(images, labels, num_classes)
    return Samples(outside_inference(images), outside_inference(labels)), num_classes


def _first_logits(model: nn.Module, first: Tensor, images: Tensor) -> Tensor:
    try:
        return EvaluationPasses(model=model).logits(first)
    except RuntimeError as error:
        check_layout(images, error)
        raise


def _told(eps: float | None, attack: str) -> float:
    if eps is None and attack_called(attack) != "clean":
        raise UserError(f"attacks={attack}: it needs an ε: give eps, in units of pixel values in [0, 1]")
    return eps or 0.0
