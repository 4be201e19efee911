"""fastiseat: instance-adaptive smoothness enhanced adversarial training, exact and fast.

    step = fastiseat.TrainStep(model, method=fastiseat.ISEAT(lam=0.1), awp=fastiseat.AWP(gamma=0.007))
    metrics = step(images, labels)

Names are loaded when they are first used, so that ``import fastiseat`` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastiseat.version import __version__

if TYPE_CHECKING:
    from fastiseat.config import AWP, PGD, SGD, Config
    from fastiseat.engine import TrainStep
    from fastiseat.errors import UserError
    from fastiseat.evaluation.evaluate import evaluate
    from fastiseat.methods import AT, ISEAT, Method, Standard
    from fastiseat.models import load_model
    from fastiseat.recipes import recipe
    from fastiseat.weights import EMA

_HOME = {
    "AT": "methods",
    "AWP": "config",
    "Config": "config",
    "EMA": "weights",
    "ISEAT": "methods",
    "Method": "methods",
    "PGD": "config",
    "SGD": "config",
    "Standard": "methods",
    "TrainStep": "engine",
    "UserError": "errors",
    "evaluate": "evaluation.evaluate",
    "load_model": "models",
    "recipe": "recipes",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"fastiseat.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fastiseat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "AT",
    "AWP",
    "EMA",
    "ISEAT",
    "PGD",
    "SGD",
    "Config",
    "Method",
    "Standard",
    "TrainStep",
    "UserError",
    "__version__",
    "evaluate",
    "load_model",
    "recipe",
]
