"""Forms of other packages' values: arrays, tables, tensors, configurations. None of these packages is imported to find out."""

from __future__ import annotations

import copyreg
import hashlib
import socket
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbdream import code
from nbdream.optional import is_instance

if TYPE_CHECKING:
    from nbdream.fingerprint import Walk

Found = dict[str, Any] | None


def form(value: Any, walk: Walk) -> Found:
    """The form of ``value`` if it belongs to a package that is known here."""
    top = type(value).__module__.partition(".")[0]
    known = _PACKAGES.get(top)
    found = known(value, walk) if known else None
    if found is not None:
        return found
    if isinstance(value, type):
        return _pydantic_class(value, walk)
    if is_instance(value, "pydantic", "BaseModel"):
        return {"$": "pydantic", "type": code.type_form(type(value), walk), "fields": walk.parts(value.model_dump())}
    for package, base in _CONFIGS:
        if is_instance(value, package, base):
            with walk.inside(value):
                return {"$": "config", "type": type(value).__name__, "fields": walk.parts(_settings(value))}
    return None


_CONFIGS = (
    ("peft.config", "PeftConfigMixin"),
    ("transformers.configuration_utils", "PretrainedConfig"),
    ("transformers.configuration_utils", "PreTrainedConfig"),
    ("transformers.generation.configuration_utils", "GenerationConfig"),
    ("transformers.utils.quantization_config", "QuantizationConfigMixin"),
)
"""Configurations that say all of themselves by ``to_dict``."""

_VERSIONS = ("peft_version", "transformers_version")


def _settings(value: Any) -> dict[str, Any]:
    return {str(key): part for key, part in value.to_dict().items() if key not in _VERSIONS}


def _pydantic_class(value: type, walk: Walk) -> Found:
    base: Any = getattr(sys.modules.get("pydantic"), "BaseModel", None)
    if not isinstance(base, type) or not issubclass(value, base) or value is base:
        return None
    schema = walk.part(".schema", value.model_json_schema())  # type: ignore[attr-defined]
    return {"$": "schema", "schema": schema, "code": code.class_form(value, walk)}


def _numpy(value: Any, walk: Walk) -> Found:
    np: Any = sys.modules["numpy"]
    if isinstance(value, np.ndarray):
        return _array(value, walk)
    if isinstance(value, np.dtype):
        return {"$": "dtype", "value": value.str}
    if isinstance(value, np.generic):
        return _array(np.asarray(value), walk)
    if isinstance(value, (np.random.Generator, np.random.RandomState)):
        state = value.bit_generator.state if isinstance(value, np.random.Generator) else value.get_state(legacy=False)
        return {"$": "random", "state": walk.part(".state", state)}
    return None


def is_number(value: Any) -> bool:
    """Whether ``value`` is a numpy number: it counts as the Python number it equals."""
    return is_instance(value, "numpy", "generic") and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8


def _array(value: Any, walk: Walk) -> dict[str, Any]:
    if value.dtype.hasobject:
        return {"$": "array", "dtype": "object", "shape": list(value.shape), "items": walk.part("", value.ravel().tolist())}
    plain = value if value.dtype.byteorder in "<|=" and sys.byteorder == "little" else value.astype(value.dtype.newbyteorder("<"))
    plain = plain.copy(order="C") if not plain.flags.c_contiguous else plain
    return {"$": "array", "dtype": plain.dtype.str, "shape": list(plain.shape), "sha256": hashlib.sha256(plain.tobytes()).hexdigest()}


def _torch(value: Any, walk: Walk) -> Found:
    torch: Any = sys.modules["torch"]
    if isinstance(value, (torch.dtype, torch.device)):
        return {"$": f"torch.{type(value).__name__}", "value": str(value)}
    if isinstance(value, torch.Size):
        return {"$": "torch.Size", "items": list(value)}
    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous()
        raw = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        return {"$": "tensor", "dtype": str(value.dtype), "shape": list(value.shape), "sha256": hashlib.sha256(raw).hexdigest()}
    return None


