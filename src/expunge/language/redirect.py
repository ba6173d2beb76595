"""Redirecting what a layer writes for some keys: null-space projectors and the closed-form edit of ROCR.

Notation of Ye, Zhang, Wu 2025 (arXiv 2506.07795) and AlphaEdit (Fang et al. 2025, arXiv 2410.02355), on which it
builds: W [d, f] a down-projection, k [f] its input, K [f, m] the keys of m concepts, R [d, m] what is to be added to
the output at each of them, C0 [f, f] the second moment of the keys that must keep their output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.errors import InputError


@dataclass(frozen=True)
class Projector:
    """P = I - Q Q^T: takes the protected directions out of keys.

    Q is kept and not P, which for the widths of large models would be as big as a weight matrix.

    Attributes:
        protected: Q [f, r], orthonormal columns; r may be 0, and then P = I.
    """

    protected: Tensor

    def __call__(self, keys: Tensor) -> Tensor:
        """P K: [f, m] -> [f, m]."""
        Q = self.protected
        return keys - Q @ (Q.T @ keys)

    @property
    def matrix(self) -> Tensor:
        """P itself, [f, f]."""
        return self(torch.eye(len(self.protected), dtype=self.protected.dtype, device=self.protected.device))

    @property
    def free(self) -> float:
        """Share of the directions that an edit may use: dim(null space) / f."""
        f, r = self.protected.shape
        return 1 - r / f


def null_space(C0: Tensor, threshold: float, *, relative: bool = False, where: str = "this layer") -> Projector:
    """Projector onto the eigenvectors of C0 whose eigenvalue is below a threshold.

    Args:
        C0: [f, f] uncentred second moment E[k k^T] of the keys to be protected.
        threshold: Eigenvalues from here on are protected; 0 protects everything that was ever seen.
        relative: Whether the threshold counts in mean eigenvalues, trace(C0) / f. An absolute one depends on the
            scale of the activations.
        where: The layer's name in errors.

    Raises:
        InputError: No eigenvalue lies below the threshold: P would be 0, and the edit would do nothing.
    """
    values, vectors = torch.linalg.eigh(C0)
    limit = threshold * (float(values.mean()) if relative else 1.0)
    kept = values >= limit
    if bool(kept.all()):
        raise InputError(
            f"rocr: threshold={threshold:g} leaves no direction to edit in {where} (the smallest eigenvalue of its "
            f"keys is {float(values[0]):.3g}, the limit {limit:.3g}); raise the threshold."
        )
    return Projector(vectors[:, kept])


def redirection(K: Tensor, R: Tensor, P: Projector, lambda2: float, earlier: Tensor | None = None) -> Tensor:
    """The change of W that adds R at the keys K, spares the protected directions and holds earlier keys.

    Minimises ||X^T P K - R||^2 + ||X^T P K_e||^2 + lambda2 ||X||^2 over the edits that P leaves free. The paper
    solves (P (K K^T + M) + lambda2 I) X = P K R^T with M = K_e K_e^T, an f x f system. Since X = P X, with
    G = P [K K_e] it is (lambda2 I + G G^T) X = G [R 0]^T, and the push-through identity gives

        X^T = [R 0] (lambda2 I + G^T G)^-1 G^T,

    a system as small as the number of keys. For a single key and no earlier ones X^T = R (P k)^T / (lambda2 +
    k^T P k): rank one, and the output at k moves by R k^T P k / (lambda2 + k^T P k).

    Args:
        K: [f, m] keys.
        R: [d, m] changes wanted at them.
        P: Projector onto the free directions.
        lambda2: Ridge penalty, in squared key units; 0 only for linearly independent free keys.
        earlier: K_e [f, p], keys whose output an earlier edit has set; None for none.

    Returns:
        X^T [d, f], to be added to W.
    """
    G = P(K if earlier is None else torch.cat([K, earlier], 1))
    wanted = torch.cat([R, R.new_zeros(len(R), G.shape[1] - K.shape[1])], 1)
    small = lambda2 * torch.eye(G.shape[1], dtype=G.dtype, device=G.device) + G.T @ G
    if len(small) == 1:
        return wanted @ G.T / small
    X: Tensor = torch.linalg.solve(small, wanted.T).T @ G.T
    return X
