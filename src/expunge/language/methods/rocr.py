"""ROCR: redirect the concept that a name activates, by a closed-form edit of early MLPs (Ye, Zhang, Wu 2025)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor, nn

from expunge.engine.checkpoint import Checkpoints, read_folder, write_folder
from expunge.engine.loop import TrainLog
from expunge.engine.method import Edit, Intention
from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.language.forward import check_layer, decoder_layers
from expunge.language.methods._checks import above_zero, not_negative
from expunge.language.methods._rocr_concepts import Column, columns, concepts, neutral_names
from expunge.language.methods._rocr_read import read, second_moments
from expunge.language.methods._rocr_reject import Search, reject_target
from expunge.language.mlp import DownProjection, down_projection
from expunge.language.redirect import Projector, null_space, redirection
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob

CHOICES = {
    "mode": ("unrelated", "reject", "noise"),
    "contexts": ("openers", "questions"),
    "tokens": ("last", "all"),
}

# Every form of question about a person activates the person at the last token of the name, in early blocks;
# so that is where the edit reads and writes.


def default_layers(depth: int) -> tuple[int, ...]:
    """Up to three blocks from an eighth of the depth on: 4, 5, 6 of 32, as published.

    >>> [default_layers(depth) for depth in (32, 24, 16, 2)]
    [(4, 5, 6), (3, 4, 5), (2, 3), (0,)]
    """
    first = depth // 8
    return tuple(range(first, first + min(3, max(1, depth // 8))))


@dataclass(frozen=True)
class ROCR(Edit):
    """Redirect the concept a name activates in early MLPs to a harmless one: closed form, no training.

    At the last token of the name, in any form of question, the edited down-projections write what makes block
    l_n put out z* instead: the state of people who do not exist (``unrelated``), the state that begins a refusal
    (``reject``) or noise. Keys of retain records are protected by a null-space projector, concepts edited before
    by their own keys. The facts themselves stay in the weights behind the name: this is suppression by
    redirection, and text that does not use the names is not touched. Base weights are edited, so a model with
    adapters is refused. Redirecting to a real person would state one person's facts about another.

    Attributes:
        subjects: Names to redirect, ``"NAME | ALIAS | ALIAS"`` each; empty takes the clusters of the forget
            records, whose questions must hold them. Source: reference code (one name); aliases are ours.
        mode: Where to: ``unrelated``, ``reject`` or ``noise``. Source: reference code.
        neutral: Harmless concepts of mode unrelated; the mean of their states is z*. Empty draws
            `neutral_count` names of nobody. Source: ours; the reference code takes a living person.
        neutral_count: How many names of nobody are drawn by the run's seed. Source: ours.
        layers: Edited blocks, one after the other; None takes up to three from an eighth of the depth on.
            Source: reference code (4, 5, 6 of 32); None is ours.
        allow_gaps: Accept layers that do not follow one another. Source: ours.
        contexts: What keys are averaged over: ``openers`` (the name alone and after five phrases) or
            ``questions`` (the forget questions that hold the name, at most 32). Source: reference code.
        average: Give a name one key, the mean over its contexts. False gives it one key for each context, which
            shallow models need: their keys differ more between contexts. Source: paper.
        tokens: Which tokens of a name are redirected: its ``last``, or ``all`` of them, each to the token at the
            same place of a harmless name. Source: reference code; all is ours, for shallow models, whose later
            blocks read a name token by token.
        consistent: Read z*, the present state and the keys in the same contexts. False reads z* in the first
            context and the present state in the bare name, so that the edit absorbs the template too.
            Source: ours; the reference code is False.
        threshold: Eigenvalues of the second moment of retain keys from here on are protected. Source: reference
            code.
        relative: Whether `threshold` counts in mean eigenvalues. Source: ours; off, as in the reference code.
        lambda2: Ridge penalty, in squared key units. Source: reference code (L2).
        samples: Retain records whose keys are protected, drawn by the run's seed where there are more. Source:
            ours; the reference code takes 100,000 texts of Wikipedia.
        joint: Edit all concepts at once instead of one after the other. Source: ours.
        clamp: Longest delta of mode reject, and the norm of mode noise, in norms of the state. Source: reference
            code.
        target: What mode reject makes likely. Source: reference code.
        steps: Adam steps of mode reject. Source: reference code.
        lr: Their learning rate. Source: reference code.
        kl_factor: Weight of mode reject's divergence on neutral text. Source: reference code.
        v_weight_decay: Weight of the norm of delta in mode reject. Source: reference code.
    """

    paper: ClassVar[str] = "Ye, Zhang, Wu, LLM Unlearning Should Be Form-Independent, 2025 (arXiv 2506.07795)"
    adapters: ClassVar[bool] = False
    intention: ClassVar[Intention] = "suppression"

    subjects: tuple[str, ...] = ()
    mode: Literal["unrelated", "reject", "noise"] = "unrelated"
    neutral: tuple[str, ...] = ()
    neutral_count: int = 4
    layers: tuple[int, ...] | None = None
    allow_gaps: bool = False
    contexts: Literal["openers", "questions"] = "openers"
    average: bool = True
    tokens: Literal["last", "all"] = "last"
    consistent: bool = True
    threshold: float = 0.02
    relative: bool = False
    lambda2: float = 1.0
    samples: int = 2000
    joint: bool = False
    clamp: float = 1.0
    target: str = " Unfortunately"
    steps: int = 25
    lr: float = 0.1
    kl_factor: float = 0.125
    v_weight_decay: float = 0.5

    def __post_init__(self) -> None:
        above_zero(self, "lambda2", "threshold", "samples", "neutral_count", "clamp", "steps", "lr")
        not_negative(self, "kl_factor", "v_weight_decay")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"rocr: {name}={getattr(self, name)!r}; one of {', '.join(allowed)}.")
        if self.layers is not None:
            self._check_order(self.layers)
        if self.mode == "reject" and not self.target.strip():
            raise InputError(f"rocr: target={self.target!r} is no text; mode reject needs one.")

    def _check_order(self, layers: tuple[int, ...]) -> None:
        if not layers or list(layers) != sorted(set(layers)):
            raise InputError(f"rocr: layers={list(layers)} must be given once each, from the first to the last.")
        if not self.allow_gaps and layers[-1] - layers[0] >= len(layers):
            raise InputError(
                f"rocr: layers={list(layers)} do not follow one another, and the residual is spread over blocks that "
                f"do; close the gap or set allow_gaps."
            )

    def edited(self, model: nn.Module) -> dict[int, DownProjection]:
        """The down-projections this method edits, by layer.

        Raises:
            InputError: A layer out of range, a mixture of experts, or a model that carries adapters.
        """
        if any(".lora_" in name for name, _ in model.named_parameters()):
            raise InputError(
                "rocr: edits the weights themselves and the model carries adapters; unlearn without model.lora, or "
                "merge the adapters first."
            )
        layers = default_layers(len(decoder_layers(model)[2])) if self.layers is None else self.layers
        for layer in layers:
            check_layer(model, layer)
        return {layer: down_projection(model, layer) for layer in layers}

    def apply(self, job: UnlearnJob) -> Subject:
        """Return the job's subject with the edited down-projections.

        Raises:
            InputError: Names that the records do not hold, no retain records, layers that cannot be edited, or a
                threshold that leaves no free direction.
        """
        subject = job.subject
        modules = self.edited(subject.model)
        found = concepts(job.forget, self.subjects)
        if not job.retain:
            raise InputError("rocr: needs retain records, whose keys it protects, and there are none.")
        edit = _Redirecting(self, job, modules)
        groups = [tuple(n for names in found for n in names)] if self.joint else found
        edit.run([edit.columns(names) for names in groups])
        return subject


class _Redirecting:
    """One edit of one model: what is fixed before it, and one step for each concept."""

    def __init__(self, method: ROCR, job: UnlearnJob, modules: dict[int, DownProjection]) -> None:
        self.method, self.job, self.modules = method, job, modules
        self.subject, self.last = job.subject, max(modules)
        self.neutral = method.neutral or tuple(neutral_names(method.neutral_count, job.seed))
        self.checkpoints = Checkpoints(job.folder)

    def columns(self, names: Sequence[str]) -> list[Column]:
        """The columns of one concept."""
        asked, every = self.method.contexts == "questions", self.method.consistent
        all_tokens, average = self.method.tokens == "all", self.method.average
        made = [
            columns(self.subject, name, self.job.forget, self.neutral, asked=asked, every=every,
                    all_tokens=all_tokens, average=average)
            for name in names
        ]  # fmt: skip
        return [column for part in made for column in part]

    def run(self, groups: list[list[Column]]) -> None:
        """Edit one concept after the other, from the last checkpoint on."""
        P = self._projectors()
        wanted = [self._neutral_states(group) if self.method.mode == "unrelated" else None for group in groups]
        log = TrainLog()
        first, earlier = self._resume(log)
        for index in range(first, len(groups)):
            terms = self._edit(groups[index], wanted[index], P, earlier, index)
            log.steps.append({"step": index, **terms})
            if self.job.observers is not None and self.job.observers.progress is not None:
                self.job.observers.progress(index + 1, len(groups), terms)
            if self.checkpoints.due() and PartialState().is_main_process:
                self._save(earlier, log)
        self.job.logs.append(log)

    def _save(self, earlier: dict[int, Tensor], log: TrainLog) -> None:
        folder = self.checkpoints.folder
        assert folder is not None  # or none would be due
        weights = {str(layer): m.weight.detach() for layer, m in self.modules.items()}
        keys = {str(layer): k for layer, k in earlier.items()}
        write_folder(folder / "concepts", {"weights": weights, "keys": keys}, {"steps": log.steps})
        self.checkpoints.last = time.monotonic()

    def _resume(self, log: TrainLog) -> tuple[int, dict[int, Tensor]]:
        folder = self.checkpoints.folder
        found = None if folder is None else read_folder(folder / "concepts", ("weights", "keys"))
        if found is None:
            return 0, {}
        tensors, state = found
        with torch.no_grad():
            for layer, module in self.modules.items():
                module.weight.copy_(tensors["weights"][str(layer)])
        log.steps = state["steps"]
        log.resumed_at = len(log.steps)
        device = self.subject.device
        return len(log.steps), {int(layer): keys.to(device) for layer, keys in tensors["keys"].items()}

    # -- before the first edit -----------------------------------------------------------------------

    def _projectors(self) -> dict[int, Projector]:
        """P of each layer, from keys of retain records."""
        retain, most = self.job.retain, self.method.samples
        if len(retain) > most:
            drawn = torch.randperm(len(retain), generator=generator(self.job.seed, "rocr keys"))[:most]
            retain = [retain[i] for i in sorted(drawn.tolist())]
        moments = second_moments(self.subject, self.modules, retain)
        m = self.method
        return {
            layer: null_space(moments.pop(layer), m.threshold, relative=m.relative, where=f"layer {layer}")
            for layer in self.modules
        }

    def _neutral_states(self, group: list[Column]) -> Tensor:
        """z* of mode unrelated: [d, m], mean state of the harmless names."""
        return torch.stack([read(self.subject.model, self.modules, c.neutral).outputs.mean(0) for c in group], 1)

    # -- one concept ---------------------------------------------------------------------------------

    def _read(self, group: list[Column]) -> tuple[dict[int, Tensor], Tensor]:
        """K [f, m] of each layer, and the present states H [d, m]."""
        readings = [read(self.subject.model, self.modules, c.contexts) for c in group]
        K = {layer: torch.stack([r.keys[layer].mean(0) for r in readings], 1) for layer in self.modules}
        if self.method.consistent:
            return K, torch.stack([r.outputs.mean(0) for r in readings], 1)
        return K, read(self.subject.model, self.modules, [c.bare for c in group]).outputs.T

    def _edit(
        self, group: list[Column], wanted: Tensor | None, P: Mapping[int, Projector], earlier: dict[int, Tensor],
        index: int,
    ) -> dict[str, float]:  # fmt: skip
        """Redirect one concept in every layer; returns what is logged of it."""
        K, H = self._read(group)
        Z = self._searched(group, index) if wanted is None else wanted
        before = F.cosine_similarity(H, Z, dim=0).mean()
        for i, (layer, module) in enumerate(self.modules.items()):
            if i:  # on the model as edited so far
                K, H = self._read(group)
            R = (Z - H) / (len(self.modules) - i)
            module.add_(redirection(K[layer], R, P[layer], self.method.lambda2, earlier.get(layer)))
        K, H = self._read(group)
        for layer, keys in K.items():
            earlier[layer] = torch.cat([earlier[layer], keys], 1) if layer in earlier else keys
        terms = {"cosine_before": float(before), "cosine_after": float(F.cosine_similarity(H, Z, dim=0).mean())}
        return terms | {f"free.{layer}": p.free for layer, p in P.items()}

    def _searched(self, group: list[Column], index: int) -> Tensor:
        """z* of the modes reject and noise: [d, m]."""
        m = self.method
        search = Search(m.target, m.steps, m.lr, m.clamp, m.kl_factor, m.v_weight_decay)
        found = []
        for number, column in enumerate(group):
            start = read(self.subject.model, self.modules, column.contexts[:1]).outputs[0]
            z = reject_target(self.subject, column, self.last, start, search)
            if m.mode == "noise":
                noise: Any = torch.randn(len(z), generator=generator(self.job.seed, "rocr noise", index, number))
                z = m.clamp * z.norm() * F.normalize(noise.to(z), dim=0)
            found.append(z)
        return torch.stack(found, 1)
