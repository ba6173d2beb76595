"""SEUF, first published as UOE: unlearn inside one expert of a mixture, anchor its router (Zhuang et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from expunge.engine.loop import TrainLog
from expunge.engine.method import Edit, Intention, Step, Trained
from expunge.errors import InputError
from expunge.language.experts import Affinity, Pick, Scope, attribute, calibration, route_positions, select
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import above_zero, not_negative
from expunge.language.methods._delegate import Delegate, base_method
from expunge.language.methods._seuf_choice import parse, reading, report
from expunge.language.methods._steering import row_means
from expunge.language.moe import MoeLayer, moe_layers, slice_name, tunable_share
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob

SHARED = "shared"


def router_anchor(probabilities: Tensor, wanted: Tensor) -> Tensor:
    """Squared distance of the router's decision to the selected experts, at each position (SEUF, equation 3).

    L_anchor = ||s - a||_2^2, s the full softmax of the router (not masked to the top K), summed over experts.

    One-hot a on expert e: 0 for a router that sends all there, (1 - 1/E)^2 + (E - 1)/E^2 = 1 - 1/E for a
    uniform one. With a_i = 1 on M > 1 experts no softmax reaches 0: the least is (M - 1)^2 / M, at s_i = 1/M
    on them, which is also where the normalised a_i = 1/M has its 0.

    Args:
        probabilities: [S, E] softmax of the router's logits.
        wanted: [E] a.

    Returns:
        [S] distances.
    """
    return (probabilities - wanted).square().sum(-1)


def anchor_target(experts: Sequence[int], count: int, *, normalised: bool = False) -> Tensor:
    """[count] a: 1 for each selected expert (1/M where normalised), 0 for the others.

    >>> anchor_target([1, 2], 4, normalised=True).tolist()
    [0.0, 0.5, 0.5, 0.0]
    """
    target = torch.zeros(count)
    target[list(experts)] = 1 / len(experts) if normalised else 1.0
    return target


@dataclass(frozen=True)
class Anchored(Delegate):
    """Another method's losses, on some experts and the gates of their layers, plus the anchor of those gates.

    Attributes:
        targets: The layers of the selected experts, each with the a of its anchor.
        alpha: Weight of the anchor.
    """

    targets: tuple[tuple[MoeLayer, Tensor], ...]
    alpha: float

    def begin(self, step: Step) -> dict[str, Tensor]:
        self._watch(step)
        return self.base.begin(step)

    def forget_loss(self, step: Step) -> Tensor | None:
        view = self._watch(step)
        loss = self.base.forget_loss(step)
        if loss is None or not self.alpha:
            return loss
        anchor = torch.stack([self._anchor(view, *target) for target in self.targets]).sum()
        step.note("anchor", anchor)
        return loss + self.alpha * anchor

    def _watch(self, step: Step) -> ForwardPass:
        """The view of the forget questions, its routers watched."""
        view: ForwardPass = step.views["forget" if "forget" in step.views else "substitute"]
        for layer, _ in self.targets if self.alpha else ():
            view.watch(layer.gate)
        return view

    def _anchor(self, view: ForwardPass, layer: MoeLayer, wanted: Tensor) -> Tensor:
        """Mean over the step's rows of each row's mean over its real positions."""
        found = router_anchor(*(t.to(view.input_ids.device) for t in (route_positions(view, layer)[0], wanted)))
        return view.per_row(row_means(found, view.token_rows, len(view.lengths)))


@dataclass(frozen=True)
class SEUF(Edit):
    """SEUF (UOE): unlearn inside one expert of a mixture-of-experts model, keep its router sending text there.

    L = L_f(F) + lambda L_r(R) + alpha * sum over layers of mean ||s - a||^2 on F. Full training lowers the
    forget loss by sending the text to other experts, which damages them and leaves the knowledge where it was.
    Here the (layer, expert) with the largest affinity to the forget set, found on the model as delivered, is
    trained alone, with the gate of its layer; nothing else moves by a bit, whatever the weight decay. The
    anchor is averaged over the real tokens of a row, then over rows, as the affinity is. The load-balancing
    loss of the model is not part of any term. What was chosen, how far it led and the share of weights
    trained are in the log.

    Attributes:
        base: Name of the method whose losses are used: ga, grad-diff, npo, rmu or any other trained one with a
            forget side. Source: paper, table 3 (all four; GradDiff keeps most utility).
        settings: Its hyper-parameters, those that differ from its defaults; an activation loss without a
            `layer` reads the deepest selected layer. Source: paper (lambda 1, NPO beta 0.001, RMU at the
            selected layer with c = 8000 on Qwen, 32000 on DeepSeek).
        count: M, experts that are trained. Source: paper.
        scope: ``single`` (M = 1), ``same_layer`` (the best M of the best one's layer) or ``cross_layer`` (the
            best M of all layers). Source: paper, ablation on M.
        alpha: Weight of the anchor. Source: paper.
        normalised_anchor: a = 1/M instead of 1 for each selected expert of a layer. Source: ours; off, as in
            the paper.
        attribution: ``scores`` (mean gate score) or ``hits`` (share of tokens). Source: paper.
        tokens: Tokens of the forget set the attribution reads. Source: paper (100k agree with all at 94%).
        experts: Experts to train instead of those attribution finds, each ``LAYER.EXPERT``; ``shared`` adds
            the shared experts of the chosen layers. Source: ours.
        allow_shared: Let ``shared`` stand in `experts`. Source: ours; off, since every token of every text
            goes through shared experts, and the paper's utility falls with them.
    """

    paper: ClassVar[str] = (
        "Zhuang et al., SEUF: Is Unlearning One Expert Enough for Mixture-of-Experts LLMs?, ACL 2025 "
        "(arXiv 2411.18797; UOE in its first version)"
    )
    intention: ClassVar[Intention] = "removal"
    architecture: ClassVar[Literal["any", "moe"]] = "moe"
    adapters: ClassVar[bool] = False
    aliases: ClassVar[str] = "uoe"

    base: str = "grad-diff"
    settings: dict[str, Any] | None = None
    count: int = 1
    scope: Scope = "single"
    alpha: float = 1.0
    normalised_anchor: bool = False
    attribution: Affinity = "scores"
    tokens: int = 100_000
    experts: tuple[str, ...] = ()
    allow_shared: bool = False

    def __post_init__(self) -> None:
        above_zero(self, "count", "tokens")
        not_negative(self, "alpha")
        for name, allowed in (
            ("scope", ("single", "same_layer", "cross_layer")),
            ("attribution", ("scores", "hits")),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(f"seuf: {name}={getattr(self, name)!r} must be one of {', '.join(allowed)}.")
        if self.scope == "single" and self.count != 1:
            raise InputError(f"seuf: count={self.count} needs scope same_layer or cross_layer; single is one expert.")
        if SHARED in self.experts and not self.allow_shared:
            raise InputError(
                f"seuf: experts={list(self.experts)} names shared experts, which every token goes through; "
                f"set allow_shared to train them all the same."
            )
        self.method()

    def method(self) -> Trained:
        """The base method with its settings.

        Raises:
            InputError: There is no such method, it is no loss with a forget side, or a setting is wrong.
        """
        return base_method("seuf", self.base, self.settings)

    def apply(self, job: UnlearnJob) -> Subject:
        """Return the job's subject, its selected experts unlearned.

        Raises:
            InputError: A dense model, adapters, more experts than there are, an expert or layer that does not
                exist, no calibration text, a base method without the records it needs or that stops below a
                selected layer.
        """
        model = job.subject.model
        layers = moe_layers(model)
        if any(".lora_" in name for name, _ in model.named_parameters()):
            raise InputError(
                "seuf trains the weights of one expert, which adapters leave as they are: "
                "take model.lora out of the recipe, or merge the adapters first."
            )
        base = self.method()
        if "retain" in base.streams and not job.retain:
            raise InputError(f"seuf: base={self.base!r} needs retain records and there are none.")
        picks, log = self._choose(job, layers)
        chosen: dict[int, list[int]] = {}
        for pick in picks:
            chosen.setdefault(pick.layer, []).append(pick.expert)
        names = self._names(layers, chosen)
        share = tunable_share(model, names)
        log.probes[0]["tunable_share"] = share
        log.notes.append(f"trained: {', '.join(p.name for p in picks)} (LAYER.EXPERT), {share:.3%} of the weights")
        job.logs.append(log)
        targets = tuple(
            (layers[i], anchor_target(own, layers[i].num_experts, normalised=self.normalised_anchor))
            for i, own in chosen.items()
        )
        return job.train(Anchored(reading(base, max(chosen)), names, targets, self.alpha), job.subject)

    def _choose(self, job: UnlearnJob, layers: dict[int, MoeLayer]) -> tuple[list[Pick], TrainLog]:
        """The experts to train, and what is to be known of the choice."""
        named = [name for name in self.experts if name != SHARED]
        if named:
            return [parse(name, layers) for name in dict.fromkeys(named)], TrainLog(probes=[{"step": 0}])
        subject = job.subject
        special = subject.tokenizer.all_special_ids
        encoded = calibration(subject, job.forget, self.tokens, job.seed)
        found = attribute(subject.model, encoded, special, self.attribution)
        return select(found, self.count, self.scope), report(found, job.seed)

    def _names(self, layers: dict[int, MoeLayer], chosen: dict[int, list[int]]) -> tuple[str, ...]:
        """What is trained: the experts, the gate of their layers, and the shared experts if they are asked for."""
        names: list[str] = []
        for index, experts in chosen.items():
            layer = layers[index]
            names += [slice_name(*part) for expert in experts for part in layer.expert_params(expert)]
            names += layer.gate_names
            if SHARED in self.experts:
                if not layer.shared_names:
                    raise InputError(f"seuf: experts={list(self.experts)}: layer {index} has no shared experts.")
                names += layer.shared_names
        return tuple(names)
