"""Writes certificates that others can check: the network as matrices, and what was proved of every image."""

from llcert.evidence.folder import Folder, open_folder
from llcert.evidence.recorder import Recorder

__all__ = ["Folder", "Recorder", "open_folder"]
