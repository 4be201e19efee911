"""``fastiseat eval``: its flags, and what it prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastiseat.cli.flags import command_line
from fastiseat.cli.output import show_json
from fastiseat.config import Pixels, WhichWeights
from fastiseat.distributed import refuse_ranks
from fastiseat.errors import UserError
from fastiseat.fields import require_count, require_seed
from fastiseat.models.names import Variant
from fastiseat.names import AUTOATTACK, attack_called

if TYPE_CHECKING:
    from fastiseat.cli.eval_result import Evaluation


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Accuracy of networks, clean and under attack.

    The network is in eval mode. A sample counts as robust where the last iterate of every restart is classified
    correctly; under aa, where no image that any part tries is misclassified. Half precision gives no verdict.

    Verdicts are kept, and not computed again: of a run in its folder evaluations/, of a file in ./evaluations/.
    An interrupted aa goes on from where it was when the same command is given again.
    """

    targets: Positional[tuple[Path, ...]]
    """Runs' directories, weights files (.safetensors, the authors' .pt or RobustBench's), or saved evaluations
    (.json), one or more."""
    attack: tuple[str, ...] = ("clean", "fgsm", "pgd")
    """Which attacks, one or more of: clean; fgsm, one step of ε from the image itself; pgd; cw, PGD on the margin of
    the best wrong class; pgd-20 and cw-20, of so many steps; aa, also autoattack, the standard AutoAttack; apgd-ce,
    apgd-t, fab-t and square, its parts alone; aa-torchattacks, the weaker one that torchattacks runs since 3.3.
    fastiseat list attacks has them all."""
    norm: Literal["linf", "l2"] = "linf"
    """The ball of all attacks: max |δ| ≤ ε, or ‖δ‖₂ ≤ ε, for which --eps is to be given."""
    steps: int = 50
    """Steps of pgd and cw."""
    step_size: Pixels | None = None
    """Length of a step of pgd and cw, in the units of ε; default: ε/4, as in the paper's validation."""
    restarts: int = 1
    """Runs of pgd and cw on each image: the first starts at the image, further ones at random in the ball."""
    eps: Pixels | None = None
    """ε, in units of pixel values in [0, 1]; default: what the network was trained with, as its file says, which is
    that of the L∞ ball."""
    weights: tuple[WhichWeights, ...] = ("best",)
    """Which weights of a run, one or more."""
    variant: Variant | None = None
    """Whose code's network it is, for a file that does not tell: as in fastiseat train."""
    mean: tuple[float, ...] | None = None
    """What the network's own code subtracts from images in [0, 1], one number or one a colour, for a file of others
    that does not hold it; with --std."""
    std: tuple[float, ...] | None = None
    """What it divides them by."""
    entry: str | None = None
    """The name of the state dict in a torch file that holds several, or the prefix of its keys."""
    dataset: str | None = None
    """Data set; default: what the network was trained on, as its file says."""
    data_dir: Path | None = None
    """The folder that holds the data set; default: $FASTISEAT_DATA, then ~/.cache/fastiseat."""
    subset: int | None = None
    """Evaluate on this many images only, of all classes alike and always the same; default: all."""
    split: Literal["test", "train"] = "test"
    """Which part of the data set."""
    batch_size: int = 512
    """Images at a time."""
    seed: int = 0
    """Seed of the attacks' random numbers."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes a GPU if there is one."""
    amp: FlagCreatePairsOff[bool] = False
    """Look in half precision first. What is found is confirmed in float32, and what is left has the whole attack in
    float32 before it: never more robust than without, and sooner. With --restarts above 1 pgd and cw stay in
    float32."""
    tf32: FlagCreatePairsOff[bool] = False
    """Search in TF32 where the card has it, which is PyTorch's default and thus how the authors' code is run; verdicts
    are in float32 all the same."""
    engine: Literal["auto", "eager", "graph", "tape"] = "auto"
    """Call by call (eager), or by a recording; auto records on a GPU."""
    backend: Literal["fastiseat", "official"] = "fastiseat"
    """Whose aa, or part of it: fastiseat's, or its authors' code in the package pyautoattack, which is slower."""
    no_sanity: FlagCreatePairsOff[bool] = False
    """Leave out the checks whether the attacks can be believed, which follow any attack with ε > 0."""
    compare: FlagCreatePairsOff[bool] = False
    """Of exactly two evaluations: on which samples they agree, and on which not."""
    out: Path | None = None
    """The folder of saved verdicts; default: evaluations/ in the run, of a file in the current folder."""
    as_json: Annotated[FlagCreatePairsOff[bool], arg(name="json")] = False
    """Print the result as JSON instead of tables."""
    fresh: FlagCreatePairsOff[bool] = False
    """Attack again although the verdicts are there, and replace them."""

    @property
    def attacks(self) -> tuple[str, ...]:
        """``attack`` by the names that they have here."""
        return tuple(map(attack_called, self.attack))


ARGUMENTS = Eval


def main(argv: list[str]) -> None:
    """Evaluate and print."""
    arguments = command_line(ARGUMENTS, argv, prog="fastiseat eval")
    _check(arguments)
    refuse_ranks("eval")
    from fastiseat.cli.eval_run import evaluations

    found = evaluations(arguments)
    if arguments.as_json:
        show_json(_told(found, arguments.compare))
        return
    from fastiseat.cli.eval_tables import print_all

    print_all(found, compare=arguments.compare)


def evaluate(arguments: Eval) -> dict[str, Any]:
    """What ``--json`` prints: of one evaluation the network, the data and each attack's parameters and accuracy; of
    several these under ``evaluations``, with their ``means``, or with ``--compare`` their ``comparison``.
    """
    _check(arguments)
    from fastiseat.cli.eval_run import evaluations

    return _told(evaluations(arguments), arguments.compare)


def _told(found: list[Evaluation], compare: bool) -> dict[str, Any]:
    from fastiseat.cli.eval_together import comparison, means

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
    if arguments.norm == "l2" and arguments.eps is None and set(arguments.attacks) != {"clean"}:
        raise UserError("--norm l2: give --eps; the ε that a weights file tells is that of the L∞ ball")
