"""Micro-VMs: the whole way of a task in one, beside bare QEMU booting the same kernel to a shell."""

import ctypes
import json
import mmap
import os
import pathlib
import shutil
import subprocess
import time

from ours import FERROGATE, ROOT, Ferrogate, Tasks
from peers import time_said
from starts import COMMAND
from table import Row, median, ms, p95

SAMPLES = 8
AT_ONCE = 8
IDLE = 4
QEMU = "qemu-system-x86_64"
KERNEL = ROOT / ".cache/kernel/minimal"
GUEST = FERROGATE.with_name("ferrogate-guest")
# What a machine of a task of 512 MB has, with what its guest takes.
MEMORY_MIB = 512 + 128 + 512 // 56
SECONDS_MAX = 120
# As a task's machine is started.
LINE = "console=ttyS0 quiet loglevel=5 reboot=t oops=panic panic=-1 random.trust_cpu=on scsi_mod.scan=manual scsi_mod.default_dev_flags=0x26000000 rcupdate.rcu_expedited=1 bdev_allow_write_mounted=1 rdinit=/init"
LINE_TCG = "tsc=reliable no_timer_check nokaslr noreplace-smp mitigations=off"
TRANSLATED_CODE_MIB = 64
TSC_MEASURED_SECONDS = 0.02
TSC_READINGS = 16
# rdtsc; shl rdx, 32; or rax, rdx; ret
READ_TSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")
SAID = b"a shell"


def missing():
    """Why nothing is measured here; None: all is there."""
    if not shutil.which(QEMU) or not shutil.which("mkfs.erofs"):
        return "no QEMU or erofs-utils here: scripts/deps vm"
    for path, how in ((KERNEL / "vmlinux", "cargo xtask kernel"), (GUEST, "cargo xtask guest --release")):
        if not path.exists():
            return f"{path} is missing: {how}"
    return None


def tsc_khz():
    """How fast this host's clock counter runs, measured as the agent does it: the guest need not find out."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(READ_TSC)
    ticks = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))

    def reading():
        """The one of some in which the least came between counter and clock."""
        readings = []
        for _ in range(TSC_READINGS):
            before, now = ticks(), time.monotonic_ns()
            readings.append((ticks() - before, before, now))
        return min(readings)[1:]

    first, began = reading()
    time.sleep(TSC_MEASURED_SECONDS)
    last, ended = reading()
    return (last - first) * 1_000_000 // (ended - began)


class Bare:
    """QEMU with the machine of a task, as far as a shell needs it, and nothing around it."""

    def __init__(self, home, accelerator):
        root = home / "bare"
        (root / "bin").mkdir(parents=True)
        (root / "dev").mkdir()
        shutil.copy(shutil.which("busybox"), root / "bin/busybox")
        applets = ["sh", "ts", "sleep"]
        for applet in applets:
            (root / "bin" / applet).symlink_to("busybox")
        # The shell that is come to runs the task's command.
        init = root / "init"
        init.write_text(f"#!/bin/sh\n{COMMAND[-1]}\necho {SAID.decode()}\nwhile true; do sleep 9; done\n")
        init.chmod(0o755)
        os.mknod(root / "dev/console", 0o600 | 0o020000, os.makedev(5, 1))
        names = "\n".join([".", "bin", "bin/busybox", *(f"bin/{applet}" for applet in applets), "dev", "dev/console", "init"])
        self.initramfs = home / "bare.cpio"
        with open(self.initramfs, "wb") as archive:
            subprocess.run(["busybox", "cpio", "-o", "-H", "newc"], input=names.encode(), stdout=archive, stderr=subprocess.DEVNULL, cwd=root, check=True)
        acpi = (KERNEL / "acpi").exists()
        emulated = accelerator == "tcg"
        line = f"{LINE} {'' if acpi else 'acpi=off'} {f'{LINE_TCG} tsc_early_khz={tsc_khz()}' if emulated else ''}"
        self.command = [
            QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
            "-machine", f"microvm,acpi={'on' if acpi else 'off'},pcie=off,usb=off,rtc=auto,isa-serial=on,auto-kernel-cmdline=on",
            "-accel", f"tcg,tb-size={TRANSLATED_CODE_MIB}" if emulated else accelerator,
            "-cpu", "max" if emulated else "host", "-smp", "1", "-m", f"{MEMORY_MIB}M",
            "-kernel", KERNEL / "vmlinux", "-initrd", self.initramfs, "-append", line, "-serial", "stdio",
        ]

    def run(self):
        """Milliseconds from the command to the shell's word."""
        began = time.time_ns()
        process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            os.set_blocking(process.stdout.fileno(), False)
            said = b""
            while SAID not in said:
                if process.poll() is not None or time.time_ns() - began > SECONDS_MAX * 1e9:
                    raise RuntimeError(f"bare QEMU does not come to a shell: {said.decode(errors='replace')}")
                said += process.stdout.read() or b""
                time.sleep(0.001)
            return (time.time_ns() - began) / 1e6
        finally:
            process.kill()
            process.wait()


