"""The lazy view of one batch: each quantity is computed on first use and never twice.

The vocabulary projection runs only at labelled positions; a loss that reads hidden states alone stops
the forward pass after the deepest layer it reads and never touches the head.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.errors import InputError
from expunge.language.encode import Batch, Encoded, collate

# Model families that change logits after the head; their reference logits are not rebuilt from states.
POST_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


def unwrap(model: nn.Module) -> Any:
    """The Hugging Face causal LM inside distributed and adapter wrappers."""
    inner: Any = getattr(model, "module", model)
    return inner.get_base_model() if "Peft" in type(inner).__name__ else inner


def decoder_layers(model: nn.Module) -> tuple[nn.Module, str, nn.ModuleList]:
    """The list of decoder blocks: its owner, its attribute name, and the list.

    Raises:
        InputError: The model has no list of as many blocks as its config names.
    """
    base = unwrap(model)
    count = base.config.get_text_config().num_hidden_layers
    for owner in base.modules():
        for name, child in owner.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return owner, name, child
    raise InputError(f"{type(base).__name__}: found no list of {count} decoder blocks.")


def check_layer(model: nn.Module, layer: int) -> None:
    """Refuse a layer index the model does not have.

    Raises:
        InputError: The layer is out of range.
    """
    depth = len(decoder_layers(model)[2])
    if not 0 <= layer < depth:
        raise InputError(f"layer={layer}: the model has layers 0 to {depth - 1}.")


@contextmanager
def head_reads(model: nn.Module, keep: Tensor | None) -> Iterator[list[Tensor]]:
    """Within, the head sees only the kept positions [B, L] bool (None: no position at all).

    Yields a list that receives the final hidden states at those positions: [T, d].
    """
    seen: list[Tensor] = []

    def select(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        states = args[0]
        picked = states[keep] if keep is not None else states.reshape(-1, states.shape[-1])[:0]
        seen.append(picked)
        return (picked, *args[1:])

    handle = unwrap(model).get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def cut_after(model: nn.Module, layer: int) -> Iterator[dict[int, Tensor]]:
    """Within, the model has no blocks after `layer`; yields the outputs of all its blocks."""
    owner, name, layers = decoder_layers(model)
    outputs: dict[int, Tensor] = {}

    def keep(index: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            # setdefault: recomputation under gradient checkpointing must not replace what was handed out
            outputs.setdefault(index, output[0] if isinstance(output, tuple) else output)

        return hook

    handles = [layers[i].register_forward_hook(keep(i)) for i in range(layer + 1)]
    if layer + 1 < len(layers):
        setattr(owner, name, layers[: layer + 1])
    try:
        yield outputs
    finally:
        setattr(owner, name, layers)
        for handle in handles:
            handle.remove()


@contextmanager
def outputs_of(modules: dict[nn.Module, Any]) -> Iterator[None]:
    """Within, each module's output is filed under it."""

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        if modules[module] is None:  # recomputation under gradient checkpointing must not replace it
            modules[module] = output

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class ForwardPass:
    """Everything a loss may read of one batch under the current weights.

    T counts the labelled positions of the batch, row by row; S all real (unpadded) positions.
    """

    def __init__(self, model: nn.Module, batch: Batch, totals: tuple[int, int], reference: Any = None) -> None:
        device = next(model.parameters()).device
        self.model = model
        self.input_ids, self.mask, self.labelled = (t.to(device) for t in batch)
        self.total_rows, self.total_tokens = totals
        self._reference = reference
        self._blocks: dict[int, Tensor] = {}
        self._hidden: dict[int, Tensor] = {}
        self._watched: dict[nn.Module, Any] = {}
        self._ran = False

    # -- positions -----------------------------------------------------------------------------------

    @cached_property
    def _predicts(self) -> Tensor:
        """[B, L] bool: position whose NEXT token is a label."""
        return F.pad(self.labelled[:, 1:], (0, 1))

    @cached_property
    def labels(self) -> Tensor:
        """[T] label token ids."""
        return self.input_ids[:, 1:][self.labelled[:, 1:]]

    @cached_property
    def rows(self) -> Tensor:
        """[T] row of each labelled position."""
        return self.labelled[:, 1:].nonzero()[:, 0]

    @cached_property
    def lengths(self) -> Tensor:
        """[B] labelled positions per row."""
        return self.labelled[:, 1:].sum(1)

    # -- under the current weights -------------------------------------------------------------------

    def _forward(self) -> Tensor:
        return self.model(  # type: ignore[no-any-return]
            input_ids=self.input_ids, attention_mask=self.mask.long(), use_cache=False
        ).logits

    def _run(self, keep: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        self._ran = True
        with head_reads(self.model, keep) as states, outputs_of(self._watched):
            logits = self._forward()
        return logits, states

    def watch(self, module: nn.Module) -> None:
        """Keep what a submodule puts out in the forward pass of this view; asked for before anything is read.

        Raises:
            RuntimeError: The forward pass has been made.
        """
        if module in self._watched:
            return
        if self._ran:
            raise RuntimeError("watch() comes before anything else of a view is read")
        self._watched[module] = None

    def watched(self, module: nn.Module) -> Any:
        """What a watched submodule put out, as it stands (padding included); runs the model if need be."""
        if not self._ran:
            _ = self.logits
        return self._watched[module]

    @cached_property
    def _projected(self) -> tuple[Tensor, Tensor]:
        logits, states = self._run(self._predicts)
        # sums over bf16 log-probabilities lose digits
        return logits if logits.dtype == torch.float64 else logits.float(), states[0]

    @property
    def logits(self) -> Tensor:
        """[T, V] logits that predict the labels, in float32 (float64 for a float64 model)."""
        return self._projected[0]

    @property
    def final_states(self) -> Tensor:
        """[T, d] final hidden states that predict the labels."""
        return self._projected[1]

    @cached_property
    def logprobs(self) -> Tensor:
        """[T, V] log-probabilities."""
        return self.logits.log_softmax(-1)

    @cached_property
    def token_logprobs(self) -> Tensor:
        """[T] log p(label), in nats."""
        if "logprobs" in self.__dict__:
            return self.logprobs.gather(-1, self.labels[:, None])[:, 0]
        return -F.cross_entropy(self.logits, self.labels, reduction="none")

    @cached_property
    def nll_sum(self) -> Tensor:
        """[B] S(theta; s): summed negative log-likelihood of each answer, in nats."""
        return -self.sum_rows(self.token_logprobs)

    @property
    def logprob(self) -> Tensor:
        """[B] log-likelihood of each answer, in nats."""
        return -self.nll_sum

    @cached_property
    def nll_mean(self) -> Tensor:
        """[B] mean token negative log-likelihood of each answer."""
        return self.nll_sum / self.lengths

    def hidden(self, layer: int) -> Tensor:
        """Output of decoder block `layer` at every real position, row by row: [S, d].

        The forward pass stops after this block; shallower blocks then come for free, so a loss that
        reads several asks for the deepest first.
        """
        if layer not in self._blocks:
            check_layer(self.model, layer)
            with cut_after(self.model, layer) as self._blocks:
                self._run(None)
        if layer not in self._hidden:
            self._hidden[layer] = self._blocks[layer][self.mask]
        return self._hidden[layer]

    @cached_property
    def positions(self) -> Tensor:
        """[S] position of each real token in its row (0 is the first, usually BOS)."""
        return self.mask.nonzero()[:, 1]

    @cached_property
    def token_rows(self) -> Tensor:
        """[S] row of each real token."""
        return self.mask.nonzero()[:, 0]

    # -- reductions: sums over this micro-batch over totals of the whole step ------------------------

    def sum_rows(self, values: Tensor) -> Tensor:
        """[T] -> [B]: sums over the labelled positions of each row."""
        return torch.zeros(len(self.lengths), device=values.device, dtype=values.dtype).index_add(0, self.rows, values)

    def per_row(self, values: Tensor) -> Tensor:
        """Mean over the rows of the step of [B] values."""
        return values.sum() / self.total_rows

    def per_token(self, values: Tensor) -> Tensor:
        """Mean over the labelled tokens of the step of [T] values."""
        return values.sum() / self.total_tokens

    @property
    def nll(self) -> Tensor:
        """Scalar: token-weighted mean negative log-likelihood of the step (nll_tok of the papers)."""
        return self.per_token(-self.token_logprobs)

    # -- the frozen reference ------------------------------------------------------------------------

    @cached_property
    def reference(self) -> ReferencePass:
        """The same quantities under the frozen reference."""
        return ReferencePass(self)

    def signal(self, name: str) -> Tensor:
        """A quantity by name, flattened over the rows (what the reference cache stores)."""
        if name.startswith("hidden."):
            return self.hidden(int(name.removeprefix("hidden.")))
        if name not in ("token_logprobs", "logits", "final_states"):
            raise KeyError(name)
        return getattr(self, name)  # type: ignore[no-any-return]


class ReferencePass:
    """What a loss may read of the reference on the rows of a view; no gradient flows here."""

    def __init__(self, view: ForwardPass) -> None:
        # A view owns this object; owning the view back would keep its graph alive until the cycle is collected.
        self._view: ForwardPass = weakref.proxy(view)

    def _ask(self, signal: str) -> Tensor:
        if self._view._reference is None:
            raise InputError("The loss needs a reference model and there is none.")
        values: Tensor = self._view._reference.signal(signal)
        return values.to(self._view.input_ids.device)

    @cached_property
    def token_logprobs(self) -> Tensor:
        """[T] log p_ref(label), in nats."""
        return self._ask("token_logprobs")

    @cached_property
    def nll_sum(self) -> Tensor:
        """[B] S(ref; s), in nats."""
        return -self._view.sum_rows(self.token_logprobs)

    @cached_property
    def logits(self) -> Tensor:
        """[T, V] reference logits."""
        return self._ask("logits")

    @cached_property
    def logprobs(self) -> Tensor:
        """[T, V] reference log-probabilities."""
        return self.logits.log_softmax(-1)

    def hidden(self, layer: int) -> Tensor:
        """[S, d] reference output of decoder block `layer`."""
        return self._ask(f"hidden.{layer}")


@contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Within, a model in training mode recomputes the activations of its blocks in the backward pass.

    Raises:
        InputError: The model does not support it.
    """
    base = unwrap(model)
    with warnings.catch_warnings():  # later transformers call it activation checkpointing
        warnings.simplefilter("ignore", FutureWarning)
        if not base.supports_gradient_checkpointing:
            raise InputError(f"gradient_checkpointing: {type(base).__name__} does not support it.")
        # The re-entrant form would lose the gradient of a frozen embedding's blocks and of hidden states.
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            base.gradient_checkpointing_disable()


class LanguageExamples:
    """Encoded sequences as the engine sees them (`engine.reference.Examples`)."""

    def __init__(self, encoded: Encoded) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return len(self.encoded.offsets) - 1

    @property
    def sizes(self) -> Tensor:
        """[n] tokens per sequence."""
        return self.encoded.lengths

    @property
    def counts(self) -> Tensor:
        """[n] labels per sequence."""
        return self.encoded.counts

    def view(self, model: nn.Module, rows: Tensor, totals: tuple[int, int], reference: Any) -> ForwardPass:
        """See `Examples`."""
        return ForwardPass(model, collate(self.encoded, rows), totals, reference)

    def stored_as(self, signal: str, model: nn.Module) -> tuple[str, Any]:
        """Logits are kept as final states and projected again through a frozen head."""
        base = unwrap(model)
        if signal != "logits" or any(getattr(base.config, key, None) is not None for key in POST_HEAD):
            return signal, None
        head = base.get_output_embeddings()
        if any(p.requires_grad for p in head.parameters()):
            head = copy.deepcopy(head).requires_grad_(False)
        weight = next(head.parameters())

        def project(states: Tensor) -> Tensor:
            with torch.no_grad():
                return head(states.to(weight.device, weight.dtype)).float()  # type: ignore[no-any-return]

        return "final_states", project

    def extent(self, signal: str, rows: Tensor) -> Tensor:
        """Labelled positions, or all real positions for hidden states."""
        return self.sizes[rows] if signal.startswith("hidden.") else self.counts[rows]

    def width(self, signal: str, model: nn.Module) -> int:
        """Numbers per position."""
        if signal == "token_logprobs":
            return 1
        head = unwrap(model).get_output_embeddings().weight
        return int(head.shape[0] if signal == "logits" else head.shape[1])

    def checkpointing(self, model: nn.Module) -> AbstractContextManager[None]:
        """See `Examples`."""
        return recomputing(model)
