"""What forks programs for support/forks.py: a process that has imported what programs of one kind import.

A program that it forks has everything as Python has it behind its start: arguments, environment, descriptors,
streams, signals, modules, `__main__`; and in /proc, too. tests/e2e/test_forks.py compares all of that.

The argument is the number of the channel to the test. Standard input has the option of Python (-m or -c) and its value,
the modules, and the variables that may differ: looking for programs by arguments does not find this one.
"""

_FRESH = dict(globals())  # of __main__, as Python makes it for every program

import _signal  # noqa: E402
import marshal  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

OPTION, VALUE, IMPORTED, MAY_DIFFER = marshal.loads(os.read(0, 1 << 16))
JOB_BYTES_MAX = 128 << 10
DESCRIPTORS = 4
PR_SET_MM = 35
PR_SET_MM_MAP = 14
READY = b"ready"
COPIES_ENVIRONMENT = "wsgiref.handlers"  # when it is imported, which a program has to do again


class Watched(os._Environ):  # type: ignore[type-arg]
    """os.environ while modules are imported. What they read of it then must not differ between programs."""

    def __getitem__(self, name):  # type: ignore[no-untyped-def]
        if name in MAY_DIFFER and not _is_copied():
            raise RuntimeError(f"{name} is read by an import")
        return super().__getitem__(name)

    def __iter__(self):  # type: ignore[no-untyped-def]
        if not _is_copied():
            raise RuntimeError("an import reads the whole environment")
        return super().__iter__()


def _is_copied() -> bool:
    frame = sys._getframe()
    while frame is not None and frame.f_globals["__name__"] != COPIES_ENVIRONMENT:
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None


def main() -> None:
    """Returns only in a program, at its end."""
    if OPTION == "-c" and sys.version_info >= (3, 13):
        raise RuntimeError("this Python keeps the source of -c, in a way that is its own affair")
    blocked = _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGINT])  # of Ctrl-C the tests themselves hear
    folder = None
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # the folder of this file
        sys.path.insert(0, folder := os.getcwd() if OPTION == "-m" else "")
    if OPTION == "-m":
        import runpy
    _import()
    of_programs = dict(sys.modules)
    import _socket
    import ctypes

    os.dup2(nothing := os.open(os.devnull, os.O_RDONLY), 0)
    os.close(nothing)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.sbrk.restype = libc.malloc.restype = ctypes.c_void_p
    channel = _socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(channel.fileno(), False)
    threads = _threads()
    tops = sorted({name.partition(".")[0] for name in of_programs})
    channel.send(marshal.dumps((READY, tops)))
    room = _socket.CMSG_SPACE(4 * DESCRIPTORS)
    while True:
        payload, ancillary, _, _ = channel.recvmsg(JOB_BYTES_MAX, room)
        if not payload:
            os._exit(0)
        raw = b"".join(data for _, _, data in ancillary)
        descriptors = [int.from_bytes(raw[at : at + 4], sys.byteorder) for at in range(0, len(raw), 4)]
        told, tell = os.pipe()
        wait, go = os.pipe()
        between = os.fork()
        if between == 0:
            if os.fork():
                os._exit(0)
            os.write(tell, b"%d " % os.getpid())
            try:
                os.close(told)
                os.close(go)
                channel.close()
                arguments, environment = marshal.loads(payload)
                if OPTION == "-m" and folder is not None:
                    at = sys.path.index(folder)  # imports may have put others in front of it
                _become(arguments, environment, descriptors)
                if OPTION == "-m" and folder is not None:
                    sys.path[at] = os.getcwd()
                _name(libc, ctypes, arguments, environment)
                if threads > 1:
                    _start_blas(ctypes)
                if _threads() != threads:
                    raise RuntimeError("imports start threads that end at a fork")
            except BaseException as error:
                os.write(tell, repr(error).encode())
                os._exit(1)
            os.write(tell, READY)
            os.close(tell)
            if not os.read(wait, 1):
                os._exit(1)
            os.close(wait)
            break
        for descriptor in (*descriptors, tell, wait):
            os.close(descriptor)
        said = b""
        while received := os.read(told, 4096):
            said += received
        os.waitpid(between, 0)  # now the test is the parent of the program
        if said.endswith(READY):
            os.write(go, b"1")
        os.close(go)
        os.close(told)
        channel.send(said)
    sys.modules.clear()
    sys.modules.update(of_programs)
    fresh = type(sys)("__main__")
    fresh.__dict__.clear()
    for name, value in _FRESH.items():
        if name not in ("__file__", "__cached__"):
            fresh.__dict__[name] = value
    fresh.__dict__["__doc__"] = None
    fresh.__dict__["__loader__"] = sys.modules["_frozen_importlib"].BuiltinImporter
    sys.modules["__main__"] = fresh
    sys.excepthook = _without_ours
    _signal.pthread_sigmask(_signal.SIG_SETMASK, blocked)
    if OPTION == "-m":
        runpy._run_module_as_main(VALUE)  # type: ignore[attr-defined]  # as Python does
    else:
        exec(compile(VALUE, "<string>", "exec"), fresh.__dict__)


