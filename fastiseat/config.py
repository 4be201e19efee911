"""What a run trains: frozen dataclasses, every check at the field it belongs to. Imports no torch.

The same values configure the command line, a run's ``config.json`` and :class:`fastiseat.TrainStep`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from fastiseat.errors import UserError
from fastiseat.fields import MOST_STEPS, check_types, pixels
from fastiseat.fields import require as _require
from fastiseat.fields import require_at_least as _require_at_least
from fastiseat.fields import require_count as _require_count
from fastiseat.fields import require_seed as _require_seed
from fastiseat.fields import require_text as _require_text
from fastiseat.models.names import (
    Initialization,
    Variant,
    canonical_arch,
    canonical_initialization,
    canonical_variant,
    check_variant,
)

WhichWeights = Literal["best", "last"]
"""The weights that every finished epoch leaves in a run; all that chooses among them derives from these names."""


_MOST_PADDING = 4096  # more pixels than images have
_MOST_EPOCHS = 100_000  # each has its row of the schedule
_MOST_THREADS = 4096  # more than machines have cores


def pixels_in_words(value: float) -> str:
    """``8/255`` where it is a whole number of levels, else six digits."""
    levels = value * 255
    whole = 1 <= levels < 255 and abs(levels - round(levels)) < 1e-6
    return f"{round(levels)}/255" if whole else format(value, ".6g")


class NoPixelsError(UserError):
    """A word that was given for a length in pixel values, and is none."""

    def __init__(self, word: str) -> None:
        super().__init__(f"{word!r} is no length in pixel values: write it as 0.031 or 8/255")
        self.word = word


def _given_pixels(words: list[str]) -> float:
    try:
        return pixels(words[0])
    except ValueError:
        raise NoPixelsError(words[0]) from None


Pixels = Annotated[
    float,
    PrimitiveConstructorSpec[Any](
        nargs=1,
        metavar="FLOAT|A/B",
        instance_from_str=_given_pixels,
        is_instance=lambda value: isinstance(value, float | int),
        str_from_instance=lambda value: [pixels_in_words(value)],
    ),
]
"""A length in pixel values 0 … 1, written 0.031 or 8/255."""


def _require_pixels(name: str, value: float, what: str) -> None:
    _require_at_least(0, name, value, what=f" ({what}, in pixel values 0 … 1)")
    _require(value <= 1, name, value, "is beyond the pixel values, 0 … 1; 8 of 255 levels are written 8/255")


def _require_fraction(name: str, value: float) -> None:
    _require(0 <= value <= 1, name, value, "is a fraction of the run and must lie in 0 … 1")


Augment = Literal["standard", "idbh-cifar10-weak", "idbh-cifar10-strong", "idbh-svhn"]
IDBH = "idbh-"
"""What the names of IDBH's policies begin with."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images, and how many a step."""

    dataset: str = "digits"
    """digits, cifar10, cifar100, svhn, tinyimagenet, or own data: imagefolder:DIR, npz:PATH."""
    batch_size: int = 128
    """Images a step; the last partial batch of an epoch is dropped. Paper: 128."""
    flip: bool = False
    """Mirror every second training image, drawn anew each epoch. Paper: yes, SVHN no."""
    crop_padding: int = 0
    """Crop training images at random after padding them by as many pixels on each side. Paper: 4, SVHN none."""
    padding_mode: Literal["zero", "reflect"] = "zero"
    """What they are padded with. Released code: zero."""
    augment: Augment = "standard"
    """standard: what the three settings before say. idbh-…: a policy of IDBH in their place (CropShift, ColorShape,
    RandomErasing), for colour images."""
    images: Literal["packed", "jpeg"] = "packed"
    """packed: decoded once, the same pixels for every loader. jpeg: the original files, decoded in every epoch, for
    less memory and disk; ffcv's decoder is up to 6 of 255 levels off the others'."""
    extra: Path | None = None
    """Train on the images in this file too: RST's ti_500K_pseudo_labeled.pickle, or an npz of generated images with
    arrays image and label. They join the batch_size images of each step; an epoch is as long as without them."""
    extra_ratio: float = 0.5
    """Their share of the whole batch. Paper: 0.5, 128 and 128 images a step."""
    limit_train: int | None = None
    """Train on this many images only, of all classes alike, the same for every seed."""
    limit_test: int | None = None
    """Test on this many images only, chosen in the same way."""
    val_split: float = 0.0
    """Share of the training images held out, by class, to select the best weights on; 0 selects on the test
    set, which is the paper's protocol."""

    def __post_init__(self) -> None:
        check_types(self)
        _require_text(dataset=self.dataset, extra=self.extra)
        _require_count(1, "batch_size", self.batch_size)
        _require(0 <= self.val_split < 1, "val_split", self.val_split, "must lie in 0 … 1, 1 excluded")
        _require_count(0, "crop_padding", self.crop_padding, most=_MOST_PADDING)
        _require(self.padding_mode in ("zero", "reflect"), "padding_mode", self.padding_mode, "is zero or reflect")
        known = get_args(Augment)
        _require(self.augment in known, "augment", self.augment, f"is one of {', '.join(known)}")
        _require(0 < self.extra_ratio < 1, "extra_ratio", self.extra_ratio, "must lie in 0 … 1, both excluded")
        _require(self.images in ("packed", "jpeg"), "images", self.images, "is packed or jpeg")
        for name, limit in {"limit_train": self.limit_train, "limit_test": self.limit_test}.items():
            if limit is not None:
                _require_count(1, name, limit)


