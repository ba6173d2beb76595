"""MMRecUn: the ranking loss turned round on what must go, and kept as it is on what stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Observers, Stream
from expunge.engine.method import Edit, Intention, Step, Trained
from expunge.engine.sampling import epochs
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.losses import forward_bpr, reverse_bpr
from expunge.recommend.models.base import Recommender
from expunge.recommend.ranking import evaluate
from expunge.recommend.requests import non_interactions
from expunge.recommend.subject import Subject
from expunge.recommend.unlearn import erased_items, require

K = 20  # places of the recalls that stop a run


@dataclass(frozen=True)
class MMRecUn(Edit):
    """Reverse BPR on the forget set, forward BPR on the retain set, in one balance; no partition, no extra state.

    min alpha L_F + (1 - alpha) L_K + reg, L_F = mean softplus(s_ui - s_uj) over D, L_K = mean softplus(s_uj - s_ui)
    over K, the regulariser the base model's own on both. An epoch is a pass over K; each batch of K meets as many
    pairs of D, again and again from the start. Negatives are items the user has neither kept nor asked to forget.
    Unlike ascent, reverse BPR comes to rest on its own, but far below the level of a model that never knew the pair:
    more steps are not better, and a forgotten pair ranked under random ones (AUC under 0.5) gives the request away.

    The run ends at the first look at which forgetting has reached its targets and validation recall has not risen for
    `patience` looks, or after its steps. With `alpha` 0 it is `fine-tune`. Reference settings: the
    base training's Adam, learning rate and batch (2048), no decay, about 100 steps for 5% of the users.

    Attributes:
        alpha: Balance. Source: ours (the paper's value could not be read; 0.05 to 0.5 were searched).
        scope: ``all`` parameters move, or only the ``rows`` of the users or items whose erasure is asked for, which
            leaves everybody else's scores as they were (in a graph, nearly). Source: ours.
        graph: Graph under the losses while training: ``retain``, or ``full``, which is an ablation: what is served
            propagates over the retained interactions and breaks. Source: ours.
        target_auc: Enough is forgotten once a forgotten pair scores above a non-interaction of its user with no more
            than this chance. Source: ours (a model that never knew users ranks their pairs like any others).
        target_recall: Forget recall at 20 that is low enough; None asks for the AUC alone. Source: ours.
        patience: Looks without a better validation recall; without validation interactions it does not count.
            Source: ours (the toolbox: 20 epochs).
        look_every: Steps between looks; 0 never looks, and the run takes all its steps. Source: ours.
    """

    paper: ClassVar[str] = (
        "Sinha, Mandal, Kankanhalli, Multi-Modal Recommendation Unlearning for Legal, Licensing, and Modality "
        "Constraints, 2024 (arXiv 2405.15328)"
    )
    intention: ClassVar[Intention] = "removal"
    aliases: ClassVar[str] = "reverse-bpr"

    alpha: float = 0.1
    scope: Literal["all", "rows"] = "all"
    graph: Literal["retain", "full"] = "retain"
    target_auc: float = 0.5
    target_recall: float | None = None
    patience: int = 3
    look_every: int = 10

    def __post_init__(self) -> None:
        rules = {
            "alpha": 0 <= self.alpha <= 1,
            "scope": self.scope in ("all", "rows"),
            "graph": self.graph in ("retain", "full"),
            "target_auc": 0 <= self.target_auc <= 1,
            "target_recall": self.target_recall is None or 0 <= self.target_recall <= 1,
            "patience": self.patience >= 0,
            "look_every": self.look_every >= 0,
        }
        wrong = [f"{name}={getattr(self, name)!r}" for name, holds in rules.items() if not holds]
        if wrong:
            raise InputError(f"mmrecun: out of range: {', '.join(wrong)}.")

    def apply(self, job: Any) -> Any:
        """Return the trained subject, serving what is kept.

        Raises:
            InputError: No retained interactions.
        """
        served = job.dropped()
        trained = served if self.graph == "retain" else replace(job.subject, catalogue=served.catalogue)
        rows = erased_nodes(job.forget) if self.scope == "rows" else None
        loss, training = ReverseBPR(self.alpha, rows), job.training
        looks = bool(self.look_every) and self.alpha > 0
        if looks:
            training = replace(training, evaluate_every=self.look_every)
        streams = paired_streams(job, loss, training, trained)
        asked = job.observers or Observers()
        own = self._observers(job, served, asked) if looks else asked
        replace(job, observers=own).train(loss, trained, training, streams=streams)
        return served

    def _observers(self, job: Any, served: Subject, asked: Observers) -> Observers:
        """The job's observers, and this method's looks beside them."""
        looks = Looks(job, served)
        found = Checkpoints(job.folder).load()  # a resumed run remembers its earlier looks
        history: list[dict[str, float]] = list(found[1]["probes"]) if found else []

        def probe(model: nn.Module) -> dict[str, float]:
            values = {**(asked.probe(model) if asked.probe else {}), **looks.probe(model)}
            history.append(values)
            return values

        def stop(values: dict[str, float]) -> str | None:
            if self._enough(history):
                return f"forgotten: AUC {values['forget_auc']:.3f}, forget recall {values['forget_recall']:.3f}"
            return asked.stop(values) if asked.stop else None

        return replace(asked, probe=probe, stop=stop)

    def _enough(self, history: list[dict[str, float]]) -> bool:
        """Whether the targets are met and validation recall has risen no more."""
        last = history[-1]
        if last["forget_auc"] > self.target_auc:
            return False
        if self.target_recall is not None and last["forget_recall"] > self.target_recall:
            return False
        recalls = [values["valid_recall"] for values in history if "valid_recall" in values]
        return not recalls or len(recalls) - 1 - recalls.index(max(recalls)) >= self.patience


@dataclass(frozen=True)
class ReverseBPR(Trained):
    """alpha L_F + (1 - alpha) L_K + reg; see `MMRecUn`.

    Attributes:
        alpha: Balance; a side of weight 0 is left out, with its streams.
        nodes: Nodes whose rows may move; None for every parameter.
    """

    alpha: float
    nodes: Tensor | None = None

    @property
    def has_forget(self) -> bool:
        """See `Trained`."""
        return self.alpha > 0

    @property
    def has_retain(self) -> bool:
        """See `Trained`."""
        return self.alpha < 1

    def forget_loss(self, step: Step) -> Tensor:
        """alpha (mean reverse BPR + reg penalty of the batch)."""
        view = step.forget
        loss: Tensor = self.alpha * (view.per_row(reverse_bpr(view.margin)) + view.penalty)
        return loss

    def retain_loss(self, step: Step) -> Tensor:
        """(1 - alpha) (mean forward BPR + reg penalty of the batch)."""
        view = step.retain
        loss: Tensor = (1 - self.alpha) * (view.per_row(forward_bpr(view.margin)) + view.penalty)
        return loss

    def trainable(self, model: nn.Module) -> list[str] | None:
        """See `Trained`."""
        return None if self.nodes is None else list(_recommender(model).node_rows)

    def mask(self, model: nn.Module) -> Mapping[str, Tensor] | None:
        """See `Trained`."""
        if self.nodes is None:
            return None
        masks = {}
        for name in _recommender(model).node_rows:
            parameter = model.get_parameter(name)
            masks[name] = torch.zeros_like(parameter, dtype=torch.bool)
            masks[name][_recommender(model).rows_of(name, self.nodes)] = True
        return masks


def _recommender(model: nn.Module) -> Recommender:
    if not isinstance(model, Recommender):
        raise InputError(f"{type(model).__name__} is no recommender of this package.")
    return model


def erased_nodes(forget: Interactions) -> Tensor:
    """int64 [k] nodes whose erasure a request asks for: items it names, and the users of all other pairs."""
    own = torch.tensor([name.startswith("item:") for name in forget.clusters], dtype=torch.bool)
    users = forget.pairs[~own, 0].unique()
    return torch.cat([users, erased_items(forget) + forget.users])


def paired_streams(
    job: Any, loss: Trained, training: Training, subject: Subject, forget: Interactions | None = None
) -> dict[str, Stream]:
    """Passes over K, each step with as many forgotten pairs, again and again from the start.

    Args:
        job: The request.
        loss: Which sides there are.
        training: Settings; its epochs count passes over K, or over D where there is no retain side.
        subject: Its graph and catalogue are those of the losses.
        forget: Pairs to use in the place of the forgotten ones.

    Raises:
        InputError: A set the loss needs is empty.
    """
    sets = {"forget": job.forget if forget is None else forget, "retain": job.retain}
    for name in loss.streams:
        require(sets[name], name, loss)
    steps = training.total_steps(len(sets["retain" if loss.has_retain else "forget"]))
    negatives = job.negatives(subject, forget=loss.has_forget)
    return {
        name: job.stream(
            sets[name], epochs(len(sets[name]), steps, training.batch_size, job.seed, name), name, subject.graph,
            negatives,
        )
        for name in loss.streams
    }  # fmt: skip


class Looks:
    """What decides when to stop: forget recall, forget AUC, validation recall, under the graph that will be served."""

    def __init__(self, job: Any, served: Subject) -> None:
        """Bind a request.

        Args:
            job: The request; its `held_out` are the validation interactions.
            served: The subject as it will be served.
        """
        self.served, self.forget, self.retain = served, job.forget, job.retain
        known = job.subject.served if job.held_out is None else job.subject.served.union(job.held_out)
        self.others = non_interactions(job.forget, known, job.seed)
        self.valid = None if job.held_out is None else job.held_out.take(_still_served(job.held_out, served))

    def probe(self, model: nn.Module) -> dict[str, float]:
        """``forget_recall``, ``forget_auc`` and, with validation interactions, ``valid_recall``."""
        subject = self.served.with_model(_recommender(model))
        k = min(K, self.forget.items)
        values = {
            "forget_recall": evaluate(subject, self.forget, self.retain, [k], served=False).mean("recall", k),
            "forget_auc": auc(subject.pair_scores(self.forget.pairs), subject.pair_scores(self.others.pairs)),
        }
        if self.valid is not None and len(self.valid):
            values["valid_recall"] = evaluate(subject, self.valid, self.retain, [k]).mean("recall", k)
        return values


def _still_served(held_out: Interactions, served: Subject) -> Tensor:
    """Bool [n]: held-out pairs of users who keep something, and of items that are still offered."""
    users = served.served.degrees[0] > 0
    fits: Tensor = users[held_out.pairs[:, 0]]
    return fits if served.catalogue is None else fits & served.catalogue[held_out.pairs[:, 1]]


def auc(above: Tensor, below: Tensor) -> float:
    """Chance that a value of the first list exceeds one of the second; ties count half.

    >>> auc(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
    0.875
    """
    order = below.sort().values
    less = torch.searchsorted(order, above.contiguous()).double()
    upto = torch.searchsorted(order, above.contiguous(), right=True).double()
    return float(((less + upto) / 2).mean() / len(below))
