"""What ``fastiseat train`` begins from: weights of a file or a run, and the network that they are of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastiseat.cli.target import weights_file
from fastiseat.config import Config
from fastiseat.models.files.shipped import shipped
from fastiseat.names.networks import Variant, canonical_arch

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Start:
    """What ``--init`` decides of the network where the user does not: None where that is nothing."""

    file: Path | None = None
    arch: str | None = None
    variant: Variant | None = None

    def of_network(self, config: Config) -> Config:
        """``config``, whose architecture is that of the weights already, in their variant."""
        if self.variant is None:
            return config
        return replace(config, network=replace(config.network, variant=self.variant))

    def __str__(self) -> str:
        taken = {"arch": self.arch, "variant": self.variant}
        named = [f"--{name} {value}" for name, value in taken.items() if value]
        return f"{' '.join(named)}: that of {self.file}" if named else ""


def read_start(settings: Mapping[str, Any], *, init: str | None, arch: str | None, variant: str | None) -> Start:
    """What the weights decide, a file's or the best of a run, that neither flags nor a file's ``settings`` do.

    Raises:
        UserError: a run without weights, or a file that holds none.
    """
    network = settings.get("network")
    given = {**network} if isinstance(network, dict) else {}
    given |= {name: flag for name, flag in (("init", init), ("arch", arch), ("variant", variant)) if flag}
    if not given.get("init"):
        return Start()
    from fastiseat.models import read_weights

    init_path = Path(str(given["init"]))
    file = weights_file(init_path, "best") if init_path.is_dir() else init_path
    if not file.is_file() and shipped(file) is None:
        return (
            Start()
        )  # it is missed where its weights are copied; what a command says is right or wrong without it
    weights = read_weights(file)
    told, wanted = given.get("arch"), weights.arch
    # Of another architecture the variant says nothing; that they must agree is said where the weights are copied.
    is_other = told is not None and canonical_arch(str(told)) != wanted
    return Start(
        file=file,
        arch=None if told else wanted,
        variant=None if given.get("variant") or is_other else weights.variant,
    )


def with_runs_weights(config: Config, say: Say) -> Config:
    """``config`` with files in place of runs' folders: their best weights, which is said."""
    init = _best("init", config.network.init, say)
    standard = _best("standard", config.objective.standard, say)
    return replace(
        config,
        network=replace(config.network, init=init),
        objective=replace(config.objective, standard=standard),
    )


def _best(name: str, path: Path | None, say: Say) -> Path | None:
    if path is None or not path.is_dir():
        return path
    file = weights_file(path, "best")
    say(f"--{name} {path}: the run's best weights, {file}")
    return file