@dataclass(frozen=True, kw_only=True)
class Network:
    """Which network, and where its first weights come from."""

    arch: str = "small"
    """small, prn18 or wrn-DEPTH-WIDTH. Paper: wrn-34-10 on CIFAR-10, else prn18."""
    variant: Variant = "released"
    """Whose code's network. released: the authors'. common: RobustBench's and TRADES'. Of small and prn18 alone, with
    no BatchNorm after the last block: released-no-bn (RobustBench's Wong2020Fast), common-no-bn (pytorch-cifar),
    consistency (Tack et al., with one after the stem), consistency-stride-2 (the same on Tiny ImageNet)."""
    initialization: Initialization = "torch"
    """How the first weights are drawn. torch: PyTorch's defaults (released code; PreActResNets in other papers' codes).
    he: convolutions from N(0, 2/(k²·out)), the head's bias 0 (Wide ResNets in TRADES' and Rice's codes and those built
    on them)."""
    mean: tuple[float, ...] = ()
    """What is subtracted from images in [0, 1] before all else, for all colour planes or for each; with --std. ε stays
    in pixel values. None by default; Rice et al., Wu et al.: the data set's."""
    std: tuple[float, ...] = ()
    """What they are divided by then."""
    init: Path | None = None
    """Start from this file's weights (.safetensors, the authors' or RobustBench's .pt), or from the best ones of this
    run's folder. arch and variant are by default those of the weights."""

    def __post_init__(self) -> None:
        check_types(self)
        _require_text(init=self.init)
        object.__setattr__(self, "arch", canonical_arch(self.arch))
        _require(
            bool(self.mean) == bool(self.std),
            "mean" if self.mean else "std",
            " ".join(map(str, self.mean or self.std)),
            "says no normalisation alone; give both --mean and --std, or none of them",
        )
        check_variant(self.arch, canonical_variant(self.variant))
        canonical_initialization(self.initialization)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What the update descends."""

    method: str = "iseat"
    """none, at, at-awp, lsi, iseat; of other papers at-rice, awp-wu, trades, trades-awp, mart, mart-awp, slore-mart,
    hat, consistency, rst."""
    lam: float = 0.1
    """λ of Eq. 15, the weight of the logit-stability term; 0 turns it off. Paper: 0.1, Tiny ImageNet 0.01. With
    weighting top and awp-gamma 0 it is η of Eq. 7."""
    weighting: Literal["linear", "uniform", "top"] = "linear"
    """How iseat and lsi weight the images by vulnerability: by rank (the method), all alike, or its top 10% alone
    (Table 8)."""
    distance: Literal["l2", "kl"] = "l2"
    """Between logits, squared L2 (the method) or KL divergence (Table 8)."""
    smoothness: Literal["lsiw", "trades-awp", "lsi"] = "lsiw"
    """Which logits are to be alike (Table 9): of x' at θ+ν and x at θ (lsiw, the method), both at θ+ν (trades-awp, 1
    unit more), or both at θ (lsi, 3 units more)."""
    beta: float | None = None
    """β of trades, mart and those built on them, the weight of their KL term; by default the method's own."""
    reverse_from: float | None = None
    """Where slore-mart's term comes back with its sign reversed: by default with the 100th of 120 epochs, as in its
    code; 1 for never, as in the 90 epochs of its wide networks."""
    standard: Path | None = None
    """The weights of the network without defence that hat compares with, of the same data set: a file or a run's
    folder, as --init takes them. Without it one is trained first, in the folder standard beside the run, and kept for
    the next."""

    def __post_init__(self) -> None:
        check_types(self)
        _require_text(standard=self.standard)
        _require_at_least(0, "lam", self.lam)
        for name, known in {
            "weighting": ("linear", "uniform", "top"),
            "distance": ("l2", "kl"),
            "smoothness": ("lsiw", "trades-awp", "lsi"),
        }.items():
            _require(getattr(self, name) in known, name, getattr(self, name), f"is one of {', '.join(known)}")
        if self.beta is not None:
            _require_at_least(0, "beta", self.beta)
        if self.reverse_from is not None:
            _require_fraction("reverse_from", self.reverse_from)


