"""The files of the kit are accepted by their programs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from shmstats.config import load
from shmstats.terminal import kit

_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_TIME = {"type": "string", "pattern": r"^(\d+h)?(\d+m)?(\d+s)?(\d+ms)?$"}

#: Of monitoring.coreos.com/v1, PodMonitor, as in the operator's release 0.80: the part that a kit may need.
_POD_MONITOR = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "PodMonitor"},
        "metadata": {
            "type": "object",
            "required": ["name"],
            "additionalProperties": False,
            "properties": {"name": {"type": "string"}, "namespace": {"type": "string"}, "labels": _TEXTS},
        },
        "spec": {
            "type": "object",
            "required": ["selector"],
            "additionalProperties": False,
            "properties": {
                "selector": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"matchLabels": _TEXTS, "matchExpressions": {"type": "array"}},
                },
                "jobLabel": {"type": "string"},
                "namespaceSelector": {"type": "object"},
                "podTargetLabels": {"type": "array", "items": {"type": "string"}},
                "podMetricsEndpoints": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            **{key: {"type": "string"} for key in ("port", "path")},
                            **dict.fromkeys(("interval", "scrapeTimeout"), _TIME),
                            "scheme": {"enum": ["http", "https"]},
                            "honorLabels": {"type": "boolean"},
                            "metricRelabelings": {"type": "array"},
                            "relabelings": {"type": "array"},
                            "authorization": {"type": "object"},
                        },
                    },
                },
            },
        },
    },
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a written kit."""
    directory = tmp_path_factory.mktemp("kit")
    kit.write(directory)
    return directory


