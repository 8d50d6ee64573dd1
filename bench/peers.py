"""podman, and bare crun on the same root file system."""

import json
import pathlib
import subprocess
import tarfile
import time
import uuid

from ours import REGISTRY, ROOT

# crun refuses hybrid cgroups unless the unified hierarchy is out of its sight.
ALONE = ["unshare", "--mount", "sh", "-c", 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"', "peer"]


# All of podman's containers are below it.
CGROUP = "ferrogate-bench-podman"


def time_said(text):
    """What `ts %.s` printed, in ns."""
    return round(float(text.split()[0]) * 1e9)


class Crun:
    name = "bare crun run"

    def __init__(self, home, command):
        self.bundle = home / "crun-bundle"
        self.state = home / "crun-state"
        (self.bundle / "rootfs").mkdir(parents=True, exist_ok=True)
        unpack(ROOT / ".cache/images/busybox", self.bundle / "rootfs")
        if not (self.bundle / "config.json").exists():
            subprocess.run(["crun", "spec"], cwd=self.bundle, check=True)
        config = json.loads((self.bundle / "config.json").read_text())
        config["process"]["terminal"] = False
        config["process"]["args"] = command
        (self.bundle / "config.json").write_text(json.dumps(config))

    def run(self):
        """When (ns) it was asked for, and what it printed."""
        name = f"bench-{uuid.uuid4().hex[:8]}"
        command = ALONE + ["crun", "--root", str(self.state), "run", "--bundle", str(self.bundle), name]
        asked = time.time_ns()
        said = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if said.returncode != 0:
            raise RuntimeError(f"crun: {said.stderr}")
        return asked, said.stdout


class Podman:
    def __init__(self, home, network, command):
        self.name = f"podman run --network {network}"
        self.command = command
        # Not every machine lets podman set its own limits.
        self.options = [
            "--network", network, "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "--cgroup-parent", f"/{CGROUP}",
        ]
        self.places = [
            "--root", str(home / "podman/root"), "--runroot", str(home / "podman/run"), "--tmpdir", str(home / "podman/tmp"),
            "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "crun",
        ]
        self.image = f"{REGISTRY[0]}:{REGISTRY[1]}/library/busybox:latest"
        if self.podman("image", "exists", self.image).returncode != 0:
            self.check(self.podman("pull", "-q", "--tls-verify=false", self.image))

    def podman(self, *arguments):
        return subprocess.run(
            ALONE + ["podman", *self.places, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    @staticmethod
    def check(said):
        if said.returncode != 0:
            raise RuntimeError(f"podman: {said.stderr}")

    def works(self):
        """None, or why not."""
        said = self.podman("run", "--rm", *self.options, self.image, *self.command)
        return None if said.returncode == 0 else said.stderr.strip().splitlines()[-1]

    def run(self):
        asked = time.time_ns()
        said = self.podman("run", "--rm", *self.options, self.image, *self.command)
        self.check(said)
        return asked, said.stdout

    def run_idle(self, count):
        """Idle containers: process ids of their conmon."""
        for _ in range(count):
            self.check(self.podman("run", "-d", *self.options, self.image, "sleep", "3600"))
        said = self.podman("ps", "-q", "--format", "{{.ID}}")
        ids = said.stdout.split()
        inspected = self.podman("inspect", "--format", "{{.State.ConmonPid}}", *ids)
        self.check(inspected)
        return [int(pid) for pid in inspected.stdout.split()]

    @staticmethod
    def tidy(home):
        """Mounts of its storage, which keep the folder from being removed, and its cgroups."""
        for name in (CGROUP, "libpod_parent"):
            for folder in sorted(pathlib.Path("/sys/fs/cgroup").glob(f"*/{name}/**/"), reverse=True):
                try:
                    folder.rmdir()
                except OSError:
                    continue
        for line in reversed(pathlib.Path("/proc/self/mounts").read_text().splitlines()):
            if line.split()[1].startswith(str(home / "podman")):
                subprocess.run(["umount", "-l", line.split()[1]], check=False)

    def remove_all(self):
        self.podman("rm", "--all", "--force", "--time", "0")


def unpack(layout, target):
    """The layers of an OCI layout, one over the other."""
    blob = lambda digest: layout / "blobs/sha256" / digest.removeprefix("sha256:")  # noqa: E731
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
    for layer in manifest["layers"]:
        with tarfile.open(blob(layer["digest"])) as archive:
            archive.extractall(target)

