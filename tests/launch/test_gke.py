"""The manifests of launch/ for GKE: parts that must agree with each other, with JobSet, and with train.py."""

import re
from math import prod

import pytest
import yaml

import train
from cassr_jax.commands.running import STOPPED
from tests.launch.commands import LAUNCH

FILES = ("gke_tpu.yaml", "gke_gpu.yaml")


def jobs(name: str) -> tuple[dict, dict, dict, dict]:
    """The JobSet, its one Job's settings, that Job's pod and the pod's container."""
    jobset = yaml.safe_load((LAUNCH / name).read_text("utf-8"))
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    return jobset, job, job["template"]["spec"], container


@pytest.mark.parametrize("name", FILES)
def test_the_command_is_one_of_train(name):
    *_, container = jobs(name)
    program, script, *words = container["command"]
    assert (program, script) == ("python", "train.py")
    arguments = train.parse(words)
    assert arguments.distributed is not None
    assert str(arguments.workdir) == "gs://BUCKET/runs/cassr"


@pytest.mark.parametrize("name", FILES)
def test_all_processes_start_again_together_unless_that_is_in_vain(name):
    jobset, job, pod, _ = jobs(name)
    assert job["parallelism"] == job["completions"]
    assert (job["backoffLimit"], job["completionMode"], pod["restartPolicy"]) == (0, "Indexed", "Never")
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}
    assert STOPPED not in rule["onExitCodes"]["values"]
    policy = jobset["spec"]["failurePolicy"]
    assert policy["rules"] == [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]
    assert policy["maxRestarts"] >= 100


def test_a_tpu_slice_has_a_pod_for_each_host():
    _, job, pod, container = jobs("gke_tpu.yaml")
    chips = prod(map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")))
    assert job["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == chips


def test_gpu_nodes_meet_at_the_first_one():
    jobset, job, _, container = jobs("gke_gpu.yaml")
    address, count, number = train.parse(container["command"][2:]).distributed
    (replicated,) = jobset["spec"]["replicatedJobs"]
    name = jobset["metadata"]["name"]
    assert address.partition(":")[0] == f"{name}-{replicated['name']}-0-0.{name}"
    assert (count, number) == (str(job["parallelism"]), "$(JOB_COMPLETION_INDEX)")
    assert jobset["spec"]["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}


@pytest.mark.parametrize("name", FILES)
def test_every_line_to_edit_is_marked(name):
    """Whoever forgets one finds a word in capitals, such as BUCKET, in the marked lines alone."""
    lines = (LAUNCH / name).read_text("utf-8").splitlines()
    settings = [line for line in lines if not line.lstrip().startswith("#")]
    invented = [line for line in settings if re.search(r"\b(PROJECT|REGION|BUCKET)\b", line)]
    assert invented
    assert all("# edit" in line for line in invented)
