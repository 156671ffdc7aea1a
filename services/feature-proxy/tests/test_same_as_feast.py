"""The proxy's answers are Feast's own: the SDK writes to Redis, both read."""

import base64
import datetime as dt
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moorage_feature_proxy import values

NOW = dt.datetime.now(dt.UTC).replace(microsecond=250_000)
WHEN = dt.datetime(2024, 5, 6, 7, 8, 9, tzinfo=dt.UTC)

SCALARS: dict[str, tuple[str, list[Any]]] = {
    "Float64": ("FP64", [1.5, -0.1, 1e300]),
    "Float32": ("FP32", [0.1, -3.25, 1e30]),
    "Int64": ("INT64", [2**62, -7, 0]),
    "Int32": ("INT32", [2**31 - 1, -7, 0]),
    "Bool": ("BOOL", [True, False, True]),
    "String": ("BYTES", ["münchen", "", "a b"]),
    "Bytes": ("BYTES", [b"\x00\xff", b"", b"abc"]),
    "UnixTimestamp": ("INT64", [WHEN, WHEN + dt.timedelta(days=400), WHEN]),
}


def frame(**columns: list[Any]) -> Any:
    rows = len(next(iter(columns.values())))
    return pd.DataFrame({**columns, "event_timestamp": [NOW] * rows})


def as_json(value: Any) -> Any:
    """A value message of Feast's response as the proxy gives it."""
    field = value.WhichOneof("val")
    if field is None:
        return None
    found = getattr(value, field)
    elements = list(found.val) if field.endswith("_list_val") else [found]
    plain = [base64.b64encode(e).decode() if isinstance(e, bytes) else e for e in elements]
    return plain if field.endswith("_list_val") else plain[0]


def oracle(response: Any) -> dict[str, list[Any]]:
    names = list(response.proto.metadata.feature_names.val)
    return {n: [as_json(v) for v in r.values] for n, r in zip(names, response.proto.results, strict=True)}


async def assert_same(proxy: Any, repo: Any, service: str, **entities: list[Any]) -> dict[str, Any]:
    columns: dict[str, Any] = await proxy.columns("acme", service, **entities)
    wanted = oracle(repo.online(service, **entities))
    assert {name: column["values"] for name, column in columns.items()} == {
        name: column for name, column in wanted.items() if name not in entities
    }
    return columns


async def test_every_scalar_type_and_list_reads_as_feast_reads_it(
    proxy: Any, new_repo: Any, feast: Any, types: Any, source: Any
) -> None:
    repo = new_repo("acme")
    shop = feast.Entity(name="shop", join_keys=["shop_id"], value_type=feast.ValueType.INT64)
    fields = [feast.Field(name="shop_id", dtype=types.Int64)]
    columns: dict[str, list[Any]] = {"shop_id": [1, 2, 3]}
    for name, (_, cells) in SCALARS.items():
        kind = getattr(types, name)
        fields += [
            feast.Field(name=name.lower(), dtype=kind),
            feast.Field(name=f"{name.lower()}s", dtype=types.Array(kind)),
        ]
        columns[name.lower()] = cells
        columns[f"{name.lower()}s"] = [cells, cells[:1], cells[1:]]
    view = feast.FeatureView(name="all_types", entities=[shop], schema=fields, source=source("s"))
    uploaded = repo.apply(shop, view, feast.FeatureService(name="all", features=[view]))
    repo.write("all_types", frame(**columns))

    answer = await proxy.put_definitions("acme", uploaded)
    assert answer.status_code == 200, answer.text
    info = answer.json()["services"][0]
    datatypes = dict(zip(info["features"], info["datatypes"], strict=True))
    assert datatypes == {
        f"all_types__{name.lower()}{s}": datatype for name, (datatype, _) in SCALARS.items() for s in ("", "s")
    }
    found = await assert_same(proxy, repo, "all", shop_id=[3, 1, 2, 1])
    for column in found.values():
        assert column["statuses"] == ["present"] * 4, column["name"]
        assert column["event_timestamps"] == [NOW.timestamp()] * 4
    assert found["all_types__unixtimestamp"]["values"][1] == int(WHEN.timestamp())


async def test_a_missing_row_and_a_null_value_are_told_apart_from_values(
    proxy: Any, new_repo: Any, feast: Any, types: Any, source: Any
) -> None:
    repo = new_repo("acme")
    shop = feast.Entity(name="shop", join_keys=["shop_id"], value_type=feast.ValueType.INT64)
    schema = [feast.Field(name=n, dtype=t) for n, t in (("shop_id", types.Int64), ("a", types.Float64))]
    view = feast.FeatureView(name="v", entities=[shop], schema=schema, source=source("s"))
    await proxy.put_definitions("acme", repo.apply(shop, view, feast.FeatureService(name="one", features=[view])))
    repo.write("v", frame(shop_id=[1, 2], a=[0.0, None]))
    column = (await assert_same(proxy, repo, "one", shop_id=[1, 2, 3]))["v__a"]
    assert column["values"] == [0.0, None, None]
    assert column["statuses"] == ["present", "missing", "missing"]
    assert column["event_timestamps"] == [NOW.timestamp(), NOW.timestamp(), None]


