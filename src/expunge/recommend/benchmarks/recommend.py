"""Users, items, single and planted interactions to be forgotten by a recommender: drawn, MovieLens, or a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from expunge.engine.training import Training, derive_seed
from expunge.errors import InputError, nearest
from expunge.recommend.data import Features, Interactions
from expunge.recommend.files import ml_100k, ml_100k_features, read_features, read_log
from expunge.recommend.methods.fine_tune import FineTune
from expunge.recommend.metrics.forgotten_rank import ForgottenRank
from expunge.recommend.metrics.membership import Membership
from expunge.recommend.metrics.overlap import Overlap
from expunge.recommend.metrics.parameter_distance import ParameterDistance
from expunge.recommend.metrics.ranking import Ranking
from expunge.recommend.metrics.score_distance import ScoreDistance
from expunge.recommend.metrics.score_ratios import ScoreRatios
from expunge.recommend.models.base import Recommender
from expunge.recommend.models.lightgcn import BPRMF, LightGCN
from expunge.recommend.models.mmgcn import MMGCN
from expunge.recommend.models.vbpr import VBPR
from expunge.recommend.requests import (
    Pick,
    Scores,
    adversarial_edges,
    edge_request,
    item_request,
    named_request,
    non_interactions,
    user_request,
)
from expunge.recommend.subject import Subject, fresh
from expunge.recommend.synthetic import World
from expunge.recommend.unlearn import UnlearnJob, erased_items
from expunge.recommend.workload import Metric, Workload
from expunge.report.scorecard import Published

REQUESTS = ("users", "items", "edges", "adversarial")
MODELS = ("bpr-mf", "lightgcn", "vbpr", "mmgcn")
FEATURED = ("vbpr", "mmgcn")
SYNTHETIC, ML_100K = "synthetic", "ml-100k"

PLAIN = Training(
    epochs=100, batch_size=2048, lr=5e-3, schedule="constant", warmup=0.0, weight_decay=0.0, clip=None
)  # fmt: skip
FILMS_REG = 2e-3  # of LightGCN on ml-100k
QUICK = replace(PLAIN, epochs=30)  # of the clean model that plants interactions
_PLANTED: dict[tuple[object, ...], Interactions] = {}  # planting trains a model: once in a process
_LOGS = "training logs in the release of UnlearnRec, planted interactions on ML-1M"
_PRINTED = (  # model, method, Recall@20, NDCG@20
    ("LightGCN", "before", 0.2271, 0.3168),
    ("LightGCN", "UnlearnRec, no tuning", 0.2179, 0.3101),
    ("LightGCN", "UnlearnRec, 1 epoch", 0.2282, 0.3206),
    ("LightGCN", "UnlearnRec, 3 epochs", 0.2197, 0.3043),
    ("SimGCL", "before", 0.2316, 0.3301),
    ("SimGCL", "UnlearnRec, no tuning", 0.2311, 0.3288),
    ("SimGCL", "UnlearnRec, 1 epoch", 0.2333, 0.3317),
)


def published() -> list[Published]:
    """The printed utilities after forgetting planted interactions; other data and other sizes than ours."""
    return [
        Published(metric, "test", model, method, value, _LOGS)
        for model, method, *values in _PRINTED
        for metric, value in zip(("recall_at_20", "ndcg_at_20"), values, strict=True)
    ]


@dataclass(frozen=True)
class Recommend:
    """Forget users, items, random interactions or planted ones; the request type decides which method is best.

    Whole users and items are the easy case (fresh rows are nearly gold), planted interactions too (nobody would
    expect them), and random real interactions the hard one, because collaborative filtering infers them again. A
    method has to be shown on all four.

    Attributes:
        data: ``synthetic`` (a drawn world), ``ml-100k`` (installed MovieLens, research only), or a ``.csv``, ``.tsv``,
            ``.parquet`` or ``.inter`` file. Source: paper (files); ours.
        request: ``users``, ``items``, ``edges`` or ``adversarial``. Source: paper.
        share: Of the users, items or interactions to be forgotten. Source: paper (5%).
        pick: Which users or items: ``random``, ``core`` (most active) or ``edge`` (least active). Source: CURE4Rec.
        who: Users or items to be forgotten by name, or single interactions as ``user,item``; empty to draw a `share`.
            Source: ours.
        planted: Under ``adversarial``, the share of users given the item a clean model scores lowest for them, and of
            items given the user who scores lowest. Source: UnlearnRec's code (0.5).
        keep_as_negatives: Whether forgotten items stay in the catalogue: then retraining draws them as negatives and
            pushes them down, and they stay candidates. Source: ours (off: a revoked licence).
        min_rating: Ratings below are no interactions; None takes every one. Source: paper (all).
        k: Recommendations a user is shown. Source: paper (20).
        model: ``lightgcn``, ``bpr-mf``, ``vbpr`` or ``mmgcn``; the last two read features of the items. Source: paper.
        d: Size of the vectors. Source: paper (64).
        reg: Weight of the model's penalty in its training; None: 2e-3 for LightGCN on ml-100k, the model's own default
            for everything else. Source: ours (best validation recall of 1e-3 and 2e-3).
        split_seed: Divides each user's interactions where the file does not. Source: ours.
    """

    paper: ClassVar[str] = (
        "Sinha, Mandal, Kankanhalli, Multi-Modal Recommendation Unlearning, 2024 (arXiv 2405.15328); planted "
        "interactions as in Chen, Xia, Huang, SIGIR 2025 (arXiv 2505.22649); picks as in Chen et al., CURE4Rec, "
        "NeurIPS 2024 (arXiv 2408.14393)"
    )

    data: str = "synthetic"
    request: Literal["users", "items", "edges", "adversarial"] = "users"
    share: float = 0.05
    pick: Pick = "random"
    who: Sequence[str] = ()
    planted: float = 0.5
    keep_as_negatives: bool = False
    min_rating: float | None = None
    k: int = 20
    model: Literal["lightgcn", "bpr-mf", "vbpr", "mmgcn"] = "lightgcn"
    d: int = 64
    reg: float | None = None
    split_seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("request", REQUESTS), ("model", MODELS), ("pick", ("random", "core", "edge"))):
            if (value := getattr(self, name)) not in known:
                raise InputError(f"recommend: unknown {name} {value!r}.{nearest(str(value), known)}")
        if not (0 < self.share < 1 and 0 < self.planted < 1):
            raise InputError(f"recommend: share={self.share} and planted={self.planted} must lie between 0 and 1.")
        if isinstance(self.who, str):
            raise InputError(f"recommend: who={self.who!r} must be a list of users, of items or of interactions.")
        if self.who and self.request == "adversarial":
            raise InputError("recommend: who names what was really taken, and request=adversarial plants its own.")
        if self.k < 1 or self.d < 1:
            raise InputError(f"recommend: k={self.k} and d={self.d} must be at least 1.")
        if self.reg is not None and not self.reg >= 0:
            raise InputError(f"recommend: reg={self.reg} must not be negative.")
        if self.pick != "random" and self.request not in ("users", "items"):
            raise InputError(f"recommend: pick={self.pick} is about users or items, and request={self.request}.")

    @property
    def target_training(self) -> Training:
        """How a recommender of our own learns the interactions."""
        if self._on_films:
            return replace(PLAIN, epochs=110, lr=2e-2, schedule="linear")
        epochs = 60 if self.data == SYNTHETIC else 50 if self.model == "bpr-mf" else 100
        return replace(PLAIN, epochs=epochs, batch_size=512 if self.data == SYNTHETIC else PLAIN.batch_size)

    @property
    def _on_films(self) -> bool:
        """Whether it is LightGCN on ml-100k, for which settings were searched."""
        return (self.data, self.model) == (ML_100K, "lightgcn")

    @property
    def world(self) -> World:
        """The drawn interactions of ``synthetic``."""
        return World(users=200, items=150, seed=self.split_seed, per_user=24, blocks=6, spread=0.25, sharpness=4.0)

    @cached_property
    def _read(self) -> tuple[Interactions, Interactions, Interactions]:
        """Training, validation and test interactions before anything is planted."""
        if self.data == SYNTHETIC:
            return self.world.splits
        if self.data == ML_100K:
            return ml_100k(min_rating=self.min_rating).split(self.split_seed)
        return read_log(self.data, min_rating=self.min_rating).split(self.split_seed)

    @cached_property
    def features(self) -> Features:
        """Features of the items, for the models that read them.

        Raises:
            InputError: There are none beside the file.
        """
        if self.model not in FEATURED:
            return {}
        if self.data == SYNTHETIC:
            return self.world.features
        if self.data == ML_100K:
            return ml_100k_features(self._read[0])
        return read_features(Path(self.data).expanduser().parent, self._read[0].items)

    def network(self, seed: int) -> Subject:
        """The untrained recommender, serving the training interactions without planted ones."""
        train = self._read[0]
        return fresh(self._network(seed, train), train)

    def _network(self, seed: int, train: Interactions) -> Recommender:
        reg = FILMS_REG if self.reg is None and self._on_films else self.reg
        own: dict[str, Any] = {} if reg is None else {"reg": reg}
        if self.model == "bpr-mf":
            return BPRMF(train.users, train.items, self.d, seed=seed, **own)
        if self.model == "lightgcn":
            return LightGCN(train.users, train.items, self.d, seed=seed, **own)
        featured = VBPR if self.model == "vbpr" else MMGCN
        return featured(train.users, train.items, self.features, self.d, seed=seed, **own)

    def load(self, seed: int) -> Workload:
        """See `Benchmark`.

        Raises:
            InputError: Missing or malformed data, k above the number of items, or nothing left to keep or to test.
        """
        train, valid, test = self._read
        if self.k > train.items:
            raise InputError(f"recommend: k={self.k} recommendations of {train.items} items.")
        forget = self._request(train, valid, test, seed)
        retain = train.without(forget)
        everything = train.union(valid).union(test)
        parts = {
            "forget": forget,
            "retain": retain,
            "valid": self._of_what_stays(valid, forget),
            "test": self._of_what_stays(test, forget),
            "holdout": self._of_what_goes(test, forget),
            "non_interactions": non_interactions(forget, everything, seed),
        }
        for name in ("retain", "valid", "test"):
            if not len(parts[name]):
                raise InputError(f"recommend: the request leaves no interactions in {name}; lower share={self.share}.")
        return Workload(
            forget, retain, parts["valid"], parts["test"], parts, self._metrics, self.k, self.keep_as_negatives,
            self.features, self._notes(parts), published() if self.request == "adversarial" else [],
        )  # fmt: skip

    @property
    def _metrics(self) -> tuple[Metric, ...]:
        return (
            Ranking(k=self.k), Membership(), ScoreRatios(), ForgottenRank(), ScoreDistance(), Overlap(k=self.k),
            ParameterDistance(),
        )  # fmt: skip

    def _request(self, train: Interactions, valid: Interactions, test: Interactions, seed: int) -> Interactions:
        if self.who and self.request != "adversarial":
            return named_request(train, self.request, [str(name) for name in self.who])  # YAML reads 7 as a number
        if self.request == "users":
            return user_request(train, self.share, seed, self.pick)
        if self.request == "items":
            return item_request(train, self.share, seed, self.pick)
        if self.request == "edges":
            return edge_request(train, self.share, seed)
        known = train.union(valid).union(test)
        key = (train.digest, known.digest, self.model, self.d, self.reg, self.planted, seed)
        if key not in _PLANTED:
            scores = self._clean_scores(train, derive_seed(seed, "planting"))
            _PLANTED[key] = adversarial_edges(train, known, scores, self.planted, seed)
        return _PLANTED[key]

    def _clean_scores(self, train: Interactions, seed: int) -> Scores:
        """Scores of a recommender of the same form, shortly trained on the interactions as they are."""
        subject = fresh(self._network(seed, train), train)
        UnlearnJob(subject, train.take([]), train, QUICK, seed).train(FineTune(), subject)
        z_user, z_item = subject.embeddings()
        return lambda users: z_user[users] @ z_item.T

    def _of_what_stays(self, part: Interactions, forget: Interactions) -> Interactions:
        """Without the users or items who are forgotten whole: nobody is to be served or offered them any more."""
        return part.take(~self._concerned(part, forget)) if self.request in ("users", "items") else part

    def _of_what_goes(self, test: Interactions, forget: Interactions) -> Interactions:
        """Unseen interactions of the forgotten items, or of the users of forgotten interactions."""
        return test.take(self._concerned(test, forget))

    def _concerned(self, part: Interactions, forget: Interactions) -> Tensor:
        """Bool [n]: whether an interaction is with a forgotten item, or of a user who has forgotten ones."""
        column = 1 if self.request == "items" else 0
        return torch.isin(part.pairs[:, column], forget.pairs[:, column])

    def _notes(self, parts: dict[str, Interactions]) -> list[str]:
        train, forget = self._read[0], parts["forget"]
        subjects = len(set(forget.clusters))
        notes = [f"{self.data}: {train.users} users, {train.items} items, {len(train)} training interactions."]
        if self.request == "adversarial":
            notes.append(f"{len(forget)} interactions of {subjects} users are planted and to be forgotten.")
        else:
            what = "items" if self.request == "items" else "users"
            notes.append(f"{len(forget)} interactions of {subjects} {what} are to be forgotten.")
        if self.request == "items":
            stay = "stay in the catalogue, as negatives and as candidates" if self.keep_as_negatives else "leave it"
            notes.append(f"{len(erased_items(forget))} forgotten items {stay}.")
        if self.data == ML_100K:
            notes.append("MovieLens-100k is for research only and is not part of this package.")
        missing = len(forget) - len(parts["non_interactions"])
        if missing:
            notes.append(f"{missing} forgotten interactions have no random counterpart: their users took nearly all.")
        return notes
