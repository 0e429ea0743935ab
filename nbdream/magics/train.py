"""``%%train``: a model trained on rows, by worker processes; the cell shows the curve while they train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError, nearest
from nbdream.magics.grammar import Call, Magic, Option
from nbdream.magics.options import BACKGROUND, FORCE, given, needs, positive, rows_of

if TYPE_CHECKING:
    from nbdream.magics.notebook import Notebook, Plan


@dataclass(frozen=True)
class Method:
    """A way to train: its trainer in `nbdream.trainers`, and the columns that the body names, under the names of its ``train``."""

    trainer: str
    columns: Mapping[str, str]
    train: str = "train"
    """The trainer's method that is called."""
    optional: Mapping[str, str] = field(default_factory=dict)
    """Columns that the body may name."""


METHODS = {
    "sft": Method("TrainHFFineTune", {"input": "input", "output": "output"}, optional={"contexts": "contexts"}),
    "dpo": Method("TrainHFDPO", {"prompt": "prompts", "chosen": "chosen", "rejected": "rejected"}),
    "classifier": Method("TrainHFClassifier", {"input": "input", "output": "output"}),
    "embedder": Method("TrainSentenceTransformer", {"anchor": "anchors", "positive": "positives"}, "train_with_positive_pairs"),
}
FURTHER = {
    "negative": Method(
        "TrainSentenceTransformer", {"anchor": "anchors", "positive": "positives", "negative": "negatives"}, "train_with_triplets"
    ),
    "label": Method("TrainSentenceTransformer", {"anchor": "anchors", "other": "others", "label": "labels"}, "train_with_labeled_pairs"),
}
"""What ``embedder`` is where the body names this column."""
COLUMNS = {
    "input": "the column that is the question",
    "output": "the column that is the answer",
    "contexts": "sft: a column of lists of texts, passages that stand before the input; context_template says how each is written",
    "prompt": "dpo: the column that is asked",
    "chosen": "dpo: the column of the better answer",
    "rejected": "dpo: the column of the other answer",
    "anchor": "embedder: the column of one text",
    "positive": "embedder: the column of a text that belongs to it",
    "negative": "embedder: the column of a text that does not; the rows are triplets then",
    "other": "embedder: the column of the other text, where label is a column that says how alike they are",
    "label": "embedder: the column of how alike two texts are, 0 to 1",
}

MAGIC = Magic(
    name="train",
    summary="Train a model on the rows of --on. The body is YAML: the columns (input and output, and contexts where there are any; "
    "for dpo prompt, chosen and rejected; for embedder anchor and positive, and negative where there is one; or anchor, other and label), "
    "epochs (default 3), batch_size (8), lora ({r: 8}; default none), learning_rate (for sft 2e-5, with lora 2e-4, for T5 1e-3), and every "
    "argument of transformers' TrainingArguments.",
    options=(
        Option(
            name="method",
            kind="choice",
            choices=tuple(METHODS),
            help="sft (default): learn the output column from the input column; dpo: prefer the chosen answer to the rejected one; "
            "classifier: tell the label (output) of a text; embedder: texts that belong together near each other",
        ),
        Option(name="on", kind="expression", help="the rows to learn from (an expression)"),
        Option(name="eval", kind="expression", help="the rows to measure on"),
        Option(name="base", help="the model to start from: a name on the Hub, a folder, or demo"),
        Option(name="devices", kind="integer", help="processes to train in; the parameters are sharded between them"),
        *(Option(name=name, help=help_) for name, help_ in COLUMNS.items()),
        Option(name="replace", kind="flag", help="stop a run of this name that is going on, with a checkpoint"),
        BACKGROUND,
        FORCE,
    ),
    body="settings",
    open_settings=True,
)


def plan(notebook: Notebook, call: Call) -> Plan:
    """Read the names of the cell now; the run is started and followed where it does not block the notebook."""
    positive(call, "devices")
    call.options.setdefault("method", "sft")
    on = notebook.data(needs(call, "on", "%%train NAME --on tweets.train --base MODEL"), "--on")
    held_out = notebook.data(call.options["eval"], "--eval") if "eval" in call.options else None
    origins = {side: notebook.dataflow.of(call.get(side, "")) for side in ("on", "eval")}
    base = base_model(notebook, needs(call, "base", "for example --base google/t5-v1_1-base, or --base demo"))
    method = method_of(call)
    columns = {name: needs_setting(call, column) for column, name in method.columns.items()}
    columns |= {name: str(call.options[column]) for column, name in method.optional.items() if column in call.options}
    for column in COLUMNS:
        if column in call.options and column not in (known := {**method.columns, **method.optional}):
            raise ArgumentError(f"--method {call.options['method']} has no column {column!r}", f"its columns: {', '.join(known)}")

    settings = with_code(notebook, call.settings)

    def make() -> Any:
        rows = rows_of(on, f"{call.name} train", origins["on"])
        held = None if held_out is None else rows_of(held_out, f"{call.name} eval", origins["eval"])
        return train(call, method, base, rows, held, columns, settings)

    return make


