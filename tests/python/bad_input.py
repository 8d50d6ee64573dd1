"""Malformed requests over real HTTP: each is answered with AWS's own error in its protocol's shape, or its connection
is closed; never with a failure of ours, and never taken for something it is not.

Host and port of the server come from boto3's configuration, keys too. Prints how many requests were sent.
"""

import gzip
import json
import re
import socket
import sys
import time
import xml.etree.ElementTree as ElementTree
from urllib.parse import urlsplit

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

SESSION = boto3.Session()
ENDPOINT = urlsplit(SESSION.client("ecs").meta.endpoint_url)
HOST = ENDPOINT.netloc
REGION = SESSION.region_name or "us-east-1"
KEYS = SESSION.get_credentials().get_frozen_credentials()
ECS, LOGS = "AmazonEC2ContainerServiceV20141113", "Logs_20140328"
JSON, FORM = "application/x-amz-json-1.1", "application/x-www-form-urlencoded; charset=utf-8"
# A machine that is not broken answers in a fraction; a server that hangs does not.
PATIENCE_SECONDS = 60
# As the server's limits say.
BODY_BYTES_MAX = 32 << 20
DEPTH = 10_000

sent, wrong = 0, []


class Answer:
    """What came back until the server had nothing more to say."""

    def __init__(self, raw):
        self.raw = raw
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        found = re.match(r"HTTP/1\.[01] (\d{3})", lines[0])
        self.status = int(found[1]) if found else None
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.answers = len(re.findall(rb"(?m)^HTTP/1\.[01] \d{3} ", raw))

    def code(self):
        """The error's code and the shape it came in."""
        kind = self.headers.get("content-type", "")
        if "json" in kind:
            told = json.loads(self.body)
            return told["__type"].split("#")[-1], "json"
        if "cbor" in kind:
            at = self.body.index(b"f__type") + 7
            head = self.body[at]
            length, at = (head - 0x60, at + 1) if head < 0x78 else (self.body[at + 1], at + 2)
            return self.body[at : at + length].decode().split("#")[-1], "cbor"
        if "xml" in kind:
            root = ElementTree.fromstring(self.body)
            name = re.sub(r"\{.*\}", "", root.tag)
            code = [element for element in root.iter() if element.tag.endswith("Code")][0].text
            return code, {"ErrorResponse": "query", "Response": "ec2"}.get(name, "xml")
        return None, kind


def exchange(data, hang_up=False):
    """Sends, and reads until the server closes; until one whole answer, where nobody said that it should close.

    `hang_up`: says that nothing more will come, which lets the server give up at once."""
    global sent
    sent += 1
    with socket.create_connection((ENDPOINT.hostname, ENDPOINT.port), timeout=PATIENCE_SECONDS) as stream:
        raw = b""
        try:
            stream.sendall(data)
            if hang_up:
                stream.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # Answered and closed before all was sent.
        try:
            while part := stream.recv(1 << 16):
                raw += part
                if b"Connection: close\r\n" not in data[:65536] and complete(raw):
                    break
        except ConnectionResetError:
            pass
        return Answer(raw)


def complete(raw):
    head, found, body = raw.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(found) and length is not None and len(body) >= int(length[1])


