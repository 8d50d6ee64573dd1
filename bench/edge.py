"""The load balancers' data plane beside nginx and HAProxy, in front of the same two backends.

All of them have two worker threads, log nothing and keep connections to the backends. Requests per second are taken at
64 connections; latency at a fixed load that all of them can carry; processor time is what the proxy's own threads
ran, divided by the requests it answered. A machine is never quiet: the proxies take turns in short rounds, each round
is compared within itself, and the median of the rounds is told with the least and the most.
"""

import csv
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid

from ours import ROOT, wait_for
from table import Row, median, p99

EXAMPLE = ROOT / "target/release/examples/alb"
CONNECTIONS = 64
SECONDS = 1
ROUNDS, LATENCY_ROUNDS, STREAM_ROUNDS = 4, 3, 3
FIXED_RATE = 2000
# With a new connection each, which costs who asks as much as who answers.
FIXED_RATE_NEW = 1000
CLIENTS = 20
# A tool that is not over this long after its time is ended, and what it found by then counts as nothing.
LATE_SECONDS = 10
BACKENDS = [18081, 18082]
PLAIN, TLS, TCP = 0, 1, 2
PAGE_BYTES = 1024
FILE_GB = 64


def processor_seconds(pid):
    """Of all threads of a process and its children; the scheduler's own count, ticks are too coarse."""
    total = 0
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if pid in (int(entry.name), parent):
                total += sum(int((task / "schedstat").read_text().split()[0]) for task in (entry / "task").iterdir())
        except OSError:
            continue
    return total / 1e9


class Proxy:
    def __init__(self, name, base, command):
        self.name, self.ports = name, {kind: base + kind for kind in (PLAIN, TLS, TCP)}
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        wait_for(("127.0.0.1", self.ports[PLAIN]), self.process, period=0.02)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def backends(home):
    root = home / "www"
    root.mkdir(exist_ok=True)
    root.chmod(0o755)
    home.chmod(0o755)
    (root / "page").write_bytes(b"x" * PAGE_BYTES)
    with open(root / "file", "wb") as file:
        file.truncate(FILE_GB << 30)
    servers = "".join(f"server {{ listen 127.0.0.1:{port} reuseport; root {root}; }}\n" for port in BACKENDS)
    return nginx(home, "backends", f"keepalive_requests 1000000; sendfile on;\n{servers}", 2)


def nginx(home, name, http, workers, stream=""):
    config = home / f"{name}.conf"
    config.write_text(
        f"daemon off; worker_processes {workers}; pid {home}/{name}.pid; error_log {home}/{name}.log crit;\n"
        "events { worker_connections 8192; }\n"
        f"http {{ access_log off; client_body_temp_path {home}/{name}-body; proxy_temp_path {home}/{name}-proxy;\n"
        f"fastcgi_temp_path {home}/{name}-f; uwsgi_temp_path {home}/{name}-u; scgi_temp_path {home}/{name}-s;\n{http}}}\n{stream}"
    )
    return ["nginx", "-e", "stderr", "-c", str(config)]


def certificate(home):
    pem, key = home / "edge.crt", home / "edge.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(pem)],
        check=True, capture_output=True,
    )
    both = home / "edge.pem"
    both.write_text(pem.read_text() + key.read_text())
    return pem, key, both


def nginx_proxy(home, base, pem, key):
    servers = "".join(f"server 127.0.0.1:{port}; " for port in BACKENDS)
    http = (
        f"upstream up {{ {servers} keepalive 128; keepalive_requests 1000000; }}\nkeepalive_requests 1000000;\n"
        f"server {{ listen 127.0.0.1:{base + PLAIN} reuseport; listen 127.0.0.1:{base + TLS} ssl reuseport;\n"
        f"ssl_certificate {pem}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;\n"
        "location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host $host;\n"
        "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_buffering off; } }\n"
    )
    return Proxy("nginx", base, nginx(home, "nginx-proxy", http, 2))


