"""One timed piece of work per call: `python -m benchmarks.pieces NAME` prints seconds and peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.timing import run_piece
from expunge.engine.loop import Loop, Observers, Stream
from expunge.engine.sampling import epochs, uniform
from expunge.engine.training import Training
from expunge.language import testbed
from expunge.language.encode import Encoded, collate, encode
from expunge.language.evidence import EvidenceStore
from expunge.language.forward import LanguageExamples
from expunge.language.guarded import Guarded
from expunge.language.methods.grad_diff import GradDiff
from expunge.language.methods.npo import NPO
from expunge.language.methods.rmu import RMU
from expunge.language.methods.uld import ULD, first_blocks
from expunge.language.metrics.exact_memorization import ExactMemorization
from expunge.language.metrics.extraction_strength import ExtractionStrength
from expunge.language.metrics.forget_quality import ForgetQuality
from expunge.language.metrics.membership import Membership
from expunge.language.metrics.probability import Probability
from expunge.language.metrics.truth_ratio import TruthRatio
from expunge.language.score import length_batches
from expunge.language.workload import Metric

VOCABULARY, BATCH, STEPS = 8_192, 16, 3


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def sequences(rows: int, seed: int) -> Encoded:
    """Random sequences with TOFU's lengths: 45 prompt tokens, about 35 answer tokens."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(65, 96, (rows,), generator=g)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    ids = torch.randint(3, VOCABULARY, (int(offsets[-1]),), generator=g)
    return Encoded(ids, offsets, torch.full((rows,), 45))


def bare() -> float:
    """What anybody would write by hand: two forward and backward passes with the library's own loss."""
    model = make_model().train()
    forget, retain = sequences(64, 1), sequences(256, 2)
    orders = epochs(64, STEPS + 1, BATCH, 0, "forget"), uniform(256, STEPS + 1, BATCH, 0, "retain")
    times = []
    for step in range(STEPS + 1):
        started = time.perf_counter()
        for encoded, order in zip((forget, retain), orders, strict=True):
            batch = collate(encoded, order[step])
            labels = torch.where(batch.labelled, batch.input_ids, -100)
            model(input_ids=batch.input_ids, attention_mask=batch.mask.long(), labels=labels).loss.backward()
        model.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - started)
    return sum(times[1:])


def steps_of(method: NPO | GradDiff | RMU, **settings: Any) -> float:
    """The same tokens through a method: optimiser, clipping and reference included."""
    model = make_model()
    streams = {
        "forget": Stream(LanguageExamples(sequences(64, 1)), epochs(64, STEPS + 1, BATCH, 0, "forget")),
        "retain": Stream(LanguageExamples(sequences(256, 2)), uniform(256, STEPS + 1, BATCH, 0, "retain")),
    }
    training = Training(steps=STEPS + 1, batch_size=BATCH, lr=1e-6, **settings)
    clock: list[float] = []
    observers = Observers(progress=lambda *_: clock.append(time.perf_counter()))
    Loop(model, method, streams, training, seed=0, observers=observers).run()
    return clock[-1] - clock[0]


@torch.inference_mode()
def decoding(guarded: bool) -> float:
    """Forty tokens for each of eight prompts of 45, one at a time with the cache."""
    model: Any = make_model().eval()
    model.model.norm.weight.mul_(20.0)  # as sure of a few tokens as a trained model is
    if guarded:
        model = Guarded(model, first_blocks(model, 3), ULD(layers=3)).eval()
    ids = sequences(8, 3).ids[: 8 * 45].view(8, 45)
    cache, started = None, 0.0
    for number in range(41):
        if number == 1:  # the prompt is read; from here on it is one token after the other
            started = time.perf_counter()
        out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, ids = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
    return time.perf_counter() - started


def tiny() -> tuple[testbed.Subject, dict[str, list[testbed.Record]]]:
    """The embedded model's shape on its own records; what it answers costs the same, trained or not."""
    world = testbed.World(forget=8, retain=8, holdout=8, places=30)
    records = world.records()
    splits = {name: records[name] for name in ("forget", "retain", "holdout", "places")}
    return testbed.base_subject(world), splits


def suite() -> float:
    """Answers, false answers and generations of every split through the evidence store."""
    subject, splits = tiny()
    started = time.perf_counter()
    store = EvidenceStore("target", subject, splits, max_new_tokens=8)
    for split in splits:
        store.answers(split)
        store.perturbed(split)
        store.generations(split)
    return time.perf_counter() - started


