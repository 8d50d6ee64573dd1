"""Every protocol against botocore: its serializers speak, its parsers listen, over real HTTP.

    roundtrip.py <echo server's URL> <service>[:<protocol>] …

For each operation random valid inputs go out and must come back as the server decoded them; random valid outputs and
errors are handed to the server, encoded there, and must be parsed back the same. Seeded: ROUNDTRIP_SEED. How many of
each: ROUNDTRIP_ROUNDS. The table of operations is api/operations.json; a service that is not in it takes part
with all its operations, its model stripped as `cargo xtask models` does and given to the server.
"""

import base64
import datetime
import http.client
import json
import math
import os
import random
import socket
import sys
import urllib.parse

import botocore.loaders
from botocore.awsrequest import create_request_object, prepare_request_dict
from botocore.endpoint import convert_to_response_dict
from botocore.httpsession import URLLib3Session
from botocore.model import ServiceModel
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

from roundtrip_values import HTTP_HEADERS, Generator, Unsatisfiable

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../..")
FAILURES_TOLD_MAX = 12

SHAPE_KEYS = (
    "type required member key value flattened enum min max pattern timestampFormat streaming sensitive document "
    "union eventstream exception error payload locationName xmlNamespace"
).split()
REF_KEYS = (
    "shape location locationName queryName flattened xmlAttribute xmlNamespace timestampFormat streaming jsonvalue "
    "idempotencyToken resultWrapper"
).split()
METADATA_KEYS = (
    "apiVersion endpointPrefix signingName protocol protocols jsonVersion targetPrefix xmlNamespace "
    "awsQueryCompatible serviceId"
).split()

SKIPPED = {
    # Streams of events the parser can not read back without the event's own traits, which our models do not carry.
    ("s3", "SelectObjectContent"),
    ("lambda", "InvokeWithResponseStream"),
    # The request is that of ListBuckets, but for the host.
    ("s3", "ListDirectoryBuckets"),
}


def pick(of, keys):
    return {key: of[key] for key in keys if key in of}


def strip(model):
    """As xtask/src/models.rs does, with all operations."""
    operations = {}
    for name, operation in model["operations"].items():
        # S3's are byte for byte those of the operations that took their places.
        if operation.get("deprecated"):
            continue
        kept = pick(operation, ["http", "authtype", "endpoint"])
        for side in ("input", "output"):
            if side in operation:
                kept[side] = pick(operation[side], REF_KEYS)
        if operation.get("errors"):
            kept["errors"] = [pick(error, ["shape"]) for error in operation["errors"]]
        operations[name] = kept
    shapes = {}
    for name, shape in model["shapes"].items():
        kept = pick(shape, SHAPE_KEYS)
        for side in ("member", "key", "value"):
            if side in shape:
                kept[side] = pick(shape[side], REF_KEYS)
        if "members" in shape:
            kept["members"] = [[member, pick(of, REF_KEYS)] for member, of in shape["members"].items()]
        shapes[name] = kept
    return {"metadata": pick(model["metadata"], METADATA_KEYS), "operations": operations, "shapes": shapes}


class Server:
    """The echo server: its control channel, and botocore's own HTTP session for the calls."""

    def __init__(self, url):
        self.url = url
        self.control = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)
        self.control.connect()
        # Head and body go out apart: without this each call waits 40 ms for an acknowledgement.
        no_delay = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.control.sock.setsockopt(*no_delay)
        self.session = URLLib3Session(timeout=60, socket_options=[no_delay])

    def ask(self, path, body):
        self.control.request("POST", "/__control/" + path, json.dumps(body))
        response = self.control.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {answer.decode()}")
        return json.loads(answer)

    def call(self, model, request, operation):
        # `stream-127.0.0.1` is no host.
        request.pop("host_prefix", None)
        prepare_request_dict(request, self.url)
        request["headers"]["x-roundtrip-signing"] = model.signing_name
        prepared = create_request_object(request).prepare()
        prepared.stream_output = operation.has_streaming_output or operation.has_event_stream_output
        response = self.session.send(prepared)
        return convert_to_response_dict(response, operation)


class Mismatch(Exception):
    pass


def same(expected, found, path):
    if expected != found:
        raise Mismatch(f"at {path or 'the top'}: expected {expected!r:.600}, found {found!r:.600}")


