"""Writes certificates that others can check: the network as matrices, and the evidence of every certified image.

docs/certificate.md defines the files. The other way round, `llcert.checker` reads and checks them.

| what is written | file |
|---|---|
| graph.json and model.npz | `graph`, with matrices by `matrices` |
| images/N.npz | `image`: regions by `regions`, rows of rule 11 by `intermediate`, trees of rule 12 by `tree` |
| certificate.json, and the folder as a whole | `folder` |
| how much wider than necessary a proof is, so that the checker confirms it | `slack` |

The files have words of their own, which these modules use:

| in docs/certificate.md | elsewhere in llcert |
|---|---|
| cut | the output of a block, or the image (`Block.node`, `Program.input`) |
| step of an activation | one of its relaxations (`llcert.bounds.backward.choices.Key`) |
| row of a class | the objective of that class |
| part of the ball, its split | leaf of a branch and bound (`Leaves`), its `Splits` |
"""

from llcert.certificate_writer.folder import Folder, open_folder, packed
from llcert.certificate_writer.graph import CertificateGraph
from llcert.certificate_writer.image import ImageEvidence, evidence_from, evidence_json, evidence_of
from llcert.certificate_writer.slack import checkable

__all__ = [
    "CertificateGraph",
    "Folder",
    "ImageEvidence",
    "checkable",
    "evidence_from",
    "evidence_json",
    "evidence_of",
    "open_folder",
    "packed",
]
