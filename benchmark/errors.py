"""Mistakes of the user, told in one sentence."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user asked for: one sentence with value, allowed values, remedy.

    It stays on one line and moves no cursor, whatever the value was: what cannot be printed is
    escaped.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(
            "".join(c if c.isprintable() else ascii(c)[1:-1] for c in sentence.strip())
        )


def at_least(least: int, prefix: str = "", **settings: int) -> None:
    """Refuse settings below a bound.

    Args:
        least: the bound.
        prefix: what precedes the name of a setting in the message, as "method.".
        settings: values by name.

    Raises:
        UserError: naming the first that is too small.
    """
    for name, value in settings.items():
        if value < least:
            raise UserError(f"{prefix}{name}={value} must be at least {least}")


def at_most(most: int, prefix: str = "", **settings: int) -> None:
    """Refuse settings above a bound: a slip that only a full memory would show, or years of work.

    Args:
        most: the bound.
        prefix: as of `at_least`.
        settings: values by name.

    Raises:
        UserError: naming the first that is too large.
    """
    for name, value in settings.items():
        if value > most:
            raise UserError(f"{prefix}{name}={value} must be at most {most}")
