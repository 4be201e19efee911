"""An epoch's metrics, gathered on the device and read once."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from fastiseat.errors import UserError

PARTS = 20  # of an epoch, for its curve of the loss

AV_STATISTICS = ("mean", "sd", "top10", "bottom10", "ge1", "le0")
NEED_CLEAN_LOGITS = (*(f"av_step_{name}" for name in AV_STATISTICS), "train_accuracy_clean", "train_loss_clean")
"""What a row has a null for where the steps could not tell it."""


def vulnerability_statistics(av: Tensor) -> dict[str, float]:
    """How unevenly adversarial vulnerability ``av`` (n,) is spread (Eq. 5 and Table 1 of the paper).

    ``mean``; ``sd``, of the population; ``top10`` and ``bottom10``, means of the highest and lowest tenth;
    ``ge1`` and ``le0``, the shares (0 … 1) of samples with AV ≥ 1 and AV ≤ 0.
    """
    ordered, tenth = av.sort().values, max(1, round(len(av) / 10))
    values = (
        av.mean(),
        av.std(correction=0),
        ordered[-tenth:].mean(),
        ordered[:tenth].mean(),
        (av >= 1).double().mean(),
        (av <= 0).double().mean(),
    )
    return {name: float(value) for name, value in zip(AV_STATISTICS, values, strict=True)}


class EpochMeter:
    """Collects the metrics of :class:`fastiseat.TrainStep` without waiting for the device."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = defaultdict(list)
        self.nan_gradient: Tensor | None = None
        """bool (): whether a gradient of any attack was NaN; no row has it, since such a run ends."""

    def state_dict(self) -> dict[str, Tensor]:
        """What was gathered so far, a tensor (steps, ...) for each metric."""
        return {name: torch.stack(values) for name, values in self._values.items()}

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Go on where ``state_dict`` was taken."""
        self._values = defaultdict(list, {name: list(values.to(device)) for name, values in state.items()})

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Keep one step's metrics."""
        for name, value in metrics.items():
            if name == "nan_gradient":
                self.nan_gradient = value if self.nan_gradient is None else self.nan_gradient | value
            else:
                self._values[name].append(value)

    def row(self) -> dict[str, Any]:
        """Means over the epoch as ``train_<name>``, and the AV of its steps as ``av_step_<statistic>``.

        What takes clean logits is None where no step had them; :func:`caveats` says why.

        ``train_loss_parts`` are the mean losses of up to 20 equal parts of the epoch, in order: a curve for runs of
        few epochs.
        """
        row: dict[str, Any] = {
            f"train_{name}": float(torch.stack(values).mean())
            for name, values in self._values.items()
            if name != "av"
        }
        if "av" in self._values:
            statistics = vulnerability_statistics(torch.cat(self._values["av"]))
            row |= {f"av_step_{name}": value for name, value in statistics.items()}
        if "loss" in self._values:
            parts = torch.stack(self._values["loss"]).chunk(PARTS)
            row["train_loss_parts"] = [float(part.mean()) for part in parts]
        for name in NEED_CLEAN_LOGITS:
            row.setdefault(name, None)
        return row


def caveats(row: dict[str, Any], *, from_start: bool) -> list[str]:
    """What a reader of an epoch's row must know of its clean losses and its AV, a sentence each.

    ``from_start``: whether the clean logits are of x + the attack's random start (Rice et al.; the released code too,
    where its random start is on).
    """
    missing = [name for name in NEED_CLEAN_LOGITS if row[name] is None]
    said = []
    if missing:
        said.append(
            f"{', '.join(missing)}: null, as no pass of this epoch's steps gave the logits of both x and x'; such a "
            "pass is the attack's first in train mode, the clean one of iseat and lsi, and those of trades and mart"
        )
    if from_start and len(missing) < len(NEED_CLEAN_LOGITS):
        said.append(
            "train_loss_clean, train_accuracy_clean, av_step: of x + the attack's random start in place of x"
        )
    return said


def require_finite(loss: Tensor, nan_gradient: Tensor | None = None, *, epoch: int, step: int) -> None:
    """:class:`UserError` where training has diverged; waits for the device, once where all is well.

    ``nan_gradient`` tells of the attacks of all steps since the last look. ``epoch`` and ``step`` count from 0, in
    the message from 1.
    """
    infinite = ~torch.isfinite(loss)
    if not (infinite if nan_gradient is None else infinite | nan_gradient):
        return
    if infinite:
        raise diverged(f"the loss is {float(loss)} in epoch {epoch + 1}, step {step + 1}")
    raise diverged(f"an attack met a gradient that is NaN in epoch {epoch + 1}, by step {step + 1}")


def require_finite_network(model: nn.Module, nan_gradient: Tensor | None = None, *, epoch: int) -> None:
    """The same for weights and buffers: the last update of an epoch shows in none of its losses."""
    floating = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    finite = torch.stack([tensor.isfinite().all() for tensor in floating]).all()
    if finite if nan_gradient is None else finite & ~nan_gradient:
        return
    if finite:
        raise diverged(f"an attack met a gradient that is NaN in epoch {epoch + 1}")
    raise diverged(f"the network holds values that are not finite after epoch {epoch + 1}")


class DivergedError(UserError):
    """Training has left the finite numbers."""


def diverged(finding: str) -> DivergedError:
    """The error for what was found."""
    return DivergedError(
        f"{finding}: training diverged; lower --lr, --lam or --awp-gamma, then start anew; what earlier epochs "
        "wrote is intact"
    )


# So many epochs in a row make a collapse.
COLLAPSED_EPOCHS = 3
# A share of images beyond which their class is what a network may settle on.
_MOST = 0.75


def require_life(rows: list[dict[str, Any]], name: str, *, largest_share: float, chance: float) -> None:
    """:class:`UserError` where the network has been no better than chance for three epochs in a row.

    Either it is as accurate as ``chance``, 1 in so many classes, or less, or it predicts one class for everything:
    then it is as accurate as that class is frequent, ``largest_share`` at most, and no attack changes it.
    """
    last = rows[-COLLAPSED_EPOCHS:]
    clean, attacked = ([row[f"{name}_{kind}"] for row in last] for kind in ("clean", "pgd10"))
    constant = all(c == a <= largest_share for c, a in zip(clean, attacked, strict=True))
    if len(last) == COLLAPSED_EPOCHS and (constant or max(clean) <= chance):
        what = "predicts one class for everything" if constant else "is no better than chance"
        raise UserError(
            f"clean accuracy {clean[-1]:.2%}, attacked {attacked[-1]:.2%}: for {COLLAPSED_EPOCHS} epochs the network "
            f"{what}; {_advice(largest_share)}; the last checkpoint is intact"
        )


def _advice(largest_share: float) -> str:
    """Of a step that is too large, unless one class is most of the images: then it pays to say nothing else."""
    if largest_share > _MOST:
        return (
            f"{largest_share:.2%} of the images that it is validated on are of one class: give the others more images, "
            "or lower --lr, then start anew"
        )
    return "lower --lr or lengthen --warmup, then start anew"
