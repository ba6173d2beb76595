"""Which corpus a method trains on in RWKU, and how it is handed over: made by the target, or read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

from expunge.engine.loop import TrainLog
from expunge.engine.method import Method, Substitute
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.methods._checks import public_name
from expunge.language.methods.dpo import DPO
from expunge.language.rwku_corpus import Sampling, Writer, biography_request, in_turn, without_probes
from expunge.language.rwku_data import PASSAGES, Probe, read_pairs, read_refusals, read_texts
from expunge.language.unlearn import UnlearnJob

KINDS = ("factual", "pair", "refusal", "passage", "none")
# Methods that need another corpus than the factual one; ``none`` leaves the forget records as they are.
USUAL = {
    "dpo": "pair",
    "altpo": "pair",
    "idk": "refusal",
    "rejection-tuning": "refusal",
    "icu": "none",
    "repe": "none",
    "retrain": "none",
    "fine-tune": "none",
}
OWN = "own"

Pairs = list[tuple[Record, str]]


@dataclass(frozen=True)
class PairedDPO(DPO):
    """DPO with a preferred answer to each forget record instead of a refusal drawn from a list."""

    substitute: ClassVar[Substitute | None] = "alternate"


def parse_choices(choices: Sequence[str]) -> dict[str, str]:
    """``METHOD=CORPUS`` texts as a mapping by public name.

    Raises:
        InputError: Not of that form, or no such method or corpus.
    """
    from expunge import catalog

    found = {}
    for text in choices:
        name, equals, kind = text.partition("=")
        if not equals or kind not in KINDS:
            raise InputError(f"rwku: corpora: {text!r} must read METHOD=CORPUS, with CORPUS one of {', '.join(KINDS)}.")
        found[catalog.find("method", name, "language").name] = kind
    return found


def probe_texts(probes: Sequence[Probe]) -> tuple[str, ...]:
    """What no corpus may hold: queries, and statements with their blank filled in."""
    return tuple(dict.fromkeys(re.sub("_{2,}", lambda _, p=p: p.answer, p.query) for p in probes))  # type: ignore[misc]


@dataclass(frozen=True)
class Corpora:
    """Gives each method its corpus (see `expunge.language.rwku_corpus`).

    Attributes:
        intros: Target to introduction; a target without one is asked about by its name.
        probes: Texts that no corpus may hold.
        how: How corpora are made.
        source: ``own``, or the ending of released configurations such as ``llama3``.
        path: Hub id or folder with the released corpora and passages.
        choices: Corpus of single methods, by public name, other than the usual one.
    """

    intros: Mapping[str, str]
    probes: tuple[str, ...]
    how: Sampling
    source: str = OWN
    path: str = ""
    choices: Mapping[str, str] | None = None

    def kind(self, method: Method) -> str:
        """Which corpus a method trains on."""
        name = "dpo" if isinstance(method, PairedDPO) else public_name(method)
        return (self.choices or {}).get(name) or USUAL.get(name, "factual")

    def __call__(self, job: UnlearnJob, method: Method, cache: Path | None) -> tuple[UnlearnJob, Method]:
        """The job with the method's corpus as its forget records, and the method as it trains on them.

        Args:
            job: Its forget records say whom the request is about, its subject writes the corpus.
            method: The method.
            cache: Folder for corpora.

        Raises:
            InputError: A target that the corpus is silent on, or nothing but probes in it.
        """
        kind = self.kind(method)
        if kind == "none":
            return job, method
        names = list(dict.fromkeys(r.cluster for r in job.forget if r.cluster))
        rows = self._rows(kind, names, job, cache)
        texts = [f"{r.question}\n{r.answer}\n{other}" for r, other in rows]
        found, left_out = without_probes(rows, texts, self.probes)
        silent = [name for name in names if name not in {r.cluster for r, _ in found}]
        if silent:
            raise InputError(
                f"rwku: the {kind} corpus holds nothing about {silent[0]!r} that is no probe ({left_out} rows were "
                f"left out)."
            )
        told = f"trained on the {kind} corpus, {len(found)} rows"
        told += f"; {left_out} rows that held a probe were left out" if left_out else ""
        job.logs.append(TrainLog(notes=[told]))
        records = [record for record, _ in found]
        if kind == "refusal" and self.source == OWN:  # numbered once it is known which questions are left
            answers = in_turn(len(records), job.refusals)
            records = [replace(r, answer=a) for r, a in zip(records, answers, strict=True)]
        if kind != "pair":
            return replace(job, forget=records), method
        paired = PairedDPO(**asdict(method)) if type(method) is DPO else method
        return replace(job, forget=records, alternates=[[other] for _, other in found]), paired

    def _rows(self, kind: str, names: list[str], job: UnlearnJob, cache: Path | None) -> Pairs:
        if kind == "passage":
            return _alone(read_texts(self.path, PASSAGES, names))
        if self.source != OWN:
            return self._released(kind, names)
        writer = Writer(job.subject, self.how, job.seed, cache / "corpora" if cache else None)
        return [row for name in names for row in self._written(kind, name, writer)]

    def _released(self, kind: str, names: list[str]) -> Pairs:
        if kind == "pair":
            return read_pairs(self.path, f"train_pair_{self.source}", names)
        if kind == "refusal":
            return _alone(read_refusals(self.path, f"train_refusal_{self.source}", names))
        return _alone(read_texts(self.path, f"train_positive_{self.source}", names))

    def _written(self, kind: str, name: str, writer: Writer) -> Pairs:
        intro = self.intros.get(name, "")
        if kind == "refusal":
            return [(Record(q, "", name), "") for q in writer.write("question", name, intro) if q]
        right = writer.write("factual", name, intro)
        if kind == "factual":
            return [(Record("", text, name), "") for text in right if text.strip()]
        wrong = writer.write("counterfactual", name, intro)
        request = biography_request(name, intro)
        pairs = zip(right, wrong, strict=True)
        return [(Record(request, a, name), b) for a, b in pairs if a.strip() and b.strip() and a != b]


def _alone(records: list[Record]) -> Pairs:
    return [(record, "") for record in records]


def requests(names: Sequence[str], intros: Mapping[str, str]) -> list[Record]:
    """The erasure request itself, one record for each target: nothing is known but the name and the sentence."""
    return [Record(biography_request(name, intros.get(name, "")), intros.get(name) or name, name) for name in names]
