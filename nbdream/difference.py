"""The difference of two recipes in words: "temperature 0.7 → 1.0"."""

from __future__ import annotations

import ast
import difflib
import json
import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

Form = Any

_ABSENT: Any = {"$": "absent"}
CONTEXT = 24
"""Characters shown beside what changed in a long text."""
LONGEST = 60
"""Characters shown of any one value."""


def difference(old: Form, new: Form) -> list[str]:
    """What is different in ``new``, a sentence a change; both are forms, fresh or read back from a file."""
    if _is_plain(old) and _is_plain(new):
        sentences = [line for key in _keys(old, new, _ORDER) for line in _entry(key, old.get(key, _ABSENT), new.get(key, _ABSENT))]
    else:
        sentences = list(_compare("the value", old, new))
    return list(dict.fromkeys(sentences))


_ORDER = ("kind", "version", "model", "args", "code", "inputs")


def _entry(key: str, old: Form, new: Form) -> Iterator[str]:
    """The changes under one key of a recipe."""
    if _same(old, new):
        return
    if key == "kind":
        yield f"the step is {_show(new)}, it was {_show(old)}"
    elif key == "version":
        yield f"the version of the step {_show(old)} → {_show(new)}"
    elif key == "model":
        yield from _model("model", old, new)
    elif key == "inputs" and _is_plain(old) and _is_plain(new):
        for name in _keys(old, new):
            yield from _input(name, old.get(name, _ABSENT), new.get(name, _ABSENT))
    elif key == "args" and _is_plain(old) and _is_plain(new):
        for name in _keys(old, new):
            yield from _compare(name, old.get(name, _ABSENT), new.get(name, _ABSENT))
    else:
        yield from _compare("the code" if key == "code" else key, old, new)


def _input(name: str, old: Form, new: Form) -> Iterator[str]:
    if old is _ABSENT or new is _ABSENT:
        yield f"input `{name}` is {'new' if old is _ABSENT else 'gone'}"
        return
    if not (_is_plain(old) and _is_plain(new)):
        yield from _compare(f"input `{name}`", old, new)
        return
    column = new.get("column")
    if old.get("column") != column:
        yield f"input `{name}` reads column {_show(column)}, it read {_show(old.get('column'))}"
        return
    before, after = old.get("columns"), new.get("columns")
    changed = [key for key in _keys(before, after) if before.get(key) != after.get(key)] if _is_plain(before) and _is_plain(after) else []
    columns = changed or ([column] if column else [])
    if not changed and _same({**old, "order": None}, {**new, "order": None}) and not _same(old, new):
        yield f"the order of the columns of input `{name}` changed"
    elif not _same(old, new):
        word = "columns" if len(columns) > 1 else "column"
        yield f"the content of input `{name}` " + (f"({word} {', '.join(map(str, columns))}) " if columns else "") + "changed"


_IDENTITY = ("kind", "provider", "model", "model_name", "model_path")
"""What a model is called, in its identity."""


def _model(name: str, old: Form, new: Form) -> Iterator[str]:
    """The changes of a model's identity: what model it is first."""
    old, new = (form["identity"] if _tag(form) == "model" else form for form in (old, new))
    if not (_is_plain(old) and _is_plain(new)):
        yield from _plain_change(name, old, new)
        return
    which = [key for key in _IDENTITY if old.get(key) or new.get(key)]
    kinds, models = which[:-1], which[-1:]
    if any(not _same(old.get(key), new.get(key)) for key in which):
        if all(_same(old.get(key), new.get(key)) for key in kinds):
            yield " ".join([name, *(_show(new[key]) for key in kinds), f"{_show(old.get(models[0]))} → {_show(new.get(models[0]))}"])
        else:
            before, after = (" ".join(_show(form[key]) for key in which if form.get(key) is not None) for form in (old, new))
            yield f"{name} {before} → {after}"
    for key in _keys(old, new):
        if key not in which:
            yield from _compare(f"the {name}'s {key}", old.get(key, _ABSENT), new.get(key, _ABSENT))


