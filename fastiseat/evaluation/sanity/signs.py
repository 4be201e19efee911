"""Signs of masked gradients: a network that only the attacks' gradients spare, and no real robustness.

After Athalye et al., 2018, "Obfuscated gradients give a false sense of security", and Carlini et al., 2019, "On
evaluating adversarial robustness". None of the checks proves anything: a suspicious one asks for a look at the network
and for attacks made for it. In brackets is what they cost each image, in forward and backward passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from fastiseat.attacks.balls import ball_named
from fastiseat.attacks.search.square import Square
from fastiseat.attacks.verdict import is_answer, is_right
from fastiseat.engine.accept import as_network_input, layout_of
from fastiseat.engine.restore import counter_seed, own_randomness
from fastiseat.evaluation.attack import EnsembleAttack
from fastiseat.evaluation.ensemble.ensembles import Ensemble, Part
from fastiseat.evaluation.passes import EvaluationPasses, pixels_of
from fastiseat.evaluation.pgd_trace import Bools, WatchedPGD
from fastiseat.evaluation.robustness import Evaluator, evaluating
from fastiseat.evaluation.samples import Ints, Samples
from fastiseat.evaluation.sanity.masking import Check, Evidence, checks_of
from fastiseat.evaluation.sanity.network_checks import checks_of_network
from fastiseat.evaluation.verdicts.ensemble_state import EnsembleState
from fastiseat.evaluation.verdicts.finite import require_answers
from fastiseat.names.balls import Norm
from fastiseat.pipelines.protocol.base import Split

# At most so many images: 258 passes and, of Square, 501 forward ones for each, a tenth of PGD-50 on 10,000.
SUBSET = 128
QUERIES = 500


def sanity_checks(
    evaluator: Evaluator,
    samples: Split | Samples,
    *,
    eps: float,
    norm: Norm,
    num_classes: int,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Check]:
    """Checks of the evaluator's network on 128 random samples at most, in full precision, call by call.

    ``progress`` is told of each attack before it begins. The network, the evaluator's recordings and the caller's
    random numbers are left as they are. Without an ε, a second class or a sample the list is empty.
    """
    if eps == 0 or num_classes < 2 or not len(samples):
        return []
    device = next(evaluator.model.parameters()).device
    with evaluating(evaluator.model), own_randomness(device, counter_seed(seed, 0)):
        samples = samples if isinstance(samples, Samples) else Samples.of(samples)
        subject = _Subject(evaluator, samples, _chosen(len(samples), seed), eps=eps, norm=norm, seed=seed)
        progress("network")
        found = checks_of_network(subject.passes, subject.images, seed=seed)
        if not len(subject.labels):
            nothing = f"0 of {subject.size} images are classified correctly: there is nothing to attack"
            return [*found, Check("samples", nothing, suspicious=False)]
        return found + checks_of(subject.evidence(progress))


class _Subject:
    """The network, and those of the samples that it classifies correctly."""

    def __init__(
        self, evaluator: Evaluator, samples: Samples, rows: Ints, *, eps: float, norm: Norm, seed: int
    ) -> None:
        self._eps, self._norm, self._seed, self.size = eps, norm, seed, len(rows)
        self._batch_size = min(evaluator.batch_size, len(rows))
        self.passes = EvaluationPasses(model=evaluator.model)
        self._evaluator = Evaluator(evaluator.model, engine="eager", batch_size=self._batch_size)
        like = pixels_of(evaluator.model)
        images, labels = samples.take(rows, like.device)
        self.images = as_network_input(images, like).contiguous(memory_format=layout_of(evaluator.model))
        logits = torch.cat([self.passes.logits(x) for x in self.images.split(self._batch_size)])
        require_answers(is_answer(logits), rows)
        right = is_right(logits, labels)
        self._victims, self.labels = self.images[right], labels[right]

    def evidence(self, progress: Callable[[str], None]) -> Evidence:
        """All attacks, one after the other."""
        whole = float(ball_named(self._norm).length(torch.ones_like(self.images[:1], dtype=torch.float64)))
        pgd = WatchedPGD(passes=self.passes, eps=self._eps, norm=self._norm, seed=self._seed)
        attacks = {
            "clean": replace(pgd, steps=0),
            "fgsm": replace(pgd, steps=1, step_size=self._eps),
            "at_image": pgd,
            "at_random": replace(pgd, random=True),
            "on_margin": replace(pgd, loss="margin"),
        }
        # Where the ball holds any image, a larger one holds no more.
        if self._eps < whole / 2:
            attacks["larger"] = replace(pgd, eps=2 * self._eps)
            attacks["unbounded"] = replace(pgd, eps=whole / 2)
        climbs = {}
        for name, attack in attacks.items():
            progress(name.replace("_", " "))
            climbs[name] = attack(self._victims, self.labels, batch_size=self._batch_size)
        progress("square")
        return Evidence(eps=self._eps, unbounded_eps=whole / 2, queries=QUERIES, square=self._square(), **climbs)

    def _square(self) -> Bools:
        search = Square(norm=self._norm, queries=QUERIES, rescaled=True, seed=self._seed)
        ensemble = Ensemble(name="square", parts=(Part(name="square", search=search),))
        ensemble_state = EnsembleState.fresh(len(self.labels))
        attack = EnsembleAttack(name="square", eps=self._eps, norm=self._norm)
        samples = Samples(self._victims, self.labels)
        self._evaluator.run_ensemble(samples, attack, ensemble, ensemble_state, seed=self._seed)
        return ensemble_state.unbroken


def _chosen(size: int, seed: int) -> Ints:
    """Random ones: a data set may be sorted."""
    return np.sort(np.random.default_rng(seed).permutation(size)[:SUBSET])
