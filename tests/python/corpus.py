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
CERTIFICATES = CORPUS.parents[1] / "crates" / "certificate" / "testdata"
CASES_MIN = 700
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
    names.update(balanced(names))
    names.update(named(names))
    served(names)
    return names


def balanced(names):
    """A balancer with a certificate, a listener, a rule and target groups."""
    elb, read = client("elbv2"), lambda name: (CERTIFICATES / name).read_text()
    made = {name.replace(".", "_"): read(name) for name in ("leaf.pem", "leaf.key", "ca.pem", "rsa.pem", "rsa.key")}
    imported = client("acm").import_certificate(Certificate=made["leaf_pem"], PrivateKey=made["leaf_key"])
    made["certificate"] = imported["CertificateArn"]
    subnets = client("ec2").describe_subnets(Filters=[{"Name": "vpc-id", "Values": [names["vpc"]]}])["Subnets"]
    made["subnet_b"] = subnets[1]["SubnetId"]
    balancer = elb.create_load_balancer(Name="corpus", Subnets=[names["subnet"], made["subnet_b"]])["LoadBalancers"][0]
    made["balancer"] = arn = balancer["LoadBalancerArn"]
    attributes = [{"Key": "deletion_protection.enabled", "Value": "true"}]
    elb.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=attributes)
    for name, called in (("used_group", "corpus"), ("idle_group", "corpus-idle")):
        group = elb.create_target_group(Name=called, Protocol="HTTP", Port=80, VpcId=names["vpc"], TargetType="ip")
        made[name] = group["TargetGroups"][0]["TargetGroupArn"]
    for name, kind, protocol in (("alb_group", "alb", "TCP"), ("udp_group", "ip", "UDP")):
        called = {"Name": f"corpus-{kind}", "Protocol": protocol, "TargetType": kind, "VpcId": names["vpc"]}
        made[name] = elb.create_target_group(**called, Port=81)["TargetGroups"][0]["TargetGroupArn"]
    actions = [{"Type": "forward", "TargetGroupArn": made["used_group"]}]
    listener = {"LoadBalancerArn": arn, "DefaultActions": actions}
    made["listener"] = elb.create_listener(**listener, Protocol="HTTP", Port=80)["Listeners"][0]["ListenerArn"]
    certificates = [{"CertificateArn": made["certificate"]}]
    elb.create_listener(**listener, Protocol="HTTPS", Port=443, Certificates=certificates)
    conditions = [{"Field": "path-pattern", "Values": ["/there/*"]}]
    elb.create_rule(ListenerArn=made["listener"], Priority=10, Conditions=conditions, Actions=actions)
    rules = elb.describe_rules(ListenerArn=made["listener"])["Rules"]
    made["default_rule"] = next(rule["RuleArn"] for rule in rules if rule["IsDefault"])
    return made


def named(names):
    """Hosted zones, a namespace with a service that has an instance."""
    dns, cloud_map = client("route53"), client("servicediscovery")
    vpc = {"VPCRegion": "us-east-1", "VPCId": names["vpc"]}
    zone = dns.create_hosted_zone(Name="corpus.example", CallerReference="corpus", VPC=vpc)["HostedZone"]["Id"]
    public = dns.create_hosted_zone(Name="corpus.example.net", CallerReference="public")["HostedZone"]["Id"]
    changes = []
    for name, kind, value in (("there", "A", "10.0.0.1"), ("www", "CNAME", "there.corpus.example")):
        record = {"Name": f"{name}.corpus.example", "Type": kind, "TTL": 60, "ResourceRecords": [{"Value": value}]}
        changes.append({"Action": "CREATE", "ResourceRecordSet": record})
    dns.change_resource_record_sets(HostedZoneId=zone, ChangeBatch={"Changes": changes})
    records = dns.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
    soa = next(record["ResourceRecords"][0]["Value"] for record in records if record["Type"] == "SOA")
    done(cloud_map.create_http_namespace(Name="corpus-http", CreatorRequestId="corpus")["OperationId"])
    namespaces = cloud_map.list_namespaces()["Namespaces"]
    namespace = next(one["Id"] for one in namespaces if one["Name"] == "corpus-http")
    service = cloud_map.create_service(Name="corpus", NamespaceId=namespace, CreatorRequestId="corpus")["Service"]
    instance = {"ServiceId": service["Id"], "InstanceId": "one", "Attributes": {"AWS_INSTANCE_IPV4": "10.0.0.1"}}
    done(cloud_map.register_instance(**instance)["OperationId"])
    zones = {"zone": zone.split("/")[-1], "public_zone": public.split("/")[-1], "soa": soa}
    return {**zones, "namespace": namespace, "discovered": service["Id"], "discovered_arn": service["Arn"]}


def done(operation):
    """Waits for what Cloud Map does afterwards."""
    until = time.monotonic() + 60
    while (status := client("servicediscovery").get_operation(OperationId=operation)["Operation"]["Status"]) != "SUCCESS":
        if status == "FAIL" or time.monotonic() > until:
            sys.exit(f"the operation {operation} is {status}")
        time.sleep(0.05)


def served(names):
    """Services without a task: one that wants none, one that was deleted, one whose task sets somebody else makes."""
    ecs = client("ecs")
    network = {"awsvpcConfiguration": {"subnets": [names["subnet"]]}}
    web = {"name": "web", "image": "busybox", "portMappings": [{"containerPort": 80}]}
    ecs.register_task_definition(**{**BASES["web"], "family": "corpus-port", "containerDefinitions": [web]})
    ports = [{"containerPort": 80, "name": "http", "appProtocol": "http"}, {"containerPort": 81, "name": "tcp"}]
    ports += [{"containerPort": 82, "name": "udp", "protocol": "udp"}, {"containerPortRange": "90-95", "name": "range"}]
    named = {**web, "portMappings": ports}
    ecs.register_task_definition(**{**BASES["web"], "family": "corpus-named", "containerDefinitions": [named]})
    service = {"cluster": "corpus", "taskDefinition": "corpus", "desiredCount": 0, "launchType": "FARGATE"}
    for name in ("corpus", "corpus-gone"):
        ecs.create_service(**service, serviceName=name, networkConfiguration=network)
    ecs.delete_service(cluster="corpus", service="corpus-gone")
    endpoint = {"portName": "http", "discoveryName": "taken", "clientAliases": [{"port": 80, "dnsName": "taken"}]}
    connect = {"enabled": True, "namespace": "corpus-http", "services": [endpoint]}
    connected = {**service, "taskDefinition": "corpus-named", "serviceName": "corpus-connected"}
    ecs.create_service(**connected, networkConfiguration=network, serviceConnectConfiguration=connect)
    external = {"deploymentController": {"type": "EXTERNAL"}, "desiredCount": 1}
    ecs.create_service(cluster="corpus", serviceName="corpus-external", **external)


def filled(value, names):
    text = json.dumps(value)
    for name, there in names.items():
        text = text.replace("{{" + name + "}}", json.dumps(there)[1:-1])
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
