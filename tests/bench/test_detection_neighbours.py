"""Similar texts of a bench: made of the population alone, filed, found again; and a text case from end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.bench import detection_neighbours
from expunge.bench.detection import load_detection
from expunge.bench.detection_data import sentences
from expunge.bench.detection_neighbours import population_neighbours, word_tokenizer
from expunge.bench.detection_run import run_detection


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection_neighbours, "EPOCHS", 2)


def test_words_are_tokens() -> None:
    tokenizer = word_tokenizer(["a", "bc"])
    encoded = tokenizer("bc a x", return_offsets_mapping=True)
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == ["[CLS]", "bc", "a", "[UNK]", "[SEP]"]
    assert encoded["offset_mapping"][1:4] == [(0, 2), (3, 4), (5, 6)]


def test_neighbours_differ_in_one_known_word_and_are_filed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = sentences(0, n=60)
    texts = [str(text) for text in drawn.records.inputs]
    found = population_neighbours(texts[:40], drawn.vocabulary, tmp_path, 0)(texts[40:], 5)
    for text, similar in zip(texts[40:], found, strict=True):
        assert len(set(similar)) == 5
        for other in similar:
            changed = [pair for pair in zip(text.split(), other.split(), strict=True) if pair[0] != pair[1]]
            assert len(changed) == 1
            assert changed[0][1] in drawn.vocabulary
    monkeypatch.setattr(detection_neighbours, "_trained", None)  # it is not trained again
    assert population_neighbours(texts[:40], drawn.vocabulary, tmp_path, 0)(texts[40:], 5) == found


def test_a_text_case(tmp_path: Path) -> None:
    case = {"name": "said", "data": "sentences", "model": "words", "limit": 120, "epochs": 5}
    names = ["Metric-loss", "Query-neighbor", "Query-augment", "Query-ref"]
    raw = {"targets": 1, "references": 4, "draws": 20, "detectors": names, "cases": [case], "limits": {"queries": 3}}
    results = run_detection(load_detection(raw, "tiny", out=tmp_path))
    status = {row["name"]: row["status"] for row in results["cases"][0]["rows"]}
    assert status == dict.fromkeys(names, "measured") | {"Query-ref": "not-applicable"}
    assert results["cases"][0]["rows"][1]["cost"]["queries"] == 4 * 60
