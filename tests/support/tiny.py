"""Runs of a second: a few of the digits, and an observer that remembers what it saw and can interfere."""

import functools
import json
from dataclasses import replace

import numpy as np
import torch

from fastiseat.pipelines.data import datasets
from fastiseat.recipes import recipe
from fastiseat.run.trainer import Trainer

CPU = torch.device("cpu")
# Whatever the clock and the machine say, which no two runs agree in.
CLOCKS = {"seconds", "images_per_second", "validation_seconds", "peak_memory_bytes"}


# What makes ``fastiseat train`` one epoch of two steps.
SHORT = ("--epochs", 1, "--batch-size", 50, "--final-steps", 0)

_load = datasets.load


@functools.cache
def data(train=100, test=60):
    """The first digits of each split."""
    whole = _load("digits")
    few = {"train": whole.train.take(np.arange(train)), "test": whole.test.take(np.arange(test))}
    return replace(whole, **few, fingerprint="")  # "" has it computed


def install(monkeypatch, **sizes):
    """Make ``digits`` mean :func:`data`; any other name is looked up as ever."""

    def load(name, *rest, **more):
        return data(**sizes) if name == "digits" else _load(name, *rest, **more)

    monkeypatch.setattr(datasets, "load", load)


class Watcher:
    """An observer that keeps all that it is told; ``on_step`` and ``on_epoch`` may interfere."""

    def __init__(self, *, on_step=lambda epoch, step: None, on_epoch=lambda row: None):
        self.steps, self.rows, self.evaluations, self.said = [], [], [], []
        self.on_step, self.on_epoch = on_step, on_epoch

    def step(self, *, epoch, step, images, metrics):
        self.steps.append((epoch, step, images, float(metrics["loss"])))
        self.on_step(epoch, step)

    def epoch(self, row):
        self.rows.append(row)
        self.on_epoch(row)

    def evaluating(self, what, done, total):
        self.evaluations.append((what, done, total))

    def say(self, line):
        self.said.append(line)


def config(method="iseat", *, epochs=2, batch_size=50, data=None, attack=None, run=None):
    """A recipe made short; ``data``, ``attack`` and ``run`` change fields of those groups."""
    base = recipe("digits", method)
    return replace(
        base,
        data=replace(base.data, batch_size=batch_size, **(data or {})),
        attack=replace(base.attack, **(attack or {})),
        schedule=replace(base.schedule, epochs=epochs),
        run=replace(base.run, **({"final_steps": 2} | (run or {}))),
    )


def trainer(config, out, *, observer=None, resume=False, device=CPU):
    """A trainer, on the CPU if nothing else is said."""
    return Trainer(config, out, device=torch.device(device), observer=observer or Watcher(), resume=resume)


def settings_file(folder, settings):
    """A file for ``--config``: ``settings`` as JSON, or a string as it is."""
    path = folder / "settings.json"
    path.write_text(settings if isinstance(settings, str) else json.dumps(settings), encoding="utf-8")
    return path


def without_clocks(rows):
    """Rows of ``metrics.jsonl`` that two equal runs agree in."""
    return [{name: value for name, value in row.items() if name not in CLOCKS} for row in rows]


def same_weights(state, other):
    """Whether two state dicts agree to the last bit."""
    return state.keys() == other.keys() and all(state[name].equal(other[name]) for name in state)
