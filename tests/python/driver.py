"""boto3 for the tests: asked by lines of JSON, answers by lines of JSON, until its input ends."""

import base64
import datetime
import json
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

# An error is the test's to see: no call is made twice.
# The endpoint is an address: no prefix makes another one of it.
CONFIG = Config(
    retries={"total_max_attempts": 1}, read_timeout=90, connect_timeout=10, inject_host_prefix=False
)
clients = {}


def client(service):
    if service not in clients:
        clients[service] = boto3.client(service, config=CONFIG)
    return clients[service]


def call(service, operation, arguments):
    of = client(service)
    kind, _, name = operation.rpartition(":")
    if kind == "wait":
        of.get_waiter(name).wait(**arguments)
        return None
    if kind == "pages":
        return of.get_paginator(name).paginate(**arguments).build_full_result()
    answer = getattr(of, name)(**arguments)
    answer.pop("ResponseMetadata", None)
    return answer


def plain(value):
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(type(value))


for line in sys.stdin:
    ask = json.loads(line)
    try:
        said = {"ok": call(ask["service"], ask["operation"], ask["arguments"])}
    except ClientError as error:
        told = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        said = {"error": {"code": told.get("Code", ""), "message": told.get("Message", ""), "status": status}}
    except (BotoCoreError, ValueError, TypeError, AttributeError) as error:
        said = {"error": {"code": type(error).__name__, "message": str(error), "status": 0}}
    print(json.dumps(said, default=plain), flush=True)
