"""A drawn world of users, items and tastes: interactions and features whose truth is known, free of any licence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from expunge.engine.training import derive_seed
from expunge.errors import InputError
from expunge.recommend.data import Features, Interactions, split_per_user

SIZES = {"visual": 24, "text": 16}  # numbers in the features of each modality


@dataclass(frozen=True)
class World:
    """Users and items with factors in groups of taste; users take the items that suit them.

    Users and items belong to blocks in turn (user u to block u mod `blocks`). A factor is the unit vector of its
    block plus `spread` times standard normal noise, so a small spread gives blocks and a large one gives latent
    factors without blocks. User u takes `per_user` different items with probabilities proportional to
    exp(sharpness <p_u, q_i>). Features are random linear views of the items' factors plus noise.

    Attributes:
        users: Number of users. Source: ours.
        items: Number of items. Source: ours.
        seed: Draws everything. Source: ours.
        per_user: Interactions of each user, over all three splits. Source: ours.
        blocks: Groups of taste. Source: ours.
        spread: Standard deviation of factors around their block. Source: ours.
        sharpness: How much taste decides; 0 takes items at random. Source: ours.
        noise: Standard deviation of the noise on features, whose signal has about unit size. Source: ours.
    """

    users: int = 60
    items: int = 40
    seed: int = 0
    per_user: int = 12
    blocks: int = 2
    spread: float = 0.3
    sharpness: float = 3.0
    noise: float = 0.3

    def __post_init__(self) -> None:
        if min(self.users, self.items, self.blocks) < 1 or not 1 <= self.per_user <= self.items:
            raise InputError(
                f"world: users={self.users}, items={self.items} and blocks={self.blocks} must be at least 1, and "
                f"per_user={self.per_user} between 1 and the number of items."
            )
        if min(self.spread, self.sharpness, self.noise) < 0:
            raise InputError(
                f"world: spread={self.spread}, sharpness={self.sharpness} and noise={self.noise} must not be negative."
            )

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        """True factors of users [users, blocks] and of items [items, blocks], float32."""
        return self._factors(self.users, "users"), self._factors(self.items, "items")

    @cached_property
    def preferences(self) -> Tensor:
        """[users, items] true affinity <p_u, q_i>."""
        user, item = self.factors
        return user @ item.T

    @cached_property
    def all(self) -> Interactions:
        """Every interaction, before the division."""
        noise = torch.rand(self.users, self.items, generator=self._generator("choices"), dtype=torch.float64)
        gumbel = -(-noise.clamp_min(1e-300).log()).log()  # the largest sums are draws without replacement
        taken = (self.sharpness * self.preferences.double() + gumbel).topk(self.per_user, dim=1).indices
        users = torch.arange(self.users).repeat_interleave(self.per_user)
        return Interactions(self.users, self.items, torch.stack([users, taken.flatten()], 1))

    @cached_property
    def splits(self) -> tuple[Interactions, Interactions, Interactions]:
        """Training, validation and test interactions: 70, 10 and 20% of each user's."""
        return split_per_user(self.all, derive_seed(self.seed, "split"))

    @property
    def train(self) -> Interactions:
        """Training interactions."""
        return self.splits[0]

    @property
    def valid(self) -> Interactions:
        """Validation interactions."""
        return self.splits[1]

    @property
    def test(self) -> Interactions:
        """Test interactions."""
        return self.splits[2]

    @cached_property
    def features(self) -> Features:
        """Modality to float32 [items, F]: noisy views of the items' factors."""
        return {modality: self._view(modality, size) for modality, size in SIZES.items()}

    def _generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, purpose))

    def _factors(self, count: int, purpose: str) -> Tensor:
        centres = torch.eye(self.blocks)[torch.arange(count) % self.blocks]
        return centres + self.spread * torch.randn(count, self.blocks, generator=self._generator(purpose))

    def _view(self, modality: str, size: int) -> Tensor:
        generator = self._generator(f"features {modality}")
        view = self.factors[1] @ torch.randn(self.blocks, size, generator=generator)
        return view + self.noise * torch.randn(self.items, size, generator=generator)
