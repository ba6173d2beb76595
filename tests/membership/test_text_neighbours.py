"""A small BERT, trained here on sentences of one form, proposes words for the right places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from expunge.errors import InputError
from expunge.membership.classifier import Floats, Inputs, Records
from expunge.membership.query_based import query_neighbor
from expunge.membership.text_neighbours import MaskedNeighbours

ANIMALS = ("cat", "dog", "fox", "cow", "owl", "hen")
COLOURS = ("red", "blue", "green", "grey", "black", "white")
VERBS = ("eats", "sees", "finds", "likes", "hears", "smells")
FOOD = ("bread", "fish", "corn", "grass", "fruit", "##s")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", ".", *COLOURS, *ANIMALS, *VERBS, *FOOD]


def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=16,
    )  # fmt: skip


def sentences(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        f"the {rng.choice(COLOURS)} {rng.choice(ANIMALS)} {rng.choice(VERBS)} {rng.choice(FOOD[:5])} ."
        for _ in range(n)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers that fills masks, saved as transformers does."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model, words = BertForMaskedLM(config), tokenizer()
    ids = words(sentences(512), return_tensors="pt").input_ids
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(120):
        batch = ids[torch.randint(len(ids), (64,))]
        hidden = torch.rand(batch.shape) < 0.3
        hidden &= batch > 4
        loss = model(batch.masked_fill(hidden, 4), labels=batch.masked_fill(~hidden, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    where = tmp_path_factory.mktemp("bert")
    model.save_pretrained(where)
    words.save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def neighbours(folder: Path) -> MaskedNeighbours:
    return MaskedNeighbours.from_folder(folder)


def changed(text: str, other: str) -> tuple[str, str]:
    """The one word that differs."""
    pairs = [(a, b) for a, b in zip(text.split(" "), other.split(" "), strict=True) if a != b]
    assert len(pairs) == 1
    return pairs[0]


def test_one_word_is_replaced_by_one_of_its_kind(neighbours: MaskedNeighbours) -> None:
    texts = sentences(8, seed=1)
    found = neighbours(texts, 10)
    assert [len(similar) for similar in found] == [10] * 8
    kinds = {word: kind for kind in (COLOURS, ANIMALS, VERBS, FOOD) for word in kind}
    pairs = [changed(text, other) for text, similar in zip(texts, found, strict=True) for other in similar]
    same = [kinds[a] == kinds.get(b) for a, b in pairs if a in kinds]  # nothing of its kind stands for "the" or "."
    assert len(same) > 40
    assert np.mean(same) > 0.75  # by chance about 0.2
    assert all(len({*similar, text}) == 11 for text, similar in zip(texts, found, strict=True))


def by_hand(neighbours: MaskedNeighbours, text: str) -> dict[str, float]:
    """Score of every replacement by p(c) / (1 - p(o)), one place at a time, over all logits of the model."""
    words, model = neighbours.tokenizer, neighbours.model
    ids = words(text, return_tensors="pt").input_ids
    keep = neighbours._kept(text, ids.shape[1])
    scores = {}
    pieces = text.split(" ")
    for place in range(1, ids.shape[1] - 1):
        with torch.inference_mode():
            embeddings = model.get_input_embeddings()(ids).clone()
            embeddings[0, place] *= keep[place] / 0.3
            p = model(inputs_embeds=embeddings).logits[0, place].softmax(-1)
        old = int(ids[0, place])
        order = [int(c) for c in p.argsort(descending=True) if int(c) != old and int(c) > 4][:10]
        for c in order:
            new = " ".join([*pieces[: place - 1], WORDS[c].removeprefix("##"), *pieces[place:]])
            scores[new] = float(p[c] / (1 - p[old]))
    return scores


def test_the_score_is_the_candidates_probability_over_one_minus_the_originals(neighbours: MaskedNeighbours) -> None:
    for text in sentences(3, seed=2):
        scores = by_hand(neighbours, text)
        best = sorted(scores, key=lambda new: -scores[new])[:12]
        assert neighbours([text], 12)[0] == best


def test_texts_do_not_depend_on_each_other_or_on_the_batches(folder: Path) -> None:
    texts = [*sentences(5, seed=3), "the owl .", "the red cat sees the grey dog ."]
    whole = MaskedNeighbours.from_folder(folder, batch=7)(texts, 6)
    alone = [MaskedNeighbours.from_folder(folder)([text], 6)[0] for text in texts]
    assert whole == alone


def test_the_rest_of_the_text_stays_as_it_is_written(neighbours: MaskedNeighbours) -> None:
    text = "The  RED cat,\tquickly (SEES) Corn."
    for other in neighbours([text], 20)[0]:
        rest = [
            text.replace(word, "*", 1) for word in ("The", "RED", "cat", ",", "quickly", "(", "SEES", ")", "Corn", ".")
        ]
        assert any(other.startswith(r[: r.index("*")]) and other.endswith(r[r.index("*") + 1 :]) for r in rest)


def test_special_tokens_are_neither_replaced_nor_proposed(neighbours: MaskedNeighbours) -> None:
    found = neighbours(["cat"], 100)[0]
    assert len(found) == 10  # ten candidates at one place
    assert not {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", ""} & set(found)


def test_without_dropout_the_token_is_seen_and_the_seed_makes_no_difference(folder: Path) -> None:
    texts = sentences(4, seed=4)
    one, other = (MaskedNeighbours.from_folder(folder, dropout=0.0, seed=seed)(texts, 5) for seed in (0, 1))
    assert one == other
    dropped, again, more = (MaskedNeighbours.from_folder(folder, seed=seed)(texts, 5) for seed in (0, 0, 1))
    assert dropped == again
    assert dropped != more


def test_a_long_text_is_changed_at_its_beginning_only(neighbours: MaskedNeighbours) -> None:
    text = "the cat . " * 10
    tail = "the cat . " * 5
    assert all(other.endswith(tail) for other in neighbours([text], 30)[0])


def test_models_that_embed_in_another_size_fit_too() -> None:
    """DistilBERT names its layers otherwise; ELECTRA's embeddings are narrower than its states."""
    from transformers import DistilBertConfig, DistilBertForMaskedLM, ElectraConfig, ElectraForMaskedLM

    torch.manual_seed(0)
    for model in (
        DistilBertForMaskedLM(DistilBertConfig(vocab_size=len(WORDS), dim=16, n_layers=1, n_heads=2, hidden_dim=16,
                                               max_position_embeddings=16)),
        ElectraForMaskedLM(ElectraConfig(vocab_size=len(WORDS), embedding_size=8, hidden_size=16, num_hidden_layers=1,
                                         num_attention_heads=2, intermediate_size=16, max_position_embeddings=16)),
    ):  # fmt: skip
        found = MaskedNeighbours(model, tokenizer())
        text = sentences(1, seed=5)[0]
        scores = by_hand(found, text)
        best = sorted(scores, key=lambda new: -scores[new])[:8]
        assert found([text], 8)[0] == best


