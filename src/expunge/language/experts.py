"""Which experts a text goes to: attribution of text to experts, choice among them, and overlap of two models.

The affinity of a text to an expert is its gate-score affinity (ESFT, arXiv 2407.01906; SEUF, arXiv 2411.18797,
section 4): how much of the router's mass the expert gets on the text, counted only where it is chosen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from expunge.engine.reference import evaluating
from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.encode import Encoded, encode
from expunge.language.forward import ForwardPass, LanguageExamples
from expunge.language.moe import MoeLayer, Routing, moe_layers
from expunge.language.subject import Subject

Affinity = Literal["scores", "hits"]
Scope = Literal["single", "same_layer", "cross_layer"]


class Pick(NamedTuple):
    """One expert of one layer, and its affinity to a text."""

    layer: int
    expert: int
    affinity: float

    @property
    def name(self) -> str:
        """As it is written in settings: ``LAYER.EXPERT``."""
        return f"{self.layer}.{self.expert}"


class Support(NamedTuple):
    """How sure the first rank is: its lead, and what resampling the sequences makes of it."""

    margin: float  # affinity of rank 1 minus that of rank 2
    low: float  # 95% interval of the lead of the same expert over the best other one
    high: float
    share: float  # share of resamplings in which the same expert comes first


def sequence_means(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Mean over the positions of each sequence: [S, E] values, [S] sequence of each -> [count, E]."""
    sums = values.new_zeros(count, values.shape[-1]).index_add(0, rows, values)
    return sums / torch.bincount(rows, minlength=count).clamp(min=1)[:, None]


@dataclass(frozen=True)
class Attribution:
    """Affinities of a text to the experts of a model, sequence by sequence.

    Attributes:
        per_sequence: For each layer with experts [Z, E]: the mean over the sequence's tokens.
    """

    per_sequence: Mapping[int, Tensor]

    def affinity(self, layer: int) -> Tensor:
        """[E] s_i = mean over sequences of the mean over tokens: a sequence counts once, however long."""
        return self.per_sequence[layer].mean(0)

    @cached_property
    def ranking(self) -> list[Pick]:
        """All experts of all layers, the largest affinity first; ties go to the shallower layer."""
        picks = [
            Pick(layer, expert, score)
            for layer in self.per_sequence
            for expert, score in enumerate(self.affinity(layer).tolist())
        ]
        return sorted(picks, key=lambda p: -p.affinity)

    def support(self, seed: int = 0, draws: int = 1000) -> Support:
        """Lead of the first over the second expert, and how it holds when sequences are drawn again.

        Args:
            seed: Of the resampling.
            draws: Resamplings of the sequences, with replacement.
        """
        first, *others = self.ranking
        values = torch.cat(list(self.per_sequence.values()), 1)  # [Z, experts of all layers]
        place = sum(v.shape[1] for layer, v in self.per_sequence.items() if layer < first.layer) + first.expert
        count = len(values)
        picks = torch.randint(count, (draws, count), generator=generator(seed, "affinity"))
        weights = torch.zeros(draws, count, dtype=values.dtype).scatter_add(
            1, picks, torch.ones(draws, count, dtype=values.dtype)
        )
        drawn = weights @ values / count  # [draws, experts]
        own = drawn[:, place].clone()
        drawn[:, place] = -torch.inf
        leads = own - drawn.amax(1)
        low, high = torch.quantile(leads, torch.tensor([0.025, 0.975], dtype=leads.dtype)).tolist()
        margin = first.affinity - others[0].affinity if others else torch.inf
        return Support(margin, low, high, float((leads > 0).double().mean()))


def route_positions(view: ForwardPass, layer: MoeLayer) -> Routing:
    """What a watched router did at every real position of a view, row by row: [S, ...] instead of [B * L, ...].

    Raises:
        InputError: The forward pass ended below the layer.
    """
    output = view.watched(layer.gate)
    if output is None:
        raise InputError(f"layer {layer.index}: the loss stops the forward pass below this layer's router.")
    kept = view.mask.flatten()
    return Routing(*(part[kept] for part in layer.route(output)))


