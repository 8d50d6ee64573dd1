"""An SDK and the aws CLI without a key, a region or an address in the code: all of it is in the environment.

Prints who each of the two is."""

import json
import subprocess
import sys

import boto3

print(boto3.client("sts").get_caller_identity()["Arn"])
said = subprocess.run([sys.executable, "-m", "awscli", "sts", "get-caller-identity"], stdout=subprocess.PIPE, check=True)
print(json.loads(said.stdout)["Arn"])
