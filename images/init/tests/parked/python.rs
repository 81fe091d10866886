//! Python programs.

use isol8_core::runtime::Runtime;

use super::{Case, case, check};

const STATE: &[Case] = &[
    case(
        "argv and main",
        "main.py",
        "import sys
print(sys.argv, sys.orig_argv, sys.executable, __name__, __file__)
print(sorted(globals()), __spec__, __loader__, __builtins__, __doc__)
print(open('/proc/self/cmdline').read().split('\\0'))",
    ),
    case("sys.path", "main.py", "import sys\nprint(sys.path, sys.meta_path, sys.path_hooks)"),
    case("importer cache", "main.py", "import sys\nprint(list(sys.path_importer_cache))"),
    case("sys.modules", "main.py", "import sys\nprint(sorted(sys.modules))"),
    case(
        "order of sys.modules",
        "main.py",
        "import sys\nprint([m for m in sys.modules if m != 'sitecustomize'])",
    ),
    case(
        "flags",
        "main.py",
        "import sys
print(sys.flags, sys.warnoptions, sys._xoptions, sys.dont_write_bytecode, sys.pycache_prefix)
print(sys.gettrace(), sys.getprofile(), sys.getrecursionlimit(), sys.getswitchinterval())
print(sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__)
print(sys.exc_info(), hasattr(sys, 'last_exc'), hasattr(sys, 'last_type'))",
    ),
    Case {
        env: &[("ZED", "1"), ("ALPHA", "a=b=c"), ("EMPTY", ""), ("ÜML", "ä\nö"), ("HOME", "/tmp")],
        ..case(
            "environment",
            "main.py",
            "import os, subprocess, ctypes
print(list(os.environ.items()), list(os.environb.items()))
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
print([getenv(n) for n in (b'ALPHA', b'EMPTY', b'PYTHONPATH', b'ISOL8_PARK_FD', b'HOME')])
print(subprocess.run(['/usr/bin/env'], capture_output=True, text=True).stdout)
print(os.path.expanduser('~'))",
        )
    },
    Case {
        cwd: "/tmp",
        ..case(
            "folder",
            "main.py",
            "import os\nprint(os.getcwd(), os.listdir('.'), os.path.abspath('x'), os.environ.get('PWD'))",
        )
    },
    case(
        "site",
        "main.py",
        "import site, sysconfig, sys
print(site.ENABLE_USER_SITE, site.USER_SITE, site.USER_BASE, site.PREFIXES)
print(sys.prefix, sys.base_prefix, sysconfig.get_paths())
print('sitecustomize' in sys.modules, 'usercustomize' in sys.modules)
try:
    import sitecustomize
    print(sitecustomize.__file__)
except ImportError as error:
    print(repr(error))",
    ),
    case(
        "encodings and streams",
        "main.py",
        "import sys, locale, time
for s in (sys.stdin, sys.stdout, sys.stderr):
    print(s.name, s.mode, s.encoding, s.errors, s.line_buffering, s.write_through, s.isatty())
print(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors(), locale.getlocale())
print(locale.setlocale(locale.LC_ALL), time.tzname, time.timezone, 'ä€😀')",
    ),
    case(
        "place in the queue when memory is full",
        "main.py",
        "print(open('/proc/self/oom_score_adj').read())",
    ),
    case(
        "descriptors and process",
        "main.py",
        "import os, resource
print(sorted(os.listdir('/proc/self/fd')), open('/dev/null').fileno())
print(os.getpid() == os.getsid(0) == os.getpgid(0), os.getppid(), oct(os.umask(0)))
print([resource.getrlimit(r) for r in range(16)])
print([l for l in open('/proc/self/status') if l.startswith(('Sig', 'Shd', 'Cap', 'Threads'))])",
    ),
    case(
        "collector and threads",
        "main.py",
        "import gc, sys, threading
print(gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), gc.garbage, gc.callbacks)
print(threading.enumerate(), threading.main_thread().ident == threading.get_ident())
print(len(sys._current_frames()), threading.active_count())
t = threading.Thread(target=lambda: print('in', threading.current_thread().name))
t.start(); t.join()",
    ),
    case(
        "signal handlers",
        "main.py",
        "import signal
for n in sorted(signal.valid_signals()):
    print(n, signal.getsignal(n))
print(signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.set_wakeup_fd(-1))",
    ),
    case("hook leaves no object", "main.py", "import gc
print([type(o).__name__ for o in gc.get_objects() if 'isol8' in str(getattr(o, '__file__', ''))])
print([f for f in gc.get_objects() if callable(f) and 'isol8' in str(getattr(getattr(f, '__code__', None), 'co_filename', ''))])"),
];

