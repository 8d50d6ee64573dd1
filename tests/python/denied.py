"""Calls every operation of api/operations.json, unsigned and as a user whose policy allows nothing: all are denied.

    denied.py <access key id> <secret access key>

Inputs are the smallest the service model allows, so that what refuses them is the authorization.
"""

import collections
import json
import pathlib
import random
import sys

import boto3
import botocore
from botocore.config import Config
from botocore.exceptions import ClientError

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "crates/wire/tests"))
from roundtrip_values import Generator, Unsatisfiable  # noqa: E402

SEED = 1
UNSIGNED_CODES = {"MissingAuthenticationToken", "MissingAuthenticationTokenException", "MissingAuthenticationTokenFault"}
DENIED_CODES = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}

# STS API reference: these are called without credentials, a token of an identity provider stands for them.
UNSIGNED_BY_DESIGN = {
    ("sts", "AssumeRoleWithSAML"), ("sts", "AssumeRoleWithWebIdentity"),
}
# "No permissions are required to perform this operation" (STS API reference), unless one is denied explicitly.
FOR_EVERYBODY = {
    ("sts", "GetCallerIdentity"), ("sts", "GetSessionToken"),
} | UNSIGNED_BY_DESIGN

# Without these there is nothing to authorize: the ARN's form is looked at first.
MEANINGFUL = {("sts", "AssumeRole"): {"RoleArn": "arn:aws:iam::123456789012:role/nobodys"}}


class Smallest(Generator):
    """Only what is required."""

    def structure(self, shape, depth, top=False):
        if depth > 40:
            raise Unsatisfiable(shape.name)
        names = list(shape.required_members)
        if shape.is_tagged_union and not names:
            names = list(shape.members)[:1]
        if not names and not top and shape.members:
            # Forms cannot say "an empty structure".
            flat = [name for name, of in shape.members.items() if of.type_name not in ("structure", "list", "map")]
            names = flat[:1]
        return {name: self.member(shape.members[name], depth + 1) for name in names}

    def size(self, shape, depth, least):
        return max(1, least, shape.metadata.get("min", 0))

    def text(self, length):
        return self.letters(max(length, 1))


def clients(service, keys):
    # Some operations go to a host of their own, which an endpoint on an address does not have.
    config = Config(retries={"total_max_attempts": 1}, inject_host_prefix=False)
    unsigned = boto3.client(service, config=config.merge(Config(signature_version=botocore.UNSIGNED)))
    nobody = boto3.client(service, aws_access_key_id=keys[0], aws_secret_access_key=keys[1], config=config)
    return unsigned, nobody


def code_of(client, operation, arguments):
    try:
        client._make_api_call(operation, arguments)
        return "nothing", "it succeeded"
    except ClientError as error:
        return error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")


def main():
    keys = sys.argv[1:3]
    table = json.loads((ROOT / "api/operations.json").read_text())
    wrong, counts = [], collections.Counter()
    for service, operations in table.items():
        unsigned, nobody = clients(service, keys)
        model = nobody.meta.service_model
        for operation in operations:
            shape = model.operation_model(operation).input_shape
            generator = Smallest(random.Random(SEED), model.metadata["protocol"])
            arguments = generator.input(shape) if shape else {}
            arguments.update(MEANINGFUL.get((service, operation), {}))
            for who, client, codes, exempt in (
                ("unsigned", unsigned, UNSIGNED_CODES, UNSIGNED_BY_DESIGN),
                ("with an empty policy", nobody, DENIED_CODES, FOR_EVERYBODY),
            ):
                code, message = code_of(client, operation, arguments)
                if (service, operation) in exempt:
                    counts["exempt"] += 1
                elif code in codes:
                    counts[f"{service} {who}: denied"] += 1
                else:
                    wrong.append(f"{service}:{operation} {who}: {code}: {message[:200]}  {json.dumps(arguments, default=str)[:200]}")
    for name, count in sorted(counts.items()):
        print(f"{count:5} {name}")
    if wrong:
        sys.exit(f"{len(wrong)} calls are not denied as they should be:\n  " + "\n  ".join(wrong))


main()
