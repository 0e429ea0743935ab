"""Tab in nbdream's cells: options, models, datasets, columns, front matter keys, verbs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from nbdream import context
from nbdream.magics.evaluate import BASE
from nbdream.magics.grammar import Magic, Option
from nbdream.magics.names import is_handle, is_model

if TYPE_CHECKING:
    from nbdream.magics.notebook import Notebook

VERBS_ON_NAMES = ("why", "card", "publish", "split", "failures", "lineage")

_WORD = re.compile(r"[-\w./]*$")
_IN_TEMPLATE = re.compile(r"\{[{%][^{}%]*$")


def matcher(notebook: Notebook) -> Callable[[Any], Any]:
    """The matcher that IPython's completer asks."""
    from IPython.core.completer import SimpleCompletion, context_matcher

    @context_matcher(identifier="nbdream")
    def match(completer_context: Any) -> Any:
        text = str(completer_context.full_text)
        lines = text.split("\n")[: completer_context.cursor_line + 1]
        before = "\n".join([*lines[:-1], lines[-1][: completer_context.cursor_position]])
        fragment, found = complete(notebook, before, text)
        completions = [SimpleCompletion(text=value, type="nbdream") for value in found if value.startswith(fragment) and value != fragment]
        return {"completions": completions, "suppress": bool(completions), "matched_fragment": fragment, "ordered": True}

    return match  # type: ignore[no-any-return]


def complete(notebook: Notebook, before: str, text: str) -> tuple[str, list[str]]:
    """The word before the cursor and everything that could stand in its place; nothing outside nbdream's cells."""
    from nbdream.magics.dream import VERBS
    from nbdream.magics.extension import CELL_MAGICS, definition

    found = _WORD.search(before)
    fragment = found.group() if found else ""
    head, _, _ = before.lstrip().partition("\n")
    if head.startswith("%dream"):
        return fragment, _verb_words(notebook, head[: len(head) - len(fragment)].split()[1:], VERBS)
    first = re.match(r"%%(\w+)[ \t]", before.lstrip())
    if first is None or first.group(1) not in CELL_MAGICS:
        return fragment, []
    magic, _plan = definition(first.group(1))
    if "\n" not in before.lstrip():
        return fragment, _line_words(notebook, magic, before.lstrip(), fragment)
    return fragment, _body_words(notebook, magic, before.lstrip(), text.lstrip())


def _line_words(notebook: Notebook, magic: Magic, line: str, fragment: str) -> list[str]:
    words = line[: len(line) - len(fragment)].split()
    if words[-1:] and words[-1].endswith(","):  # one of several names
        words.pop()
    option = magic.option(words[-1]) if len(words) > 1 and words[-1].startswith("-") else None
    if option is not None and option.kind != "flag":
        return _values(notebook, option, line)
    if fragment.startswith("-"):
        return [option.flag for option in magic.options if option.flag not in words and option.short not in words]
    return []


def _values(notebook: Notebook, option: Option, line: str) -> list[str]:
    if option.kind == "choice":
        return list(option.choices)
    if option.kind == "model":
        return [*models(notebook), *providers()]
    if option.kind == "expression":
        return datasets(notebook)
    if option.name == "models":
        return [BASE, *models(notebook), *providers()]
    if option.name == "metrics":
        from nbdream.steps.metrics import BUILT_IN

        return [*BUILT_IN, *functions(notebook)]
    if option.kind == "names":
        return sorted(name for name in notebook.variables if not name.startswith("_"))
    return columns(notebook, line) if option.name in ("column", "prefer") else []


def _body_words(notebook: Notebook, magic: Magic, before: str, text: str) -> list[str]:
    head, _, body = before.partition("\n")
    if magic.body == "settings" or (body.startswith("---\n") and "\n---" not in body[4:]):
        line = body.rsplit("\n", 1)[-1]
        return (
            [f"{option.name}:" for option in magic.options if len(option.name) > 1]
            if ":" not in line
            else _settings(notebook, magic, head, line)
        )
    if magic.body == "template" and _IN_TEMPLATE.search(body):
        return columns(notebook, text.partition("\n")[0])
    return []


def _settings(notebook: Notebook, magic: Magic, head: str, line: str) -> list[str]:
    option = magic.option(line.partition(":")[0].strip())
    if magic.name in ("train", "evaluate") and option is not None and option.name in ("input", "output"):
        return columns(notebook, head)
    return _values(notebook, option, head) if option is not None else []


def _verb_words(notebook: Notebook, words: list[str], verbs: Iterable[str]) -> list[str]:
    if not words:
        return list(verbs)
    if words[0] in VERBS_ON_NAMES and len(words) == 1:
        return [*datasets(notebook), *models(notebook)]
    return providers() if words[0] == "model" and words[-1] == "=" else []


def _of_session() -> list[str]:
    session: Any = context.active()
    with contextlib.suppress(Exception):  # a broken file must not break the Tab key
        return [name for name in session.names if name.isidentifier()] if session is not None else []
    return []


def datasets(notebook: Notebook) -> list[str]:
    """The names that ``--from`` takes."""
    ours = {name for name, value in notebook.variables.items() if is_handle(value) and not name.startswith("_")}
    return sorted(ours | {name for name in _of_session() if not is_model(notebook.variables.get(name))})


def providers() -> list[str]:
    """What a model's id begins with."""
    from nbdream.llms import DEMO, PROVIDERS

    return [DEMO, *(f"{name}/" for name in PROVIDERS)]


def models(notebook: Notebook) -> list[str]:
    """The models among the variables."""
    return sorted(name for name, value in notebook.variables.items() if is_model(value) and not name.startswith("_"))


def functions(notebook: Notebook) -> list[str]:
    """The functions among the variables."""
    return sorted(name for name, value in notebook.variables.items() if type(value).__name__ == "function" and not name.startswith("_"))


def columns(notebook: Notebook, line: str) -> list[str]:
    """The columns of the rows that a cell's line names with ``--from`` or ``--on``."""
    found = re.search(r"--(?:from|on)[ =]([\w.]+)", line)
    if found is None:
        return []
    root, *rest = found.group(1).split(".")
    value: Any = notebook.variables.get(root)
    with contextlib.suppress(Exception):  # completing must not fail, nor run anything long
        if value is None and root in _of_session():
            session: Any = context.active()
            value = session.load(root)
        if hasattr(value, "columns") and not is_handle(value):
            return [str(name) for name in value.columns]
        if isinstance(value, list):
            return list(value[0])
        return list(value.column_names) if value is not None and rest in ([], ["output"], ["train"], ["validation"], ["test"]) else []
    return []