def _arrow(value: Any, walk: Walk) -> Found:
    pa: Any = sys.modules["pyarrow"]
    if isinstance(value, pa.Scalar):
        return {"$": "arrow", "type": str(value.type), "value": walk.value(value.as_py())}
    if isinstance(value, (pa.Array, pa.ChunkedArray)):
        return {"$": "arrow", "type": str(value.type), "column": _column(value.to_pylist())}
    if isinstance(value, (pa.Table, pa.RecordBatch)):
        return _table([(name, value.column(i).to_pylist()) for i, name in enumerate(value.schema.names)], "arrow table")
    if isinstance(value, (pa.DataType, pa.Field, pa.Schema)):
        return {"$": "arrow type", "value": str(value)}
    return None


def _pandas(value: Any, walk: Walk) -> Found:
    pd: Any = sys.modules["pandas"]
    if isinstance(value, pd.DataFrame):
        table = _table([(walk.value(name), value.iloc[:, i].tolist()) for i, name in enumerate(value.columns)], "data frame")
        return {**table, "index": _column(value.index.tolist())}
    if isinstance(value, (pd.Series, pd.Index)):
        index = {"index": _column(value.index.tolist())} if isinstance(value, pd.Series) else {}
        return {"$": "series", "dtype": str(value.dtype), "column": _column(value.tolist()), **index}
    if isinstance(value, pd.Timestamp):
        return {"$": "datetime", "value": value.isoformat()}
    return {"$": "null", "value": str(value)} if value is pd.NA or value is pd.NaT else None


def _polars(value: Any, walk: Walk) -> Found:
    pl: Any = sys.modules["polars"]
    if isinstance(value, pl.DataFrame):
        return _table([(name, value[name].to_list()) for name in value.columns], "data frame")
    if isinstance(value, pl.Series):
        return {"$": "series", "dtype": str(value.dtype), "column": _column(value.to_list())}
    return None


def _table(columns: list[tuple[Any, list[Any]]], kind: str) -> dict[str, Any]:
    return {"$": kind, "columns": [[name, _column(values)] for name, values in columns]}


def _column(values: list[Any]) -> str:
    from nbdream.columns import ColumnDigest

    column = ColumnDigest()
    column.update(values)
    return column.hexdigest()


_PACKAGES: dict[str, Callable[[Any, Walk], Found]] = {
    "numpy": _numpy,
    "torch": _torch,
    "pyarrow": _arrow,
    "pandas": _pandas,
    "polars": _polars,
}


def state(value: Any, walk: Walk) -> dict[str, Any]:
    """The form of any other object: its class and its state, as the copy protocol tells them (nothing is pickled)."""
    kind = type(value)
    if kind.__module__ == "_thread" or isinstance(value, (types.GeneratorType, types.CoroutineType, types.FrameType, socket.socket)):
        if kind.__name__ in ("lock", "RLock"):
            return {"$": "lock"}
        raise walk.refuse(value)
    try:
        reduced = value.__reduce_ex__(4)
    except Exception as error:
        raise walk.refuse(value) from error
    if isinstance(reduced, str):
        return {"$": "global", "name": f"{kind.__module__}.{reduced}"}
    make, args, inner, items, pairs = (*reduced, None, None, None)[:5]
    found: dict[str, Any] = {"$": "object", "type": code.type_form(kind, walk)}
    if make is not getattr(copyreg, "__newobj__", None):
        found["make"] = walk.part("", make)
    rest = [arg for arg in args if arg is not kind]
    if rest:
        found["args"] = walk.part("", rest)
    if inner is not None:
        found["state"] = walk.parts(inner, "") if _is_named(inner) else walk.part("", inner)
    if items is not None:
        found["items"] = walk.part("", list(items))
    if pairs is not None:
        found["pairs"] = walk.part("", [list(pair) for pair in pairs])
    return found


def _is_named(inner: object) -> bool:
    return type(inner) is dict and all(type(key) is str for key in inner)
