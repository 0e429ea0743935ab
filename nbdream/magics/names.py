"""Names in a cell: one namespace, the notebook's; what it lacks, the session has."""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError, NbDreamError, nearest
from nbdream.optional import is_instance
from nbdream.widgets.status import ago

if TYPE_CHECKING:
    from nbdream.session import Session

_DATA = (("pandas", "DataFrame"), ("polars", "DataFrame"), ("datasets", "Dataset"), ("pyarrow", "Table"))


def is_handle(value: object) -> bool:
    """Whether ``value`` is rows of nbdream's: a step, its output, or a column of it."""
    return is_instance(value, "nbdream.steps.handle", "StepHandle") or any(
        is_instance(value, "nbdream.datasets", kind) for kind in ("OutputDataset", "OutputDatasetColumn")
    )


def is_model(value: object) -> bool:
    """Whether ``value`` is a model that answers prompts."""
    return is_instance(value, "nbdream.llms.base", "LLM")


def is_trained(value: object) -> bool:
    """Whether ``value`` is the model of a run, of whatever kind."""
    return is_instance(value, "nbdream.trainers.trained", "Trained")


def trained(value: Any) -> Any:
    """The model of a trainer that may still train (this waits for it); any other value as it is."""
    return value.model if is_instance(value, "nbdream.trainers.base", "Trainer") else value


def is_data(value: object) -> bool:
    """Whether ``value`` is rows of any kind that ``--from`` takes."""
    return is_handle(value) or any(is_instance(value, *kind) for kind in _DATA) or _is_rows(value)


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


class Scope(MutableMapping[str, Any]):
    """The names of an expression: the variable first, then the session's result; notes say which, where it matters."""

    def __init__(self, variables: dict[str, Any], session: Session, note: Callable[[str], None]) -> None:
        self._variables, self._session, self._note = variables, session, note
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        entry = self._session.names.current(name) if name.isidentifier() else None
        if name not in self._variables:
            if entry is None:
                raise KeyError(name)
            return self._load(name, entry)
        value = self._variables[name]
        if entry is None:
            return value
        if is_data(value) or is_model(value) or is_trained(value):
            if getattr(value, "use_id", entry["use"]) != entry["use"]:
                self._note(f"{name}: the variable was taken; the session's last {name} is another result")
            return value
        self._note(f"{name}: the session's result was taken; the variable {name} is a {type(value).__name__}")
        return self._load(name, entry)

    def _load(self, name: str, entry: dict[str, Any]) -> Any:
        if name not in self._loaded:
            self._loaded[name] = self._session.load(name)
            if name not in self._variables:
                self._note(f"{name}: from the session, made {ago(str(entry.get('made')))}{_cell(entry)}")
        return self._loaded[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._loaded[name] = value

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter({*self._variables, *self._session.names})

    def __len__(self) -> int:
        return len(set(self))


def _cell(entry: dict[str, Any]) -> str:
    number = (entry.get("cell") or {}).get("number")
    return f"; its cell (then In [{number}]) has not run in this kernel" if number else "; its cell has not run in this kernel"


def evaluate(expression: str, scope: Scope, variables: dict[str, Any], what: str) -> Any:
    """The value of an expression from a cell. What goes wrong in it is one line that names ``what``."""
    try:
        code = compile(expression.strip(), f"<{what}>", "eval")
    except SyntaxError:
        raise ArgumentError(f"{what} {expression!r} is not an expression", 'a name, or Python in quotes: "df[df.year > 2020]"') from None
    try:
        return eval(code, variables, scope)  # noqa: S307 - the user's own expression, in the user's own kernel
    except NbDreamError:
        raise
    except NameError as error:
        name = error.name or expression
        raise ArgumentError(f"{what}: there is no {name!r}", _near(name, scope)) from None
    except Exception as error:
        raise ArgumentError(f"{what} {expression!r}: {type(error).__name__}: {error}", "it is evaluated as Python") from None


def _near(name: str, scope: Scope) -> str:
    known = [key for key in scope if key.isidentifier() and not key.startswith("_") and _is_known(scope, key)]
    return nearest(name, known, "the datasets are") if known else "run the cell first that makes it"


def _is_known(scope: Scope, name: str) -> bool:
    return name not in scope._variables or is_data(scope._variables[name])


class Bindings:
    """What nbdream bound in the notebook; it overwrites nothing else."""

    def __init__(self, variables: dict[str, Any]) -> None:
        self._variables = variables
        self._bound: dict[str, Any] = {}

    def check(self, name: str, force: bool = False, *, model: bool = False) -> None:
        """Raise `ArgumentError` unless ``name`` may be bound: to a result, or (``model``) to a model that is only asked."""
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
            raise ArgumentError(f"{name!r} cannot name a result", "use a Python name: letters, digits and _, not starting with _")
        if force:
            return
        if name in self._variables and self._variables[name] is not self._bound.get(name, self):
            kind = type(self._variables[name]).__name__
            raise ArgumentError(
                f"{name} is a variable already (a {kind}), and not one that nbdream bound",
                f"choose another name, or --force to overwrite {name}",
            )
        bound = self._variables.get(name)
        if name in self._variables and model != (is_model(bound) and not hasattr(bound, "step")):
            kind = "a result" if model else "a model"
            raise ArgumentError(f"{name} is {kind} already", f"choose another name, or --force to overwrite {name}")
        if name not in self._variables and hasattr(builtins, name):
            raise ArgumentError(f"{name} is a name of Python's own", f"choose another name, or --force to hide {name}")

    def bind(self, name: str, value: Any) -> None:
        """Let the notebook's variable ``name`` be ``value``."""
        self._variables[name] = value
        self._bound[name] = value
