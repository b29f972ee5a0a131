"""Writes certificates that others can check: the network as matrices, and what was proved of every image."""

from llcert.certificate_writer.canonical import Canonical
from llcert.certificate_writer.folder import Folder, open_folder, packed
from llcert.certificate_writer.image import Answer, ImageEvidence, evidence_from, evidence_json, evidence_of
from llcert.certificate_writer.slack import checkable

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
