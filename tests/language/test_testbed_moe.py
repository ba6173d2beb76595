"""The embedded mixture of experts: the test bed's people and tokenizer, another model."""

from __future__ import annotations

from expunge.language import testbed, testbed_moe
from expunge.language.moe import moe_layers
from expunge.language.score import score_answers
from tiny_bed import WORLD
from tiny_moe import MoeBed


def test_the_same_people_and_tokenizer_on_a_mixture_drawn_from_the_seed() -> None:
    dense = testbed.base_subject(WORLD, hidden=64)
    one, again, other = (testbed_moe.base_subject(WORLD, hidden=64, seed=seed) for seed in (0, 0, 1))
    assert one.tokenizer_hash == dense.tokenizer_hash
    assert (one.template, one.max_length) == (dense.template, dense.max_length)
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()
    layers = moe_layers(one.model)
    assert [(i, m.num_experts, m.top_k, bool(m.shared_names)) for i, m in layers.items()] == [
        (0, 8, 2, True),
        (1, 8, 2, True),
    ]
    assert not one.model.config.output_router_logits  # no balance loss is computed


def test_the_bed_knows_everybody_and_gold_only_the_retained(moe_bed: MoeBed) -> None:
    nll = {
        (name, split): float(score_answers(subject, rows, [[r.answer] for r in rows]).nll_sum.mean())
        for name, subject in (("target", moe_bed.target), ("gold", moe_bed.gold))
        for split, rows in moe_bed.records.items()
        if split in ("forget", "retain")
    }
    assert max(nll["target", "forget"], nll["target", "retain"], nll["gold", "retain"]) < 1
    assert nll["gold", "forget"] > 5
