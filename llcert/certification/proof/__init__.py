"""Proofs of what estimates certified: the same bounds in float64, with proved norms, rounding included.

| step | module |
|---|---|
| a stage certifies images by estimates, and leaves hints: which bounds it used | `hint` |
| for these images, a prover computes the bounds that the hints name | `prover` |
| it tries again, by backward passes, the objectives that are still open | `attempts` |
| it keeps the evidence of its margins, where a certificate file is written | `evidence` |
| what is not proved becomes undecided again: a stage around the first one | `proved_stage` |
| the prover of each assurance, with its solver of norms | `build` |

docs/method.md, sections 12 and 14. A bound is *estimated* or *proved*. *Verified* is said of what bounds its own
rounding, as in verified numerics: an arithmetic (`llcert.bounds.VerifiedArithmetic`) or a factorisation
(`llcert.spectral.VerifiedCholesky`). *Evidence* is what a file holds of a proof; `llcert.checker` checks it.
"""
