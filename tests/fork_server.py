"""Python processes forked from a server that has imported torch, Lightning and this package once.

`Popen` and `run` take the arguments of `subprocess.Popen` and `subprocess.run`. They fork `[sys.executable, "-m", …]`
and `[sys.executable, "-c", …]` from the server, which takes milliseconds where a new interpreter imports for five
seconds, and start every other command as usual. Processes that a forked process starts in turn (the jobs of a sweep,
the ranks of a job) are forked, too.

A forked process differs from a new one in two ways: its modules are those of this checkout whatever PYTHONPATH says
(PYTHONPATH is searched for further modules only), and its command line in /proc is the server's (`running` finds it).

A script of a shell forks processes as well: `python fork_server.py [OPTIONS] -m MODULE …`, in `environment()`.
"""

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import itertools
import json
import os
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

# Environment: "VICTIM MODULE NAME COUNT" kills forked processes of module VICTIM before call number COUNT of NAME.
KILL: Final = "SYMROB_TEST_KILL"
# Environment: whether permissions bind forked processes although they are root's.
BOUND: Final = "SYMROB_TEST_BOUND"
_FOLDER: Final = "SYMROB_TEST_FORK_SERVER"  # environment: where the server listens and lists its processes
_MODULES: Final = (
    *("torch", "torchmetrics", "pytorch_lightning", "matplotlib.backends.backend_pdf", "symmetry_robustness.runs.main"),
    *(f"symmetry_robustness.app.{name}" for name in ("cli", "train", "evaluate", "status", "collect", "report")),
)
_NUMBER: Final = struct.Struct("i")
_SUBPROCESS_RUN: Final = subprocess.run
_SUBPROCESS_POPEN: Final = subprocess.Popen
_STARTING: Final = threading.Lock()


class Popen(subprocess.Popen):
    """`subprocess.Popen` whose Python processes are forked from the server."""

    _connection: socket.socket | None = None

    def _execute_child(self, args: Any, *rest: Any) -> None:
        _, _, _, pass_fds, directory, environment, _, _, shell, *pipes, _, _, _, _, _, new_session, _ = rest
        target = None if shell or isinstance(args, str | bytes | os.PathLike) else _python([*map(os.fspath, args)])
        if target is None:
            super()._execute_child(args, *rest)
            return
        request = {
            **target,
            "directory": str(Path(directory or ".").absolute()),
            "environment": dict(os.environ if environment is None else environment),
            "new_session": bool(new_session),
            "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
            "descriptors": [0, 1, 2, *pass_fds],
        }
        content = json.dumps(request).encode()
        standard = [
            own if given == -1 else given for own, given in zip((0, 1, 2), (pipes[0], pipes[3], pipes[5]), strict=True)
        ]
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(Path(_server()) / "socket"))
        socket.send_fds(self._connection, [_NUMBER.pack(len(content))], [*standard, *pass_fds])
        self._connection.sendall(content)
        (self.pid,) = _NUMBER.unpack(self._connection.recv(_NUMBER.size, socket.MSG_WAITALL))
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._connection is None:
            return super()._try_wait(wait_flags)
        try:
            answer = self._connection.recv(_NUMBER.size, socket.MSG_DONTWAIT if wait_flags & os.WNOHANG else 0)
        except BlockingIOError:
            return 0, 0
        self._connection.close()
        return self.pid, _NUMBER.unpack(answer)[0] if answer else signal.SIGKILL  # no answer: the server is gone

    def _internal_poll(self, *arguments: Any, **settings: Any) -> int | None:
        if self._connection is None:
            return super()._internal_poll(*arguments, **settings)
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):
            try:
                process, status = self._try_wait(os.WNOHANG)
                if process == self.pid:
                    self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


def run(*arguments: Any, **settings: Any) -> "subprocess.CompletedProcess[Any]":
    """`subprocess.run` whose Python process is forked from the server."""
    function = types.FunctionType(_SUBPROCESS_RUN.__code__, vars(subprocess) | {"Popen": Popen})
    function.__kwdefaults__ = _SUBPROCESS_RUN.__kwdefaults__
    return function(*arguments, **settings)


def running(*words: str) -> list[int]:
    """Identifiers of forked processes of this test session whose arguments begin with each of some words."""
    found = []
    for path in Path(_server()).glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            arguments = json.loads(path.read_text())
            if all(any(argument.startswith(word) for argument in arguments) for word in words):
                found.append(int(path.name))
    return found


def environment() -> dict[str, str]:
    """Variables with which scripts of a shell find the server."""
    return {_FOLDER: _server()}


def _python(command: list[Any]) -> dict[str, Any] | None:
    """The module or code that a command runs in Python; None for any other command."""
    if not command or command[0] != sys.executable:
        return None
    arguments = [os.fsdecode(argument) for argument in command[1:]]
    options = {*itertools.takewhile(lambda argument: argument in ("-u", "-P"), arguments)}
    kind, *rest = arguments[len(options) :] or [""]
    if kind not in ("-m", "-c") or not rest:
        return None
    called = {"kind": kind, "what": rest[0], "arguments": rest[1:]}
    return called | {"unbuffered": "-u" in options, "safe_path": "-P" in options}


def _server() -> str:
    """The folder of the server, which is started unless this process is one of its own."""
    with _STARTING:
        return os.environ.get(_FOLDER) or _started_server()


