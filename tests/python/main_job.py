"""The main job as a boto3 script: register, run, wait, fetch, shut out, let in, stop, wait."""

import http.client
import time

import boto3

DEADLINE_SECONDS = 60

ecs, ec2 = boto3.client("ecs"), boto3.client("ec2")


def fetch(address):
    connection = http.client.HTTPConnection(address, 80, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def eventually(what, is_so):
    end = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.05)


definition = ecs.register_task_definition(
    family="sample-fargate-app",
    networkMode="awsvpc",
    requiresCompatibilities=["FARGATE"],
    cpu="256",
    memory="512",
    containerDefinitions=[
        {"name": "sample-app", "image": "nginx:latest", "portMappings": [{"containerPort": 80, "protocol": "tcp"}]}
    ],
    tags=[{"key": "team", "value": "web"}],
)["taskDefinition"]
assert definition["compatibilities"] == ["EC2", "FARGATE"], definition
assert definition["revision"] == 1

ecs.create_cluster(clusterName="shop", capacityProviders=["FARGATE"])
vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]
subnets = [
    subnet["SubnetId"]
    for page in ec2.get_paginator("describe_subnets").paginate(Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}])
    for subnet in page["Subnets"]
]
assert len(subnets) == 3, subnets
group = ec2.create_security_group(GroupName="web", Description="the shop", VpcId=vpc["VpcId"])["GroupId"]
permission = [{"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permission)

ran = ecs.run_task(
    cluster="shop",
    taskDefinition="sample-fargate-app",
    capacityProviderStrategy=[{"capacityProvider": "FARGATE", "weight": 1}],
    count=2,
    startedBy="main_job.py",
    propagateTags="TASK_DEFINITION",
    networkConfiguration={
        "awsvpcConfiguration": {"subnets": subnets, "securityGroups": [group], "assignPublicIp": "ENABLED"}
    },
)
assert ran["failures"] == []
arns = [task["taskArn"] for task in ran["tasks"]]
assert len(set(arns)) == 2
ecs.get_waiter("tasks_running").wait(cluster="shop", tasks=arns, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
tasks = ecs.describe_tasks(cluster="shop", tasks=arns, include=["TAGS"])["tasks"]
assert sorted(task["taskArn"] for task in tasks) == sorted(arns)
addresses = {}
for task in tasks:
    assert task["startedBy"] == "main_job.py" and task["capacityProviderName"] == "FARGATE", task
    assert {"key": "team", "value": "web"} in task["tags"], task["tags"]
    details = {detail["name"]: detail["value"] for detail in task["attachments"][0]["details"]}
    interface = ec2.describe_network_interfaces(NetworkInterfaceIds=[details["networkInterfaceId"]])["NetworkInterfaces"][0]
    addresses[task["taskArn"]] = interface["Association"]["PublicIp"]
assert len(set(addresses.values())) == 2, addresses
listed = ecs.list_tasks(cluster="shop", family="sample-fargate-app", desiredStatus="RUNNING")["taskArns"]
assert sorted(listed) == sorted(arns), listed
assert ecs.describe_clusters(clusters=["shop"])["clusters"][0]["runningTasksCount"] == 2

for address in addresses.values():
    eventually(f"{address} serves", lambda: "Welcome to nginx!" in (fetch(address) or ""))
ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=permission)
for address in addresses.values():
    eventually(f"{address} is shut", lambda: fetch(address) is None)
ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permission)
for address in addresses.values():
    eventually(f"{address} serves again", lambda: "Welcome to nginx!" in (fetch(address) or ""))

for arn in arns:
    ecs.stop_task(cluster="shop", task=arn, reason="the day is over")
ecs.get_waiter("tasks_stopped").wait(cluster="shop", tasks=arns, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
for task in ecs.describe_tasks(cluster="shop", tasks=arns)["tasks"]:
    assert task["lastStatus"] == "STOPPED" and task["stopCode"] == "UserInitiated", task
    assert task["stoppedReason"] == "the day is over", task
    assert task["stoppedAt"] >= task["startedAt"] >= task["createdAt"], task
assert sorted(ecs.list_tasks(cluster="shop", desiredStatus="STOPPED")["taskArns"]) == sorted(arns)
ec2.delete_security_group(GroupId=group)
print("done")
