"""LoKU: low-rank knowledge unlearning, the inverted hinge loss on FILA-initialised adapters (Cha et al. 2025)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from expunge.engine.loop import TrainLog
from expunge.engine.method import Edit, Intention
from expunge.engine.reference import fresh_adapters
from expunge.engine.sampling import generator
from expunge.engine.training import derive_seed
from expunge.errors import InputError, nearest
from expunge.language.data import Record, digest
from expunge.language.encode import encode
from expunge.language.fila import (
    Reduce,
    Splits,
    importances,
    initialise,
    lora_layers,
    oriented,
    relative_importance,
    row_weights,
)
from expunge.language.fila_files import Importances, base_hash, load_importances, save_importances
from expunge.language.methods._checks import above_zero, not_negative
from expunge.language.methods.ihl import IHL
from expunge.language.subject import Subject, add_lora, merge_lora
from expunge.language.unlearn import UnlearnJob

MOSTLY = 0.5  # share of floored importances from which the report says so


@dataclass(frozen=True)
class LoKU(Edit):
    """LoKU: inverted hinge loss on adapters that start as the forget set's share of the weights (FILA).

    Each adapted matrix W is split into s B A + (W - s B A), the adapter fitted best on the rows that matter to
    the forget set and not to the retain set; only B and A are trained. The frozen base is therefore no longer
    W: what can be promised is that the merged matrix differs from W by a matrix of rank at most 2 r, and that
    nothing else moves. A subject that carries fresh adapters (``model.lora``) keeps its rank, targets and
    scaling, and is returned with its adapters on the new base (`fila_files.save_pair` writes the two); any
    other is returned merged.

    Attributes:
        rank: r; at most the smaller side of every target. Source: paper, which uses 4, 8, 16 and 32.
        alpha: lora_alpha; the product B A is multiplied by alpha / rank. None is twice the rank. Source: paper.
        targets: ``all-linear``, or names of modules with commas between them. Source: paper.
        fila: Off leaves the adapters at their usual start (B = 0): the hinge on plain LoRA. Source: paper.
        reduce: ``elements`` divides the importances weight by weight, ``rows`` divides sums over each row's
            inputs, which takes [out] numbers for each matrix instead of two copies of it. Source: paper
            (elements); ours (rows).
        group: Examples whose gradients are averaged before they are squared; 1 is the Fisher information of
            single examples. Source: ours; reference code: 2 or 4, by script.
        floor: Least denominator of the relative importance, as a share of its mean over the matrix. Source:
            ours; reference code adds 1e-5 to all (`expunge.language.compat_loku`).
        retain_rows: Retain records drawn for the importances; 0 takes all. Source: reference code (all).
        importance_file: Where importances are kept (safetensors): read if it is there, else written. Empty for
            none. Source: ours.
        forget_weight: Weight of the hinge. Source: paper.
        retain_weight: Weight of the retain term, nll_tok. Source: paper.
    """

    paper: ClassVar[str] = (
        "Cha, Cho, Hwang, Lee, Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs, ICLR 2025 "
        "(arXiv 2408.06621)"
    )
    intention: ClassVar[Intention] = "removal"
    rebases: ClassVar[bool] = True  # with adapters the frozen base changes too

    rank: int = 32
    alpha: float | None = None
    targets: str = "all-linear"
    fila: bool = True
    reduce: Reduce = "elements"
    group: int = 1
    floor: float = 1e-3
    retain_rows: int = 0
    importance_file: str = ""
    forget_weight: float = 1.0
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        above_zero(self, "rank", "group", "floor")
        not_negative(self, "retain_rows", "forget_weight", "retain_weight")
        if self.alpha is not None:
            above_zero(self, "alpha")
        if self.reduce not in ("elements", "rows"):
            raise InputError(f"loku: reduce={self.reduce!r}; elements or rows.")

    def apply(self, job: UnlearnJob) -> Subject:
        """Return the job's subject, unlearned.

        Raises:
            InputError: No retain records, a target that is nowhere, a rank above a target's smaller side, trained
                adapters, or an importance file of another model, other records or other settings.
        """
        if not job.retain:
            raise InputError("LoKU needs retain records and there are none.")
        with self._adapted(job) as subject:
            layers = lora_layers(subject.model)
            _check(layers, self.fila)
            if self.fila:
                found = self._importances(job, subject, layers)
                splits = self._split(layers, found, job.seed)
                values = {name: float(value) for name, value in asdict(splits).items()}
                job.logs.append(TrainLog(probes=[{"step": 0, **values}], notes=_remarks(splits)))
            job.train(IHL(self.forget_weight, "nll", self.retain_weight), subject)
            if subject is job.subject:
                return subject
        return job.subject

    # -- adapters ------------------------------------------------------------------------------------

    @contextmanager
    def _adapted(self, job: UnlearnJob) -> Iterator[Subject]:
        """The job's subject if it has adapters; else, within, adapters of our own, merged at the end."""
        subject = job.subject
        if any(".lora_" in name for name, _ in subject.model.named_parameters()):
            if not fresh_adapters(subject.model):
                raise InputError("loku: the model's adapters are already trained; merge them first.")
            yield subject
            return
        flags = [(p, p.requires_grad) for p in subject.model.parameters()]
        alpha = 2.0 * self.rank if self.alpha is None else self.alpha
        with warnings.catch_warnings():  # GPT-2's transposed layers are told apart without being asked
            warnings.filterwarnings("ignore", message="fan_in_fan_out")
            adapted = add_lora(subject, self.rank, alpha, self._targets(subject), 0.0, derive_seed(job.seed, "loku"))
        try:
            yield adapted
        finally:
            merge_lora(adapted)
            for p, flag in flags:
                p.requires_grad_(flag)

    def _targets(self, subject: Subject) -> str | list[str]:
        if self.targets == "all-linear":
            return self.targets
        wanted = [t.strip() for t in self.targets.split(",") if t.strip()]
        modules = [name for name, _ in subject.model.named_modules() if name]
        for target in wanted:
            if not any(name == target or name.endswith(f".{target}") for name in modules):
                known = {name.rpartition(".")[2] for name in modules}
                raise InputError(f"loku: targets={self.targets!r}: no module {target!r}.{nearest(target, known)}")
        if not wanted:
            raise InputError(f"loku: targets={self.targets!r} names no module; all-linear, or names with commas.")
        return wanted

    # -- FILA ----------------------------------------------------------------------------------------

    def _importances(self, job: UnlearnJob, subject: Subject, layers: dict[str, Any]) -> Importances:
        """Importances of both sets, read from the file if it is there."""
        retain = job.retain
        if 0 < self.retain_rows < len(retain):
            drawn = torch.randperm(len(retain), generator=generator(job.seed, "importance"))[: self.retain_rows]
            retain = [retain[i] for i in drawn.tolist()]
        path = Path(self.importance_file).expanduser() if self.importance_file else None
        belongs: dict[str, str] = {}
        if path:
            belongs = {
                "model": base_hash(subject.model),
                "forget set": digest(job.forget),
                "retain set": digest(retain),
                "group": str(self.group),
                "reduce": self.reduce,
            }
            if path.exists():
                rows = 1 if self.reduce == "rows" else 2
                shapes = {name: tuple(oriented(layer).shape)[:rows] for name, layer in layers.items()}
                return load_importances(path, shapes, belongs)
        found = {side: self._measure(subject, layers, rows, side) for side, rows in self._sides(job, retain)}
        if path:
            save_importances(path, found, belongs)
        return found

    @staticmethod
    def _sides(job: UnlearnJob, retain: list[Record]) -> list[tuple[str, list[Record]]]:
        return [("forget", job.forget), ("retain", retain)]

    def _measure(self, subject: Subject, layers: dict[str, Any], records: list[Record], side: str) -> dict[str, Tensor]:
        encoded = encode(records, subject.tokenizer, subject.template, max_length=subject.max_length, where=side)
        modules = {name: layer.get_base_layer() for name, layer in layers.items()}
        return importances(
            subject.model, encoded, modules, group=self.group, reduce=self.reduce, what=f"{side} records"
        )

    def _split(self, layers: dict[str, Any], found: Importances, seed: int) -> Splits:
        weights: dict[str, Tensor] = {}
        floored = entries = 0.0
        for name, layer in layers.items():
            relative, share = relative_importance(found["forget"][name], found["retain"][name], self.floor)
            weights[name] = row_weights(relative, oriented(layer).shape[1])
            floored, entries = floored + share * relative.numel(), entries + relative.numel()
        return replace(initialise(layers, weights, seed=derive_seed(seed, "svd")), floored=floored / entries)


def _remarks(splits: Splits) -> list[str]:
    """What the reader of the report should know about the split."""
    if splits.floored <= MOSTLY:
        return []
    return [
        f"the floor outweighs the retain importance in {splits.floored:.0%} of the weights, so the adapters start "
        f"from what matters to the forget set, whether the retain set needs it or not; lower floor"
    ]


def _check(layers: dict[str, Any], fila: bool) -> None:
    """Refuse a rank that a target cannot have, and dropout where the adapter holds part of the weights.

    Raises:
        InputError: Names the first such target.
    """
    for name, layer in layers.items():
        (adapter,) = layer.active_adapters
        rank, side = layer.r[adapter], min(oriented(layer).shape)
        if rank > side:
            raise InputError(
                f"loku: rank={rank} is above {side}, the smaller side of {name.removeprefix('base_model.model.')}; "
                f"lower the rank or leave it out of targets."
            )
        dropout = getattr(layer.lora_dropout[adapter], "p", 0.0)
        if fila and dropout > 0:
            raise InputError(
                f"loku: model.lora.dropout={dropout} would drop part of the weights themselves, which the adapters "
                f"hold from the start; set it to 0, or fila to false."
            )
