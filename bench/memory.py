"""Proportional set size of what is ours."""

import pathlib

from peers import Podman
from table import Row, median, mb, ms

IDLE_TASKS = 50
UPS = 10


def sizes(pid):
    """PSS and RSS in bytes."""
    fields = {}
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) * 1024
    return fields["Pss"], fields["Rss"]


def idle_tasks(tasks, home):
    ferrogate = tasks.ferrogate
    tasks.define("idle", ["sleep", "3600"])
    before, _ = sizes(ferrogate.process.pid)
    arns = [arn for _ in range(IDLE_TASKS // 10) for arn in tasks.run("idle", 10)[0]]
    tasks.wait(arns, "RUNNING")
    program = sizes(ferrogate.process.pid)[0] - before
    shims = [sizes(pid)[0] for pid in ferrogate.shims()]
    tasks.stop(arns)
    ours = (program + sum(shims)) / IDLE_TASKS
    rows = [
        Row(f"memory of an idle task (PSS, {IDLE_TASKS} tasks)", "Ferrogate: shim and its share of `up`", mb(ours), "", "goal: under 4 MB"),
        Row("… of it the shim", "Ferrogate", mb(sum(shims) / max(len(shims), 1))),
    ]
    podman = Podman(home, "none", ["true"])
    try:
        conmons = [sizes(pid)[0] for pid in podman.run_idle(IDLE_TASKS // 5)]
        theirs = sum(conmons) / len(conmons)
        rows.append(Row("memory of an idle container (PSS)", "podman: conmon", mb(theirs), "", f"ours is {ours / theirs:.1f}×"))
    finally:
        podman.remove_all()
    return rows, []


def up(ferrogate):
    """From an existing data folder, again and again."""
    took, pss, rss = [], [], []
    for _ in range(UPS):
        ferrogate.leave()
        took.append(ferrogate.up() * 1000)
        of = sizes(ferrogate.process.pid)
        pss.append(of[0])
        rss.append(of[1])
    return [
        Row("`ferrogate up` answers, existing data folder", "Ferrogate", ms(median(took)), ms(max(took)), "goal: under 500 ms"),
        Row("`ferrogate up` idle, RSS", "Ferrogate", mb(median(rss)), "", "goal: under 60 MB"),
        Row("`ferrogate up` idle, PSS", "Ferrogate", mb(median(pss))),
    ], []
