"""Signed DescribeTasks per second: one signed request, repeated by wrk; of one task and of many, by few and by many."""

import json
import re
import subprocess

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from ours import API, ROOT, wait_for
from table import Row, per_second

MOTO = ("127.0.0.1", 5555)
SECONDS = 5
CONNECTIONS = 16
CONNECTIONS_MANY = 200
TASKS_MANY = (10, 100)  # DescribeTasks takes a hundred at most
MOTO_KEY = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
DEFINITION = {
    "family": "api", "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"], "cpu": "256", "memory": "512",
    "containerDefinitions": [{"name": "app", "image": "busybox:latest", "command": ["sleep", "3600"], "memory": 512}],
}


def load(home, address, key, arns, connections=CONNECTIONS):
    """Answers per second, and their median and 99th percentile; every answer must be a success."""
    url = f"http://{address[0]}:{address[1]}/"
    body = json.dumps({"cluster": "default", "tasks": arns})
    request = AWSRequest("POST", url, data=body, headers={
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "AmazonEC2ContainerServiceV20141113.DescribeTasks",
    })
    SigV4Auth(Credentials(*key), "ecs", "us-east-1").add_auth(request)
    lines = ['wrk.method = "POST"', f"wrk.body = {json.dumps(body)}"]
    lines += [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in request.headers.items()]
    script = home / "wrk.lua"
    script.write_text("\n".join(lines) + "\n")
    said = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", "-s", script, url],
        check=True, capture_output=True, text=True,
    ).stdout
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    if bad:
        raise RuntimeError(f"{bad[1]} answers of {url} are errors:\n{said}")
    latency = {name: value for name, value in re.findall(r"(50|99)%\s+(\S+)", said)}
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), latency


def describe_tasks(tasks, home):
    ferrogate = tasks.ferrogate
    key = ferrogate.key()
    key = (key["access_key_id"], key["secret_access_key"])
    # Tasks that have ended are described as those that run.
    tasks.define("api", ["true"])
    arns = [arn for _ in range(max(TASKS_MANY) // 10) for arn in tasks.run("api", 10)[0]]
    tasks.wait(arns, "STOPPED", period=0.1)
    ours, latency = load(home, API, key, arns[:1])
    what = f"DescribeTasks of one task, {CONNECTIONS} connections"
    who = "Ferrogate (verifies, authorizes, records)"
    rows = [Row(what, who, per_second(ours), f"p99 {latency.get('99', '')}")]
    for count, connections in [(1, CONNECTIONS_MANY), *((count, CONNECTIONS) for count in TASKS_MANY)]:
        rate, latency = load(home, API, key, arns[:count], connections)
        what_more = f"… of {count} task{'s' if count > 1 else ''}, {connections} connections"
        rows.append(Row(what_more, who, per_second(rate), f"p99 {latency.get('99', '')}", f"{rate / ours:.2f}× of the first"))
    with open(home / "moto.log", "w") as log:
        moto = subprocess.Popen(
            [ROOT / ".cache/venv/bin/moto_server", "-H", MOTO[0], "-p", str(MOTO[1])], stdout=log, stderr=log
        )
        try:
            wait_for(MOTO, moto, period=0.05)
            theirs, latency = load(home, MOTO, MOTO_KEY, [moto_task()])
        finally:
            moto.kill()
            moto.wait()
    rows.append(Row(what, "moto_server (verifies nothing)", per_second(theirs), f"p99 {latency.get('99', '')}", f"ours is {ours / theirs:.1f}× (goal: 10×)"))
    return rows, []


def moto_task():
    def client(service):
        return boto3.client(
            service, region_name="us-east-1", endpoint_url=f"http://{MOTO[0]}:{MOTO[1]}",
            aws_access_key_id=MOTO_KEY[0], aws_secret_access_key=MOTO_KEY[1],
        )

    ecs = client("ecs")
    ecs.create_cluster(clusterName="default")
    ecs.register_task_definition(**DEFINITION)
    subnet = client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
    ran = ecs.run_task(
        cluster="default", taskDefinition="api", launchType="FARGATE",
        networkConfiguration={"awsvpcConfiguration": {"subnets": [subnet], "securityGroups": []}},
    )
    return ran["tasks"][0]["taskArn"]
