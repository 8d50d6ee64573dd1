"""A part of the house, inside its container.

`serve`: answers over HTTP who it is, until SIGTERM, which ends it at once: who is still sent requests then fails them.
Its health check fails from the beginning with BROKEN=1, else as soon as somebody asks for …/break. With FLAPPING=1 it fails
in every other second, and what was answered is printed.
`call NAME`: looks the name up and asks every address it gets, again and again; a line of JSON for each time.
"""

import http.client
import http.server
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.parse

PORT = 8080
LOOK_PERIOD_SECONDS = 0.5
PATIENCE_SECONDS = 2
WHO = {
    "service": os.environ.get("SERVICE", ""),
    "revision": os.environ.get("REVISION", ""),
    "host": socket.gethostname(),
}
flapping = os.environ.get("FLAPPING") == "1"
broken = threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        time.sleep(int(urllib.parse.parse_qs(url.query).get("ms", ["0"])[0]) / 1000)
        status = 200
        if url.path == "/health":
            status = 503 if broken.is_set() or (flapping and int(time.time()) % 2) else 200
            if flapping:
                print(status, flush=True)
        elif url.path.endswith("/break"):
            broken.set()
        body = json.dumps(WHO).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256


def serve():
    if os.environ.get("BROKEN") == "1":
        broken.set()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    Server(("", PORT), Handler).serve_forever()


def ask(address):
    connection = http.client.HTTPConnection(address, PORT, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", "/called")
        return json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()


def call(name):
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        try:
            found = socket.getaddrinfo(name, PORT, socket.AF_INET, socket.SOCK_STREAM)
            addresses = sorted({address[4][0] for address in found})
            said = {"addresses": addresses, "answers": {address: ask(address) for address in addresses}}
        except OSError as error:
            said = {"addresses": [], "answers": {}, "error": str(error)}
        print(json.dumps(said), flush=True)
        time.sleep(LOOK_PERIOD_SECONDS)


if sys.argv[1] == "serve":
    serve()
else:
    call(sys.argv[2])