def _compare(name: str, old: Form, new: Form) -> Iterator[str]:
    """The changes of anything that is called ``name``."""
    if _same(old, new):
        return
    tags = _tag(old), _tag(new)
    if tags == ("model", "model"):
        yield from _model(name, old, new)
    elif tags == ("decisions", "decisions"):
        yield decisions_since(old, new) or f"{name} changed"
    elif tags[0] == tags[1] and tags[0] in ("function", "class", "module", "schema", "method", "partial", "cached", "property", "code"):
        yield from _code(name, old, new)
    elif tags[0] == tags[1] and tags[0] is not None and (part := next((key for key in ("fields", "state") if key in new), None)):
        yield from _compare(name, old.get(part, _ABSENT), new[part])
        if not _same(old.get("type"), new.get("type")):
            yield from _compare(f"the class of {name}", old.get("type"), new.get("type"))
    elif _is_plain(old) and _is_plain(new):
        yield from _fields(name, old, new)
    elif isinstance(old, list) and isinstance(new, list) and len(json.dumps([old, new])) > LONGEST:
        yield from _lists(name, old, new)
    else:
        yield from _plain_change(name, old, new)


def _fields(name: str, old: dict[str, Form], new: dict[str, Form]) -> Iterator[str]:
    for key in _keys(old, new):
        yield from _compare(f"{name}.{key}", old.get(key, _ABSENT), new.get(key, _ABSENT))


def _lists(name: str, old: list[Form], new: list[Form]) -> Iterator[str]:
    if len(old) != len(new):
        yield f"{name}: {len(old):,} → {len(new):,} items"
        return
    changed = [index for index in range(len(new)) if not _same(old[index], new[index])]
    yield from _compare(f"{name}[{changed[0]}]", old[changed[0]], new[changed[0]])
    if len(changed) > 1:
        yield f"{len(changed) - 1:,} more items of {name} changed"


def decisions_since(old: Mapping[str, Form], new: Mapping[str, Form]) -> str | None:
    """How what people decided has changed, of a ``count`` and a ``digest`` each; None when it has not."""
    if old["digest"] == new["digest"]:
        return None
    more = int(new["count"]) - int(old["count"])
    if not more:
        return "some decisions changed"
    return f"{abs(more):,} {'more' if more > 0 else 'fewer'} decision{'' if abs(more) == 1 else 's'}"


DIGEST = re.compile(r"[0-9a-f]{64}")


def _plain_change(name: str, old: Form, new: Form) -> Iterator[str]:
    if all(isinstance(form, str) and DIGEST.fullmatch(form) for form in (old, new)):
        yield f"{name} changed" if name.endswith("content") else f"the content of {name} changed"
    elif isinstance(old, str) and isinstance(new, str) and max(len(old), len(new)) > CONTEXT:
        before, after = _around(old, new)
        yield f"{name} changed: {before} → {after}"
    elif _show(old) == _show(new):
        yield f"{name} changed"
    else:
        yield f"{name} {_show(old)} → {_show(new)}"


_CAPTURES = {"defaults": "the default of", "closure": "the closed-over", "globals": "the global"}


def _code(name: str, old: Form, new: Form) -> Iterator[str]:
    """The changes of code: its own text, then what it captures."""
    shown = new.get("$shown") or {}
    label = shown.get("name") or new.get("name") or name
    if not _same(old.get("version"), new.get("version")):
        yield f"{new.get('package') or f'the version of `{label}`'} {_show(old.get('version'))} → {_show(new.get('version'))}"
    if any(old.get(key) != new.get(key) for key in ("ast", "bytecode", "python")):
        yield f"the code of `{label}` changed" + _lines((old.get("$shown") or {}).get("source"), shown.get("source"))
    for part, phrase in _CAPTURES.items():
        before, after = old.get(part, {}), new.get(part, {})
        for key in _keys(before, after):
            yield from _compare(f"{phrase} `{key}`", before.get(key, _ABSENT), after.get(key, _ABSENT))
    before, after = old.get("members", {}), new.get("members", {})
    for key in _keys(before, after):
        yield from _compare(f"`{label}.{key}`", before.get(key, _ABSENT), after.get(key, _ABSENT))
    for part in ("bases", "args"):
        for number, (was, now) in enumerate(zip_longest(old.get(part, ()), new.get(part, ()), fillvalue=_ABSENT), 1):
            yield from _compare(f"{part.rstrip('s')} {number} of `{label}`", was, now)
    for part in ("self", "function", "wrapped", "get", "set", "del", "code", "schema", "keywords", "annotations"):
        if part in old or part in new:
            yield from _compare(f"{name}.{part}", old.get(part, _ABSENT), new.get(part, _ABSENT))
    if old.get("name") != new.get("name"):
        yield f"{name} {_show(old.get('name'))} → {_show(new.get('name'))}"


def _lines(old: str | None, new: str | None) -> str:
    """The first line that changed, in brackets; empty when the texts are not known or do not differ."""
    if old is None or new is None:
        return ""
    before, after = _normal(old), _normal(new)
    for tag, start, end, into, until in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            was, now = (f"`{_cut(line[0].strip())}`" if line else "nothing" for line in (before[start:end], after[into:until]))
            return f" ({was} → {now})"
    return ""


