"""The graph as it is shown: where each result stands, in the picture and on a page; what others wrote is text in it."""

from __future__ import annotations

import json
import random
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdream import context
from nbdream.cards.graph import join, stages
from nbdream.steps import DataSource
from nbdream.widgets.lineage import COLUMNS, LINEAGE, MOST, layout, lineage_svg, lineage_view
from tests.hostile import HOSTILE
from tests.notebook import Shell
from tests.test_labextension import STATIC, in_node

needs_node = pytest.mark.skipif(shutil.which("npm") is None, reason="no Node")


def graphs() -> list[list[list[int]]]:
    draw = random.Random(3)
    found: list[list[list[int]]] = [[], [[]], [[], [0], [1], [2], [3]], [[] for _ in range(60)], [[], *([0] for _ in range(59))]]
    for size in (5, 20, 60):
        found += [
            [sorted({draw.randrange(row) for _ in range(draw.choice((0, 1, 1, 2)))}) if row else [] for row in range(size)]
            for _ in range(20)
        ]
    return found


@pytest.mark.parametrize("columns", [1, 2, 4, 6])
def test_each_stands_alone_and_below_what_it_comes_from(columns: int) -> None:
    for above in graphs():
        places = layout(above, columns)
        assert len(set(places)) == len(above)
        assert all(0 <= column < columns for _, column in places)
        for box, sources in enumerate(above):
            assert all(places[source][0] < places[box][0] for source in sources)
        lines = max((line for line, _ in places), default=-1) + 1
        assert {line for line, _ in places} == set(range(lines)), "no line is empty"
    chains = [[] if box < 4 else [box - 4] for box in range(16)]
    assert all(place[1] == layout(chains, 4)[box % 4][1] for box, place in enumerate(layout(chains, 4))), (
        "what hangs together stands together"
    )
    assert layout([[], [0], [1], [2]], columns) == [(0, 0), (1, 0), (2, 0), (3, 0)]


@needs_node
def test_a_page_lays_it_out_alike() -> None:
    cases = [(above, columns) for above in graphs() for columns in (1, 3, 5)]
    found = in_node("lineage", "values.map(([above, columns]) => m.layout(above, columns))", *cases, folder=STATIC)
    assert [[tuple(place) for place in places] for places in found] == [layout(above, columns) for above, columns in cases]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.chdir(tmp_path)
    made = Shell()
    made.run("%dream open ./output")
    made["rows"] = [{"x": number} for number in range(5)]
    yield made
    made.close()


def shown(shell: Shell, line: str = "%dream lineage") -> dict[str, Any]:
    found: dict[str, Any] = shell.run(line)._repr_mimebundle_()
    return found


def test_results_and_the_python_between_them(shell: Shell) -> None:
    assert shown(shell) == {"text/plain": "no results yet"}
    shell.run("%%map base --from rows\n{'y': row.x + 1}")
    shell.run("import math\nhalf = base.to_pandas()[:3]")
    shell.run("%%map tops --from half\n{'z': row.y * 2}")
    bundle = shown(shell)
    assert set(bundle) == {"text/plain", "image/svg+xml", LINEAGE}
    nodes = bundle[LINEAGE]["nodes"]
    assert [(node["name"], node["kind"], node["above"]) for node in nodes] == [
        ("data of the notebook", "data", []), ("base", "rows", [0]), ("Python", "python", [1]), ("tops", "rows", [2]),
    ]  # fmt: skip
    assert nodes[2]["detail"] == "half = base.to_pandas()[:3]"
    assert nodes[3]["detail"] == "3 rows"
    assert nodes[2]["cell"] not in (None, nodes[1]["cell"], nodes[3]["cell"])
    assert shown(shell) == bundle, "the same every time"
    assert [node["name"] for node in shown(shell, "%dream lineage base")[LINEAGE]["nodes"]] == ["data of the notebook", "base"]
    assert json.dumps(bundle[LINEAGE]).count("output") == 0, "no path"


def drawn(shell: Shell) -> dict[str, list[int]]:
    return {f"{at} {node['name']}": node["above"] for at, node in enumerate(shown(shell)[LINEAGE]["nodes"])}


