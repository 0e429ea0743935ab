"""What ships for the demo: the tiny model (``model/``), made by ``scripts/train_demo_model.py``, and the example notebook."""

from __future__ import annotations

from nbdream.llms.weights import DEMO_FOLDER

__all__ = ["DEMO_FOLDER"]
