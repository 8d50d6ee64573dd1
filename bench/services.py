"""A service from 0 to 100 real tasks; and what the planner costs for many, simulated."""

import json
import subprocess
import time

from ours import ROOT
from table import Row

REAL = 100
SIMULATE = ROOT / "target/release/examples/simulate_services"


def scale(tasks, home):
    tasks.define("kept", ["sleep", "3600"])
    ecs = tasks.ecs
    subnets = [it["SubnetId"] for it in tasks.ferrogate.client("ec2").describe_subnets()["Subnets"]]
    network = {"awsvpcConfiguration": {"subnets": subnets, "assignPublicIp": "ENABLED"}}
    ecs.create_service(
        serviceName="bench", taskDefinition="kept", desiredCount=0, launchType="FARGATE", networkConfiguration=network
    )
    began = time.perf_counter()
    ecs.update_service(service="bench", desiredCount=REAL)
    while running(ecs) < REAL:
        if time.perf_counter() - began > 300:
            raise RuntimeError("the service does not reach its count")
        time.sleep(0.05)
    up = time.perf_counter() - began
    began = time.perf_counter()
    ecs.update_service(service="bench", desiredCount=0)
    while running(ecs) > 0:
        time.sleep(0.05)
    down = time.perf_counter() - began
    ecs.delete_service(service="bench")
    rows = [
        Row(f"a service from 0 to {REAL} tasks, all RUNNING", "Ferrogate", f"{up:.2f} s", f"{REAL / up:.0f} tasks/s"),
        Row(f"… and back to 0", "Ferrogate", f"{down:.2f} s"),
    ]
    said = json.loads(subprocess.run([SIMULATE], check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    rows += [Row(f"planner: {what}", "Ferrogate, simulated", str(value)) for what, value in said.items()]
    return rows, []


def running(ecs):
    return ecs.describe_services(services=["bench"])["services"][0]["runningCount"]