def haproxy(home, base, both):
    servers = "".join(f"  server s{port} 127.0.0.1:{port}\n" for port in BACKENDS)
    config = home / "haproxy.cfg"
    config.write_text(
        "global\n  nbthread 2\n  maxconn 4096\ndefaults\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
        f"frontend http\n  mode http\n  bind 127.0.0.1:{base + PLAIN}\n  bind 127.0.0.1:{base + TLS} ssl crt {both} alpn h2,http/1.1\n"
        "  option forwardfor\n  default_backend web\n"
        f"backend web\n  mode http\n  balance roundrobin\n  http-reuse always\n{servers}"
        f"frontend tcp\n  mode tcp\n  bind 127.0.0.1:{base + TCP}\n  default_backend l4\nbackend l4\n  mode tcp\n{servers}"
    )
    return Proxy("HAProxy", base, ["haproxy", "-db", "-f", str(config)])


def ours(home, base, pem, key):
    config = home / "edge.json"
    config.write_text(json.dumps(assignment(base)))
    command = [str(EXAMPLE), str(config), "--certificate", str(pem), "--key", str(key), "--threads", "2"]
    return Proxy("Ferrogate", base, command)


def assignment(base):
    arn = "arn:aws:elasticloadbalancing:us-east-1:000000000000"
    check = {
        "enabled": False, "protocol": "HTTP", "port": None, "path": "/page", "matcher": "200", "interval_seconds": 30,
        "timeout_seconds": 5, "healthy_threshold": 5, "unhealthy_threshold": 2,
    }

    def group(name, protocol):
        target = {"ip": "127.0.0.1", "availability_zone": None, "registered_at": "2026-01-01T00:00:00Z", "draining_since": None}
        return {
            "target_group_arn": f"{arn}:targetgroup/{name}/1", "name": name, "protocol": protocol, "protocol_version": "HTTP1",
            "health_check": check, "deregistration_delay_seconds": 300, "slow_start_seconds": 0, "algorithm": "round_robin",
            "anomaly_mitigation": False, "stickiness": None, "proxy_protocol_v2": False, "preserve_client_ip": False,
            "connection_termination": False, "terminate_unhealthy_connections": False, "cross_zone": None,
            "minimum_healthy_targets": 1, "minimum_healthy_percent": None,
            "targets": [{**target, "port": port} for port in BACKENDS],
        }

    def listener(port, protocol, name, certificates=()):
        weighted = [{"target_group_arn": f"{arn}:targetgroup/{name}/1", "weight": 1}]
        return {
            "listener_arn": f"{arn}:listener/app/bench/1/{port}", "port": port, "protocol": protocol,
            "ssl_policy": "ELBSecurityPolicy-TLS13-1-2-2021-06" if certificates else None,
            "certificate_arns": list(certificates), "alpn_policy": None, "tcp_idle_timeout_seconds": 350,
            "header_attributes": [], "rules": [],
            "default_action": {"forward": {"target_groups": weighted, "stickiness_seconds": None}},
        }

    return {
        "load_balancer_arn": f"{arn}:loadbalancer/app/bench/1", "name": "bench", "account": "000000000000",
        "region": "us-east-1", "availability_zone": "us-east-1a", "kind": "application", "dns_name": "bench.elb.localhost",
        "network": {
            "eni_id": "eni-0", "vpc_id": "vpc-0", "subnet_id": "subnet-0", "mac": "02:00:00:00:00:01", "private_ip": "127.0.0.1",
            "subnet_cidr": "127.0.0.0/8", "gateway": "127.0.0.1", "dns_servers": [], "dns_search": [], "hostname": "bench",
        },
        "public_ip": None, "generation": 1,
        "attributes": {
            "idle_timeout_seconds": 60, "client_keep_alive_seconds": 3600, "http2_enabled": True,
            "drop_invalid_header_fields": False, "preserve_host_header": False, "tls_version_and_cipher_headers": False,
            "xff_client_port": False, "xff_header_processing": "append", "desync_mitigation": "defensive",
            "cross_zone": True, "access_logs": None, "connection_logs": None,
        },
        "listeners": [
            listener(base + PLAIN, "HTTP", "web"), listener(base + TLS, "HTTPS", "web", ["bench"]),
            listener(base + TCP, "TCP", "l4"),
        ],
        "target_groups": [group("web", "HTTP"), group("l4", "TCP")],
    }


