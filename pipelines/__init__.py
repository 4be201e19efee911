"""Ways to bring images to the device: order and augmentation are the same whichever is used."""

if __name__ != "fastiseat.pipelines":
    raise ImportError(
        f"this folder is the package fastiseat.pipelines, not {__name__!r}: import it by that name, "
        "after `pip install -e .` in a checkout"
    )
