"""Tries the ways out that need a system call, and tells how each ended."""
import ctypes, errno, json, os, platform, socket, struct, subprocess, sys

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"


def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[
        ctypes.c_char_p(arg) if isinstance(arg, bytes) else ctypes.c_long(arg) for arg in args])
    return "OK" if result >= 0 else errno.errorcode.get(ctypes.get_errno(), "?")


def attempt(function, *args):
    try:
        function(*args)
        return "OK"
    except OSError as error:
        return errno.errorcode.get(error.errno, repr(error))


def in_child(function):
    """The result of a call that may end the process: by a pipe, or the signal."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, function().encode())
        os._exit(0)
    os.close(write)
    told = os.read(read, 100).decode()
    os.close(read)
    _, status = os.waitpid(pid, 0)
    return told or (f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "nothing")


# name: (x86-64, arm64), None where there is none
N = {
    "clone": (56, 220), "unshare": (272, 97), "clone3": (435, 435), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "open_tree": (428, 428), "move_mount": (429, 429), "mount_setattr": (442, 442),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "acct": (163, 89),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "iopl": (172, None),
    "ioperm": (173, None), "modify_ldt": (154, None), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438), "kcmp": (312, 272),
    "process_madvise": (440, 440), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "memfd_secret": (447, 447), "io_setup": (206, 0), "vmsplice": (278, 75),
    "fanotify_init": (300, 262), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "sethostname": (170, 161), "setdomainname": (171, 162),
    "syslog": (103, 116), "mq_open": (240, 180), "shmget": (29, 194), "semget": (64, 190),
    "msgget": (68, 186), "mbind": (237, 235), "move_pages": (279, 239), "lookup_dcookie": (212, 18),
    "statmount": (457, 457), "listmount": (458, 458), "nfsservctl": (180, 42), "vhangup": (153, 58),
}
number = {name: pair[0 if X86 else 1] for name, pair in N.items()}
buffer = ctypes.create_string_buffer(4096)
at = ctypes.addressof(buffer)

seen = {}
denied = seen["denied"] = {}
skip = ("clone", "clone3", "io_uring_setup", "io_uring_enter", "io_uring_register")
for name, value in number.items():
    if value is not None and name not in skip:
        denied[name] = in_child(lambda: call(value, at, at, at, at, 0))
denied["setns by fd"] = attempt(lambda: os.setns(os.open("/proc/self/ns/net", os.O_RDONLY), 0)) \
    if hasattr(os, "setns") else "EPERM"
NAMESPACES = {"NEWNS": 0x20000, "NEWCGROUP": 0x2000000, "NEWUTS": 0x4000000, "NEWIPC": 0x8000000,
              "NEWUSER": 0x10000000, "NEWPID": 0x20000000, "NEWNET": 0x40000000}
for name, flag in NAMESPACES.items():
    denied["clone " + name] = in_child(lambda: call(number["clone"], flag | 17, 0, 0, 0, 0))
denied["clone NEWUSER|NEWNS"] = in_child(lambda: call(number["clone"], 0x10020000 | 17, 0, 0, 0, 0))
denied["ptrace attach 1"] = call(number["ptrace"], 16, 1, 0, 0)
denied["ptrace traceme"] = in_child(lambda: call(number["ptrace"], 0, 0, 0, 0))
denied["personality"] = call(135 if X86 else 92, 0x0040000)
denied["tiocsti"] = call(16 if X86 else 29, 0, 0x5412, at)
denied["tiocsti, wide"] = call(16 if X86 else 29, 0, 0x5412 | 1 << 32, at)
denied["tioclinux"] = call(16 if X86 else 29, 0, 0x541C, at)

absent = seen["absent"] = {}
absent["clone3"] = call(number["clone3"], at, 88)
for name in ("io_uring_setup", "io_uring_enter", "io_uring_register"):
    absent[name] = call(number[name], 4, at, 0, 0, 0, 0)

SOCKET = 41 if X86 else 198
sockets = seen["sockets"] = {}
for name, family, kind, protocol in (
        ("alg", 38, 5, 0), ("alg, wide", 38 | 1 << 32, 5, 0), ("vsock", 40, 1, 0),
        ("packet", 17, 3, 0x300), ("packet dgram", 17, 2, 0x300), ("tipc", 30, 1, 0),
        ("rds", 21, 5, 0), ("key", 15, 3, 2), ("can", 29, 3, 1), ("bluetooth", 31, 3, 1),
        ("nfc", 39, 5, 0), ("xdp", 44, 3, 0), ("raw", 2, 3, 1), ("raw 6", 10, 3, 58),
        ("raw ip", 2, 3, 255), ("ping", 2, 2, 1), ("ping 6", 10, 2, 58), ("sctp", 2, 1, 132),
        ("mptcp", 2, 1, 262), ("udplite", 2, 2, 136), ("netlink audit", 16, 3, 9),
        ("netlink netfilter", 16, 3, 12), ("netlink uevent", 16, 3, 15), ("netlink diag", 16, 3, 4),
        ("smc", 43, 1, 0), ("unix, wide", 1 | 1 << 32, 1, 0)):
    sockets[name] = call(SOCKET, family, kind, protocol)

if X86:
    # int 0x80: mov eax, 102 (socketcall); mov ebx, 1; int 0x80; ret
    code = b"\xb8\x66\x00\x00\x00\xbb\x01\x00\x00\x00\xcd\x80\xc3"
    def int80():
        import mmap
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        return "OK" if ctypes.CFUNCTYPE(ctypes.c_int)(address)() >= 0 else "refused"
    seen["int80"] = in_child(int80)
    seen["x32"] = in_child(lambda: call(0x40000000 | 39))

files = seen["files"] = {}
def write(path, text=b"x"):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)
for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/kernel/hostname",
             "/proc/sys/vm/overcommit_memory", "/proc/sys/fs/binfmt_misc/register", "/proc/1/mem",
             "/proc/1/oom_score_adj", "/sys/kernel/uevent_helper", "/sys/power/state",
             "/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/memory/release_agent",
             "/sys/fs/cgroup/rdma/release_agent", "/sys/fs/cgroup/cgroup.procs",
             "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/pids/pids.max",
             "/isol8/kit/init", "/isol8/link/sock", "/proc/self/uid_map", "/proc/self/gid_map",
             "/etc/passwd", "/usr/bin/env", "/bin/sh"):
    files["write " + path] = attempt(write, path)
for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/kmsg",
             "/proc/vmallocinfo", "/dev/mem", "/dev/kvm", "/dev/kmsg", "/dev/fuse", "/dev/net/tun",
             "/dev/sda", "/dev/vda", "/dev/loop0", "/dev/vsock", "/proc/1/environ",
             "/proc/sys/kernel/cad_pid/x", "/sys/firmware/acpi/tables/DSDT",
             "/sys/kernel/debug/x", "/sys/kernel/security/x", "/etc/shadow"):
    def read(path=path):
        with open(path, "rb", buffering=0) as file:
            # What an engine masks may be there and empty.
            if not file.read(1):
                raise OSError(errno.ENODATA, "")
    files["read " + path] = attempt(read)
files["mknod"] = attempt(os.mknod, "/sandbox/disk", 0o60600, os.makedev(254, 0))
files["mknod null"] = attempt(os.mknod, "/sandbox/null", 0o20600, os.makedev(1, 3))
seen["interrupts"] = "OK" if attempt(lambda: open("/proc/interrupts").read(1)) == "OK" and open("/proc/interrupts").read(1) else "masked"
seen["powercap"] = os.path.isdir("/sys/devices/virtual/powercap") and os.listdir("/sys/devices/virtual/powercap")

identity = seen["identity"] = {}
identity["setuid"] = attempt(os.setuid, 0)
identity["setgid"] = attempt(os.setgid, 0)
identity["setgroups"] = attempt(os.setgroups, [0])
identity["setresuid"] = attempt(os.setresuid, 0, 0, 0)
identity["chown"] = attempt(os.chown, "/sandbox/main.py", 0, 0)

# A copy of `id` with the setuid bit: it must say who we are.
import shutil
copy = shutil.copy(shutil.which("id"), "/sandbox/id")
seen["chmod u+s"] = attempt(os.chmod, copy, 0o6755)
me = str(os.getuid())
seen["setuid copy"] = subprocess.run([copy, "-u"], capture_output=True, text=True).stdout.strip() == me
found = []
for folder in ("/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/lib"):
    for base, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            try:
                if os.lstat(path).st_mode & 0o6000:
                    found.append(path)
            except OSError:
                pass
seen["setuid files gain"] = [path for path in found if os.path.basename(path) in ("su", "sudo", "mount", "newgrp")
                             and subprocess.run([path, "--help"], capture_output=True).returncode < 0]

# ES10: a program that is /proc/self/exe, and the binary behind it.
with open("/sandbox/loop", "w") as file:
    file.write("#!/proc/self/exe\n")
os.chmod("/sandbox/loop", 0o755)
seen["#!/proc/self/exe"] = attempt(lambda: subprocess.run(["/sandbox/loop"], check=False, timeout=5))
writes = set()
for pid in os.listdir("/proc"):
    if pid.isdigit():
        writes.add(attempt(lambda: os.close(os.open(f"/proc/{pid}/exe", os.O_WRONLY))))
seen["write exe"] = sorted(writes)

# ES11: descriptors that lead to the host.
seen["fd paths"] = sorted({attempt(os.listdir, f"/proc/self/fd/{fd}/../../../../../root") for fd in range(3, 40)}
                          | {attempt(os.listdir, f"/proc/1/cwd/../../root")})
canary = []
for path in ("/root/isol8-canary", "/proc/1/root/root/isol8-canary", "/host/root/isol8-canary",
             "/proc/self/cwd/../root/isol8-canary", "/proc/self/root/root/isol8-canary",
             "/.oldroot/root/isol8-canary", "/oldroot/root/isol8-canary", "/newroot/root/isol8-canary",
             "/isol8/link/../../root/isol8-canary", "/isol8/kit/../../../root/isol8-canary"):
    canary.append(attempt(lambda: open(path).read()))
for fd in range(0, 256):
    canary.append(attempt(lambda: os.open("root/isol8-canary", os.O_RDONLY, dir_fd=fd)))
seen["canary"] = sorted(set(canary))
print(json.dumps(seen))
