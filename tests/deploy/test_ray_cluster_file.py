"""deploy/ray-cluster.yaml: Ray's own validation, and `ray up`'s first half against a simulated EC2.

What comes after, SSH and docker on the machines, needs machines.
"""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from pipelines.compute.devices import check_resources
from pipelines.recipe import load_recipe
from tests.support.deployed import DEPLOY, commands, filled_in, overrides, read_yaml
from tests.support.servers import s3_environment, simulated_aws

FILE = DEPLOY / "ray-cluster.yaml"


def test_ray_accepts_it():
    validate_config(prepare_config(read_yaml("ray-cluster.yaml")))


@pytest.mark.parametrize("broken", [{"max_wrokers": 1}, {"docker": {"imagge": "x"}}], ids=["key", "docker"])
def test_ray_would_refuse_an_unknown_key(broken):
    with pytest.raises(Exception, match=next(iter(broken))):
        validate_config(prepare_config(read_yaml("ray-cluster.yaml") | broken))


def test_machines_suffice_for_the_recipe():
    """A run is refused unless CPUs and GPUs are there when it starts: the least counts, not the most."""
    config = read_yaml("ray-cluster.yaml")
    (words,) = [words for name, words in commands().items() if "ray exec" in name]
    types = config["available_node_types"].values()
    available = {
        kind: sum(one.get("min_workers", 1) * one["resources"].get(kind, 0) for one in types)
        for kind in ("CPU", "GPU")
    }
    settings = load_recipe("imagenet256", overrides(words))[0].settings
    assert check_resources(settings, available, "the cluster") == []
    assert config["max_workers"] >= config["available_node_types"]["gpu"]["min_workers"]


def test_image_is_pinned_and_nothing_is_open():
    config = read_yaml("ray-cluster.yaml")
    assert not config["docker"]["image"].endswith((":latest", "atjem"))
    for one in config["available_node_types"].values():
        assert one["node_config"]["SecurityGroupIds"] == ["SECURITY_GROUP_ID"]
    assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]


@pytest.fixture
def ec2(tmp_path, monkeypatch) -> Iterator[Any]:
    """A client of a simulated AWS, which Ray reaches too."""
    with simulated_aws(tmp_path / "moto.log") as address:
        monkeypatch.setenv("HOME", str(tmp_path))  # where Ray keeps SSH keys
        for name, value in s3_environment(int(address.rpartition(":")[2]), tmp_path).items():
            monkeypatch.setenv(name, value)
        yield boto3.client("ec2")


def _filled_in(ec2) -> dict:
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    group = ec2.create_security_group(GroupName="atjem", Description="atjem")["GroupId"]
    values = {"AMI_ID": image, "SECURITY_GROUP_ID": group, "REGISTRY": "registry.example", "BUCKET": "bucket"}
    for name in ("head", "worker"):
        made = boto3.client("iam").create_instance_profile(InstanceProfileName=name)
        values[f"{name.upper()}_PROFILE_ARN"] = made["InstanceProfile"]["Arn"]
    return yaml.safe_load(filled_in(FILE.read_text(encoding="utf-8"), values))


@pytest.mark.slow
def test_machines_that_ray_up_asks_for(ec2):
    config = _bootstrap_config(_filled_in(ec2), no_config_cache=True)
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for kind, name in (("head", "head"), ("worker", "gpu")):
        node_config = config["available_node_types"][name]["node_config"]
        provider.create_node(node_config, {TAG_RAY_NODE_KIND: kind, TAG_RAY_USER_NODE_TYPE: name}, 1)
    reservations = ec2.describe_instances()["Reservations"]
    machines = {one["InstanceType"]: one for held in reservations for one in held["Instances"]}
    head, worker = machines["m6i.2xlarge"], machines["p4d.24xlarge"]
    assert "InstanceLifecycle" not in head
    assert worker["InstanceLifecycle"] == "spot"
    assert head["IamInstanceProfile"]["Arn"].endswith("/head")
    assert worker["IamInstanceProfile"]["Arn"].endswith("/worker")
    (group,) = ec2.describe_security_groups(GroupNames=["atjem"])["SecurityGroups"]
    for machine in (head, worker):
        assert [own["GroupId"] for own in machine["SecurityGroups"]] == [group["GroupId"]]
    assert group["IpPermissions"] == []  # Ray opens nothing of its own


@pytest.mark.slow
def test_setup_commands_bring_the_weights(ec2, tmp_path):
    """The file's own commands, with the store simulated and another folder."""
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="weights/resnet50_l2_eps3.ckpt", Body=b"weights")
    for command in read_yaml("ray-cluster.yaml")["setup_commands"]:
        here = filled_in(command, {"BUCKET": "bucket"}).replace("/cache", str(tmp_path / "cache"))
        words = [sys.executable if word == "python" else word for word in shlex.split(here)]
        subprocess.run(words, check=True)
    (words,) = [words for name, words in commands().items() if "ray exec" in name]
    wanted = dict(text.split("=", 1) for text in overrides(words))["model.checkpoint"]
    assert Path(wanted.replace("/cache", str(tmp_path / "cache"))).read_bytes() == b"weights"
