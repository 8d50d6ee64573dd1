"""A large image, pulled and unpacked: every run has an image of its own, so that nothing of it is there yet."""

import gzip
import hashlib
import http.client
import io
import json
import random
import subprocess
import tarfile
import time

from ours import wait_for
from peers import Podman
from table import Row, median, ms

REGISTRY = ("127.0.0.1", 5001)
RUNS = 3
LAYERS = 8
FILES = 64
FILE_BYTES = 400_000  # 8 × 64 × 400 kB: 205 MB of files
NAME = "large"


class LargeRegistry:
    """Another registry, which can be written to."""

    def __init__(self, home):
        config = home / "large-registry.yml"
        config.write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n"
            f"  filesystem: {{rootdirectory: '{home / 'large-registry'}'}}\n"
            f"http: {{addr: '{REGISTRY[0]}:{REGISTRY[1]}'}}\n"
        )
        log = open(home / "large-registry.log", "w")
        self.process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        wait_for(REGISTRY, self.process)

    def stop(self):
        self.process.kill()
        self.process.wait()

    @staticmethod
    def send(method, path, body=b"", kind="application/octet-stream"):
        connection = http.client.HTTPConnection(*REGISTRY, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": kind})
            answer = connection.getresponse()
            said = answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {said[:500]}")
            return answer.headers
        finally:
            connection.close()

    def blob(self, content):
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        where = self.send("POST", f"/v2/{NAME}/blobs/uploads/")["Location"]
        path = where.split(f"{REGISTRY[0]}:{REGISTRY[1]}", 1)[-1]
        self.send("PUT", f"{path}{'&' if '?' in path else '?'}digest={digest}", content)
        return digest

    def push(self, tag, seed):
        """Layers of half-random text, so that they compress about as programs do. Bytes as sent."""
        numbers = random.Random(seed)
        layers, differences = [], []
        for layer in range(LAYERS):
            tar = io.BytesIO()
            with tarfile.open(fileobj=tar, mode="w") as archive:
                for file in range(FILES):
                    entry = tarfile.TarInfo(f"data/{layer}/{file % 8}/{file}.txt")
                    entry.size = FILE_BYTES
                    archive.addfile(entry, io.BytesIO(numbers.randbytes(FILE_BYTES // 2).hex().encode()))
            plain = tar.getvalue()
            differences.append("sha256:" + hashlib.sha256(plain).hexdigest())
            packed = gzip.compress(plain, compresslevel=1, mtime=0)
            layers.append({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": self.blob(packed), "size": len(packed),
            })
        config = json.dumps({
            "architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": differences},
        }).encode()
        manifest = {
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json", "digest": self.blob(config), "size": len(config),
            },
            "layers": layers,
        }
        self.send("PUT", f"/v2/{NAME}/manifests/{tag}", json.dumps(manifest).encode(), manifest["mediaType"])
        return sum(layer["size"] for layer in layers)


def large_image(tasks, home):
    """Turn by turn. Ours is what the task says of itself: pullStartedAt to pullStoppedAt."""
    registry = LargeRegistry(home)
    ours, theirs, sizes = [], [], []
    try:
        podman = Podman(home, "none", ["true"])
        for run in range(RUNS):
            tag = f"run{run}"
            sizes.append(registry.push(tag, run))
            for who in ("ours", "theirs") if run % 2 else ("theirs", "ours"):
                if who == "ours":
                    ours.append(pull_ours(tasks, tag))
                else:
                    theirs.append(pull_theirs(podman, tag))
            podman.podman("rmi", "--all", "--force")
    finally:
        registry.stop()
    files = LAYERS * FILES * FILE_BYTES / 1e6
    what = f"an image of {files:.0f} MB ({median(sizes) / 1e6:.0f} MB packed, {LAYERS} layers), cold"
    ratio = f"ours is {median(ours) / median(theirs):.2f}× (goal: at most 1×)"
    return [
        Row(what, "Ferrogate: pulled, verified, unpacked", ms(median(ours)), ms(max(ours))),
        Row(what, "podman pull", ms(median(theirs)), ms(max(theirs)), ratio),
    ], []


def pull_ours(tasks, tag):
    # There is no program in it: the task ends when it is pulled.
    tasks.define(f"large-{tag}", ["/none"], image=f"{REGISTRY[0]}:{REGISTRY[1]}/{NAME}:{tag}")
    arns, _, _ = tasks.run(f"large-{tag}")
    tasks.wait(arns, "STOPPED")
    task = tasks.ecs.describe_tasks(tasks=arns)["tasks"][0]
    if "pullStoppedAt" not in task or "CannotPull" in task["stoppedReason"]:
        raise RuntimeError(f"not pulled: {task['stoppedReason']}")
    return (task["pullStoppedAt"] - task["pullStartedAt"]).total_seconds() * 1000


def pull_theirs(podman, tag):
    began = time.perf_counter()
    podman.check(podman.podman("pull", "-q", "--tls-verify=false", f"{REGISTRY[0]}:{REGISTRY[1]}/{NAME}:{tag}"))
    return (time.perf_counter() - began) * 1000
