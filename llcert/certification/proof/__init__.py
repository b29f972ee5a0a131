"""Proofs of what estimates certified: the same bounds in float64, with proved norms and every rounding paid for.

A stage leaves hints (`hint`), a prover follows them (`prover`, its attempts in `attempts`), and returns what it proved
(`record`); `stage` makes a stage count only what was proved.
"""