def _import() -> None:
    """Raises RuntimeError if a program could tell whether it or this process has imported them."""
    said, by_us = os.pipe()
    os.set_blocking(said, False)
    kept = os.dup(1), os.dup(2)
    os.dup2(by_us, 1)
    os.dup2(by_us, 2)
    kind = type(os.environ)
    os.environ.__class__ = Watched  # type: ignore[assignment]
    try:
        for name in IMPORTED:
            __import__(name)
    finally:
        os.environ.__class__ = kind  # type: ignore[assignment]
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (by_us, *kept):
            os.close(descriptor)
    try:
        text = os.read(said, 4096)
    except BlockingIOError:
        text = b""  # the writing end is not closed where an import has started a process
    os.close(said)
    if text:
        raise RuntimeError(f"an import says {text!r}")


def _become(arguments, environment, descriptors) -> None:  # type: ignore[no-untyped-def]
    """arguments: bytes, as all of them, with the interpreter in front. descriptors: of the folder, and 0, 1, 2."""
    folder, *standard = descriptors
    os.fchdir(folder)
    os.close(folder)
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update({os.fsdecode(name): os.fsdecode(value) for name, value in environment.items()})
    posix = sys.modules["posix"]
    posix.environ.clear()
    posix.environ.update(environment)
    if (copies := sys.modules.get(COPIES_ENVIRONMENT)) is not None:
        copies.BaseHandler.os_environ = copies.read_environ()
    sys.orig_argv[:] = [os.fsdecode(each) for each in arguments]
    sys.argv[:] = [OPTION, *sys.orig_argv[3:]]
    if (random := sys.modules.get("numpy.random")) is not None:
        random.seed()  # Python's own does that by itself
    unbuffered = sys.stdout.write_through
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        before = getattr(sys, name)
        mode = "w" if number else "r"
        binary = open(number, mode + "b", 0 if unbuffered and number else -1, closefd=False)  # noqa: SIM115
        raw = binary.raw if hasattr(binary, "raw") else binary
        raw.name = f"<{name}>"  # type: ignore[attr-defined]
        stream = sys.modules["io"].TextIOWrapper(
            binary,
            encoding=before.encoding,
            errors=before.errors,
            newline="\n" if number else None,
            line_buffering=not unbuffered and (number == 2 or raw.isatty()),
            write_through=unbuffered,
        )
        stream.mode = mode
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _start_blas(ctypes) -> None:  # type: ignore[no-untyped-def]
    """Numpy's has threads as soon as it is imported. It ends them before a fork, and starts them when it needs them."""
    with open("/proc/self/maps") as file:
        paths = {line.split()[-1] for line in file if "openblas" in line}
    for library in (ctypes.CDLL(path) for path in paths):
        for name in ("scipy_openblas_%s_num_threads64_", "openblas_%s_num_threads64_", "openblas_%s_num_threads"):
            if hasattr(library, name % "set"):
                getattr(library, name % "set")(getattr(library, name % "get")())


def _name(libc, ctypes, arguments, environment) -> None:  # type: ignore[no-untyped-def]
    """/proc/PID/cmdline and /proc/PID/environ. Needs no privileges."""
    words = b"".join(word + b"\0" for word in arguments)
    variables = b"".join(name + b"=" + value + b"\0" for name, value in environment.items())
    place = libc.malloc(ctypes.c_size_t(len(words) + len(variables)))  # for as long as the program runs
    ctypes.memmove(place, words + variables, len(words) + len(variables))
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    code, end_of_code, stack, data, end_of_data, heap = (int(fields[at - 3]) for at in (26, 27, 28, 45, 46, 47))
    numbers = (code, end_of_code, data, end_of_data, heap, libc.sbrk(0), stack)
    ends = (place, place + len(words), place + len(words), place + len(words) + len(variables))
    layout = b"".join(number.to_bytes(8, sys.byteorder) for number in (*numbers, *ends, 0, 0xFFFFFFFF << 32))
    buffer = ctypes.create_string_buffer(layout, len(layout))
    unsigned = ctypes.c_ulong
    if libc.prctl(PR_SET_MM, unsigned(PR_SET_MM_MAP), buffer, unsigned(len(layout)), unsigned(0)) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_MM_MAP)")


def _without_ours(kind, error, trace):  # type: ignore[no-untyped-def]
    """As a program of its own prints it: without the frames of this file."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.__excepthook__(kind, error.with_traceback(trace), trace)


if __name__ == "__main__":
    main()
