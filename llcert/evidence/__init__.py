"""Writes certificates that others can check: the network as matrices, and what was proved of every image."""

from llcert.evidence.canonical import Canonical
from llcert.evidence.folder import Folder, open_folder, packed
from llcert.evidence.image import Answer, ImageEvidence, evidence_from, evidence_json, evidence_of
from llcert.evidence.slack import checkable

__all__ = [
    "Answer",
    "Canonical",
    "Folder",
    "ImageEvidence",
    "checkable",
    "evidence_from",
    "evidence_json",
    "evidence_of",
    "open_folder",
    "packed",
]
