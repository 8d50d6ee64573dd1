"""A Ferrogate, and a registry, of the run's own."""

import http.client
import json
import os
import pathlib
import subprocess
import time

import boto3
from botocore.config import Config

ROOT = pathlib.Path(__file__).resolve().parents[1]
API = ("127.0.0.1", 4566)
REGISTRY = ("127.0.0.1", 5000)
STORAGE = ROOT / ".cache/images/registry"
# A debug build is measured only to try a measurement out.
FERROGATE = ROOT / "target" / os.environ.get("FERROGATE_BENCH_BUILD", "release") / "ferrogate"
READY_SECONDS_MAX = 60


def answers(address):
    connection = http.client.HTTPConnection(*address, timeout=5)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
        return True
    except OSError:
        return False
    finally:
        connection.close()


def wait_for(address, process, period=0.001):
    end = time.monotonic() + READY_SECONDS_MAX
    while not answers(address):
        if process.poll() is not None:
            raise RuntimeError(f"{process.args[0]} ended with {process.returncode}")
        if time.monotonic() > end:
            raise RuntimeError(f"{process.args[0]} does not answer at {address}")
        time.sleep(period)


class Registry:
    def __init__(self, home):
        config = home / "registry.yml"
        config.write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n"
            f"  filesystem: {{rootdirectory: '{STORAGE}'}}\n"
            "  maintenance: {uploadpurging: {enabled: false}, readonly: {enabled: true}}\n"
            f"http: {{addr: '{REGISTRY[0]}:{REGISTRY[1]}'}}\n"
        )
        log = open(home / "registry.log", "w")
        self.process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        wait_for(REGISTRY, self.process)

    def stop(self):
        self.process.kill()
        self.process.wait()


class Ferrogate:
    def __init__(self, home, arguments=("--isolation", "container")):
        self.home, self.data, self.process, self.arguments = home, home / "data", None, arguments

    def up(self):
        """Seconds from the start of the program to its API's first answer."""
        mirror = f"docker.io/library/*=http://{REGISTRY[0]}:{REGISTRY[1]}/library/*"
        log = open(self.home / "ferrogate.log", "a")
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [FERROGATE, "up", "--data-dir", self.data, "--listen", f"{API[0]}:{API[1]}", "--registry-mirror", mirror, *self.arguments],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, "FERROGATE_LOG": "warn"},
        )
        wait_for(API, self.process)
        return time.perf_counter() - began

    def leave(self):
        """Ends the program alone."""
        self.process.terminate()
        self.process.wait()
        self.process = None

    def down(self):
        if (self.data / "endpoint.json").exists():
            subprocess.run([FERROGATE, "down", "--data-dir", self.data], check=True, stdout=subprocess.DEVNULL)
        if self.process:
            self.process.wait()

    def key(self):
        return json.loads((self.data / "root.json").read_text())

    def client(self, service):
        key = self.key()
        return boto3.client(
            service, region_name="us-east-1", endpoint_url=f"http://{API[0]}:{API[1]}",
            aws_access_key_id=key["access_key_id"], aws_secret_access_key=key["secret_access_key"],
            config=Config(retries={"total_max_attempts": 1}, max_pool_connections=64),
        )

    def shims(self):
        """Process ids of the tasks' shims."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if words[0].endswith(b"ferrogate-shim") and any(str(self.data).encode() in word for word in words):
                    found.append(int(entry.name))
        return found

    def output(self, arn):
        said = subprocess.run(
            [FERROGATE, "logs", "--data-dir", self.data, arn], check=True, capture_output=True, text=True
        )
        return said.stdout


class Tasks:
    """RunTask of a busybox container in the default VPC."""

    def __init__(self, ferrogate):
        self.ferrogate, self.ecs = ferrogate, ferrogate.client("ecs")
        subnet = ferrogate.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
        self.network = {"awsvpcConfiguration": {"subnets": [subnet], "assignPublicIp": "ENABLED"}}

    def define(self, family, command, image="busybox:latest"):
        self.ecs.register_task_definition(
            family=family, networkMode="awsvpc", requiresCompatibilities=["FARGATE"], cpu="256", memory="512",
            containerDefinitions=[{"name": "app", "image": image, "command": command}],
        )

    def run(self, family, count=1):
        """The tasks' ARNs, and when (ns) RunTask was sent and when it had answered."""
        sent = time.time_ns()
        answer = self.ecs.run_task(
            taskDefinition=family, launchType="FARGATE", count=count, networkConfiguration=self.network
        )
        accepted = time.time_ns()
        if answer["failures"]:
            raise RuntimeError(answer["failures"])
        return [task["taskArn"] for task in answer["tasks"]], sent, accepted

    def wait(self, arns, status, period=0.02):
        end = time.monotonic() + 300
        left = list(arns)
        tasks = {}
        while left:
            for start in range(0, len(left), 100):
                for task in self.ecs.describe_tasks(tasks=left[start : start + 100])["tasks"]:
                    if task["lastStatus"] in (status, "STOPPED"):
                        tasks[task["taskArn"]] = task
            left = [arn for arn in left if arn not in tasks]
            if left and time.monotonic() > end:
                raise RuntimeError(f"{len(left)} tasks are not {status}")
            if left:
                time.sleep(period)
        wrong = [task for task in tasks.values() if task["lastStatus"] != status]
        if wrong:
            raise RuntimeError(f"{wrong[0].get('stopCode')}: {wrong[0].get('stoppedReason')}")
        return tasks

    def stop(self, arns):
        for arn in arns:
            self.ecs.stop_task(task=arn)
        self.wait(arns, "STOPPED")
