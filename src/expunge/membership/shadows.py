"""Reference models: which records each is trained on, and training them side by side so that nothing is lost.

The four ways of dividing records between reference models (TDDBench, Zhu et al. 2025, arXiv 2411.03363) are pure
functions of a seed. Reference models come in complementary pairs: what one of a pair is trained on the other is not,
so that every record of the pool is inside exactly half of them.

>>> parts = halves(8, seed=0)
>>> masks = reference_masks(parts, 8, models=4, distribution="target_ref", seed=0)
>>> masks[:, parts.target].sum(0).tolist(), masks[:, parts.shadow].sum(0).tolist()
([2, 2, 2, 2], [0, 0, 0, 0])
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from expunge.errors import InputError
from expunge.membership.classifier import Classifier, Floats, Ints, Records, TorchClassifier

Bools: TypeAlias = NDArray[np.bool_]
Distribution = Literal["target_ref", "shadow", "subtar", "subtar_shadow"]
Train: TypeAlias = Callable[[Ints, int], Classifier]
Revive: TypeAlias = Callable[[Mapping[str, NDArray[Any]]], Classifier | None]
FORMAT = 1  # part of every key: raise it when the content of a file changes

# -- which records ------------------------------------------------------------------------------------


class Halves(NamedTuple):
    """The two parts of all records, as ascending rows: where targets are trained, and what is left to the attacker."""

    target: Ints
    shadow: Ints


def halves(n: int, seed: int, target_ratio: float = 0.5) -> Halves:
    """Divide n records into a target part and a shadow part.

    Raises:
        InputError: A part would be empty.
    """
    count = round(target_ratio * n)
    if not 0 < count < n:
        raise InputError(f"{n} records and a target_ratio of {target_ratio} leave one of the two parts empty.")
    order = _rng(seed, 0).permutation(n)
    return Halves(np.sort(order[:count]), np.sort(order[count:]))


def target_masks(parts: Halves, n: int, targets: int, seed: int, keep: float = 0.5) -> Bools:
    """[targets, n] what each target model is trained on: a random share of the target part, drawn independently.

    The share is drawn exactly, so that members and non-members are equally many at 0.5.
    """
    rng, count = _rng(seed, 1), round(keep * len(parts.target))
    if targets < 1 or not 0 < count < len(parts.target):
        raise InputError(f"{targets} targets with a share of {keep} of {len(parts.target)} records: one side is empty.")
    return np.stack([_mask(n, rng.permutation(parts.target)[:count]) for _ in range(targets)])


def reference_masks(
    parts: Halves, n: int, models: int, distribution: Distribution, seed: int, sub_ratio: float = 0.5
) -> Bools:
    """[models, n] what each reference model is trained on: pairs of complementary random halves of a pool.

    Args:
        parts: From `halves`.
        n: Number of all records.
        models: M, even.
        distribution: The pool. ``target_ref``: the target part, so that each audited record is inside M/2 models and
            outside M/2 (online detectors). ``shadow``: the shadow part, so that all audited records are outside
            (offline detectors). ``subtar``: a random share of the target part. ``subtar_shadow``: that share and the
            shadow part.
        seed: Seeds the draws; every distribution draws its own.
        sub_ratio: The share of ``subtar``.

    Raises:
        InputError: M is odd or below 2, no such distribution, or a pool of fewer than two records.
    """
    if distribution not in get_args(Distribution):
        raise InputError(f"ref_dis {distribution!r}: must be one of {', '.join(get_args(Distribution))}.")
    if models < 2 or models % 2:
        raise InputError(f"{models} reference models cannot be paired: the number must be even and at least 2.")
    some = np.sort(_rng(seed, 2).permutation(parts.target)[: round(sub_ratio * len(parts.target))])
    pools = {
        "target_ref": parts.target, "shadow": parts.shadow, "subtar": some,
        "subtar_shadow": np.concatenate([some, parts.shadow]),
    }  # fmt: skip
    pool = pools[distribution]
    if len(pool) < 2:
        raise InputError(f"ref_dis {distribution!r}: a pool of {len(pool)} records cannot be halved.")
    rng = _rng(seed, 3 + get_args(Distribution).index(distribution))
    masks = []
    for _ in range(models // 2):
        order = rng.permutation(pool)
        masks += [_mask(n, order[: len(pool) // 2]), _mask(n, order[len(pool) // 2 :])]
    return np.stack(masks)


def _mask(n: int, rows: Ints) -> Bools:
    mask = np.zeros(n, dtype=bool)
    mask[rows] = True
    return mask


def _rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream])


# -- training them ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Shadows:
    """Trained reference models: their outputs on all records, and the models themselves where they are asked for.

    Attributes:
        files: One file for each model.
        inside: [M, n] whether record i was among the training data of model m.
        seconds: [M] what each training took, as measured when it was done.
        train: Trains model m again.
        seeds: [M] seed of each.
        revive: Makes a classifier of filed weights; None where there are none.
    """

    files: tuple[Path, ...]
    inside: Bools
    seconds: Floats
    train: Train
    seeds: Ints
    revive: Revive | None = None
    _live: dict[int, Classifier] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.files)

    def logits(self, m: int) -> Floats:
        """[n, C] outputs of model m on all records, read from its file."""
        return _read(self.files[m], lambda name: name == "logits")["logits"].astype(np.float64)

    def values(self, signal: Callable[[Floats], NDArray[np.float64]]) -> Floats:
        """[M, ...] a signal of every model's [n, C] logits; one model is in memory at a time."""
        return np.stack([signal(self.logits(m)) for m in range(len(self))])

    def classifier(self, m: int) -> Classifier:
        """Model m itself: from memory, from its filed weights, or trained again from its seed."""
        if m not in self._live:
            weights = _read(self.files[m], lambda name: name != "logits")
            revived = self.revive(weights) if self.revive is not None and weights else None
            self._live[m] = revived or self.train(np.flatnonzero(self.inside[m]), int(self.seeds[m]))
        return self._live[m]

    def without(self, models: set[int]) -> Shadows:
        """The other models, in order."""
        kept = [m for m in range(len(self)) if m not in models]
        live = {i: self._live[m] for i, m in enumerate(kept) if m in self._live}
        files = tuple(self.files[m] for m in kept)
        return Shadows(
            files, self.inside[kept], self.seconds[kept], self.train, self.seeds[kept], self.revive, live
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Job:
    """The training of one reference model and the file of its outcome."""

    rows: Ints
    seed: int
    key: str
    file: Path


def train_references(
    train: Train,
    masks: Bools,
    records: Records,
    folder: Path,
    *,
    name: str,
    seed: int = 0,
    workers: int = 1,
    revive: Revive | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> Shadows:
    """Train one model for each mask and file its outputs on all records; models that are filed already are kept.

    A model is filed whole or not at all, so a run that is killed loses the models in training and no other. Its file
    is found by its content: name, records, labels, mask and seed.

    Args:
        train: Trains a model on some rows, with a seed; the same rows and seed must give the same model. With several
            workers it travels to other processes, so it must be an instance or function of an importable module.
        masks: [M, n] from `reference_masks`.
        records: All n records.
        folder: Where the files go.
        name: Everything else the outcome depends on: architecture and settings of the training.
        seed: Each model gets a seed of its own, made of this one and its mask.
        workers: Processes. With 1 the models are trained in this process.
        revive: Makes a classifier of the filed weights of a `TorchClassifier`, given as ``{name: array}``. Without it
            a model that is asked for after a restart is trained again.
        tell: Called with the number of finished models and M.

    Raises:
        InputError: Masks that do not fit the records, or a mask without a record.
    """
    if masks.ndim != 2 or masks.shape[1] != len(records):
        raise InputError(f"Masks of shape {masks.shape} do not fit {len(records)} records.")
    if not masks.any(1).all():
        raise InputError(f"Reference model {int((~masks.any(1)).argmax()) + 1} has no record to be trained on.")
    folder.mkdir(parents=True, exist_ok=True)
    seeds = np.array([_seed_of(mask, seed) for mask in masks], dtype=np.int64)
    digest = digest_of(records)
    jobs = []
    for mask, s in zip(masks, seeds, strict=True):
        key = _key(name, digest, mask.tobytes().hex(), int(s))
        jobs.append(Job(np.flatnonzero(mask), int(s), key, folder / f"{key[:24]}.safetensors"))
    left = [*{job.key: job for job in jobs if _filed(job.file, job.key) is None}.values()]  # equal masks: one model
    live: dict[int, Classifier] = {}
    done = len(jobs) - len(left)
    for job, classifier in _carried_out(train, records, left, workers):
        done += 1
        if job.key == jobs[0].key and classifier is not None:
            live[0] = classifier  # the model learning and query detectors ask for
        if tell is not None:
            tell(done, len(jobs))
    seconds = np.array([_filed(job.file, job.key) for job in jobs], dtype=np.float64)
    return Shadows(tuple(job.file for job in jobs), masks.copy(), seconds, train, seeds, revive, live)


def digest_of(records: Records) -> str:
    """Hash of inputs and labels."""
    content = hashlib.sha256(records.labels.tobytes())
    if isinstance(records.inputs, np.ndarray):
        content.update(str(records.inputs.shape).encode() + np.ascontiguousarray(records.inputs).tobytes())
    else:
        content.update(json.dumps(list(records.inputs)).encode())
    return content.hexdigest()


def _seed_of(mask: Bools, seed: int) -> int:
    """The same mask gets the same seed, whatever other models there are."""
    return int.from_bytes(hashlib.sha256(mask.tobytes() + str(seed).encode()).digest()[:4], "little")


def _key(*parts: str | int) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()


def _carried_out(
    train: Train, records: Records, jobs: list[Job], workers: int
) -> Iterator[tuple[Job, Classifier | None]]:
    """Jobs as they end, with the model where it was trained in this process."""
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, perform(job, train, records)
        return
    from expunge.membership._processes import in_processes

    for job in in_processes(perform_quietly, jobs, (train, records), min(workers, len(jobs))):
        yield job, None


def perform(job: Job, train: Train, records: Records) -> Classifier:
    """Train one model and file what it says about all records."""
    from safetensors.numpy import save_file

    started = time.perf_counter()
    classifier = train(job.rows, job.seed)
    seconds = time.perf_counter() - started
    arrays: dict[str, NDArray[Any]] = {"logits": np.ascontiguousarray(classifier.logits(records.inputs))}
    if isinstance(classifier, TorchClassifier):
        state = classifier.module.state_dict()
        arrays |= {f"weight.{name}": value.detach().cpu().contiguous().numpy() for name, value in state.items()}
    temporary = job.file.with_suffix(f".{os.getpid()}.tmp")
    save_file(arrays, temporary, metadata={"key": job.key, "seconds": f"{seconds:.6f}"})
    os.replace(temporary, job.file)
    return classifier


def perform_quietly(job: Job, train: Train, records: Records) -> None:
    """`perform` in a worker: the model stays there."""
    perform(job, train, records)


def _filed(file: Path, key: str) -> float | None:
    """Seconds of the training whose outcome lies in a file; None if it has to be done."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            told = opened.metadata() or {}
    except (OSError, SafetensorError):
        return None
    return float(told["seconds"]) if told.get("key") == key else None


def _read(file: Path, wanted: Callable[[str], bool]) -> dict[str, NDArray[Any]]:
    """Some arrays of a file; the others are not loaded."""
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as opened:
        names = [name for name in opened.keys() if wanted(name)]  # noqa: SIM118  (not a mapping)
        return {name.removeprefix("weight."): opened.get_tensor(name) for name in names}
