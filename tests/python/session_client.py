"""A client of Session Manager's protocol, from its public description: nothing of Ferrogate's is in it.

session_client.py URL TOKEN STEPS: STEPS is a JSON list of {"send": text}, {"size": [columns, rows]},
{"expect": text}, {"flag": number}, {"deaf": count} (that many output messages are not acknowledged,
so they must come again), {"break": true} (the connection is cut, and what it still brings is lost), {"resume": true}
(by ssm:ResumeSession, as the plugin does it), {"vanish": true}. Without
"vanish" it then waits for the session's end.
session_client.py resumes as SESSION, if there is a fourth argument.
Prints {"output": base64, "closed": text or null, "refused": text or null, "messages": count}.
"""

import base64
import hashlib
import json
import os
import socket
import struct
import sys
import time
import uuid
from urllib.parse import urlsplit


class WebSocket:
    """RFC 6455, the client's side."""

    def __init__(self, url):
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=60)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.file = self.socket.makefile("rb")
        status = self.file.readline().decode()
        headers = {}
        while (line := self.file.readline().decode().strip()):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        assert status.split()[1] == "101", status
        accept = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        assert headers["sec-websocket-accept"] == base64.b64encode(accept).decode(), headers

    def send(self, opcode, data):
        mask = os.urandom(4)
        size = len(data)
        length = bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + struct.pack(">H", size)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        self.socket.sendall(bytes([0x80 | opcode]) + length + mask + masked)

    def receive(self):
        """(opcode, data); None at the end of the connection."""
        head = self.file.read(2)
        if len(head) < 2:
            return None
        size = head[1] & 0x7F
        if size == 126:
            size = struct.unpack(">H", self.file.read(2))[0]
        elif size == 127:
            size = struct.unpack(">Q", self.file.read(8))[0]
        return head[0] & 0x0F, self.file.read(size)


HEADER = struct.Struct(">I32sIQqQ16s32sII")


class Session:
    def __init__(self, url, token):
        self.socket = WebSocket(url)
        self.sequence = 0
        self.expected = 0
        self.output = b""
        self.closed = self.refused = None
        self.complete = self.ended = False
        self.deaf = self.messages = 0
        self.sent = []
        self.open(token)

    def open(self, token):
        opening = {
            "MessageSchemaVersion": "1.0",
            "RequestId": str(uuid.uuid4()),
            "TokenValue": token,
            "ClientId": str(uuid.uuid4()),
            "ClientVersion": "1.2.707.0",
        }
        self.socket.send(1, json.dumps(opening).encode())

    def message(self, kind, sequence, flags, payload_type, payload):
        identifier = uuid.uuid4().bytes
        digest = hashlib.sha256(payload).digest()
        head = HEADER.pack(
            116, kind.encode().ljust(32), 1, int(time.time() * 1000), sequence, flags,
            identifier[8:] + identifier[:8], digest, payload_type, len(payload),
        )
        self.socket.send(2, head + payload)

    def stream(self, payload_type, payload):
        self.sent.append((self.sequence, payload_type, payload))
        self.put(*self.sent[-1])
        self.sequence += 1

    def put(self, sequence, payload_type, payload):
        if self.socket:
            self.message("input_stream_data", sequence, 1 if sequence == 0 else 0, payload_type, payload)

    def cut(self):
        """Without a goodbye, as when a network goes."""
        linger = struct.pack("ii", 1, 0)
        self.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.file.close()
        self.socket.socket.close()
        self.socket = None

    def resume(self, url, token):
        self.socket = WebSocket(url)
        self.open(token)
        # What came twice is acknowledged and dropped.
        for sent in self.sent:
            self.put(*sent)

    def step(self):
        frame = self.socket.receive()
        if frame is None:
            self.ended = True
            return
        opcode, data = frame
        if opcode == 8:
            self.ended = True
            self.refused = data[2:].decode() or None
        elif opcode == 9:
            self.socket.send(10, data)
        elif opcode == 2:
            self.take(data)

    def take(self, data):
        size, kind, version, _, sequence, _, identifier, digest, payload_type, length = HEADER.unpack(data[:120])
        payload = data[120:]
        assert (size, version, length) == (116, 1, len(payload)), data[:120]
        assert hashlib.sha256(payload).digest() == digest
        kind = kind.decode().strip()
        if kind == "channel_closed":
            self.closed = json.loads(payload)["Output"]
            self.ended = True
        elif kind == "output_stream_data":
            if payload_type == 1 and self.deaf > 0:
                self.deaf -= 1
                return
            name = str(uuid.UUID(bytes=identifier[8:] + identifier[:8]))
            body = {
                "AcknowledgedMessageType": kind,
                "AcknowledgedMessageId": name,
                "AcknowledgedMessageSequenceNumber": sequence,
                "IsSequentialMessage": True,
            }
            if sequence > self.expected:
                return  # It comes again: this client keeps nothing for later.
            self.message("acknowledge", 0, 3, 0, json.dumps(body).encode())
            if sequence == self.expected:
                self.expected += 1
                self.messages += 1
                self.handle(payload_type, payload)
        elif kind != "acknowledge":
            raise ValueError(kind)

    def handle(self, payload_type, payload):
        if payload_type == 5:
            actions = json.loads(payload)["RequestedClientActions"]
            assert [action["ActionType"] for action in actions] == ["SessionType"], actions
            assert actions[0]["ActionParameters"]["SessionType"] == "InteractiveCommands", actions
            done = [{"ActionType": "SessionType", "ActionStatus": 1, "ActionResult": None, "Error": ""}]
            answer = {"ClientVersion": "1.2.707.0", "ProcessedClientActions": done, "Errors": None}
            self.stream(6, json.dumps(answer).encode())
        elif payload_type == 7:
            self.complete = True
        elif payload_type == 1:
            self.output += payload
        else:
            raise ValueError(payload_type)

    def until(self, is_so):
        while not self.ended and not is_so():
            self.step()


def main():
    url, token, steps, *name = sys.argv[1:]
    session = Session(url, token)
    session.until(lambda: session.complete)
    for step in json.loads(steps):
        if session.ended:
            break
        (what, value), = step.items()
        if what == "send":
            for at in range(0, len(value), 1024):
                session.stream(1, value[at : at + 1024].encode())
        elif what == "size":
            session.stream(3, json.dumps({"cols": value[0], "rows": value[1]}).encode())
        elif what == "expect":
            session.until(lambda: value.encode() in session.output)
        elif what == "flag":
            session.stream(10, struct.pack(">I", value))
        elif what == "deaf":
            session.deaf = value
        elif what == "break":
            session.cut()
        elif what == "resume":
            import boto3

            given = boto3.client("ssm").resume_session(SessionId=name[0])
            assert given["SessionId"] == name[0] and given["TokenValue"] != token, given
            session.resume(given["StreamUrl"], given["TokenValue"])
        elif what == "vanish":
            session.ended = True
        else:
            raise ValueError(what)
    session.until(lambda: False)
    said = {
        "output": base64.b64encode(session.output).decode(),
        "closed": session.closed,
        "refused": session.refused,
        "messages": session.messages,
    }
    print(json.dumps(said))


main()
