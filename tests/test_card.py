"""The model card names the method, its claim and its paper, and says when the weights still hold the data."""

from __future__ import annotations

from types import SimpleNamespace

from expunge.card import model_card
from expunge.engine.method import Method
from expunge.language.methods.npo import NPO
from expunge.language.methods.uld import ULD


def card(method: Method, name: str) -> str:
    recipe = SimpleNamespace(name="erasure-7", model=SimpleNamespace(source="org/model"))
    return model_card(name, method, recipe, "abc123", "transformers")


def test_of_an_unlearned_model() -> None:
    text = card(NPO(beta=0.3), "npo")
    assert text.startswith("---\nlibrary_name: transformers\n")
    assert "# erasure-7: unlearned with npo\n" in text
    for part in ("`org/model`", "`abc123`", "beta=0.3", "removal", "arXiv 2404.05868"):
        assert part in text
    assert "Guarded" not in text


def test_of_a_guarded_model() -> None:
    text = card(ULD(), "uld")
    assert "library_name: expunge" in text
    assert "Guarded, not erased" in text
    assert "suppression" in text
