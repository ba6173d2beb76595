"""Training on given labels: what is predicted where, and that the loop treats them like any others."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from expunge.engine.loop import Loop, Stream
from expunge.engine.method import Step, Trained
from expunge.engine.sampling import epochs
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.forward import LanguageExamples
from expunge.language.relabelled import NO_LABEL, RelabelledExamples, SoftLabels
from tiny_models import VOCABULARY, distance, sequences, tiny, weights

ENCODED = sequences(9, seed=4)


def next_tokens() -> Tensor:
    """The targets that make the examples ordinary ones."""
    targets = torch.full_like(ENCODED.ids, NO_LABEL)
    for start, end, label in zip(ENCODED.offsets, ENCODED.offsets[1:], ENCODED.label_start, strict=False):
        targets[start + label - 1 : end - 1] = ENCODED.ids[start + label : end]
    return targets


def some(seed: int = 0) -> Tensor:
    """Random labels at about half of the positions; each sequence has one, at its first token at least."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(VOCABULARY, ENCODED.ids.shape, generator=generator)
    targets[torch.rand(len(targets), generator=generator) < 0.5] = NO_LABEL
    targets[ENCODED.offsets[1:] - 1] = NO_LABEL
    targets[ENCODED.offsets[:-1]] = 5
    return targets


@dataclass(frozen=True)
class Nll(Trained):
    def forget_loss(self, step: Step) -> Tensor:
        loss: Tensor = step.forget.nll
        return loss


def test_with_the_next_tokens_it_is_the_ordinary_view() -> None:
    model, rows = tiny(), torch.tensor([3, 0, 7])
    ours, theirs = RelabelledExamples(ENCODED, next_tokens()), LanguageExamples(ENCODED)
    assert ours.counts.tolist() == theirs.counts.tolist()
    views = [examples.view(model, rows, (3, 10), None) for examples in (ours, theirs)]
    for name in ("labels", "rows", "lengths", "logits", "token_logprobs", "nll_sum", "nll"):
        assert torch.equal(getattr(views[0], name), getattr(views[1], name)), name


def test_each_label_belongs_to_the_prediction_made_there() -> None:
    """Row by row without padding: log p(label | tokens up to and with the position)."""
    model, targets = tiny(), some()
    examples = RelabelledExamples(ENCODED, targets)
    view = examples.view(model, torch.arange(9), (9, 1), None)
    expected, labels = [], []
    for start, end in zip(ENCODED.offsets.tolist(), ENCODED.offsets.tolist()[1:], strict=False):
        logprobs = model(input_ids=ENCODED.ids[None, start:end]).logits[0].log_softmax(-1)
        for i in range(end - start):
            if targets[start + i] != NO_LABEL:
                expected.append(logprobs[i, targets[start + i]])
                labels.append(int(targets[start + i]))
    assert view.labels.tolist() == labels
    torch.testing.assert_close(view.token_logprobs, torch.stack(expected))
    assert view.lengths.tolist() == examples.counts.tolist() == torch.bincount(view.rows).tolist()


def test_soft_labels_follow_their_positions() -> None:
    """Row t of the distributions is the t-th label of the set, in whatever order rows are drawn."""
    targets = some()
    total = int((targets != NO_LABEL).sum())
    soft = SoftLabels(torch.arange(total)[:, None].expand(-1, 2), torch.full((total, 2), 0.5))
    examples = RelabelledExamples(ENCODED, targets, soft)
    rows = torch.tensor([5, 2])
    found = examples.view(tiny(), rows, (2, 1), None).soft_labels
    first = torch.cat([torch.zeros(1, dtype=torch.long), examples.counts.cumsum(0)])
    assert found.tokens[:, 0].tolist() == [*range(int(first[5]), int(first[6])), *range(int(first[2]), int(first[3]))]
    assert found.probabilities.shape == (len(found.tokens), 2)


def test_accumulation_equals_one_large_batch() -> None:
    ends = []
    for micro in (None, 3):
        model = tiny()
        stream = Stream(RelabelledExamples(ENCODED, some()), epochs(9, 3, 7, 0, "forget"))
        training = Training(steps=3, batch_size=7, micro_batch=micro, lr=1e-2, schedule="constant", clip=None)
        Loop(model, Nll(), {"forget": stream}, training, seed=0).run()
        ends.append(weights(model))
    assert distance(*ends) < 1e-5
    assert distance(ends[0], weights(tiny())) > 1e-3


def test_labels_that_do_not_fit_are_refused() -> None:
    targets = some()
    with pytest.raises(InputError, match=f"3 labels for {len(targets)} tokens"):
        RelabelledExamples(ENCODED, targets[:3])
    late = targets.clone()
    late[-1] = 3
    with pytest.raises(InputError, match="last token of a sequence predicts nothing"):
        RelabelledExamples(ENCODED, late)
    empty = targets.clone()
    empty[ENCODED.offsets[2] : ENCODED.offsets[3]] = NO_LABEL
    with pytest.raises(InputError, match="Sequence 3 has no label"):
        RelabelledExamples(ENCODED, empty)
    with pytest.raises(InputError, match="2 soft labels for"):
        RelabelledExamples(ENCODED, targets, SoftLabels(torch.zeros(2, 1), torch.ones(2, 1)))
    with pytest.raises(InputError, match="reads soft labels and the examples have none"):
        _ = RelabelledExamples(ENCODED, targets).view(tiny(), torch.tensor([0]), (1, 1), None).soft_labels
