"""Who moves when, and by which forwards: the rules of the game between encoder and adversary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmark.errors import UserError, at_least

UPDATES = ("alternating", "simultaneous", "low_memory")


@dataclass(frozen=True)
class Turns:
    """Who moves when; the defaults are those of the ADIOS code.

    Attributes:
        encoder_steps: encoder steps for each turn of the adversary.
        mask_steps: steps of the adversary in its turn.
        first: "encoder" or "mask", the player that opens a step in which both move.
        encoder_mode: "train" or "eval", the encoder's mode in the adversary's turn: BatchNorm by
            the batch or by the running statistics.

    Raises:
        UserError: for values out of range.
    """

    encoder_steps: int = 1
    mask_steps: int = 1
    first: str = "encoder"
    encoder_mode: str = "train"

    def __post_init__(self) -> None:
        at_least(1, "turns.", encoder_steps=self.encoder_steps, mask_steps=self.mask_steps)
        for key, allowed in (("first", ("encoder", "mask")), ("encoder_mode", ("train", "eval"))):
            if getattr(self, key) not in allowed:
                raise UserError(
                    f"turns.{key}={getattr(self, key)} is not one of {', '.join(allowed)}"
                )

    def players(self, step: int) -> list[Literal["encoder", "mask"]]:
        """The moves of a step, in order."""
        if (step + 1) % self.encoder_steps:
            return ["encoder"]
        adversary: list[Literal["encoder", "mask"]] = ["mask"] * self.mask_steps
        return [*adversary, "encoder"] if self.first == "mask" else ["encoder", *adversary]


def check_update(update: str, turns: Turns, *, unmasked_pair: bool, same_masks: bool) -> None:
    """Refuse an update that there is not, and one forward for both players where they need two.

    Raises:
        UserError: naming the setting in the way.
    """
    if update not in UPDATES:
        raise UserError(f"update={update} is not one of {', '.join(UPDATES)}")
    if update != "simultaneous":
        return
    wanted = "use update=alternating"
    if turns != Turns():
        raise UserError(
            f"update=simultaneous has both players move at once and no turns.*; {wanted}"
        )
    if unmasked_pair:
        raise UserError(
            f"update=simultaneous trains both players on the same slots, and unmasked_pair=true "
            f"gives the encoder one more; {wanted}"
        )
    if not same_masks:
        raise UserError(
            "update=simultaneous trains both players on the same masks, which this method does "
            f"not show to both; {wanted}"
        )