def _normal(text: str) -> list[str]:
    """The lines of a function's text without layout, comments and docstrings, where it can be parsed alone."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return text.splitlines()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree).splitlines()


def _around(old: str, new: str) -> tuple[str, str]:
    """The part of each text that changed, with a little of what stands around it."""
    shorter = min(len(old), len(new))
    start = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    end = next((i for i in range(shorter - start) if old[-1 - i] != new[-1 - i]), shorter - start)

    def part(text: str) -> str:
        first, last = max(0, start - CONTEXT), min(len(text), len(text) - end + CONTEXT)
        middle = text[first:last]
        cut = middle if len(middle) <= LONGEST + 2 * CONTEXT else middle[: LONGEST + CONTEXT] + "…"
        return f"'{'…' if first else ''}{' '.join(cut.split())}{'…' if last < len(text) else ''}'"

    return part(old), part(new)


def _show(form: Form) -> str:
    """A form in a few characters."""
    if form is _ABSENT:
        return "not given"
    if form is None:
        return "None"
    if isinstance(form, str):
        return _cut(form) if re.fullmatch(r"[\w./:@+-]+", form) else f"'{_cut(form)}'"
    if isinstance(form, dict) and "$" in form:
        return _thing(form)
    return _cut(repr(form) if isinstance(form, (bool, int, float)) else json.dumps(form, ensure_ascii=False))


_OBJECTS = ("config", "dataclass", "namedtuple", "object", "pydantic")
"""Tags of forms that are objects of a class."""
_WRAPPERS = {"cached": "function", "classmethod": "function", "schema": "code", "staticmethod": "function"}
"""Tags of forms that are what they hold, to whoever wrote them; and where they hold it."""
_WORDS = {
    "above": "something named before it", "generic": "a type", "int": "a very large number", "notebook": "the notebook's own",
    "random": "a random generator", "text": "a text", "undefined": "not defined",
}  # fmt: skip
"""Tags that are no words, in words."""


def _thing(form: dict[str, Form]) -> str:
    """What a form with a tag stands for, as whoever wrote it would call it."""
    kind, shown = str(form["$"]), form.get("$shown") or {}
    name = shown.get("name") or form.get("name") or form.get("value")
    if isinstance(name, str):
        return f"`{_cut(name)}`"
    if kind in _WRAPPERS:
        return _show(form.get(_WRAPPERS[kind]))
    if kind == "partial":
        return f"a partial of {_show(form.get('function'))}"
    if kind == "method":
        return f"a method of {_show(form.get('self'))}"
    if kind == "model":
        return f"the model {_model_name(form.get('identity'))}"
    if kind in _OBJECTS:
        of = form.get("type")
        return f"an object of class {f'`{_cut(of)}`' if isinstance(of, str) else _show(of)}"
    if kind == "bytes":
        return f"{_show(form.get('length'))} bytes"
    items = None if kind == "range" else form.get("items")
    return _WORDS.get(kind) or with_article(kind) + (f" of {len(items):,}" if isinstance(items, list) else "")


def _model_name(identity: Form) -> str:
    named = [identity[key] for key in _IDENTITY if isinstance(identity.get(key), str)] if _is_plain(identity) else []
    return " ".join(map(_show, named)) or "of another kind"


def with_article(noun: str) -> str:
    """A noun with its indefinite article."""
    return f"{'an' if noun[:1].lower() in tuple('aeiou') else 'a'} {noun}"


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _tag(form: Form) -> str | None:
    return form.get("$") if isinstance(form, dict) else None


def _is_plain(form: Form) -> bool:
    return isinstance(form, dict) and "$" not in form


def _keys(old: dict[str, Form], new: dict[str, Form], first: tuple[str, ...] = ()) -> list[str]:
    return sorted({*old, *new} - {"$", "$shown"}, key=lambda key: (first.index(key) if key in first else len(first), key))


def _same(old: Form, new: Form) -> bool:
    """Whether two forms are hashed alike: 1, 1.0 and True differ, what is only shown does not count."""
    return json.dumps(_counted(old), sort_keys=True) == json.dumps(_counted(new), sort_keys=True)


def _counted(form: Form) -> Form:
    if isinstance(form, dict):
        return {key: _counted(part) for key, part in form.items() if key != "$shown"}
    return [_counted(part) for part in form] if isinstance(form, list) else form