@functools.cache
def _started_server() -> str:
    folder = tempfile.mkdtemp(prefix="symrob-fork-server-")
    server = _SUBPROCESS_POPEN(
        [sys.executable, "-m", "tests.fork_server", folder],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,  # its end tells the server that the test session has ended
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # no file, whose streams would expect that the processes' ones can be sought
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.communicate)
    assert server.stdout is not None
    assert (line := server.stdout.readline()) == b"ready\n", line
    return folder


def _serve(folder: Path) -> int:
    """Fork a process for each request until the test session ends; in such a process, return its exit status."""
    for name in _MODULES:
        importlib.import_module(name)
    from hydra.core.plugins import Plugins

    from symmetry_robustness import load_config
    from symmetry_robustness.runs.provenance import own_code

    Plugins.instance()
    load_config("train", [])  # builds Hydra's parser, the slowest part of a first composition
    own_code()  # finds out where all modules lie
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the attendants
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([listener, 0], [], [])
        if 0 in readable:
            return 0
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            run_process = _attend(connection, folder)
            return run_process()
        connection.close()


def _attend(connection: socket.socket, folder: Path) -> Callable[[], int]:
    """Fork the process of a request and report its end; returns in the new process only."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, descriptors, _, _ = socket.recv_fds(connection, _NUMBER.size, 250)
    content, length = b"", _NUMBER.unpack(size)[0]
    while len(content) < length:
        content += connection.recv(length - len(content))
    request = json.loads(content)
    process = os.fork()
    if process == 0:
        connection.close()
        return lambda: _run(request, descriptors, folder)
    for descriptor in {0, 1, *descriptors}:
        os.close(descriptor)
    row = folder / str(process)
    row.write_text(json.dumps([request["what"], *request["arguments"]]))
    connection.sendall(_NUMBER.pack(process))
    _, status = os.waitpid(process, 0)
    with contextlib.suppress(OSError):
        row.unlink()
        connection.sendall(_NUMBER.pack(status))
    os._exit(0)


def _run(request: dict[str, Any], descriptors: list[int], folder: Path) -> int:
    """In the new process: become what the request asks for; returns the exit status."""
    if request["new_session"]:
        os.setsid()
    _place(descriptors, request["descriptors"])
    os.environ.clear()
    os.environ.update(request["environment"] | {_FOLDER: str(folder)})
    os.chdir(request["directory"])
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        unbuffered = request["unbuffered"]
        stream.reconfigure(line_buffering=unbuffered or number == 2 or os.isatty(number), write_through=unbuffered)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    subprocess.Popen = Popen
    further = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    # The first one is the server's own directory.
    sys.path[0:1] = further if request["safe_path"] else [request["directory"], *further]
    if "torch" in sys.modules and (threads := os.environ.get("OMP_NUM_THREADS")):
        sys.modules["torch"].set_num_threads(int(threads))
    _take_rank()
    sys.argv = [request["kind"], *request["arguments"]]
    if os.environ.get(BOUND):
        _bind_by_permissions()
    if point := os.environ.get(KILL):
        _kill_before(*point.split(" "), process=request["what"])
    if request["kind"] == "-m":
        sys.modules.pop(request["what"], None)  # __main__ is a second copy of it, as usual
        runpy.run_module(request["what"], run_name="__main__", alter_sys=True)
    else:
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(request["what"], "<string>", "exec"), vars(main))
    return 0


def _take_rank() -> None:
    """Tell Lightning and torchmetrics, which have read it as they were imported, the rank of this process."""
    from lightning_fabric.utilities import rank_zero
    from torchmetrics.utilities import prints

    rank_zero.rank_zero_only.rank = rank_zero._get_rank() or 0
    prints.rank_zero_only.rank = int(os.environ.get("LOCAL_RANK", 0))


def _bind_by_permissions() -> None:
    """Give up the capabilities to read and write what permissions forbid. Source: capget(2), linux/capability.h."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, data)
    data[0] &= ~0b110  # effective: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def _kill_before(victim: str, module: str, name: str, count: str, *, process: str) -> None:
    """Have this process killed, if it is the victim, just before a function is called for the count-th time."""
    if process != victim:
        return
    *owners, name = name.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    original, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **settings)

    setattr(owner, name, counted)


def _place(given: list[int], wanted: list[int]) -> None:
    """Give open files the numbers under which the process expects them."""
    free = max(*given, *wanted) + 1
    copies = [os.dup2(descriptor, free + index, inheritable=False) for index, descriptor in enumerate(given)]
    for descriptor in given:
        os.close(descriptor)
    for copy, number in zip(copies, wanted, strict=True):
        os.dup2(copy, number)
        os.close(copy)


def _end(status: object) -> None:
    """End this process as Python does after `status` was raised or returned."""
    if status is not None and not isinstance(status, int):
        print(status, file=sys.stderr)
    for last in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):
        with contextlib.suppress(Exception):
            last()
    os._exit(status & 0xFF if isinstance(status, int) else int(status is not None))


if __name__ == "__main__":
    if sys.argv[1].startswith("-"):
        sys.exit(Popen([sys.executable, *sys.argv[1:]]).wait())
    try:
        _end(_serve(Path(sys.argv[1])))
    except SystemExit as error:
        _end(error.code)
    except KeyboardInterrupt:
        traceback.print_exc()
        sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        _end(1)
