"""An error of another library in one line, whatever its message is like."""

from __future__ import annotations

import pytest

from toolkit.core.errors import first_line


@pytest.mark.parametrize(
    ("error", "holding", "expected"),
    [
        (RuntimeError("\n lost device\nat line 3"), "", "lost device"),
        (RuntimeError(), "", "RuntimeError"),
        (KeyError("\n"), "", r"'\n'"),
        (ValueError("cannot load\n  Unsupported global: x\n"), "Unsupported", "Unsupported global: x"),
        (ValueError("cannot load\nUnsupported"), "absent", "cannot load"),
    ],
)
def test_one_line_is_taken_of_any_error(error: Exception, holding: str, expected: str) -> None:
    assert first_line(error, holding) == expected
