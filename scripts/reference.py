"""Write docs/reference.md from what the code says of itself: ``python scripts/reference.py``; a test sees that it is current."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "reference.md"
PACKAGES = ("nbdream", "nbdream.steps", "nbdream.llms", "nbdream.trainers")
VALUES = {
    "text": "text",
    "integer": "whole number",
    "number": "number",
    "flag": "",
    "expression": "Python expression",
    "model": "model",
    "names": "names",
    "value": "YAML",
}
HEAD = """\
# Reference

Made by `make docs` from the code. The tour with examples is in the [README](../README.md).

## How a cell is read

`%%MAGIC NAME [options]`: the result is bound to the variable `NAME` and shown; `NAME <<` binds it without showing. Options stand on the line, or as YAML keys between two `---` lines at the top of the body (the first line of the body is then exactly `---`); never in both places. YAML is version 1.2: `1e-4` is a number, `yes` and `on` are text. An unknown option or key is an error that names the nearest one, before anything is paid for.

An expression with spaces stands in quotes: `--from "df[df.len < 280]"`. It gives a result of nbdream, a `datasets.Dataset`, a pandas or polars frame, or a list of dicts. A name that is no variable (after a restart of the kernel, say) means the session's last result of that name.

A template names columns: `{{ abstract }}`, or `{{ row["My text"] }}` for any name. Lists and dicts are rendered as JSON. A null is an error before anything is paid for: write `{{ abstract or '' }}`, or give `--drop-null`. `{% raw %}{{ … }}{% endraw %}` is left as it is. Notebook variables are used only through `--with style,tone`. A body without `{{` is an instruction about one column (`--column`; by default the only text column). Blank lines at both ends of a body do not count.
"""


def cell(text: str) -> str:
    """``text`` inside a Markdown table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def first_line(value: object) -> str:
    """The first sentence line of a docstring."""
    return cell((inspect.getdoc(value) or "").partition("\n\n")[0])


def options(entries: Any) -> Iterator[str]:
    """The table of a magic's options."""
    yield "| option | YAML key | value | |"
    yield "|---|---|---|---|"
    for option in entries:
        value = " ".join(f"`{choice}`" for choice in option.choices) or VALUES[option.kind]
        flags = " ".join(f"`{flag}`" for flag in option.spellings)
        yield f"| {flags} | `{option.name}` | {value} | {cell(option.help)} |"


def magics() -> Iterator[str]:
    """Every cell magic with its options, and every verb of ``%dream``."""
    from nbdream.magics.dream import VERBS
    from nbdream.magics.extension import CELL_MAGICS, NbDream, definition

    yield "## Cell magics"
    for name in CELL_MAGICS:
        magic = definition(name)[0]
        yield from ("", f"### `%%{name} NAME`", "", cell(magic.summary), "")
        yield from options(magic.options)
    yield from ("", "## `%dream`", "", "| | |", "|---|---|")
    for verb in VERBS.values():
        yield f"| `%dream {cell(verb.usage)}` | {cell(verb.summary)} |"
        for option in verb.options:
            yield f"| {' '.join(f'`{flag}`' for flag in option.spellings)} | {cell(option.help)} |"
    yield from ("", "## `%config NbDream`", "", "| | default | |", "|---|---|---|")
    for trait_name, trait in sorted(NbDream.class_own_traits(config=True).items()):
        yield f"| `{trait_name}` | `{trait.default_value!r}` | {cell(trait.help)} |"


def arguments(value: Any) -> str:
    """What a class or function takes, without annotations."""
    found = inspect.signature(value)
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in found.parameters.values() if parameter.name != "self"]
    return str(found.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def python() -> Iterator[str]:
    """Every public name, by package."""
    yield "## Python"
    for name in PACKAGES:
        package = importlib.import_module(name)
        yield from ("", f"### `{name}`", "", "| | |", "|---|---|")
        for public in sorted(package.__all__, key=str.lower):
            value = getattr(package, public)
            shown = f"{public}{arguments(value)}" if callable(value) else public
            yield f"| `{cell(shown)}` | {first_line(value) if callable(value) else ''} |"


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *magics(), "", *python(), ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
