"""Packages that come only when they are used."""

from __future__ import annotations

import subprocess
import sys

CHECKS = """
import sys
from nbdream import optional

jsonschema = optional.jsonschema()
assert "lark" not in sys.modules, "the grammar is there already"
assert not any(name.startswith(optional.GRAMMAR) for name in sys.modules)
assert optional.jsonschema() is jsonschema

schema = {"type": "string", "format": "iri"}
checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
assert checker.is_valid("https://exämple.org/é")
assert not checker.is_valid("no address")
assert optional.GRAMMAR in sys.modules
"""

TOGETHER = """
import sys, threading
from nbdream import optional

sys.setswitchinterval(1e-5)
wrong = []


def ask(start):
    start.wait()
    try:
        assert optional.jsonschema().Draft202012Validator
    except BaseException as error:
        wrong.append(repr(error))


for _ in range(5):
    for name in [name for name in sys.modules if name.partition(".")[0] == "jsonschema"]:
        del sys.modules[name]
    start = threading.Barrier(4)
    threads = [threading.Thread(target=ask, args=(start,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
assert not wrong, wrong
assert optional.GRAMMAR not in sys.modules
"""


def test_threads_that_need_it_at_once_all_have_it() -> None:
    done = subprocess.run([sys.executable, "-c", TOGETHER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_grammar_is_loaded_when_an_address_is_checked() -> None:
    """In a process of its own: whoever imported jsonschema before has paid for it."""
    done = subprocess.run([sys.executable, "-c", CHECKS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