def canonical(shape, value):
    """A Python value as the server tells it."""
    kind = shape.type_name
    if kind == "structure":
        if shape.is_document_type:
            return value
        return {name: canonical(shape.members[name], item) for name, item in value.items()}
    if kind == "list":
        return [canonical(shape.member, item) for item in value]
    if kind == "map":
        return {key: canonical(shape.value, item) for key, item in value.items()}
    if kind == "blob":
        return base64.b64encode(value).decode()
    if kind == "timestamp":
        return value.timestamp()
    if kind in ("float", "double"):
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return float(value)
    return value


def told(shape, value):
    """What the server told, in the same form: timestamps and floats come as text and as numbers."""
    kind = shape.type_name
    if value is None:
        return None
    if kind == "structure":
        if shape.is_document_type:
            return value
        return {name: told(shape.members[name], item) for name, item in value.items()}
    if kind == "list":
        return [told(shape.member, item) for item in value]
    if kind == "map":
        return {key: told(shape.value, item) for key, item in value.items()}
    if kind == "timestamp":
        return datetime.datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
    if kind in ("float", "double") and not isinstance(value, str):
        return float(value)
    return value


def parsed(shape, value):
    """What botocore parsed, in the same form."""
    kind = shape.type_name
    if kind == "structure" and shape.is_document_type:
        return value
    if kind == "structure":
        return {
            name: parsed(shape.members[name], item) for name, item in value.items() if name != "ResponseMetadata"
        }
    if kind == "list":
        if shape.serialization.get("eventstream"):
            return [parsed(shape.member, item) for item in value]
        return [parsed(shape.member, item) for item in value]
    if kind == "map":
        return {key: parsed(shape.value, item) for key, item in value.items()}
    if kind == "blob":
        if hasattr(value, "read"):
            value = value.read()
        if isinstance(value, str):
            value = value.encode()
        return base64.b64encode(value).decode()
    if kind in ("float", "double") and isinstance(value, str):
        return value
    return canonical(shape, value)


