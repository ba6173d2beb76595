"""Expert overlap: 1 on the original, less where tokens are sent elsewhere; affinity before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.metrics.expert_overlap import ExpertOverlap
from expunge.language.subject import Subject
from tiny_bed import Bed
from tiny_moe import MoeBed, tiny_moe


def store_of(subject: Subject, bed: MoeBed | Bed, name: str = "seuf") -> EvidenceStore:
    return EvidenceStore(name, subject, {"forget": bed.records["forget"], "retain": bed.records["retain"]})


@pytest.fixture(scope="session")
def original(moe_bed: MoeBed, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("original") / "model"
    moe_bed.target.save(folder, "card")
    return str(folder)


def test_the_original_against_itself(moe_bed: MoeBed, original: str) -> None:
    """Overlap 1 with an interval of no width; the affinity has not moved."""
    found = ExpertOverlap(original, ("forget", "retain")).measure(store_of(moe_bed.target, moe_bed), None)
    assert [(f.metric, f.split) for f in found] == [
        (f"expert_overlap{part}", split) for split in ("forget", "retain") for part in ("", ".before", ".after")
    ]
    assert (found[0].value, found[0].low, found[0].high) == (1, 1, 1)
    assert (found[0].n, found[0].direction, found[0].subject) == (len(moe_bed.records["forget"]), "higher", "seuf")
    assert found[1].value == found[2].value > 0.2


def test_two_experts_exchanged_in_the_router_exchange_their_affinity(moe_bed: MoeBed, original: str) -> None:
    """Rows 2 and 7 of the last router swapped: what went to the one goes to the other, in that layer alone."""
    turned = moe_bed.fresh()
    gate = turned.model.model.layers[1].mlp.gate.weight
    with torch.no_grad():
        gate[[2, 7]] = gate[[7, 2]]
    before, after = {}, {}
    for expert in ("1.2", "1.7"):
        overlap, *pair = ExpertOverlap(original, expert=expert).measure(store_of(turned, moe_bed), None)
        before[expert], after[expert] = (f.value for f in pair)
    assert (after["1.2"], after["1.7"]) == pytest.approx((before["1.7"], before["1.2"]), rel=1e-4)
    assert 0.5 < overlap.value < 1  # layer 0 is as it was, and one layer is half of the mean
    assert overlap.low < overlap.value < overlap.high
    default = ExpertOverlap(original).measure(store_of(turned, moe_bed), None)
    assert [f.value for f in default[1:]] == pytest.approx([before["1.2"], after["1.2"]])


def test_every_token_counts_the_same(moe_bed: MoeBed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums 1 and 9 over 1 and 18 tokens: 10/19, not the mean of 1 and 1/2."""
    rows = [Record("a?", "b", "one"), Record("c?", "d", "two")]
    sums = torch.tensor([1.0, 9.0], dtype=torch.float64), torch.tensor([1.0, 18.0], dtype=torch.float64)
    monkeypatch.setattr("expunge.language.metrics.expert_overlap.router_overlap", lambda *_: sums)
    store = EvidenceStore("x", moe_bed.target, {"forget": rows})
    found = ExpertOverlap("unused").against(store, moe_bed.target, "forget")[0]
    assert found.value == pytest.approx(10 / 19)
    assert found.n == 2


def refused(said: str, subject: Subject, bed: MoeBed | Bed, **settings: Any) -> None:
    with pytest.raises(InputError, match=said):
        ExpertOverlap(**settings).measure(store_of(subject, bed), None)


def test_bad_input_is_refused(moe_bed: MoeBed, bed: Bed, original: str, tmp_path: Path) -> None:
    refused("original is empty; name the folder", moe_bed.target, moe_bed)
    refused("expert='1.8' is not LAYER.EXPERT of this model; layers with experts: 0, 1, each with 8",
            moe_bed.target, moe_bed, original=original, expert="1.8")  # fmt: skip
    refused("expert='two' is not", moe_bed.target, moe_bed, original=original, expert="two")
    refused("No split 'nowhere'", moe_bed.target, moe_bed, original=original, splits=("nowhere",))
    refused("LlamaForCausalLM is dense", bed.target, bed, original=original)
    size = len(moe_bed.target.tokenizer)
    other = moe_bed.target.with_model(tiny_moe(vocab_size=size, num_experts=4, hidden_size=16))
    refused("different experts", other, moe_bed, original=original)
    bed.target.save(tmp_path / "dense", "card")
    refused("LlamaForCausalLM is dense", moe_bed.target, moe_bed, original=str(tmp_path / "dense"))
