"""A person at a terminal: pty_exec.py STEPS PROGRAM ARGUMENTS…

The program runs as the leader of a session with a terminal of 101 columns and 33 rows. STEPS is a JSON list of
{"expect": text} (waits until it was shown), {"type": text}, {"size": [columns, rows]}, {"signal": number} (to the
program), {"create": path} (a file, for who waits to know that this step has come).
Prints {"shown": text, "code": exit code (negative: by that signal), "raw": whether the terminal was raw meanwhile,
"restored": whether it is as it was before}.
"""

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

DEADLINE = time.monotonic() + 80


def resize(terminal, columns, rows):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def main():
    steps, argv = json.loads(sys.argv[1]), sys.argv[2:]
    master, slave = pty.openpty()
    resize(slave, 101, 33)
    before = termios.tcgetattr(slave)

    def lead():
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    child = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, preexec_fn=lead)
    shown, raw, seen = b"", False, 0

    def read(patience):
        nonlocal shown, raw
        ready, _, _ = select.select([master], [], [], patience)
        if ready:
            shown += os.read(master, 65536)
        if child.poll() is None:
            raw = raw or not termios.tcgetattr(slave)[3] & termios.ECHO

    for step in steps:
        (what, value), = step.items()
        if what == "expect":
            wanted = value.encode()
            while (found := shown.find(wanted, seen)) < 0:
                assert time.monotonic() < DEADLINE and child.poll() is None, (value, shown)
                read(0.1)
            seen = found + len(wanted)
        elif what == "type":
            os.write(master, value.encode())
        elif what == "size":
            resize(master, *value)
        elif what == "signal":
            child.send_signal(value)
        elif what == "create":
            open(value, "w").close()
        else:
            raise ValueError(what)
    # It is read on, for who writes to a terminal that nobody reads waits.
    while child.poll() is None:
        assert time.monotonic() < DEADLINE, shown
        read(0.1)
    while select.select([master], [], [], 0)[0]:
        shown += os.read(master, 65536)
    said = {
        "shown": shown.decode(errors="replace"),
        "code": child.returncode,
        "raw": raw,
        "restored": termios.tcgetattr(slave) == before,
    }
    print(json.dumps(said))


main()
