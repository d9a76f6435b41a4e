"""Datasets as streams of items: folders, arrays, batches of CIFAR, tar shards and parquet files, here or anywhere.

``open_source`` takes a path or URL and gives items one after the other, in an order that is always the same; an image
is read when its item is asked for it, and memory does not grow with the dataset.
"""

from ardmzip.sources.item import Item, Source
from ardmzip.sources.opening import open_source, open_sources

__all__ = ["Item", "Source", "open_source", "open_sources"]
