"""AutoAttack by its authors' code, as the package pyautoattack has it: to compare with, and slower."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastiseat.attacks.verdict import is_answer, is_right
from fastiseat.engine.accept import as_network_input
from fastiseat.engine.precision import autocast, strict_float32
from fastiseat.errors import UserError
from fastiseat.evaluation.answers import Answers
from fastiseat.evaluation.passes import pixels_of
from fastiseat.evaluation.pgd_trace import Bools
from fastiseat.evaluation.robustness import evaluating
from fastiseat.evaluation.samples import Ints, Samples
from fastiseat.evaluation.verdicts.ensemble_state import EnsembleState
from fastiseat.evaluation.verdicts.finite import require_answers
from fastiseat.fusion.turns import taking_turns
from fastiseat.names import AUTOATTACK
from fastiseat.names.balls import ball_words

PACKAGE = "pyautoattack"
_STANDARD_TARGETS = 9
# Its targeted loss divides by a distance of the first from the third and fourth logit.
_FEWEST_CLASSES = 4


def package_version() -> str:
    """Of pyautoattack; :class:`UserError` where it is missing."""
    _package()
    return version(PACKAGE)


def _package() -> Any:
    try:
        return import_module(PACKAGE)
    except ImportError as error:
        raise UserError(f"the authors' AutoAttack is not installed: pip install {PACKAGE}") from error


def standard_attack(
    model: nn.Module, *, eps: float, norm: str, num_classes: int, seed: int, device: torch.device
) -> Any:
    """Its ``AutoAttack`` in the standard version; targets are all wrong classes where there are fewer than nine.

    :class:`UserError` where it is not installed, or has no such ball.
    """
    ball = ball_words(norm)
    if not ball.in_autoattack:
        raise UserError(f"--backend official: it is not asked for the {ball.sign} ball; take --backend fastiseat")
    attack = _package().AutoAttack(
        model, norm=ball.in_autoattack, eps=eps, seed=seed, version="standard", device=device
    )
    targets = min(_STANDARD_TARGETS, num_classes - 1)
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
    return attack


class Official:
    """Its standard version against one network, part by part, so that each part's verdicts can be kept."""

    def __init__(
        self,
        model: nn.Module,
        *,
        eps: float,
        norm: str,
        num_classes: int,
        batch_size: int,
        seed: int,
        say: Callable[[str], None],
        parts: Sequence[str] = tuple(AUTOATTACK),
        strict: bool = True,
    ) -> None:
        """``parts`` of it in their order; ``strict`` keeps TF32 out of it."""
        if num_classes < _FEWEST_CLASSES and "apgd-t" in parts:
            raise UserError(
                f"--backend official: the loss of its apgd-t needs {_FEWEST_CLASSES} classes, the network has "
                f"{num_classes}; take --backend fastiseat"
            )
        self._model, self._batch_size, self._say, self._strict = model, batch_size, say, strict
        self._parts = tuple(parts)
        self._like = pixels_of(model)
        self._answers = Answers(model)
        self._attack = standard_attack(
            self._answers, eps=eps, norm=norm, num_classes=num_classes, seed=seed, device=self._like.device
        )

    def run_ensemble(
        self,
        samples: Samples,
        ensemble_state: EnsembleState,
        on_part: Callable[[str, EnsembleState], None] = lambda *_: None,
    ) -> None:
        """Bring ``ensemble_state`` from the part it is at to the end; ``on_part`` hears of each part by its name."""
        arithmetic = strict_float32() if self._strict else nullcontext()
        with evaluating(self._model), arithmetic, autocast("full", self._like.device):
            self._clean(samples, ensemble_state)
            for number, part in enumerate(self._parts):
                rows = np.flatnonzero(ensemble_state.unbroken & (ensemble_state.part == number))
                if len(rows):
                    self._part(samples, rows, number, ensemble_state)
                on_part(part, ensemble_state)

    def _clean(self, samples: Samples, ensemble_state: EnsembleState) -> None:
        right, answered = [], []
        for first in range(0, len(samples), self._batch_size):
            rows = np.arange(first, min(first + self._batch_size, len(samples)))
            images, labels = self._take(samples, rows)
            logits = self._answers.passes.logits(images)
            right.append(is_right(logits, labels))
            answered.append(is_answer(logits))
        require_answers(torch.cat(answered))
        ensemble_state.wrong(~torch.cat(right).cpu().numpy())

    def _part(self, samples: Samples, rows: Ints, number: int, ensemble_state: EnsembleState) -> None:
        images, labels = self._take(samples, rows)
        broken = self._broken(self._parts[number], images, labels, instead=0)
        spared = np.flatnonzero(~broken & (labels == 0).cpu().numpy())
        if self._answers.lost and len(spared):
            images, labels = self._take(samples, rows[spared])
            broken[spared] = self._broken(self._parts[number], images, labels, instead=1)
        ensemble_state.broken_by[rows[broken]] = number + 1
        ensemble_state.part[rows] = number + 1

    def _broken(self, part: str, images: Tensor, labels: Tensor, *, instead: int) -> Bools:
        """bool (n,): whom one part breaks, an x' without an answer being of the class ``instead``."""
        self._answers.begin(instead=instead)
        self._attack.attacks_to_run = [part]
        with _seeds_kept(images.device), _warnings_said(self._say):
            x_adv, found = self._attack.run_standard_evaluation(images, labels, batch_size=self._batch_size)
        # FAB-T's x' is no image where a gradient was no number.
        broken: Bools = ((found != labels) & x_adv.isfinite().flatten(1).all(1)).cpu().numpy()
        return broken

    def _take(self, samples: Samples, rows: Ints) -> tuple[Tensor, Tensor]:
        images, labels = samples.take(rows, self._like.device)
        return as_network_input(images, self._like).contiguous(), labels


@contextmanager
def _seeds_kept(device: torch.device) -> Iterator[None]:
    """The package seeds torch's generators of every device."""
    with taking_turns(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def _warnings_said(say: Callable[[str], None]) -> Iterator[None]:
    """What the package warns of is said, and printed by nobody else."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"pyautoattack: {record.getMessage()}")

    logger, handler = logging.getLogger("auto-attack"), Handler(logging.WARNING)
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
