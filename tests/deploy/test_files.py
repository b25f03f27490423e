"""The files of a deployment against their schemas, and against what the parts are and need."""

import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import psycopg
import pytest
import yaml

from deploy.make_secrets import make_secrets
from shared_state.settings import Settings, load
from tests.deploy.compose import FILE, ROOT, Service, read, seconds, services

CHECK_COMPOSE = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec")
KUBERNETES = ROOT / "deploy" / "kubernetes"
KEDA = "keda.sh/v1alpha1"
GRACE_OVER_DRAIN_SECONDS = 10
DRAIN_SECONDS = Settings().drain_seconds
WORKERS = ("worker-planner", "worker-executor", "worker-reviewer")
OURS = ("migrate", "api", "loops", *WORKERS, "flower")


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every Kubernetes object, with its file's name."""
    for file in sorted(KUBERNETES.glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            if document is not None:
                yield file.name, document


OBJECTS = list(documents())
PODS = [
    (body["metadata"]["name"], body["spec"]["template"]["spec"])
    for _, body in OBJECTS
    if "template" in body.get("spec", {})
]
GIVEN = read()
SERVICES = {service.name: service for service in services(GIVEN)}


# docker-compose.yml


def test_the_compose_files_keep_to_the_specification() -> None:
    checked = subprocess.run(
        [*CHECK_COMPOSE, str(FILE), str(ROOT / "deploy" / "compose.watch.yml")], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


def test_every_part_is_there_and_waits_for_what_it_needs() -> None:
    assert set(SERVICES) == {"postgres", "redis", *OURS, "otel-collector", "prometheus", "grafana"}
    for name in ("api", "loops", *WORKERS):
        assert SERVICES[name].needs == {
            "migrate": "service_completed_successfully",
            "postgres": "service_healthy",
            "redis": "service_healthy",
        }
    unchecked = {name for name, service in SERVICES.items() if service.check is None}
    assert unchecked == {"migrate", "otel-collector"}, "one ends by itself, the other's image has nothing to check with"
    assert {name for name, service in SERVICES.items() if service.restarts != "unless-stopped"} == {"migrate"}


def test_nothing_but_the_api_is_published_and_that_on_loopback() -> None:
    assert {name: service.given["ports"] for name, service in SERVICES.items() if "ports" in service.given} == {
        "api": ["127.0.0.1:8080:8080"]
    }
    assert GIVEN["networks"]["inside"] == {"internal": True}
    for name in ("postgres", "redis", "flower", "prometheus", "grafana"):
        assert SERVICES[name].given["networks"] == ["inside"]


@pytest.mark.parametrize("name", OURS)
def test_a_part_of_ours_is_confined(name: str) -> None:
    given = SERVICES[name].given
    assert given["read_only"] is True
    assert given["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in given["security_opt"]
    assert "container_name" not in given, "it could not be scaled"
    assert "hostname" not in given, "two workers would have one name"


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_has_longer_than_it_drains(name: str) -> None:
    assert seconds(SERVICES[name].given["stop_grace_period"]) >= DRAIN_SECONDS + GRACE_OVER_DRAIN_SECONDS


@pytest.mark.parametrize("service", [SERVICES[name] for name in OURS], ids=OURS)
def test_a_part_knows_its_settings_and_has_its_secrets_as_files(service: Service, tmp_path: Path) -> None:
    make_secrets(tmp_path)
    environment = {name: value.replace("/run/secrets", str(tmp_path)) for name, value in service.environment.items()}
    load(environment, None, {})
    mounted = {Path(value).name for name, value in service.environment.items() if name.endswith("_FILE")}
    assert mounted == set(service.given["secrets"])


def test_no_secret_is_written_down_or_left_out(tmp_path: Path) -> None:
    made = make_secrets(tmp_path)
    assert {Path(where["file"]).name for where in GIVEN["secrets"].values()} == set(made)
    used = set(itertools.chain.from_iterable(service.given.get("secrets", []) for service in SERVICES.values()))
    assert used == set(GIVEN["secrets"])
    for service in SERVICES.values():
        for name, value in service.environment.items():
            if re.search(r"PASSWORD|TOKEN|KEY|SECRET|_URL", name):
                assert name.endswith("FILE"), f"{service.name}: {name}={value}"


def test_secrets_are_strong_private_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    first = make_secrets(folder)
    values = {name: (folder / name).read_text() for name in first}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(values["metrics_token"].strip()) >= 40
    assert len({values[name] for name in ("postgres_password", "redis_password", "metrics_token")}) == 3
    assert values["redis_password"].strip() in values["broker_url"]
    assert make_secrets(folder) == []
    assert {name: (folder / name).read_text() for name in first} == values


# Kubernetes


@pytest.mark.parametrize(("file", "body"), OBJECTS, ids=[f"{file}-{body['kind']}" for file, body in OBJECTS])
def test_an_object_keeps_to_its_schema(file: str, body: dict[str, Any]) -> None:
    if body["kind"] == "Kustomization":
        assert sorted(body["resources"]) == sorted(path.name for path in KUBERNETES.glob("*.yaml") if path.name != file)
    elif body["apiVersion"] == KEDA:
        KEDA_SHAPES[body["kind"]](body["spec"])
    else:
        kubernetes_validate.validate(body, kubernetes_validate.latest_version(), strict=True)


def _is_scaled_object(spec: dict[str, Any]) -> None:
    """As far as KEDA's own definition goes for what is used here: fields, their types, and text in all metadata."""
    known = {"scaleTargetRef": dict, "triggers": list, "minReplicaCount": int, "maxReplicaCount": int}
    known |= {"pollingInterval": int, "fallback": dict, "advanced": dict}
    assert all(isinstance(value, known[name]) for name, value in spec.items())
    assert spec["scaleTargetRef"]["name"] in {name for name, _ in PODS}
    assert set(spec["advanced"]) == {"horizontalPodAutoscalerConfig"}
    for trigger in spec["triggers"]:
        assert set(trigger) == {"type", "metadata", "authenticationRef"}
        assert all(isinstance(value, str) for value in trigger["metadata"].values())


def _is_trigger_authentication(spec: dict[str, Any]) -> None:
    assert set(spec) == {"secretTargetRef"}
    for reference in spec["secretTargetRef"]:
        assert set(reference) == {"parameter", "name", "key"}


KEDA_SHAPES = {"ScaledObject": _is_scaled_object, "TriggerAuthentication": _is_trigger_authentication}


@pytest.mark.parametrize(("name", "pod"), PODS, ids=[name for name, _ in PODS])
def test_a_pod_is_confined_and_ends_gracefully(name: str, pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        if pod.get("restartPolicy") != "OnFailure":
            assert "startupProbe" in container
            assert "livenessProbe" in container
    if name.startswith("worker-"):
        assert pod["terminationGracePeriodSeconds"] >= DRAIN_SECONDS + GRACE_OVER_DRAIN_SECONDS


@pytest.mark.parametrize(("name", "pod"), PODS, ids=[name for name, _ in PODS])
def test_a_pod_runs_what_compose_runs_with_settings_that_exist(name: str, pod: dict[str, Any], tmp_path: Path) -> None:
    make_secrets(tmp_path)
    (container,) = pod["containers"]
    assert container["args"] == SERVICES[name].command
    (config,) = [body["data"] for file, body in OBJECTS if file == "config.yaml"]
    environment = {
        **(config if "envFrom" in container else {}),
        **{one["name"]: one["value"] for one in container.get("env", [])},
    }
    load({key: value.replace("/run/secrets", str(tmp_path)) for key, value in environment.items()}, None, {})
    (secrets,) = [volume["secret"]["items"] for volume in pod["volumes"] if "secret" in volume]
    named = {
        Path(value).name for value in [*environment.values(), *container["args"]] if value.startswith("/run/secrets")
    }
    assert named == {item["path"] for item in secrets}
    assert {item["key"] for item in secrets} <= {path.name for path in tmp_path.iterdir()}


def test_every_selector_finds_a_pod() -> None:
    known = {name for name, _ in PODS}
    for _, body in OBJECTS:
        if body["kind"] == "PodDisruptionBudget":
            assert body["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] in known
        elif body["kind"] == "Service":
            assert body["spec"]["selector"]["app.kubernetes.io/name"] in known
        elif body["kind"] == "NetworkPolicy":
            named = re.findall(r"'app.kubernetes.io/name': '([^']+)'", str(body))
            assert set(named) <= known
    budgets = {body["metadata"]["name"] for _, body in OBJECTS if body["kind"] == "PodDisruptionBudget"}
    assert budgets == {"api", "loops", *WORKERS}


def test_keda_counts_what_waits_and_what_is_held_by_index(database_url: str) -> None:
    (scaled,) = [body for _, body in OBJECTS if body["kind"] == "ScaledObject"]
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    with psycopg.connect(database_url) as connection:
        assert connection.execute(query).fetchone() == (0,)
        _fill(connection)
        assert connection.execute(query).fetchone() == (3 + 2,)
        connection.execute("set local enable_seqscan = off")
        plan = "\n".join(row[0] for row in connection.execute(f"explain {query}"))
        connection.rollback()
    assert "Seq Scan" not in plan


def _fill(connection: psycopg.Connection) -> None:
    """Three steps wait for an executor, one for a planner, two run, one that an executor made is being reviewed."""
    connection.execute("set local session_replication_role = replica")
    states = ["ready"] * 3 + ["running"] * 2 + ["reviewing"]
    for number, state in enumerate(states):
        leased = "now()" if state != "ready" else "null"
        connection.execute(
            f"""insert into steps (id, tenant_id, task_id, key, role, agent, queue, state, lease_until)
            values (gen_random_uuid(), 'default', gen_random_uuid(), 'k{number}', 'executor', 'a', 'execute', '{state}',
            {leased})"""
        )
    connection.execute(
        """insert into attempts (step_id, epoch, tenant_id, task_id, role, agent, attempt, worker, state)
        select id, 1, 'default', task_id, 'executor', 'a', 1, 'w', 'running' from steps where lease_until is not null"""
    )
    connection.execute(
        """insert into outbox (step_id, epoch, tenant_id, task_id, queue, kind)
        select id, 1, 'default', task_id, 'execute', 'execute' from steps where state = 'ready'"""
    )
    connection.execute(
        """insert into outbox (step_id, epoch, tenant_id, task_id, queue, kind)
        values (gen_random_uuid(), 1, 'default', gen_random_uuid(), 'plan', 'plan')"""
    )


# The image


def test_the_image_is_made_of_pinned_things_and_is_nobodys_root() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    final = text.rpartition("\nFROM ")[2]
    assert "--require-hashes" in text
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert "apt-get" not in final
    assert "pip install" not in final
    copied = re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE)
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for path in [re.sub(r"\$\{(\w+)\}", lambda found: defaults[found[1]], each) for each in copied]:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored, f"{path} is not in the build's context"
