"""Hubble: controlled insertion, where it is known how often a model has read each text (Wei, Godbole et al., 2025)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from expunge.errors import InputError, nearest
from expunge.language.data import Record, read_records
from expunge.language.hubble_data import BIOGRAPHY, field_probes, paraphrase_records, read_set
from expunge.language.hubble_documents import KINDS
from expunge.language.hubble_probes import id_probe, probes
from expunge.language.hubble_world import hubble_insertion
from expunge.language.insertion import Text
from expunge.language.insertion_world import InsertionWorld, divided
from expunge.language.metrics._choices import Choice
from expunge.language.metrics.duplicate_response import DuplicateResponse
from expunge.language.metrics.exact_memorization import ExactMemorization
from expunge.language.metrics.forgetting_gap import ForgettingGap
from expunge.language.metrics.insertion_probes import InsertionProbes
from expunge.language.metrics.membership import Membership
from expunge.language.metrics.paraphrase_preference import ParaphrasePreference
from expunge.language.metrics.perplexity import Perplexity
from expunge.language.metrics.relearning_steps import RelearningSteps
from expunge.language.metrics.rouge import Rouge
from expunge.language.metrics.verbatim_extraction import VerbatimExtraction
from expunge.language.refusals import REFUSALS
from expunge.language.workload import Metric, Workload

SIDES = ("forget", "retain", "holdout")


@dataclass(frozen=True)
class Hubble:
    """Texts inserted an exact number of times; forget some of the most repeated, keep others repeated as often.

    The target reads the whole stream, gold the same windows in the same order without the texts to be forgotten (or
    without any, like Hubble's standard models). Texts that were drawn for no copy are exact non-members. Everything is
    made up from a seed, and copies count per pass over the stream: with target.train.epochs of 3, a text of 16 copies
    was read 48 times. With `data`, one of Hubble's own perturbation sets is measured on a released model
    (`hubble_data.model_id`), with the standard model of the same size as gold.

    Attributes:
        data: A perturbation set: hub id (``allegrolab/biographies_yago``), file, or folder that holds
            ``NAME_nodup.jsonl.gz``; empty for the made-up bed. Source: paper.
        kinds: Kinds of documents inserted beside the first, which is the one to be forgotten: ``biographies``,
            ``passages``, ``paraphrases``, ``chats``, ``items``. Source: paper.
        doses: Numbers of copies d; 0 must be among them. Source: paper (and 256).
        texts: How many texts of the first kind get each of them. Source: ours.
        beside: How many texts of each further kind do. Source: ours.
        forget_d: The d some of whose texts are forgotten, and the others kept. Source: ours (paper: 256).
        forget: How many are forgotten. Source: ours.
        shown: Share of the texts to be kept that methods get to see; the others are measured. Source: ours.
        gold: What gold has not read: ``retrain`` the forget texts, ``standard`` any text. Source: paper (standard).
        rows: Background documents. Source: ours.
        documents: File of background documents; empty for made-up ones. Source: yours.
        background: Background documents methods get to see. Source: ours.
        window: Tokens in a window. Source: ours (paper: 2048).
        placement: ``slot`` or ``append``. Source: paper.
        start: Beginning of the part of the stream that copies are put into. Source: paper (timing).
        end: End of that part. Source: paper (timing).
        probed: Texts of a split that are asked about fact by fact; 0 for none. Source: ours.
        hidden: Width of the embedded model. Source: ours.
        world_seed: Draws the documents, the groups and the places. Source: ours.
    """

    paper: ClassVar[str] = (
        "Wei, Godbole, Khan et al., Hubble: a Model Suite to Advance the Study of LLM Memorization, 2025 (arXiv "
        "2510.19811)"
    )

    data: str = ""
    kinds: tuple[str, ...] = ("biographies",)
    doses: tuple[int, ...] = (0, 1, 4, 16, 64)
    texts: tuple[int, ...] = (60, 60, 30, 40, 6)
    beside: tuple[int, ...] = (20, 20, 10, 6, 2)
    forget_d: int = 16
    forget: int = 16
    shown: float = 0.5
    gold: Literal["retrain", "standard"] = "retrain"
    rows: int = 1800
    documents: str = ""
    background: int = 64
    window: int = 80
    placement: Literal["slot", "append"] = "slot"
    start: float = 0.0
    end: float = 1.0
    probed: int = 4
    hidden: int = 96
    world_seed: int = 0

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise InputError(f"hubble: kinds={list(self.kinds)}: at least one, and none twice.")
        for kind in self.kinds:
            if kind not in KINDS:
                raise InputError(f"hubble: unknown kind of documents {kind!r}.{nearest(kind, KINDS)}")
        for name in ("texts", "beside"):
            if len(getattr(self, name)) != len(self.doses):
                raise InputError(
                    f"hubble: {name} has {len(getattr(self, name))} numbers and doses {len(self.doses)}; give one for "
                    f"each."
                )
        if len(set(self.doses)) < len(self.doses) or min(*self.doses, *self.texts, *self.beside, 0) < 0:
            raise InputError(f"hubble: doses={list(self.doses)} must all be different, and no number negative.")
        if self.forget_d < 1 or (not self.data and self.forget_d not in self.doses):
            raise InputError(f"hubble: forget_d={self.forget_d} must be one of the doses above 0.")
        if not 0 <= self.shown < 1:
            raise InputError(f"hubble: shown={self.shown} must lie in [0, 1): some texts to be kept are measured.")
        if self.rows < 1 or self.background < 1 or self.probed < 0 or self.hidden < 8 or self.hidden % 8:
            raise InputError(
                f"hubble: rows={self.rows} and background={self.background} must be at least 1, probed={self.probed} "
                f"not negative, and hidden={self.hidden} a multiple of 8."
            )

    @property
    def world(self) -> InsertionWorld | None:
        """The world of the made-up bed, whose embedded model the recipe's ``testbed`` is; None with `data`.

        Raises:
            InputError: As `ControlledInsertion`.
        """
        return None if self.data else self._world()

    def load(self, seed: int) -> Workload:
        """See `Benchmark`.

        Raises:
            InputError: As `ControlledInsertion`, or as `hubble_data.read_set`.
        """
        return self._real() if self.data else self._made(self._world())

    # -- the made-up bed -----------------------------------------------------------------------------

    def _world(self) -> InsertionWorld:
        numbers = [self.texts, *[self.beside] * (len(self.kinds) - 1)]
        counts = {kind: dict(zip(self.doses, n, strict=True)) for kind, n in zip(self.kinds, numbers, strict=True)}
        insertion = hubble_insertion(
            counts, rows=self.rows, documents=self.documents, window=self.window, world_seed=self.world_seed,
            placement=self.placement, seed=self.world_seed, forget_kind=self.kinds[0], forget_d=self.forget_d,
            forget=self.forget, timing=(self.start, self.end),
        )  # fmt: skip
        return InsertionWorld(
            insertion, gold=self.gold, shown=self.shown, background=self.background, hidden=self.hidden
        )

    def _made(self, world: InsertionWorld) -> Workload:
        records = world.records()
        measured = {name: rows for name, rows in records.items() if not name.startswith("train_")}
        doses = tuple(name for name in measured if name.startswith("d="))
        pairs = _paraphrases(world, self.doses)
        metrics: list[Metric] = [
            *self._metrics(doses),
            VerbatimExtraction(splits=SIDES, prefixes=(), shares=(0.5,), max_new_tokens=self.window),
            Rouge(splits=SIDES),
        ]
        if pairs:
            metrics.append(ParaphrasePreference(splits=tuple(pairs)))
        if self.probed:
            metrics.append(InsertionProbes(asked=self._asked(world), max_new_tokens=12))
        return Workload(
            forget=records["train_forget"],
            retain=records["train_retain"],
            splits=measured | pairs,
            metrics=metrics,
            behaviour="rouge",
            attack_score="token",
            max_new_tokens=self.window,
            notes=[
                f"Controlled insertion: {world.insertion.copies} copies of {len(world.texts())} texts in a stream of "
                f"{len(world.insertion.background)} documents; a text of d copies was read d times in each pass "
                f"(target.train.epochs).",
                self._division(len(records["train_retain"]) - self.background),
            ],
            refusals=REFUSALS[:4],  # a model of this size cannot learn a hundred sentences in a minute
        )

    def _asked(self, world: InsertionWorld) -> tuple[Choice, ...]:
        """Ids of the texts of every d; and questions about some of the forget texts, of those that stay, of none."""
        found: list[Choice] = []
        for d in self.doses:
            split = f"d={d}" if d else "holdout"
            for kind in self.kinds:
                texts = world.texts("test", "keep", "other", d=d, kind=kind)
                found += [id_probe(text, split) for text in texts]
                if d in (0, self.forget_d):
                    found += probes(texts[: self.probed], split)
        gone = world.texts("forget")
        return (*found, *probes(gone[: self.probed], "forget"), *(id_probe(text, "forget") for text in gone))

    # -- Hubble's own sets ---------------------------------------------------------------------------

    def _real(self) -> Workload:
        groups = read_set(self.data)
        for d in (0, self.forget_d):
            if d not in groups:
                raise InputError(f"{self.data}: no text with d={d}; there are {', '.join(map(str, groups))}.")
        gone, shown, kept = divided(groups[self.forget_d], self.forget, self.shown, self.world_seed)
        texts = {"forget": gone, "retain": kept, "holdout": groups[0]}
        texts |= {f"d={d}": rows for d, rows in groups.items() if d not in (0, self.forget_d)}
        kind = gone[0].kind
        splits = {name: [Record("", t.text, t.id) for t in rows] for name, rows in texts.items()}
        metrics = [
            *self._metrics(tuple(name for name in texts if name.startswith("d="))),
            VerbatimExtraction(splits=SIDES),
        ]
        if kind.startswith("paraphrases"):
            pairs = {f"paraphrases {name}": paraphrase_records(rows) for name, rows in texts.items()}
            splits |= pairs
            metrics.append(ParaphrasePreference(splits=tuple(pairs)))
        if kind == "biographies_yago" and self.probed:
            asked = field_probes({name: rows[: self.probed] for name, rows in texts.items()}, BIOGRAPHY)
            metrics.append(InsertionProbes(asked=tuple(asked)))
        shown_records = [Record("", t.text, t.id) for t in shown]
        background = read_records(self.documents)[: self.background] if self.documents else []
        return Workload(
            forget=splits["forget"],
            retain=shown_records + background,
            splits=splits,
            metrics=metrics,
            behaviour="token",
            attack_score="token",
            notes=[
                f"{kind}: " + ", ".join(f"{len(rows)} texts with d={d}" for d, rows in groups.items()) + ".",
                self._division(len(shown)),
            ],
        )

    # -- both ----------------------------------------------------------------------------------------

    def _metrics(self, doses: tuple[str, ...]) -> list[Metric]:
        """What is measured on any texts; with standard models as gold, gold must not tell any of them apart."""
        read = ("forget", "retain", *doses)
        standard = self.gold == "standard" or bool(self.data)
        return [
            Perplexity(splits=(*read, "holdout"), units=("word", "byte") if self.data else ("byte",)),
            DuplicateResponse(splits=read, unread=read if standard else ("forget",)),
            ExactMemorization(splits=SIDES),
            Membership(),
            ForgettingGap(),
            RelearningSteps(),
        ]

    def _division(self, shown: int) -> str:
        return (
            f"Forget are {self.forget} texts with d={self.forget_d}, drawn at random; methods see {shown} others with "
            f"as many copies and text of the background, and retain are those they do not see."
        )


def _paraphrases(world: InsertionWorld, doses: Iterable[int]) -> dict[str, list[Record]]:
    """Pairs of wordings, by how often one of them was inserted."""
    found: dict[str, list[Record]] = {}
    for d in doses:
        texts: list[Text] = world.texts(d=d, kind="paraphrases")
        if texts:
            found[f"paraphrases d={d}"] = [
                Record("", t.text, t.id, perturbed_answers=(t.fields["other"],)) for t in texts
            ]
    return found
