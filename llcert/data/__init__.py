"""Named data sets and data files, as batches of (images in [0, 1], labels, indices)."""

from llcert.data.dataset import Batch, Dataset, select
from llcert.data.load import FILES, NAMED, SPLITS, load_dataset
from llcert.data.store import Progress, default_root

__all__ = ["FILES", "NAMED", "SPLITS", "Batch", "Dataset", "Progress", "default_root", "load_dataset", "select"]
