"""One deed in one folder, again and again: as it was, unbroken, and interrupted."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from torture.child import HOME, Ended, run
from torture.deeds import Deed, Results
from torture.shim import Luck, Machine


@dataclass
class Tally:
    """What a campaign did, and what was lost by it."""

    name: str
    kills: int = 0
    inputs: int = 0
    bits: int = 0
    seconds: float = 0.0
    losses: list[str] = field(default_factory=list)

    def lose(self, where: str, what: str, bits: int = 0) -> None:
        """Note a loss."""
        self.bits += bits
        self.losses.append(f"{where}: {what}")
        print(self.losses[-1], flush=True)


class Trial:
    """A deed whose folder is always the same, as paths are a part of what commands write."""

    def __init__(self, deed: Deed, scratch: Path) -> None:
        self.deed, self.here = deed, scratch / "here"
        self._inputs = scratch / "inputs"
        shutil.rmtree(self._inputs, ignore_errors=True)
        self._inputs.mkdir()
        self.renew(place=True)

    def renew(self, *, place: bool = False) -> None:
        """The folder as it was before the command."""
        shutil.rmtree(self.here, ignore_errors=True)
        if place:
            self.here.mkdir()
            self._settle()
            self.deed.place(self.here)
            self._inputs.rmdir()
            shutil.copytree(self.here, self._inputs, symlinks=True)
        else:
            shutil.copytree(self._inputs, self.here, symlinks=True)
            self._settle()

    def _settle(self) -> None:
        """A home that is left to whoever may not write beside it."""
        home = self.here / HOME
        home.mkdir(exist_ok=True)
        home.chmod(0o777)

    def once(
        self,
        machine: Machine | None = None,
        *,
        again: bool = False,
        seeded: bool = False,
        poor: Callable[[], object] = lambda: None,
    ) -> Ended:
        """Give the command: ``again``, as one that was given before; ``seeded``, as another run's."""
        words = self.deed.command(self.here, again=again)
        return run((*words, *(self.deed.seeded if seeded else ())), self.here, machine, poor=poor)

    def unbroken(self, luck: Luck = Luck.COUNT) -> tuple[Results, int]:
        """What the deed makes of itself, and how many operations it takes."""
        self.renew()
        ended = self.once(Machine(luck=luck, at=10**9))
        assert ended.code == 0, f"{self.deed.name}: {ended}"
        return self.deed.results(self.here), ended.operations

    def finish(self, expected: Results, tally: Tally, where: str, machine: Machine | None = None) -> None:
        """Give the command again; whatever differs from ``expected`` is lost."""
        tally.inputs += 1
        ended = self.once(machine, again=True)
        lost = list(differences(expected, self.deed.results(self.here)))
        if ended.code != 0 and (lost or not ended.refused):  # what was done already may be refused
            tally.lose(where, f"the repeated command ended with {ended}")
        for name, bits in lost:
            tally.lose(where, f"{name} differs by {bits} bits", bits)


def differences(expected: Results, found: Results) -> Iterable[tuple[str, int]]:
    """Each result that differs, and in how many bits."""
    for name in sorted(expected.keys() | found.keys()):
        one, other = expected.get(name, b""), found.get(name, b"")
        if one != other:
            common = sum((a ^ b).bit_count() for a, b in zip(one, other, strict=False))
            yield name, max(1, common + 8 * abs(len(one) - len(other)))
