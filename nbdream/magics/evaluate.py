"""``%%evaluate``: before and after, side by side: what models answer to held-out rows, and how good it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError, ColumnError, NbDreamError, nearest
from nbdream.magics.grammar import Call, Magic, Option
from nbdream.magics.map import of_the_body
from nbdream.magics.names import is_model, trained
from nbdream.magics.options import BACKGROUND, FORCE, LIMIT, SAMPLING, given, needs, positive, rows_of

if TYPE_CHECKING:
    from nbdream.magics.notebook import Notebook, Plan

BASE = "base"
"""The word for the model that a trained one was trained from."""

MAGIC = Magic(
    name="evaluate",
    summary="Put held-out rows to models and measure the answers, with 95 % intervals. The body is YAML. Metrics: rouge, bleu, "
    "exact_match, f1, accuracy, perplexity (local models), judge (a model compares two answers), and the notebook's functions "
    "f(reference, prediction).",
    options=(
        Option(name="on", kind="expression", help="the held-out rows (an expression)"),
        Option(name="models", kind="names", help="the models: variables, provider/model, or base, from which the first trained one comes"),
        Option(name="input", help="the column that is put to the models (default: the one that was trained on)"),
        Option(name="output", help="the column of the reference answers (default: the one that was trained on)"),
        Option(name="contexts", help="the column of passages that stand before the input (default: the one that was trained on, if any)"),
        Option(name="metrics", kind="names", help="what is measured (default: rouge, exact_match, f1)"),
        Option(name="judge", kind="model", help="the model that compares the answers with those of the first model"),
        Option(name="retry_failed", kind="flag", help="ask again for the rows that failed"),
        Option(name="concurrency", kind="integer", help="the most requests in flight"),
        *(option for option in SAMPLING if option.name in ("temperature", "max_tokens", "seed")),
        LIMIT,
        BACKGROUND,
        FORCE,
    ),
    body="settings",
)


def plan(notebook: Notebook, call: Call) -> Plan:
    """Read the names of the cell now; rows are put to the models where it does not block the notebook."""
    positive(call, "limit", "concurrency", "max_tokens")
    example = "%%evaluate NAME --on tweets.validation --models base,tweeter"
    on = notebook.data(needs(call, "on", example), "--on")
    origin = notebook.dataflow.of(call.options["on"])
    models = models_of(notebook, needs(call, "models", example))
    args: dict[str, Any] = {"models": models, **given(call, "retry_failed", "concurrency", "temperature", "max_tokens", "seed", "limit")}
    if "metrics" in call.options:
        args["metrics"] = [metric_of(notebook, name) for name in call.options["metrics"]]
    if "judge" in call.options:
        args["judge"] = notebook.model(call.options["judge"])

    def make() -> Any:
        from nbdream.steps import Evaluate

        rows = rows_of(on, call.name, origin)
        inputs = {side: rows[column] for side, column in columns_of(call, list(models.values()), rows.column_names).items()}
        try:
            return Evaluate(call.name, inputs=inputs, args=args, **given(call, "background"))
        except NbDreamError:
            raise
        except Exception as error:
            if not getattr(error, "__notes__", None):
                raise
            raise of_the_body(error) from error  # a function of the user's

    return make


def models_of(notebook: Notebook, names: list[str]) -> dict[str, Any]:
    """The models that names mean, in order."""
    if not names:
        raise ArgumentError("no models are given to evaluate", "--models base,tweeter")
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ArgumentError(f"--models names {double} twice", "each model once")
    stands = BASE in names and not is_model(trained(notebook.variables.get(BASE)))
    found = {name: model_of(notebook, name) for name in names if name != BASE or not stands}
    if not stands:
        return found
    tuned = next((model for model in found.values() if is_trained(model)), None)
    if tuned is None:
        raise ArgumentError("base is the model that a trained one comes from, and no trained model is given", "--models base,tweeter")
    if not hasattr(tuned, "base"):
        raise ArgumentError(f"the base of {tuned.name} gives no labels", "leave base out: it has no head for them before it is trained")
    return {name: tuned.base if name == BASE else found[name] for name in names}


def model_of(notebook: Notebook, name: str) -> Any:
    """A language model, or a classifier of the notebook or the session."""
    from nbdream.steps.evaluating import is_classifier

    model = trained(notebook.variables.get(name))
    if model is None and name.isidentifier() and notebook.session().names.current(name) is not None:
        model = notebook.value(name, "--models")
    return model if is_classifier(model) else notebook.model(name)


def is_trained(model: Any) -> bool:
    """Whether a model was trained in this session."""
    from nbdream.trainers.trained import Trained

    return isinstance(model, Trained)


def metric_of(notebook: Notebook, name: str) -> Any:
    """A metric's name, or the notebook's function of that name."""
    from nbdream.steps.metrics import BUILT_IN

    if name in BUILT_IN:
        return name
    function = notebook.variables.get(name)
    if callable(function) and not is_model(function):
        return function
    raise ArgumentError(f"there is no metric {name!r}", nearest(name, BUILT_IN, "the metrics are"))


LEARNED = {"input": ("train_input", "train_prompts"), "contexts": ("train_contexts",), "output": ("train_output", "train_chosen")}
"""What a run calls the columns that it learned from."""


def columns_of(call: Call, models: list[Any], there: list[str]) -> dict[str, str]:
    """The columns: those that the cell names, else those that the first trained model was trained on."""
    tuned = next((model for model in models if is_trained(model)), None)
    found: dict[str, str] = {}
    for side, names in LEARNED.items():
        learned = next((tuned.step.inputs[name].name for name in names if name in tuned.step.inputs), None) if tuned is not None else None
        column = call.get(side, learned)
        if column is None and side == "contexts":
            continue
        if column is None:
            raise ArgumentError(f"%%evaluate needs the column {side!r}", f"write it in the body, as YAML: {side}: COLUMN")
        if column not in there:
            hint = nearest(column, there, "the columns are")
            if tuned is not None and side not in call.options:
                hint = f"{tuned.name} was trained on it; say which one it is here: {side}: COLUMN"
            raise ColumnError(f"the rows have no column {column!r}", hint)
        found[side] = column
    return found
