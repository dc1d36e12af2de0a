"""What can go wrong, said so that the reader knows what to do next."""

from __future__ import annotations


class DtkError(Exception):
    """A fault the user can act on: what happened, what was found, what was expected, what to do.

    The command line prints it without a traceback and exits with ``exit_code``.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        found: object = None,
        expected: object = None,
        do: str | None = None,
    ) -> None:
        parts = {"found": found, "expected": expected, "do": do}
        lines = [what, *(f"  {name}: {text}" for name, text in parts.items() if text is not None)]
        super().__init__("\n".join(lines))
        self.what, self.found = what, found


class UsageError(DtkError):
    """The command itself cannot be meant this way: an unknown name, an impossible option."""

    exit_code = 2


class UnreachableError(DtkError):
    """A target that no network meets, or that this machine cannot tell to be met; another may be."""


class MissingToolError(DtkError):
    """An optional package or program that this step needs is not installed."""

    exit_code = 3


def unknown(kind: str, name: str, known: list[str]) -> UsageError:
    """The error for a name that no registry holds."""
    return UsageError(f"Unknown {kind} {name!r}.", expected=f"one of {', '.join(sorted(known))}")


def first_line(error: BaseException, holding: str = "") -> str:
    """The first line of an error's message that holds ``holding``, else its first line, else its kind."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if holding in line), lines[0]).strip()
