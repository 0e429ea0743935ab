"""Loading into IPython: the magics, the transformer that awaits them, the cell's identity, completion, display."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any, cast

from traitlets import Unicode
from traitlets.config import Configurable

from nbdream.magics import warming
from nbdream.magics.bridge import Bridge
from nbdream.magics.completion import matcher
from nbdream.magics.grammar import Magic
from nbdream.magics.notebook import Notebook

CELL_MAGICS = {
    "generate": "nbdream.magics.generate",
    "filter": "nbdream.magics.filter",
    "map": "nbdream.magics.map",
    "train": "nbdream.magics.train",
    "evaluate": "nbdream.magics.evaluate",
    "annotate": "nbdream.magics.annotate",
}
"""The cell magics and the modules that hold them: each has ``MAGIC``, what it takes, and ``plan``, what it does."""

SHOWN = {
    ("nbdream.steps.handle", "StepHandle"): "step_bundle",
    ("nbdream.steps.summary", "Evaluation"): "evaluation_bundle",
    ("nbdream.steps.annotation", "Annotation"): "annotation_bundle",
    ("nbdream.steps.annotation", "Annotating"): "annotating_bundle",
    ("nbdream.datasets", "OutputDataset"): "rows_bundle",
    ("nbdream.datasets", "OutputDatasetColumn"): "rows_bundle",
    ("nbdream.browsing", "Browse"): "browse_bundle",
    ("nbdream.trainers.trained", "Trained"): "model_bundle",
    ("nbdream.trainers.base", "Trainer"): "trainer_bundle",
    ("nbdream.trainers.tokens", "Tokens"): "tokens_bundle",
}
"""The types that show themselves, and the function of `nbdream.widgets.show` that does it."""

_FIRST_LINE = re.compile(rf"%%({'|'.join(CELL_MAGICS)})(?:[ \t]([^\n]*))?$")


class NbDream(Configurable):
    """Defaults of nbdream's magics."""

    model = Unicode("", help="The model of cells that name none: a variable or provider/model.").tag(config=True)
    session = Unicode("./nbdream-output", help="The session folder that the first cell opens when none is open.").tag(config=True)


class Extension:
    """Everything that `load` puts into a shell, so that `unload` takes out the same."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.config = NbDream(parent=shell)
        self.notebook = Notebook(shell, self.config)
        self.matcher = matcher(self.notebook)
        self.bridge = Bridge(self.notebook, is_cell)

    def load(self) -> None:
        """Put everything in. Prints nothing."""
        shell = self.shell
        for name in CELL_MAGICS:
            shell.register_magic_function(self._cell_magic(name), "cell", name)
        shell.register_magic_function(self._line_magic(), "line", "dream")
        shell.configurables.append(self.config)
        shell.input_transformers_cleanup.insert(0, self.transform)
        shell.events.register("pre_run_cell", self.notebook.begin_cell)
        shell.events.register("post_run_cell", self.notebook.end_cell)
        shell.Completer.custom_matchers.append(self.matcher)
        for (module, name), function in SHOWN.items():
            shell.display_formatter.mimebundle_formatter.for_type_by_name(module, name, _shower(function))
        self.bridge.load()
        if self.notebook.has_kernel:
            warming.expect()

    def unload(self) -> None:
        """Take everything out again."""
        shell = self.shell
        self.bridge.unload()
        for name in CELL_MAGICS:
            shell.magics_manager.magics["cell"].pop(name, None)
        shell.magics_manager.magics["line"].pop("dream", None)
        for items, item in (
            (shell.configurables, self.config),
            (shell.input_transformers_cleanup, self.transform),
            (shell.Completer.custom_matchers, self.matcher),
        ):
            if item in items:
                items.remove(item)
        shell.events.unregister("pre_run_cell", self.notebook.begin_cell)
        shell.events.unregister("post_run_cell", self.notebook.end_cell)
        for module, name in SHOWN:
            shell.display_formatter.mimebundle_formatter.pop(f"{module}.{name}", None)

    # --- the magics -------------------------------------------------------------------------------------------------

    def _cell_magic(self, name: str) -> Callable[[str, str], Any]:
        def magic(line: str, cell: str) -> Any:
            return self.cell(name, line, cell)

        magic.__name__ = name
        magic.__doc__ = definition(name)[0].help()
        return _unexpanded(magic)

    def _line_magic(self) -> Callable[[str], Any]:
        def dream(line: str) -> Any:
            """The session, its models and its results; alone, it lists its verbs."""
            from nbdream.magics.dream import dream as do

            return do(self.notebook, line)

        return _unexpanded(dream)

    def cell(self, name: str, line: str, body: str) -> Any:
        """Run a cell magic where nothing can be awaited: block until it is done."""
        magic, plan = definition(name)
        call, do = self.notebook.prepare(magic, plan, line, body)
        return None if do is None else self.notebook.run_blocking(call, do)

    async def awaited_cell(self, name: str, line: str, body: str) -> Any:
        """Run a cell magic as a cell of a notebook, whose loop stays free."""
        magic, plan = definition(name)
        call, do = self.notebook.prepare(magic, plan, line, body)
        return None if do is None else await self.notebook.run_awaited(call, do)

    def transform(self, lines: list[str]) -> list[str]:
        """Turn a cell that begins with one of our cell magics into a call, awaited where a kernel can await.

        Within a cell (``%%time``, a function) nothing is turned: there the magic itself blocks.
        """
        if self.notebook.in_cell:
            return lines
        start = next((at for at, line in enumerate(lines) if line.strip()), None)
        found = None if start is None else _FIRST_LINE.match(lines[start].rstrip("\r\n"))
        if found is None or start is None:
            return lines
        name, line = found.group(1), found.group(2) or ""
        body = "".join(lines[start + 1 :])
        can_await = self.notebook.has_kernel and getattr(self.shell, "autoawait", False)
        call = "await get_ipython().nbdream.awaited_cell" if can_await else "get_ipython().nbdream.cell"
        return [f"{call}({name!r}, {line!r}, {body!r})\n"]


def is_cell(source: str) -> bool:
    """Whether a cell's text begins with one of our cell magics."""
    return _FIRST_LINE.match(source.lstrip().partition("\n")[0].rstrip("\r")) is not None


def definition(name: str) -> tuple[Magic, Callable[..., Any]]:
    """What a cell magic takes and what it does."""
    module = importlib.import_module(CELL_MAGICS[name])
    return cast(Magic, module.MAGIC), cast("Callable[..., Any]", module.plan)


def _unexpanded(magic: Callable[..., Any]) -> Callable[..., Any]:
    """``magic``, whose line IPython hands over as it stands: ``{x}`` and ``$x`` are text."""
    from IPython.core.magic import no_var_expand

    return cast("Callable[..., Any]", no_var_expand(magic))


def _shower(function: str) -> Callable[[Any], Any]:
    def show(value: Any) -> Any:
        return getattr(importlib.import_module("nbdream.widgets.show"), function)(value)

    return show