def method_of(call: Call) -> Method:
    """The method that the cell names; of an embedder, what fits its columns."""
    name = call.options["method"]
    further = next((method for column, method in FURTHER.items() if column in call.options), None) if name == "embedder" else None
    return further or METHODS[name]


def base_model(notebook: Notebook, text: str) -> str:
    """The model to start from; the name of a trained model of the notebook stands for its folder."""
    variable = notebook.variables.get(text)
    path = getattr(variable, "model_path", None)
    return str(path) if path else text


def needs_setting(call: Call, name: str) -> str:
    """A column that the body must name."""
    if name not in call.options:
        raise ArgumentError(f"%%train needs the column {name!r}", f"write it in the body, as YAML: {name}: COLUMN")
    return str(call.options[name])


def train(call: Call, method: Method, base: str, rows: Any, held_out: Any, columns: dict[str, str], settings: dict[str, Any]) -> Any:
    """Construct the trainer and train: the trained model; with --background the trainer, whose ``model`` waits."""
    from nbdream import trainers

    kind = getattr(trainers, method.trainer)
    made, trained = sorted_settings(settings, kind.arguments())
    given_columns = {f"train_{side}": rows[column] for side, column in columns.items()}
    if held_out is not None:
        given_columns |= {f"validation_{side}": held_out[column] for side, column in columns.items()}
    trainer = kind(call.name, base, **given(call, "devices"), **made)
    return getattr(trainer, method.train)(**given_columns, **given(call, "background", "replace"), **trained)


def with_code(notebook: Notebook, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a cell, with the notebook's functions and classes in place of their names."""
    from nbdream.trainers.hooks import CALLBACKS, HOOKS

    def meant(name: str, value: Any) -> Any:
        if value in notebook.variables:
            return notebook.variables[value]
        code = [known for known, held in notebook.variables.items() if callable(held) and not known.startswith("_")]
        raise ArgumentError(f"{name}: there is no {value!r} in the notebook", nearest(str(value), code, "define it in a cell before"))

    found = dict(settings)
    for name in HOOKS:
        if found.get(name) is not None:
            values = found[name] if isinstance(found[name], list) else [found[name]]
            made = [meant(name, value) for value in values]
            found[name] = made if name == CALLBACKS else made[0]
    return found


SETTINGS = {
    "chat_prompt_template": "chat_prompt_template",
    "device": "device",
    "dtype": "dtype",
    "fsdp": "fsdp",
    "fsdp_config": "fsdp_config",
    "lora": "peft_config",
    "quantization": "quantization_config",
    "revision": "revision",
    "system": "system_prompt",
    "trust_remote_code": "trust_remote_code",
}
"""YAML keys that say what is trained, and the trainer's arguments for them; the other keys are those of its ``train``."""


def methods_with(setting: str) -> list[str]:
    """The methods whose trainers have a setting of their own of this name."""
    from nbdream import trainers

    return [name for name, method in METHODS.items() if setting in getattr(trainers, method.trainer).own]


def sorted_settings(settings: dict[str, Any], own: frozenset[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a cell: those of the trainer and those of its ``train`` (``own``); an unknown one is an error."""
    from nbdream.trainers.arguments import SET_BY_US, library_arguments

    known = own | (library_arguments() - SET_BY_US)
    for name in settings:
        if name not in known and (methods := methods_with(name)):
            raise ArgumentError(f"this method takes no {name!r}", f"it is for --method {' and '.join(methods)}: leave it out")
        if name not in known and name not in SETTINGS:
            options = {option.name for option in MAGIC.options}
            raise ArgumentError(f"%%train knows no key {name!r}", nearest(name, known | set(SETTINGS) | options, "its keys are"))
    made = {SETTINGS[name]: value for name, value in settings.items() if name in SETTINGS}
    return made, {name: value for name, value in settings.items() if name not in SETTINGS}
