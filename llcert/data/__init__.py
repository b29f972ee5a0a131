"""Named data sets and data files, as batches of (images in [0, 1], labels, indices)."""

from llcert.data.dataset import Dataset, Examples, select
from llcert.data.load import FILES, NAMED, SPLITS, load_dataset
from llcert.data.store import Progress, default_root

__all__ = ["FILES", "NAMED", "SPLITS", "Dataset", "Examples", "Progress", "default_root", "load_dataset", "select"]
