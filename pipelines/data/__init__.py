"""From the name of a data set to prepared arrays: places, downloads, formats, preparation, freshness."""