const ENDS: &[Case] = &[
    case(
        "uncaught",
        "main.py",
        "def f(n):\n    return 1 // n\n\nf(0)",
    ),
    case(
        "uncaught with cause and notes",
        "main.py",
        "try:\n    {}['k']\nexcept KeyError as e:\n    raise ValueError('bad') from e",
    ),
    case("syntax error", "main.py", "x = 1\nif x\n  print(x)"),
    case(
        "indentation and encoding",
        "main.py",
        "# coding: no-such\nprint(1)",
    ),
    case(
        "exit with text",
        "main.py",
        "import sys\nsys.exit('gone wrong')",
    ),
    case(
        "exit with code",
        "main.py",
        "print('x', end='')\nraise SystemExit(300 + 7)",
    ),
    case(
        "exit behind flush",
        "main.py",
        "import os\nprint('seen')\nos._exit(9)",
    ),
    case(
        "recursion",
        "main.py",
        "import sys\nsys.setrecursionlimit(60)\ndef f(): f()\nf()",
    ),
    case(
        "atexit",
        "main.py",
        "import atexit\natexit.register(print, 'last')\natexit.register(lambda: 1 / 0)\natexit.register(print, 'first')",
    ),
    case(
        "unraisable and thread errors",
        "main.py",
        "import threading
class C:
    def __del__(self): raise RuntimeError('in del')
C()
t = threading.Thread(target=lambda: 1 / 0, name='T'); t.start(); t.join()",
    ),
    case(
        "death by signal",
        "main.py",
        "import os, signal\nprint('x', flush=True)\nos.kill(os.getpid(), signal.SIGTERM)",
    ),
    case(
        "interrupt",
        "main.py",
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nfinally:\n    print('cleaned')",
    ),
    case(
        "abort",
        "main.py",
        "import os\nprint('x', flush=True)\nos.abort()",
    ),
    case(
        "faulthandler",
        "main.py",
        "import faulthandler, sys, ctypes
print(faulthandler.is_enabled(), flush=True)
faulthandler.dump_traceback(all_threads=False)
faulthandler.enable()
def g(): ctypes.string_at(0)
g()",
    ),
    case(
        "warnings",
        "main.py",
        "import warnings, sys
print(warnings.filters)
warnings.warn('old', DeprecationWarning)
warnings.warn('user')
'\\d'
open('/dev/null')
assert (1, 'x')",
    ),
    case("memory error", "main.py", "print('x')\nbytearray(1 << 60)"),
    case(
        "broken pipe",
        "main.py",
        "import os\nr, w = os.pipe(); os.close(r)\nos.write(w, b'x')",
    ),
];

const WORK: &[Case] = &[
    Case {
        stdin: Some("one\nzwei ä\n\nlast"),
        ..case("stdin", "main.py", "import sys\nprint(input('? '))\nprint(sys.stdin.readlines())\ntry: input()\nexcept EOFError as e: print(repr(e))")
    },
    case("no stdin", "main.py", "import sys\nprint(repr(sys.stdin.read()))\ninput()"),
    case("big stdout at exit", "main.py", "import sys\nsys.stdout.write('x' * 5_000_000 + '\\n')\nsys.stderr.write('e' * 300_000)"),
    case(
        "fork",
        "main.py",
        "import multiprocessing as m
if __name__ == '__main__':
    m.set_start_method('fork')
    with m.Pool(2) as p: print(p.map(abs, [-1, -2, 3]))",
    ),
    case(
        "spawn",
        "main.py",
        "import multiprocessing as m, sys, os
def f(x): return x * x, sys.argv, 'PYTHONPATH' in os.environ, [p for p in sys.path if 'isol8' in p]
if __name__ == '__main__':
    m.set_start_method('spawn')
    with m.Pool(1) as p: print(p.map(f, [2, 3]))",
    ),
    case(
        "child python",
        "main.py",
        "import subprocess, sys
code = 'import sys, os; print(sys.path, sorted(os.environ), sys.flags, sys.orig_argv)'
print(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True))",
    ),
    case(
        "asyncio",
        "main.py",
        "import asyncio
async def main():
    p = await asyncio.create_subprocess_exec('/bin/echo', 'hi', stdout=asyncio.subprocess.PIPE)
    print((await p.communicate())[0], await asyncio.gather(*[asyncio.sleep(0.01, n) for n in range(3)]))
asyncio.run(main())",
    ),
    Case {
        files: &[("lib/__init__.py", ""), ("lib/a.py", "import sys\nX = __name__, __file__\ndef f(): raise OSError(5, 'x')")],
        ..case("own modules", "main.py", "import lib.a, os\nprint(lib.a.X, sorted(os.listdir('lib')))\nlib.a.f()")
    },
    case(
        "source of oneself",
        "main.py",
        "import inspect, linecache, traceback
def f():
    # a comment
    return inspect.getsource(f)
print(f(), linecache.getline(__file__, 2), list(linecache.cache))
traceback.print_stack()",
    ),
    case(
        "pickle and dataclass of main",
        "main.py",
        "import pickle, dataclasses
@dataclasses.dataclass
class P:
    x: int
print(pickle.loads(pickle.dumps(P(3))), P.__module__)",
    ),
    case(
        "executors",
        "main.py",
        "from concurrent.futures import ThreadPoolExecutor, ProcessPoolExecutor
if __name__ == '__main__':
    with ThreadPoolExecutor(3) as t: print(list(t.map(str, range(5))))
    with ProcessPoolExecutor(2) as p: print(list(p.map(str, range(5))))",
    ),
    case("libraries", "main.py", "import ssl, sqlite3, json, decimal, hashlib, socket, tempfile, random\nprint(hashlib.sha256(b'x').hexdigest(), sqlite3.connect(':memory:').execute('select 1').fetchall(), tempfile.gettempdir(), ssl.OPENSSL_VERSION)"),
    case("import of main as module", "main.py", "import sys\nif __name__ == '__main__':\n    import main\n    print(main is sys.modules['__main__'], main.__file__, main.__spec__)\nelse:\n    print('twice')"),
];

#[test]
fn what_python_shows_of_itself_is_the_same() {
    check(Runtime::Python, STATE);
}

#[test]
fn how_python_ends_is_the_same() {
    check(Runtime::Python, ENDS);
}

#[test]
fn what_python_does_is_the_same() {
    check(Runtime::Python, WORK);
}
