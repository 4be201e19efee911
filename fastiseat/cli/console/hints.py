"""What options of other tools are called here. Imports nothing of ours."""

from __future__ import annotations

import re

FLAG = re.compile(r"--[a-z][a-z0-9-]*")
"""An option in a sentence."""

_ONE_DEVICE = "a run uses one device: --device cuda:1 chooses it"
_FILES = "a run writes metrics.jsonl, a line an epoch, and figures/curves.png"

HINTS = {
    "--lambda": "λ is --lam",
    "--lambd": "λ is --lam",
    "--gamma": "AWP's γ is --awp-gamma, of lr's drops --lr-factor",
    "--epsilon": "ε is --eps",
    "--alpha": "the attack's α is --step-size",
    "--attack-iters": "the attack's K is --steps",
    "--num-steps": "the attack's K is --steps",
    "--pgd-steps": "the attack's K is --steps",
    "--learning-rate": "it is --lr",
    "--lr-max": "it is --lr",
    "--lr-schedule": "it is --lr-shape",
    "--wd": "it is --weight-decay",
    "--l2": "it is --weight-decay",
    "--bs": "it is --batch-size",
    "--num-epochs": "it is --epochs",
    "--max-epochs": "it is --epochs",
    "--max-iterations": "it is --max-steps",
    "--model": "networks are chosen by --arch",
    "--network": "networks are chosen by --arch",
    "--pretrained": "weights to begin with are given by --init",
    "--data": "the data set's name is --dataset, the folder that holds it --data-dir",
    "--data-path": "the folder that holds the data set is --data-dir",
    "--root": "the folder that holds the data set is --data-dir",
    "--output-dir": "the run's folder is --out",
    "--save-dir": "the run's folder is --out",
    "--log-dir": "the run's folder is --out",
    "--fp16": "half precision is --amp, with --amp-dtype fp16",
    "--bf16": "half precision is --amp, with --amp-dtype bf16",
    "--half": "half precision is --amp",
    "--mixed-precision": "half precision is --amp",
    "--compile": "torch.compile is --engine compile",
    "--gpu": _ONE_DEVICE,
    "--gpus": _ONE_DEVICE,
    "--num-gpus": _ONE_DEVICE,
    "--devices": _ONE_DEVICE,
    "--cuda": "it is --device cuda",
    "--cpu": "it is --device cpu",
    "--workers": "no worker processes are needed; --loader chooses how images are read",
    "--num-workers": "no worker processes are needed; --loader chooses how images are read",
    "--wandb": _FILES,
    "--tensorboard": _FILES,
    "--mlflow": _FILES,
    "--ema": "averages of weights are not offered yet",
    "--swa": "averages of weights are not offered yet",
    "--verbose": "there is --quiet alone",
}
"""By option; one is told where the command has all the options that it names."""
