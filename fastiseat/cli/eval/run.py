"""What ``fastiseat eval`` does: every attack on every network, unless its verdicts are saved already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fastiseat.cli.console.progress import ConsoleProgress
from fastiseat.cli.eval.attacker import Attacker
from fastiseat.cli.eval.flags import Eval
from fastiseat.cli.eval.result import Evaluation
from fastiseat.cli.eval.target import Subject, is_saved, load, told, weights_of
from fastiseat.cli.eval.together import require_same_data
from fastiseat.cli.machine import choose_device, memory_hint
from fastiseat.errors import UserError
from fastiseat.evaluation import Attack, EnsembleAttack, Evaluator, any_attack_named
from fastiseat.evaluation.verdicts.records import read
from fastiseat.names.balls import ball_words
from fastiseat.run.signals import raised_at_once

_STOPPED = "between two verdicts: the same command goes on from those that are saved"


def evaluations(arguments: Eval) -> list[Evaluation]:
    """One for each target and each of its weights; attacked where no verdicts are saved."""
    device = choose_device(arguments.device)
    with raised_at_once(_STOPPED), ConsoleProgress() as progress, memory_hint(arguments.batch_size):
        # All are loaded before the first attack: what is wrong with the last is said at once.
        plans = [plan for target in arguments.targets for plan in _plans(target, arguments, progress)]
        if arguments.compare and len(plans) != 2:
            raise UserError(
                f"--compare: two evaluations are compared, here are {len(plans)}; give two targets, or one and two "
                "--weights"
            )
        if arguments.compare:
            require_same_data([plan.facts for plan in plans])
        return [
            plan if isinstance(plan, Evaluation) else _evaluation(plan, arguments, device, progress)
            for plan in plans
        ]


def _plans(target: Path, arguments: Eval, progress: ConsoleProgress) -> Iterator[Evaluation | Subject]:
    if is_saved(target):
        yield Evaluation(records=[read(target)], files=[target])
        return
    for weights in weights_of(target, arguments):
        subject = load(weights, arguments, progress)
        attacks_on(subject, arguments)
        yield subject


def _evaluation(subject: Subject, arguments: Eval, device: torch.device, progress: ConsoleProgress) -> Evaluation:
    attacks = attacks_on(subject, arguments)
    subject.model.to(device)
    attacker = Attacker(subject, arguments, progress)
    files, records = zip(*map(attacker, attacks), strict=True)
    several = subject.weights.of_a_run and len(set(arguments.weights)) > 1
    evaluation = Evaluation(records=records, files=files, group=subject.weights.which if several else "")
    strongest = max(attacks, key=lambda attack: attack.eps)
    if strongest.eps > 0 and not arguments.no_sanity and evaluation.sanity is None:
        checks = _sanity(attacker.evaluator, subject, strongest, arguments, progress)
        for record, path in zip(records, files, strict=True):
            if record.facts["attack"]["eps"]:
                record.checked(checks)
                record.save(path)
    subject.model.cpu()
    return evaluation


def attacks_on(subject: Subject, arguments: Eval) -> list[Attack | EnsembleAttack]:
    """Those asked for, each once, with the network's own ε if no other is given."""
    eps, norm = 0.0, arguments.norm or subject.trained_norm
    if set(arguments.attacks) != {"clean"}:
        _require_same_ball(norm, subject.trained_norm, arguments.eps)
        eps = _number(told("eps", arguments.eps, subject.trained_eps))
    named = partial(
        any_attack_named,
        eps=eps,
        norm=norm,
        steps=arguments.steps,
        step_size=arguments.step_size,
        restarts=arguments.restarts,
    )
    return list(dict.fromkeys(map(named, arguments.attacks)))


def _require_same_ball(norm: str, trained: str, eps: float | None) -> None:
    if norm != trained and eps is None:
        sign = ball_words(trained).sign
        raise UserError(f"--norm {norm}: give --eps; the ε that a weights file tells is that of the {sign} ball")


def _number(eps: float | str) -> float:
    try:
        return float(eps)
    except ValueError:
        raise UserError(f"the weights file tells eps {eps!r}, which is no number: give --eps") from None


def _sanity(
    evaluator: Evaluator,
    subject: Subject,
    attack: Attack | EnsembleAttack,
    arguments: Eval,
    progress: ConsoleProgress,
) -> list[dict[str, Any]]:
    from fastiseat.evaluation.sanity.signs import sanity_checks

    checks = sanity_checks(
        evaluator,
        subject.split,
        eps=attack.eps,
        norm=attack.norm,
        num_classes=subject.model.spec.num_classes,
        seed=arguments.seed,
        progress=lambda attack: progress.busy(f"sanity checks: {attack}"),
    )
    progress.forget()
    return [asdict(check) for check in checks]
