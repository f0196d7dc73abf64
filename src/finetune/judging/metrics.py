"""How good outputs are: metrics by name, each a function of targets and outputs.

Where an example has one class, targets are int64 [n] and outputs probabilities [n, k]; where it has any number of
them, targets are 0 or 1 [n, k] and outputs probabilities [n, k]; where numbers are learnt, both are numbers [n, k].
scikit-learn computes what takes more than a line of numpy.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.examples.tasks import MANY_CLASSES, NUMBERS, ONE_CLASS
from finetune.judging.curves import reliability
from finetune.names import did_you_mean

Measure = Callable[[Any, Any], Any]

LESS_IS_BETTER = frozenset({"loss", "log_loss", "brier", "ece", "hamming", "mae", "rmse", "median_ae"})
_TOP = re.compile(r"top([1-9]\d*)")
_TINY = np.finfo(np.float32).eps  # what a probability of 0 counts as


@dataclass(frozen=True)
class Metric:
    """A function of targets and outputs.

    Where there is `then`, `of` gives a value for each example, [n] or several [n, m], and `then` what their means, over
    n, make of the metric. `is_asked` means that scikit-learn computes it.
    """

    of: Measure
    then: Callable[[Any], Any] | None = None
    is_asked: bool = False


def the_mean(means: Any) -> Any:
    """The metric is the mean itself."""
    return means


def _mean(of: Measure) -> Metric:
    return Metric(of, the_mean)


def _asked(name: str, read: Callable[[Any], Any] = lambda outputs: outputs, **options: Any) -> Metric:
    """A function of `sklearn.metrics`, of targets and what `read` makes of the outputs."""

    def measure(targets: Any, outputs: Any) -> Any:
        from sklearn import metrics

        return getattr(metrics, name)(targets, read(outputs), **options)

    return Metric(measure, is_asked=True)


def _guess(outputs: Any) -> Any:
    return outputs.argmax(axis=1)


def _decided(outputs: Any) -> Any:
    return outputs >= 0.5


def _hot(targets: Any, outputs: Any) -> Any:
    return targets if targets.ndim == 2 else np.eye(outputs.shape[1], dtype=bool)[targets]


def _by_class(name: str) -> Metric:
    """The mean over the classes that some examples have and others have not; nothing is known of the rest."""

    def measure(targets: Any, outputs: Any) -> Any:
        from sklearn import metrics

        hot = _hot(targets, outputs) > 0
        known = np.flatnonzero(hot.any(axis=0) & ~hot.all(axis=0))
        return np.mean([getattr(metrics, name)(hot[:, i], outputs[:, i]) for i in known]) if known.size else np.nan

    return Metric(measure, is_asked=True)


def _top(k: int) -> Metric:
    """Whether fewer than k classes come before the right one; of equal ones the first in the list comes first."""

    def measure(targets: Any, outputs: Any) -> Any:
        own = outputs[np.arange(len(targets)), targets][:, np.newaxis]
        earlier = np.arange(outputs.shape[1]) < targets[:, np.newaxis]
        return ((outputs > own) | ((outputs == own) & earlier)).sum(axis=1) < k

    return _mean(measure)


def _surprise(targets: Any, outputs: Any) -> Any:
    hot = _hot(targets, outputs) > 0
    if targets.ndim == 1:
        return -np.log(np.maximum(outputs[hot], _TINY))
    return -np.log(np.maximum(np.where(hot, outputs, 1 - outputs), _TINY)).mean(axis=1)


def _squares(targets: Any, outputs: Any) -> Any:
    return np.square(outputs - _hot(targets, outputs))


def _calibration_error(targets: Any, outputs: Any) -> Any:
    """The expected calibration error over bins of equal width (Guo et al. 2017)."""
    bins = reliability(targets, outputs)
    return sum(b["examples"] * abs(b["confidence"] - b["right"]) for b in bins) / sum(b["examples"] for b in bins)


def _found(targets: Any, outputs: Any) -> Any:
    """Of each example twice the classes that are rightly found, and those that are there with those that are said."""
    there, said = targets > 0, _decided(outputs)
    return np.stack([2 * (there & said).sum(axis=1), there.sum(axis=1) + said.sum(axis=1)], axis=1)


def _correlation(ranked: bool) -> Metric:
    """The mean over the outputs of Pearson's correlation, or of Spearman's, which is Pearson's of the ranks."""

    def measure(targets: Any, outputs: Any) -> Any:
        pairs = [np.stack(pair) for pair in zip(targets.T, outputs.T, strict=True)]
        if ranked:
            from scipy.stats import rankdata

            pairs = [rankdata(pair, axis=1) for pair in pairs]
        return np.mean([np.corrcoef(pair)[0, 1] for pair in pairs])

    return Metric(measure, is_asked=ranked)


