"""Accuracy under occlusion, patch shuffling and corruptions, by a head trained on clean images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from benchmark.dataset import Dataset
from benchmark.errors import UserError, at_least
from benchmark.precision import autocast, full_precision
from benchmark.streams import Streams, permutation
from benchmark.task import Forwards, Task, TaskResult
from benchmark.views import plain_view
from tasks.accuracy import percent
from tasks.corruptions import CORRUPTIONS, Disturb, occlude, shuffle_patches, strengths
from tasks.features import EVAL_BATCH, Inputs, examples, unchanged, working_copy
from tasks.grid import listed, numbers, whole_numbers
from tasks.linear import LinearProbe

_PIXELS = 2**22  # of images disturbed at once: their noise takes some hundred bytes each


@dataclass(frozen=True)
class Disturbance:
    """One way to disturb images, at growing strengths.

    Attributes:
        name: as it is reported.
        apply: to pixels in [0, 1], at a strength.
        strengths: those that are scored, the weakest first.
    """

    name: str
    apply: Disturb
    strengths: Sequence[int | float]


class Robustness(Task[nn.Module]):
    """Accuracy of a linear probe on disturbed test images.

    The probe is trained once, on clean images. Test images are disturbed as the encoder would see
    them, before they are normalised. Draws depend on the evaluation seed and the sample alone, so
    every method is scored on the same disturbed images.

    Occlusion hides cells of a grid under the data set's mean colour, which is what masks hide with
    in pretraining by default (``fill=zero``): there methods have an advantage that saw masks.

    Args:
        probe: trains the head.
        occlusion: shares of the cells to hide, growing; empty leaves occlusion out.
        occlusion_cells: number of cells along a side.
        shuffle: numbers of patches along a side, growing; empty leaves shuffling out.
        corruptions: names in `tasks.corruptions.CORRUPTIONS`, each at five severities.
        count: test images to score, the same ones for every encoder and seed; None for all.

    Raises:
        UserError: for values that do not exist or are out of range.
    """

    version: ClassVar[int] = 1
    needs: ClassVar[Literal["labels", "pixel_labels", "segments"]] = "labels"

    def __init__(
        self,
        *,
        probe: LinearProbe,
        occlusion: float | Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        occlusion_cells: int = 8,
        shuffle: int | Sequence[int] = (2, 4, 8),
        corruptions: str | Sequence[str] = tuple(CORRUPTIONS),
        count: int | None = None,
    ) -> None:
        shares = numbers("robustness", "occlusion", occlusion) if listed(occlusion) else ()
        if not all(0 < share <= 1 for share in shares) or list(shares) != sorted(shares):
            raise UserError(
                f"robustness: occlusion={occlusion} must be growing shares above 0 and at most 1"
            )
        at_least(1, "robustness: ", occlusion_cells=occlusion_cells)
        grids = whole_numbers("robustness", "shuffle", shuffle) if listed(shuffle) else ()
        if not all(grid > 1 for grid in grids) or list(grids) != sorted(grids):
            raise UserError(f"robustness: shuffle={shuffle} must be growing whole numbers above 1")
        names = tuple(listed(corruptions))
        for name in names:
            if name not in CORRUPTIONS:
                known = ", ".join(CORRUPTIONS)
                raise UserError(f"robustness: corruptions={name} is not one of {known}")
        if len(set(names)) < len(names):
            raise UserError(f"robustness: corruptions={corruptions} must be different ones")
        if not (shares or grids or names):
            raise UserError(
                "robustness: occlusion, shuffle and corruptions are all empty; give one of them"
            )
        if count is not None:
            at_least(1, "robustness: ", count=count)
        self.probe = probe
        self.occlusion = shares
        self.occlusion_cells = occlusion_cells
        self.shuffle = grids
        self.corruptions = names
        self.count = count
        self.protocol = self._protocol()

    def _protocol(self) -> str:
        cells = self.occlusion_cells
        parts = []
        if self.occlusion:
            shares = ", ".join(f"{share:g}" for share in self.occlusion)
            parts.append(f"{shares} of {cells}x{cells} cells hidden under the mean colour")
        if self.shuffle:
            grids = ", ".join(f"{grid}x{grid}" for grid in self.shuffle)
            parts.append(f"{grids} patches shuffled")
        if self.corruptions:
            names = ", ".join(name.replace("_", " ") for name in self.corruptions)
            parts.append(f"{names} at severities 1 to 5 of arXiv 1903.12261 for the image size")
        scored = "all test images" if self.count is None else f"{self.count} test images drawn once"
        return (
            f"{self.probe.protocol.removesuffix('.')}; the same classifier on {scored} disturbed: "
            f"{'; '.join(parts)}; mean over strengths, then over kinds of disturbance."
        )

    def check(self, encoder: nn.Module, data: Dataset) -> None:
        """Refuse what the probe refuses, and grids that do not fit the images."""
        self.probe.check(encoder, data)
        side = data.image_size
        if self.occlusion and self.occlusion_cells > side:
            raise UserError(
                f"robustness: occlusion_cells={self.occlusion_cells} exceeds the {side} pixels of "
                f"{data.name!r}; choose a smaller number"
            )
        for grid in self.shuffle:
            if side % grid:
                raise UserError(
                    f"robustness: shuffle={grid} does not divide the {side} pixels of "
                    f"{data.name!r}; choose numbers that do"
                )

    def forwards(self, encoder: nn.Module, data: Dataset) -> list[Forwards]:
        """See the contract: the probe's, and each disturbed copy of the images scored."""
        assert data.test is not None
        copies = sum(len(kind.strengths) for kind in self._disturbances(data))
        images = copies * min(self.count or len(data.test), len(data.test))
        return [*self.probe.forwards(encoder, data), Forwards(encoder, data.image_size, images)]

    def run(
        self, subject: nn.Module, data: Dataset, *, eval_seed: int, device: torch.device
    ) -> TaskResult:
        """Train the probe on ``data.train`` and score it on ``data.test``, clean and disturbed."""
        self.check(subject, data)
        images, labels = examples(data, "test", "labels")
        inputs = Inputs.of(data, device)
        body = working_copy(subject, device, freeze=True)
        scored = permutation(0, "robustness/images", 0, len(images))[: self.count].sort().values

        @torch.no_grad()
        def hits(disturb: Disturb | None = None, strength: int | float = 0) -> Bool[Tensor, "n"]:
            found: list[Tensor] = []
            for index in scored.split(min(EVAL_BATCH, max(1, _PIXELS // data.image_size**2))):
                pixels = plain_view(images[index].to(device), data.view_size, data.view)
                if disturb is not None:
                    streams = Streams(eval_seed, 0, index.to(device), "robustness/")
                    pixels = disturb(pixels, strength, streams)
                with autocast(self.probe.precision, device):
                    features = full_precision(body(inputs(pixels)))
                found.append(head(features).argmax(1).cpu() == labels[index])
            return torch.cat(found)

        kinds = self._disturbances(data)
        with unchanged(body):
            head, _, details = self.probe.fit(body, data, eval_seed=eval_seed, device=device)
            clean = percent(hits())
            right = {
                kind.name: torch.stack([hits(kind.apply, strength) for strength in kind.strengths])
                for kind in kinds
            }
        curves = {name: [percent(row) for row in rows] for name, rows in right.items()}
        means = {name: sum(curve) / len(curve) for name, curve in curves.items()}
        metrics = {
            "mean_accuracy": sum(means.values()) / len(means),
            "clean_accuracy": clean,
            **{f"{name}_accuracy": mean for name, mean in means.items()},
        }
        return TaskResult(
            metrics,
            {
                "strengths": {kind.name: list(kind.strengths) for kind in kinds},
                # Severity 0 is the clean image.
                "accuracy": {name: [clean, *curve] for name, curve in curves.items()},
                **details,
            },
            # The same mean over strengths, then over kinds.
            {"score": torch.stack([r.double().mean(0) for r in right.values()]).mean(0).numpy()},
        )

    def _disturbances(self, data: Dataset) -> list[Disturbance]:
        hide = partial(occlude, cells=self.occlusion_cells, colour=data.mean)
        kinds = [
            Disturbance("occlusion", hide, self.occlusion),
            Disturbance("shuffle", shuffle_patches, self.shuffle),
        ]
        kinds += [
            Disturbance(name, CORRUPTIONS[name][0], strengths(name, data.image_size))
            for name in self.corruptions
        ]
        return [kind for kind in kinds if kind.strengths]
