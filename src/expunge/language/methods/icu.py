"""ICU: tell the model, before every question, to answer as if it had never heard of somebody (RWKU's form)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from expunge.engine.method import Intention
from expunge.errors import InputError
from expunge.language.encode import Template
from expunge.language.guarded import KeptGuard, Wrapped
from expunge.language.methods._names import forgotten_names
from expunge.language.subject import Subject, merge_lora
from expunge.language.unlearn import UnlearnJob


@dataclass(frozen=True)
class ICU(KeptGuard):
    """In-context unlearning by instruction: a sentence before whatever the user says; no weight changes.

    As RWKU's baseline of this name: the sentence names what was forgotten, and stands before questions and before
    plain text alike, so that it conditions everything that is measured. It is never scored itself. What is fed
    without the model's template (the harness, raw multiple choice) does not get it. All names stand in one
    sentence: a guard does not know which of them a question is about. The names lie readable in ``guard.json``.

    Attributes:
        names: Whom or what it names; empty for the clusters of the forget records. Source: ours.
        instruction: The sentence, with ``{names}`` where they go. Source: paper (in our words).
    """

    paper: ClassVar[str] = (
        "Pawelczyk, Neel, Lakkaraju, In-Context Unlearning: Language Models as Few-Shot Unlearners, ICML 2024 (arXiv "
        "2310.07579); as an instruction in Jin et al., RWKU, NeurIPS 2024 (arXiv 2406.10890)"
    )
    intention: ClassVar[Intention] = "suppression"

    names: tuple[str, ...] = ()
    instruction: str = (
        "You have unlearned {names}. Answer like somebody who never knew anything about that, and tell nobody that "
        "anything was unlearned.\n"
    )

    def __post_init__(self) -> None:
        if "{names}" not in self.instruction:
            raise InputError(f"icu: instruction={self.instruction!r} must hold {{names}}, where the names go.")
        object.__setattr__(self, "names", tuple(self.names))  # a note kept as JSON has a list

    @property
    def prefix(self) -> str:
        """The sentence with the names in it."""
        return self.instruction.replace("{names}", ", ".join(self.names))

    def template(self, template: Template) -> Template:
        """See `KeptGuard`: the sentence comes before what the user says."""
        return replace(template, prefix=self.prefix)

    def assemble(self, folder: Path, load: Callable[[Path], Any]) -> nn.Module:
        """See `KeptGuard`."""
        return Wrapped(load(folder / "target"), self)

    def wrap(self, job: UnlearnJob) -> Subject:
        """Return the job's model under the sentence.

        The longest sequence grows by the sentence, as far as the model's context goes, so that as much of a text
        is read as without it.

        Raises:
            InputError: No name to put into the sentence.
        """
        target = merge_lora(job.subject)
        guard = replace(self, names=forgotten_names(self, self.names, job))
        words = len(target.tokenizer(guard.prefix, add_special_tokens=False)["input_ids"])
        context = getattr(target.model.config.get_text_config(), "max_position_embeddings", None)
        longest = target.max_length + words
        return replace(
            target.with_model(Wrapped(target.model, guard).eval()),
            template=guard.template(target.template),
            max_length=longest if context is None else max(target.max_length, min(longest, context)),
        )
