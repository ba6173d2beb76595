"""A recommender together with the interactions it serves from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from expunge.engine.reference import evaluating
from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.graph import Graph
from expunge.recommend.models.base import Recommender, Vectors
from expunge.recommend.models.rebuild import rebuilt

CONFIG = "recommender.json"


@dataclass
class Subject:
    """A recommender over the edges it serves from.

    Attributes:
        model: Vectors of users and items, given a graph.
        served: The interactions it propagates over and excludes from what it recommends; kept with it.
        source: Where it came from, as the user wrote it.
        origin: How the network is made again before its weights are loaded.
        catalogue: Bool [items]: what may be recommended, and drawn as a negative; None for all.
        blocked: Interactions that are held back from what is recommended, whatever their score: a list before the
            answers, of which the weights know nothing.
    """

    model: Recommender
    served: Interactions
    source: str
    origin: dict[str, Any]
    catalogue: Tensor | None = None
    blocked: Interactions | None = None
    _graph: tuple[Interactions, Graph] | None = field(default=None, repr=False, compare=False)

    @property
    def graph(self) -> Graph:
        """The graph of the served interactions, made once."""
        if self._graph is None or self._graph[0] is not self.served:
            self._graph = (self.served, Graph(self.served))
        return self._graph[1]

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def embeddings(self) -> Vectors:
        """Vectors of users [users, d] and items [items, d] under the weights as they stand, on the CPU."""
        with evaluating(self.model):  # not inference mode: others train on top of these vectors
            z_user, z_item = self.model(self.graph)
        return z_user.detach().cpu(), z_item.detach().cpu()

    @torch.inference_mode()
    def pair_scores(self, pairs: Tensor) -> Tensor:
        """[m] scores of pairs [m, 2] (user, item)."""
        z_user, z_item = self.embeddings()
        return (z_user[pairs[:, 0]] * z_item[pairs[:, 1]]).sum(1)

    @torch.inference_mode()
    def scores(self, users: Tensor) -> Tensor:
        """[b, items] scores of all items for some users; items outside the catalogue are scored like the others."""
        z_user, z_item = self.embeddings()
        return z_user[users] @ z_item.T

    def with_model(self, model: Recommender) -> Subject:
        """The same serving around another model."""
        return replace(self, model=model, origin=model.origin())

    def with_served(self, served: Interactions, catalogue: Tensor | None = None) -> Subject:
        """The same model over other interactions; the catalogue stays as it is unless another one is given.

        Raises:
            InputError: Interactions over another catalogue.
        """
        self.served.require_catalogue_of(served)
        return replace(self, served=served, catalogue=self.catalogue if catalogue is None else catalogue, _graph=None)

    def weights_hash(self) -> str:
        """Content hash of every parameter and buffer, by name."""
        h = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.model.state_dict().items()):
            h.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            h.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return h.hexdigest()

    def fingerprint(self) -> str:
        """Content hash of the weights, how they are computed with, and what is served."""
        offered = None if self.catalogue is None else self.catalogue.tolist()
        held_back = None if self.blocked is None else _content(self.blocked)
        parts = [self.weights_hash(), self.origin, _content(self.served), offered, held_back]
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def save(self, folder: Path, card: str) -> None:
        """Write safetensors weights and interactions, how the network is made, and a model card."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous().clone() for k, v in self.model.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        served = {"pairs": self.served.pairs.contiguous()}
        if self.catalogue is not None:
            served["catalogue"] = self.catalogue
        if self.blocked is not None:
            served["blocked"] = self.blocked.pairs.contiguous()
        save_file(served, folder / "served.safetensors")
        made = {
            "origin": self.origin, "users": self.served.users, "items": self.served.items,
            "user_names": self.served.user_names, "item_names": self.served.item_names,
        }  # fmt: skip
        (folder / CONFIG).write_text(json.dumps(made, indent=1), encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")


def _content(interactions: Interactions) -> str:
    """Content hash of the pairs alone: whose erasure they belong to is not saved with a model."""
    return (replace(interactions, about=()) if interactions.about else interactions).digest


def fresh(model: Recommender, served: Interactions, source: str = "testbed") -> Subject:
    """An untrained recommender over some interactions.

    Raises:
        InputError: Another catalogue than the model's.
    """
    if (model.users, model.items) != (served.users, served.items):
        raise InputError(
            f"A model of {model.users} users and {model.items} items cannot serve interactions over {served.users} "
            f"users and {served.items} items."
        )
    return Subject(model.eval(), served, source, model.origin())


def load_subject(source: str, *, make: Callable[[dict[str, Any]], Recommender] = rebuilt) -> Subject:
    """Load a recommender from a folder this package wrote.

    Args:
        source: The folder.
        make: Makes an untrained network from its origin.

    Raises:
        InputError: No such folder there, or one that cannot be read.
    """
    folder = Path(source).expanduser()
    if not (folder / CONFIG).is_file():
        raise InputError(f"{source}: no recommender there (a folder with {CONFIG} is needed).")
    try:
        made = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        model = make(made["origin"])
        model.load_state_dict(load_file(folder / "model.safetensors"))
        kept = load_file(folder / "served.safetensors")
        names = tuple(made["user_names"]), tuple(made["item_names"])
        served = Interactions(made["users"], made["items"], kept["pairs"], *names)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged folder can hold
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{folder}: not a recommender that can be loaded ({reason}).") from None
    blocked = Interactions(served.users, served.items, kept["blocked"], *names) if "blocked" in kept else None
    return Subject(model.eval(), served, str(folder), made["origin"], kept.get("catalogue"), blocked)
