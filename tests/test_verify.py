"""Verifying: tables made again from what is stored, without running anything of the archive; and what differs, named."""

from __future__ import annotations

import json
import random
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import BaseModel, field_validator

from nbdream import Session
from nbdream.cli import main
from nbdream.errors import DataError
from nbdream.files import read_object, write_json
from nbdream.hub import archive
from nbdream.hub.share import share
from nbdream.hub.verify import DIFFERS, NEEDS_CODE, NOT_STORED, SAME, SOURCE, Report, verify
from nbdream.llms import Anthropic, EchoLLM, OpenAI
from nbdream.steps import (
    Annotation,
    CSVDataSource,
    DataFromPrompt,
    DataSource,
    Evaluate,
    Filter,
    FilterWithPrompt,
    Generate,
    ProcessWithPrompt,
    Prompt,
    Step,
    concat,
    zipped,
)
from tests.test_cli import write_notebook

TOPICS = {"topic": ["rain", "snow", "rain", "ice"], "weight": [1, 2, 3, 4]}
SCHEMA = {
    "type": "object",
    "properties": {"zeta": {"type": "string"}, "alpha": {"type": "integer"}},
    "required": ["zeta", "alpha"],
    "additionalProperties": False,
}
ANSWERS = ['{"zeta": "a", "alpha": 3}', "nonsense", '{"zeta": "b", "alpha": 4}', '{"alpha": 1}']


class Plain(BaseModel):
    zeta: str
    alpha: int


class Strict(BaseModel):
    zeta: str
    alpha: int

    @field_validator("alpha")
    @classmethod
    def small(cls, value: int) -> int:
        return value * 10


class Counted(Step):
    def setup(self) -> None:
        self.register_output("n")

    def run(self) -> Any:
        return {"n": [1, 2, 3]}


def states(report: Report) -> dict[str, str]:
    return {table.name: table.state for table in report.tables}


def says(report: Report, name: str) -> str:
    return next(table.says for table in report.tables if table.name == name)


def packed(session: Session, folder: Path, **options: Any) -> Path:
    return share(session, folder / "a.zip", None, **options).path


def test_everything_that_is_data_template_and_replies(session: Session, tmp_path: Path) -> None:
    model, json_model = EchoLLM(temperature=0.7), EchoLLM(answers=ANSWERS, temperature=1)
    rows = DataSource("topics", TOPICS)
    topic = rows.output["topic"]
    Generate("from nothing", args={"llm": model, "template": "Hello {{ who }}", "n": 5, "variables": {"who": ["you", 2.5, None]}})
    Generate(
        "lines", inputs={"rows": rows.output}, args={"llm": model, "template": "On {{ topic }}", "column": "line", "system": "Be kind."}
    )
    draws = Generate("draws", inputs={"rows": rows.output}, args={"llm": model, "template": "{{ topic }}", "draws": 3, "seed": 4})
    Generate("listed", inputs={"rows": rows.output}, args={"llm": model, "template": "{{ topic }}", "draws": 2, "as_list": True})
    Generate("told", inputs={"rows": topic}, args={"llm": model, "template": "Translate."})
    Generate("fields", inputs={"rows": draws.output}, args={"llm": json_model, "template": "{{ generation }}", "schema": SCHEMA})
    kept = {"llm": json_model, "template": "{{ topic }}?", "schema": {"type": "array", "items": SCHEMA}, "on_fail": "keep"}
    Generate("items", inputs={"rows": rows.output}, args=kept)
    Generate(
        "plain class", inputs={"rows": rows.output}, args={"llm": EchoLLM(answers=ANSWERS[:1]), "template": "{{ topic }}!", "schema": Plain}
    )
    Filter("good", inputs={"rows": rows.output}, args={"llm": EchoLLM(answers=["Yes", "No", "Well"]), "template": "{{ topic }}?"})
    FilterWithPrompt("better", inputs={"inputs": topic}, args={"llm": EchoLLM(answers=["Yes", "No"]), "instruction": "Good?"})
    ProcessWithPrompt(
        "processed", inputs={"inputs": topic}, args={"llm": model, "instruction": "Shorten", "n": 2}, outputs={"generations": "g"}
    )
    Prompt("prompted", inputs={"prompts": topic}, args={"llm": model})
    DataFromPrompt("data", args={"llm": model, "instruction": "Do", "n": 3}, outputs={"generations": "done"})
    for step in rows.splits(0.5, 0.25, 0.25, stratify_by_column="topic").values():
        step.take(1)
    rows.splits(0.5, 0.25, 0.25)
    again = rows.sort(["topic", "weight"], reverse=[True, False]).shuffle(3).reverse().skip(1).select([0, -1])
    concat(again, again.copy()).save()
    zipped(again.select_columns("topic").rename_column("topic", "t"), again.remove_columns("topic")).shard(2, 0)
    again.add_item({"topic": "hail", "weight": None})
    Generate("lines", inputs={"rows": rows.output}, args={"llm": model, "template": "On {{ topic }}", "column": "line"}, force=True)
    asked = Annotation("taste", rows)
    asked.decide(0, "reject")
    asked.decide(2, "accept")
    assert len(asked.output) == 1
    path = packed(session, tmp_path)
    report = verify(path)
    assert report.ok
    assert {name for name, state in states(report).items() if state != SAME} == set()
    assert len(report.tables) > 30
    assert not list(tmp_path.glob("*replies*"))

    assert states(verify(tmp_path / "output")) == states(report)  # the folder says the same, and is left as it was
    assert not list((tmp_path / "output").glob("*.jsonl"))


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_real_providers(session: Session, tmp_path: Path, openai_server: Any, provider: str) -> None:
    from tests.servers.anthropic_server import AnthropicServer

    with AnthropicServer() as anthropic_server:
        model: Any = OpenAI("gpt-4.1", base_url=openai_server.base_url, system_prompt="Be kind.", max_tokens=50, temperature=1.0)
        if provider == "anthropic":
            model = Anthropic("claude", base_url=anthropic_server.base_url, api_key="a-key-of-tests")
        rows = DataSource("topics", TOPICS)
        Generate("lines", inputs={"rows": rows.output}, args={"llm": model, "template": "On {{ topic }}", "draws": 2, "max_new_tokens": 9})
        ProcessWithPrompt("short", inputs={"inputs": rows.output["topic"]}, args={"llm": model, "instruction": "Shorten", "stop": "."})
    assert set(states(verify(packed(session, tmp_path))).values()) == {SAME}


