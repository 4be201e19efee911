"""One training run, from its settings to its results.

    trainer     what a run is made of, from its config
    state       where it stands
    loop        what happens in which order
    opening     the directory is taken, the end rehearsed, the settings noted
    epoch       the steps of one
    scores      validation, the best weights, results
    rescue      checkpoints, signals, going back
    resume      going on from a checkpoint

The others serve these. Importing the folder loads none of them.
"""
