"""Sends every wrong call of tests/corpus and holds the answer against what AWS says.

    corpus.py [--record] [<part of a case's name> …]

`--record` prints the cases with the answers they got, as lines to be judged and kept.
"""

import collections
import copy
import json
import pathlib
import re
import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

CORPUS = pathlib.Path(__file__).resolve().parents[1] / "corpus"
CONFIG = Config(retries={"total_max_attempts": 1}, parameter_validation=False, inject_host_prefix=False)
CASES_MIN = 300
BASES = json.loads((CORPUS / "bases.json").read_text())
KEYS = {"root": {}}
clients = {}


def client(service, who="root"):
    if (service, who) not in clients:
        clients[service, who] = boto3.client(service, config=CONFIG, **KEYS[who])
    return clients[service, who]


def trust(**principal):
    statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def world():
    """What the cases name, made once."""
    ec2, ecs, iam, logs = client("ec2"), client("ecs"), client("iam"), client("logs")
    names = {"account": client("sts").get_caller_identity()["Account"]}
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    here = [{"Name": "vpc-id", "Values": [vpc]}]
    names["vpc"] = vpc
    names["subnet"] = ec2.describe_subnets(Filters=here)["Subnets"][0]["SubnetId"]
    names["group"] = ec2.describe_security_groups(Filters=here)["SecurityGroups"][0]["GroupId"]
    other = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    names["other_vpc"] = other
    names["other_subnet"] = ec2.create_subnet(VpcId=other, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
    names["other_group"] = ec2.create_security_group(GroupName="corpus", Description="d", VpcId=other)["GroupId"]
    names["other_table"] = ec2.create_route_table(VpcId=other)["RouteTable"]["RouteTableId"]
    rule = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
    ec2.authorize_security_group_ingress(GroupId=names["other_group"], IpPermissions=[rule])
    for role, service in (("task", "ecs-tasks"), ("execution", "ecs-tasks"), ("ec2", "ec2")):
        iam.create_role(RoleName=f"corpus-{role}", AssumeRolePolicyDocument=trust(Service=f"{service}.amazonaws.com"))
    iam.create_role(RoleName="corpus-user", AssumeRolePolicyDocument=trust(AWS=names["account"]))
    statement = {"Effect": "Allow", "Action": "logs:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_role_policy(RoleName="corpus-execution", PolicyName="logs", PolicyDocument=policy)
    statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.create_user(UserName="corpus-caller")
    iam.put_user_policy(UserName="corpus-caller", PolicyName="assume", PolicyDocument=policy)
    key = iam.create_access_key(UserName="corpus-caller")["AccessKey"]
    KEYS["user"] = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
    iam.create_user(UserName="corpus")
    iam.create_access_key(UserName="corpus")
    ecs.create_cluster(clusterName="corpus")
    ecs.create_cluster(clusterName="corpus-gone")
    ecs.delete_cluster(cluster="corpus-gone")
    for _ in range(2):
        ecs.register_task_definition(**{**BASES["web"], "family": "corpus"})
    ecs.deregister_task_definition(taskDefinition="corpus:1")
    ecs.register_task_definition(**BASES["ec2"])
    client("ecr").create_repository(repositoryName="corpus")
    secrets = client("secretsmanager")
    secrets.create_secret(Name="corpus", SecretString="hush")
    secrets.create_secret(Name="corpus-gone", SecretString="hush")
    secrets.delete_secret(SecretId="corpus-gone")
    client("ssm").put_parameter(Name="corpus", Value="v", Type="String")
    logs.create_log_group(logGroupName="corpus")
    logs.create_log_stream(logGroupName="corpus", logStreamName="one")
    return names


def filled(value, names):
    text = json.dumps(value)
    for name, there in names.items():
        text = text.replace("{{" + name + "}}", there)
    text = re.sub(r"\{\{(\d+)\*(.)\}\}", lambda found: found[2] * int(found[1]), text)
    return json.loads(text)


def changed(base, change):
    params = copy.deepcopy(BASES[base])
    for path, value in change.items():
        *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        at = params
        for step in steps:
            at = at[step]
        if value is None:
            at.pop(last, None)
        else:
            at[last] = value
    return params


def send(case):
    params = changed(case["base"], case["change"]) if "base" in case else case["params"]
    try:
        answer = client(case["service"], case.get("as", "root"))._make_api_call(case["operation"], params)
    except ClientError as error:
        told = error.response["Error"]
        return {"code": told.get("Code", ""), "message": told.get("Message", "")}
    if answer.get("failures"):
        return {"failures": [[one.get("arn"), one.get("reason")] for one in answer["failures"]]}
    return {"succeeded": {name: value for name, value in answer.items() if name != "ResponseMetadata"}}


def agrees(case, said):
    if "failures" in case:
        return said.get("failures") == case["failures"]
    if said.get("code") != case["code"]:
        return False
    if "pattern" in case:
        return re.search(case["pattern"], said["message"]) is not None
    return said["message"] == case["message"]


def read():
    cases = []
    for path in sorted(CORPUS.glob("*.jsonl")):
        lines = path.read_text().splitlines()
        cases += [{**json.loads(line), "file": path.stem} for line in lines if line.strip()]
    return cases


def main():
    record = "--record" in sys.argv
    wanted = [word for word in sys.argv[1:] if not word.startswith("--")]
    cases = read()
    named = collections.Counter(f"{case['file']}: {case['group']}: {case['name']}" for case in cases)
    twice = [name for name, count in named.items() if count > 1]
    names, begun = world(), time.monotonic()
    counts, gaps, wrong = collections.Counter(), [], []
    for case in cases:
        name = f"{case['file']}: {case['group']}: {case['name']}"
        if wanted and not any(word in name for word in wanted):
            continue
        case = filled(case, names)
        said = send(case)
        counts[case["file"]] += 1
        if record:
            print(json.dumps({"case": name, "said": said}, default=str, ensure_ascii=False))
        elif case.get("gap"):
            gaps.append((name, agrees(case, said)))
        elif not agrees(case, said):
            expected = {key: case[key] for key in ("code", "message", "pattern", "failures") if key in case}
            told = json.dumps(said, default=str, ensure_ascii=False)[:600]
            wrong.append(f"{name}\n     should be {json.dumps(expected, ensure_ascii=False)}\n           was {told}")
    for file, count in sorted(counts.items()):
        print(f"{count:4} {file}")
    print(f"{sum(counts.values())} cases in {time.monotonic() - begun:.1f} s")
    for name, closed in gaps:
        print(f"     {'as on AWS now, it is no gap any more' if closed else 'not yet as on AWS'}: {name}")
    if twice:
        sys.exit(f"these names are there twice: {twice}")
    if not wanted and sum(counts.values()) < CASES_MIN:
        sys.exit(f"the corpus has fewer than {CASES_MIN} cases: has a file gone?")
    if wrong:
        sys.exit(f"{len(wrong)} answers are not what they should be:\n  " + "\n  ".join(wrong))


main()
