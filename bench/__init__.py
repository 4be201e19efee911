"""Measurements: what is timed, against which baselines, and the results that were recorded."""

if __name__ != "fastiseat.bench":
    raise ImportError(
        f"this folder is the package fastiseat.bench, not {__name__!r}: import it by that name, "
        "after `pip install -e .` in a checkout"
    )