def signed(service, body, headers=None, method="POST", path="/"):
    """A request with a good signature over all of this."""
    headers = {"Host": HOST, **(headers or {})}
    request = AWSRequest(method, f"http://{HOST}{path}", headers=headers, data=body)
    request.context["payload_signing_enabled"] = True
    SigV4Auth(KEYS, service, REGION).add_auth(request)
    lines = [f"{method} {path} HTTP/1.1"] + [f"{name}: {value}" for name, value in request.headers.items()]
    lines += [f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def call(service, target, body, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    kind = {"Content-Type": JSON, "X-Amz-Target": target}
    return signed(service, body, {**kind, **named})


def ecs(operation, body, **headers):
    return call("ecs", f"{ECS}.{operation}", body, **headers)


def form(service, body, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return signed(service, body, {"Content-Type": FORM, **named})


def check(name, data, codes, shape, statuses=(400,)):
    answer = exchange(data)
    problem = None
    try:
        code, found = answer.code()
    except Exception as error:  # noqa: BLE001: whatever is wrong with the answer is the finding
        code, found, problem = None, None, f"the answer cannot be read: {error!r}"
    if answer.status not in statuses:
        problem = f"status {answer.status}, not one of {statuses}"
    elif found != shape:
        problem = f"the shape is {found}, not {shape}"
    elif code not in codes:
        problem = f"the code is {code}, not one of {codes}"
    elif answer.answers != 1:
        problem = f"{answer.answers} answers to one request"
    if problem:
        wrong.append(f"{name}: {problem}: {answer.raw[:700]!r}")


def served(name, data):
    """What is odd, and right."""
    answer = exchange(data)
    if answer.status != 200 or answer.answers != 1:
        wrong.append(f"{name}: should be served: {answer.raw[:700]!r}")


def closed(name, data, statuses=(None, 400)):
    """No request at all: refused by HTTP, or the connection ends."""
    answer = exchange(data, hang_up=True)
    if answer.status not in statuses or answer.answers > 1:
        wrong.append(f"{name}: status {answer.status}, not one of {statuses}; {answer.answers} answers: {answer.raw[:700]!r}")


DEFINITION = json.dumps({
    "family": "truncated", "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"], "cpu": "256",
    "memory": "512", "containerDefinitions": [{
        "name": "web", "image": "busybox", "essential": True, "memory": 64, "environment": [{"name": "A", "value": "é\n"}],
        "dockerLabels": {"a": None}, "healthCheck": {"command": ["CMD", "true"], "interval": 1e1},
    }],
}).encode()
MALFORMED = ("SerializationException",)


def json_bodies():
    register = "RegisterTaskDefinition"
    for length in range(1, len(DEFINITION)):
        check(f"JSON cut at {length}", ecs(register, DEFINITION[:length]), MALFORMED, "json")
    for name, body in {
        "not UTF-8": b'{"family":"\xff\xfe"}',
        "half a character": '{"family":"é"}'.encode()[:12] + b'"}',
        "Latin-1": '{"family":"é"}'.encode("latin-1"),
        "UTF-16": '{"family":"a"}'.encode("utf-16"),
        "a null character outside": b'{"family":"a"}\0',
        "a null character inside": b'{"fam\0ily":"a"}',
        "a byte order mark": b"\xef\xbb\xbf{}",
        "something behind it": b'{"family":"a"}x',
        "two documents": b"{}{}",
        "one quote too many": b'{"family":""a"}',
        "single quotes": b"{'family':'a'}",
        "a comma at the end": b'{"family":"a",}',
        "a comment": b'{"family":"a"/*b*/}',
        "NaN": b'{"containerDefinitions":[{"memory":NaN}]}',
        "a number with a leading zero": b'{"containerDefinitions":[{"memory":0064}]}',
        "1e400": b'{"containerDefinitions":[{"memory":1e400}]}',
        "a number of a thousand digits": b'{"containerDefinitions":[{"memory":' + b"9" * 1000 + b"}]}",
        "a number beyond 32 bits": b'{"containerDefinitions":[{"memory":4294967296}]}',
        "a fraction": b'{"containerDefinitions":[{"memory":1.5}]}',
        "half a surrogate": b'{"family":"\\ud800"}',
        "surrogates the wrong way round": b'{"family":"\\udc00\\ud800"}',
        "an escape there is none of": b'{"family":"\\x41"}',
        "a list for the whole": b"[]",
        "a text for the whole": b'"family"',
        "null for the whole": b"null",
        "a number for a text": b'{"family":7}',
        "a list for a text": b'{"family":["a"]}',
        "a text for a list": b'{"containerDefinitions":"web"}',
        "a structure for a list": b'{"containerDefinitions":{"name":"web"}}',
        "a list for a structure": b'{"runtimePlatform":[]}',
        "a text for a number": b'{"containerDefinitions":[{"memory":"64"}]}',
        "a text for a boolean": b'{"containerDefinitions":[{"essential":"true"}]}',
        "a number for a boolean": b'{"containerDefinitions":[{"essential":1}]}',
        "a list for a map": b'{"containerDefinitions":[{"dockerLabels":["a"]}]}',
        "a form": b"family=a",
        "XML": b"<family>a</family>",
        "deep lists": b'{"containerDefinitions":' + b"[" * DEPTH + b"]" * DEPTH + b"}",
        "deep structures": b'{"family":' * DEPTH + b'""' + b"}" * DEPTH,
        "deep lists without an end": b"[" * DEPTH,
    }.items():
        check(f"JSON: {name}", ecs(register, body), MALFORMED, "json")
    many = b'{"containerDefinitions":[' + b",".join([b"{}"] * 600_000) + b"]}"
    check("JSON: too many values", ecs(register, many), ("RequestEntityTooLargeException",), "json", (413,))
    for name, body in {
        "a blob that is no base64": b'{"repositoryName":"a","uploadId":"b","partFirstByte":0,"partLastByte":1,"layerPartBlob":"?"}',
    }.items():
        target = "AmazonEC2ContainerRegistry_V20150921.UploadLayerPart"
        check(f"JSON: {name}", call("ecr", target, body), MALFORMED, "json")
    for name, body in {
        "a list with a hole": b'{"tags":[null],"clusterName":"odd"}',
        "a member there is none of": b'{"colour":{"a":[1,{"b":null}]}}',
        "white space around": b" \r\n\t{} \n",
        "deep where nothing is known": b'{"unknown":' * DEPTH + b"0" + b"}" * DEPTH,
    }.items():
        served(f"JSON: {name}", ecs("ListClusters", body))


def targets():
    unknown = ("UnknownOperationException",)
    for name, target in {
        "an operation there is none of": f"{ECS}.MakeCoffee",
        "an operation in other letters": f"{ECS}.listclusters",
        "no operation": f"{ECS}.",
        "no dot": "ListClusters",
        "empty": "",
        "another service": "DynamoDB_20120810.ListTables",
        "an old version": "AmazonEC2ContainerServiceV20131113.ListClusters",
        "path tricks": f"{ECS}.../../ListClusters",
        "a thousand characters": "x" * 1000,
    }.items():
        check(f"target: {name}", call("ecs", target, b"{}"), unknown, "json", (400, 404))
    not_served = ("NotImplementedException",)
    check("target: one that only AWS has", call("ecs", f"{ECS}.ListDaemons", b"{}"), not_served, "json", (501,))
    check("form: one that only AWS has", form("iam", b"Action=CreateSAMLProvider&Version=2010-05-08"), not_served, "query", (501,))
    check("path: one that only AWS has", signed("route53", b"", method="GET", path="/2013-04-01/trafficpolicies"), not_served, "query", (501,))
    invalid = ("InvalidSignatureException", "SignatureDoesNotMatch")
    check("target: of a service that the signature is not for", call("iam", f"{ECS}.ListClusters", b"{}"), invalid, "json", (400, 403))


def forms():
    iam = "Version=2010-05-08"
    for name, body in {
        "nothing": b"",
        "no action": f"{iam}&UserName=a".encode(),
        "an empty action": f"Action=&{iam}".encode(),
    }.items():
        check(f"form: {name}", form("iam", body), ("MissingAction",), "query")
    for name, body in {
        "an action there is none of": f"Action=MakeCoffee&{iam}",
        "an action in other letters": f"Action=listroles&{iam}",
        "a version there is none of": "Action=ListRoles&Version=1999-01-01",
        "an action with a null character": f"Action=ListRoles%00&{iam}",
        "an action that is not UTF-8": f"Action=%ff&{iam}",
    }.items():
        check(f"form: {name}", form("iam", body.encode()), ("InvalidAction", "NoSuchVersion"), "query", (400, 404))
    check("form: EC2 without an action", form("ec2", b"Version=2016-11-15"), ("MissingAction",), "ec2")
    check("form: EC2 with one there is none of", form("ec2", b"Action=MakeCoffee&Version=2016-11-15"), ("InvalidAction",), "ec2")
    whole = f"Action=CreateUser&{iam}&UserName=%20b&Tags.member.1.Key=k".encode()
    known = ("MissingAction", "InvalidAction", "ValidationError", "MalformedInput", "InvalidParameterValue", "NoSuchVersion")
    for length in range(len(whole)):
        check(f"form cut at {length}", form("iam", whole[:length]), known, "query", (400, 404))
    refused = ("ValidationError", "MalformedInput", "InvalidParameterValue", "SerializationException")
    for name, rest in {
        "a value that is not UTF-8": b"UserName=%ff%fe",
        "a null character": b"UserName=a%00b",
        "a list's index beyond 64 bits": b"UserName=a&Tags.member.18446744073709551616.Key=k",
        "a list's index of nothing": b"UserName=a&Tags.member.0.Key=k",
        "a list's index that is no number": b"UserName=a&Tags.member.x.Key=k",
        "depth": b"Tags" + b".member.1" * DEPTH + b"=x",
        "a structure's name with a value": b"UserName=&Tags.member.1=x",
        "a name twice, the second wrong": b"UserName=good&UserName=b%20ad",
    }.items():
        body = b"Action=CreateUser&" + iam.encode() + b"&" + rest
        check(f"form: {name}", form("iam", body), refused, "query")
    body = b"Action=ListRoles&" + iam.encode() + b"&MaxItems=many"
    check("form: a text for a number", form("iam", body), refused, "query")
    body = b"Action=DescribeVpcs&Version=2016-11-15&DryRun=perhaps"
    check("form: EC2, a text for a boolean", form("ec2", body), ("InvalidParameterValue", "MalformedInput", "SerializationException"), "ec2")
    wide = b"Action=ListRoles&" + iam.encode() + b"".join(b"&a%d=" % number for number in range(120_000))
    check("form: too many names", form("iam", wide), ("RequestEntityTooLarge", "MalformedInput"), "query", (400, 413))
    body = b"Action=ListRoles&" + iam.encode() + b"&a=" + b"x" * (9 << 20)
    check("form: too large", form("iam", body), ("RequestEntityTooLarge",), "query", (413,))


def cbor_text(text):
    data = text.encode()
    assert len(data) < 24
    return bytes([0x60 | len(data)]) + data


def cbor(body):
    """ListNamespaces of Cloud Map, which speaks CBOR."""
    headers = {"smithy-protocol": "rpc-v2-cbor", "Content-Type": "application/cbor", "Accept": "application/cbor"}
    path = "/service/Route53AutoNaming_v20170314/operation/ListNamespaces"
    return signed("servicediscovery", body, headers, path=path)


def cbor_bodies():
    filters, most = cbor_text("Filters"), cbor_text("MaxResults")
    one = b"\xa2" + cbor_text("Name") + cbor_text("TYPE") + cbor_text("Values") + b"\x81" + cbor_text("DNS_PRIVATE")
    whole = b"\xa2" + most + b"\x0a" + filters + b"\x81" + one
    served("CBOR", cbor(whole))
    for length in range(1, len(whole)):
        check(f"CBOR cut at {length}", cbor(whole[:length]), MALFORMED, "cbor")
    for name, body in {
        "something behind it": whole + b"\x00",
        "two documents": b"\xa0\xa0",
        "a break alone": b"\xff",
        "a map without an end": b"\xbf" + most + b"\x0a",
        "a map of more than there is": b"\xbb" + b"\xff" * 8 + most,
        "a text of more than there is": b"\xa1" + filters + b"\x7b" + b"\xff" * 8 + b"x",
        "a list of more than there is": b"\xa1" + filters + b"\x9b" + b"\xff" * 8,
        "a name that is not UTF-8": b"\xa1\x62\xff\xfe\x0a",
        "a value that is not UTF-8": b"\xa1" + cbor_text("NextToken") + b"\x62\xff\xfe",
        "half a character": b"\xa1" + cbor_text("NextToken") + b"\x61\xc3",
        "a number for a name": b"\xa1\x01\x0a",
        "a reserved length": b"\xa1" + most + b"\x1c",
        "a list for the whole": b"\x80",
        "a text for the whole": cbor_text("Filters"),
        "null for the whole": b"\xf6",
        "a text for a number": b"\xa1" + most + cbor_text("10"),
        "a number beyond 32 bits": b"\xa1" + most + b"\x1b" + b"\xff" * 8,
        "a fraction": b"\xa1" + most + b"\xf9\x3e\x00",
        "bytes for a text": b"\xa1" + cbor_text("NextToken") + b"\x41a",
        "a map for a list": b"\xa1" + filters + b"\xa0",
        "a list for a structure": b"\xa1" + filters + b"\x81\x80",
        "a hole in a list": b"\xa1" + filters + b"\x81\xf6",
        "deep lists": b"\xa1" + filters + b"\x81" * DEPTH + b"\x00",
        "deep lists without an end": b"\x9f" * DEPTH,
        "deep tags": b"\xa1" + most + b"\xc1" * DEPTH + b"\x0a",
        "JSON": b'{"MaxResults":10}',
    }.items():
        check(f"CBOR: {name}", cbor(body), MALFORMED, "cbor")
    large = ("RequestEntityTooLargeException",)
    many = b"\xa1" + filters + b"\x9a" + (600_000).to_bytes(4, "big") + b"\xa0" * 600_000
    check("CBOR: too many values", cbor(many), large, "cbor", (413,))
    check("CBOR: too large", cbor(b"\xa1" + filters + b"\x5a\x01\x00\x00\x01" + b"x" * ((16 << 20) + 1)), large, "cbor", (413,))
    for name, body in {
        "nothing": b"",
        "maps and texts in pieces": b"\xbf\x7f\x65MaxRe\x65sults\xff\x0a\xff",
        "a member there is none of": b"\xa1" + cbor_text("colour") + b"\xa1\x00\x82\x01\xf6",
        "deep where nothing is known": b"\xa1" + cbor_text("unknown") + b"\x81" * DEPTH + b"\x00",
        "deep and in pieces where nothing is known": b"\xa1" + cbor_text("unknown") + b"\x9f" * DEPTH + b"\xff" * DEPTH,
    }.items():
        served(f"CBOR: {name}", cbor(body))


NAMESPACE = 'xmlns="https://route53.amazonaws.com/doc/2013-04-01/"'
ZONE = (
    f'<?xml version="1.0" encoding="UTF-8"?><CreateHostedZoneRequest {NAMESPACE}><Name>bad-input.test</Name>'
    "<CallerReference>a&amp;b</CallerReference><HostedZoneConfig><Comment><![CDATA[<é>]]></Comment>"
    "<PrivateZone>false</PrivateZone></HostedZoneConfig></CreateHostedZoneRequest>"
).encode()


def xml(body, path="/2013-04-01/hostedzone"):
    """To Route 53, whose bodies are XML."""
    return signed("route53", body, {"Content-Type": "text/xml"}, path=path)


def xml_bodies():
    refused = ("InvalidInput",)
    for length in range(len(ZONE)):
        check(f"XML cut at {length}", xml(ZONE[:length]), refused, "query")

    def zone(inside, head=b""):
        return head + f"<CreateHostedZoneRequest {NAMESPACE}>".encode() + inside + b"</CreateHostedZoneRequest>"

    good = b"<Name>bad-input.test</Name><CallerReference>a</CallerReference>"
    entity = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    outside = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    for name, body in {
        "not UTF-8": zone(good + b"<HostedZoneConfig><Comment>\xff\xfe</Comment></HostedZoneConfig>"),
        "half a character": zone(good + b"<HostedZoneConfig><Comment>\xc3</Comment></HostedZoneConfig>"),
        "a name that is not UTF-8": zone(good + b"<\xff>a</\xff>"),
        "UTF-16": zone(good).decode().encode("utf-16"),
        "a null character": zone(b"<Name>a\0b</Name><CallerReference>a</CallerReference>"),
        "a null character by its number": zone(b"<Name>a&#0;b</Name><CallerReference>a</CallerReference>"),
        "an entity there is none of": zone(b"<Name>&name;</Name><CallerReference>a</CallerReference>"),
        "entities of its own": zone(b"<Name>&b;</Name><CallerReference>a</CallerReference>", entity),
        "an entity of a file": zone(b"<Name>&a;</Name><CallerReference>a</CallerReference>", outside),
        "something behind it": zone(good) + b"x",
        "two documents": zone(good) * 2,
        "an end of another name": zone(b"<Name>bad-input.test</name><CallerReference>a</CallerReference>"),
        "ends that cross": zone(good + b"<HostedZoneConfig><Comment>a</HostedZoneConfig></Comment>"),
        "an element without its end": zone(good + b"<HostedZoneConfig>"),
        "an attribute without its quote": zone(good + b"<HostedZoneConfig a=b/>"),
        "a text for a boolean": zone(good + b"<HostedZoneConfig><PrivateZone>perhaps</PrivateZone></HostedZoneConfig>"),
        "a structure for a text": zone(b"<Name><a/></Name><CallerReference>a</CallerReference>"),
        "a text for a structure": zone(good + b"<HostedZoneConfig>a</HostedZoneConfig>"),
        "a text for the whole": b"bad-input.test",
        "JSON": b'{"Name":"bad-input.test"}',
        "deep structures": zone(good + b"<HostedZoneConfig>" * DEPTH + b"</HostedZoneConfig>" * DEPTH),
        "deep structures without an end": b"<a>" * DEPTH,
    }.items():
        check(f"XML: {name}", xml(body), refused, "query")
    large = ("RequestEntityTooLargeException",)
    check("XML: too large", xml(zone(good + b" " * (16 << 20))), large, "query", (413,))
    changes = b"<ChangeBatch><Changes>" + b"<Change/>" * 600_000 + b"</Changes></ChangeBatch>"
    body = f"<ChangeResourceRecordSetsRequest {NAMESPACE}>".encode() + changes + b"</ChangeResourceRecordSetsRequest>"
    check("XML: too many values", xml(body, "/2013-04-01/hostedzone/Z0/rrset/"), large, "query", (413,))
    # None of them has made a zone.
    zones = SESSION.client("route53").list_hosted_zones()["HostedZones"]
    if zones:
        wrong.append(f"XML: zones were made: {zones}")


def other_protocols():
    path = "/service/GraniteServiceVersion20100801/operation/PutMetricData"
    for body in (b"", b"\xbf", b"\xbf\xff", b"\x9f" * DEPTH, b"\xbb" + b"\xff" * 8, b"\x7f\x61", b"{}"):
        headers = {"smithy-protocol": "rpc-v2-cbor", "Content-Type": "application/cbor", "Accept": "application/cbor"}
        data = signed("monitoring", body, headers, path=path)
        check(f"CBOR: {body[:9]!r}", data, ("UnknownOperationException", "SerializationException"), "cbor", (400, 404))
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"):
        answer = exchange(signed("ecs", b"", method=method))
        if answer.status is None or not 400 <= answer.status < 500:
            wrong.append(f"{method}: {answer.raw[:300]!r}")
    for path in ("/a/../b", "/%00", "/%ff", "/?" + "a=b&" * 5000, "/" + "%2e%2e/" * 100 + "etc/passwd", "//", "/*"):
        answer = exchange(signed("ecs", b"{}", path=path))
        if answer.status is None or not 400 <= answer.status < 500:
            wrong.append(f"path {path[:40]}: {answer.raw[:300]!r}")


def encodings():
    large = ("RequestEntityTooLargeException",)
    list_clusters = "ListClusters"
    served("gzip", ecs(list_clusters, gzip.compress(b"{}"), Content_Encoding="gzip"))
    whole = gzip.compress(b'{"maxResults":10}' + b" " * 4000)
    for name, body, encoding in [
        ("that is none", b"{}", "gzip"),
        ("cut", whole[:-9], "gzip"),
        ("its head alone", whole[:10], "gzip"),
        ("a wrong checksum", whole[:-8] + b"\0" * 8, "gzip"),
        ("twice", gzip.compress(whole), "gzip, gzip"),
        ("brotli", b"{}", "br"),
        ("a word", b"{}", "perhaps"),
        ("nothing at all", b"", "gzip"),
    ]:
        check(f"gzip: {name}", ecs(list_clusters, body, Content_Encoding=encoding), MALFORMED, "json")
    bomb = gzip.compress(b" " * (BODY_BYTES_MAX + 1), 9)
    check("gzip: a bomb", ecs(list_clusters, bomb, Content_Encoding="gzip"), large, "json", (413,))
    nested = gzip.compress(b"\0" * (1 << 20), 9) * 200
    check("gzip: a bomb of many members", ecs(list_clusters, nested, Content_Encoding="gzip"), large, "json", (413,))
    for kind in ("text/plain", "application/json", "application/xml", "", "multipart/form-data; boundary=x", "\x7f"):
        answer = exchange(ecs(list_clusters, b"{}", Content_Type=kind or "x"))
        if answer.status is None or answer.status >= 500:
            wrong.append(f"content type {kind!r}: {answer.raw[:300]!r}")
    check("a body too large", ecs(list_clusters, b" " * (BODY_BYTES_MAX + 1)), large, "json", (413,))
    head = ecs(list_clusters, b"").replace(b"Content-Length: 0", b"Content-Length: 99999999999")
    check("a length too large", head, large, "json", (413,))


def chunk(data, signature="0" * 64):
    return f"{len(data):x};chunk-signature={signature}\r\n".encode() + data + b"\r\n"


def chunked_signatures():
    """aws-chunked, whose every chunk has a signature."""
    streaming = {"X-Amz-Content-SHA256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "Content-Encoding": "aws-chunked"}
    streaming |= {"X-Amz-Decoded-Content-Length": "2", "X-Amz-Target": f"{ECS}.ListClusters", "Content-Type": JSON}
    for name, body in {
        "a wrong signature": chunk(b"{}") + chunk(b""),
        "no chunks": b"",
        "a length that lies": b"ffffffffffffffff;chunk-signature=" + b"0" * 64 + b"\r\n{}",
        "no signature": b"2\r\n{}\r\n0\r\n\r\n",
        "plain JSON": b"{}",
    }.items():
        data = signed("ecs", body, streaming)
        answer = exchange(data)
        if answer.status is None or not 400 <= answer.status < 500:
            wrong.append(f"aws-chunked: {name}: {answer.raw[:400]!r}")


def raw(*lines, body=b""):
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def http():
    """What is no good HTTP, and what two servers might read in two ways."""
    host = f"Host: {HOST}"
    smuggled = raw("GET /smuggled HTTP/1.1", host)
    ok = (None, 400, 403, 404, 405, 411, 413, 414, 431, 501, 505)
    for name, data in {
        "two lengths": raw("POST / HTTP/1.1", host, "Content-Length: 0", f"Content-Length: {len(smuggled)}", body=smuggled),
        "a list of lengths": raw("POST / HTTP/1.1", host, f"Content-Length: 0, {len(smuggled)}", body=smuggled),
        "a length with a sign": raw("POST / HTTP/1.1", host, f"Content-Length: +{len(smuggled)}", body=smuggled),
        "a negative length": raw("POST / HTTP/1.1", host, "Content-Length: -1", body=smuggled),
        "a length in hexadecimal": raw("POST / HTTP/1.1", host, "Content-Length: 0x10", body=smuggled),
        "a length beyond 64 bits": raw("POST / HTTP/1.1", host, "Content-Length: 99999999999999999999", body=smuggled),
        "a space before the colon": raw("POST / HTTP/1.1", host, "Transfer-Encoding : chunked", "Content-Length: 3", body=b"0\r\n\r\n" + smuggled),
        "chunked, but not at last": raw("POST / HTTP/1.1", host, "Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n" + smuggled),
        "a transfer encoding there is none of": raw("POST / HTTP/1.1", host, "Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + smuggled),
        "chunked with a vertical tab": raw("POST / HTTP/1.1", host, "Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n" + smuggled),
        "a chunk's length that is none": raw("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", body=b"zz\r\n\r\n" + smuggled),
        "a chunk's length beyond 64 bits": raw("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", body=b"10000000000000000\r\n" + smuggled),
        "a chunk longer than it says": raw("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", body=b"1\r\nabc\r\n0\r\n\r\n" + smuggled),
        "a header over two lines": raw("POST / HTTP/1.1", host, "Transfer-Encoding:", " chunked", body=b"0\r\n\r\n" + smuggled),
        "a header without a name": raw("GET / HTTP/1.1", host, ": x"),
        "a header without a colon": raw("GET / HTTP/1.1", host, "nonsense"),
        "a null character in a header": raw("GET / HTTP/1.1", host, "X-A: a\0b"),
        "a bare carriage return": b"GET / HTTP/1.1\rHost: a\r\r",
        "no version": b"GET /\r\n\r\n",
        "a version there is none of": raw("GET / HTTP/9.9", host),
        "a space in the path": raw("GET /a b HTTP/1.1", host),
        "a method with a colon": raw("GE:T / HTTP/1.1", host),
        "CONNECT": raw("CONNECT a:443 HTTP/1.1", host),
        "TLS": bytes.fromhex("160301020001000001fc0303") + b"\0" * 64,
        "HTTP/2 and then nonsense": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
        "a megabyte of one header": raw("GET / HTTP/1.1", host, "X-Large: " + "x" * (1 << 20)),
        "a megabyte of path": raw("GET /" + "x" * (1 << 20) + " HTTP/1.1", host),
        "a thousand headers": raw("GET / HTTP/1.1", host, *[f"X-{number}: a" for number in range(1000)]),
        "nothing": b"",
        "empty lines": b"\r\n" * 1000,
        "binary": bytes(range(256)) * 8,
    }.items():
        closed(f"HTTP: {name}", data, ok)
    # Both: what goes by the chunks has nothing left over, what goes by the length has.
    both = raw("POST / HTTP/1.1", host, "Content-Length: 4", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + smuggled)
    answer = exchange(both, hang_up=True)
    if b"smuggled" in answer.raw or any(status in answer.raw for status in (b" 200 ", b" 500 ")):
        wrong.append(f"HTTP: length and chunks: {answer.raw[:500]!r}")
    for name, data in {
        "a body shorter than its length": ecs("ListClusters", b"{}").replace(b"Content-Length: 2", b"Content-Length: 9"),
        "chunks without an end": raw("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", f"X-Amz-Target: {ECS}.ListClusters", body=b"2\r\n{}"),
    }.items():
        closed(f"HTTP: {name}", data, (None, 400))
    # The rest is another request, and no good one.
    longer = ecs("ListClusters", b"{}").replace(b"Content-Length: 2", b"Content-Length: 1").replace(b"Connection: close\r\n", b"")
    answer = exchange(longer, hang_up=True)
    if answer.status not in (None, 400, 403) or b" 200 " in answer.raw:
        wrong.append(f"HTTP: a body longer than its length: {answer.raw[:500]!r}")


def signatures():
    good = ecs("ListClusters", b"{}")
    authorization = re.search(rb"Authorization: (.*)\r\n", good)[1]
    cases = {
        "no signature": (good.replace(b"Authorization: " + authorization + b"\r\n", b""), ("MissingAuthenticationTokenException", "MissingAuthenticationToken")),
        "an empty one": (good.replace(authorization, b""), None),
        "another scheme": (good.replace(authorization, b"Basic YTpi"), None),
        "half of one": (good.replace(authorization, authorization[:60]), None),
        "a hash that is too short": (good.replace(authorization, authorization[:-1]), None),
        "a hash that is none": (good.replace(authorization, authorization[:-64] + b"z" * 64), None),
        "another body": (good[:-2] + b"[]", None),
        "a body after all": (good[:-2] + b"{ }", None),
        "a kilobyte of key": (good.replace(b"Credential=", b"Credential=" + b"A" * 1000), None),
        "not ASCII": (good.replace(authorization, authorization + b"\xff"), None),
        "two of them": (good.replace(b"Authorization: ", b"Authorization: " + authorization + b"\r\nAuthorization: "), None),
    }
    refused = (
        "IncompleteSignatureException", "InvalidSignatureException", "MissingAuthenticationTokenException", "UnrecognizedClientException",
        "SignatureDoesNotMatch", "IncompleteSignature", "MissingAuthenticationToken", "InvalidClientTokenId", "AccessDeniedException",
    )
    for name, (data, codes) in cases.items():
        check(f"signature: {name}", data, codes or refused, "json", (400, 403))


def registry():
    """The registry's own API: its errors are the distribution specification's."""
    ecr = SESSION.client("ecr")
    ecr.create_repository(repositoryName="bad-input")
    token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    host, repository, digest = f"Host: {HOST}", "/v2/bad-input", "sha256:" + "0" * 64
    manifest = "Content-Type: application/vnd.oci.image.manifest.v1+json"

    def asked(name, method, path, *headers, body=b"", statuses=range(400, 500), authorization=f"Basic {token}"):
        lines = [f"{method} {path} HTTP/1.1", host, "Connection: close", *headers]
        if authorization is not None:
            lines.append(f"Authorization: {authorization}")
        lines.append(f"Content-Length: {len(body)}")
        answer = exchange(raw(*lines, body=body))
        if answer.status not in statuses or answer.answers > 1:
            wrong.append(f"registry: {name}: {answer.raw[:500]!r}")
        return answer

    asked("with a good token", "GET", "/v2/", statuses=(200,))
    for name, authorization in {
        "no token": None,
        "an empty one": "",
        "a token that is none": "Basic eHg6eXk=",
        "one that is no base64": "Basic %%%",
        "a bearer of nonsense": "Bearer x.y.z",
        "one cut in half": f"Basic {token[: len(token) // 2]}",
        "one with another end": f"Basic {token[:-8]}AAAAAAA=",
        "a megabyte less a bit": "Basic " + "A" * 60_000,
    }.items():
        asked(name, "GET", "/v2/", authorization=authorization, statuses=(400, 401, 403, 431))
    for name, method, path in [
        ("a repository that is not there", "GET", "/v2/ghost/tags/list"),
        ("a name with capitals", "GET", "/v2/Bad/tags/list"),
        ("a name of dots", "GET", "/v2/../../etc/passwd/tags/list"),
        ("a name with an escape", "GET", "/v2/a%2f..%2fb/manifests/1"),
        ("a name of 10,000 characters", "GET", "/v2/" + "a" * 10_000 + "/tags/list"),
        ("a null character", "GET", "/v2/a%00b/tags/list"),
        ("a tag that is none", "GET", f"{repository}/manifests/-x"),
        ("a tag of 200 characters", "GET", f"{repository}/manifests/" + "t" * 200),
        ("a digest that is none", "GET", f"{repository}/blobs/sha256:xyz"),
        ("a digest of another kind", "GET", f"{repository}/blobs/md5:d41d8cd98f00b204e9800998ecf8427e"),
        ("a digest with a path", "GET", f"{repository}/blobs/sha256:../../../../etc/passwd"),
        ("a blob that is not there", "GET", f"{repository}/blobs/{digest}"),
        ("an upload that is not there", "PATCH", f"{repository}/blobs/uploads/00000000-0000-0000-0000-000000000000"),
        ("an upload with a path", "PATCH", f"{repository}/blobs/uploads/..%2f..%2fx"),
        ("an end that is not there", "PUT", f"{repository}/blobs/uploads/x?digest={digest}"),
        ("a page of -1", "GET", f"{repository}/tags/list?n=-1"),
        ("a page of many", "GET", f"{repository}/tags/list?n=99999999999999999999"),
        ("nothing there is", "GET", "/v2/bad-input/nonsense"),
        ("a method there is none of", "BREW", f"{repository}/manifests/1"),
    ]:
        asked(name, method, path)
    for name, body in {
        "empty": b"",
        "no JSON": b"\xff\xfe",
        "a list": b"[]",
        "cut": b'{"schemaVersion":2,"config":{"digest"',
        "deep": b'{"annotations":' * DEPTH + b"0" + b"}" * DEPTH,
        "of version 1": b'{"schemaVersion":1}',
        "both kinds": b'{"schemaVersion":2,"config":{"digest":"%s","size":1},"layers":[],"manifests":[]}' % digest.encode(),
        "a negative size": b'{"schemaVersion":2,"config":{"digest":"%s","size":-1},"layers":[]}' % digest.encode(),
        "blobs that are not there": b'{"schemaVersion":2,"config":{"digest":"%s","size":1},"layers":[]}' % digest.encode(),
        "above 4 MiB": b'{"schemaVersion":2,"a":"' + b"x" * (5 << 20) + b'"}',
    }.items():
        asked(f"a manifest, {name}", "PUT", f"{repository}/manifests/1", manifest, body=body)
    begun = asked("an upload", "POST", f"{repository}/blobs/uploads/", statuses=(202,))
    where = urlsplit(begun.headers.get("location", "")).path
    for name, headers, body in [
        ("a range that is none", ["Content-Range: x-y"], b"abc"),
        ("a range that begins later", ["Content-Range: 100-102"], b"abc"),
        ("a range the wrong way round", ["Content-Range: 2-0"], b"abc"),
        ("a range beyond 64 bits", ["Content-Range: 99999999999999999999-99999999999999999999"], b"abc"),
    ]:
        asked(name, "PATCH", where, "Content-Type: application/octet-stream", *headers, body=body)
    asked("an end with another digest", "PUT", f"{where}?digest={digest}", body=b"abc")
    asked("an end without a digest", "PUT", where, body=b"")
    ecr.delete_repository(repositoryName="bad-input", force=True)


def main():
    begun = time.monotonic()
    for part in (json_bodies, targets, forms, cbor_bodies, xml_bodies, other_protocols, encodings, chunked_signatures, http, signatures, registry):
        before, at = sent, time.monotonic()
        part()
        print(f"{sent - before:5} {part.__name__} in {time.monotonic() - at:.1f} s")
    served("at the end", ecs("ListClusters", b"{}"))
    print(f"{sent} requests in {time.monotonic() - begun:.1f} s")
    if wrong:
        sys.exit(f"{len(wrong)} requests were not answered as they should be:\n  " + "\n  ".join(wrong))


main()