@torch.inference_mode()
def suite_naive() -> float:
    """The same, one sequence at a time, with full logits and the library's generate."""
    subject, splits = tiny()
    model, tokenizer = subject.model, subject.tokenizer
    started = time.perf_counter()
    for records in splits.values():
        for record in records:
            prompt = subject.template.prompt(record, tokenizer)
            head = len(tokenizer(prompt.rstrip())["input_ids"])
            for answer in (record.answer, *record.perturbed_answers):
                ids = torch.tensor([[*tokenizer(prompt + answer)["input_ids"], tokenizer.eos_token_id]])
                logprobs = F.log_softmax(model(ids).logits[0].float(), -1)
                logprobs[head - 1 : -1].gather(-1, ids[0, head:, None]).mean()
            ids = torch.tensor([tokenizer(prompt.rstrip())["input_ids"]])
            out = model.generate(ids, max_new_tokens=8, do_sample=False, attention_mask=torch.ones_like(ids))
            tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return time.perf_counter() - started


def audited(*, false_answers: bool) -> tuple[testbed.Subject, dict[str, list[testbed.Record]]]:
    """The embedded benchmark: forget, retain and holdout people in full, with or without their false answers."""
    world = testbed.World()
    records = world.records()
    splits = {name: records[name] for name in ("forget", "retain", "holdout", "places")}
    if not false_answers:
        splits = {s: [replace(r, perturbed_answers=()) for r in splits[s]] for s in ("forget", "holdout")}
    return testbed.base_subject(world), splits


@torch.inference_mode()
def one_pass(*, false_answers: bool) -> float:
    """A plain forward pass over every sequence the suite scores, and nothing kept of it.

    Batches of the same size, sorted by length; the library's own model call with its loss.
    """
    subject, splits = audited(false_answers=false_answers)
    model = subject.model
    started = time.perf_counter()
    for records in splits.values():
        rows = [(r, a) for r in records for a in (r.answer, *r.perturbed_answers)]
        encoded = encode([r for r, _ in rows], subject.tokenizer, subject.template, answers=[a for _, a in rows])
        for batch in length_batches(encoded.lengths, 4096):
            b = collate(encoded, batch)
            model(b.input_ids, attention_mask=b.mask.long(), labels=torch.where(b.labelled, b.input_ids, -100))
    return time.perf_counter() - started


def likelihood(metrics: Sequence[Metric], *, false_answers: bool) -> float:
    """Metrics from nothing: the evidence of one model, the findings, and their intervals.

    Gold's evidence is there before: its own audit, which comes first, has made it.
    """
    subject, splits = audited(false_answers=false_answers)
    gold = EvidenceStore("gold", subject, splits)
    for metric in metrics:
        metric.measure(gold, gold)
    started = time.perf_counter()
    store = EvidenceStore("target", subject, splits)
    for metric in metrics:
        metric.measure(store, gold)
    return time.perf_counter() - started


DETECTORS = (Membership(ks=(0.05, 0.1, 0.2, 0.3, 0.5, 0.6)),)
LIKELIHOOD = (
    Probability(splits=("forget", "retain"), options=("places",)),
    TruthRatio(splits=("forget", "retain", "places")),
    ForgetQuality(),
    ExtractionStrength(splits=("forget",)),
    ExactMemorization(splits=("forget",)),
    *DETECTORS,
)

PIECES: dict[str, Callable[[], float]] = {
    "bare": bare,
    "npo": lambda: steps_of(NPO()),
    "grad-diff": lambda: steps_of(GradDiff()),
    "rmu": lambda: steps_of(RMU(layer=4)),
    "npo-sam": lambda: steps_of(NPO(), smoothing="sam"),
    "decode": lambda: decoding(guarded=False),
    "decode-uld": lambda: decoding(guarded=True),
    "suite": suite,
    "suite-naive": suite_naive,
    "likelihood": lambda: likelihood(LIKELIHOOD, false_answers=True),
    "likelihood-pass": lambda: one_pass(false_answers=True),
    "membership": lambda: likelihood(DETECTORS, false_answers=False),
    "membership-pass": lambda: one_pass(false_answers=False),
}


if __name__ == "__main__":
    run_piece(PIECES)