def always(reference: str, prediction: str) -> float:
    return 1.0


def test_evaluations(session: Session, tmp_path: Path, openai_server: Any) -> None:
    rows = DataSource("pairs", {"asked": ["a b", "c d", "e f"], "answer": ["a b", "x", "e f too"], "read": [["one"], ["two"], []]})
    gpt = OpenAI("gpt-4.1", base_url=openai_server.base_url)
    openai_server.reply = lambda body, count: '{"better": "A"}' if "answer_A" in body["messages"][-1]["content"] else "x"
    inputs = {"input": rows.output["asked"], "output": rows.output["answer"]}
    models = {"base": EchoLLM(), "other": gpt}
    Evaluate("scores", inputs=inputs, args={"models": models, "metrics": ["exact_match", "rouge", "bleu", "judge"], "judge": gpt})
    contexts = {**inputs, "contexts": rows.output["read"]}
    Evaluate("in context", inputs=contexts, args={"models": models, "metrics": ["f1"], "temperature": 0.7, "seed": 3})
    Evaluate("by code", inputs=inputs, args={"models": models, "metrics": [always]})
    assert openai_server.calls
    report = verify(packed(session, tmp_path))
    assert states(report) == {"pairs": SAME, "scores": SAME, "in context": SAME, "by code": NEEDS_CODE}


def test_what_needs_code_is_named(session: Session, tmp_path: Path) -> None:
    def doubled(row: dict[str, Any]) -> dict[str, Any]:
        return {"twice": row["weight"] * 2}

    session.new_execution({"id": "x", "notebook": "a.ipynb", "number": 4, "source": ""})
    rows = DataSource("topics", TOPICS)
    rows.map(doubled, name="mapped")
    Counted("counted")
    Generate(
        "strict", inputs={"rows": rows.output}, args={"llm": EchoLLM(answers=ANSWERS[:1]), "template": "{{ topic }}", "schema": Strict}
    )
    Generate("after", args={"llm": EchoLLM(), "template": "x", "post_process": str.upper})
    DataSource("function", lambda: iter([{"a": 1}]))
    rows.select([random.randrange(4) for _ in range(200)], name="chosen")
    report = verify(packed(session, tmp_path))
    assert report.ok
    assert states(report) == {"topics": SAME} | dict.fromkeys(("mapped", "counted", "strict", "after", "function", "chosen"), NEEDS_CODE)
    assert says(report, "mapped") == "its function (doubled) (cell 4): nbdream replay runs it"
    assert says(report, "counted") == "the class Counted (cell 4): nbdream replay runs it"
    assert says(report, "strict") == "the class of its answers (cell 4): nbdream replay runs it"


