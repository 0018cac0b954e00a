"""The machines that every release is checked with (``machines.toml``), and the page about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from .machine import Hardware, Machine, checked


class Row(Hardware, frozen=True, forbid_unknown_fields=True):
    """A machine of ``machines.toml`` and the wheel that it must get there; the file's head describes the keys."""

    group: str
    name: str
    gets: str
    uv: str | None = None
    lacks: str | None = None
    smi: str = "absent"
    platform: str = "linux_x86_64"

    def machine(self) -> Machine:
        """The machine itself."""
        return checked(Machine(self.platform, **{name: getattr(self, name) for name in Hardware.__struct_fields__}))


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    machine: list[Row]


def table(file: Path = Path(__file__).parent / "machines.toml") -> list[Row]:
    """The machines that every release is checked with."""
    return msgspec.toml.decode(file.read_bytes(), type=_Table).machine


def markdown(rows: Sequence[Row] | None = None) -> str:
    """The table as a page of the documentation."""
    lines = [
        "# Which machine gets which wheel",
        "",
        "From an index with every label of the matrix, on each of its platforms. *Plain* is the wheel without a label, the CPU",
        "core alone; *nothing*: no wheel fits. `nox -s installers` asks the newest uv, variantlib's resolver and `explain` about",
        "every row, with small wheels that carry the matrix's labels, and all three must agree. The last column is pip, poetry,",
        "pdm, `uv lock`, and uv without its preview feature.",
        "",
        "This page is made from `variants/choice/machines.toml`: `nox -s docs`.",
    ]
    group = None
    for row in table() if rows is None else rows:
        if not row.preview:
            continue
        if row.group != group:
            group = row.group
            lines += [
                "",
                f"## {group}",
                "",
                "| machine | every provider | uv 0.13 with `wheel-variants` | others |",
                "|---|---|---|---|",
            ]
        uv = f"{row.uv}, since it lacks the provider of `{row.lacks}`" if row.uv else row.gets
        lines.append(f"| {row.name} | {row.gets} | {uv} | {'nothing' if row.gets == 'nothing' else 'plain'} |")
    return "\n".join(lines) + "\n"
