"""Questions for a zone of 9,998 records: the VPC's resolver, and dnsmasq in a namespace of its own; dnsperf asks both, in
turns, so that what else the machine does meets both alike."""

import contextlib
import pathlib
import re
import socket
import struct
import subprocess
import time

from table import Row, median, per_second

# A hosted zone has 10,000 record sets at most; two are its NS and SOA.
RECORDS = 9_998
SECONDS = 2
ROUNDS = 4
# To warm up.
FIRST_SECONDS = 1
# A command that takes longer than it was told has failed.
SLACK_SECONDS = 10
CLIENTS = 4
PER_BATCH = 500
ZONE = "bench.test"
NETNS = "ferrogate-bench-dns"
HERE, THERE = "10.253.0.1", "10.253.0.2"
RESOLVER = "169.254.169.253"
# Nobody else's command: by it the task's process is found.
SLEEP = ["sleep", "98765"]


def run(*command, seconds=0):
    timeout = seconds + SLACK_SECONDS
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout).stdout


def name(number):
    return f"h{number}.{ZONE}"


def address(number):
    return f"10.200.{number // 256}.{number % 256}"


def perf(server, questions, inside=(), seconds=SECONDS):
    """Answers a second; every one of them has to be there."""
    command = [*inside, "dnsperf", "-s", server, "-d", str(questions), "-l", str(seconds), "-c", str(CLIENTS)]
    said = run(*command, seconds=seconds)
    codes = re.search(r"Response codes:\s+(.*)", said).group(1)
    lost = int(re.search(r"Queries lost:\s+(\d+)", said).group(1))
    if lost or not re.fullmatch(r"NOERROR \d+ \(100.00%\)", codes.strip()):
        raise RuntimeError(f"{server} does not have the records: {codes}; {lost} questions lost")
    return float(re.search(r"Queries per second:\s+([\d.]+)", said).group(1))


def answers(server):
    """Whether it has a record of the zone."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name(0).split("."))
    question = struct.pack(">HHHHHH", 1, 256, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.1)
        try:
            client.connect((server, 53))
            client.send(question)
            return struct.unpack(">H", client.recv(512)[6:8])[0] == 1
        except OSError:
            return False


@contextlib.contextmanager
def dnsmasq(home):
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
        deadline = time.monotonic() + SLACK_SECONDS
        while not answers(THERE):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("dnsmasq does not answer")
        yield
    finally:
        if process:
            process.kill()
            process.wait()
        subprocess.run(["ip", "netns", "del", NETNS], check=False, timeout=SLACK_SECONDS)


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
    ours, theirs = [], []
    try:
        tasks.wait(arns, "RUNNING")
        inside = ("nsenter", "-n", "-t", process_of([word.encode() for word in SLEEP]))
        with dnsmasq(home):
            perf(RESOLVER, questions, inside, FIRST_SECONDS)
            perf(THERE, questions, seconds=FIRST_SECONDS)
            for _ in range(ROUNDS):
                ours.append(perf(RESOLVER, questions, inside))
                theirs.append(perf(THERE, questions))
    finally:
        tasks.stop(arns)
    what = f"A questions, {RECORDS:,} records, {CLIENTS} clients"
    ratio = f"{median([one / other for one, other in zip(ours, theirs)]):.2f}"
    return [
        Row(what, "Ferrogate, from a task", per_second(median(ours)), per_second(min(ours)), ratio),
        Row(what, "dnsmasq", per_second(median(theirs)), per_second(min(theirs))),
        Row(f"{RECORDS:,} records by ChangeResourceRecordSets, until INSYNC", "Ferrogate", f"{published:.2f} s"),
    ], []
