"""A generation that is killed again and again until it is through: how many calls were paid for twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Result
from tests.servers.openai_server import OpenAIServer

ROWS = 20_000
IN_FLIGHT = 64
PROGRAM = """
import sys
from nbdream import Session
from nbdream.llms import OpenAI
from nbdream.steps import DataSource, Generate

folder, url = sys.argv[1:]
with Session(folder):
    llm = OpenAI("m", base_url=url, api_key="none", max_concurrency={in_flight})
    rows = DataSource("rows", data={{"number": list(range({rows}))}})
    made = Generate("made", inputs={{"rows": rows.output}}, args={{"llm": llm, "template": "row {{{{ number }}}}", "column": "reply"}})
    assert len(made.output) == {rows}
"""


def run() -> list[Result]:
    """The calls that the server answered, against the rows, after kills at random moments; and two processes at once."""
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder, OpenAIServer(latency=0.02, record=False) as server:
        program = Path(folder) / "program.py"
        program.write_text(PROGRAM.format(rows=ROWS, in_flight=IN_FLIGHT))

        def start(session: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen([sys.executable, str(program), str(Path(folder) / session), server.base_url])

        kills = 0
        while True:
            process = start("killed")
            try:
                if process.wait(timeout=chance.uniform(3, 9)) != 0:
                    raise SystemExit("the generation failed")
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        twice, server.calls = server.calls - ROWS, 0
        pair = [start("shared"), start("shared")]
        if any(process.wait() for process in pair):
            raise SystemExit("one of two processes failed")
        bound = float(max(1, kills * IN_FLIGHT))
        return [
            Result(f"calls paid twice in {kills} kills", float(twice), "calls", f"{IN_FLIGHT} in flight at each", bound),
            Result("calls of two processes in one folder", float(server.calls), "calls", "rows", float(ROWS)),
        ]
