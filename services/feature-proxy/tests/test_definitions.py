"""What an upload may hold, and what a fingerprint covers."""

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from moorage_common.contracts.names import TenantId
from moorage_common.errors import MoorageError, NotFound, Unprocessable
from moorage_feature_proxy.definitions import (
    ENTITIES_MAX,
    FEATURES_MAX,
    PROJECTIONS_MAX,
    SERVICES_MAX,
    VIEWS_MAX,
    checked,
    parse,
)
from moorage_feature_proxy.feast_protos import Registry, ValueType
from moorage_feature_proxy.uploads import Uploads

ACME = TenantId("acme")


def registry_of(project: str = "acme", features: tuple[str, ...] = ("a", "b"), kind: Any = ValueType.DOUBLE) -> Any:
    """A registry with one view `v` of the entity `shop` and one service `svc`."""
    registry = Registry()
    entity = registry.entities.add().spec
    entity.name, entity.project, entity.join_key, entity.value_type = "shop", project, "shop_id", ValueType.INT64
    view = registry.feature_views.add().spec
    view.name, view.project = "v", project
    view.entities.append("shop")
    service = registry.feature_services.add().spec
    service.name, service.project = "svc", project
    projection = service.features.add()
    projection.feature_view_name = "v"
    for name in features:
        for columns in (view.features, projection.feature_columns):
            column = columns.add()
            column.name, column.value_type = name, kind
    return registry


def refusal(registry: Any) -> MoorageError:
    with pytest.raises(Unprocessable) as caught:
        checked(ACME, registry.SerializeToString())
    return caught.value


def test_a_registry_of_data_alone_is_kept() -> None:
    info = parse(checked(ACME, registry_of().SerializeToString())).service("svc").info()
    assert (info.features, info.datatypes, info.entities) == (["v__a", "v__b"], ["FP64", "FP64"], ["shop_id"])


def with_on_demand_view(registry: Any) -> str:
    registry.on_demand_feature_views.add().spec.name = "doubled"
    return "doubled"


def with_stream_view(registry: Any) -> str:
    spec = registry.stream_feature_views.add().spec
    spec.name, spec.project = "clicks", "acme"
    spec.user_defined_function.body = b"dill"
    return "clicks"


def with_transformation(registry: Any) -> str:
    registry.feature_views[0].spec.feature_transformation.user_defined_function.body_text = "def f(): ..."
    return "v"


def with_nested_transformation(registry: Any) -> str:
    inner = registry.feature_views[0].spec.source_views.add()
    inner.name = "upstream"
    inner.feature_transformation.substrait_transformation.substrait_plan = b"plan"
    return "upstream"


def with_profiler(registry: Any) -> str:
    reference = registry.validation_references.add()
    reference.name = "checks"
    reference.ge_profiler.profiler.body = b"dill"
    return "checks"


@pytest.mark.parametrize(
    "plant",
    [with_on_demand_view, with_stream_view, with_transformation, with_nested_transformation, with_profiler],
)
def test_a_users_function_is_refused_wherever_it_is_and_named(plant: Any) -> None:
    registry = registry_of()
    name = plant(registry)
    error = refusal(registry)
    assert error.code == "feature_code_refused"
    assert name in error.message


def test_a_stream_view_without_a_function_is_served() -> None:
    registry = registry_of()
    stream = registry.stream_feature_views.add().spec
    stream.name, stream.project = "clicks", "acme"
    stream.entities.append("shop")
    projection = registry.feature_services[0].spec.features.add()
    projection.feature_view_name = "clicks"
    column = projection.feature_columns.add()
    column.name, column.value_type = "n", ValueType.INT64
    info = parse(checked(ACME, registry.SerializeToString())).service("svc").info()
    assert info.features == ["v__a", "v__b", "clicks__n"]


@pytest.mark.parametrize("part", ["entities", "feature_views", "feature_services"])
def test_another_tenants_project_is_refused(part: str) -> None:
    registry = registry_of()
    getattr(registry, part)[0].spec.project = "globex"
    error = refusal(registry)
    assert error.code == "feature_project_mismatch"
    assert "'globex'" in error.message


