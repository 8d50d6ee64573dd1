"""RunTask at a steady rate, and how long each call takes while the tasks it made are started and end."""

import concurrent.futures
import time

from table import Row, median, ms, p99

RATE = 20
SECONDS = 20
PARALLEL = 64


def run_task(tasks, home):
    """An open loop: a call is due when it is due, however long the ones before it take; what it waits counts."""
    tasks.define("brief", ["true"])
    arns, _, _ = tasks.run("brief")
    tasks.wait(arns, "STOPPED")
    begin = time.perf_counter() + 0.2

    def call(number):
        due = begin + number / RATE
        time.sleep(max(0.0, due - time.perf_counter()))
        arns, _, _ = tasks.run("brief")
        return arns[0], (time.perf_counter() - due) * 1000

    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        calls = list(pool.map(call, range(RATE * SECONDS)))
    accepted = time.perf_counter()
    tasks.wait([arn for arn, _ in calls], "STOPPED", period=0.2)
    behind = time.perf_counter() - accepted
    took = [took for _, took in calls]
    what = f"RunTask at {RATE}/s for {SECONDS} s, each task started and ended"
    return [
        Row(what, "Ferrogate, boto3's own time included", ms(median(took)), f"p99 {ms(p99(took))}"),
        Row("… until the last of them is STOPPED", "Ferrogate", ms(behind * 1000)),
    ], []