@dataclass(frozen=True, kw_only=True)
class PGD:
    """The attack inside the training step: projected gradient ascent in the L∞ ball (PGD in Algorithm 1)."""

    eps: Pixels = 8 / 255
    """ε, the radius of the L∞ ball, in units of pixel values in [0, 1]. Paper: 8/255."""
    step_size: Pixels = 2 / 255
    """α, the length of one step, in the same units. Paper: 2/255, SVHN 1/255."""
    steps: int = 10
    """K, the number of steps. Paper: 10."""
    random_start: bool = False
    """Start at δ ~ U(-ε, ε) rather than at 0. Released code: off."""
    noise: float = 0.0
    """Start at a normal δ of this standard deviation, which is not clipped. TRADES, MART and HAT: 0.001."""
    bn_mode: Annotated[Literal["train", "eval"], arg(name="attack-bn")] = "train"
    """BatchNorm in the attack: by batch statistics (the released code) or by running ones; eval costs one
    more forward a step where λ ≠ 0."""

    def __post_init__(self) -> None:
        check_types(self)
        _require_pixels("eps", self.eps, "the radius of the perturbation")
        _require_pixels("step_size", self.step_size, "the length of a step")
        _require_count(1, "steps", self.steps, most=MOST_STEPS)
        _require_pixels("noise", self.noise, "the standard deviation of the start")
        _require(
            not (self.noise and self.random_start),
            "noise",
            self.noise,
            "excludes random_start: one start or the other",
        )
        _require(self.bn_mode in ("train", "eval"), "bn_mode", self.bn_mode, "must be train or eval")


