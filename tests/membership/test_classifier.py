"""Classifiers behind one verb: torch modules, scikit-learn estimators, records of a said kind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from expunge.errors import InputError
from expunge.membership.classifier import Records, SklearnClassifier, TorchClassifier


def test_logits_do_not_depend_on_the_batch_size_and_leave_no_trace() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    module.train()
    x = np.random.default_rng(0).normal(size=(7, 3))
    whole = TorchClassifier(module, classes=2).logits(x)
    parts = TorchClassifier(module, classes=2, batch_size=2).logits(x)
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    assert (whole.dtype, whole.shape, module.training) == (np.float64, (7, 2), True)
    with torch.no_grad():
        np.testing.assert_allclose(whole, module.eval()(torch.tensor(x).float()).numpy(), atol=1e-6)


def test_double_precision_is_kept() -> None:
    module = nn.Linear(1, 2, bias=False).double()
    logits = TorchClassifier(module, classes=2).logits(np.array([[1 + 1e-12]]))
    np.testing.assert_allclose(logits[0], module.weight.detach().numpy()[:, 0] * (1 + 1e-12), rtol=1e-15)


def test_texts_go_through_encode_to_a_model_that_answers_with_an_object() -> None:
    class Named(nn.Module):
        def forward(self, input_ids: torch.Tensor, shift: torch.Tensor) -> Any:
            count = input_ids.sum(1, dtype=torch.float32) + shift
            return SimpleNamespace(logits=torch.stack([count, -count], 1))

    def encode(texts: Any) -> dict[str, torch.Tensor]:
        longest = max(map(len, texts))
        ids = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in texts])
        return {"input_ids": ids, "shift": torch.zeros(len(texts))}

    model = TorchClassifier(Named(), classes=2, encode=encode, batch_size=2)
    assert model.logits(["a", "abc", "ab"])[:, 0].tolist() == [1, 3, 2]


def test_token_ids_stay_whole_numbers() -> None:
    module = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(6, 3))
    assert TorchClassifier(module, classes=3).logits(np.array([[1, 4, 0]])).shape == (1, 3)


@pytest.mark.parametrize(("classes", "bias", "message"), [(3, 0.0, r"shape \(2, 2\)"), (2, np.nan, "Record 1 gets")])
def test_wrong_logits_are_refused(classes: int, bias: float, message: str) -> None:
    module = nn.Linear(3, 2)
    nn.init.constant_(module.bias, bias)
    with pytest.raises(InputError, match=message):
        TorchClassifier(module, classes=classes).logits(np.zeros((2, 3)))


class Fitted:
    def __init__(self, classes: list[Any], rows: list[list[float]]) -> None:
        self.classes_, self.rows = np.array(classes), np.array(rows)

    def predict_proba(self, x: Any) -> Any:
        return self.rows[: len(x)]


def test_estimators_put_their_classes_in_order_and_miss_some() -> None:
    model = SklearnClassifier(Fitted(["dog", "cat"], [[0.75, 0.25]]), classes=["cat", "cow", "dog"])
    logits = model.logits(np.zeros((1, 1)))
    np.testing.assert_allclose(np.exp(logits), [[0.25, 1e-30, 0.75]])
    assert model.classes == 3
    assert SklearnClassifier(Fitted([2, 0], [[0.5, 0.5]])).values == [2, 0]


def test_softmax_of_an_estimators_logits_is_its_probability() -> None:
    p = np.array([[1.0, 0.0], [0.3, 0.7]])
    logits = SklearnClassifier(Fitted([0, 1], p.tolist()), classes=2).logits(np.zeros((2, 1)))
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), p, atol=1e-12)


@pytest.mark.parametrize(
    ("estimator", "classes", "message"),
    [
        (object(), 2, "object is no fitted classifier"),
        (Fitted([0, 3], [[1, 0]]), 3, "knows the label np.int64\\(3\\)"),
    ],
)
def test_wrong_estimators_are_refused(estimator: Any, classes: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SklearnClassifier(estimator, classes)


def test_records_are_taken_by_index_and_by_mask() -> None:
    texts = Records(["a", "b", "c"], np.array([0, 1, 0]), "text")
    assert texts.take([2, 0]).inputs == ("c", "a")
    numbers = Records(np.arange(6.0).reshape(3, 2), np.array([0, 1, 2]), "continuous", 0.0, 5.0)
    some = numbers.take(np.array([True, False, True]))
    assert (some.labels.tolist(), some.high, len(some)) == ([0, 2], 5.0, 2)


@pytest.mark.parametrize(
    ("inputs", "labels", "kind", "message"),
    [
        (np.zeros((2, 3)), [0], "continuous", r"labels have shape \(1,\)"),
        (np.zeros((2, 3)), [0.0, 1.0], "continuous", "whole numbers"),
        (np.zeros((2, 3)), [0, -1], "continuous", "whole numbers"),
        (np.zeros((2, 3)), [0, 1], "image", "must be .n, channels"),
        (np.array([[0.0], [np.nan]]), [0, 1], "continuous", "Record 2 holds a value that is not finite"),
        (np.array([[0.0], [0.5]]), [0, 1], "binary", "Record 2 holds a feature that is neither 0 nor 1"),
        (["a", 3], [0, 1], "text", "Record 2 is no text but int"),
        (np.zeros((2, 3)), [0, 1], "table", "must be one of image, continuous, binary, text"),
    ],
)
def test_wrong_records_are_refused(inputs: Any, labels: Any, kind: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Records(inputs, np.array(labels), kind)
