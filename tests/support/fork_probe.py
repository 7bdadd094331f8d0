"""A program that tells what Python and the kernel say of it; tests/e2e/test_forks.py starts and forks it."""


def main() -> None:
    """report: what it is told above, as JSON. run CODE: runs that."""
    import sys

    if sys.argv[1] == "run":
        exec(sys.argv[2], {})
    else:
        tell(sys)


def tell(sys) -> None:  # type: ignore[no-untyped-def]
    modules = sorted(sys.modules)
    before = {
        name: repr(value) for name, value in sys.modules["__main__"].__dict__.items() if name not in ("main", "tell")
    }

    import atexit
    import gc
    import json
    import locale
    import logging
    import os
    import re
    import resource
    import signal
    import threading
    import warnings

    def stream(each):  # type: ignore[no-untyped-def]
        raw = getattr(each.buffer, "raw", each.buffer)
        return [
            *(each.name, each.mode, each.encoding, each.errors, each.newlines, each.line_buffering, each.write_through),
            *(type(each.buffer).__name__, raw.name, raw.mode, raw.closefd, each.fileno(), each.isatty()),
        ]

    def lines(name):  # type: ignore[no-untyped-def]
        with open(f"/proc/self/{name}") as file:
            return file.read().splitlines()

    def opened(number):  # type: ignore[no-untyped-def]
        try:
            return re.sub(r":\[\d+\]", "", os.readlink(f"/proc/self/fd/{number}")), os.get_inheritable(int(number))
        except OSError:
            return None  # that of the listing itself

    status = [line for line in lines("status") if line.startswith(KEPT)]
    with open("/proc/self/cmdline", "rb") as file:
        words = file.read().decode(errors="surrogateescape")
    with open("/proc/self/environ", "rb") as file:
        variables = file.read().decode(errors="surrogateescape")
    told = {
        "argv": sys.argv,
        "orig_argv": sys.orig_argv,
        "path": sys.path,
        "flags": repr(sys.flags),
        "options": [sys.warnoptions, sys._xoptions, sys.dont_write_bytecode, sys.pycache_prefix],
        "places": [sys.executable, sys._base_executable, sys.prefix, sys.exec_prefix],
        "modules": modules,
        "main": before,
        "streams": [stream(each) for each in (sys.stdin, sys.stdout, sys.stderr)],
        "same streams": [sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__],
        "environment": list(os.environ.items()),
        "first environment": [[os.fsdecode(each) for each in item] for item in sys.modules["posix"].environ.items()],
        "folder": os.getcwd(),
        "signals": {str(number): repr(signal.getsignal(number)) for number in signal.valid_signals()},
        "mask": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
        "wakeup": signal.set_wakeup_fd(-1),
        "group": os.getpgid(0),
        "session": os.getsid(0),
        "parent": os.getppid(),
        "limits": lines("limits"),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "status": status,
        "cgroup": lines("cgroup"),
        "comm": lines("comm"),
        "words": words,
        "variables": variables,
        "exe": os.readlink("/proc/self/exe"),
        "descriptors": {number: opened(number) for number in os.listdir("/proc/self/fd")},
        "tasks": [len(os.listdir("/proc/self/task")), [each.name for each in threading.enumerate()]],
        "main thread": threading.main_thread().ident == threading.get_ident(),
        "native": threading.get_native_id() == os.getpid() == threading.main_thread().native_id,
        "warnings": [repr(each) for each in warnings.filters],
        "logging": [logging.root.level, repr(logging.root.handlers), sorted(logging.root.manager.loggerDict)],
        "collector": [gc.get_threshold(), gc.isenabled(), gc.get_freeze_count(), gc.get_debug()],
        "at exit": atexit._ncallbacks(),
        "locale": [locale.setlocale(locale.LC_ALL), locale.getpreferredencoding(False)],
        "encodings": [sys.getfilesystemencoding(), sys.getfilesystemencodeerrors(), sys.getdefaultencoding()],
        "recursion": sys.getrecursionlimit(),
        "switching": sys.getswitchinterval(),
        "traced": [sys.gettrace(), sys.getprofile(), "faulthandler" in modules],
        "children": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
    }
    print(json.dumps(told))


KEPT = (
    *("Name", "Umask", "TracerPid", "Uid", "Gid", "Groups", "Kthread", "Threads", "SigPnd"),
    *("ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"),
    *("Seccomp", "Cpus_allowed", "THP_enabled"),
)
if __name__ == "__main__":
    main()
