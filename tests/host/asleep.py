"""Tasks while their host sleeps: begun before, looked at afterwards, by boto3 and the aws CLI. For tests/host/suspend.

asleep.py container|microvm: what its tasks are in. AWS_CONFIG_FILE and the like say where the API is.
"""

import datetime
import json
import pathlib
import subprocess
import sys
import time

import boto3
from botocore.config import Config

SLEEP_SECONDS = 20
# What the alarm's second and the way to sleep and back take off it.
SLEPT_SECONDS_MIN = 14
DEADLINE_SECONDS = 300
# Of clocks afterwards; a task prints whole seconds.
CLOCK_SECONDS_MAX = 2.5
CLOCK_GRACE_SECONDS = 3
WATCH_SECONDS = 30
GROUP = "/ecs/asleep"

LOOP = """
trap 'exit 7' TERM
n=0
while :; do
  n=$((n + 1))
  about=$(timeout 10 wget -qO- $ECS_CONTAINER_METADATA_URI_V4/task | wc -c)
  keys=$(timeout 10 wget -qO- http://169.254.170.2$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI | wc -c)
  echo line $n $(date +%s) $about $keys
  sleep 1
done
"""

isolation = sys.argv[1]
began = time.monotonic()
config = Config(retries={"total_max_attempts": 1}, read_timeout=60, connect_timeout=10)
ecs, ec2, iam, logs = (boto3.client(name, config=config) for name in ("ecs", "ec2", "iam", "logs"))


def say(*what):
    print(f"[{time.monotonic() - began:5.1f} s]", *what, flush=True)


def check(is_so, what, *about):
    if not is_so:
        sys.exit("\n".join(["FAILED: " + what, *(str(thing) for thing in about)]))
    say("ok:", what)


def until(what, look):
    end = time.monotonic() + DEADLINE_SECONDS
    while not (seen := look()):
        if time.monotonic() > end:
            sys.exit(f"FAILED: did not happen within {DEADLINE_SECONDS} s: {what}")
        time.sleep(1)
    return seen


def run(*command):
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        sys.exit(f"FAILED: no end within {DEADLINE_SECONDS} s: {' '.join(command)}")
    if ran.returncode:
        sys.exit(f"FAILED: {' '.join(command)}: {ran.returncode}\n{ran.stdout}{ran.stderr}")
    return ran.stdout


def aws(*command):
    said = run(".cache/venv/bin/aws", "--output", "json", *command)
    return json.loads(said) if said.strip() else None


def role(name, statement):
    def document(of):
        return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow"} | of]})

    trust = document({"Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"})
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=document(statement))
    return arn


def define(family, command, **more):
    container = {
        "name": "app",
        "image": "busybox:latest",
        "command": ["sh", "-c", command],
        "logConfiguration": {
            "logDriver": "awslogs",
            "options": {
                "awslogs-group": GROUP,
                "awslogs-region": "us-east-1",
                "awslogs-stream-prefix": "ecs",
                "awslogs-create-group": "true",
            },
        },
    }
    ecs.register_task_definition(
        family=family,
        networkMode="awsvpc",
        requiresCompatibilities=["FARGATE"],
        cpu="256",
        memory="512",
        executionRoleArn=execution,
        taskRoleArn=own,
        containerDefinitions=[container | more],
    )


def described(arn):
    return ecs.describe_tasks(tasks=[arn])["tasks"][0]


def lines(arn):
    """[counter, time printed, bytes of metadata, bytes of credentials, time of the event]"""
    stream = "ecs/app/" + arn.rsplit("/", 1)[1]
    try:
        events = logs.get_log_events(logGroupName=GROUP, logStreamName=stream, startFromHead=True)["events"]
    except logs.exceptions.ResourceNotFoundException:
        return []
    found = []
    for event in events:
        words = event["message"].split()
        if len(words) != 5 or words[0] != "line" or not all(word.isdigit() for word in words[1:]):
            said = "\n".join(f"  {one['timestamp']} {one['message']}" for one in events)
            sys.exit(f"FAILED: this was not to be printed: {event['message']}\n{said}")
        found.append([int(word) for word in words[1:]] + [event["timestamp"] / 1000])
    return found


