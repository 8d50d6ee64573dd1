"""Asks each `tcp:address:port` or `udp:address:port` as whom it sees us, and says whether it sees this socket.

Prints for each: the address seen, and `same port` or `other port`; or `none`, when nobody answers. For
`much:address:port`: how many bytes came."""

import socket
import sys


def ask(kind, address, port, patience):
    stream = kind != "udp"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as asking:
        asking.settimeout(patience)
        asking.connect((address, port))
        if kind == "much":
            asking.send(b"much")
            return str(sum(len(part) for part in iter(lambda: asking.recv(65536), b"")))
        asking.send(b"who")
        seen, seen_port = asking.recv(100).decode().split()
        own = str(asking.getsockname()[1])
        return seen + (" same port" if seen_port == own else " other port")


patience = float(sys.argv[1])
for wanted in sys.argv[2:]:
    kind, address, port = wanted.split(":")
    # A datagram may be lost while a way is made.
    for attempt in range(3 if kind == "udp" else 1):
        try:
            said = ask(kind, address, int(port), patience)
            break
        except OSError:
            said = "none"
    print(said, flush=True)
