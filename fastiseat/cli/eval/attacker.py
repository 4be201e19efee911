"""One network under attack: verdicts that are saved are not computed again, and those that are cut short go on."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastiseat.attacks.verdict import is_answer
from fastiseat.checkpoint import RUN
from fastiseat.cli.console.progress import ConsoleProgress
from fastiseat.cli.eval.facts import ensemble_on, facts_of, is_official
from fastiseat.cli.eval.flags import Eval
from fastiseat.cli.eval.follow import Follower, saved_whatever_comes
from fastiseat.cli.eval.target import Subject
from fastiseat.engine.accept import as_network_input
from fastiseat.engine.precision import precision_for_amp
from fastiseat.evaluation import Attack, EnsembleAttack, EnsembleState, Evaluator, attack_named
from fastiseat.evaluation.ensemble.official import Official
from fastiseat.evaluation.passes import EvaluationPasses, pixels_of
from fastiseat.evaluation.robustness import evaluating
from fastiseat.evaluation.samples import Samples
from fastiseat.evaluation.verdicts.confirm import confirmed
from fastiseat.evaluation.verdicts.ensemble_state import WRONG
from fastiseat.evaluation.verdicts.records import Record, place


class Attacker:
    """Verdicts on one subject, whose network lies on the device already."""

    def __init__(self, subject: Subject, arguments: Eval, progress: ConsoleProgress) -> None:
        self._subject, self._arguments, self._progress = subject, arguments, progress
        self._like = pixels_of(subject.model)
        self._half = precision_for_amp(self._like.device) if arguments.amp else "full"
        if arguments.amp and self._half == "full":
            progress.say("--amp: this CPU has no instructions for half precision, and computes in float32")
        self._samples = Samples.of(subject.split)
        self._looked_at = False

    def __call__(self, attack: Attack | EnsembleAttack) -> tuple[Path, Record]:
        """The verdicts under ``attack``, and the file that they are saved in."""
        facts = facts_of(self._subject, attack, self._arguments, self._half)
        weights, say = self._subject.weights, self._progress.say
        path, record = place(weights.folder, facts, weights.which, say)
        if record is None or self._arguments.fresh:
            record = self._new(attack, facts)
        elif record.left:
            say(f"{attack.name}: goes on from {path}, with {record.left} of {len(record.robust)} samples left")
        else:
            say(f"{attack.name}: its verdicts are in {path}; --fresh attacks again")
            return path, record
        self._require_answers()
        with saved_whatever_comes(record, path, say):
            self._run(attack, record, path)
        self._progress.forget()
        return path, record

    @cached_property
    def evaluator(self) -> Evaluator:
        """In full precision."""
        return self._made("full")

    @cached_property
    def _finder(self) -> Evaluator:
        return self.evaluator if self._half == "full" else self._made(self._half)

    def _made(self, precision: str) -> Evaluator:
        return Evaluator(
            self._subject.model,
            precision=precision,
            engine=self._arguments.engine,
            batch_size=self._arguments.batch_size,
            strict=not self._arguments.tf32,
            say=self._progress.say,
        )

    def _new(self, attack: Attack | EnsembleAttack, facts: dict[str, Any]) -> Record:
        subject, device = self._subject, self._like.device
        parts: tuple[str, ...] = (attack.name,)
        notes: tuple[str, ...] = ()
        if isinstance(attack, EnsembleAttack):
            ensemble = ensemble_on(subject, attack, self._arguments.seed)
            parts, notes = tuple(part.name for part in ensemble.parts), ensemble.notes
        made = {
            "weights": str(subject.weights.file),
            RUN: subject.run,
            "official": subject.data.official,
            "verified": subject.verified,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
            "torch": torch.__version__,
        }
        ensemble_state = EnsembleState.fresh(len(subject.split))
        return Record(facts=facts, made=made, parts=parts, notes=notes, ensemble_state=ensemble_state)

    def _run(self, attack: Attack | EnsembleAttack, record: Record, path: Path) -> None:
        if isinstance(attack, Attack):
            record.conclude(self._verdicts(attack, record), broken_by=1 if attack.steps else WRONG)
        elif is_official(attack, self._arguments):
            self._run_official(attack, record, Follower(record, path, self._progress))
        else:
            self._run_ensemble(attack, record, Follower(record, path, self._progress))

    def _verdicts(self, attack: Attack, record: Record) -> Any:
        seed, split = self._arguments.seed, self._subject.split

        def progress(done: int) -> None:
            self._progress.count(attack.name, done, len(split))

        if record.facts["precision"] == "full":
            return self.evaluator(split, attack, seed=seed, progress=progress)
        return confirmed(self.evaluator, self._finder, split, attack, seed=seed, progress=progress)

    def _run_ensemble(self, attack: EnsembleAttack, record: Record, follower: Follower) -> None:
        seed = self._arguments.seed
        ensemble = ensemble_on(self._subject, attack, seed)
        self._finder.run_ensemble(
            self._samples,
            attack,
            ensemble,
            record.ensemble_state,
            seed=seed,
            on_sample=lambda *_: follower.on_sample(),
            beat=lambda part, left: follower.beat(ensemble.parts.index(part), left),
        )

    def _run_official(self, attack: EnsembleAttack, record: Record, follower: Follower) -> None:
        official = Official(
            self._subject.model,
            eps=attack.eps,
            norm=attack.norm,
            num_classes=self._subject.model.spec.num_classes,
            batch_size=self._arguments.batch_size,
            seed=self._arguments.seed,
            parts=record.parts,
            strict=not self._arguments.tf32,
            say=self._progress.say,
        )

        def on_part(part: str, ensemble_state: EnsembleState) -> None:
            follower.on_sample()
            self._progress.busy(f"{part} is through, robust so far {100 * ensemble_state.unbroken.mean():.2f}%")

        self._progress.busy("the authors' code")
        official.run_ensemble(self._samples, record.ensemble_state, on_part)

    def _require_answers(self) -> None:
        """Before the first attack, by the first batch: each attack looks at all images, but when it is through."""
        if self._looked_at:
            return
        rows = np.arange(min(self._arguments.batch_size, len(self._samples)))
        images, _ = self._samples.take(rows, self._like.device)
        with evaluating(self._subject.model):
            logits = EvaluationPasses(model=self._subject.model).logits(as_network_input(images, self._like))
        if not is_answer(logits).all():
            self.evaluator(self._samples, attack_named("clean", eps=0))  # says on how many of them all
        self._looked_at = True
