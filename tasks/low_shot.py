"""Low-shot classification: how well frozen features tell classes apart by few labels."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from benchmark.dataset import Dataset
from benchmark.errors import UserError, at_least
from benchmark.precision import check_precision
from benchmark.task import Task, TaskResult
from tasks.accuracy import class_pairs
from tasks.features import check_size, examples, frozen_features
from tasks.grid import Grid, HeldOut, numbers
from tasks.selection import class_ranks, class_shares, sizes

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression


class LowShot(Task[nn.Module]):
    """Top-1 accuracy of a logistic regression on frozen features of a few labelled images.

    As in the low-shot evaluation of MSN (arXiv 2204.07141) and the linear one of CLIP (arXiv
    2103.00020, appendix A.3): with an L2 penalty, solved by L-BFGS. The problem is convex, so that
    no learning rate or number of epochs favours a method, and with few labels it costs seconds.
    The strength of the penalty is chosen by cross-validation among the labelled images.

    Those are drawn by the evaluation seed, the same for every encoder: a share of each class, and
    at least one image; a larger fraction contains the smaller ones.

    Args:
        fractions: shares of the train split that are labelled, each scored by itself.
        c: inverse strengths of the penalty to choose from, scikit-learn's ``C``.
        folds: of the cross-validation; a class with fewer images is spread over as many folds as
            it has images, and one with a single image is never held out.
        c_alone: ``c`` where no class has two labelled images, so that nothing can be held out.
        max_iterations: of L-BFGS.
        precision: "fp32" or "bf16", for the encoder.

    Raises:
        UserError: for values that are out of range or contradict each other.
    """

    version: ClassVar[int] = 1
    needs: ClassVar[Literal["labels", "pixel_labels", "segments"]] = "labels"

    def __init__(
        self,
        *,
        fractions: list[float],
        c: float | list[float],
        folds: int = 5,
        c_alone: float = 1e-3,
        max_iterations: int = 1000,
        precision: str = "fp32",
    ) -> None:
        self.fractions = numbers("low_shot", "fractions", fractions)
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise UserError(
                    f"low_shot: fractions={fractions} must be above 0 and at most 1 each"
                )
        self.c = tuple(sorted(numbers("low_shot", "c", c)))
        for value in (*self.c, c_alone):
            if value <= 0:
                raise UserError(f"low_shot: c={value:g} must be above 0")
        at_least(2, "low_shot: ", folds=folds)
        at_least(1, "low_shot: ", max_iterations=max_iterations)
        check_precision(precision)
        self.grid = Grid(purpose="low_shot", values={"c": self.c})
        self.folds = folds
        self.c_alone = c_alone
        self.max_iterations = max_iterations
        self.precision = precision
        shares = ", ".join(f"{100 * fraction:g}%" for fraction in self.fractions)
        strengths = f"inverse strength C={self.c[0]:g}"
        if len(self.c) > 1:
            strengths = (
                f"inverse strength C the best of {', '.join(f'{v:g}' for v in self.c)} by top-1 "
                f"accuracy in {folds}-fold cross-validation among the labelled images ({c_alone:g} "
                "where no class has two)"
            )
        self.protocol = (
            f"Logistic regression on frozen features of the labelled images, {shares} of each "
            "class of the train split and at least one image, standardised by the whole "
            f"train split: L2 penalty with {strengths}, at most {max_iterations} iterations of "
            f"L-BFGS, encoder in {precision}; top-1 accuracy on un-augmented test images."
        )

    def check(self, encoder: nn.Module, data: Dataset) -> None:
        """Refuse a size that the encoder does not take, and data with a single class."""
        check_size(encoder, data)
        _, labels = examples(data, "train", "labels")
        if int(labels.min()) == int(labels.max()):
            raise UserError(
                f"low_shot: the train split of {data.name!r} has one class only; choose data with "
                "several or leave the task out"
            )

    def run(
        self, subject: nn.Module, data: Dataset, *, eval_seed: int, device: torch.device
    ) -> TaskResult:
        """Fit a classifier to each fraction of ``data.train`` and score it on ``data.test``."""
        self.check(subject, data)
        found = frozen_features(subject, data, ("train", "test"), self.precision, device)
        (features, labels), (test_features, test_labels) = found["train"], found["test"]
        mean, variance = features.mean(0), features.var(0, correction=0)

        def standardised(x: Float[Tensor, "n d"]) -> Float[np.ndarray, "n d"]:
            return F.batch_norm(x, mean, variance).double().cpu().numpy()

        ranks = class_ranks(labels, eval_seed, "low_shot/labelled")
        metrics: dict[str, float] = {}
        details: dict[str, Any] = {}
        per_image: dict[
            str, np.ndarray
        ] = {}  # of the first fraction, whose accuracy is the main one
        edges: list[str] = []
        for fraction in self.fractions:
            labelled = (ranks < class_shares(labels, fraction)).nonzero()[:, 0]
            known, classes = standardised(features[labelled]), labels[labelled].numpy()
            fitted, chosen = self._fit(known, classes, ranks[labelled])
            predicted = fitted.predict(standardised(test_features))
            hits = predicted == test_labels.numpy()
            per_image = per_image or class_pairs(torch.from_numpy(predicted), test_labels)
            percent = f"{100 * fraction:g}"
            if warning := chosen.pop("warning", None):
                edges.append(f"{percent}%: {warning}")
            metrics[f"accuracy_{percent}pct"] = 100 * float(np.mean(hits))
            details[f"{percent}pct"] = {"labels": len(labelled), **chosen}
        if edges:
            details["warning"] = "; ".join(edges)
        return TaskResult(metrics, details, per_image)

    def _fit(
        self,
        features: Float[np.ndarray, "n d"],
        labels: Int[np.ndarray, "n"],
        ranks: Int[Tensor, "n"],
    ) -> tuple[LogisticRegression, dict[str, Any]]:
        """The classifier, and how its ``c`` was chosen: of equally good ones the smallest."""
        # Here, as scikit-learn takes long to import.
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, PredefinedSplit

        # Of a class with one image, that image is in every training part.
        alone = sizes(torch.from_numpy(labels)) == 1
        folds = (ranks % self.folds).masked_fill(alone, -1).numpy()
        c = self.c[0] if len(self.c) == 1 else self.c_alone
        details: dict[str, Any] = {"chosen": {"c": c}}
        model = LogisticRegression(max_iter=self.max_iterations)
        # NumPy's own number of threads would be another one than the run's, which decides bytes.
        with threadpool_limits(torch.get_num_threads()), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the details tell
            if len(self.c) > 1 and not alone.all():
                split = PredefinedSplit(folds)
                search = GridSearchCV(
                    model, {"C": self.c}, cv=split, error_score="raise", refit=False
                )
                means = search.fit(features, labels).cv_results_["mean_test_score"]
                scores = [HeldOut(100 * float(mean)) for mean in means]
                best, details = self.grid.choose(scores, "cross_validated")
                c = self.c[best]
            model.set_params(C=c).fit(features, labels)
        return model, {**details, "iterations": int(model.n_iter_.max())}