ONE: dict[str, Metric] = {
    "accuracy": _mean(lambda targets, outputs: _guess(outputs) == targets),
    "balanced_accuracy": _asked("balanced_accuracy_score", _guess),
    "f1_macro": _asked("f1_score", _guess, average="macro", zero_division=0.0),
    "auc": _by_class("roc_auc_score"),
    "log_loss": _mean(_surprise),
    "brier": _mean(lambda targets, outputs: _squares(targets, outputs).sum(axis=1)),
    "ece": Metric(_calibration_error),
    "mcc": _asked("matthews_corrcoef", _guess),
    "kappa": _asked("cohen_kappa_score", _guess),
}
MANY: dict[str, Metric] = {
    "f1_micro": Metric(_found, lambda means: means[..., 0] / np.maximum(means[..., 1], _TINY)),
    "f1_macro": _asked("f1_score", _decided, average="macro", zero_division=0.0),
    "average_precision": _by_class("average_precision_score"),
    "auc": _by_class("roc_auc_score"),
    "subset_accuracy": _mean(lambda targets, outputs: (_decided(outputs) == (targets > 0)).all(axis=1)),
    "hamming": _mean(lambda targets, outputs: (_decided(outputs) != (targets > 0)).mean(axis=1)),
    "log_loss": _mean(_surprise),
    "brier": _mean(lambda targets, outputs: _squares(targets, outputs).mean(axis=1)),
    "ece": Metric(_calibration_error),
}
VALUES: dict[str, Metric] = {
    "mae": _mean(lambda targets, outputs: np.abs(outputs - targets).mean(axis=1)),
    "rmse": Metric(lambda targets, outputs: np.square(outputs - targets).mean(axis=1), np.sqrt),
    "r2": _asked("r2_score"),
    "median_ae": _asked("median_absolute_error"),
    "pearson": _correlation(ranked=False),
    "spearman": _correlation(ranked=True),
}
BY_LOSS = {**dict.fromkeys(ONE_CLASS, ONE), **dict.fromkeys(MANY_CLASSES, MANY), **dict.fromkeys(NUMBERS, VALUES)}
USUAL = {**dict.fromkeys(ONE_CLASS, ("accuracy",)), **dict.fromkeys(MANY_CLASSES, ("f1_micro",))}
USUAL |= dict.fromkeys(NUMBERS, ("mae", "rmse"))


def find(name: str, loss: str) -> Metric | None:
    """The metric of that name for heads of that loss; None if it makes no sense for them."""
    top = _TOP.fullmatch(name)
    return _top(int(top[1])) if top and loss in ONE_CLASS else BY_LOSS[loss].get(name)


def chosen(names: Sequence[str], loss: str) -> tuple[str, ...]:
    """Which of the names, in their order, a head of that loss has; the usual ones if none."""
    return tuple(name for name in names if find(name, loss)) or USUAL[loss]


def check(names: Sequence[str], losses: Iterable[str]) -> None:
    """Refuses a metric that none of the heads has, or that cannot be computed here.

    Raises:
      UserError: naming those that there are, or what is to be installed.
    """
    losses = tuple(losses)
    there = dict.fromkeys(name for loss in losses for name in BY_LOSS[loss])
    if set(losses) & set(ONE_CLASS):
        there["top5"] = None
    for name in names:
        found = [metric for loss in losses if (metric := find(name, loss))]
        if not found:
            what = f"'{name}' is no metric of head.loss={'/'.join(dict.fromkeys(losses))}; there are {', '.join(there)}"
            raise UserError("recipe", "eval.metrics", what, did_you_mean(name, list(there)))
        if any(metric.is_asked for metric in found) and importlib.util.find_spec("sklearn") is None:
            what = f"'{name}' is computed by scikit-learn, which is not installed"
            raise UserError("recipe", "eval.metrics", what, "pip install 'finetune[report]'")


def values(metric: Metric, targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """What the metric is of each example, or, where that has no meaning, of all; float64.

    It is NaN where it is not defined. The outputs have to be numbers.
    """
    # What is not defined, as a correlation with a constant, is NaN, and that says it.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return np.asarray(metric.of(targets, outputs.astype(np.float64)), np.float64)


def measure(name: str, loss: str, targets: np.ndarray, outputs: np.ndarray) -> float:
    """One metric as a number; NaN where an output is none, or it is not defined."""
    metric = find(name, loss)
    assert metric is not None, name
    if not np.isfinite(outputs).all():
        return float("nan")
    found = values(metric, targets, outputs)
    return float(found if metric.then is None else metric.then(found.mean(axis=0)))
