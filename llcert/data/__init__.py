"""Named data sets and data files, as batches of (images in [0, 1], labels, indices)."""

from llcert.data.dataset import Batch, Dataset, select
from llcert.data.load import load_dataset

__all__ = ["Batch", "Dataset", "load_dataset", "select"]
