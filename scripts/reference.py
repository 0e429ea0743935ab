"""Write docs/reference.md from what the code says of itself: ``python scripts/reference.py``; a test sees that it is current."""

from __future__ import annotations

import argparse
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
    "pair": "two names",
    "schema": "Python expression, or YAML",
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
    return re.sub(r"\s+", " ", text).replace("``", "`").replace("|", "\\|").strip()


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


def commands() -> Iterator[str]:
    """Every command of the command line, with what it takes."""
    from nbdream import cli

    yield from ("## On the command line", "", "`--json` with any of them: one JSON value on the standard output.", "", "| | |", "|---|---|")
    for name, parser in leaves("", cli._parser()):
        own = [action for action in parser._actions if action.dest not in ("help", "json")]
        words = "".join(
            f" {action.dest.upper()}" if action.nargs is None else f" [{action.dest.upper()}]"
            for action in own
            if not action.option_strings
        )
        yield f"| `nbdream {name}{words}` | {cell(parser.description or '')} |"
        for action in own:
            if action.help:
                yield f"| `{' '.join(action.option_strings) or action.dest.upper()}` | {cell(action.help)} |"


def leaves(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands below a parser, by their full names."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for action in below:
        for word, found in action.choices.items():
            yield from leaves(f"{name} {word}".strip(), found)


def arguments(value: Any) -> str:
    """What a class or function takes, without annotations."""
    found = inspect.signature(value)
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in found.parameters.values() if parameter.name != "self"]
    return str(found.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def is_step(value: Any) -> bool:
    """Whether ``value`` is a kind of step that is constructed with inputs, args and outputs."""
    from nbdream.steps import Step

    return isinstance(value, type) and issubclass(value, Step) and value.__init__ is Step.__init__


def steps(package: Any) -> Iterator[str]:
    """The steps of a package with what they declare, and the types of what the operations return."""
    operations = []
    yield from ("", "| step | inputs | args | outputs | |", "|---|---|---|---|---|")
    for name in sorted(package.__all__, key=str.lower):
        step = getattr(package, name)
        if not is_step(step) or name == "Step":
            continue
        blank = object.__new__(step)
        blank._declare()
        args = [
            name if entry.required else f"{name}={entry.default!r}" for name, entry in blank._args_declared.items() if name != "**kwargs"
        ]
        if not args:
            operations.append(name)
            continue
        columns = (blank._inputs_declared, args, blank.outputs_declared)
        yield f"| `{name}` | {' | '.join(' '.join(f'`{cell(entry)}`' for entry in column) for column in columns)} | {first_line(step)} |"
    yield from ("", f"What operations return: {' '.join(f'`{name}`' for name in operations)}.")


def members(value: type) -> Iterator[str]:
    """The public methods and properties of a class."""
    yield from ("", "| | |", "|---|---|")
    for name in sorted(dir(value)):
        member = inspect.getattr_static(value, name)
        if name.startswith("_") or not inspect.getdoc(member) or not (isinstance(member, property | staticmethod) or callable(member)):
            continue
        shown = name if isinstance(member, property) else f"{name}{arguments(getattr(value, name))}"
        yield f"| `{cell(shown)}` | {first_line(member)} |"


def python() -> Iterator[str]:
    """Every public name, by package, and what results can do."""
    from nbdream.datasets import OutputDataset
    from nbdream.steps.handle import StepHandle

    yield "## Python"
    for name in PACKAGES:
        package = importlib.import_module(name)
        yield from ("", f"### `{name}`", "", "| | |", "|---|---|")
        for public in sorted(package.__all__, key=str.lower):
            value = getattr(package, public)
            if not is_step(value) or public == "Step":
                shown = f"{public}{arguments(value)}" if callable(value) else public
                yield f"| `{cell(shown)}` | {first_line(value) if callable(value) else ''} |"
        if name == "nbdream.steps":
            yield from (
                "",
                "Steps take a name, and inputs, args and outputs as they declare them; constructing one runs it. `outputs={…}` renames its columns.",
            )
            yield from steps(package)
    for title, value in (("A result", StepHandle), ("Its rows, `.output`", OutputDataset)):
        yield from ("", f"### {title}")
        yield from members(value)


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *magics(), "", *commands(), "", *python(), ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