def test_the_detector_asks_about_the_neighbours(neighbours: MaskedNeighbours) -> None:
    """A model that knows the very sentences of its training by heart: members lie in a dip, others do not."""
    members, others = set(sentences(10, seed=6)), sentences(10, seed=7)

    class Knows:
        classes = 2

        def logits(self, x: Inputs) -> Floats:
            return np.array([[3.0 if text in members else 0.0, 0.0] for text in x])

    texts = [*members, *(text for text in others if text not in members)]
    found = query_neighbor(Knows(), Records(texts, np.zeros(len(texts), dtype=int), "text"), seed=0, queries=5,
                           neighbours=neighbours)  # fmt: skip
    assert (found.queries == 6).all()
    assert found.scores[: len(members)].min() > found.scores[len(members) :].max()


def test_what_is_no_masked_language_model_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        MaskedNeighbours.from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(InputError, match="No masked language model can be read"):
        MaskedNeighbours.from_folder(tmp_path)
    for wrong in ({"dropout": 1.0}, {"candidates": 0}, {"batch": 0}):
        with pytest.raises(InputError, match="out of range"):
            MaskedNeighbours.from_folder(folder, **wrong)


def test_a_text_without_a_token_is_named(neighbours: MaskedNeighbours) -> None:
    with pytest.raises(InputError, match="Text 2 has no token to replace: '  '"):
        neighbours(["the cat", "  "], 3)


def test_a_model_without_an_output_layer_is_refused(folder: Path) -> None:
    from transformers import BertModel

    bare: Any = BertModel.from_pretrained(folder)
    with pytest.raises(InputError, match="BertModel is no masked language model"):
        MaskedNeighbours(bare, tokenizer())
