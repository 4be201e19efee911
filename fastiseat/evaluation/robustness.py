"""Clean, FGSM and PGD accuracy of a network in eval mode, sample by sample."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fastiseat.engine.precision import DTYPES, autocast
from fastiseat.engine.restore import counter_seed, modes_restored, own_randomness
from fastiseat.errors import UserError
from fastiseat.evaluation.attack import Attack, EnsembleAttack
from fastiseat.evaluation.ensemble.ensembles import Ensemble
from fastiseat.evaluation.ensemble.evaluator import Beat, EnsembleEvaluator, OnSample
from fastiseat.evaluation.passes import EvaluationPasses, pixels_of
from fastiseat.evaluation.runners import EagerRunner, Recovering, Runner, runner_named
from fastiseat.evaluation.samples import Samples
from fastiseat.evaluation.trial import Trial
from fastiseat.evaluation.verdicts.ensemble_state import EnsembleState
from fastiseat.evaluation.verdicts.finite import require_answers
from fastiseat.models import Network
from fastiseat.pipelines.protocol.base import Split
from fastiseat.safe import one_line

BATCH_SIZE = 512


def _warn(line: str) -> None:
    warnings.warn(one_line(line), RuntimeWarning, stacklevel=2)


def _silent(done: int) -> None:
    pass


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for the block; each submodule's own flag afterwards.

    Our own networks' weights want no gradient meanwhile: their BatchNorm would compute it beside that of the input.
    """
    wanting = (
        [weight for weight in model.parameters() if weight.requires_grad] if isinstance(model, Network) else []
    )
    with modes_restored(model):
        model.eval()
        try:
            for weight in wanting:
                weight.requires_grad_(False)
            yield
        finally:
            for weight in wanting:
                weight.requires_grad_(True)


def correct_under(
    trial: Trial, run: Runner, given: Mapping[str, Tensor], attack: Attack, *, seed: int
) -> tuple[Tensor, Tensor]:
    """bool (m,) both: which of the images ``given`` the network still gets right after each restart of ``attack``, and
    whether its logits on them without an attack, where the first restart starts, are finite numbers.
    """
    correct = answered = torch.ones_like(given["labels"], dtype=torch.bool)
    for restart in range(attack.restarts):
        this = replace(trial, random_start=restart > 0)
        found = run(this, given, seed=counter_seed(seed, restart))
        if this.precision != "full" and _overflowed(found):  # and these samples were spared
            found = EagerRunner()(replace(this, precision="full"), given, seed=counter_seed(seed, restart))
        correct = correct & found["correct"]
        if not this.random_start:
            answered = answered & found["answered"]
    return correct, answered


def _check_precision(precision: str, model: nn.Module) -> None:
    """:class:`UserError` for another half precision than the model's own, which autocast would mix with it."""
    dtype, wanted = next(model.parameters()).dtype, DTYPES[precision]
    if wanted is not None and dtype in DTYPES.values() and dtype != wanted:
        raise UserError(
            f"precision={precision}: the model is in {dtype}, half precision too: leave it out, or give model.float()"
        )


def _overflowed(found: Mapping[str, Tensor]) -> bool:
    return bool(found["nan_gradient"] | ~found["answered"].all())


