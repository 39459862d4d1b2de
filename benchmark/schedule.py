"""Schedules in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from benchmark.errors import UserError

Curve = Literal["linear", "cosine"]
Value = float | Mapping[str, Any]  # what a configuration may say: a number, or a ramp's keys


@dataclass(frozen=True)
class Ramp:
    """A number that may change with the progress of training: the curriculum of a ratio or budget.

    Attributes:
        start: value up to ``begin``.
        end: value from ``until`` on.
        begin: share of training at which the change begins.
        until: share of training at which it is complete.
        curve: "linear", or "cosine" for half a wave, flat at both ends.
    """

    start: float
    end: float
    begin: float = 0.0
    until: float = 1.0
    curve: Curve = "linear"

    @classmethod
    def parse(cls, name: str, value: object) -> Ramp:
        """Read a number, or a mapping with ``start``, ``end`` and optionally the other attributes.

        Raises:
            UserError: naming the key, for anything else.
        """
        if isinstance(value, Mapping):
            problem = _ramp_problem(value)
            if problem is None:
                numbers = {k: float(v) for k, v in value.items() if k != "curve"}
                return cls(**numbers, curve=cast(Curve, value.get("curve", "linear")))
        elif _is_number(value):
            return cls(float(value), float(value))  # type: ignore[arg-type]
        else:
            problem = f"{value!r} is no number"
        raise UserError(
            f"{name}: {problem}; give a number, or {{start: 0.1, end: 0.3}} with optional begin "
            f"and until (shares of training) and curve ({' or '.join(get_args(Curve))})"
        )

    @classmethod
    def share(cls, name: str, value: object) -> Ramp:
        """Read a number or ramp that stays between 0 and 1.

        Raises:
            UserError: naming the key, for anything else.
        """
        ramp = cls.parse(name, value)
        for end in ramp.ends:
            if not 0 < end < 1:
                raise UserError(f"{name}={end} must lie between 0 and 1, both excluded")
        return ramp

    def at(self, progress: float) -> float:
        """The value when ``progress`` of the training, in [0, 1], is done."""
        if self.start == self.end:
            return self.start
        done = min(max((progress - self.begin) / (self.until - self.begin), 0.0), 1.0)
        if self.curve == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.start + (self.end - self.start) * done

    @property
    def ends(self) -> tuple[float, float]:
        """Both extremes, since the curves are monotonous."""
        return self.start, self.end


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _ramp_problem(value: Mapping[str, Any]) -> str | None:
    known = {"start", "end", "begin", "until", "curve"}
    if unknown := set(value) - known:
        return f"unknown {sorted(unknown)[0]!r}"
    if absent := {"start", "end"} - set(value):
        return f"lacks {sorted(absent)[0]!r}"
    for key in known - {"curve"}:
        if key in value and not _is_number(value[key]):
            return f"{key}={value[key]!r} is no number"
    if not 0 <= value.get("begin", 0) < value.get("until", 1) <= 1:
        return f"begin={value.get('begin', 0)} and until={value.get('until', 1)} are no interval"
    if value.get("curve", "linear") not in get_args(Curve):
        return f"curve={value['curve']!r} is unknown"
    return None


def warmup_cosine(tick: int, *, base: float, start: float, warmup: int, total: int) -> float:
    """Linear warm-up, then a cosine to 0, over ticks that are epochs or steps.

    The last warm-up tick has the base value; this is the form that the ADIOS code takes from
    lightning-bolts.

    Args:
        tick: 0 to ``total - 1``.
        base: value after the warm-up.
        start: value at tick 0 if there is a warm-up.
        warmup: ticks of warm-up.
        total: ticks of training.
    """
    if tick < warmup:
        return start + tick * (base - start) / max(warmup - 1, 1) if warmup > 1 else base
    return base * (1 + math.cos(math.pi * (tick - warmup) / max(total - warmup, 1))) / 2


def ema_decay(progress: float, base: float) -> float:
    """Decay of an EMA teacher, a cosine from ``base`` to 1 (BYOL, arXiv 2006.07733, sec. 3.2)."""
    return 1 - (1 - base) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Schedule:
    """Learning rates of both players.

    Attributes:
        per: "epoch" or "step", the tick with which the rate changes.
        warmup_epochs: linear warm-up.
        warmup_start_lr: rate at the first tick of the warm-up.
    """

    per: str
    warmup_epochs: float
    warmup_start_lr: float

    def rate(self, base: float, *, step: int, steps_per_epoch: int, epochs: int) -> float:
        """The rate of a step."""
        ticks_per_epoch = steps_per_epoch if self.per == "step" else 1
        return warmup_cosine(
            step if self.per == "step" else step // steps_per_epoch,
            base=base,
            start=self.warmup_start_lr,
            warmup=round(self.warmup_epochs * ticks_per_epoch),
            total=epochs * ticks_per_epoch,
        )