def programs(arn):
    """Shims and machines of a task on the host, as process id and time of start."""
    task, found = arn.rsplit("/", 1)[1], {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            about = (folder / "cmdline").read_text() + (folder / "cgroup").read_text()
            name, stat = (folder / "comm").read_text().strip(), (folder / "stat").read_text()
        except OSError:
            continue
        if task in about and name.startswith(("ferrogate", "qemu")):
            found[int(folder.name)] = (name, stat.rsplit(")", 1)[1].split()[19])
    return found


def same(task):
    """What is the same of a task as long as it is the same."""
    container = task["containers"][0]
    return {
        "arn": task["taskArn"],
        "startedAt": task["startedAt"].isoformat(),
        "runtimeId": container["runtimeId"],
        "addresses": [of["privateIpv4Address"] for of in container["networkInterfaces"]],
        "lastStatus": task["lastStatus"],
        "desiredStatus": task["desiredStatus"],
        "programs": programs(task["taskArn"]),
    }


def slept_seconds():
    """Since the host was booted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def begin(arn, what):
    until(f"{what} is RUNNING and HEALTHY", lambda: is_well(described(arn)))
    say(f"{what} is RUNNING and HEALTHY: {arn}")


def is_well(task):
    if task["lastStatus"] in ("DEPROVISIONING", "STOPPED"):
        sys.exit(f"FAILED: a task ended: {task}")
    return task["lastStatus"] == "RUNNING" and task["healthStatus"] == "HEALTHY"


# Before.
execution = role("execution", {"Action": "logs:*", "Resource": "*"})
own = role("own", {"Action": "ecs:ListClusters", "Resource": "*"})
subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
network = {"awsvpcConfiguration": {"subnets": [subnet], "assignPublicIp": "ENABLED"}}
# Most of the time one is under way. Its timeout is shorter than the sleep: if that counted, the first would be the last.
health = {"command": ["CMD-SHELL", "sleep 4"], "interval": 5, "timeout": 15, "retries": 1}
define("long", LOOP, healthCheck=health)
define("short", "echo line 1 $(date +%s) 1 1")
ecs.create_cluster(clusterName="default")
ran = ecs.run_task(taskDefinition="long", launchType="FARGATE", networkConfiguration=network)
check(not ran["failures"], "RunTask takes the task", ran["failures"])
long = ran["tasks"][0]["taskArn"]
begin(long, "the task")
ecs.create_service(
    serviceName="kept", taskDefinition="long", desiredCount=1, launchType="FARGATE", networkConfiguration=network
)
served = until("the service's task", lambda: ecs.list_tasks(serviceName="kept")["taskArns"])[0]
begin(served, "the service's task")


def service():
    return ecs.describe_services(services=["kept"])["services"][0]


until("the deployment is COMPLETED", lambda: service()["deployments"][0].get("rolloutState") == "COMPLETED")
until("the task has printed five lines", lambda: len(lines(long)) >= 5)
before = {arn: same(described(arn)) for arn in (long, served)}
for arn in before:
    names = [name for name, _ in before[arn]["programs"].values()]
    wanted = isolation == "microvm"
    check(names and any("qemu" in name for name in names) == wanted, f"a task is in a {isolation}: {names}")
events_before = {event["id"] for event in service()["events"]}

# Asleep.
slept_before, wall_before = slept_seconds(), time.time()
say(f"the host is to sleep for {SLEEP_SECONDS} s")
run("rtcwake", "--mode", "mem", "--seconds", str(SLEEP_SECONDS))
woken = time.time()
slept = slept_seconds() - slept_before
say(f"the host is awake: it slept {slept:.1f} s of the last {woken - wall_before:.1f} s")

# Afterwards: while the health checks come that could see the sleep as time of theirs.
seen = set()
while time.time() < woken + WATCH_SECONDS:
    for arn in before:
        task = described(arn)
        seen.add((task["lastStatus"], task["desiredStatus"], task["healthStatus"]))
    time.sleep(0.5)
kernel = run("dmesg")
check(slept >= SLEPT_SECONDS_MIN and "PM: suspend exit" in kernel, f"the host has slept, for {slept:.1f} s")
check(seen == {("RUNNING", "RUNNING", "HEALTHY")}, f"both tasks were RUNNING and HEALTHY for {WATCH_SECONDS} s", seen)
for arn, was in before.items():
    task = until("the task is described", lambda arn=arn: described(arn))
    check(same(task) == was, f"{arn} is the same as before: {was['startedAt']}, {was['programs']}", same(task), was)

printed = lines(long)
numbers = [line[0] for line in printed]
check(numbers == list(range(1, len(printed) + 1)), f"{len(printed)} lines, none twice, none lost", printed)
gap, at = max((after[1] - line[1], after[0]) for line, after in zip(printed, printed[1:]))
check(gap >= SLEPT_SECONDS_MIN, f"between lines {at - 1} and {at} the task's clock made {gap} s", printed)
late = [line for line in printed if line[4] >= woken]
check(len(late) >= WATCH_SECONDS / 5, f"{len(late)} lines came since the host is awake", printed)
check(all(line[2] > 0 and line[3] > 0 for line in printed), "metadata and credentials came every time", printed)
say("lines about the sleep:", *(f"\n  {line}" for line in printed[max(0, at - 4) : at + 5]))
for known in ([line for line in printed if line[4] < wall_before - 1], [line for line in late if line[4] >= woken + CLOCK_GRACE_SECONDS]):
    # A line may be long on its way where all is emulated; a clock that is behind is so in every line.
    lags = [line[4] - line[1] for line in known]
    is_right = -CLOCK_SECONDS_MAX <= min(lags) <= CLOCK_SECONDS_MAX
    check(is_right, f"the task's clock is the host's, {CLOCK_GRACE_SECONDS} s after waking at the latest", lags)
count = len(printed)
until("more lines come", lambda: len(lines(long)) >= count + 5)
say("ok: more lines come")

# The service and its task.
run(".cache/venv/bin/aws", "ecs", "wait", "services-stable", "--services", "kept")
now = aws("ecs", "describe-services", "--services", "kept")["services"][0]
check(now["runningCount"] == now["desiredCount"] == 1 and len(now["deployments"]) == 1, "the service is stable", now)
check(aws("ecs", "list-tasks", "--service-name", "kept")["taskArns"] == [served], "the service kept its task")
new = [event["message"] for event in now["events"] if event["id"] not in events_before]
did = [text for text in new if "started" in text or "stopped" in text or "unhealthy" in text]
check(not did, f"the service did nothing: {new}", did)

# What is begun and ended now.
place = ["--launch-type", "FARGATE", "--network-configuration", json.dumps(network)]
ran = aws("ecs", "run-task", "--task-definition", "short", *place)
check(not ran["failures"], "RunTask takes a new task", ran)
short = ran["tasks"][0]["taskArn"]
aws("ecs", "wait", "tasks-stopped", "--tasks", short)
task = described(short)
ended = (task["stopCode"], task["containers"][0].get("exitCode"))
check(ended == ("EssentialContainerExited", 0), "it ran to its end", task)
check(task["startedAt"].timestamp() > woken and len(lines(short)) == 1, "its line came", lines(short))
aws("ecs", "stop-task", "--task", long, "--reason", "the night is over")
aws("ecs", "wait", "tasks-stopped", "--tasks", long)
task = described(long)
ended = (task["stopCode"], task["stoppedReason"], task["containers"][0].get("exitCode"))
check(ended == ("UserInitiated", "the night is over", 7), "StopTask ends the task that slept", task)
check(task["stoppedAt"] - task["startedAt"] > datetime.timedelta(seconds=slept), "it was there all the time", task)
check(described(served)["lastStatus"] == "RUNNING", "the service's task goes on")
