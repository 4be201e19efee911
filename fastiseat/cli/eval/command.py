"""``fastiseat eval``: its flags, and what it prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastiseat.cli.console.flags import command_line
from fastiseat.cli.console.output import show_json
from fastiseat.cli.eval.flags import Eval
from fastiseat.distributed import refuse_ranks
from fastiseat.errors import UserError
from fastiseat.fields import require_count, require_seed
from fastiseat.names import AUTOATTACK

if TYPE_CHECKING:
    from fastiseat.cli.eval.result import Evaluation


ARGUMENTS = Eval


def main(argv: list[str]) -> None:
    """Evaluate and print."""
    arguments = command_line(ARGUMENTS, argv, prog="fastiseat eval")
    _check(arguments)
    refuse_ranks("eval")
    from fastiseat.cli.eval.run import evaluations

    found = evaluations(arguments)
    if arguments.as_json:
        show_json(_told(found, arguments.compare))
        return
    from fastiseat.cli.eval.tables import print_all

    print_all(found, compare=arguments.compare)


def evaluate(arguments: Eval) -> dict[str, Any]:
    """What ``--json`` prints: of one evaluation the network, the data and each attack's parameters and accuracy; of
    several these under ``evaluations``, with their ``means``, or with ``--compare`` their ``comparison``.
    """
    _check(arguments)
    from fastiseat.cli.eval.run import evaluations

    return _told(evaluations(arguments), arguments.compare)


def _told(found: list[Evaluation], compare: bool) -> dict[str, Any]:
    from fastiseat.cli.eval.together import comparison, means

    if len(found) == 1:
        return found[0].as_json()
    told: dict[str, Any] = {"evaluations": [each.as_json() for each in found]}
    if compare:
        return told | {"comparison": comparison(*found)}
    columns, refused = means(found)
    return told | {"means": columns, "no_means": refused}


def _check(arguments: Eval) -> None:
    """What can be refused before anything is loaded."""
    require_count(1, "batch_size", arguments.batch_size)
    if arguments.subset is not None:
        require_count(1, "subset", arguments.subset)
    require_seed(arguments.seed)
    for name, given in {"--attack": arguments.attack, "--weights": arguments.weights}.items():
        if not given:
            raise UserError(f"{name}: name one or more; fastiseat eval --help tells which there are")
    if not arguments.targets:
        raise UserError("eval: name a run's directory, a weights file or a saved evaluation, one or more")
    ours = sorted(set(arguments.attacks) - {"clean", "aa", *AUTOATTACK})
    if arguments.backend == "official" and ours:
        theirs = f"aa and its parts {', '.join(AUTOATTACK)}"
        raise UserError(f"--backend official: it has {theirs}, not {', '.join(ours)}; give --attack aa")
