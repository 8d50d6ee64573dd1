"""Constant load: `load.py [--close] URL...` asks them in turn from several threads until its input ends.

Half of the threads (none with --close) keep their connections, the others make a new one for each request. Each line of input, also `end`,
after which nothing new is asked and what is asked is awaited, is answered by a line of JSON: `requests` and `failed` of all the time, the first `failures`, `slowest_ms`, and `answers`: how often each
body came since the line before.
"""

import collections
import http.client
import itertools
import json
import socket
import sys
import threading
import time
import urllib.parse

THREADS = 8
# Between two requests of a thread.
PAUSE_SECONDS = 0.02
# No answer within this time is a failure.
PATIENCE_SECONDS = 15
FAILURES_SHOWN_MAX = 20


class Seen:
    def __init__(self):
        self.lock = threading.Lock()
        self.began = time.monotonic()
        self.requests = self.failed = 0
        self.slowest = 0.0
        self.failures = []
        self.answers = collections.Counter()

    def answered(self, body, seconds):
        with self.lock:
            self.requests += 1
            self.slowest = max(self.slowest, seconds)
            self.answers[body] += 1

    def failure(self, url, what, kept):
        with self.lock:
            self.requests += 1
            self.failed += 1
            if len(self.failures) < FAILURES_SHOWN_MAX:
                at = round(time.monotonic() - self.began, 3)
                clock = time.strftime("%H:%M:%S", time.gmtime())
                self.failures.append(
                    {"at_seconds": at, "clock": clock, "url": url, "what": what, "kept_connection": kept}
                )

    def told(self):
        with self.lock:
            said = {
                "seconds": round(time.monotonic() - self.began, 3),
                "requests": self.requests,
                "failed": self.failed,
                "failures": self.failures,
                "slowest_ms": round(self.slowest * 1000),
                "answers": dict(self.answers),
            }
            self.answers.clear()
            return said


def run(seen, urls, keeps):
    kept = {}
    for url in urls:
        if ending.is_set():
            return
        parts = urllib.parse.urlsplit(url)
        connection = kept.pop(parts.netloc, None)
        was_kept = connection is not None
        began = time.monotonic()
        try:
            if connection is None:
                connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE_SECONDS)
                connection.connect()
                connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            target = parts.path + ("?" + parts.query if parts.query else "")
            connection.request("GET", target, headers={} if keeps else {"Connection": "close"})
            answer = connection.getresponse()
            body = answer.read().decode("utf-8", "replace").strip()
            if answer.status // 100 == 2:
                seen.answered(body, time.monotonic() - began)
            else:
                seen.failure(url, f"{answer.status} {body[:200]}", was_kept)
            if keeps and not answer.will_close:
                kept[parts.netloc] = connection
            else:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            seen.failure(url, f"{type(error).__name__}: {error}", was_kept)
            if connection is not None:
                connection.close()
        time.sleep(PAUSE_SECONDS)


seen = Seen()
ending = threading.Event()
threads = []
closes = sys.argv[1] == "--close"
asked = sys.argv[2:] if closes else sys.argv[1:]
for index in range(THREADS):
    # Not all the same one first.
    urls = asked[index % len(asked) :] + asked[: index % len(asked)]
    arguments = (seen, itertools.cycle(urls), index % 2 == 0 and not closes)
    threads.append(threading.Thread(target=run, args=arguments, daemon=True))
    threads[-1].start()
for line in sys.stdin:
    if line.strip() == "end":
        ending.set()
        for thread in threads:
            thread.join()
    print(json.dumps(seen.told()), flush=True)
