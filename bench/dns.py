"""Questions for a zone of 9,998 records: the VPC's resolver, and dnsmasq in a namespace of its own; dnsperf asks both."""

import pathlib
import re
import subprocess
import time

from table import Row, median, per_second

# A hosted zone has 10,000 record sets at most; two are its NS and SOA.
RECORDS = 9_998
SECONDS = 5
ROUNDS = 3
CLIENTS = 4
PER_BATCH = 500
ZONE = "bench.test"
NETNS = "ferrogate-bench-dns"
HERE, THERE = "10.253.0.1", "10.253.0.2"
RESOLVER = "169.254.169.253"
# Nobody else's command: by it the task's process is found.
SLEEP = ["sleep", "98765"]


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def name(number):
    return f"h{number}.{ZONE}"


def address(number):
    return f"10.200.{number // 256}.{number % 256}"


def perf(server, questions, inside=()):
    """Answers a second; every one of them has to be there."""
    command = [*inside, "dnsperf", "-s", server, "-d", str(questions), "-l", str(SECONDS), "-c", str(CLIENTS)]
    said = run(*command)
    codes = re.search(r"Response codes:\s+(.*)", said).group(1)
    if not re.fullmatch(r"NOERROR \d+ \(100.00%\)", codes.strip()):
        raise RuntimeError(f"{server} does not have the records: {codes}")
    return float(re.search(r"Queries per second:\s+([\d.]+)", said).group(1))


def dnsmasq(home, questions):
    """In a namespace of its own, over a veth, as the resolver is from a task."""
    hosts = home / "hosts"
    hosts.write_text("".join(f"{address(n)} {name(n)}\n" for n in range(RECORDS)))
    run("ip", "netns", "add", NETNS)
    process = None
    try:
        run("ip", "link", "add", "fgb0", "type", "veth", "peer", "name", "fgb1", "netns", NETNS)
        run("ip", "addr", "add", f"{HERE}/30", "dev", "fgb0")
        run("ip", "link", "set", "fgb0", "up")
        run("ip", "-n", NETNS, "addr", "add", f"{THERE}/30", "dev", "fgb1")
        run("ip", "-n", NETNS, "link", "set", "fgb1", "up")
        options = ["--no-daemon", "--no-resolv", "--no-hosts", f"--addn-hosts={hosts}", "--local-ttl=60", "--user=root",
                   "--conf-file=/dev/null", f"--listen-address={THERE}", "--bind-interfaces", "--pid-file=",
                   f"--local=/{ZONE}/"]
        command = ["ip", "netns", "exec", NETNS, "dnsmasq", *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(1)
        return [perf(THERE, questions) for _ in range(ROUNDS)]
    finally:
        if process:
            process.terminate()
            process.wait()
        subprocess.run(["ip", "netns", "del", NETNS], check=False)


def publish(tasks):
    """Seconds until resolvers have all of it."""
    route53 = tasks.ferrogate.client("route53")
    vpc = tasks.ferrogate.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    made = route53.create_hosted_zone(
        Name=ZONE, CallerReference="bench-dns", VPC={"VPCRegion": "us-east-1", "VPCId": vpc}
    )
    zone_id = made["HostedZone"]["Id"]
    began = time.perf_counter()
    for first in range(0, RECORDS, PER_BATCH):
        changes = [
            {"Action": "CREATE", "ResourceRecordSet": {
                "Name": name(n), "Type": "A", "TTL": 60, "ResourceRecords": [{"Value": address(n)}]}}
            for n in range(first, min(first + PER_BATCH, RECORDS))
        ]
        answer = route53.change_resource_record_sets(HostedZoneId=zone_id, ChangeBatch={"Changes": changes})
    while route53.get_change(Id=answer["ChangeInfo"]["Id"])["ChangeInfo"]["Status"] != "INSYNC":
        time.sleep(0.01)
    return time.perf_counter() - began


def process_of(command):
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().split(b"\0")[:-1] == command:
                return entry.name
        except OSError:
            continue
    raise RuntimeError(f"no process is {command}")


def resolver(tasks, home):
    questions = home / "questions"
    questions.write_text("".join(f"{name(n)} A\n" for n in range(0, RECORDS, 7)))
    published = publish(tasks)
    tasks.define("dns", SLEEP)
    arns, _, _ = tasks.run("dns")
    tasks.wait(arns, "RUNNING")
    pid = process_of([word.encode() for word in SLEEP])
    ours = [perf(RESOLVER, questions, ("nsenter", "-n", "-t", pid)) for _ in range(ROUNDS)]
    tasks.stop(arns)
    theirs = dnsmasq(home, questions)
    what = f"A questions, {RECORDS:,} records, {CLIENTS} clients"
    ratio = f"{median(ours) / median(theirs):.2f}"
    return [
        Row(what, "Ferrogate, from a task", per_second(median(ours)), per_second(min(ours)), ratio),
        Row(what, "dnsmasq", per_second(median(theirs)), per_second(min(theirs))),
        Row(f"{RECORDS:,} records by ChangeResourceRecordSets, until INSYNC", "Ferrogate", f"{published:.2f} s"),
    ], []
