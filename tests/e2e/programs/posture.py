"""Tells what a sandbox is, as seen by a program in it: one JSON object."""
import errno, json, os, resource, socket, stat, subprocess


def attempt(call, *args):
    try:
        call(*args)
        return "OK"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def read(path):
    with open(path, "rb") as file:
        return file.read()


status = dict(line.split(":\t", 1) for line in read("/proc/self/status").decode().splitlines())
seen = {name: status[name].split() for name in status if name.startswith(("Uid", "Gid", "Groups",
        "Cap", "NoNewPrivs", "Seccomp"))}
seen["namespaces"] = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
descriptors = []
for number in os.listdir("/proc/self/fd"):
    try:
        os.readlink(f"/proc/self/fd/{number}")
        descriptors.append(int(number))
    except OSError:
        pass  # the listing's own
seen["descriptors"] = sorted(descriptors)
seen["env"] = dict(os.environ)
seen["mounts"] = {}
for line in read("/proc/self/mountinfo").decode().splitlines():
    fields, rest = line.split(" - ")
    fields = fields.split(" ")
    seen["mounts"][fields[4]] = {"options": fields[5].split(","), "type": rest.split(" ")[0],
                                 "super": rest.split(" ")[2].split(",")}
seen["limits"] = {name[7:].lower(): resource.getrlimit(getattr(resource, name))
                  for name in dir(resource) if name.startswith("RLIMIT_")}
seen["interfaces"] = [name for _, name in socket.if_nameindex()]
seen["hostname"] = socket.gethostname()
seen["cwd"] = os.getcwd()
seen["umask"] = os.umask(0o077)
seen["pids"] = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
seen["self"] = os.getpid()
for folder in ("/sandbox", "/tmp", "/dev/shm"):
    seen.setdefault("content", {})[folder] = sorted(os.listdir(folder))

writable, sockets, setuid = [], [], []
for folder, folders, files in os.walk("/"):
    if folder in ("/proc", "/sys", "/usr/share", "/usr/include"):
        folders.clear()
        continue
    probe = os.path.join(folder, ".isol8-probe")
    if attempt(lambda: os.close(os.open(probe, os.O_CREAT | os.O_WRONLY, 0o600))) == "OK":
        writable.append(folder)
        os.unlink(probe)
    for name in files:
        try:
            mode = os.lstat(os.path.join(folder, name)).st_mode
        except OSError:
            continue
        if stat.S_ISSOCK(mode):
            sockets.append(os.path.join(folder, name))
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            setuid.append(os.path.join(folder, name))
seen["writable"] = sorted(writable)
seen["sockets"] = sockets
seen["setuid"] = setuid
seen["reachable"] = [path for path in sockets
                     if attempt(socket.socket(socket.AF_UNIX).connect, path) == "OK"]
seen["abstract"] = [line.split()[-1] for line in read("/proc/net/unix").decode().splitlines()[1:]
                    if line.split()[-1].startswith("@")]

seen["runs from"] = {}
for folder in ("/sandbox", "/tmp", "/dev/shm"):
    script = os.path.join(folder, "script")
    with open(script, "w") as file:
        file.write("#!/bin/sh\nexit 0\n")
    os.chmod(script, 0o700)
    seen["runs from"][folder] = attempt(subprocess.check_call, [script])
    os.unlink(script)

seen["pid 1"] = {name: attempt(read, f"/proc/1/{name}") for name in ("environ", "mem", "maps", "auxv", "io")}
seen["pid 1"]["exe"] = attempt(os.readlink, "/proc/1/exe")
seen["pid 1"]["root"] = attempt(os.listdir, "/proc/1/root/")
seen["pid 1"]["fd"] = attempt(os.listdir, "/proc/1/fd")
seen["devices"] = sorted(name for name in os.listdir("/dev")
                         if stat.S_ISCHR(os.lstat("/dev/" + name).st_mode)
                         or stat.S_ISBLK(os.lstat("/dev/" + name).st_mode))
print(json.dumps(seen))
