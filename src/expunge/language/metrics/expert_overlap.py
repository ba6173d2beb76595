"""Expert overlap: does a mixture of experts still send the text to the experts that knew it?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.errors import InputError
from expunge.language.encode import encode
from expunge.language.experts import attribute, router_overlap
from expunge.language.metrics._common import Floats
from expunge.language.subject import Subject, load_subject
from expunge.report.scorecard import Finding
from expunge.report.statistics import cluster_bootstrap

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


@dataclass(frozen=True)
class ExpertOverlap:
    """Share of the experts chosen for each token that the original model chose too; and its affinity to the first.

    For each token and layer |top K now and top K originally| / K, the mean over layers and tokens. It falls
    when unlearning routes text around the experts that hold it: the forget loss drops and the knowledge
    stays. Beside it stands the gate-score affinity of the text to one expert before and after. Special tokens
    are left out; the interval resamples clusters.

    Attributes:
        original: The model before unlearning: a folder in the `save_pretrained` layout or a hub id. Source:
            paper (the pretrained model).
        splits: Splits it is measured on. Source: paper (forget).
        expert: The expert whose affinity is reported, ``LAYER.EXPERT``; empty takes the one the original model
            sends the split to. Source: paper.
    """

    paper: ClassVar[str] = (
        "Zhuang et al., SEUF: Is Unlearning One Expert Enough for Mixture-of-Experts LLMs?, ACL 2025 (arXiv 2411.18797)"
    )
    needs_gold: ClassVar[bool] = False

    original: str = ""
    splits: tuple[str, ...] = ("forget",)
    expert: str = ""

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Findings ``expert_overlap``, ``expert_overlap.before`` and ``expert_overlap.after`` for each split.

        Raises:
            InputError: No original is named; a dense model, or another mixture than the original; a split is
                missing or holds no text; the expert does not exist.
        """
        if not self.original:
            raise InputError("expert-overlap: original is empty; name the folder of the model before unlearning.")
        original = load_subject(self.original, template="plain")
        return [finding for split in self.splits for finding in self.against(model, original, split)]

    def against(self, model: EvidenceStore, original: Subject, split: str) -> list[Finding]:
        """The findings of one split, with the original model at hand.

        Raises:
            InputError: See `measure`.
        """
        subject = model.subject
        encoded = encode(
            model.records(split),
            subject.tokenizer,
            subject.template,
            max_length=subject.max_length,
            where=split,
        )
        special = subject.tokenizer.all_special_ids
        before = attribute(original.model, encoded, special)  # refuses a split without text
        sums, counts = router_overlap(subject.model, original.model, encoded, special)
        found = cluster_bootstrap(np.column_stack([sums.numpy(), counts.numpy()]), model.clusters(split), _token_mean)
        made = Finding("expert_overlap", split, model.name, *found, n=len(counts), direction="higher")
        layer, expert = self._expert(before.ranking[0].name, {i: v.shape[1] for i, v in before.per_sequence.items()})
        after = attribute(subject.model, encoded, special)
        affinities = [(what, float(a.affinity(layer)[expert])) for what, a in (("before", before), ("after", after))]
        unknown = float("nan")
        return [made] + [
            replace(made, metric=f"expert_overlap.{what}", value=value, low=unknown, high=unknown)
            for what, value in affinities
        ]

    def _expert(self, first: str, sizes: dict[int, int]) -> tuple[int, int]:
        layer, _, expert = (self.expert or first).partition(".")
        if not (layer.isdecimal() and expert.isdecimal() and int(expert) < sizes.get(int(layer), 0)):
            raise InputError(
                f"expert-overlap: expert={self.expert!r} is not LAYER.EXPERT of this model; layers with experts: "
                f"{', '.join(map(str, sizes))}, each with {min(sizes.values())} of them."
            )
        return int(layer), int(expert)


def _token_mean(rows: Floats) -> float:
    """Mean over all tokens of rows of (sum, count)."""
    return float(rows[:, 0].sum() / rows[:, 1].sum())
