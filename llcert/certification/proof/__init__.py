"""Proofs of what estimates certified: the same bounds in float64, with proved norms, rounding included.

`proved` wraps a stage so that only proved certificates count: the stage leaves hints (`hint`), a prover follows them
(`prover`, which calls `attempts`) and returns a proof, with its evidence where that is asked for (`evidence`).
`provers` makes the prover of each assurance (docs/method.md, sections 12 and 14).
"""