def test_a_frame_that_two_cells_use_stands_once(shell: Shell) -> None:
    shell.run("%%map base --from rows\n{'y': row.x + 1}")
    shell.run("half = base.to_pandas()[:3]")
    shell.run("%%map one --from half\n{'z': row.y * 2}")
    shell.run("%%map other --from half\n{'z': row.y * 3}")
    shell.run("%%map more --from rows\n{'y': row.x + 2}")
    shell.run("from nbdream.steps import concat\nboth = concat(one, other, name='both')")
    assert drawn(shell) == {
        "0 data of the notebook": [], "1 base": [0], "2 Python": [1], "3 one": [2], "4 other": [2], "5 both": [3, 4], "6 more": [0]
    }  # fmt: skip
    graph = shell["both"].runner.graph(shell["both"])
    assert [stage.name for stage in stages(graph)] == ["base (data)", "base", "one (data)", "one", "other", "both"]
    assert list(shell["both"].card()["data_card"]) == [stage.name for stage in stages(graph)]
    taken = next(stage for stage in stages(graph) if stage.name == "one (data)")
    above = [source["use"] for stage in stages(graph) if stage.name in ("one", "other") for source in stage.use["inputs"].values()]
    assert above == [taken.id, taken.id]
    session: Any = context.active()
    published = [session.load(name) for name in ("one (data)", "other (data)")]
    assert len(stages(join([step.runner.graph(step) for step in published]))) == 4, "what is published itself stays"


def test_what_only_looks_alike_stands_apart(shell: Shell) -> None:
    shell.run("%%map base --from rows\n{'y': row.x + 1}")
    shell.run("half = base.to_pandas()[:3]")
    shell.run("%%map one --from half\n{'z': row.y * 2}")
    shell.run("half = base.to_pandas()[1:3]")
    shell.run("%%map others --from half\n{'z': row.y * 2}")
    shell.run("half = base.to_pandas().head(3)")
    shell.run("%%map computed --from half\n{'z': row.y * 3}")
    shell.run("from nbdream.steps import DataSource\na, b = (DataSource(name, [{'x': 1}]) for name in 'ab')")
    names = [name.partition(" ")[2] for name in drawn(shell)]
    assert names.count("Python") == 3, "other rows, and the same rows computed otherwise"
    assert {"a", "b"} <= set(names), "two names are two results"


@pytest.mark.parametrize("size", [1, 5, 60])
def test_the_picture_of_many(size: int) -> None:
    nodes = [
        {
            "name": f"result {number}",
            "kind": "rows",
            "detail": "1,000 rows",
            "title": "t",
            "cell": None,
            "above": [number // 2] if number else [],
        }
        for number in range(size)
    ]
    svg = ET.fromstring(lineage_svg(nodes))
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}rect"))) == size
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}path"))) == size - 1
    assert int(svg.get("width", "0")) <= COLUMNS * 216 + 8
    assert len(lineage_svg(nodes)) < 60_000


def test_what_others_wrote_is_text(session: Any) -> None:
    texts = [text for text in HOSTILE if text.strip() and text.encode("utf-8", "ignore").decode() == text]
    for start in range(0, len(texts), 20):
        made = [DataSource(text[:200], data={"x": [number]}) for number, text in enumerate(texts[start : start + 20])]
        runner: Any = context.active()
        bundle = lineage_view([runner.graph(step) for step in made])._repr_mimebundle_()
        svg = ET.fromstring(bundle["image/svg+xml"])
        assert {element.tag.rpartition("}")[2] for element in svg.iter()} <= {"svg", "g", "title", "rect", "text", "path"}
        assert {name for element in svg.iter() for name in element.attrib if name.startswith("on") or "href" in name} == set()
        for text in (bundle["text/plain"], json.dumps(bundle[LINEAGE], ensure_ascii=False)):
            assert not re.search(r"[\x00-\x08\x1b\x7f\x9b\u202e\u2066]", text)


def test_of_very_many_the_last_are_drawn(session: Any) -> None:
    runner: Any = context.active()
    made = [runner.graph(DataSource(f"d{number}", data={"x": [number]})) for number in range(MOST + 5)]
    found = lineage_view(made)._repr_mimebundle_()[LINEAGE]
    assert (len(found["nodes"]), found["left_out"]) == (MOST, 5)
    assert found["nodes"][-1]["name"] == f"d{MOST + 4}"