def check(*command: str | Path, cwd: Path, package: str) -> str:
    """Run a checking program; return its output."""
    program = shutil.which(str(command[0]))
    if program is None:
        if os.environ.get("CI"):
            pytest.fail(f"{command[0]} is not installed, and CI must test with it")
        pytest.skip(f"{command[0]} is not installed (Debian: {package})")
    done = subprocess.run([program, *command[1:]], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_prometheus_accepts_configuration_and_rules(written: Path) -> None:
    check("promtool", "check", "config", "prometheus.yml", cwd=written / "prometheus", package="prometheus")
    check("promtool", "test", "rules", "shmstats.yml", cwd=written / "prometheus/tests", package="prometheus")


def test_every_alert_is_tested_by_a_case_in_which_it_fires(written: Path) -> None:
    rules = yaml.safe_load((written / "prometheus/rules/shmstats.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    assert set(re.findall(r'alertname="(\w+)"', (written / "prometheus/tests/shmstats.yml").read_text())) == alerts


def test_vmagent_accepts_its_configuration(written: Path) -> None:
    options = ("-promscrape.config=vmagent.yml", "-remoteWrite.url=http://127.0.0.1:1/", "-dryRun")
    check("vmagent", *options, cwd=written / "prometheus", package="victoria-metrics")


def test_systemd_accepts_the_units(written: Path, tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    units = tmp_path / "units"
    units.mkdir()
    for unit in (written / "systemd").iterdir():
        text = unit.read_text().replace("/opt/myapp/venv/bin", str(programs)).replace("User=myapp", "User=daemon")
        (units / unit.name).write_text(text)
    names = sorted(unit.name.replace("@.", "@job.") for unit in units.iterdir())
    said = check(
        "systemd-analyze", "verify", "--man=no", *(units / name for name in names), cwd=units, package="systemd"
    )
    assert str(units) not in said


def test_nginx_accepts_its_configuration(written: Path, tmp_path: Path) -> None:
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; include {written}/nginx/*.conf; }}\n"
    )
    check("nginx", "-t", "-c", config, "-p", tmp_path, cwd=tmp_path, package="nginx-light")


def test_shmstats_accepts_the_configuration_also_with_its_comments_as_keys(written: Path) -> None:
    settings = load(written / "shmstats.yml")
    assert str(settings.path.data) == "/var/lib/myapp"
    text = (written / "shmstats.yml").read_text()
    whole = re.sub(r"^# (push:|  \w)", r"\1", text, flags=re.M)
    assert load(yaml.safe_load(whole)).push.labels == {"job": "web"}


def test_compose_accepts_the_services(written: Path) -> None:
    specification = pytest.importorskip("compose_pydantic").ComposeSpecification
    document = yaml.safe_load((written / "compose/compose.yml").read_text())
    specification.model_validate(document)
    document["services"]["app"]["no_such_key"] = 1
    with pytest.raises(ValueError, match="no_such_key"):
        specification.model_validate(document)


def test_the_pod_monitor_has_only_keys_of_the_resource_definition(written: Path) -> None:
    """No registry has the operator's schema in a usable form: `_POD_MONITOR` is the needed part of it."""
    check = jsonschema.Draft202012Validator(_POD_MONITOR)
    document = yaml.safe_load((written / "kubernetes/podmonitor.yml").read_text())
    check.validate(document)
    for key, wrong in (("intervall", "15s"), ("interval", "15 seconds"), ("port", 8000)):
        other = yaml.safe_load((written / "kubernetes/podmonitor.yml").read_text())
        other["spec"]["podMetricsEndpoints"][0][key] = wrong
        assert not check.is_valid(other), key


@pytest.mark.parametrize("version", ["1.30", "newest"])
def test_kubernetes_accepts_its_own_objects(written: Path, version: str) -> None:
    schemas = pytest.importorskip("kubernetes_validate")
    files = [file for file in sorted((written / "kubernetes").iterdir()) if file.stem != "podmonitor"]
    for file in files:
        [document] = yaml.safe_load_all(file.read_text())
        schemas.validate(document, schemas.latest_version() if version == "newest" else version, strict=True)
        document["metadata"]["noSuchKey"] = 1
        with pytest.raises(schemas.ValidationError):
            schemas.validate(document, "1.30", strict=True)
    assert len(files) == 3


def test_compose_mounts_only_existing_files(written: Path) -> None:
    services = yaml.safe_load((written / "compose/compose.yml").read_text())
    volumes = [volume for service in services["services"].values() for volume in service["volumes"]]
    for source in (volume.split(":")[0] for volume in volumes):
        if source.startswith("."):
            assert (written / "compose" / source).exists(), source
        else:
            assert source in services["volumes"]


def test_the_references_between_kubernetes_objects_are_valid(written: Path) -> None:
    objects: dict[str, Any] = {}
    for file in (written / "kubernetes").iterdir():
        [each] = yaml.safe_load_all(file.read_text())
        assert each["apiVersion"]
        objects[each["kind"]] = each
    spec = objects["StatefulSet"]["spec"]
    pod, labels = spec["template"]["spec"], spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels == objects["Service"]["spec"]["selector"]
    assert objects["PodMonitor"]["spec"]["selector"]["matchLabels"] == labels
    assert spec["serviceName"] == objects["Service"]["metadata"]["name"]
    [container] = pod["containers"]
    [port] = container["ports"]
    assert port["name"] == objects["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"]
    claimed = {each["metadata"]["name"] for each in spec["volumeClaimTemplates"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == claimed | volumes.keys()
    assert volumes["shared-memory"]["emptyDir"]["medium"] == "Memory"
    assert volumes["configuration"]["configMap"]["name"] == objects["ConfigMap"]["metadata"]["name"]
    data = load(yaml.safe_load(objects["ConfigMap"]["data"]["shmstats.yml"])).path.data
    assert str(data) in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_the_panels_of_dashboards_do_not_overlap(written: Path) -> None:
    for file in (written / "grafana/dashboards").iterdir():
        dashboard = json.loads(file.read_text())
        assert dashboard["uid"].startswith("shmstats-")
        places = set()
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & places
            assert all(x < 24 for x, _ in cells)
            places |= cells
            assert panel["targets"]
            assert all(target["expr"] for target in panel["targets"])


def test_a_kit_does_not_overwrite_files_that_differ(tmp_path: Path) -> None:
    assert kit.write(tmp_path)
    assert kit.write(tmp_path) == []
    file = tmp_path / "nginx/myapp.conf"
    file.write_text("mine")
    with pytest.raises(FileExistsError, match=r"myapp\.conf is there, and differs"):
        kit.write(tmp_path)
    assert file.read_text() == "mine"
    assert kit.write(tmp_path, replace=True) == [file]
