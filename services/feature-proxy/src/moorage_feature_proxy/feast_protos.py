"""Feast's generated protobuf modules, imported without Feast itself.

`import feast` takes seconds and some 170 MB, because its `__init__` loads the whole SDK (pandas, pyarrow, dask). The
generated modules need protobuf alone, so an empty parent package stands in for `feast` while they are imported.
"""

import importlib.util
import sys
import types
from typing import Any


def _import() -> tuple[Any, Any]:
    stand_in = None
    if "feast" not in sys.modules:
        spec = importlib.util.find_spec("feast")
        if spec is None or spec.submodule_search_locations is None:
            message = "the package feast is not installed"
            raise ImportError(message)
        stand_in = types.ModuleType("feast")
        stand_in.__path__ = list(spec.submodule_search_locations)
        sys.modules["feast"] = stand_in
    try:
        from feast.protos.feast.core import Registry_pb2  # noqa: PLC0415 - its parent is in place here only
        from feast.protos.feast.types import Value_pb2  # noqa: PLC0415
    finally:
        if stand_in is not None and sys.modules.get("feast") is stand_in:
            del sys.modules["feast"]
    return Registry_pb2.Registry, Value_pb2


Registry, _value_pb2 = _import()
"""`feast.core.Registry`: what `feast apply` writes."""
Value: Any = _value_pb2.Value
"""`feast.types.Value`: one stored feature value."""
ValueType: Any = _value_pb2.ValueType
"""`feast.types.ValueType`: the enumeration of types."""
