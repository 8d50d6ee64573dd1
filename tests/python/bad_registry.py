"""A registry that does not do as it should: `bad_registry.py PORT UPSTREAM`.

The first part of a repository's name says what is wrong with it; the rest is a repository of UPSTREAM, a good registry:

    hang/busybox      takes requests for blobs and answers nothing
    truncate/busybox  ends each blob in the middle
    once/busybox      ends each blob in the middle the first time, and then honours Range
    lie/busybox       gives other bytes than the digest says, of the right length
    flaky/busybox     503 for the first two requests of everything
    garbage/busybox   manifests that are no JSON
    huge/busybox      a manifest whose layer claims to be a terabyte
    denied/busybox    401 without a way to get in
"""

import collections
import hashlib
import http.server
import json
import sys
import threading
import urllib.error
import urllib.request

PORT, UPSTREAM = int(sys.argv[1]), sys.argv[2]
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
seen = collections.Counter()
changed = {}


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def log_message(self, *_):
        pass

    def fetch(self, repository, kind, name):
        request = urllib.request.Request(f"http://{UPSTREAM}/v2/{repository}/{kind}/{name}")
        for header in self.headers.get_all("Accept") or []:
            request.add_header("Accept", header)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.headers, answer.read()

    def send(self, status, headers, body, with_body, cut=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True

    def answer(self, with_body):
        parts = self.path.strip("/").split("/")
        if parts == ["v2"]:
            return self.send(200, {}, b"{}", with_body)
        wrong, repository, kind, name = parts[1], "library/" + parts[-3], parts[-2], parts[-1]
        key = (self.path, with_body)
        seen[key] += 1
        is_blob = kind == "blobs"
        if wrong == "denied":
            return self.send(401, {}, b'{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}', with_body)
        if wrong == "flaky" and seen[key] <= 2:
            return self.send(503, {}, b"busy", with_body)
        if wrong == "hang" and is_blob:
            threading.Event().wait(300)
            return None
        if wrong == "garbage" and not is_blob:
            return self.send(200, {"Content-Type": MANIFEST}, b"<html>welcome</html>", with_body)
        if name in changed:
            return self.send(200, {"Content-Type": MANIFEST}, changed[name], with_body)
        try:
            upstream, body = self.fetch(repository, kind, name)
        except urllib.error.HTTPError as error:
            return self.send(error.code, {}, error.read(), with_body)
        headers = {"Content-Type": upstream["Content-Type"]}
        if not is_blob:
            if wrong == "huge":
                manifest = json.loads(body)
                for layer in manifest.get("layers", []):
                    layer["size"] = 1 << 40
                body = json.dumps(manifest).encode()
                changed["sha256:" + hashlib.sha256(body).hexdigest()] = body
                return self.send(200, headers, body, with_body)
            headers["Docker-Content-Digest"] = upstream["Docker-Content-Digest"]
            return self.send(200, headers, body, with_body)
        if wrong == "lie":
            return self.send(200, headers, bytes(len(body)), with_body)
        if wrong == "truncate":
            return self.send(200, headers, body, with_body, len(body) // 2)
        if wrong == "once":
            start = self.headers.get("Range")
            if start:
                first = int(start.removeprefix("bytes=").split("-")[0])
                headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
                return self.send(206, headers, body[first:], with_body)
            return self.send(200, headers, body, with_body, len(body) // 2 if seen[key] == 1 else None)
        return self.send(200, headers, body, with_body)


server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Registry)
server.daemon_threads = True
print("ready", flush=True)
server.serve_forever()
