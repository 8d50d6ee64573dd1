"""From a start that is asked for to the container's first output."""

import concurrent.futures
import time

from peers import Crun, Podman, time_said
from table import Row, median, ms, p95, per_second

# busybox: the time of day in microseconds.
COMMAND = ["sh", "-c", "echo | ts %.s"]
SAMPLES = 30
MANY = 100
PARALLEL = 16
CALL_TASKS_MAX = 10


def one_by_one(tasks, home):
    """Turn by turn, so that whatever the machine does meets all of them."""
    tasks.define("say", COMMAND)
    crun = Crun(home, COMMAND)
    podmans = []
    notes = []
    for network in ("bridge", "none"):
        podman = Podman(home, network, COMMAND)
        why_not = podman.works()
        if why_not is None:
            podmans.append(podman)
        else:
            notes.append(f"{podman.name} does not work here: {why_not}")
    peers = [*podmans, crun]
    accepted_ms, sent_ms, pulled = [], [], {peer.name: [] for peer in peers}
    for sample in range(SAMPLES + 1):
        arns, sent, accepted = tasks.run("say")
        tasks.wait(arns, "STOPPED")
        at = time_said(tasks.ferrogate.output(arns[0]))
        # The first of each warms what is cached.
        if sample:
            accepted_ms.append((at - accepted) / 1e6)
            sent_ms.append((at - sent) / 1e6)
        for peer in peers:
            asked, said = peer.run()
            if sample and said.strip():
                pulled[peer.name].append((time_said(said) - asked) / 1e6)
    rows = [
        Row("first output, RunTask accepted →", "Ferrogate", ms(median(accepted_ms)), ms(p95(accepted_ms))),
        Row("first output, RunTask sent →", "Ferrogate", ms(median(sent_ms)), ms(p95(sent_ms))),
    ]
    for peer in peers:
        took = pulled[peer.name]
        goal = "2×" if isinstance(peer, Crun) else "1×"
        ratio = f"ours is {median(accepted_ms) / median(took):.2f}× (goal: under {goal})"
        rows.append(Row("first output, command started →", peer.name, ms(median(took)), ms(p95(took)), ratio))
    return rows, notes


def many_at_once(tasks, home):
    tasks.define("say", COMMAND)
    arns, _, _ = tasks.run("say")
    tasks.wait(arns, "STOPPED")
    began = time.time_ns()
    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        calls = [pool.submit(tasks.run, "say", CALL_TASKS_MAX) for _ in range(MANY // CALL_TASKS_MAX)]
        arns = [arn for call in calls for arn in call.result()[0]]
    tasks.wait(arns, "STOPPED", period=0.1)
    ours = MANY / ((max(time_said(tasks.ferrogate.output(arn)) for arn in arns) - began) / 1e9)
    rows = [Row(f"{MANY} tasks at once, until the last's first output", "Ferrogate", per_second(ours))]
    notes = []
    for peer in (Podman(home, "bridge", COMMAND), Podman(home, "none", COMMAND), Crun(home, COMMAND)):
        if isinstance(peer, Podman) and peer.works() is not None:
            continue
        began = time.time_ns()
        with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
            said = [said for _, said in pool.map(lambda _, peer=peer: peer.run(), range(MANY))]
        mute = sum(not text.strip() for text in said)
        if mute:
            notes.append(f"{mute} of {MANY} runs of `{peer.name}` ended well and gave no output")
        last = max(time_said(text) for text in said if text.strip())
        theirs = MANY / ((last - began) / 1e9)
        goal = " (goal: at least 3×)" if isinstance(peer, Podman) else ""
        rows.append(
            Row(f"{MANY} containers, {PARALLEL} at a time", peer.name, per_second(theirs), "", f"ours is {ours / theirs:.2f}×{goal}")
        )
    return rows, notes
