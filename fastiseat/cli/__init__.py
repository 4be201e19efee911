"""The command line: one module a command. What they import at the top loads no torch, so that help is quick."""

COMMANDS = {
    "train": "train a robust network; without arguments ISEAT on handwritten digits",
    "data": "prepare, verify or show a data set",
    "eval": "accuracy of a run or a weights file, clean and under attack",
    "export": "a network as a file for others: safetensors, RobustBench, torch.export or ONNX, with a model card",
    "list": "names and what they stand for: methods, datasets, recipes, models or attacks",
    "bench": "measure this machine: steps against baselines, kernels, loaders",
    "completion": "a script by which bash, zsh or fish completes commands, options and choices",
    "doctor": "what this machine has, what it lacks, how to get it, and what auto will choose",
}
"""By name: each is the module of that name, whose ``main`` parses its words into what ``ARGUMENTS`` says."""
