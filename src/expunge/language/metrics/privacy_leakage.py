"""PrivLeak of MUSE: how far a membership attack on the unlearned model is from the same attack on the retrained one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from expunge.errors import InputError
from expunge.language.evidence import EvidenceStore
from expunge.language.metrics._common import Floats, require_tokens, row_nll
from expunge.language.metrics.membership import lowercase_ratio
from expunge.language.metrics.verbatim_memorization import PAPER
from expunge.membership import auroc, auroc_interval, compressed_bytes, loss, min_k, privleak, zlib_ratio
from expunge.membership.curves import _compact as compact
from expunge.membership.curves import _multiplicities as multiplicities
from expunge.membership.curves import _wins as wins
from expunge.report.scorecard import Finding
from expunge.report.statistics import Interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Reference = Literal["gold", "news", "books"]
K = 0.4  # PrivLeak's share of a text's tokens
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
# AUC of the retrained 7B models as the first release keeps them, in its own orientation: forget against holdout.
RETRAINED = {"news": {"min_k_40": 0.4772, "loss": 0.4652}, "books": {"min_k_40": 0.5393, "loss": 0.4746}}


def muse_auc(auroc: float) -> float:
    """MUSE's AUC from ours, and back: P(a holdout text looks more like a member than a forget text) = 1 - AUROC.

    0 for a forget set known by heart, 0.5 where nothing tells the two apart, 1 for one pushed below unseen text.
    """
    return 1 - auroc


def text_scores(store: EvidenceStore, split: str) -> dict[str, Floats]:
    """Scores of a split's texts under every attack MUSE logs, higher = more like a member.

    All tokens count but an end of sequence, of which the texts have none.

    Returns:
        ``loss`` (PPL), ``lowercase`` (PPL/lower), ``zlib`` (PPL/zlib) and ``min_k_5`` to ``min_k_60``, each [n].

    Raises:
        InputError: No such split, an empty one, or a text of no token.
        RunError: A NaN loss.
    """
    records = store.records(split)
    if not records:
        raise InputError(f"Split {split!r} has no texts, so there is no muse.privleak.")
    scores = store.answers(split).without_eos()
    row_nll(scores, split, "text")
    mean = loss(scores.logprob, scores.offsets)
    found = {
        "loss": mean,
        "lowercase": lowercase_ratio(mean, _lowercased(store, split)),
        "zlib": zlib_ratio(mean, compressed_bytes([r.answer for r in records])),
    }
    return found | {_name(k): min_k(scores.logprob, scores.offsets, k) for k in SHARES}


def _name(k: float) -> str:
    return f"min_k_{round(100 * k)}"


def _lowercased(store: EvidenceStore, split: str) -> Floats:
    small = {split: [replace(r, answer=r.answer.lower()) for r in store.records(split)]}
    beside = EvidenceStore(store.name, lambda: store.subject, small, store.folder, batch_tokens=store.batch_tokens)
    scores = beside.answers(split).without_eos()
    require_tokens(scores, split, "lower-cased text")
    return loss(scores.logprob, scores.offsets)


def privleak_interval(
    unlearned: tuple[Floats, Floats],
    reference: tuple[Floats, Floats] | float,
    clusters: tuple[ArrayLike, ArrayLike],
    *,
    seed: int = 0,
    draws: int = 1000,
) -> Interval:
    """PrivLeak as a fraction, with its 95% percentile interval: both models are resampled together.

    PrivLeak = (AUC(f_unlearn) - AUC(f_retrain)) / AUC(f_retrain) in MUSE's orientation (Shi et al. 2024, section 2,
    C3), not times 100: 0 is ideal, -1 a full leak, above 0 over-unlearned.

    Args:
        unlearned: Scores of forget [n] and holdout [m] texts under the unlearned model, higher = member.
        reference: The same texts under the retrained model, or its stored AUROC (ours).
        clusters: Cluster labels of the forget [n] and holdout [m] texts.
        seed: Seeds the resampling.
        draws: Number of resamples.

    Returns:
        The value and its interval; NaN ends where either side is a single cluster, or too many draws have an AUC of
        the retrained model of 0.

    Raises:
        InputError: As `membership.auroc` and `membership.privleak`.
    """
    retrained = auroc(*reference) if isinstance(reference, tuple) else reference
    value = privleak(auroc(*unlearned), retrained).value / 100
    (a_of, n), (b_of, m) = (compact(c, len(s)) for c, s in zip(clusters, unlearned, strict=True))
    if len(n) == 1 or len(m) == 1:
        return Interval(value, float("nan"), float("nan"))
    a, b = multiplicities(len(n), len(m), seed, draws)

    def drawn(sides: tuple[Floats, Floats]) -> Floats:
        won = ((a @ wins(*sides, a_of, b_of)) * b).sum(1)
        return np.asarray(won / ((a @ n) * (b @ m)), dtype=np.float64)

    unlearned_auc = 1 - drawn(unlearned)
    retrained_auc = 1 - (drawn(reference) if isinstance(reference, tuple) else np.full(draws, reference))
    defined = retrained_auc > 0
    if defined.mean() < 0.95:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(unlearned_auc[defined] / retrained_auc[defined] - 1, [0.025, 0.975])
    return Interval(value, float(low), float(high))


@dataclass(frozen=True)
class PrivacyLeakage:
    """How far an attacker's AUC on the unlearned model lies from that on the retrained one (PrivLeak, Min-40% Prob).

    The reference is never assumed: forget and holdout texts may differ by more than training (the two parts of Books
    are of different kinds), so 0.5 would be wrong.

    Attributes:
        members: Split of texts to be forgotten. Source: paper.
        non_members: Split of texts no model was trained on. Source: paper.
        kept: Split of texts that stay; empty for none. Source: reference code.
        split: Split the findings on the forgotten texts are filed under. Source: ours.
        reference: Whose AUC is the yardstick: the ``gold`` model's, or the one stored for the retrained 7B model of
            ``news`` or ``books``. Source: paper; reference code.
        seed: Seeds the bootstrap. Source: ours.
        draws: Bootstrap draws. Source: ours.
    """

    paper: ClassVar[str] = PAPER
    needs_gold: ClassVar[bool] = False  # without gold it says what is missing instead of being left out in silence

    members: str = "forget_texts"
    non_members: str = "holdout_texts"
    kept: str = ""
    split: str = "forget"
    reference: Reference = "gold"
    seed: int = 0
    draws: int = 1000

    def __post_init__(self) -> None:
        if self.reference != "gold" and self.reference not in RETRAINED:
            raise InputError(f"privacy-leakage: reference={self.reference!r}; gold, {' or '.join(RETRAINED)}.")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """``muse.privleak`` (a fraction), the two AUCs it is made of, and the AUROC of every attack MUSE logs.

        ``muse.privleak.auc`` and ``muse.privleak.auc_reference`` are in MUSE's orientation (`muse_auc`); the findings
        ``membership.ATTACK.auroc`` in ours.

        Raises:
            InputError: No gold model though it is the reference, a missing or empty split, or a reference AUC of 0.
            RunError: A NaN loss.
        """
        if self.reference == "gold" and gold is None:
            raise InputError(
                "PrivLeak compares with the gold model and there is none: give one (gold.source), take the stored AUC "
                "of the retrained 7B model (benchmark.reference=news or books), or leave PrivLeak out "
                "(benchmark.reference=none)."
            )
        own = [text_scores(model, s) for s in (self.members, self.non_members)]
        found = self._attacks(model, self.members, own, self.split)
        if self.kept:
            found += self._attacks(model, self.kept, [text_scores(model, self.kept), own[1]], "retain", (_name(K),))
        return [*self._privleak(model, gold, own), *found]

    def _privleak(
        self, model: EvidenceStore, gold: EvidenceStore | None, own: list[dict[str, Floats]]
    ) -> list[Finding]:
        name, clusters = _name(K), (model.clusters(self.members), model.clusters(self.non_members))
        unlearned = own[0][name], own[1][name]
        reference: tuple[Floats, Floats] | float
        if gold is None or self.reference != "gold":
            reference = muse_auc(RETRAINED[self.reference][name])
            auc_r = Interval(1 - reference, float("nan"), float("nan"))
        else:
            theirs = [text_scores(gold, s)[name] for s in (self.members, self.non_members)]
            reference = theirs[0], theirs[1]
            auc_r = _turned(auroc_interval(*reference, *clusters, seed=self.seed, draws=self.draws))
        auc_u = _turned(auroc_interval(*unlearned, *clusters, seed=self.seed, draws=self.draws))
        value = privleak_interval(unlearned, reference, clusters, seed=self.seed, draws=self.draws)
        n = len(unlearned[0]) + len(unlearned[1])
        parts = {"muse.privleak": value, "muse.privleak.auc": auc_u, "muse.privleak.auc_reference": auc_r}
        return [Finding(key, self.split, model.name, *part, n, "match-gold") for key, part in parts.items()]

    def _attacks(
        self, model: EvidenceStore, members: str, own: list[dict[str, Floats]], split: str, only: tuple[str, ...] = ()
    ) -> list[Finding]:
        clusters = model.clusters(members), model.clusters(self.non_members)
        found = []
        for name in only or own[0]:
            x, y = own[0][name], own[1][name]
            interval = auroc_interval(x, y, *clusters, seed=self.seed, draws=self.draws)
            found.append(
                Finding(f"membership.{name}.auroc", split, model.name, *interval, len(x) + len(y), "match-gold")
            )
        return found


def _turned(interval: Interval) -> Interval:
    """An AUROC's interval in MUSE's orientation."""
    return Interval(muse_auc(interval.value), muse_auc(interval.high), muse_auc(interval.low))