class Machines:
    """A Ferrogate whose tasks are in machines; gone at the end of the block."""

    def __init__(self, home, accelerator, snapshots):
        words = ["--isolation", "microvm", "--guest-kernel", KERNEL]
        words += ["--emulate"] if accelerator == "tcg" else []
        words += [] if snapshots else ["--no-snapshots"]
        folder = home / f"machines-{accelerator}-{'restored' if snapshots else 'booted'}"
        folder.mkdir(exist_ok=True)
        self.ferrogate, self.snapshots = Ferrogate(folder, words), snapshots

    def __enter__(self):
        try:
            self.ferrogate.up()
            self.tasks = Tasks(self.ferrogate)
            self.tasks.define("say", COMMAND)
            self.tasks.define("idle", ["sleep", "3600"])
            self.say()
            end = time.monotonic() + SECONDS_MAX
            while self.snapshots and not self.status()["snapshots"]["ready"]:
                if time.monotonic() > end:
                    raise RuntimeError(f"no snapshot after {SECONDS_MAX} s: {self.status()['snapshots']}")
                time.sleep(0.1)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.ferrogate.down()

    def status(self):
        return json.loads(self.ask("status"))

    def ask(self, *words):
        words = [FERROGATE, words[0], "--data-dir", self.ferrogate.data, "--output", "json", *words[1:]]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def say(self, count=1):
        """Until the last one's first output, and what each task's machine took to take calls, in ms."""
        arns, _, accepted = self.tasks.run("say", count)
        # Asked seldom: an emulated processor and who asks share two real ones.
        self.tasks.wait(arns, "STOPPED", period=0.5)
        last = max(time_said(self.ferrogate.output(arn)) for arn in arns)
        timings = json.loads(self.ask("ps", "--all", "--timing", ""))
        machines = []
        for task in timings:
            if task["taskArn"] in arns:
                if task["restored"] is None:
                    raise RuntimeError(f"{task['taskArn']} has no machine")
                steps = [step for step in task["steps"] if step["step"].startswith("machine: ")]
                ready = next(step for step in steps if step["step"] == "machine: ready")
                took = ready["beganMs"] + ready["tookMs"] - min(step["beganMs"] for step in steps)
                machines.append((took, task["restored"]))
        return (last - accepted) / 1e6, machines


def vm_memory(pid):
    """Bytes of a machine's program beyond its guest's memory, private and shared, and of the guest's that is in memory."""
    private = shared = guest = 0
    inside = False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if "-" in name and name.split(" ")[0].count("-") == 1:
            begin, end = (int(part, 16) for part in name.split(" ")[0].split("-"))
            # A file of its own, or one anonymous mapping of the guest's size.
            inside = line.endswith("/memory") or end - begin == MEMORY_MIB << 20
        elif name in ("Private_Clean", "Private_Dirty", "Shared_Clean", "Shared_Dirty"):
            size = int(rest.split()[0]) * 1024
            if inside:
                guest += size
            elif name.startswith("Private"):
                private += size
            else:
                shared += size
    return private, shared, guest


