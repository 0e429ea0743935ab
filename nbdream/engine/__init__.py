"""Requests → replies: in row order, each paid for once and on disk before it counts."""

from __future__ import annotations

from nbdream.engine.engine import Engine
from nbdream.engine.keys import call_key
from nbdream.engine.retry import Patience
from nbdream.engine.stream import Progress

__all__ = ["Engine", "Patience", "Progress", "call_key"]
