"""The Helm chart: what it renders is valid, complete, locked down, and wired to settings that exist."""

import base64
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from moorage_common import api_keys, bootstrap_key

Object = dict[str, Any]

URLS = {
    "nats.url": "nats://nats.example:4222",
    "redisLimits.url": "redis://limits.example:6379/0",
    "redisFeatures.url": "redis://features.example:6379/0",
    "postgres.url": "postgresql+asyncpg://db.example:5432/moorage",
}
URL_SECRETS = {f"{name.removesuffix('.url')}.urlSecret.name": "stores" for name in URLS}
RELEASES = {
    "default": {},
    "external stores": URLS,
    "external stores by secret": {**URL_SECRETS, "secrets.existingSecret": "mine"},
    "gpu workers": {
        "ray.workerGroups.gpu.replicas": "2",
        "router.replicas": "3",
        "scheduler.replicas": "2",
        "publicUrl": "https://models.example",
    },
    "no network policies": {"networkPolicy.enabled": "false"},
}
SERVICES = {"registry", "router", "feature-proxy", "scheduler"}
POD_KINDS = {"Deployment", "StatefulSet", "Job"}


@cache
def render(helm: str, chart: Path, release: str) -> tuple[Object, ...]:
    """The objects of one of RELEASES."""
    options = [part for name, value in RELEASES[release].items() for part in ("--set", f"{name}={value}")]
    command = [helm, "template", "moorage", str(chart), "--namespace", "models", "--kube-version", "1.34", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(found for found in yaml.safe_load_all(done.stdout) if found)


@pytest.fixture(scope="session")
def chart(root: Path) -> Path:
    return root / "deploy/helm/moorage"


@pytest.fixture(params=RELEASES)
def objects(request: pytest.FixtureRequest, helm: str, chart: Path) -> tuple[Object, ...]:
    return render(helm, chart, request.param)


@pytest.fixture
def default_objects(helm: str, chart: Path) -> tuple[Object, ...]:
    return render(helm, chart, "default")


def pods(objects: tuple[Object, ...]) -> Iterator[tuple[str, Object]]:
    """Name and pod template of everything that runs pods, the Ray cluster's groups included."""
    for found in objects:
        if found["kind"] in POD_KINDS:
            yield found["metadata"]["name"], found["spec"]["template"]
        elif found["kind"] == "RayCluster":
            yield "ray-head", found["spec"]["headGroupSpec"]["template"]
            for group in found["spec"]["workerGroupSpecs"]:
                yield f"ray-worker {group['groupName']}", group["template"]


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def component_of(pod: Object) -> str:
    return str(pod["metadata"]["labels"]["app.kubernetes.io/component"])


def selects(selector: Object, labels: Object) -> bool:
    return all(labels.get(name) == value for name, value in selector.items())


def test_lints_without_a_warning(helm: str, chart: Path) -> None:
    done = subprocess.run(
        [helm, "lint", "--strict", str(chart)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("version", ["1.29", "1.34"])
def test_every_object_is_valid_kubernetes(objects: tuple[Object, ...], version: str) -> None:
    for found in objects:
        if found["kind"] != "RayCluster":
            kubernetes_validate.validate(found, version, strict=True)
    for name, pod in pods(objects):
        as_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", **pod["metadata"]}, "spec": pod["spec"]}
        assert kubernetes_validate.validate(as_pod, version, strict=True), name


def test_every_pod_meets_the_restricted_pod_security_standard(objects: tuple[Object, ...]) -> None:
    for name, pod in pods(objects):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        assert "hostNetwork" not in pod["spec"], name
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, (name, container["name"])


def test_every_container_has_requests_and_a_memory_limit(objects: tuple[Object, ...]) -> None:
    for name, pod in pods(objects):
        for container in containers(pod):
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys(), (name, container["name"])
            assert "memory" in resources["limits"], (name, container["name"])


def test_every_service_is_probed_on_its_operations_port(objects: tuple[Object, ...]) -> None:
    for _name, pod in pods(objects):
        if component_of(pod) in SERVICES:
            container = pod["spec"]["containers"][0]
            paths = {probe: container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
            assert {probe: get["path"] for probe, get in paths.items()} == {
                "startup": "/healthz",
                "liveness": "/healthz",
                "readiness": "/readyz",
            }
            assert {get["port"] for get in paths.values()} == {"ops"}


def test_every_reference_points_at_something_rendered(default_objects: tuple[Object, ...]) -> None:
    named = {(found["kind"], found["metadata"]["name"]): found for found in default_objects}
    secret = named["Secret", "moorage-secrets"]["data"]
    for name, pod in pods(default_objects):
        assert ("ServiceAccount", pod["spec"]["serviceAccountName"]) in named, name
        for volume in pod["spec"].get("volumes", []):
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in named, name
        for container in containers(pod):
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                assert reference is None or reference["key"] in secret, (name, variable)
                for host in re.findall(r"(?:@|//)(moorage-[a-z-]+):", str(variable.get("value", ""))):
                    is_known = ("Service", host) in named or host == "moorage-ray-head-svc"
                    assert is_known, (name, variable)
    for found in default_objects:
        if found["kind"] == "StatefulSet":
            assert ("Service", found["spec"]["serviceName"]) in named


def test_every_selector_selects_pods_of_exactly_one_component(objects: tuple[Object, ...]) -> None:
    labels = {component_of(pod): pod["metadata"]["labels"] for _name, pod in pods(objects)}
    for found in objects:
        selector = {
            "Service": lambda spec: spec["selector"],
            "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
        }.get(found["kind"])
        if selector is not None:
            chosen = [name for name, held in labels.items() if selects(selector(found["spec"]), held)]
            assert len(chosen) == 1, (found["kind"], found["metadata"]["name"], chosen)


def test_only_routers_and_ray_reach_the_workers(default_objects: tuple[Object, ...]) -> None:
    policy = next(
        f for f in default_objects if f["metadata"]["name"] == "moorage-ray-worker" and f["kind"] == "NetworkPolicy"
    )
    allowed = {
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]: rule.get("ports")
        for rule in policy["spec"]["ingress"]
        for peer in rule["from"]
    }
    assert allowed == {
        "ray-head": None,
        "ray-worker": None,
        "scheduler": None,
        "router": [{"port": 32768, "endPort": 60999}],
    }


def test_every_pod_is_under_a_network_policy(default_objects: tuple[Object, ...]) -> None:
    policies = [f["spec"]["podSelector"]["matchLabels"] for f in default_objects if f["kind"] == "NetworkPolicy"]
    for name, pod in pods(default_objects):
        if component_of(pod) != "migrate":
            assert any(selects(policy, pod["metadata"]["labels"]) for policy in policies), name


def test_a_service_gets_every_setting_it_requires_and_none_it_does_not_know(
    objects: tuple[Object, ...], service: str, settings_of: Any
) -> None:
    pod = next(pod for _name, pod in pods(objects) if component_of(pod) == service)
    given = {variable["name"] for variable in pod["spec"]["containers"][0]["env"]}
    ours = {name for name in given if name.startswith("MOORAGE_") and not name.endswith("_URL_PASSWORD")}
    assert ours - {"MOORAGE_BOOTSTRAP_SEED"} <= settings_of.known
    assert settings_of.required <= given


def test_secrets_appear_in_the_secret_alone(default_objects: tuple[Object, ...]) -> None:
    secret = next(found for found in default_objects if found["kind"] == "Secret")
    values = [base64.b64decode(value).decode() for value in secret["data"].values()]
    rest = json.dumps([found for found in default_objects if found is not secret])
    assert len(set(values)) == len(values)
    assert all(len(value) >= 40 for value in values)
    assert not [value for value in values if value in rest]


def test_the_seed_makes_an_administrators_key(default_objects: tuple[Object, ...]) -> None:
    secret = next(found for found in default_objects if found["kind"] == "Secret")
    seed = base64.b64decode(secret["data"]["bootstrap-seed"]).decode()
    assert api_keys.parse(bootstrap_key.key_of(seed)) is not None


def test_schedulers_stand_by_for_each_other_and_are_replaced_without_a_gap(helm: str, chart: Path) -> None:
    for release, count in (("default", 1), ("gpu workers", 2)):
        (found,) = (
            f
            for f in render(helm, chart, release)
            if f["metadata"]["name"] == "moorage-scheduler" and f["kind"] == "Deployment"
        )
        assert found["spec"]["replicas"] == count
        assert found["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        assert found["spec"]["template"]["spec"]["topologySpreadConstraints"]


def test_external_stores_replace_the_bundled_ones(helm: str, chart: Path) -> None:
    found = render(helm, chart, "external stores")
    text = json.dumps(found)
    assert not {component_of(pod) for _name, pod in pods(found)} & {
        "nats",
        "redis-limits",
        "redis-features",
        "postgres",
    }
    assert all(url in text for url in URLS.values())


def test_a_value_that_does_not_exist_is_refused(helm: str, chart: Path) -> None:
    command = [helm, "template", "moorage", str(chart), "--kube-version", "1.34", "--set", "router.replica=3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "replica" in done.stderr


def test_the_notes_print_a_first_call(helm: str, chart: Path, tmp_path: Path) -> None:
    """`helm template` leaves notes out, so a copy of the chart renders them as an object."""
    copy = shutil.copytree(chart, tmp_path / "moorage")
    notes = (copy / "templates/NOTES.txt").read_text()
    wrapped = '{{- define "notes" -}}' + notes + '{{- end -}}\nkind: Notes\ntext: {{ include "notes" . | toJson }}\n'
    (copy / "templates/notes.yaml").write_text(wrapped)
    text = next(found["text"] for found in render(helm, copy, "default") if found["kind"] == "Notes")
    assert 'curl -sS -H "Authorization: Bearer $MOORAGE_API_KEY" http://127.0.0.1:8081/v1/whoami' in text
    assert "kubectl -n models exec statefulset/moorage-registry -- python -m moorage_common.bootstrap_key" in text
    assert "Bundled for evaluation" in text


def test_values_fit_on_a_few_pages_and_versions_agree(root: Path, chart: Path) -> None:
    text = (chart / "values.yaml").read_text()
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    lock = (root / "requirements.lock").read_text()
    assert text.count("\n") < 300
    assert f"ray=={yaml.safe_load(text)['ray']['version']} " in lock
    assert about["appVersion"] == tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