@dataclass(frozen=True, kw_only=True)
class AWP:
    """Adversarial weight perturbation, Eq. 11 (Wu et al., 2020)."""

    gamma: Annotated[float, arg(name="awp-gamma")] = 0.007
    """γ, the size of ν relative to the weights; 0 turns it off. Paper: 0.007 CIFAR-10, 0.005 CIFAR-100 and Tiny
    ImageNet, 0.009 SVHN."""
    norm: Annotated[Literal["tensor", "global"], arg(name="awp-norm")] = "tensor"
    """Norms per weight tensor (the released code) or one over all of them (Eq. 11 as written)."""
    gradient: Annotated[
        Literal["exact", "last-attack-step", "half-batch", "previous-step"], arg(name="awp-gradient")
    ] = "exact"
    """The direction of ν. exact: a pass of its own at x', 28 units an ISEAT step. The others are approximate, with no
    published result: that of the attack's last step (26 units), of the first half of the batch (26.5), or of the loss
    of the step before (25)."""

    def __post_init__(self) -> None:
        check_types(self)
        _require_at_least(0, "gamma", self.gamma)
        _require(self.norm in ("tensor", "global"), "norm", self.norm, "must be tensor or global")
        known = ("exact", "last-attack-step", "half-batch", "previous-step")
        _require(self.gradient in known, "awp_gradient", self.gradient, f"is one of {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent with the semantics of ``torch.optim.SGD``, applied at θ+ν (Eq. 18)."""

    lr: float = 0.1
    """Learning rate: that of the first stage, or the highest of another lr_shape. Paper: 0.1, SVHN 0.01."""
    momentum: float = 0.9
    """Momentum, where lr_shape onecycle does not cycle it. Paper: 0.9."""
    nesterov: bool = False
    """Nesterov's momentum, a look ahead of one step. Paper: off; RST and HAT: on."""
    weight_decay: float = 5e-4
    """Weight decay on all parameters, BatchNorm and biases too. Paper: 5e-4."""
    implementation: Annotated[Literal["own", "apex"], arg(name="optimizer")] = "own"
    """Who computes the update and the norms of the weight perturbation. apex: NVIDIA's fused kernels, on a GPU, where
    Apex was built from its source."""

    def __post_init__(self) -> None:
        check_types(self)
        _require(self.implementation in ("own", "apex"), "optimizer", self.implementation, "is own or apex")
        _require_at_least(0, "lr", self.lr)
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "must lie in 0 … 1, 1 excluded")
        _require(
            bool(self.momentum) or not self.nesterov,
            "nesterov",
            self.nesterov,
            "looks ahead along the momentum, which is 0: give one, or turn nesterov off",
        )
        _require_at_least(0, "weight_decay", self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long, and what changes when; all boundaries are fractions of the run."""

    epochs: int = 200
    """Passes over the training images. Paper: 200."""
    max_steps: int | None = None
    """Stop after this many steps, validate and finish; the schedule stays that of all the epochs."""
    lr_shape: Literal["steps", "cosine", "onecycle"] = "steps"
    """How the learning rate goes. steps: down at lr_drops (paper). cosine: half a cosine down to 0 (RST). onecycle:
    at every step, a cosine up from lr/25 and one down to lr/250000, and momentum_cycle the other way, PyTorch's
    OneCycleLR (HAT)."""
    lr_drops: tuple[float, ...] = (0.5, 0.75)
    """Where lr_shape steps multiplies it by lr_factor. Paper: at 50% and 75% of the epochs."""
    lr_factor: float = 0.1
    """What it is multiplied by. Paper: 0.1."""
    lr_stages: tuple[float, ...] = ()
    """In place of lr_factor: one factor for each of lr_drops, of the first learning rate. MART: 0.1 0.01 0.001."""
    lr_per_step: bool = False
    """Set it before each step, to its value at the step's end: a drop then comes one step before its epoch (Rice et
    al.), not with it (paper). onecycle is always set by the step."""
    lr_warmup: float = 0.25
    """First part of the run, in which onecycle rises. HAT: 0.25."""
    momentum_cycle: tuple[float, float] | None = (0.95, 0.85)
    """Of onecycle: momentum at both ends of the run and where lr is highest, by cosines in between; None keeps momentum
    as it is. PyTorch's default, and HAT: 0.95 0.85."""
    lam_from: float = 0.5
    """Where λ comes on. Paper: with the first drop of the learning rate, SVHN and fine-tuning from the start."""
    awp_from: float = 0.0
    """Where the weight perturbation comes on. Released code: from the start."""
    warmup: float = 0.0
    """First part of the run in which ε and α grow from 0 with the epoch and λ = γ = 0. Released code: SVHN 5 of
    200 epochs, 0.025."""

    def __post_init__(self) -> None:
        check_types(self)
        _require_count(1, "epochs", self.epochs, most=_MOST_EPOCHS)
        if self.max_steps is not None:
            _require_count(1, "max_steps", self.max_steps)
        _require(0 < self.lr_factor <= 1, "lr_factor", self.lr_factor, "must lie in 0 … 1, 0 excluded")
        for drop in self.lr_drops:
            _require_fraction("lr_drops", drop)
        shapes = ("steps", "cosine", "onecycle")
        _require(self.lr_shape in shapes, "lr_shape", self.lr_shape, f"is one of {', '.join(shapes)}")
        _require_fraction("lr_warmup", self.lr_warmup)
        for momentum in self.momentum_cycle or ():
            _require(
                0 < momentum < 1, "momentum_cycle", momentum, "must lie in 0 … 1, both excluded; None turns it off"
            )
        self._check_stages()
        _require_fraction("lam_from", self.lam_from)
        _require_fraction("awp_from", self.awp_from)
        _require_fraction("warmup", self.warmup)

    def _check_stages(self) -> None:
        if not self.lr_stages:
            return
        for factor in self.lr_stages:
            _require(0 < factor <= 1, "lr_stages", factor, "must lie in 0 … 1, 0 excluded")
        stages, drops = (" ".join(map(str, given)) for given in (self.lr_stages, self.lr_drops))
        num = len(self.lr_drops)
        rule = f"one factor for each of lr_drops is needed, {num}; give as many, or none for powers of lr_factor"
        _require(len(self.lr_stages) == num, "lr_stages", stages, rule)
        ascend = list(self.lr_drops) == sorted(self.lr_drops)
        _require(ascend, "lr_drops", drops, "with lr_stages they must ascend; put both in the order of the run")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What makes two runs of one recipe the same or different."""

    seed: int = 0
    """Seed of the first weights, the order of the images and the random starts."""
    amp: bool = False
    """Compute in half precision: bf16 on NVIDIA Ampere and later and on CPUs with bf16 instructions, fp16 on older
    GPUs, float32 with a notice elsewhere. Weights, BatchNorm's statistics, δ, losses and ranks stay float32."""
    amp_dtype: Literal["bf16", "fp16"] | None = None
    """Which of them amp is to take, whatever the device is good at; the other works and may be slow."""
    tf32: bool = True
    """Without amp, let convolutions round what they multiply to TF32's 10 bits on NVIDIA Ampere and later, PyTorch's
    default; no-tf32 keeps all of float32. Evaluation always does."""
    deterministic: bool = False
    """Bit-identical repetition on CUDA too, at some cost in speed; on a CPU every run is."""
    final_steps: int = 50
    """Steps of the PGD that attacks the finished network, best and last weights; 0 leaves it out. Paper's
    analyses: 50."""

    def __post_init__(self) -> None:
        check_types(self)
        _require_seed(self.seed)
        if self.amp_dtype is not None:
            _require(self.amp_dtype in ("bf16", "fp16"), "amp_dtype", self.amp_dtype, "is bf16 or fp16")
            _require(
                self.amp, "amp_dtype", self.amp_dtype, "says what amp computes in: add --amp, or leave it out"
            )
        _require_count(0, "final_steps", self.final_steps, most=MOST_STEPS)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a machine computes the step: another choice rounds otherwise and is the same training."""

    engine: Literal["auto", "eager", "graph", "tape", "compile"] = "auto"
    """eager: call by call. graph: the whole step as one CUDA graph. compile: the network by torch.compile. tape: the
    graph's proof on a CPU, slower than eager. auto: graph on a GPU where the step can be recorded, else eager."""
    clean_graph: Literal["keep", "recompute", "auto"] = "auto"
    """The clean pass's graph, where λ ≠ 0: keep it (28 units an ISEAT step), or recompute it when its gradient is due
    (29 units, half the activations). auto: keep, unless memory runs out in the first such step."""
    overlap: bool = False
    """With engine graph, where λ ≠ 0: run the clean pass and its backward on a second CUDA stream, beside the
    adversarial backward."""
    checkpoint_blocks: bool = False
    """Keep only the residual blocks' inputs for the backward and recompute the rest: the same results for less memory
    and a forward more in each backward."""

    threads: int | None = None
    """PyTorch's threads on a CPU; the count decides how sums are rounded. Default: that of the run that is resumed or
    repeated by --config, else OMP_NUM_THREADS, else all cores or, where the network is small, one if that is faster
    at the start."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.threads is not None:
            _require_count(1, "threads", self.threads, most=_MOST_THREADS)
        _require(
            self.engine in ("auto", "eager", "graph", "tape", "compile"),
            "engine",
            self.engine,
            "is auto, eager, graph, tape or compile",
        )
        _require(
            self.clean_graph in ("keep", "recompute", "auto"),
            "clean_graph",
            self.clean_graph,
            "is keep, recompute or auto",
        )


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. ``fastiseat.recipes.recipe(dataset, method)`` gives a complete and checked one."""

    data: Data = field(default_factory=Data)
    network: Network = field(default_factory=Network)
    objective: Objective = field(default_factory=Objective)
    attack: PGD = field(default_factory=PGD)
    awp: AWP = field(default_factory=AWP)
    optimizer: SGD = field(default_factory=SGD)
    schedule: Schedule = field(default_factory=Schedule)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def approximations(self) -> list[str]:
        """The settings that deviate from the published method to be faster."""
        gradient = self.awp.gradient
        return [f"awp-gradient {gradient}"] if self.awp.gamma and gradient != "exact" else []