def test_what_lookups_do_not_read_is_not_kept() -> None:
    registry = registry_of()
    registry.infra.infra_objects.add().infra_object_class_type = "feast.infra.Anything"
    registry.feature_view_version_history.records.add().feature_view_proto = b"an old function"
    kept = checked(ACME, registry.SerializeToString())
    assert b"Anything" not in kept
    assert b"an old function" not in kept


def test_what_is_no_registry_is_refused() -> None:
    for content in (b"", b"\xff\xff\xff", b"not a registry at all", Registry().SerializeToString()):
        with pytest.raises(Unprocessable) as caught:
            checked(ACME, content)
        assert caught.value.code == "feature_registry_unreadable"


def unknown_view(registry: Any) -> str:
    registry.feature_services[0].spec.features[0].feature_view_name = "gone"
    return "'gone' is not in the registry"


def unknown_entity(registry: Any) -> str:
    registry.feature_views[0].spec.entities[0] = "gone"
    return "'gone' of 'v' is not in the registry"


def unknown_feature_type(registry: Any) -> str:
    registry.feature_services[0].spec.features[0].feature_columns[0].value_type = ValueType.MAP
    return "v:a is of the type MAP"


def entity_of_floats(registry: Any) -> str:
    registry.entities[0].spec.value_type = ValueType.DOUBLE
    return "'shop_id' is of the type DOUBLE"


def pinned_view(registry: Any) -> str:
    registry.feature_services[0].spec.features[0].version_tag = 2
    return "pins version 2"


def same_feature_twice(registry: Any) -> str:
    columns = registry.feature_services[0].spec.features[0].feature_columns
    columns.add().CopyFrom(columns[0])
    return "the same feature twice"


def same_view_twice(registry: Any) -> str:
    projections = registry.feature_services[0].spec.features
    projections.add().CopyFrom(projections[0])
    del projections[0].feature_columns[1:]
    del projections[1].feature_columns[:1]
    return "names the feature view 'v' twice"


def view_of_no_feature(registry: Any) -> str:
    registry.feature_services[0].spec.features.add().feature_view_name = "v"
    return "takes no feature of the feature view 'v'"


@pytest.mark.parametrize(
    "plant",
    [
        unknown_view,
        unknown_entity,
        unknown_feature_type,
        entity_of_floats,
        pinned_view,
        same_feature_twice,
        same_view_twice,
        view_of_no_feature,
    ],
)
def test_a_service_that_cannot_be_served_is_refused_at_upload_saying_why(plant: Any) -> None:
    registry = registry_of()
    why = plant(registry)
    error = refusal(registry)
    assert error.code == "feature_service_unserved"
    assert why in error.message


def test_a_service_has_a_bounded_number_of_features() -> None:
    checked(ACME, registry_of(features=tuple(f"f{i}" for i in range(FEATURES_MAX))).SerializeToString())
    assert "at most 500" in refusal(registry_of(features=tuple(f"f{i}" for i in range(FEATURES_MAX + 1)))).message


def test_one_view_under_two_names_is_served() -> None:
    registry = registry_of(features=("a",))
    projections = registry.feature_services[0].spec.features
    projections.add().CopyFrom(projections[0])
    projections[1].feature_view_name_alias = "w"
    assert parse(checked(ACME, registry.SerializeToString())).service("svc").info().features == ["v__a", "w__a"]


def many_services(registry: Any, count: int) -> None:
    first = registry.feature_services[0]
    for number in range(1, count):
        service = registry.feature_services.add()
        service.CopyFrom(first)
        service.spec.name = f"svc{number}"


def many_views(registry: Any, count: int) -> None:
    first = registry.feature_views[0].spec
    for number in range(1, count):
        views = registry.feature_views if number % 2 else registry.stream_feature_views
        spec = views.add().spec
        spec.name, spec.project = f"v{number}", first.project
        spec.entities.append("shop")


