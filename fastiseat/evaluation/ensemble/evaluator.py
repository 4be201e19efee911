"""An ensemble of attacks on a split: each part searches in full batches among the samples that are left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fastiseat.attacks.search.protocol import State
from fastiseat.attacks.verdict import is_answer, is_right
from fastiseat.engine.accept import as_network_input, count_classes, layout_of
from fastiseat.evaluation.ensemble.batched_search import BatchedSearch, Ints, Steps
from fastiseat.evaluation.ensemble.ensembles import Ensemble, Part
from fastiseat.evaluation.passes import EvaluationPasses, pixels_of
from fastiseat.evaluation.runners import EagerRunner, Recovering, Runner
from fastiseat.evaluation.samples import Samples
from fastiseat.evaluation.verdicts.ensemble_state import EnsembleState
from fastiseat.evaluation.verdicts.finite import require_answers

OnSample = Callable[[Part, EnsembleState], None]
"""Called, after each sample that a part is through with, with the part and all samples."""

Beat = Callable[[Part, float], None]
"""Called, after every step, with the part and how many samples' whole runs it still has to make at most."""

# Where samples run out a batch shrinks to 15 of 16 parts: rows of nobody cost as much as others, and each new size a
# library's choice of its algorithms.
_SHRINKING = 15
# Of a recording, sizes are halves of one another; more would push each other out.
_RECORDED_SIZES = 4
# Steps of one replay on a device that has to be waited for: the others run on beside a sample that is broken.
_STEPS_A_REPLAY = 4


@dataclass(frozen=True, kw_only=True)
class _Course:
    """One evaluation under way."""

    victims: Callable[[Ints, Ints], State]
    ensemble_state: EnsembleState
    on_sample: OnSample
    beat: Beat


class EnsembleEvaluator:
    """Who withstands an ensemble, by the passes of one network; see :class:`fastiseat.evaluation.Evaluator`.

    In half precision APGD-CE searches once before everything else, and only what it finds counts: all samples that
    are left have the whole ensemble before them, in the parameters' own precision.
    """

    def __init__(self, passes: EvaluationPasses, runner: Recovering, *, batch_size: int, seed: int) -> None:
        """``passes`` search; verdicts are in full precision."""
        self._passes = passes
        self._judge = EvaluationPasses(model=passes.model)
        self._runner, self._batch_size, self._seed = runner, batch_size, seed
        self._like = pixels_of(passes.model)

    def __call__(
        self,
        samples: Samples,
        ensemble: Ensemble,
        ensemble_state: EnsembleState,
        *,
        eps: float,
        on_sample: OnSample = lambda *_: None,
        beat: Beat = lambda *_: None,
    ) -> None:
        """Go on from ``ensemble_state``, which is changed sample by sample, to the end of the ensemble."""
        # Once for all parts: targets are ranked by the clean logits, whatever an attack has found since.
        targets = self._clean(samples, ensemble_state)
        victims = partial(self._victims, samples, targets, self._like.new_full((), eps))
        course = _Course(victims=victims, ensemble_state=ensemble_state, on_sample=on_sample, beat=beat)
        # Cheap and decisive: what half precision breaks is confirmed in full, and needs none of the slow parts.
        if self._passes.precision != "full":
            self._run_part(0, ensemble.parts[0], course, self._passes, only_found=True)
        full = EvaluationPasses(model=self._passes.model, strict=self._passes.strict)
        for number, part in enumerate(ensemble.parts):
            self._run_part(number, part, course, full)

    def _run_part(
        self, number: int, part: Part, course: _Course, passes: EvaluationPasses, *, only_found: bool = False
    ) -> None:
        """Run ``part``; if ``only_found``, those that it does not break have it before them still."""

        def ended(row: int, round_: int, broken: bool) -> None:
            if broken or not only_found:
                course.ensemble_state.ended(row, number, round_, rounds=part.rounds, broken=broken)
                course.on_sample(part, course.ensemble_state)

        def by(runner: Runner) -> None:
            batched_search = self._batched_search(runner, part, course.victims, passes)
            batched_search(course.ensemble_state.jobs(number), ended, partial(course.beat, part))

        self._runner.attempt(part.name, by)

    def _batched_search(
        self, runner: Runner, part: Part, victims: Callable[[Ints, Ints], State], passes: EvaluationPasses
    ) -> BatchedSearch:
        recorded = not isinstance(runner, EagerRunner)
        repeat = _STEPS_A_REPLAY if recorded else 1
        return BatchedSearch(
            Steps(search=part.search, passes=passes, repeat=repeat),
            victims,
            runner,
            judge=self._judge,
            rounds=part.rounds,
            sizes=_sizes(self._batch_size, recorded),
            seed=self._seed,
        )

    def _clean(self, samples: Samples, ensemble_state: EnsembleState) -> Tensor:
        """Mark what is wrong without an attack; (n, classes - 1): all wrong classes, the likeliest first."""
        orders, right, answered = [], [], []
        for first in range(0, len(samples), self._batch_size):
            rows = np.arange(first, min(first + self._batch_size, len(samples)))
            images, labels = self._images(samples, rows)
            logits = self._judge.logits(images)
            count_classes(logits, len(rows))
            right.append(is_right(logits, labels))
            answered.append(is_answer(logits))
            # The label's logit is made infinite, so that it comes first in the order and is dropped with [1:].
            others = logits.scatter(1, labels[:, None], torch.inf)
            orders.append(others.argsort(1, descending=True)[:, 1:])
        require_answers(torch.cat(answered))
        ensemble_state.wrong(~torch.cat(right).cpu().numpy())
        return torch.cat(orders)

    def _images(self, samples: Samples, rows: Ints) -> tuple[Tensor, Tensor]:
        images, labels = samples.take(rows, self._like.device)
        images = as_network_input(images, self._like)
        return images.contiguous(memory_format=layout_of(self._passes.model)), labels

    def _victims(self, samples: Samples, targets: Tensor, eps: Tensor, rows: Ints, rounds: Ints) -> State:
        images, labels = self._images(samples, rows)
        index, round_ = (torch.from_numpy(array).to(images.device) for array in (rows, rounds))
        target = targets.index_select(0, index).gather(1, round_[:, None]).squeeze(1)
        return {
            "images": images,
            "labels": labels,
            "target": target,
            "index": index,
            "round": round_,
            "eps": eps,
        }


def _sizes(batch_size: int, recorded: bool) -> tuple[int, ...]:
    """The sizes of batches, the largest first."""
    sizes = [batch_size]
    while sizes[-1] > 1 and not (recorded and len(sizes) == _RECORDED_SIZES):
        last = sizes[-1]
        sizes.append(-(-last // 2) if recorded else min(last - 1, last * _SHRINKING // (_SHRINKING + 1)))
    return tuple(sizes)
