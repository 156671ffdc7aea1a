"""Manifests: strict, declarative, one document a model."""

import pytest

from moorage_sdk.errors import InvalidManifest
from moorage_sdk.manifest import parse_manifests

WHOLE = """
model: digits
versions:
  - version: 1
    resources: {gpu: 0.5, gpu_memory: 4Gi, cpu: 500m, memory: 1Gi}
    scaling: {min: 1, max: 2}
    isolation: dedicated
  - version: latest
traffic:
  - {version: 1, weight: 90}
  - {version: latest, weight: 10}
features:
  entity: {sensor_id: sensor}
  deadline_ms: 20
  on_miss: default
"""


def test_a_manifest_becomes_the_registrys_integers() -> None:
    (manifest,) = parse_manifests(WHOLE)
    spec = manifest.spec()
    assert spec["versions"][0] == {
        "version": 1,
        "resources": {"gpu_milli": 500, "devices": 1, "gpu_mem_mib": 4096, "cpu_milli": 500, "host_mem_mib": 1024},
        "scaling": {"min": 1, "max": 2},
        "isolation": "dedicated",
    }
    assert spec["versions"][1]["version"] == "latest"
    assert spec["traffic"] == [{"version": 1, "weight_bp": 9000}, {"version": "latest", "weight_bp": 1000}]
    assert spec["features"] == {
        "entity": {"sensor_id": "sensor"},
        "deadline_ms": 20,
        "on_miss": "default",
        "default": 0.0,
    }


def test_a_single_version_may_stand_at_the_top() -> None:
    short, long = parse_manifests(
        "model: a\nversion: 2\nresources: {gpu: 1}\n---\nmodel: a\nversions: [{version: 2, resources: {gpu: 1}}]\n"
    )
    assert short == long


PLACED = """
model: digits
resources:
  gpu: 0.5
  gpu_models: [T4, H100]
  gpu_profiles: {H100: {gpu: 0.2, gpu_memory: 4Gi}}
  elastic: 10
  node_labels: {zone: a}
scaling: {min: 0, max: 4, idle: 5m, target_in_flight: 16}
scheduling_class: scavenger
priority: 70
pinned: true
"""


def test_where_and_how_a_version_may_run_becomes_the_registrys_fields() -> None:
    (manifest,) = parse_manifests(PLACED)
    assert manifest.spec()["versions"] == [
        {
            "version": "latest",
            "resources": {
                "gpu_milli": 500,
                "devices": 1,
                "gpu_models": ["T4", "H100"],
                "gpu_profiles": {"H100": {"gpu_milli": 200, "gpu_mem_mib": 4096}},
                "elastic_pct": 10,
                "node_labels": {"zone": "a"},
            },
            "scaling": {"min": 0, "max": 4, "idle_s": 300, "target_in_flight": 16},
            "isolation": "dedicated",
            "scheduling_class": "scavenger",
            "priority": 70,
            "pinned": True,
        }
    ]


def test_traffic_left_out_is_not_sent() -> None:
    (manifest,) = parse_manifests("model: a\nversion: 1")
    assert "traffic" not in manifest.spec()


JUDGED = """
model: fraud
resources: {gpu: 0.25}
rollout: {to: 3}
sticky: {header: x-user}
policy:
  errors: {on: false}
  guard: {for_s: 3600}
feedback: {output: label, keep_pct: 10}
"""


def test_how_a_version_is_rolled_out_and_judged_becomes_the_registrys_fields() -> None:
    (manifest,) = parse_manifests(JUDGED)
    spec = manifest.spec()
    assert manifest.rollout is not None
    assert manifest.rollout.to == spec["versions"][0]["version"] == 3
    assert spec["stickiness"] == {"by": "header", "name": "x-user"}
    assert (spec["policy"]["errors"]["on"], spec["policy"]["guard"]["for_s"]) == (False, 3600)
    assert (spec["feedback"]["output"], spec["feedback"]["keep_pct"]) == ("label", 10)
    assert "rollout" not in spec
    (by_entity,) = parse_manifests("model: a\nsticky: {entity: customer}")
    assert by_entity.spec()["stickiness"] == {"by": "entity", "name": "customer"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: a\npolicy: {guard: {for: 1}}", "policy.guard.for: unknown field; did you mean for_s"),
        ("model: a\npolicy: {steps: [{weigth: 5}]}", "policy.steps.0.weigth: unknown field; did you mean weight"),
        ("model: a\nfeedback: {keep: 1}", "feedback.keep: unknown field; did you mean keep_pct"),
        ("model: a\nsticky: {header: a, entity: b}", "sticky: give either header or entity"),
        ("model: a\nrollout: {too: 3}", "rollout.too: unknown field; did you mean to"),
        ("model: a\nrollout: {to: 3}\ntraffic: [{version: 3, weight: 100}]", "traffic: a rollout moves the weights"),
        ("model: a\nroll_out: {to: 3}", "roll_out: unknown field; did you mean rollout"),
        ("model: a\nresorces: {gpu: 1}", "resorces: unknown field; did you mean resources"),
        ("model: a\nresources: {gpus: 1}", "resources.gpus: unknown field; did you mean gpu"),
        (
            "model: a\nversions: [{version: 1, scalling: {}}]",
            r"versions.0.scalling: unknown field; .*scaling",
        ),
        ("model: a\nscaling: {zzz: 1}", "there are: min, max, target_in_flight"),
        ("model: a\nscaling: {idle: 300}", "idle: 300 has no unit; .* write 300s"),
        ("model: a\nresources: {gpu: 1, elastic: 60}", "elastic: 60 is not a whole percentage from 0 to 50"),
        (
            "model: a\nresources: {gpu_profiles: {T4: {gpus: 1}}}",
            "gpu_profiles.T4.gpus: unknown field; did you mean gpu",
        ),
        ("model: a\nresources: {gpu_profiles: {T4: {gpu: 2}}}", "gpu_profiles.T4.gpu: write the share of one T4"),
        ("model: a\npriorty: 1", "did you mean priority"),
        ("model: a\nfeatures: {entities: {a: b}}", "did you mean entity"),
        ("model: a\nversion: newest", "version: .*'latest'"),
        ("model: a\nresources: {memory: 4GB}", "memory: '4GB' .* write 4Gi"),
        ("model: a\ntraffic: [{version: 1, weight: 90}]", "add up to 90, not 100"),
        ("model: a\ntraffic: [{version: 1, weight: 50}, {version: 1, weight: 50}]", "named twice"),
        ("model: a\nscaling: {min: 3, max: 2}", r"max \(2\) is less than min"),
        ("model: A", "not a name"),
        ("version: 1", "model: Field required"),
        ("model: a\nversion: 1\nversions: [{version: 1}]", "belongs into `versions`"),
        ("- model: a", "a mapping that begins with `model"),
        ("model: [", "not YAML"),
        ("", "is empty"),
        ("model: a\n---\nmodel: b\nversoin: 1", "document 2: versoin"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, said: str) -> None:
    with pytest.raises(InvalidManifest, match=said):
        parse_manifests(text, "m.yaml")
