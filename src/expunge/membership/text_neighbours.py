"""Texts that differ from a given one in a single token, proposed by a masked language model.

Neighbours as in Mattern et al. 2023 (arXiv 2305.18462), which TDDBench (arXiv 2411.03363) uses, after the lexical
substitution of Zhou et al. 2019: the token to replace is not masked, its embedding is dropped out in part, so that the
model knows something of it. Every place of every text is one row of a batch, and only the logits of the dropped token
are computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from expunge.errors import InputError

if TYPE_CHECKING:
    import torch


class Token(NamedTuple):
    """A place in a text: its token, where that stands among the characters, and which row of the text it is."""

    text: int
    place: int
    start: int
    end: int


class MaskedNeighbours:
    """Texts and a number to at most so many neighbours of each, the likeliest first.

    A candidate c in the place of the token o scores p(c) / (1 - p(o)), the probability of c among all others. The ten
    likeliest others at each place are candidates, and the best of all places are kept. Special tokens are neither
    replaced nor proposed. The new token is put between the characters around the old one: the rest of the text stays
    as it is, where the public code returns the whole text as the tokenizer spells it, often in lower case.

    The dropout of a text depends on the seed and the text alone, so its neighbours do not depend on other texts.

    Attributes:
        model: Any masked language model of transformers, on its device.
        tokenizer: Its tokenizer, one that knows the characters of its tokens.
        candidates: Candidates at each place.
        dropout: Share of a token's embedding that is dropped, the rest scaled up, in [0, 1).
        batch: Rows of a batch.
        seed: Of the dropout.
        longest: Most tokens of a text that are looked at; what follows stays as it is.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        candidates: int = 10,
        dropout: float = 0.7,
        batch: int = 64,
        seed: int = 0,
        longest: int = 512,
    ) -> None:
        """See the class.

        Raises:
            InputError: A model without an output layer over its vocabulary, a tokenizer that does not know the
                characters of its tokens, or a number outside its range.
        """
        if not 0 <= dropout < 1 or candidates < 1 or batch < 1:
            raise InputError(
                f"Neighbours: dropout={dropout}, candidates={candidates} or batch={batch} is out of range."
            )
        if not tokenizer.is_fast:
            raise InputError(f"{type(tokenizer).__name__} does not know which characters a token stands for.")
        if model.get_output_embeddings() is None:
            raise InputError(f"{type(model).__name__} is no masked language model.")
        self.model, self.tokenizer = model.eval(), tokenizer
        self.candidates, self.dropout, self.batch, self.seed = candidates, dropout, batch, seed
        places = getattr(model.config, "max_position_embeddings", longest)
        self.longest = min(longest, tokenizer.model_max_length, places)

    @classmethod
    def from_folder(cls, folder: str | Path, *, device: str = "cpu", **settings: Any) -> MaskedNeighbours:
        """Model and tokenizer of a local folder, as ``save_pretrained`` writes it.

        Args:
            folder: The folder; nothing is downloaded.
            device: Where the model goes.
            settings: See the class.

        Raises:
            InputError: No masked language model can be read there.
        """
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        if not (Path(folder) / "config.json").is_file():
            raise InputError(f"{folder} is no folder of a masked language model: it has no config.json.")
        try:
            model = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"No masked language model can be read from {folder}: {reason}") from error
        return cls(model.to(device), tokenizer, **settings)

    def __call__(self, texts: Sequence[str], count: int) -> list[list[str]]:
        """At most `count` neighbours of each text, none of them twice and none the text itself.

        Raises:
            InputError: A text without a token that can be replaced.
        """
        encoded = self.tokenizer(
            list(texts), truncation=True, max_length=self.longest, return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )  # fmt: skip
        tokens = [
            Token(i, place, start, end)
            for i in range(len(texts))
            for place, ((start, end), special) in enumerate(
                zip(encoded["offset_mapping"][i], encoded["special_tokens_mask"][i], strict=True)
            )
            if end > start and not special
        ]
        missing = set(range(len(texts))) - {token.text for token in tokens}
        if missing:
            raise InputError(f"Text {min(missing) + 1} has no token to replace: {texts[min(missing)][:60]!r}.")
        scores, ids = self._candidates(texts, encoded["input_ids"], tokens)
        ends = np.cumsum(np.bincount([token.text for token in tokens], minlength=len(texts)))
        return [
            self._best(text, tokens[begin:end], scores[begin:end], ids[begin:end], count)
            for text, begin, end in zip(texts, [0, *ends[:-1]], ends, strict=True)
        ]

    def _candidates(self, texts: Sequence[str], ids: list[list[int]], tokens: list[Token]) -> tuple[Any, Any]:
        """[tokens, k] log scores and candidates of each place, the best first."""
        import torch

        keep = {i: self._kept(text, len(ids[i])) for i, text in enumerate(texts)}
        order = sorted(range(len(tokens)), key=lambda t: len(ids[tokens[t].text]))
        scores, found = [], []
        for start in range(0, len(order), self.batch):
            rows = [tokens[t] for t in order[start : start + self.batch]]
            best = self._asked(
                [ids[row.text] for row in rows], rows, torch.stack([keep[r.text][r.place] for r in rows])
            )
            scores.append(best.values.double().cpu())
            found.append(best.indices.cpu())
        back = np.argsort(order)
        return torch.cat(scores).numpy()[back], torch.cat(found).numpy()[back]

    def _asked(self, ids: list[list[int]], rows: list[Token], keep: torch.Tensor) -> Any:
        """Best candidates of one batch: log p(c) - log(1 - p(o)) = z_c - logsumexp_{v != o} z_v."""
        import torch

        device = self.model.device
        long = max(map(len, ids))
        padded = torch.zeros(len(ids), long, dtype=torch.int64)
        seen = torch.zeros_like(padded)
        for r, known in enumerate(ids):
            padded[r, : len(known)], seen[r, : len(known)] = torch.tensor(known), 1
        row, place = torch.arange(len(ids), device=device), torch.tensor([t.place for t in rows], device=device)
        padded, seen = padded.to(device), seen.to(device)
        with torch.inference_mode():
            embeddings = self.model.get_input_embeddings()(padded).clone()
            embeddings[row, place] *= keep.to(embeddings) / (1 - self.dropout)
            z = self._logits_at(embeddings, seen, place)
            z[row, padded[row, place]] = -torch.inf
            z = z.log_softmax(-1)
            z[:, self.tokenizer.all_special_ids] = -torch.inf
            return z.topk(min(self.candidates, z.shape[1]))

    def _logits_at(self, embeddings: torch.Tensor, seen: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """[b, V] logits at one place of each row; a hook in front of the output layer hands it that place alone."""
        rows = [*range(len(place))]

        def pick(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (inputs[0][rows, place][:, None], *inputs[1:])

        hook = self.model.get_output_embeddings().register_forward_pre_hook(pick)
        try:
            logits: torch.Tensor = self.model(inputs_embeds=embeddings, attention_mask=seen).logits
        finally:
            hook.remove()
        return logits[:, 0].float()

    def _kept(self, text: str, places: int) -> torch.Tensor:
        """[places, width] which parts of each token's embedding are kept."""
        import torch

        width = self.model.get_input_embeddings().weight.shape[1]
        key = hashlib.sha256(f"{self.seed} {text}".encode()).digest()[:8]
        draw = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
        return torch.rand(places, width, generator=draw) >= self.dropout

    def _best(self, text: str, tokens: list[Token], scores: Any, ids: Any, count: int) -> list[str]:
        """The best `count` texts."""
        found: list[str] = []
        known = {text}
        for flat in np.argsort(-scores, axis=None, kind="stable"):
            t, k = divmod(int(flat), scores.shape[1])
            if len(found) == count or scores[t, k] == -np.inf:
                break
            word = self._word(int(ids[t, k]))
            new = f"{text[: tokens[t].start]}{word}{text[tokens[t].end :]}"
            if word and new not in known:
                found.append(new)
                known.add(new)
        return found

    def _word(self, token: int) -> str:
        """A token as it is written inside a text: without the blank before it, or WordPiece's mark of a word's end."""
        word: str = self.tokenizer.decode([token]).strip()
        return word.removeprefix("##")
