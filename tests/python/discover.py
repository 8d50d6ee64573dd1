"""DiscoverInstances at both hosts: the endpoint's own, and `data-` in front of it, as SDKs do by themselves."""

import json
import os
import socket
import sys
from urllib.parse import urlsplit

import boto3
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
print(json.dumps(said))
