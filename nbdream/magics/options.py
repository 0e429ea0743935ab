"""Options that several cell magics share, and how they become arguments of a step."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from nbdream.cards.graph import TAKEN_OVER
from nbdream.errors import ArgumentError
from nbdream.magics.dataflow import NOTHING, Origin
from nbdream.magics.grammar import Call, Option
from nbdream.magics.names import is_handle, is_model, is_trained, trained

if TYPE_CHECKING:
    from nbdream.magics.notebook import Notebook

FROM = Option(name="from", kind="expression", help="the rows: a result, a frame, a Dataset, a list of dicts (an expression)")
MODEL = Option(name="model", kind="model", short="-m", help="the model: a variable, a trained model, or provider/model")
COLUMN = Option(name="column", help="the column that an instruction without {{ }} is about")
FORCE = Option(name="force", kind="flag", help="overwrite a variable that nbdream did not bind")
LIMIT = Option(name="limit", kind="integer", help="try the first rows only: a preview; the session's result of this name stays as it is")
BACKGROUND = Option(name="background", kind="flag", help="return at once; using the result waits for it")

SAMPLING = (
    Option(name="temperature", kind="number", help="how varied the replies are"),
    Option(name="top_p", kind="number", help="the share of likely words to draw from"),
    Option(name="max_tokens", kind="integer", help="the most tokens of a reply", also=("max_new_tokens",)),
    Option(name="stop", kind="value", help="texts at which a reply ends"),
    Option(name="extra", kind="value", help="passed to the provider as it is (YAML)"),
    Option(name="seed", kind="integer", help="other draws of the same prompts"),
)

RUNNING = (
    Option(name="on_fail", kind="choice", choices=("drop", "keep", "stop"), help="what becomes of failed rows: drop, keep (nulls) or stop"),
    Option(name="retry_failed", kind="flag", help="ask again for the rows that failed"),
    Option(name="concurrency", kind="integer", help="the most requests in flight"),
    Option(name="batch", kind="flag", help="send what is not stored to the provider's batch service: half the price, within a day"),
    Option(name="max_cost", kind="number", help="the most dollars that this run may cost, with what is in flight: it stops before"),
    Option(name="max_total_tokens", kind="integer", help="the most tokens of this run, prompts and replies together"),
    Option(name="dry_run", kind="flag", help="try a few rows, and say what the others would cost; a preview, as with --limit"),
    LIMIT,
    BACKGROUND,
    FORCE,
)


def given(call: Call, *names: str) -> dict[str, Any]:
    """The options among ``names`` that the cell gives."""
    return {name: call.options[name] for name in names if name in call.options}


def rows_of(value: Any, name: str, origin: Origin = NOTHING) -> Any:
    """``value`` as rows of a step: a handle's own, or a data source of a frame, a dataset or a list, which comes from ``origin``."""
    if is_handle(value):
        return value
    from nbdream.steps.sources import DataSource

    return DataSource(f"{name}{TAKEN_OVER}", data=value, made_from=list(origin.results.values()), through=list(origin.cells.values()))


def positive(call: Call, *names: str) -> None:
    """Raise `ArgumentError` unless the given options are at least 1."""
    for name in names:
        if name in call.options and call.options[name] < 1:
            raise ArgumentError(f"{name} is at least 1, not {call.options[name]}", f"leave {name} out for the default")


def needs(call: Call, name: str, example: str) -> Any:
    """The value of an option that must be given."""
    if name not in call.options:
        raise ArgumentError(f"{call.magic.shown} needs --{name}", example)
    return call.options[name]


def with_variables(notebook: Notebook, names: list[str]) -> dict[str, Any]:
    """The notebook's variables that a template may use."""
    missing = [name for name in names if name not in notebook.variables]
    if missing:
        raise ArgumentError(f"--with: there is no variable {missing[0]!r}", "assign it in a cell before this one")
    found = {name: notebook.variables[name] for name in names}
    for name, value in found.items():
        if callable(value) or isinstance(value, ModuleType):
            raise ArgumentError(f"--with: {name} is a {type(value).__name__}", "give text, numbers, lists or dicts")
    return found


def result_of(notebook: Notebook, expression: str) -> Any:
    """The result of a session that an expression gives: rows, or a model that was trained."""
    value = trained(notebook.value(expression, "%dream"))
    if not is_handle(value) and not is_model(value) and not is_trained(value):
        raise ArgumentError(f"{expression} is a {type(value).__name__}, not a result", "name a result of the session: see %dream status")
    if is_model(value) and not hasattr(value, "step"):
        raise ArgumentError(f"{expression} is a model that was not trained here", "name a result of the session: see %dream status")
    return value


def split_size(text: str) -> float | int:
    """The size of a split: a share of 1, or a number of rows."""
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise ArgumentError(f"{text!r} is not the size of a split", "shares of 1 (0.9 0.1) or numbers of rows (900 100)") from None
