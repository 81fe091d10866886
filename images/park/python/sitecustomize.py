"""Parks a starting python until its program comes.

`site` imports this module as its last step but one, from a folder that only a
parked interpreter has on PYTHONPATH. It waits for the program's folder and
environment, takes every trace of itself away and lets the interpreter go on to
open its script, which does not notice: see the comparison test beside init.

What remains different is what the kernel keeps of the start: /proc/self/environ
and the start time.
"""


def _read(os, fd, size):
    data = b""
    while len(data) < size:
        piece = os.read(fd, size - len(data))
        if not piece:
            # Nobody will come any more.
            os._exit(0)
        data += piece
    return data


def _wait(os):
    """Blocks until there is a program, and puts its folder and environment on."""
    fd = int(os.environ["ISOL8_PARK_FD"])
    os.write(fd, b"\0")
    size = int.from_bytes(_read(os, fd, 4), "little")
    cwd, _entry, *variables = _read(os, fd, size).split(b"\0")
    os.close(fd)
    os.chdir(cwd)
    # In their order, which programs see.
    os.environ.clear()
    for variable in variables:
        name, _, value = variable.partition(b"=")
        os.environb[name] = value


def _warm(sys, folders):
    """Lets the import system read the folders that every import looks into. It
    looks again when one of them changes."""
    for finder in sys.meta_path:
        if getattr(finder, "__name__", "") == "PathFinder":
            finder.find_spec("sitecustomize", folders)


def _key(site, path):
    """How `site` compares folders."""
    return site.makepath(path)[1]


def _add_user_site(os, sys):
    """Does for a user site that was made meanwhile what `site` does at a start:
    it stands before the first folder of site-packages."""
    import site

    user_site = site.getusersitepackages()
    if not site.ENABLE_USER_SITE or not os.path.isdir(user_site) or user_site in sys.path:
        return
    shared = set(site.getsitepackages())
    first = next((i for i, p in enumerate(sys.path) if p in shared), len(sys.path))
    behind = sys.path[first:]
    del sys.path[first:]
    known = site.addusersitepackages({_key(site, p) for p in sys.path})
    sys.path.extend(path for path in behind if _key(site, path) not in known)


def _park():
    import os
    import sys

    ours = os.path.dirname(os.path.abspath(__file__))
    others = [path for path in sys.path if path != ours]
    _warm(sys, others)
    _wait(os)
    sys.path[:] = others
    sys.path_importer_cache.pop(ours, None)
    _add_user_site(os, sys)
    # What a plain start would have found under this name.
    del sys.modules["sitecustomize"]
    import sitecustomize  # noqa: F401


try:
    _park()
finally:
    # They and their module's names hold each other: not to be found by the
    # collector, or by a program that asks it.
    del _read, _wait, _warm, _key, _add_user_site, _park
