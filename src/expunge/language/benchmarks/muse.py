"""MUSE: text that a model knows by heart, knows things from, and betrays having read; six ways to look at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from expunge.errors import InputError, nearest
from expunge.language.data import Record
from expunge.language.metrics.knowledge_memorization import KnowledgeMemorization, Space, with_shots
from expunge.language.metrics.privacy_leakage import RETRAINED, PrivacyLeakage
from expunge.language.metrics.verbatim_memorization import PAPER, VerbatimMemorization
from expunge.language.muse_data import FOLDS, Source, blocks_of, fold_texts, open_source, read_rows, require_unseen
from expunge.language.muse_published import GOLD_KNOWMEM, MODELS, published
from expunge.language.muse_twin import BEGUN, TOLD, Twin
from expunge.language.refusals import REFUSALS
from expunge.language.stop_rule import KnowledgeRule, Rule
from expunge.language.subject import Subject
from expunge.language.windows import STYLES, Style, windows
from expunge.language.workload import Metric, Workload


@dataclass(frozen=True)
class MUSE:
    """News articles or books in raw text: what is left by heart, as knowledge, as a trace, and what else is lost.

    C1 VerbMem, C2 KnowMem on the forget set, C3 PrivLeak, C4 KnowMem on the retain set; C5 and C6 repeat them for
    the folds ``scal_1`` to ``scal_4`` (each from the target) and ``sust_1`` to ``sust_4`` (each from the result of
    the one before). Values are fractions, not per cent. Training text is cut into windows of tokens and all of it is
    learned or unlearned; a step's retain windows are drawn at random, where the first release takes window i beside
    forget window i. Without a path a twin is drawn: articles about invented people, on a model that learns them in
    a third of a minute.

    Eight methods of the paper: ga (GA), grad-diff (GA_GDR), kl-min (GA_KLR), npo with retain none, nll and kl (NPO,
    NPO_GDR, NPO_KLR), task-vector (TV) and whp-logits with scale raw (WHP); `BASELINES` and `TRAINING` hold its
    settings. Its NPO and KL terms were not what they were called (`expunge.language.compat`), so the published
    numbers of these are for other losses.

    The stopping rule of the paper is automatic where a method trains, beside a gold model, with ``stop: gold``: after
    every pass over the forget set KnowMem is measured on it, and the first result that is not above gold's is kept,
    or else the last. For task-vector (`scale`) and whp-logits (`alpha`) nothing is walked within a run: a bench
    searches the grid, and takes the value nearest to gold, not the first below it. In a bench set ``stop: none`` and
    search `epochs`, for the rule looks at the answers that are judged.

    Attributes:
        path: Hub id (``muse-bench/MUSE-News``, ``muse-bench/MUSE-Books``) or a folder of the same layout (see
            `muse_data`); empty for the twin. Source: hub data set.
        corpus: ``news`` or ``books``; only News has folds. Source: paper.
        fold: What is forgotten: empty for the raw forget set, ``scal_1`` to ``scal_4`` or ``sust_1`` to ``sust_4``.
            Source: paper.
        retain: What the retain side of a method is drawn from: ``retain1``, or ``all`` that the target has read
            except the forget set (a recipe that trains target and gold itself needs it). retain2 is evaluated.
            Source: paper (retain1).
        window: Tokens of a window; model.max_length must not be below. Source: paper.
        style: How windows are cut: ``muse``, or as ``open-unlearning`` does. Source: reference code.
        tokenizer: Hub id or folder of the model's tokenizer. Source: paper.
        space: Whether the space behind the last ``Answer:`` is part of KnowMem's ``prompt`` or left to the
            ``answer``; the twin leaves it. Source: reference code (prompt).
        reference: Yardstick of PrivLeak and of the stopping rule: the ``gold`` model, or the stored values of the
            retrained 7B model of ``news`` or ``books``; ``none`` leaves PrivLeak out. Source: paper.
        stop: ``gold`` ends a training once KnowMem on the forget set is not above the reference's, ``none`` never.
            Source: paper.
        texts: Texts read of each set of raw text; 0 for all. Source: ours (small runs).
        rows: Rows measured of each set; 0 for all. Source: ours (small runs).
        forget: People in each of the twin's four parts. Source: ours.
        school: People of the twin's retain1, about whom questions are taught. Source: ours.
        kept: People of its retain2. Source: ours.
        holdout: People no model reads about. Source: ours.
        articles: Articles about each of them. Source: ours.
        world_seed: Draws the twin. Source: ours.
    """

    paper: ClassVar[str] = PAPER

    path: str = ""
    corpus: Literal["news", "books"] = "news"
    fold: str = ""
    retain: Literal["retain1", "all"] = "retain1"
    window: int = 2048
    style: Style = "muse"
    tokenizer: str = "meta-llama/Llama-2-7b-hf"
    space: Space = "prompt"
    reference: Literal["gold", "news", "books", "none"] = "gold"
    stop: Literal["gold", "none"] = "gold"
    texts: int = 0
    rows: int = 0
    forget: int = 10
    school: int = 64
    kept: int = 20
    holdout: int = 20
    articles: int = 4
    world_seed: int = 0

    def __post_init__(self) -> None:
        allowed = {
            "corpus": tuple(MODELS),
            "retain": ("retain1", "all"),
            "style": STYLES,
            "space": ("prompt", "answer"),
            "reference": ("gold", *RETRAINED, "none"),
            "stop": ("gold", "none"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise InputError(f"muse: {name}={getattr(self, name)!r}; one of {', '.join(values)}.")
        if self.fold not in FOLDS:
            raise InputError(
                f"muse: fold={self.fold!r}; one of {', '.join(FOLDS[1:])}, or empty for the raw forget set."
                f"{nearest(self.fold, FOLDS[1:])}"
            )
        if self.fold and self.path and self.corpus == "books":
            raise InputError(f"muse: fold={self.fold!r}: Books has no folds; they are a part of News.")
        if self.window < 2 or min(self.texts, self.rows) < 0:
            raise InputError(
                f"muse: window={self.window} must be at least 2, texts={self.texts} and rows={self.rows} not negative."
            )
        self._twin()  # checks its sizes

    @property
    def world(self) -> Twin | None:
        """The world of the twin, whose embedded model the recipe's ``testbed`` is; None on real data."""
        return None if self.path else self._twin()

    def _twin(self) -> Twin:
        return Twin(self.forget, self.school, self.kept, self.holdout, self.articles, self.fold, self.world_seed)

    def load(self, seed: int) -> Workload:
        """See `Benchmark`.

        Raises:
            InputError: A missing configuration, split or field; an empty text; a holdout text that is to be
                forgotten; folds that are not nested (``scal``) or share texts (``sust``); no tokenizer.
        """
        twin = self.world
        source = twin.rows if twin else open_source(self.path)
        texts = fold_texts(source, self.fold, self.texts)
        require_unseen(texts, self._raw(source, "holdout"), "raw")
        splits = self._measured(source)
        forget, retain = self._embedded(twin) if twin else self._windows(source, texts)
        written, told = (BEGUN, TOLD) if twin else (128, 32)
        space: Space = "answer" if twin else self.space
        metrics: list[Metric] = [
            VerbatimMemorization(max_new_tokens=written),
            KnowledgeMemorization(max_new_tokens=told, space=space),
        ]
        if self.reference != "none":
            metrics.append(PrivacyLeakage(kept="retain_texts", reference=self.reference))

        def rule(subject: Subject) -> Rule:
            return KnowledgeRule(subject, splits["forget"], GOLD_KNOWMEM.get(self.reference), told, space)

        return Workload(
            forget,
            retain,
            splits,
            metrics,
            behaviour="rouge",
            attack_score="rouge",
            max_new_tokens=told,
            notes=self._notes(len(texts), len(forget)),
            refusals=REFUSALS[:4] if twin else REFUSALS,  # the twin's model cannot learn a hundred sentences
            published=published(self.corpus),
            stop_rule=rule if self.stop == "gold" else None,
        )

    def _raw(self, source: Source, split: str, config: str = "raw") -> list[str]:
        return [r.answer for r in read_rows(source, config, split, ("text",), self.texts)]

    # -- what is trained on --------------------------------------------------------------------------

    def _windows(self, source: Source, forget: list[str]) -> tuple[list[Record], list[Record]]:
        """Windows of the forget and of the retain text; texts of two sets never share a window."""
        if self.retain == "retain1":
            kept = [self._raw(source, "retain1")]
        else:
            gone = {text.strip() for text in forget}
            kept = [self._raw(source, split, "train") for split in ("retain1", "retain2")]
            kept.append([text for text in self._raw(source, "forget", "train") if text.strip() not in gone])
        tokenizer = _load_tokenizer(self.tokenizer)

        def cut(texts: list[str]) -> list[Record]:
            return [*windows(tokenizer, texts, self.window, self.style)]

        return cut(forget), [window for texts in kept if texts for window in cut(texts)]

    def _embedded(self, twin: Twin) -> tuple[list[Record], list[Record]]:
        """The twin's windows, as its target has read them."""
        made, gone = twin.trained(), [str(b) for b in blocks_of(self.fold)]
        rest = sorted({*made} - {*gone}, key=lambda name: (name.isdigit(), name))  # retain1, retain2, other parts
        kept = ["retain1"] if self.retain == "retain1" else rest
        return [w for name in gone for w in made[name]], [w for name in kept for w in made[name]]

    # -- what is measured ----------------------------------------------------------------------------

    def _measured(self, source: Source) -> dict[str, list[Record]]:
        splits = {side: self._asked(source, side) for side in ("forget", "retain")}
        splits["forget_verbatim"] = read_rows(source, "verbmem", "forget", ("prompt", "gt"), self.rows)
        if self.reference == "none":
            return splits
        sides = ("forget", "retain", "holdout")
        found = {f"{side}_texts": read_rows(source, "privleak", side, ("text",), self.rows) for side in sides}
        unseen = [r.answer for r in found["holdout_texts"]]
        require_unseen([r.answer for r in found["forget_texts"]], unseen, "privleak")
        return splits | found

    def _asked(self, source: Source, side: str) -> list[Record]:
        """The questions of one side, each with all of that side's shots before it."""
        fields = ("question", "answer")
        shots = [(r.question, r.answer) for r in read_rows(source, "knowmem", f"{side}_qa_icl", fields)]
        asked = read_rows(source, "knowmem", f"{side}_qa", fields, self.rows)
        return [with_shots(record, shots) for record in asked]

    def _notes(self, texts: int, forget: int) -> list[str]:
        name = f"fold {self.fold}" if self.fold else "the raw forget set"
        if not self.path:
            notes = ["A twin of MUSE: articles about invented people."]
        else:
            notes = [f"Windows hold {self.window} tokens; model.max_length must not be below."]
            if blocks_of(self.fold) != (1,):
                notes.append("VerbMem, KnowMem and PrivLeak ask for the raw forget set, the first of the four parts.")
        return [*notes, f"To be forgotten: {name}, {texts} texts in {forget} windows."]


def _load_tokenizer(source: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # no such name or folder, no network, not a tokenizer: a zoo of errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"muse: benchmark.tokenizer={source!r} cannot be loaded ({reason}); name that of the model, windows are "
            f"cut in its tokens."
        ) from None
