"""What a run's config names, made: images, network, the one it is compared with, step and evaluator."""

from __future__ import annotations

from pathlib import Path

import torch

from fastiseat import methods, models
from fastiseat.checkpoint import RunImages
from fastiseat.config import Config, Execution
from fastiseat.engine import TrainStep
from fastiseat.evaluation import BATCH_SIZE, Evaluator
from fastiseat.models.files.choices import Say
from fastiseat.pipelines.protocol.augmentation import Augmentation
from fastiseat.pipelines.protocol.base import DataSet
from fastiseat.pipelines.protocol.progress import Progress
from fastiseat.run.data import RunData, load_run_data
from fastiseat.run.networks import build_network, load_standard
from fastiseat.run.state import Run
from fastiseat.run.threads import Threads
from fastiseat.shortage import enough_memory


def images_for(
    config: Config, own: RunImages, repeated: RunImages, *, data_dir: Path | None, progress: Progress, say: Say
) -> RunData:
    """What to train on: where the run in the directory was trained before, else where the repeated one was."""
    if repeated.name != config.data.dataset:
        repeated = RunImages()
    prepared = own.prepared or (repeated.prepared if data_dir is None else None)
    with enough_memory("while the images are read", "give the run more, or fewer images by --limit-train"):
        data = load_run_data(
            config, data_dir=data_dir, prepared=prepared, expected=own.fingerprint, progress=progress
        )
    if repeated.fingerprint not in (None, data.whole.fingerprint):
        say(
            f"{data.whole.name}: the run of --config was trained on images with the fingerprint "
            f"{repeated.fingerprint}, this one is on {data.whole.fingerprint}"
        )
    return data


def network_for(config: Config, execution: Execution, whole: DataSet, say: Say) -> models.Network:
    """The network that is trained, with its first weights, on the CPU."""
    return build_network(
        config.network,
        in_channels=whole.num_channels,
        num_classes=whole.num_classes,
        seed=config.run.seed,
        checkpoint_blocks=execution.checkpoint_blocks,
        say=say,
    )


def standard_for(config: Config, whole: DataSet, device: torch.device, say: Say) -> models.Network | None:
    """The network without defence that the method compares with, on ``device``; None where it needs none."""
    path = config.objective.standard
    if path is None:
        return None
    network = load_standard(path, in_channels=whole.num_channels, num_classes=whole.num_classes, say=say)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def threads_asked(execution: Execution) -> Threads:
    """As many as the settings say, else those there are."""
    asked = execution.threads
    return Threads(count=asked or torch.get_num_threads(), why=f"{asked}, as given" if asked else "")


def step_for(run: Run, model: models.Network, say: Say) -> TrainStep:
    """The run's step, on ``model``."""
    return TrainStep(
        model,
        method=methods.from_config(run.config.objective, standard=run.standard),
        attack=run.config.attack,
        awp=run.config.awp,
        optimizer=run.config.optimizer,
        augmentation=Augmentation.of(run.config.data, seed=run.config.run.seed),
        precision=run.precision,
        engine=run.execution.engine,
        clean_graph=run.execution.clean_graph,
        overlap=run.execution.overlap,
        seed=run.config.run.seed,
        say=say,
    )


def evaluator_for(run: Run) -> Evaluator:
    """Of the network under training, for the validation after each epoch."""
    return Evaluator(
        run.model,
        precision=run.precision,
        engine=run.execution.engine,
        batch_size=min(2 * run.config.data.batch_size, BATCH_SIZE),  # an attack holds one graph, a step two
        strict=False,  # it only finds images: the verdicts are
        say=run.observer.say,
    )