def passes(encoded: Encoded, batch_tokens: int = 4096) -> list[Tensor]:
    """Rows of each forward pass, of similar length together: at most `batch_tokens` padded tokens in one."""
    size = max(1, batch_tokens // max(1, int(encoded.lengths.max())))
    return list(torch.split(encoded.lengths.argsort(stable=True), size))


def routed(model: nn.Module, encoded: Encoded, rows: Tensor) -> tuple[ForwardPass, dict[int, Routing]]:
    """Route some sequences through a model, without gradients; the head is not computed.

    Args:
        model: A mixture of experts.
        encoded: The sequences.
        rows: Which of them.

    Returns:
        Their view, and the routing of each layer with experts at its real positions.

    Raises:
        InputError: A dense model.
    """
    layers = moe_layers(model)
    view = LanguageExamples(encoded).view(model, rows, (1, 1), None)
    for layer in layers.values():
        view.watch(layer.gate)
    with evaluating(model):
        view.hidden(max(layers))
        return view, {index: route_positions(view, layer) for index, layer in layers.items()}


def _texts(view: ForwardPass, special: Collection[int]) -> Tensor:
    """[S] bool: real positions that hold text, not a special token."""
    ids = view.input_ids[view.mask]
    return ~torch.isin(ids, torch.tensor(sorted(special), dtype=ids.dtype, device=ids.device))


def attribute(
    model: nn.Module, encoded: Encoded, special: Collection[int] = (), kind: Affinity = "scores"
) -> Attribution:
    """Affinity of sequences to every expert of every layer.

    s_i = (1/Z) sum_j (1/L_j) sum_t g_{i,t}: the mean of per-sequence means of the gate score, 0 where expert
    i is not among the top K (ESFT's average gate score). Its sum over a layer's experts is the mean mass of
    the top K, and 1 where the model renormalises. ``hits`` puts 1 in the score's place: the share of tokens
    that go to the expert. Padding and special tokens count neither in L_j nor in the sums.

    Args:
        model: A mixture of experts.
        encoded: Z sequences.
        special: Ids of special tokens.
        kind: ``scores`` or ``hits``.

    Raises:
        InputError: A dense model; no sequence, or none with a token that is not special.
    """
    found: dict[int, list[Tensor]] = {index: [] for index in moe_layers(model)}
    if len(encoded.lengths) == 0 or int(encoded.lengths.max()) == 0:
        raise InputError("The calibration set is empty: there is no text to attribute to experts.")
    order = []
    for rows in passes(encoded):
        view, routing = routed(model, encoded, rows)
        kept = _texts(view, special)
        owner = view.token_rows[kept]
        full = torch.bincount(owner, minlength=len(rows)).cpu() > 0
        order.append(rows[full])
        for index, layer in routing.items():
            hits = torch.zeros_like(layer.scores).scatter(-1, layer.chosen, 1.0)
            values = (hits if kind == "hits" else layer.scores)[kept].double()
            found[index].append(sequence_means(values, owner, len(rows)).cpu()[full])
    back = torch.cat(order).argsort()
    if not len(back):
        raise InputError("The calibration set holds padding and special tokens only: there is no text to attribute.")
    return Attribution({index: torch.cat(parts)[back] for index, parts in found.items()})


def calibration(subject: Subject, records: Sequence[Record], tokens: int, seed: int) -> Encoded:
    """Records drawn at random until they hold `tokens` tokens; all of them where they hold fewer.

    Raises:
        InputError: There are no records.
    """
    if not records:
        raise InputError("The calibration set is empty: there is no text to attribute to experts.")

    def encoded(chosen: Sequence[Record]) -> Encoded:
        return encode(list(chosen), subject.tokenizer, subject.template, max_length=subject.max_length, where="forget")

    lengths = encoded(records).lengths
    order = torch.randperm(len(records), generator=generator(seed, "calibration"))
    before = lengths[order].cumsum(0) - lengths[order]
    return encoded([records[i] for i in order[before < tokens].sort().values.tolist()])


def select(attribution: Attribution, count: int = 1, scope: Scope = "single") -> list[Pick]:
    """Choose experts by affinity: one; the best of the best one's layer; or the best of all layers.

    Args:
        attribution: Affinities.
        count: M.
        scope: ``single`` (M = 1), ``same_layer`` or ``cross_layer``.

    Raises:
        InputError: More experts than there are.
    """
    ranking = attribution.ranking
    if scope == "same_layer":
        ranking = [p for p in ranking if p.layer == ranking[0].layer]
    if count > len(ranking):
        where = f"layer {ranking[0].layer}" if scope == "same_layer" else "the model"
        raise InputError(f"count={count}: {where} has {len(ranking)} experts.")
    return ranking[:count]


def overlap(chosen: Tensor, original: Tensor) -> Tensor:
    """Share of the K experts of each position that were also chosen originally: |A and B| / K.

    Args:
        chosen: [N, K] experts now.
        original: [N, K] experts then, on the same positions.

    Returns:
        [N] in [0, 1].
    """
    return (chosen[:, :, None] == original[:, None, :]).any(-1).double().mean(-1)


def router_overlap(
    model: nn.Module, original: nn.Module, encoded: Encoded, special: Collection[int] = ()
) -> tuple[Tensor, Tensor]:
    """How far a model still sends text to the experts the original sent it to (SEUF, section 3).

    Args:
        model: A mixture of experts.
        original: The same mixture before unlearning.
        encoded: n sequences.
        special: Ids of special tokens, which are left out.

    Returns:
        [n] summed overlap of each sequence's tokens, each the mean over layers; [n] its number of tokens.

    Raises:
        InputError: A dense model, or two of different shape.
    """
    shapes = [{i: (m.num_experts, m.top_k) for i, m in moe_layers(each).items()} for each in (model, original)]
    if shapes[0] != shapes[1]:
        raise InputError("The two models have different experts: their routing cannot be compared.")
    sums, counts = torch.zeros(2, len(encoded.lengths), dtype=torch.float64)
    for rows in passes(encoded):
        (view, now), (_, then) = (routed(each, encoded, rows) for each in (model, original))
        kept = _texts(view, special)
        shared = torch.stack([overlap(now[i].chosen.cpu(), then[i].chosen.cpu()) for i in now]).mean(0)
        owner = view.token_rows[kept].cpu()
        sums[rows] = shared.new_zeros(len(rows)).index_add(0, owner, shared[kept.cpu()])
        counts[rows] = torch.bincount(owner, minlength=len(rows)).double()
    return sums, counts
