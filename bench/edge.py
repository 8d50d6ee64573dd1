"""The load balancers' data plane beside nginx and HAProxy, in front of the same two backends.

All of them have two worker threads, log nothing and keep connections to the backends. Requests per second are taken at
64 connections; latency at a fixed load that all of them can carry; processor time is what the proxy's own processes
used, divided by the requests it answered.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
import uuid

from ours import ROOT, wait_for
from table import Row, p99

EXAMPLE = ROOT / "target/release/examples/alb"
CONNECTIONS = 64
SECONDS = 4
FIXED_RATE = 2000
BACKENDS = [18081, 18082]
PLAIN, TLS, TCP = 0, 1, 2
PAGE_BYTES = 1024
FILE_MB = 512
TICKS = os.sysconf("SC_CLK_TCK")


def processor_seconds(pid):
    """Of a process and its children, those that ended and those that run."""
    total = 0.0
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(entry.name) == pid or int(fields[1]) == pid:
            total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


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
        file.truncate(FILE_MB << 20)
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
        "global\n  nbthread 2\n  maxconn 16384\ndefaults\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
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


def closed_loop(proxy, kind, keep):
    """Requests per second, and processor microseconds of the proxy for each."""
    scheme = "https" if kind == TLS else "http"
    command = ["wrk", "-t2", f"-c{CONNECTIONS}", f"-d{SECONDS}s"] + ([] if keep else ["-H", "Connection: close"])
    before = processor_seconds(proxy.process.pid)
    said = subprocess.run(
        command + [f"{scheme}://127.0.0.1:{proxy.ports[kind]}/page"], check=True, capture_output=True, text=True
    ).stdout
    used = processor_seconds(proxy.process.pid) - before
    if "Non-2xx" in said:
        raise RuntimeError(f"{proxy.name}: {said}")
    count = int(re.search(r"(\d+) requests in", said)[1])
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), used / max(count, 1) * 1e6


def fixed_load(proxy, kind, home):
    """Milliseconds of each answer at FIXED_RATE, whatever the proxy could do."""
    scheme = "https" if kind == TLS else "http"
    log = home / f"h2load-{uuid.uuid4().hex}"
    clients = 20
    subprocess.run(
        ["h2load", "--h1", "-t1", f"-c{clients}", f"--rps={FIXED_RATE // clients}", f"-D{SECONDS}", f"--log-file={log}",
         f"{scheme}://127.0.0.1:{proxy.ports[kind]}/page"],
        check=True, capture_output=True,
    )
    return [int(line.split("\t")[2]) / 1000 for line in log.read_text().splitlines()]


def throughput(proxy):
    url = f"http://127.0.0.1:{proxy.ports[TCP]}/file"
    before, began = processor_seconds(proxy.process.pid), time.perf_counter()
    subprocess.run(["curl", "-sf", "-o", "/dev/null", url], check=True)
    took = time.perf_counter() - began
    return FILE_MB / took, (processor_seconds(proxy.process.pid) - before) / (FILE_MB / 1024)


def against(mine, others, more_is_better=True):
    best = max(others.values()) if more_is_better else min(others.values())
    goal = "goal: at least 0.8×" if more_is_better else ""
    return f"ours is {mine / best:.2f}× the better" + (f" ({goal})" if goal else "")


def balancer(tasks, home):
    if not EXAMPLE.exists():
        raise RuntimeError(f"{EXAMPLE} is missing: cargo build --release -p ferrogate-edge --example alb")
    pem, key, both = certificate(home)
    behind = subprocess.Popen(backends(home), stdin=subprocess.DEVNULL)
    rows, proxies = [], []
    try:
        wait_for(("127.0.0.1", BACKENDS[0]), behind, period=0.02)
        proxies = [nginx_proxy(home, 18100, pem, key), haproxy(home, 18200, both), ours(home, 18300, pem, key)]
        for kind, secured in ((PLAIN, ""), (TLS, ", TLS")):
            for keep, kept in ((True, "kept connections"), (False, "a new connection each")):
                what = f"requests through a balancer, {kept}{secured}"
                found = {proxy.name: closed_loop(proxy, kind, keep) for proxy in proxies}
                rates = {name: rate for name, (rate, _) in found.items()}
                mine = rates.pop("Ferrogate")
                for name, (rate, cost) in found.items():
                    ratio = against(mine, rates) if name == "Ferrogate" else ""
                    rows.append(Row(what, name, f"{rate:,.0f}/s", f"{cost:.0f} µs of processor each", ratio))
            found = {proxy.name: p99(fixed_load(proxy, kind, home)) for proxy in proxies}
            peers = {name: value for name, value in found.items() if name != "Ferrogate"}
            for name, value in found.items():
                ratio = against(value, peers, False) if name == "Ferrogate" else ""
                rows.append(Row(f"p99 at {FIXED_RATE:,}/s, kept connections{secured}", name, "", f"{value:.2f} ms", ratio))
        found = {proxy.name: throughput(proxy) for proxy in proxies if proxy.name != "nginx"}
        peers = {"HAProxy": found["HAProxy"][0]}
        for name, (rate, cost) in found.items():
            ratio = against(rate, peers) if name == "Ferrogate" else ""
            rows.append(Row("one stream through a TCP balancer", name, f"{rate:,.0f} MiB/s", f"{cost:.2f} s of processor per GiB", ratio))
    finally:
        for proxy in proxies:
            proxy.stop()
        behind.terminate()
        behind.wait()
        shutil.rmtree(home / "www", ignore_errors=True)
    return rows, []
