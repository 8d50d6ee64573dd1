"""A service from 0 to 100 real tasks and back; and what planner and controllers cost for many, simulated."""

import json
import subprocess
import time

from ours import ROOT
from table import Row

REAL = 100
# Each way: what is not there by then is said, and is no failure.
SECONDS_MAX = 60
SIMULATE = ROOT / "target/release/examples/simulate_services"
SIMULATE_SECONDS_MAX = 600


def scale(tasks, home):
    tasks.define("kept", ["sleep", "3600"])
    ecs = tasks.ecs
    ecs.create_cluster()
    subnets = [it["SubnetId"] for it in tasks.ferrogate.client("ec2").describe_subnets()["Subnets"]]
    network = {"awsvpcConfiguration": {"subnets": subnets, "assignPublicIp": "ENABLED"}}
    ecs.create_service(
        serviceName="bench", taskDefinition="kept", desiredCount=0, launchType="FARGATE", networkConfiguration=network
    )
    rows = []
    try:
        for what, wanted in ((f"a service from 0 to {REAL} tasks, all RUNNING", REAL), ("… and back to 0", 0)):
            before = running(ecs)
            took, now = reach(ecs, wanted)
            moved = abs(now - before)
            said = f"{took:.2f} s" if now == wanted else f"{now} after {took:.0f} s"
            rows.append(Row(what, "Ferrogate", said, f"{moved / took:.0f} tasks/s"))
    finally:
        ecs.delete_service(service="bench", force=True)
    simulated = subprocess.run(
        [SIMULATE], check=True, capture_output=True, text=True, timeout=SIMULATE_SECONDS_MAX
    )
    said = json.loads(simulated.stdout.splitlines()[-1])
    return rows + [Row(what, "Ferrogate, simulated", value) for what, value in said], []


def reach(ecs, wanted):
    """How long it took to have so many tasks, and how many there are."""
    began = time.perf_counter()
    ecs.update_service(service="bench", desiredCount=wanted)
    while True:
        now, took = running(ecs), time.perf_counter() - began
        if now == wanted or took > SECONDS_MAX:
            return took, now
        time.sleep(0.05)


def running(ecs):
    return ecs.describe_services(services=["bench"])["services"][0]["runningCount"]