def bounded(command, seconds=SECONDS, codes=(0,)):
    """The tool's output; `None` when it did not end in time, which is told."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + LATE_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"no end of {' '.join(map(str, command))}", file=sys.stderr)
        return None
    if done.returncode not in codes:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr}{done.stdout}")
    return done.stdout


def closed_loop(proxy, kind, keep):
    """Requests per second, and processor microseconds of the proxy for each."""
    scheme = "https" if kind == TLS else "http"
    command = ["wrk", "-t2", f"-c{CONNECTIONS}", f"-d{SECONDS}s"] + ([] if keep else ["-H", "Connection: close"])
    before = processor_seconds(proxy.process.pid)
    said = bounded(command + [f"{scheme}://127.0.0.1:{proxy.ports[kind]}/page"])
    used = processor_seconds(proxy.process.pid) - before
    if said is None:
        return None
    if "Non-2xx" in said:
        raise RuntimeError(f"{proxy.name}: {said}")
    count = int(re.search(r"(\d+) requests in", said)[1])
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), used / max(count, 1) * 1e6


def fixed_load(proxy, kind, home):
    """The 99th percentile, in milliseconds, at FIXED_RATE whatever the proxy could do."""
    scheme = "https" if kind == TLS else "http"
    log = home / f"h2load-{uuid.uuid4().hex}"
    before = processor_seconds(proxy.process.pid)
    said = bounded(
        ["h2load", "--h1", "-t1", f"-c{CLIENTS}", f"--rps={FIXED_RATE // CLIENTS}", f"-D{SECONDS}", f"--log-file={log}",
         f"{scheme}://127.0.0.1:{proxy.ports[kind]}/page"],
    )
    if said is None:
        return None
    used = processor_seconds(proxy.process.pid) - before
    took = [int(line.split("\t")[2]) / 1000 for line in log.read_text().splitlines()]
    return p99(took), used / len(took) * 1e6


def fixed_load_new(proxy, kind):
    """… with a new connection for each request, its handshakes counted."""
    scheme = "https" if kind == TLS else "http"
    before = processor_seconds(proxy.process.pid)
    said = bounded(
        ["hey", "-z", f"{SECONDS}s", "-c", str(CLIENTS), "-q", str(FIXED_RATE_NEW // CLIENTS), "-disable-keepalive", "-o", "csv",
         # By itself it names the port in the handshake too, which is no name.
         "-host", "localhost", f"{scheme}://127.0.0.1:{proxy.ports[kind]}/page"],
    )
    if said is None:
        return None
    used = processor_seconds(proxy.process.pid) - before
    answers = list(csv.DictReader(said.splitlines()))
    if not answers or any(answer["status-code"] != "200" for answer in answers):
        raise RuntimeError(f"{proxy.name}: {said[:2000]}")
    return p99([float(answer["response-time"]) * 1000 for answer in answers]), used / len(answers) * 1e6


def throughput(proxy):
    """MiB per second of one download that is cut when its time is over, and processor seconds per GiB."""
    url = f"http://127.0.0.1:{proxy.ports[TCP]}/file"
    before = processor_seconds(proxy.process.pid)
    timed_out = 28
    said = bounded(
        ["curl", "-s", "-o", "/dev/null", "-m", str(SECONDS), "-w", "%{size_download} %{time_total}", url], codes=(0, timed_out)
    )
    if said is None:
        return None
    taken, took = (float(word) for word in said.split())
    return taken / took / (1 << 20), (processor_seconds(proxy.process.pid) - before) / (taken / (1 << 30))


def in_turn(rounds, proxies, measure):
    """What `measure` found of each proxy in each round; a round in which one of them failed is left out."""
    found = {proxy.name: [] for proxy in proxies}
    for at in range(rounds):
        turn = {proxy.name: measure(proxy) for proxy in proxies[at % len(proxies) :] + proxies[: at % len(proxies)]}
        if all(turn.values()):
            for name, value in turn.items():
                found[name].append(value)
    if not found["Ferrogate"]:
        raise RuntimeError("there was no round in which every proxy answered")
    return found


def against(found, at, more_is_better):
    """Ours over the best of the others, within each round: 1.25× is a quarter better than it."""
    others = {name: median([value[at] for value in values]) for name, values in found.items() if name != "Ferrogate"}
    best = (max if more_is_better else min)(others, key=others.get)
    ratios = [mine[at] / theirs[at] for mine, theirs in zip(found["Ferrogate"], found[best])]
    ratios = ratios if more_is_better else [1 / ratio for ratio in ratios]
    return f"{median(ratios):.2f}× {best} ({min(ratios):.2f} to {max(ratios):.2f})"


def compared(what, found, value, cost, more_is_better=True):
    rows = []
    for name, values in found.items():
        main, processor = (median([pair[at] for pair in values]) for at in (0, 1))
        ratio = ""
        if name == "Ferrogate":
            ratio = f"{against(found, 0, more_is_better)}; processor {against(found, 1, False)}"
        rows.append(Row(what, name, value(main), cost(processor), ratio))
    return rows


def balancer(tasks, home):
    if not EXAMPLE.exists():
        raise RuntimeError(f"{EXAMPLE} is missing: cargo build --release -p ferrogate-edge --example alb")
    pem, key, both = certificate(home)
    behind = subprocess.Popen(backends(home), stdin=subprocess.DEVNULL)
    rows, proxies = [], []
    each, per_gib = (lambda cost: f"{cost:.1f} µs of processor each"), (lambda cost: f"{cost:.2f} s of processor per GiB")
    try:
        wait_for(("127.0.0.1", BACKENDS[0]), behind, period=0.02)
        for start in (lambda: nginx_proxy(home, 18100, pem, key), lambda: haproxy(home, 18200, both), lambda: ours(home, 18300, pem, key)):
            proxies.append(start())
        for kind, secured in ((PLAIN, ""), (TLS, ", TLS")):
            for keep, kept in ((True, "kept connections"), (False, "a new connection each")):
                found = in_turn(ROUNDS, proxies, lambda proxy: closed_loop(proxy, kind, keep))
                what = f"requests through a balancer, {kept}{secured}"
                rows += compared(what, found, lambda rate: f"{rate:,.0f}/s", each)
            found = in_turn(LATENCY_ROUNDS, proxies, lambda proxy: fixed_load(proxy, kind, home))
            what = f"p99 at {FIXED_RATE:,}/s, kept connections{secured}"
            rows += compared(what, found, lambda worst: f"{worst:.2f} ms", each, more_is_better=False)
            found = in_turn(LATENCY_ROUNDS, proxies, lambda proxy: fixed_load_new(proxy, kind))
            what = f"p99 at {FIXED_RATE_NEW:,}/s, a new connection each{secured}"
            rows += compared(what, found, lambda worst: f"{worst:.2f} ms", each, more_is_better=False)
        found = in_turn(STREAM_ROUNDS, proxies[1:], throughput)
        rows += compared("one stream through a TCP balancer", found, lambda rate: f"{rate:,.0f} MiB/s", per_gib)
    finally:
        for proxy in proxies:
            proxy.stop()
        behind.terminate()
        behind.wait()
        shutil.rmtree(home / "www", ignore_errors=True)
    return rows, []
