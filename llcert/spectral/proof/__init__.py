"""Proved upper bounds of norms, rounding included (docs/method.md, sections 7.2 to 7.4;
docs/decisions/proofs-of-norms.md).

Which proof bounds the norm of `M = diag(w) A diag(v)`, in this order:

1. A map of which no row and no column has two entries has its largest entry as its norm; its caller knows that.
2. A whole map (w = v = 1) is proved once a network: `circulant.torus_bound` for a convolution, the root of largest row
   sum times largest column sum for any other operator (`llcert.ir.LinearOp.norm_bound`), or 3 with a larger budget,
   whichever is least (`llcert.bounds.global_lipschitz.norms.global_norm`). It is the ceiling of every masked norm.
3. Any other M: `verified_cholesky.VerifiedCholesky` computes the matrix of A (`explicit_matrix`, `column_groups`),
   scales factors and entries (`scaling`), and bounds the largest eigenvalue of `M* M` or `M M*`, whichever is smaller:
   - of a dense matrix by a dense Cholesky factorisation and its residual (`dense`), n^3 / 3 operations for side n, many
     images at a time;
   - of a sparse matrix, such as a convolution's, image by image (`sparse`): by a banded Cholesky factorisation
     (`banded`), n b^2 operations for bandwidth b, or by a dense one where the band is wide.
4. Where a factorisation takes more than the budget of one image, several images with similar masks share one
   (`image_groups`).
5. Where nothing fits the budget, the norm is infinite and not converged, and the caller takes that of 2.

`eigenvalue` holds what all factorisations share.
"""
