"""The flags of ``fastiseat eval``. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastiseat.config import Pixels, WhichWeights
from fastiseat.names import attack_called
from fastiseat.names.balls import Norm
from fastiseat.names.networks import Variant


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
    norm: Norm | None = None
    """The ball of all attacks: max |δ| ≤ ε, or ‖δ‖₂ ≤ ε; default: the one that the network was trained in, as its file
    says, else linf. For another one --eps is to be given."""
    steps: int = 50
    """Steps of pgd and cw."""
    step_size: Pixels | None = None
    """Length of a step of pgd and cw, in the units of ε; default: ε/4, as in the paper's validation."""
    restarts: int = 1
    """Runs of pgd and cw on each image: the first starts at the image, further ones at random in the ball."""
    eps: Pixels | None = None
    """ε, in units of pixel values in [0, 1]; default: what the network was trained with, as its file says."""
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
