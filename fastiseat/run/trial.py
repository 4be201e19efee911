"""How many threads a run on a CPU takes, where nobody has said: a trial of its step decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from fastiseat.run.assemble import step_for
from fastiseat.run.networks import build_network
from fastiseat.run.state import Run
from fastiseat.run.threads import SMALL, Threads, as_begun, faster, named


def threads_for(run: Run, repeated: int | None) -> Threads:
    """On a CPU, where no setting, no run that goes on and no variable has chosen: as many threads as the
    ``repeated`` run had, else, where a step is small, one or all, whichever is faster now.
    """
    if run.device.type != "cpu" or run.threads.why or run.step.steps_taken:
        return run.threads
    if repeated is not None:
        return as_begun(repeated)
    if named() or torch.get_num_threads() == 1 or _work(run) > SMALL:
        return run.threads
    return faster(_trial(run))


def _work(run: Run) -> int:
    height, width = run.data.whole.train.images.shape[1:3]
    size = sum(weight.numel() for weight in run.model.parameters())
    return int(size * height * width * run.images_a_step)


def _trial(run: Run) -> Callable[[], object]:
    """A step on noise by a network like the run's, which leaves no trace in the run's own."""
    whole, count = run.data.whole, run.images_a_step
    model = build_network(
        replace(run.config.network, init=None),
        in_channels=whole.num_channels,
        num_classes=whole.num_classes,
        seed=0,
        checkpoint_blocks=run.execution.checkpoint_blocks,
    )
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = step_for(run, model, say=lambda line: None)
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, *whole.train.images.shape[1:]), dtype=torch.uint8, generator=noise)
    labels, index = torch.randint(whole.num_classes, (count,), generator=noise), torch.arange(count)
    return lambda: step(images, labels, index=index)
