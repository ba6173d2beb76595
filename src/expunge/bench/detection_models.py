"""The small architectures of a detection bench, and how each is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.bench.detection_data import require_sklearn
from expunge.membership.learners import Learner, SklearnLearner, TorchLearner, Training

if TYPE_CHECKING:
    import torch

    from expunge.bench.detection_data import Loaded

LENGTH = 24  # tokens of a text that are read


def cnn(channels: int, side: int, outputs: int) -> torch.nn.Module:
    """Two convolutions and two linear layers, for small images."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * (side // 2) ** 2, 64), nn.ReLU(), nn.Linear(64, outputs),
    )  # fmt: skip


def mlp(features: int, widths: Sequence[int], outputs: int) -> torch.nn.Module:
    """Linear layers with tanh between them, TDDBench's form for tabular records."""
    from torch import nn

    layers: list[nn.Module] = []
    before = features
    for width in widths:
        layers += [nn.Linear(before, width), nn.Tanh()]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, outputs))


def words(vocabulary: int, outputs: int) -> torch.nn.Module:
    """Embeddings of the words at their places, one after the other, and two linear layers."""
    from torch import nn

    return nn.Sequential(
        nn.Embedding(vocabulary, 16), nn.Flatten(), nn.Linear(16 * LENGTH, 64), nn.ReLU(), nn.Linear(64, outputs)
    )


@dataclass(frozen=True)
class WordEncoder:
    """Texts as [n, 24] numbers of words: 0 is padding, 1 a word that is not in the vocabulary."""

    vocabulary: tuple[str, ...]

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Encode texts."""
        import torch

        places = {word: i + 2 for i, word in enumerate(self.vocabulary)}
        rows = [[places.get(word, 1) for word in text.split()][:LENGTH] for text in texts]
        return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows], dtype=torch.int64).reshape(-1, LENGTH)


def logistic_regression(seed: int) -> Any:
    """Nearly unregularised."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=100.0, max_iter=1000, random_state=seed)


def random_forest(seed: int) -> Any:
    """A hundred full trees."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(random_state=seed)


def gradient_boosting(seed: int) -> Any:
    """Histogram boosting."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=seed)


ESTIMATORS: dict[str, Callable[[int], Any]] = {
    "logistic-regression": logistic_regression,
    "random-forest": random_forest,
    "gradient-boosting": gradient_boosting,
}
DEFAULTS = {
    "cnn": Training(epochs=60, lr=0.05, batch=64, optimizer="sgd", weight_decay=5e-4),
    "mlp": Training(epochs=60, lr=1e-3, batch=64, optimizer="adam", weight_decay=1e-4),
    "words": Training(epochs=40, lr=3e-3, batch=64, optimizer="adamw", weight_decay=0.01),
}


def learner_of(model: str, data: Loaded, epochs: int | None, widths: Sequence[int]) -> Learner:
    """The learner of a recipe's ``model`` for some data.

    Raises:
        NotInstalledError: scikit-learn is missing.
    """
    records, classes = data.records, len(data.classes)
    if model in ESTIMATORS:
        require_sklearn(f"model: {model}")
        return SklearnLearner(model, ESTIMATORS[model], classes)
    default = DEFAULTS[model]
    training = Training(epochs or default.epochs, default.lr, default.batch, default.optimizer, default.weight_decay)
    if model == "words":
        build = partial(words, len(data.vocabulary) + 2)
        return TorchLearner("words", build, classes, training, WordEncoder(data.vocabulary))
    shape: tuple[int, ...] = np.shape(records.inputs)
    if model == "cnn":
        return TorchLearner(f"cnn {shape[1:]}", partial(cnn, shape[1], shape[2]), classes, training)
    widths = tuple(widths)
    return TorchLearner(f"mlp {shape[1]} {widths}", partial(mlp, shape[1], widths), classes, training)