def own_memory(pid):
    fields = {}
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) * 1024
    private = fields["Private_Clean"] + fields["Private_Dirty"]
    return private, fields["Rss"] - private


def idle_memory(machines):
    """Of one idle task each: private and shared beyond the guest's memory, the guest's own."""
    arns, _, _ = machines.tasks.run("idle", IDLE)
    machines.tasks.wait(arns, "RUNNING")
    sums = []
    for shim in machines.ferrogate.shims():
        private, shared = own_memory(shim)
        guest = 0
        for child in pathlib.Path(f"/proc/{shim}/task/{shim}/children").read_text().split():
            of = vm_memory(child)
            private, shared, guest = private + of[0], shared + of[1], guest + of[2]
        sums.append((private, shared, guest))
    machines.tasks.stop(arns)
    return [sum(values) / len(sums) for values in zip(*sums)]


def works(home, accelerator):
    try:
        with Machines(home, accelerator, snapshots=False):
            return True
    except (RuntimeError, subprocess.CalledProcessError):
        return False


def one_kernel_per_task(tasks, home):
    why_not = missing()
    if why_not:
        return [], [f"Micro-VMs are not measured: {why_not}."]
    # One at a time: the other one's address is the same.
    tasks.ferrogate.down()
    try:
        accelerator = "kvm" if os.path.exists("/dev/kvm") and works(home, "kvm") else "tcg"
        return measured(home, accelerator)
    finally:
        tasks.ferrogate.up()


def measured(home, accelerator):
    name = accelerator.upper()
    bare = Bare(home, accelerator)
    bare.run()
    bare_ms = [bare.run() for _ in range(SAMPLES)]
    rows = [Row(f"to a shell, command started → ({name})", "bare QEMU, same kernel", ms(median(bare_ms)), ms(p95(bare_ms)))]
    notes = []
    booted = {}
    for snapshots in (False, True):
        with Machines(home, accelerator, snapshots) as machines:
            who = "Ferrogate: restored" if snapshots else "Ferrogate: booted"
            said = [machines.say() for _ in range(SAMPLES)]
            wrong = sum(restored != snapshots for _, of in said for _, restored in of)
            if wrong:
                notes.append(f"{wrong} of {SAMPLES} machines were not {who.split(': ')[1]} ({name})")
            first = [whole for whole, _ in said]
            ready = [took for _, of in said for took, _ in of]
            if snapshots:
                of_first = f"{median(first) / booted['first']:.2f}× of booted, {median(first) / median(bare_ms):.2f}× of bare QEMU (goal: under 1.3×)"
                of_ready = f"{median(ready) / booted['ready']:.2f}× of booted (goal: under 0.25×)"
            else:
                of_first = f"{median(first) / median(bare_ms):.2f}× of bare QEMU (goal: under 1.3×)"
                of_ready = ""
                booted = {"first": median(first), "ready": median(ready)}
            rows.append(Row(f"first output, RunTask accepted → ({name})", who, ms(median(first)), ms(p95(first)), of_first))
            rows.append(Row(f"machine takes calls, started → ({name})", who, ms(median(ready)), ms(p95(ready)), of_ready))
            at_once, of = machines.say(AT_ONCE)
            rows.append(Row(f"{AT_ONCE} at once, the last one's first output ({name})", who, ms(at_once), ms(max(took for took, _ in of))))
            private, shared, guest = idle_memory(machines)
            size = f"private {private / 1e6:.1f} MB, shared {shared / 1e6:.1f} MB"
            rows.append(Row(f"idle machine beyond its guest's memory, with its shim ({name})", who, size, "", f"the guest's own in memory: {guest / 1e6:.1f} MB"))
    return rows, notes
