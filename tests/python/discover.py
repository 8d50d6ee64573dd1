"""DiscoverInstances at both hosts: the endpoint's own, and `data-` in front of it, as SDKs do by themselves; and in CBOR,
as SDKs do that rank it before JSON."""

import json
import os
import socket
import sys
from urllib.parse import urlsplit

import boto3
import botocore.model
from botocore.config import Config

endpoint = urlsplit(boto3.client("servicediscovery").meta.endpoint_url)
namespace, service = sys.argv[1:3]
resolve = socket.getaddrinfo


def everywhere(host, *rest, **more):
    # Nobody has to know the prefixed name for this: it is the same door.
    return resolve(endpoint.hostname if host != endpoint.hostname else host, *rest, **more)


socket.getaddrinfo = everywhere
said = {}
for name, inject in (("plain", False), ("data", True)):
    client = boto3.client("servicediscovery", config=Config(inject_host_prefix=inject))
    hosts = []
    client.meta.events.register("before-send", lambda request, **_: hosts.append(urlsplit(request.url).hostname))
    answer = client.discover_instances(NamespaceName=namespace, ServiceName=service)
    answer.pop("ResponseMetadata")
    said[name], said[f"{name}_host"] = answer, hosts[0]
botocore.model.PRIORITY_ORDERED_SUPPORTED_PROTOCOLS = ("smithy-rpc-v2-cbor",)
client = boto3.client("servicediscovery", config=Config(inject_host_prefix=False))
kinds = []
client.meta.events.register("before-send", lambda request, **_: kinds.append(request.headers["Content-Type"].decode()))
said["cbor"] = client.discover_instances(NamespaceName=namespace, ServiceName=service)
said["cbor"].pop("ResponseMetadata")
created = client.list_namespaces()["Namespaces"][0]["CreateDate"]
said["cbor_date"] = created.timestamp()
said["cbor_codes"] = []
for call, arguments in [
    (client.discover_instances, {"NamespaceName": namespace, "ServiceName": "nobody"}),
    (client.create_http_namespace, {"Name": namespace}),
    (client.update_instance_custom_health_status, {"ServiceId": "srv-x", "InstanceId": "i", "Status": "HEALTHY"}),
]:
    try:
        call(**arguments)
    except client.exceptions.ClientError as error:
        said["cbor_codes"].append(error.response["Error"]["Code"])
said["cbor_kinds"] = sorted(set(kinds))
print(json.dumps(said))
