"""Query-qrm: how rare is this score among records like it that the model has not seen (Bertran et al. 2023).

A regressor learns from population records, which the model was not trained on, what score a record gets when it is no
member: a normal distribution for each record (arXiv 2307.03694; TDDBench, arXiv 2411.03363). No reference model is
trained. The regressors differ in what they stand on: a network on images, boosted trees or a linear model on features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from expunge.errors import InputError, RunError
from expunge.membership.classifier import Classifier, Encode, Floats, Inputs, Kind, Records, TorchClassifier, as_rows
from expunge.membership.query_based import Queried
from expunge.membership.signals import Signals

if TYPE_CHECKING:
    import torch

Features: TypeAlias = Callable[[Inputs], Any]

LEAST = 1e-6  # of the deviation of the population's scores: least one of a single record
STEEP = 7.0  # the network's log standard deviation stays within this of the population's


class Normal(NamedTuple):
    """[n] normal distributions: mean and standard deviation, in units of the score."""

    mean: Floats
    deviation: Floats


Foretell: TypeAlias = Callable[[Inputs], Normal]


class Regressor(Protocol):
    """What learns the distribution of a score from records."""

    def fit(self, inputs: Inputs, scores: Floats, seed: int) -> Foretell:
        """Learn from [m] records and their scores; gives distributions for other records."""
        ...


def nonmember_score(signals: Signals, kind: Kind) -> Floats:
    """[n] the score that is regressed, higher = more like a member.

    Images and texts: z_y - max_{j != y} z_j. Features: the rescaled logit phi. As in the reference code.
    """
    if kind in ("continuous", "binary"):
        return signals.rescaled
    rows, others = np.arange(len(signals)), signals.logits.copy()
    others[rows, signals.labels] = -np.inf
    return np.asarray(signals.logits[rows, signals.labels] - others.max(1), dtype=np.float64)


def query_qrm(target: Classifier, records: Records, population: Records, regressor: Regressor, *, seed: int) -> Queried:
    """Quantile of a record's score in the distribution foretold for it: Phi((s - mu(x)) / sigma(x)).

    Handed over as -log(1 - Phi), which ranks alike: Phi itself rounds to 1 from 8.3 standard deviations on. For
    non-members whose scores the regressor foretells well, ``1 - exp(-score)`` is uniform between 0 and 1.

    Args:
        target: The model under attack.
        records: Records with their true labels.
        population: Records of the same kind that it was not trained on, none of them among `records`.
        regressor: See `LinearRegressor`, `TreeRegressor`, `NetworkRegressor`.
        seed: Of the regressor.

    Returns:
        [n] scores in nats, at least 0; one query for each record, and one for each of the population.

    Raises:
        InputError: Fewer than two population records, all with the same score; answers that are not finite; a
            regressor that does not take such records.
    """
    if population.kind != records.kind:
        raise InputError(f"The records are of kind {records.kind!r} and the population of kind {population.kind!r}.")
    known = nonmember_score(Signals(target.logits(population.inputs), population.labels), records.kind)
    if len(known) < 2 or not np.ptp(known) > 0:
        raise InputError(f"All {len(known)} population records have the same score: there is nothing to regress.")
    asked = nonmember_score(Signals(target.logits(records.inputs), records.labels), records.kind)
    foretold = regressor.fit(population.inputs, known, seed)(records.inputs)
    scores = rarity(asked, Normal(foretold.mean, np.maximum(foretold.deviation, LEAST * known.std())))
    return Queried(scores, np.ones(len(records), dtype=np.int64), len(population), trainings=1)


def rarity(scores: ArrayLike, foretold: Normal) -> Floats:
    """[n] -log(1 - Phi((s - mu) / sigma)), nats."""
    from scipy.special import log_ndtr

    return np.asarray(-log_ndtr(-(np.asarray(scores) - foretold.mean) / foretold.deviation), dtype=np.float64)


# -- regressors ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearRegressor:
    """mu is linear in the features; sigma^2 is one number, the variance of the population's scores.

    As the reference code has it: sigma is that of the scores, not of what the line leaves over, so levels are
    too near to 1/2 where the features explain much. The order of the records is not touched by it.

    Attributes:
        features: Inputs to [n, d] numbers; of texts, hidden states or `TokenCounts`.
    """

    features: Features = as_rows

    def fit(self, inputs: Inputs, scores: Floats, seed: int) -> Foretell:
        """See `Regressor`."""

        def design(x: Inputs) -> Floats:
            rows = _numbers(self.features(x))
            return np.hstack([np.ones((len(rows), 1)), rows])

        slope = np.linalg.lstsq(design(inputs), scores, rcond=None)[0]
        deviation = float(scores.std())
        return lambda x: Normal(design(x) @ slope, np.full(len(x), deviation))


@dataclass(frozen=True)
class TreeRegressor:
    """Two ensembles of boosted trees: mu, and sigma^2 by the gamma deviance of squared residuals.

    The gamma deviance of r^2 around sigma^2 is, up to a constant, twice the Gaussian negative log-likelihood in sigma,
    and its log link keeps sigma positive. The residuals are of trees that have not seen the record: those of trees
    that have are too small, and with them every sigma. Needs scikit-learn.

    Attributes:
        features: See `LinearRegressor`.
        rounds: Trees of each ensemble. Source: ours.
        lr: Learning rate. Source: ours.
        leaf: Least records of a leaf. Source: ours.
        folds: Parts the population is divided in for the residuals. Source: ours.
    """

    features: Features = as_rows
    rounds: int = 100
    lr: float = 0.1
    leaf: int = 20
    folds: int = 5

    def fit(self, inputs: Inputs, scores: Floats, seed: int) -> Foretell:
        """See `Regressor`.

        Raises:
            InputError: scikit-learn is missing.
        """
        try:
            from sklearn.ensemble import HistGradientBoostingRegressor
        except ModuleNotFoundError:
            raise InputError(
                "Boosted trees need scikit-learn: pip install scikit-learn, or take LinearRegressor."
            ) from None

        def trees(loss: str) -> Any:
            return HistGradientBoostingRegressor(
                loss=loss, max_iter=self.rounds, learning_rate=self.lr, min_samples_leaf=self.leaf,
                early_stopping=False, random_state=seed % 2**32,
            )  # fmt: skip

        x = _numbers(self.features(inputs))
        part = np.random.default_rng([seed, 3]).permutation(len(x)) % min(self.folds, len(x))
        residual = np.empty(len(x))
        for k in np.unique(part):
            residual[part == k] = scores[part == k] - trees("squared_error").fit(
                x[part != k], scores[part != k]
            ).predict(x[part == k])
        mean = trees("squared_error").fit(x, scores)
        least = (LEAST * scores.std()) ** 2
        variance = trees("gamma").fit(x, np.maximum(residual**2, least))

        def foretell(new: Inputs) -> Normal:
            rows = _numbers(self.features(new))
            return Normal(mean.predict(rows), np.sqrt(variance.predict(rows)))

        return foretell


@dataclass(frozen=True)
class NetworkRegressor:
    """A network with two outputs, mu and log sigma, trained by the Gaussian negative log-likelihood.

    Scores are standardised for the training, and the weights of the epoch that is best on a part of the population set
    aside are kept; both ours.

    Attributes:
        build: Makes an untrained module with so many outputs: the architecture of the target, or another.
        epochs: Passes over the population. Source: reference code.
        lr: Learning rate of AdamW. Source: reference code.
        weight_decay: Of AdamW. Source: reference code.
        batch: Records of a step. Source: paper.
        clip: Largest norm of a gradient. Source: reference code.
        validation: Share of the population set aside. Source: ours.
        encode: Texts to a batch; None for numbers.
        device: Where it is trained.
    """

    build: Callable[[int], torch.nn.Module]
    epochs: int = 30
    lr: float = 1e-3
    weight_decay: float = 1e-4
    batch: int = 256
    clip: float = 1.0
    validation: float = 0.1
    encode: Encode | None = None
    device: str = "cpu"

    def fit(self, inputs: Inputs, scores: Floats, seed: int) -> Foretell:
        """See `Regressor`.

        Raises:
            RunError: The likelihood is not finite.
        """
        import torch

        centre, scale = float(scores.mean()), float(scores.std())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**63)
            network = TorchClassifier(self.build(2), classes=2, encode=self.encode, device=self.device)
            self._train(network, inputs, (scores - centre) / scale, np.random.default_rng([seed, 4]))

        def foretell(x: Inputs) -> Normal:
            mean, log_deviation = network.logits(x).T
            return Normal(centre + scale * mean, scale * np.exp(log_deviation.clip(-STEEP, STEEP)))

        return foretell

    def _train(self, network: TorchClassifier, inputs: Inputs, scores: Floats, rng: np.random.Generator) -> None:
        import torch

        order = rng.permutation(len(scores))
        held = min(max(1, round(self.validation * len(scores))), len(scores) - 1)
        apart, kept = order[:held], order[held:]
        module = network.module
        optimizer = torch.optim.AdamW(module.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        best, least = None, np.inf
        for _ in range(self.epochs):
            module.train()
            shuffled = rng.permutation(kept)
            for start in range(0, len(kept), self.batch):
                rows = shuffled[start : start + self.batch]
                optimizer.zero_grad(set_to_none=True)
                self._loss(network, inputs, scores, rows).backward()
                torch.nn.utils.clip_grad_norm_(module.parameters(), self.clip)
                optimizer.step()
            module.eval()
            with torch.inference_mode():
                now = float(np.average(
                    [float(self._loss(network, inputs, scores, rows)) for rows in _batches(apart, self.batch)],
                    weights=[len(rows) for rows in _batches(apart, self.batch)],
                ))  # fmt: skip
            if not np.isfinite(now):
                raise RunError(f"The regressor's likelihood is not finite; lower its learning rate ({self.lr}).")
            if now < least:
                best, least = copy.deepcopy(module.state_dict()), now
        if best is not None:
            module.load_state_dict(best)

    def _loss(self, network: TorchClassifier, inputs: Inputs, scores: Floats, rows: Any) -> torch.Tensor:
        """log sigma + (s - mu)^2 / (2 sigma^2), mean over rows."""
        import torch

        batch = inputs[rows] if isinstance(inputs, np.ndarray) else [inputs[i] for i in rows]
        mean, log_deviation = network.forward(network.tensor(batch)).unbind(-1)
        log_deviation = log_deviation.clamp(-STEEP, STEEP)
        s = torch.from_numpy(scores[rows]).to(mean)
        return (log_deviation + (s - mean) ** 2 * torch.exp(-2 * log_deviation) / 2).mean()


@dataclass(frozen=True)
class TokenCounts:
    """Features of texts for trees and lines: how often each token occurs.

    Attributes:
        encode: Texts to token ids [n, length], or to a mapping that holds them as ``input_ids``.
        size: Number of columns; ids beyond it share columns.
        padding: Id that is not counted.
    """

    encode: Encode
    size: int = 1024
    padding: int | None = 0

    def __call__(self, texts: Sequence[str]) -> Floats:
        """[n, size] counts."""
        batch = self.encode(list(texts))
        ids = np.asarray(batch["input_ids"] if isinstance(batch, Mapping) else batch)
        counts = np.zeros((len(ids), self.size))
        kept = np.ones(ids.shape, dtype=bool) if self.padding is None else ids != self.padding
        np.add.at(counts, (np.nonzero(kept)[0], ids[kept] % self.size), 1.0)
        return counts


def _batches(rows: Any, size: int) -> list[Any]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _numbers(features: Any) -> Floats:
    rows = features if isinstance(features, np.ndarray) else None
    if rows is None or rows.ndim != 2 or not np.issubdtype(rows.dtype, np.number):
        raise InputError("Trees and linear models need [records, features] numbers; texts need `features`.")
    if not np.isfinite(rows).all():
        raise InputError(f"The features of record {int((~np.isfinite(rows)).any(1).argmax()) + 1} are not finite.")
    return np.asarray(rows, dtype=np.float64)
