"""Mistakes of the user, told in one sentence."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user asked for: one sentence with value, allowed values, remedy."""


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
