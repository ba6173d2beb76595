"""UnlearnRec's influence encoder: from the edges that must go to a change of every embedding."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.recommend.graph import Graph


class InfluenceEncoder(nn.Module):
    """E0' = g(A(D); E0, Z): the request enters through the normalised adjacency of the forgotten edges alone.

        H_0 = H0, H_{l+1} = A(D) H_l          H = sum of all layers
        Q_0 = w * Z, Q_{l+1} = A(D) Q_l       the last layer
        X_0 = H - c Q_L                       X_{k+1} = lrelu(X_k W_k + b_k) + X_k
        E0' = E0 + X_M

    H0 is added to every node, touched by the request or not: that is how the encoder tunes the whole table.

    Attributes:
        states: H0, [nodes, width], starts at 0.
        influence: w, [nodes, 1].
        weights: W, M of them, [width, width], Xavier-uniform.
        biases: b, M of them, [1, width], start at 0.
    """

    def __init__(
        self,
        nodes: int,
        width: int,
        *,
        layers: int = 3,
        dense: int = 2,
        withdraw: float = 0.1,
        slope: float = 0.99,
        start: float = 0.002,
        readout: Literal["sum", "last"] = "sum",
        smoothing: int = 0,
        seed: int = 0,
    ) -> None:
        """Make a fresh encoder.

        Args:
            nodes: Users and items.
            width: Size of the base model's embeddings.
            layers: L, propagations over the forgotten edges.
            dense: M, layers of the network behind them.
            withdraw: c, rate at which self-information is withdrawn.
            slope: Negative slope of the leaky rectifier.
            start: What w starts from.
            readout: ``sum`` of the layers of H, or the ``last`` one.
            smoothing: Propagations of H over the kept edges.
            seed: Of the dense layers' starting weights.

        Raises:
            InputError: A negative number of layers.
        """
        super().__init__()
        if min(layers, dense, smoothing) < 0:
            raise InputError(f"influence encoder: layers={layers}, dense={dense}, smoothing={smoothing}: none may be "
                             f"negative.")  # fmt: skip
        self.layers, self.withdraw, self.slope = layers, withdraw, slope
        self.readout, self.smoothing = readout, smoothing
        self.states = nn.Parameter(torch.zeros(nodes, width))
        self.influence = nn.Parameter(torch.full((nodes, 1), start))
        self.weights = nn.ParameterList(torch.empty(width, width) for _ in range(dense))
        self.biases = nn.ParameterList(torch.zeros(1, width) for _ in range(dense))
        draw = generator(seed, "influence encoder")
        for W in self.weights:
            nn.init.xavier_uniform_(W, generator=draw)

    def change(self, forgotten: Graph, final: Tensor, kept: Graph | None = None) -> tuple[Tensor, list[Tensor]]:
        """What is added to the table, and the influence states.

        Args:
            forgotten: The graph of the edges that must go.
            final: Z, the trained model's final embeddings over all edges, [nodes, width], without gradient.
            kept: The graph of the edges that stay; needed for `smoothing`.

        Returns:
            X_M [nodes, width], and H_0 to H_L.
        """
        width = self.states.shape[1]
        both = [torch.cat([self.states, self.influence * final], 1)]  # one sparse product for the two of them
        for _ in range(self.layers):
            both.append(forgotten.propagate(both[-1]))
        H_all = [layer[:, :width] for layer in both]
        H = torch.stack(H_all).sum(0) if self.readout == "sum" else H_all[-1]
        if self.smoothing:
            if kept is None:
                raise InputError(f"influence encoder: smoothing={self.smoothing} needs the graph of the kept edges.")
            for _ in range(self.smoothing):
                H = kept.propagate(H)
        X = H - self.withdraw * both[-1][:, width:]
        for W, b in zip(self.weights, self.biases, strict=True):
            X = F.leaky_relu(X @ W + b, self.slope) + X
        return X, H_all

    def forward(self, forgotten: Graph, table: Tensor, final: Tensor, kept: Graph | None = None) -> Tensor:
        """E0' [nodes, width]: the table with the change; see `change`."""
        return table + self.change(forgotten, final, kept)[0]
