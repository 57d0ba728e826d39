"""deploy/kuberay-rayjob.yaml: its pods by Kubernetes' own schema, the rest by KubeRay's API reference."""

import copy

import kubernetes_validate
import pytest
import ray

from pipelines.compute.devices import check_resources
from pipelines.recipe import load_recipe
from tests.support.deployed import commands, overrides, read_yaml

JOB = read_yaml("kuberay-rayjob.yaml")
CLUSTER = JOB["spec"]["rayClusterSpec"]
(WORKERS,) = CLUSTER["workerGroupSpecs"]
TEMPLATES = {"head": CLUSTER["headGroupSpec"]["template"], "worker": WORKERS["template"]}

# Fields of ray.io/v1, from KubeRay's API reference (1.6 and 1.7).
FIELDS = {
    "RayJobSpec": "activeDeadlineSeconds backoffLimit rayClusterSpec submitterPodTemplate metadata "
    "clusterSelector submitterConfig managedBy deletionStrategy entrypoint runtimeEnvYAML jobId "
    "submissionMode entrypointResources entrypointNumCpus entrypointNumGpus ttlSecondsAfterFinished "
    "shutdownAfterJobFinishes suspend",
    "RayClusterSpec": "authOptions suspend managedBy autoscalerOptions headServiceAnnotations "
    "enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec rayVersion workerGroupSpecs",
    "HeadGroupSpec": "template headService enableIngress resources labels rayStartParams serviceType",
    "WorkerGroupSpec": "suspend groupName replicas minReplicas maxReplicas idleTimeoutSeconds resources "
    "labels rayStartParams template scaleStrategy numOfHosts",
}


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("RayJobSpec", JOB["spec"]),
        ("RayClusterSpec", CLUSTER),
        ("HeadGroupSpec", CLUSTER["headGroupSpec"]),
        ("WorkerGroupSpec", WORKERS),
    ],
    ids=FIELDS,
)
def test_fields_are_kuberays(kind, given):
    assert given.keys() <= set(FIELDS[kind].split())


def test_versions():
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert CLUSTER["rayVersion"] == ray.__version__


def _as_pod(template: dict) -> dict:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **copy.deepcopy(template)}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_pods_are_valid(template):
    kubernetes_validate.validate(_as_pod(template), "1.37", strict=True)


def test_a_misspelt_field_would_be_seen():
    pod = _as_pod(TEMPLATES["head"])
    pod["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        kubernetes_validate.validate(pod, "1.37", strict=True)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_pods_are_pinned_and_unprivileged(template):
    spec = template["spec"]
    (container,) = spec["containers"]
    assert ":" in container["image"]
    assert not container["image"].endswith(":latest")
    assert spec["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert container["resources"]["requests"] == container["resources"]["limits"]  # not the first evicted
    assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in spec["volumes"]}
    assert all("valueFrom" in entry or "SECRET" not in entry["name"] for entry in container["env"])


def test_head_stays_and_workers_may_be_taken():
    assert "nodeSelector" not in TEMPLATES["head"]["spec"]
    assert "PREEMPTIBLE_LABEL" in TEMPLATES["worker"]["spec"]["nodeSelector"]
    assert CLUSTER["authOptions"] == {"mode": "token"}


def test_pods_suffice_for_the_recipe():
    """KubeRay begins the job when `minReplicas` are there, and the run is refused with less."""
    limits = TEMPLATES["worker"]["spec"]["containers"][0]["resources"]["limits"]
    pods = WORKERS["minReplicas"]
    assert WORKERS["replicas"] == WORKERS["maxReplicas"] == pods
    available = {"CPU": pods * float(limits["cpu"]), "GPU": pods * float(limits["nvidia.com/gpu"])}
    words = commands()["kuberay-rayjob.yaml"]
    settings = load_recipe("imagenet256", overrides(words))[0].settings
    assert check_resources(settings, available, "the cluster") == []


def test_what_the_command_reads_is_mounted():
    settings = load_recipe("imagenet256", overrides(commands()["kuberay-rayjob.yaml"]))[0].settings
    assert settings.evaluate.inception_weights
    paths = [settings.data.root, settings.model.checkpoint, settings.evaluate.inception_weights]
    for template in TEMPLATES.values():
        mounts = [mount["mountPath"] for mount in template["spec"]["containers"][0]["volumeMounts"]]
        assert all(any(str(path).startswith(mount) for mount in mounts) for path in paths)