class Evaluator:
    """Verdicts of one network on any split, under any attack; kept from epoch to epoch, so are its recordings.

    A recording is of one kind of attack, all but its ε and step size, on a batch of ``batch_size``; it reads the
    weights where they lie. What is left over at the end of a split runs call by call.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        precision: str = "full",
        engine: str = "auto",
        batch_size: int = BATCH_SIZE,
        strict: bool = True,
        say: Callable[[str], None] = _warn,
    ) -> None:
        """``precision`` is the attack's: ``full`` (the parameters' own), ``bf16`` or ``fp16``.

        In half precision it *finds* the images; the verdict on them is always a forward pass of ``model`` in the
        parameters' own precision. A batch whose gradients overflow is attacked in full precision. ``strict`` keeps
        TF32 out of the attack too, as it is out of the verdict.

        ``engine`` is one of those of :class:`fastiseat.TrainStep`. ``auto`` is graph on a CUDA device, else eager;
        ``compile`` is eager. A network that can't be recorded is evaluated call by call, which ``say`` is told.
        """
        autocast(precision, torch.device("cpu"))  # refuses an unknown one at once
        _check_precision(precision, model)
        self.model, self.precision, self.batch_size = model, precision, batch_size
        self.engine = Recovering(runner_named(engine, model), say)
        self._strict = strict

    def __call__(
        self, split: Split | Samples, attack: Attack, *, seed: int = 0, progress: Callable[[int], None] = _silent
    ) -> npt.NDArray[np.bool_]:
        """bool (n,): the verdict on every sample of ``split``; ``progress`` is told how many are done.

        :class:`~fastiseat.evaluation.verdicts.finite.NotFiniteError` where the network has no answer to an image
        itself. One to x' that is no finite number is wrong.
        """
        samples, like = _samples(split), pixels_of(self.model)
        numbers = {name: like.new_full((), getattr(attack, name)) for name in ("eps", "step_size")}
        batches = []
        with evaluating(self.model):
            for first in range(0, len(samples), self.batch_size):
                rows = np.arange(first, min(first + self.batch_size, len(samples)))
                images, labels = samples.take(rows, like.device)
                given = {"images": images, "labels": labels, **numbers}
                batches.append(self._verdicts(given, attack, seed=counter_seed(seed, first)))
                progress(first + len(rows))
        correct, answered = map(torch.cat, zip(*batches, strict=True))
        require_answers(answered)
        return correct.cpu().numpy()

    def run_ensemble(
        self,
        split: Split | Samples,
        attack: EnsembleAttack,
        ensemble: Ensemble,
        ensemble_state: EnsembleState,
        *,
        seed: int = 0,
        on_sample: OnSample = lambda *_: None,
        beat: Beat = lambda *_: None,
    ) -> None:
        """Bring ``ensemble_state`` from where it is to the end of ``ensemble``, which is that of ``attack``.

        In half precision APGD-CE looks first for what it can break; all that is left has the whole ensemble in full
        precision before it. ``on_sample`` and ``beat`` hear how it goes: of samples, and of the work that is left.
        What the verdict on a sample is depends on no other sample and no batch, but for the rounding of the passes.
        """
        passes = EvaluationPasses(model=self.model, precision=self.precision, strict=self._strict)
        evaluator = EnsembleEvaluator(passes, self.engine, batch_size=self.batch_size, seed=seed)
        with evaluating(self.model), own_randomness(pixels_of(self.model).device, seed):  # judges may draw
            evaluator(_samples(split), ensemble, ensemble_state, eps=attack.eps, on_sample=on_sample, beat=beat)

    def _verdicts(self, given: Mapping[str, Tensor], attack: Attack, *, seed: int) -> tuple[Tensor, Tensor]:
        trial = Trial(
            model=self.model,
            steps=attack.steps,
            norm=attack.norm,
            loss=attack.loss,
            precision=self.precision,
            strict=self._strict,
        )

        def by(run: Runner) -> tuple[Tensor, Tensor]:
            return correct_under(trial, run, given, attack, seed=seed)

        # A recording for the rest of a split would cost more than its one run.
        is_rest = len(given["labels"]) != self.batch_size
        return by(EagerRunner()) if is_rest else self.engine.attempt("this attack", by)


def _samples(split: Split | Samples) -> Samples:
    return split if isinstance(split, Samples) else Samples.of(split)


def evaluate_split(
    model: nn.Module,
    split: Split,
    attack: Attack,
    *,
    batch_size: int = BATCH_SIZE,
    precision: str = "full",
    engine: str = "eager",
    seed: int = 0,
    progress: Callable[[int], None] = _silent,
) -> npt.NDArray[np.bool_]:
    """bool (n,): the verdict on every sample of ``split``, by an :class:`Evaluator` for this once."""
    evaluator = Evaluator(model, precision=precision, engine=engine, batch_size=batch_size)
    return evaluator(split, attack, seed=seed, progress=progress)
