"""Reference models: what the target's recipe makes of known random halves of the audited records.

Complementary pairs (Carlini et al. 2022, arXiv 2112.03570): a coin divides the clusters of the forget and the
holdout set; one model of a pair is trained on the retain set and one half, the other on the retain set and the
other half. So every record is inside half of the models and outside the other half, whole people at a time. A
reference model leaves only numbers behind, one for each record and detector, and is then deleted.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from expunge.engine.training import Training, derive_seed
from expunge.kept import key_of
from expunge.language.data import Record, Splits, digest
from expunge.language.evidence import EvidenceStore
from expunge.language.metrics.membership import Membership, membership_scores
from expunge.language.prepare import Models

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Sides = tuple[str, str]  # splits of the members and of the non-members; audited records come in this order
SIDES: Sides = (Membership.members, Membership.non_members)
SIGNALS = ("loss", "zlib", "min_k", "min_k_plus_plus")  # detectors that need nothing but the one evidence pass


@dataclass(frozen=True)
class ReferenceEvidence:
    """What M reference models say of the n audited records: the members' first, then the non-members'.

    Attributes:
        inside: [M, n] whether the model was trained on the record; models 2i and 2i + 1 are a pair.
        signals: Detector to [M, n] scores, higher = more like a member; ``loss`` is the mean token log-probability.
        sides: Names of the two splits.
        k: Share of tokens of the Min-K family.
    """

    inside: Bools
    signals: dict[str, Floats]
    sides: Sides = SIDES
    k: float = Membership.k

    @property
    def key(self) -> str:
        """Hash of all of it."""
        h = hashlib.blake2b(repr((self.sides, self.k)).encode() + self.inside.tobytes(), digest_size=12)
        for name, values in sorted(self.signals.items()):
            h.update(name.encode() + values.tobytes())
        return h.hexdigest()


class Division(NamedTuple):
    """Which model sees whom.

    Attributes:
        halves: [M, c] whether the model is trained on the cluster.
        forget: [training forget records] cluster of each.
        holdout: [holdout records] cluster of each.
        audited: [n] cluster of each audited record.
    """

    halves: Bools
    forget: NDArray[np.int64]
    holdout: NDArray[np.int64]
    audited: NDArray[np.int64]


def missing(forget: list[Record], splits: Splits, training: Training | None, sides: Sides = SIDES) -> str | None:
    """Why no reference models can be made, as a clause; None when they can.

    Args:
        forget: The forget records of the training.
        splits: The measured splits.
        training: How the target was trained.
        sides: Splits of the members and of the non-members.
    """
    if training is None:
        return "nothing says how the target was trained (target.train)"
    absent = [s for s in sides if not splits.get(s)]
    if absent:
        return f"there is no split {absent[0]!r}"
    units = [{_unit(r) for r in splits[s]} for s in sides]
    if not units[0] <= {_unit(r) for r in forget}:
        return f"split {sides[0]!r} speaks of clusters that no forget record of the training belongs to"
    if min(map(len, units)) < 2:
        return f"{' and '.join(map(repr, sides))} need at least two clusters each to be divided"
    return None


def divide(forget: list[Record], splits: Splits, count: int, seed: int, sides: Sides = SIDES) -> Division:
    """Draw who is inside which reference model: for each pair a random half of all clusters and its complement.

    A record without a cluster is one of its own; the same name in the forget and the holdout set means two
    clusters. Forget clusters that are not measured are divided too, so that all audited ones are exchangeable.

    Args:
        forget: The forget records of the training.
        splits: The measured splits.
        count: M, even.
        seed: Draws the halves.
        sides: Splits of the members and of the non-members.
    """
    names: dict[tuple[str, str], int] = {}

    def number(side: str, records: list[Record]) -> NDArray[np.int64]:
        return np.array([names.setdefault((side, _unit(r)), len(names)) for r in records], dtype=np.int64)

    trained, measured, held = number("f", forget), number("f", splits[sides[0]]), number("h", splits[sides[1]])
    halves = np.zeros((count, len(names)), dtype=bool)
    for pair in range(count // 2):
        order = np.random.default_rng(derive_seed(seed, "reference pair", pair)).permutation(len(names))
        halves[2 * pair, order[: len(names) // 2]] = True
        halves[2 * pair + 1] = ~halves[2 * pair]
    return Division(halves, trained, held, np.concatenate([measured, held]))


def reference_evidence(
    models: Models,
    forget: list[Record],
    retain: list[Record],
    splits: Splits,
    training: Training,
    *,
    seed: int,
    count: int,
    trained_on: int | None = None,
    sides: Sides = SIDES,
    k: float = Membership.k,
) -> ReferenceEvidence:
    """Train the reference models one after the other, score the audited records with each, keep the scores.

    Each is the target's recipe on the retain set and its half, from a base and with a data order of its own. The
    scores lie in the models' cache under the content of all they depend on, so a second run, a resumed one or
    another run of the same data trains nothing twice.

    Args:
        models: Trains and caches models.
        forget: The forget records of the training.
        retain: The retain records.
        splits: The measured splits, those of `sides` among them.
        training: How the target is trained.
        seed: The run's seed.
        count: M, even and at least 2.
        trained_on: Records the target was trained on; None for the retain and forget records.
        sides: Splits of the members and of the non-members.
        k: Share of tokens of the Min-K family.
    """
    division = divide(forget, splits, count, seed, sides)
    audited = {s: splits[s] for s in sides}
    scores = []
    for number, inside in enumerate(division.halves):
        held = _inside(splits[sides[1]], inside[division.holdout])
        rows = [*retain, *_inside(forget, inside[division.forget]), *held]
        own = derive_seed(seed, "reference", number)
        settings = training.for_share(len(rows), trained_on or len(retain) + len(forget))
        base = models.base_key(own)
        contents = [digest(r) for r in (rows, *audited.values())]
        key = key_of("reference", base, contents, asdict(settings), own, models.spec.lora, k)
        path = models.cache / f"{key}.reference.safetensors"
        with _alone(path.with_suffix(".lock")):  # others may want the same model at the same time
            if not path.exists():
                _write(
                    path, _scores(models, rows, settings, own, audited, k, f"reference model {number + 1} of {count}")
                )
        scores.append(load_file(path))
    signals = {name: np.stack([s[name] for s in scores]) for name in SIGNALS}
    return ReferenceEvidence(division.halves[:, division.audited], signals, sides, k)


def audited_scores(store: EvidenceStore, detector: str, sides: Sides, k: float) -> Floats:
    """[n] scores of the audited records by one detector, the members' first."""
    return np.concatenate([membership_scores(detector, store, split, k=k) for split in sides])


def _scores(
    models: Models,
    rows: list[Record],
    training: Training,
    seed: int,
    audited: dict[str, list[Record]],
    k: float,
    title: str,
) -> dict[str, Floats]:
    """Train one reference model, take its evidence, delete it."""
    model = models.trained(rows, training, seed, title)
    store = EvidenceStore(title, model.load, audited)
    members, others = audited
    scores = {name: audited_scores(store, name, (members, others), k) for name in SIGNALS}
    if model.folder is not None:
        shutil.rmtree(model.folder, ignore_errors=True)
    return scores


def _unit(record: Record) -> str:
    return record.cluster or f"\0{record.question}\0{record.answer}"


def _inside(records: list[Record], inside: Bools) -> list[Record]:
    return [r for r, taken in zip(records, inside, strict=True) if taken]


def _write(path: Path, scores: dict[str, Floats]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({name: np.ascontiguousarray(values) for name, values in scores.items()}, temporary)
    temporary.replace(path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process is inside for this path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        path.unlink(missing_ok=True)
