"""A state dict of any wrapper, taken apart: the network, the normalisation before it, what no forward pass reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.models.files.entries import bits, no_such

_HEADS = ("fc.weight", "fc0.weight", "linear.weight")
_STEM = "conv1.weight"

# As RobustBench, advertorch, MadryLab's robustness, TRADES' successors and randomized smoothing call them.
_MEANS = ("mean", "mu", "means", "new_mean", "_mean", "image_mean", "data_mean")
_STDS = ("std", "sigma", "stds", "sds", "new_std", "_std", "image_std", "data_std")

# What only training or an attack reads, copies of the network included.
_UNREAD = {"attacker", "criterion", "loss", "loss_fn", "optimizer", "scheduler", "proxy", "proxy_adv"}
_UNREAD |= {"ema", "ema_model", "model_ema", "swa", "swa_model", "n_averaged", "teacher"}

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Parts:
    """What a state dict holds.

    Attributes:
        network: its tensors without the wrappers' prefix, and all that is not understood.
        normalization: mean and std.
        open: why the file does not tell the normalisation, where it speaks of one; None where it tells.
        root: the prefix that the network had, without its last dot.
        others: prefixes of further networks, not of copies.
    """

    network: dict[str, Tensor]
    normalization: Pair | None = None
    open: str | None = None
    root: str = ""
    others: tuple[str, ...] = ()


def take_apart(raw: Mapping[str, Tensor], wanted: str | None = None) -> Parts:
    """The parts of ``raw``, whatever modules the network is wrapped in.

    Where no whole network is found, all keys are left as they are.

    Args:
        raw: a state dict.
        wanted: the prefix of the network that is meant, where it holds several.

    Raises:
        UserError: several networks that differ, none of that prefix, or two keys that become one.
    """
    roots = _roots(raw)
    if wanted is not None:
        return _below(raw, wanted, roots)
    if not roots:
        return Parts(dict(raw))
    root, *copies = _meant(raw, roots)
    others = tuple(each.rstrip(".") for each in roots if each not in copies and not _are_equal(raw, root, each))
    wrappers = list(_ancestors(root))
    kept = {key: tensor for key, tensor in raw.items() if not _is_unread(key, wrappers, root, copies)}
    pairs, told = _normalizations(kept, wrappers)
    network: dict[str, Tensor] = {}
    for key, tensor in kept.items():
        if key not in told:
            name = key.removeprefix(root)
            if name in network:
                raise UserError(f"{name} occurs with and without the prefix {root!r}; give a file of one network")
            network[name] = tensor
    found = Parts(
        network, next(iter(pairs.values()), None), _before(root, held=len(pairs)), root.rstrip("."), others
    )
    if len(pairs) > 1:
        several = f"it holds {len(pairs)} normalisations ({', '.join(pairs)})"
        return replace(found, normalization=None, open=several)
    return found


def _below(raw: Mapping[str, Tensor], wanted: str, roots: list[str]) -> Parts:
    """The parts of the network under a prefix; what belongs to no network, such as a normalisation, stays."""
    others = tuple(root for root in roots if not root.startswith(f"{wanted}."))
    if len(others) == len(roots):
        raise no_such(wanted, [root.rstrip(".") for root in roots if root])
    return take_apart({key: raw[key] for key in raw if key.startswith(f"{wanted}.") or not key.startswith(others)})


def _roots(raw: Mapping[str, Tensor]) -> list[str]:
    """The prefixes of all networks."""
    ends = [key.removesuffix(_STEM) for key in raw if key.endswith(_STEM)]
    roots = [end for end in ends if end[-1:] in ("", ".") and any(end + head in raw for head in _HEADS)]
    return sorted(roots, key=lambda root: root.count("."))


def _meant(raw: Mapping[str, Tensor], roots: list[str]) -> list[str]:
    """The prefix of the network, and those of its copies."""
    read = [root for root in roots if not _UNREAD & set(root.split("."))] or roots
    first, *others = read
    if any(not _are_equal(raw, first, other) for other in others):
        names = [root.rstrip(".") for root in read]
        raise UserError(
            f"it holds {len(read)} networks, under the prefixes {', '.join(map(repr, read[:4]))}; say which: "
            f"entry={next(filter(None, names))!r}"
        )
    return read


def _are_equal(raw: Mapping[str, Tensor], first: str, other: str) -> bool:
    """Whether what lies below ``other`` is also below ``first``."""
    for key, tensor in raw.items():
        if key.startswith(other):
            twin = raw.get(first + key.removeprefix(other))
            if twin is None or bits(twin) != bits(tensor):
                return False
    return True


def _ancestors(root: str) -> Iterator[str]:
    """The prefixes of all modules around the network, its own included: '', 'module.', 'module.model.'."""
    parts = root.split(".")[:-1]
    yield from (".".join([*parts[:count], ""]) for count in range(len(parts) + 1))


def _is_unread(key: str, wrappers: Iterable[str], root: str, copies: Iterable[str]) -> bool:
    if any(key.startswith(copy) for copy in copies):
        return True
    for wrapper in wrappers:
        name = key.removeprefix(wrapper).split(".")[0]
        if key.startswith(wrapper) and name in _UNREAD and not root.startswith(f"{wrapper}{name}."):
            return True
    return False


def _normalizations(state: Mapping[str, Tensor], wrappers: list[str]) -> tuple[dict[str, Pair], set[str]]:
    """Pairs by the name of the mean, and the keys of them all."""
    pairs: dict[str, Pair] = {}
    told: set[str] = set()
    for key in state:
        parent, _, leaf = key.rpartition(".")
        # In a wrapper itself, or in a module of its own in one.
        places = {f"{parent}." if parent else "", ".".join([*parent.split(".")[:-1], ""])}
        if leaf in _MEANS and places & set(wrappers):
            std = _std_beside(state, key, key.removesuffix(leaf))
            pairs[key] = (state[key], state[std])
            told |= {key, std}
    return pairs, told


def _std_beside(state: Mapping[str, Tensor], mean: str, prefix: str) -> str:
    for name in _STDS:
        if prefix + name in state:
            return prefix + name
    raise UserError(
        f"it holds {mean}, but no {prefix}std or the like beside it; give a file with both, or neither"
    )


def _before(root: str, *, held: int) -> str | None:
    """What a network's place in a Sequential says of the parts before it, of which the file holds so many."""
    if any(part.isdecimal() and int(part) > held for part in root.split(".")):
        return f"the network is {root.rstrip('.')!r} of a Sequential, and the file does not hold all that comes before"
    return None