def many_projections(registry: Any, count: int) -> None:
    """`count` projections of one view, no more in one service than it may have features."""
    many_services(registry, 10)
    for number in range(10, count):
        spec = registry.feature_services[number % 10].spec
        projection = spec.features.add()
        projection.CopyFrom(spec.features[0])
        projection.feature_view_name_alias = f"p{number}"


def many_entities(registry: Any, count: int) -> None:
    for _ in range(1, count):
        registry.feature_views[0].spec.entities.append("shop")


@pytest.mark.parametrize(
    ("grow", "most", "what"),
    [
        (many_services, SERVICES_MAX, "feature services"),
        (many_views, VIEWS_MAX, "feature views"),
        (many_projections, PROJECTIONS_MAX, "views named by feature services"),
        (many_entities, ENTITIES_MAX, "entities in one feature view"),
    ],
)
def test_definitions_are_bounded_in_what_they_take_to_build(grow: Any, most: int, what: str) -> None:
    fits, over = registry_of(features=("a",)), registry_of(features=("a",))
    grow(fits, most)
    checked(ACME, fits.SerializeToString())
    grow(over, most + 1)
    error = refusal(over)
    assert error.code == "feature_definitions_too_large"
    assert f"{most + 1} {what}, and at most {most}" in error.message


def fingerprint(registry: Any) -> str:
    return parse(checked(ACME, registry.SerializeToString())).service("svc").fingerprint


def test_the_fingerprint_covers_names_types_order_and_join_keys_and_nothing_else() -> None:
    renamed_key = registry_of()
    renamed_key.entities[0].spec.join_key = "store_id"
    found = [
        fingerprint(registry)
        for registry in (
            registry_of(),
            registry_of(features=("b", "a")),
            registry_of(features=("a", "c")),
            registry_of(features=("a",)),
            registry_of(kind=ValueType.FLOAT),
            renamed_key,
        )
    ]
    assert len(set(found)) == len(found)
    described = registry_of()
    described.feature_views[0].spec.description = "another text"
    described.feature_views[0].spec.ttl.seconds = 60
    assert fingerprint(described) == found[0]


async def test_uploads_survive_a_restart_and_a_refused_one_leaves_what_was_there(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    await uploads.put(ACME, registry_of().SerializeToString())
    with pytest.raises(Unprocessable):
        await uploads.put(ACME, b"nonsense")
    assert list((await Uploads(tmp_path).get(ACME)).services) == ["svc"]
    assert [file.name for file in (tmp_path / "acme").iterdir()] == ["registry.pb"]
    with pytest.raises(NotFound):
        (await Uploads(tmp_path).get(TenantId("globex"))).service("svc")


async def test_an_upload_by_another_proxy_on_the_same_directory_is_seen(tmp_path: Path) -> None:
    one, other = Uploads(tmp_path), Uploads(tmp_path)
    await one.put(ACME, registry_of().SerializeToString())
    assert (await other.get(ACME)).service("svc").info().features == ["v__a", "v__b"]
    await one.put(ACME, registry_of(features=("z",)).SerializeToString())
    assert (await other.get(ACME)).service("svc").info().features == ["v__z"]


def test_a_registry_that_feast_made_with_an_on_demand_view_is_refused(
    new_repo: Any, feast: Any, types: Any, source: Any
) -> None:
    repo = new_repo("acme")
    shop = feast.Entity(name="shop", join_keys=["shop_id"], value_type=feast.ValueType.INT64)
    schema = [feast.Field(name=n, dtype=types.Int64) for n in ("shop_id", "a")]
    view = feast.FeatureView(name="v", entities=[shop], schema=schema, source=source("s"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        @feast.on_demand_feature_view.on_demand_feature_view(
            sources=[view], schema=[feast.Field(name="b", dtype=types.Int64)]
        )
        def doubled(rows: pd.DataFrame) -> pd.DataFrame:
            return rows[["a"]].rename(columns={"a": "b"})

    uploaded = repo.apply(shop, view, doubled, feast.FeatureService(name="svc", features=[view, doubled]))
    with pytest.raises(Unprocessable, match="doubled") as caught:
        checked(ACME, uploaded)
    assert caught.value.code == "feature_code_refused"