class Round:
    def __init__(self, server, service, protocol, rounds, seed):
        loader = botocore.loaders.Loader()
        description = loader.load_service_model(service, "service-2")
        self.server, self.service, self.rounds, self.seed = server, service, rounds, seed
        self.model = ServiceModel(description, service)
        self.protocol = protocol or self.model.resolved_protocol
        self.serializer = create_serializer(self.protocol)
        self.parser = create_parser(self.protocol)
        with open(os.path.join(ROOT, "api/operations.json")) as table:
            self.operations = json.load(table).get(service)
        if self.operations is None:
            stripped = strip(description)
            self.operations = list(stripped["operations"])
            server.ask("model", {"service": service, "model": stripped})
        self.failures, self.exchanges, self.unsure = [], 0, 0

    def run(self):
        for name in self.operations:
            if (self.service, name) in SKIPPED:
                continue
            operation = self.model.operation_model(name)
            for number in range(self.rounds):
                self.guarded(operation, number, self.exchange)
            for number, error in enumerate(operation.error_shapes or [None]):
                self.guarded(operation, number, self.failed_exchange, error)

    def guarded(self, operation, number, step, *more):
        seed = f"{self.seed}:{self.service}:{self.protocol}:{operation.name}:{number}"
        try:
            step(operation, random.Random(seed), *more)
        except Unsatisfiable:
            return
        except Mismatch as mismatch:
            self.failures.append(f"{step.__name__} {seed}: {mismatch}")
        except Exception as error:  # noqa: BLE001: whatever botocore raises is a finding
            self.failures.append(f"{step.__name__} {seed}: {type(error).__name__}: {error!s:.1500}")

    def call(self, operation, generator, answer):
        """Sends a random input and checks what the server understood."""
        shape = operation.input_shape
        params = generator.input(shape) if shape else {}
        self.server.ask("next", {"service": self.service, "operation": operation.name, **answer})
        request = self.serializer.serialize_to_request(params, operation)
        response = self.server.call(self.model, request, operation)
        self.exchanges += 1
        last = self.server.ask("last", {})
        if "refused" in last:
            raise Mismatch(f"refused: {last['refused']}; sent {params!r:.1200}")
        same([self.service, operation.name], [last["service"], last["operation"]], "route")
        if shape:
            same(in_form(shape, canonical(shape, params)), in_form(shape, told(shape, last["input"])), "input")
        if generator.sure:
            same(None, last["invalid"], f"validation of {params!r:.900}")
        else:
            self.unsure += 1
        return response

    def exchange(self, operation, rng):
        generator = Generator(rng, self.protocol)
        shape = operation.output_shape
        output = generator.output(shape) if shape else {}
        expected = canonical_output(shape, output) if shape else {}
        response = self.call(operation, generator, {"output": expected})
        found = self.parser.parse(response, shape)
        stream = shape.event_stream_name if shape else None
        if stream:
            found[stream] = list(found[stream])
        # Over CBOR botocore looks for it only where there is an output.
        if shape or self.protocol != "smithy-rpc-v2-cbor":
            same("the-request", found["ResponseMetadata"].get("RequestId"), "request id")
        if shape:
            understood = parsed_output(shape, found)
            for name, member in shape.members.items():
                # Every body has a type, also where the output named none.
                if member.serialization.get("name", "").lower() == "content-type" and name not in expected:
                    understood.pop(name, None)
            same(in_form(shape, expected), in_form(shape, understood), "output")

    def failed_exchange(self, operation, rng, shape):
        generator = Generator(rng, self.protocol)
        members = generator.output(shape) if shape else {}
        message = generator.text(rng.randint(1, 30))
        for name in ("message", "Message"):
            members.pop(name, None)
        code = (shape.error_code if self.old_codes() else shape.name) if shape else "SomethingElse"
        members = canonical(shape, members) if shape else {}
        answer = {"error": {"code": code, "message": message, "members": members}}
        response = self.call(operation, generator, answer)
        status = shape.metadata.get("error", {}).get("httpStatusCode", 400) if shape else 400
        same(status, response["status_code"], "status")
        if operation.http["method"] == "HEAD":
            return
        found = self.parser.parse(response, operation.output_shape)
        same(code, found["Error"]["Code"], "code")
        same(message, found["Error"]["Message"], "message")
        same("the-request", found["ResponseMetadata"].get("RequestId"), "request id")
        if shape:
            fields = self.parser.parse(response, shape)
            fields = {name: item for name, item in fields.items() if name not in ("message", "Message")}
            same(members, parsed(shape, fields), "members of the error")

    def old_codes(self):
        return self.protocol == "query" or self.model.is_query_compatible


def canonical_output(shape, output):
    stream = shape.event_stream_name
    if not stream:
        return canonical(shape, output)
    rest = {name: item for name, item in output.items() if name != stream}
    events = [canonical(shape.members[stream], event) for event in output[stream]]
    return {**canonical(shape, rest), stream: events}


def parsed_output(shape, found):
    stream = shape.event_stream_name
    if not stream:
        return parsed(shape, found)
    rest = {name: item for name, item in found.items() if name != stream}
    return {**parsed(shape, rest), stream: [parsed(shape.members[stream], event) for event in found[stream]]}


def in_form(shape, value):
    """Header names have no case; what botocore always sets, or HTTP itself does, is left out."""
    value = dict(value)
    for name, member in shape.members.items():
        if member.serialization.get("location") == "headers":
            headers = {key.lower(): text for key, text in value.pop(name, {}).items()}
            if headers:
                value[name] = headers
        wire_name = member.serialization.get("name", "").lower()
        if member.serialization.get("location") == "statusCode" or wire_name in HTTP_HEADERS:
            value.pop(name, None)
    return value


def main():
    url, *services = sys.argv[1:]
    rounds, seed = int(os.environ.get("ROUNDTRIP_ROUNDS", "20")), os.environ.get("ROUNDTRIP_SEED", "1")
    failed = 0
    server = Server(url)
    for service in services:
        service, _, protocol = service.partition(":")
        round_ = Round(server, service, protocol, rounds, seed)
        round_.run()
        failures = round_.failures
        print(
            f"{service} over {round_.protocol}: {len(round_.operations)} operations, {round_.exchanges} exchanges, "
            f"{round_.unsure} with a value no pattern could be met for, {len(failures)} failed"
        )
        for failure in failures[:FAILURES_TOLD_MAX]:
            print("  " + failure)
        failed += len(failures)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
