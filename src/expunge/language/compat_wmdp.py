"""What the WMDP code does by accident, under names that say so, for reproducing published numbers.

No method of expunge uses these. Each function says what is wrong with it; the tests show that it is. The unmasked
loss is in `compat.rmu_unmasked_wmdp`.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

SEVENTH = 6


def seventh_parameter_wmdp(block: nn.Module) -> str:
    """The parameter that RMU's code trains in a block: number 6, counted from 0.

    Wrong: the place is an accident of the architecture. It is ``mlp.down_proj.weight`` where the projections of
    the attention have no biases (Llama, Mistral) and ``self_attn.o_proj.weight`` where query, key and value have
    them (Qwen2). `methods.rmu` selects by name.

    Args:
        block: A decoder block.

    Returns:
        The parameter's name inside the block.
    """
    return [name for name, _ in block.named_parameters()][SEVENTH]


def cyber_lines_wmdp(path: str | Path) -> list[str]:
    """The texts RMU's code trains on from a JSONL corpus on cyber: the file's lines as they stand.

    Wrong: the model is shown braces, keys, quotes and escapes (``\\n`` as two characters) around every document,
    and unlearns those first. `wmdp_data.read_corpus` reads the field; its form ``raw`` is this one.

    Args:
        path: The JSONL file.

    Returns:
        One text per line, without the line's end.
    """
    return Path(path).read_text(encoding="utf-8").splitlines()
