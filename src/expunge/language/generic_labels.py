"""Generic labels: what a model that never read the text might say next (Eldan & Russinovich 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from expunge.engine.reference import evaluating
from expunge.errors import InputError
from expunge.language.anchors import Anchors
from expunge.language.encode import Batch, Encoded, collate
from expunge.language.forward import ForwardPass
from expunge.language.relabelled import NO_LABEL, RelabelledExamples, SoftLabels
from expunge.language.score import length_batches
from expunge.language.subject import Subject
from expunge.language.text_blocks import Block, encoded
from expunge.language.translated_blocks import repeated_starts, translate_block

Scale = Literal["log-softmax", "median", "raw"]


def reinforcement(v_b: Tensor, v_r: Tensor, scale: Scale = "median") -> Tensor:
    """How much more the reinforced model favours each token: v_r - v_b on a common scale.

    A softmax does not see a constant added to all logits, so v_r - v_b of two models holds one, another at every
    position. `median` takes the median difference off; `raw` compares as the paper's equation is written.
    `log-softmax` compares log-probabilities, and then log p_r - log p_b <= -log p_b: what the baseline is sure of
    can hardly become more likely and is never pushed down far, however much the reinforced model insists.

    Args:
        v_b: [..., V] logits of the baseline.
        v_r: [..., V] logits of the reinforced model.
        scale: What is taken off.

    Returns:
        [..., V]; unchanged by a constant added to v_r unless `raw`.

    Raises:
        InputError: The two have vocabularies of different sizes.
    """
    if v_b.shape != v_r.shape:
        raise InputError(
            f"The baseline has a vocabulary of {v_b.shape[-1]} tokens and the reinforced model one of {v_r.shape[-1]}; "
            f"they must share one."
        )
    if scale == "log-softmax":
        return v_r.log_softmax(-1) - v_b.log_softmax(-1)
    difference = v_r - v_b
    return difference - difference.median(-1, keepdim=True).values if scale == "median" else difference


def generic_logits(v_b: Tensor, v_r: Tensor, alpha: float, scale: Scale = "median") -> Tensor:
    """v_gen = v_b - alpha ReLU(v_r - v_b) (Eldan & Russinovich 2023, equation 1).

    Only tokens that reinforcement made more likely are pushed down.

    Args:
        v_b: [..., V] logits of the baseline.
        v_r: [..., V] logits of the reinforced model.
        alpha: How far; 0 gives v_b.
        scale: See `reinforcement`.

    Returns:
        [..., V].
    """
    return v_b - alpha * reinforcement(v_b, v_r, scale).relu()


def divergence(v_b: Tensor, v_gen: Tensor) -> Tensor:
    """[...] KL(softmax(v_b) || softmax(v_gen)) at each position, in nats."""
    log_b = v_b.log_softmax(-1)
    return (log_b.exp() * (log_b - v_gen.log_softmax(-1))).sum(-1)


def lower_used(v_gen: Tensor, positions: list[int], used: list[tuple[int, int]], penalty: float) -> Tensor:
    """v_gen with the first tokens of substitutes lowered where the substitute stands earlier in the block.

    Otherwise the model learns to rename people in the middle of a text.

    Args:
        v_gen: [P, V] generic logits of one block.
        positions: P positions in the translated block.
        used: (j, token), see `translated_blocks.Aligned`.
        penalty: How much is taken off.
    """
    lowered = v_gen.clone()
    for since, token in set(used):
        late = torch.tensor([j >= since for j in positions], device=v_gen.device)
        lowered[late, token] = v_gen[late, token] - penalty
    return lowered


@dataclass(frozen=True)
class Generic:
    """How generic labels are made (see `methods.whp.WHP` for the fields)."""

    alpha: float = 5.0
    scale: Scale = "median"
    penalty: float = 5.0
    substitutes: int = 1
    soft: bool = False
    temperature: float = 1.0
    soft_top: int = 128


@dataclass(frozen=True)
class GenericLabels:
    """The labels of a set of blocks.

    Attributes:
        examples: The original blocks with their generic labels, without blocks that got none.
        labelled: Share of the positions before a label of the block that have one.
        changed: Share of the labels that are not the true next token.
        divergence: Mean KL(b || v_gen) over them, in nats, b reading the translation.
    """

    examples: RelabelledExamples
    labelled: float
    changed: float
    divergence: float


@torch.inference_mode()
def generic_labels(
    baseline: Subject, reinforced: Subject, blocks: list[Block], anchors: Anchors, how: Generic, *, tokens: int = 1024
) -> GenericLabels:
    """Generic labels of the blocks: the baseline reads the translations, the reinforced model the originals.

    With several substitutes the distributions softmax(v_gen / T) are averaged over the translations that align at
    a position; the hard label is the arg-max of the average.

    Args:
        baseline: b.
        reinforced: r, of the same vocabulary.
        blocks: The forget set.
        anchors: D.
        how: The settings.
        tokens: Padded tokens per forward pass.

    Raises:
        InputError: Different vocabularies, a block that does not align, or no label at all.
    """
    if baseline.tokenizer_hash != reinforced.tokenizer_hash:
        raise InputError("The baseline and the reinforced model have different vocabularies; they must share one.")
    whole = encoded(blocks)
    made = _Labels(whole, how)
    with evaluating(baseline.model), evaluating(reinforced.model):
        for rows in length_batches(whole.lengths, tokens):
            made.add(baseline, reinforced, blocks, anchors, rows)
    return made.finish(blocks)


class _Labels:
    """Labels as they are made, batch by batch."""

    def __init__(self, whole: Encoded, how: Generic) -> None:
        self.whole, self.how = whole, how
        self.targets = torch.full_like(whole.ids, NO_LABEL)
        self.places: list[Tensor] = []
        self.soft: list[SoftLabels] = []
        self.divergence, self.terms, self.eligible = 0.0, 0, 0

    def add(self, baseline: Subject, reinforced: Subject, blocks: list[Block], anchors: Anchors, rows: Tensor) -> None:
        """Label the blocks of one batch."""
        chosen = [blocks[i] for i in rows.tolist()]
        allowed = []
        for block in chosen:
            repeated = repeated_starts(block, anchors)
            allowed.append([i for i in range(block.label_start - 1, len(block.ids) - 1) if i not in repeated])
            self.eligible += len(block.ids) - block.label_start
        place: list[dict[int, int]] = []
        for positions in allowed:
            first = sum(map(len, place))
            place.append({i: first + k for k, i in enumerate(positions)})
        v_r = _logits(reinforced, [b.ids for b in chosen], allowed)  # [P, V]
        total, times = torch.zeros_like(v_r), torch.zeros(len(v_r), device=v_r.device)
        for draw in range(self.how.substitutes):
            found = [translate_block(baseline, block, anchors, draw) for block in chosen]
            pairs = [
                [(i, j) for i, j in a.pairs if i in here and j < len(a.ids) - 1]
                for a, here in zip(found, place, strict=True)
            ]
            at = torch.tensor([here[i] for p, here in zip(pairs, place, strict=True) for i, _ in p], device=v_r.device)
            if not len(at):
                continue
            v_b = _logits(baseline, [a.ids for a in found], [[j for _, j in p] for p in pairs])
            v_gen = generic_logits(v_b, v_r[at], self.how.alpha, self.how.scale)
            self.divergence, self.terms = self.divergence + float(divergence(v_b, v_gen).sum()), self.terms + len(at)
            by_block = zip(v_gen.split([len(p) for p in pairs]), pairs, found, strict=True)
            v_gen = torch.cat([lower_used(v, [j for _, j in p], a.used, self.how.penalty) for v, p, a in by_block])
            if self.how.substitutes == 1 and not self.how.soft:
                total[at] = v_gen  # the arg-max needs no softmax
            else:
                total.index_add_(0, at, (v_gen / self.how.temperature).softmax(-1))
            times.index_add_(0, at, torch.ones_like(at, dtype=times.dtype))
        flat = [int(self.whole.offsets[row]) + i for row, here in zip(rows.tolist(), place, strict=True) for i in here]
        self._file(torch.tensor(flat, dtype=torch.long), total, times)

    def _file(self, flat: Tensor, total: Tensor, times: Tensor) -> None:
        has = times > 0
        flat, total = flat[has.cpu()], total[has] / times[has][:, None]
        self.targets[flat] = total.argmax(-1).cpu()
        if self.how.soft:
            mass, tokens = total.topk(min(self.how.soft_top or total.shape[-1], total.shape[-1]), -1)
            self.places.append(flat)
            self.soft.append(SoftLabels(tokens.cpu(), (mass / mass.sum(-1, keepdim=True)).cpu()))

    def finish(self, blocks: list[Block]) -> GenericLabels:
        """Put the labels together."""
        at = (self.targets != NO_LABEL).nonzero()[:, 0]
        if not len(at):
            raise InputError("No position of the forget records got a generic label; check the anchors.")
        soft = None
        if self.how.soft:
            order = torch.cat(self.places).argsort()
            soft = SoftLabels(
                torch.cat([s.tokens for s in self.soft])[order],
                torch.cat([s.probabilities for s in self.soft])[order],
            )
        rows = torch.repeat_interleave(torch.arange(len(blocks)), self.whole.lengths)
        kept = torch.zeros(len(blocks), dtype=torch.bool).index_fill_(0, rows[at], True)
        examples = RelabelledExamples(
            encoded([b for b, keep in zip(blocks, kept.tolist(), strict=True) if keep]), self.targets[kept[rows]], soft
        )
        changed = float((self.targets[at] != self.whole.ids[at + 1]).double().mean())
        return GenericLabels(examples, len(at) / self.eligible, changed, self.divergence / self.terms)


def _logits(subject: Subject, ids: list[list[int]], positions: list[list[int]]) -> Tensor:
    """[P, V] logits after the given positions of each row; none of them is a row's last."""
    lengths = torch.tensor([len(r) for r in ids])
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    flat = Encoded(torch.tensor([t for r in ids for t in r]), offsets, torch.ones_like(lengths))
    batch = collate(flat, torch.arange(len(ids)))
    labelled = torch.zeros_like(batch.mask)
    for row, own in enumerate(positions):
        labelled[row, torch.tensor(own, dtype=torch.long) + 1] = True
    return ForwardPass(subject.model, Batch(batch.input_ids, batch.mask, labelled), (1, 1)).logits
