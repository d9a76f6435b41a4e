"""Measured comparisons with other lossless codecs: ``ardmzip bench``, and what bench/ beside the package shares."""