async def test_a_value_older_than_its_views_ttl_is_expired_and_null(
    proxy: Any, new_repo: Any, feast: Any, types: Any, source: Any
) -> None:
    """Feast's Redis store serves such values still; its precomputed vectors say OUTSIDE_MAX_AGE, as the proxy does."""
    repo = new_repo("acme")
    shop = feast.Entity(name="shop", join_keys=["shop_id"], value_type=feast.ValueType.INT64)
    views = []
    for name, ttl in (("short", dt.timedelta(hours=1)), ("long", dt.timedelta(hours=3)), ("ever", None)):
        schema = [feast.Field(name=n, dtype=types.Int64) for n in ("shop_id", "a")]
        views.append(feast.FeatureView(name=name, entities=[shop], schema=schema, source=source(name), ttl=ttl))
    uploaded = repo.apply(shop, *views, feast.FeatureService(name="aged", features=views))
    await proxy.put_definitions("acme", uploaded)
    written = frame(shop_id=[1, 2], a=[10, 20])
    written["event_timestamp"] = [NOW, NOW - dt.timedelta(hours=2)]
    for view in views:
        repo.write(view.name, written)
    columns = await proxy.columns("acme", "aged", shop_id=[1, 2])
    assert columns["short__a"]["values"] == [10, None]
    assert columns["short__a"]["statuses"] == ["present", "expired"]
    assert columns["long__a"]["values"] == columns["ever__a"]["values"] == [10, 20]
    assert columns["short__a"]["event_timestamps"][1] == (NOW - dt.timedelta(hours=2)).timestamp()


async def test_several_entities_renamed_keys_and_views_of_a_projection_read_as_feast_reads_them(
    proxy: Any, new_repo: Any, feast: Any, types: Any, source: Any
) -> None:
    repo = new_repo("acme")
    shop = feast.Entity(name="shop", join_keys=["shop_id"], value_type=feast.ValueType.STRING)
    item = feast.Entity(name="item", join_keys=["article"], value_type=feast.ValueType.INT32)
    sales = feast.FeatureView(
        name="sales",
        entities=[shop, item],
        schema=[
            feast.Field(name=n, dtype=t)
            for n, t in (("shop_id", types.String), ("article", types.Int32), ("sold", types.Int64), ("x", types.Bool))
        ],
        source=source("sales"),
    )
    place = feast.FeatureView(
        name="place",
        entities=[shop],
        schema=[feast.Field(name=n, dtype=t) for n, t in (("shop_id", types.String), ("size", types.Float32))],
        source=source("place"),
    )
    service = feast.FeatureService(
        name="mixed",
        features=[
            place.with_name("near"),
            sales[["sold"]],
            place.with_name("other").with_join_key_map({"shop_id": "rival"}),
        ],
    )
    await proxy.put_definitions("acme", repo.apply(shop, item, sales, place, service))
    repo.write("sales", frame(shop_id=["a", "b"], article=[1, 2], sold=[5, 6], x=[True, False]))
    repo.write("place", frame(shop_id=["a", "b"], size=[1.5, 2.5]))
    columns = await assert_same(
        proxy, repo, "mixed", shop_id=["a", "b", "a"], article=[1, 2, 2], rival=["b", "b", "nobody"]
    )
    assert list(columns) == ["near__size", "sales__sold", "other__size"]
    assert columns["sales__sold"]["values"] == [5, 6, None]
    assert columns["other__size"]["values"] == [2.5, 2.5, None]


async def test_a_service_with_a_view_without_entities_is_refused(
    proxy: Any, new_repo: Any, feast: Any, types: Any, source: Any
) -> None:
    repo = new_repo("acme")
    schema = [feast.Field(name="rate", dtype=types.Float64)]
    view = feast.FeatureView(name="world", entities=[], schema=schema, source=source("w"))
    uploaded = repo.apply(view, feast.FeatureService(name="global", features=[view]))
    answer = await proxy.put_definitions("acme", uploaded)
    assert (answer.status_code, answer.json()["code"]) == (422, "feature_service_unserved")
    assert "'world' has no entity" in answer.json()["error"]


@pytest.fixture(scope="session")
def serialize(feast: Any) -> Any:
    """Feast's own encoding of a key."""
    from feast.infra.online_stores import helpers
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey

    def encode(project: str, values_by_key: dict[str, Any]) -> bytes:
        key = EntityKey(join_keys=list(values_by_key), entity_values=list(values_by_key.values()))
        return bytes(helpers._redis_key(project, key, entity_key_serialization_version=3))

    return encode


_KINDS = {
    "string_val": (values.ValueType.STRING, st.text()),
    "bytes_val": (values.ValueType.BYTES, st.binary()),
    "int32_val": (values.ValueType.INT32, st.integers(-(2**31), 2**31 - 1)),
    "int64_val": (values.ValueType.INT64, st.integers(-(2**63), 2**63 - 1)),
    "unix_timestamp_val": (values.ValueType.UNIX_TIMESTAMP, st.integers(-(2**63), 2**63 - 1)),
}
_CELLS = st.sampled_from(sorted(_KINDS)).flatmap(lambda field: st.tuples(st.just(field), _KINDS[field][1]))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(min_size=1, max_size=20), _CELLS, min_size=1, max_size=4))
def test_keys_are_encoded_as_feast_encodes_them(serialize: Any, cells: dict[str, tuple[str, Any]]) -> None:
    wanted = serialize("acme", {k: values.Value(**{field: value}) for k, (field, value) in cells.items()})
    found = values.key_prefix(sorted(cells))
    for name in sorted(cells):
        field, value = cells[name]
        given_value = base64.b64encode(value).decode() if field == "bytes_val" else value
        found += values.encode_entities(name, int(_KINDS[field][0]), [given_value])[0]
    assert found + b"acme" == wanted


def test_a_stored_value_of_another_type_than_declared_reads_as_absent() -> None:
    double = values.FEATURE_TYPES[int(values.ValueType.DOUBLE)]
    assert values.decode(double, values.Value(string_val="1.5").SerializeToString()) is None
    assert values.decode(double, values.Value(double_val=float("nan")).SerializeToString()) is None
    assert values.decode(double, values.Value(double_val=1.5).SerializeToString()) == 1.5
