"""How what a function found is shown: as JSON with ``to_json()``, as tables and pictures in a notebook."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True)
class Result:
    """What a function found. ``folder`` is what it wrote, None if nothing."""

    _record: Mapping[str, Any] = field(repr=False)
    folder: Path | None = None
    _tables: ClassVar[Callable[[Any], Iterable[Any]]]
    _pictures: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> dict[str, Json]:
        """All of it: what the command prints with --json."""
        return deepcopy(dict(self._record))

    def tables(self) -> Iterable[object]:
        """Lines and rich's tables of what was found, as the command prints them."""
        yield from type(self)._tables(self._record)

    def _repr_html_(self) -> str:
        console = Console(record=True, file=io.StringIO(), width=110, markup=False)
        for part in self.tables():
            console.print(part, highlight=False)
        text = console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
        paths = [self.folder / name for name in self._pictures] if self.folder else []
        return text + "".join(_picture(path) for path in paths if path.is_file())


def _picture(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".svg":
        return content.decode()
    return f'<img alt="{path.stem}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
