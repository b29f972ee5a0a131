"""The independent checker: checks certificates and trusts nothing that found them.

It computes in float64 with numpy and scipy and pays for every rounding of its own. It imports nothing else, and nothing
of the rest of llcert. docs/certificate.md defines the files and numbers the rules; this is where they are:

| rules | file |
|---|---|
| files, sizes (section 1) | `certificate`, `files`, `graph`, `nodes` |
| the claim (section 3) | `claim` |
| blocks and their maps (section 1.2) | `blocks` |
| 1, 2, 3, 5, 6: regions of all values, forwards | `forward`, with chords and images of `activations` |
| 4: norms by Cholesky factorisations | `norms` |
| 7, 8: bounds of linear functions, backwards | `backward` |
| 7, 12: margins, over parts of the ball | `margins` |
| 9: rounding and underflow of the checker itself | `numbers` |
| 10: rounding of a deployed network | `deployed` |
| 11: intermediate bounds by backward rows | `intermediate` |
| all of them, image by image | `verify` |
"""

from llcert.checker.certificate import Certificate, Image, open_certificate
from llcert.checker.files import InvalidCertificate
from llcert.checker.verify import Result, check, results

__all__ = ["Certificate", "Image", "InvalidCertificate", "Result", "check", "open_certificate", "results"]