def test_a_source_and_replies_that_are_missing(session: Session, tmp_path: Path) -> None:
    (tmp_path / "read.csv").write_text("topic\nrain\nsnow\n")
    rows = CSVDataSource("topics", data_files=str(tmp_path / "read.csv"))
    Generate("lines", inputs={"rows": rows.output}, args={"llm": EchoLLM(), "template": "{{ topic }}"})
    report = verify(packed(session, tmp_path, calls=False))
    assert states(report) == {"topics": SOURCE, "lines": NOT_STORED}
    assert says(report, "lines") == "2 of 2 replies are not stored"
    assert says(report, "topics") == "as it was read from 'read.csv'; its rows are what was written then"
    assert report.ok  # it was shared without them
    assert not report.with_calls


# --- what is not as it says -------------------------------------------------------------------------------------------


def tampered(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """An archive whose content was changed, with a manifest that fits."""
    with zipfile.ZipFile(path) as found:
        files = {name: found.read(name) for name in found.namelist()}
    manifest = json.loads(files.pop(archive.MANIFEST))
    change(files)
    del manifest["files"]
    archive.write(path, manifest, dict(files))
    return path


@pytest.fixture
def lines(session: Session, tmp_path: Path) -> Path:
    rows = DataSource("topics", TOPICS)
    first = Generate("lines", inputs={"rows": rows.output}, args={"llm": EchoLLM(), "template": "On {{ topic }}", "column": "line"})
    Generate("more", inputs={"rows": first.output}, args={"llm": EchoLLM(), "template": "{{ line }}!"})
    return packed(session, tmp_path)


def test_a_reply_that_was_changed(lines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(files: dict[str, bytes]) -> None:
        files["nbdream-output/calls.jsonl"] = files["nbdream-output/calls.jsonl"].replace(b'"On ice"', b'"On mice"', 1)

    report = verify(tampered(lines, change))
    assert states(report) == {"topics": SAME, "lines": DIFFERS, "more": SAME}
    assert says(report, "lines") == "row 3 of column 'generation' is 'On ice', and should be 'On mice'"
    assert not report.ok
    assert main(["verify", str(lines)]) == 1
    assert "✗ lines" in capsys.readouterr().out
    assert main(["verify", str(lines), "--json"]) == 1
    assert [table["state"] for table in json.loads(capsys.readouterr().out)["tables"]] == [SAME, DIFFERS, SAME]


def test_a_reply_that_was_taken_out(lines: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        replies = files["nbdream-output/calls.jsonl"].splitlines(keepends=True)
        files["nbdream-output/calls.jsonl"] = b"".join(line for line in replies if b'"On snow"' not in line)

    report = verify(tampered(lines, change))
    assert states(report) == {"topics": SAME, "lines": NOT_STORED, "more": SAME}
    assert says(report, "lines") == "1 of 4 replies are not stored"
    assert not report.ok


def rewritten(old: bytes, change: Callable[[pa.Table], pa.Table]) -> bytes:
    table = change(pa.ipc.open_stream(old).read_all())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def test_rows_that_were_changed(lines: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        name = next(name for name in files if name.endswith(".arrow") and b"On ice" in files[name] and b"!" not in files[name])
        files[name] = rewritten(
            files[name], lambda table: table.set_column(0, "generation", pa.array(["On rain", "On snow", "On rain (draw 2)", "lies"]))
        )

    report = verify(tampered(lines, change))
    assert states(report)["lines"] == DIFFERS
    assert says(report, "lines") == "column 'generation' is not what was written when it was made"


def test_rows_and_their_node_that_were_changed_together(lines: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        from nbdream.objects import column_digest

        name = next(name for name in files if name.endswith(".arrow") and b"On ice" in files[name] and b"!" not in files[name])
        lie = pa.array(["On rain", "On snow", "On rain (draw 2)", "lies"])
        files[name] = rewritten(files[name], lambda table: table.set_column(0, "generation", lie))
        node = name.replace("data/00000.arrow", "node.json")
        told = json.loads(files[node])
        told["columns"]["generation"]["digest"] = column_digest(lie)
        files[node] = json.dumps(told).encode()

    report = verify(tampered(lines, change))
    assert says(report, "lines") == "row 3 of column 'generation' is 'lies', and should be 'On ice'"
    assert says(report, "more") == "its input 'rows' is not what it was made of"
    assert states(report) == {"topics": SAME, "lines": DIFFERS, "more": DIFFERS}


def test_data_that_was_changed(lines: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        name = next(name for name in files if name.endswith(".arrow") and b"weight" in files[name])
        files[name] = rewritten(files[name], lambda table: table.set_column(1, "weight", pa.array([1, 2, 3, 5])))

    assert states(verify(tampered(lines, change)))["topics"] == DIFFERS


# --- nothing of it runs -------------------------------------------------------------------------------------------------


def test_no_code_of_an_archive_runs(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sings = f"open({str(tmp_path / 'sung')!r}, 'w').close()"
    rows = DataSource("topics", TOPICS)
    rows.map(lambda row: {"size": len(row["topic"])}, name="mapped")
    book = write_notebook(tmp_path / "a.ipynb", [sings])
    path = share(session, tmp_path / "a.zip", book, allow=["paths"]).path
    before = set(sys.modules)
    report = verify(path)
    assert states(report) == {"topics": SAME, "mapped": NEEDS_CODE}
    assert not (tmp_path / "sung").exists()
    assert not {"nbclient", "ipykernel", "torch", "transformers"} & (set(sys.modules) - before)


def test_a_template_that_climbs(session: Session, tmp_path: Path) -> None:
    """A stranger's template is rendered where it reaches nothing."""
    rows = DataSource("topics", TOPICS)
    made = Generate("lines", inputs={"rows": rows.output}, args={"llm": EchoLLM(), "template": "On {{ topic }}"})
    path = packed(session, tmp_path)

    def change(files: dict[str, bytes]) -> None:
        from nbdream.fingerprint import form_digest

        climbing = "{{ topic.__class__.__mro__[1].__subclasses__() }}"
        for name in [name for name in files if made.key in name or name.endswith("names/lines.json")]:
            text = files.pop(name)
            if name.endswith("node.json"):
                node = json.loads(text)
                node["recipe"]["args"]["template"] = climbing
                text = json.dumps(node).encode()
                key = form_digest(node["recipe"])[:40]
            files[name] = text
        for name in [name for name in files if made.key in name or name.endswith("names/lines.json")]:
            files[name.replace(made.key, key)] = files.pop(name).replace(made.key.encode(), key.encode())

    report = verify(tampered(path, change))
    assert states(report)["lines"] == DIFFERS
    assert "unsafe" in says(report, "lines")


def test_a_schema_that_would_be_fetched(session: Session, tmp_path: Path, openai_server: Any) -> None:
    schema = {
        **SCHEMA,
        "properties": {"zeta": {"$ref": "#/$defs/text"}, "alpha": {"type": "integer"}},
        "$defs": {"text": {"type": "string"}},
    }
    Generate("fields", args={"llm": EchoLLM(answers=ANSWERS[:1]), "template": "x", "schema": schema})
    path = packed(session, tmp_path)
    assert set(states(verify(path)).values()) == {SAME}
    from nbdream.hub.arguments import NeedsCodeError
    from nbdream.hub.arguments import schema as read

    far = {"schema": {**SCHEMA, "$ref": f"{openai_server.base_url}/schema.json"}, "order": ["zeta", "alpha"]}
    with pytest.raises(NeedsCodeError, match="fetched"):
        read(far)
    assert openai_server.calls == 0


# --- training -----------------------------------------------------------------------------------------------------------


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no session"):
        verify(tmp_path)
    with pytest.raises(DataError, match="there is no archive"):
        verify(tmp_path / "missing.zip")
    (tmp_path / "output").mkdir()
    write_json(tmp_path / "output" / "session.json", {"format": 99})
    with pytest.raises(DataError, match="format 99"):
        verify(tmp_path)
    assert read_object(tmp_path / "output" / "session.json") == {"format": 99}
