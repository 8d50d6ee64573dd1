"""Ferrogate and its peers side by side: see bench/README.md. Started by scripts/bench in namespaces of its own."""

import datetime
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

import api
import dns
import edge
import load
import machines
import memory
import pull
import services
import starts
from ours import ROOT, Ferrogate, Registry, Tasks
from peers import Podman
from table import markdown

PARTS = {
    "start": lambda tasks, home: starts.one_by_one(tasks, home),
    "many": lambda tasks, home: starts.many_at_once(tasks, home),
    "pull": lambda tasks, home: pull.large_image(tasks, home),
    "load": lambda tasks, home: load.run_task(tasks, home),
    "memory": lambda tasks, home: memory.idle_tasks(tasks, home),
    "api": lambda tasks, home: api.describe_tasks(tasks, home),
    "services": lambda tasks, home: services.scale(tasks, home),
    "edge": lambda tasks, home: edge.balancer(tasks, home),
    "dns": lambda tasks, home: dns.resolver(tasks, home),
    "machines": lambda tasks, home: machines.one_kernel_per_task(tasks, home),
    "up": lambda tasks, home: memory.up(tasks.ferrogate),
}


def version(*command):
    said = subprocess.run(command, capture_output=True, text=True)
    return said.stdout.strip().splitlines()[0] if said.returncode == 0 else "?"


def main():
    parts = sys.argv[1:] or list(PARTS)
    unknown = set(parts) - set(PARTS)
    if unknown:
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    home = pathlib.Path(tempfile.mkdtemp(prefix="ferrogate-bench-"))
    os.chdir(home)
    rows, notes = [], []
    registry, ferrogate = Registry(home), Ferrogate(home)
    whole = False
    try:
        ferrogate.up()
        tasks = Tasks(ferrogate)
        for part in parts:
            print(f"measuring: {part}", file=sys.stderr, flush=True)
            more, told = PARTS[part](tasks, home)
            rows += more
            notes += told
        whole = True
    finally:
        ferrogate.down()
        registry.stop()
        Podman.tidy(home)
        if whole:
            shutil.rmtree(home, ignore_errors=True)
        else:
            print(f"kept: {home}", file=sys.stderr)
    now = datetime.datetime.now(datetime.timezone.utc)
    commit = version("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    head = (
        f"# {now:%Y-%m-%d %H:%M} UTC\n\n{os.cpu_count()} CPUs, Linux {platform.release()}, Ferrogate at {commit}; "
        f"{version('podman', '--version')}, {version('crun', '--version')}. "
        "All in one run; compare ratios, not milliseconds.\n"
    )
    text = "\n".join([head, markdown(rows), *[f"\n- {note}" for note in dict.fromkeys(notes)]]) + "\n"
    results = ROOT / "bench/results"
    results.mkdir(exist_ok=True)
    path = results / f"{now:%Y-%m-%d-%H%M}.md"
    path.write_text(text)
    print(text)
    print(f"written to {path.relative_to(ROOT)}")


main()
