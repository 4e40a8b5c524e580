"""Where submitted code runs: a process that loads PyTorch once and forks a locked-in child for each
question.

It is started by `sandbox.py` as a script of its own, and knows nothing of the package. It reads one
request a line, and answers each with one line. A child

1. sees nothing but the box: a folder with the package, in which only the function of this question
   is the student's, and the calls with their inputs, but no expected values;
2. is a user without rights, where the system allows it, with limits on time, memory, processes and
   written bytes, without a network, and with nothing that it can write to but its own results;
3. writes results, and decides nothing: whoever started the nursery compares them.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import math
import os
import resource
import select
import signal
import struct
import sys
import time
import traceback

import torch
from torch import Tensor

NOBODY = 65534
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # flags of unshare(2)
RESULT_BYTES = 32 * 2**20
PROCESSES = "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "pty."
HARMFUL = (
    *PROCESSES,
    *("socket.", "ctypes.", "os.kill", "os.killpg", "os.remove", "os.rename", "os.rmdir"),
    *("os.truncate", "os.chmod", "os.chown", "os.link", "os.symlink", "os.putenv", "shutil."),
    *("mmap.", "sys.settrace", "sys.setprofile", "gc.get_", "signal.", "syslog.", "webbrowser."),
)
# standard modules that an answer may import: once locked in, nothing outside the box can be read
STANDARD = (
    *("cmath", "collections", "copy", "dataclasses", "decimal", "enum", "fractions", "functools"),
    *("itertools", "numbers", "operator", "random", "re", "statistics", "string", "typing"),
    *(
        "warnings",
        "abc",
        "contextlib",
        "inspect",
        "textwrap",
        "types",
        "numpy",
        "numpy.ma",
        "einops",
    ),
    *("torch.nn.functional", "torch.special", "torch.linalg", "torch.fft", "einops.layers.torch"),
)


def _main() -> None:
    """Answer requests until standard input ends."""
    for name in (*STANDARD, *sys.argv[1:]):
        importlib.import_module(name)
    torch.set_num_threads(1)
    # 1. What PyTorch sets up on first use is set up before anything is locked in.
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    torch.nn.functional.conv2d(x, torch.randn(2, 2, 3, 3)).square().mean().backward()
    # 2. One child for each request.
    for line in sys.stdin:
        reply = run_in_child(json.loads(line))
        print(json.dumps(reply), flush=True)


def run_in_child(request: dict) -> dict:
    """Fork, wait until the child ends or its time is over, and say how it ended.

    Args:
        request: "box", the folder; "out", the file for its results; "question"; "seconds" of CPU
            time; "wall", seconds by the clock; "bytes" of memory beyond what PyTorch has.
    """
    out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            locked_child(request, out)
        finally:
            os._exit(1)
    os.close(out)
    ended = wait(pid, request["wall"])
    return {"ended": ended, "seconds": round(time.monotonic() - start, 3)}


def wait(pid: int, seconds: float) -> str:
    """Wait for a child. "done", "stopped" by itself, by a "signal N", or "late"."""
    handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    late = False
    if handle is not None:
        late = not select.select([handle], [], [], seconds)[0]
        os.close(handle)
    else:
        deadline = time.monotonic() + seconds
        while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if late := time.monotonic() > deadline:
                break
            time.sleep(0.01)
    for kill, target in ((os.killpg, pid), (os.kill, pid)):
        try:
            kill(target, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    _, status = os.waitpid(pid, 0)
    if late:
        return "late"
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}"
    return "done" if os.WEXITSTATUS(status) == 0 else "stopped"


# ---------------------------------------------------------------- in the child


def locked_child(request: dict, out: int) -> None:
    """Lock this process in, run the calls of a question, write what they return, and end."""
    # 1. A session of its own, without the pipes of the nursery.
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(null, handle)
    keep = os.dup2(out, 3)
    os.closerange(4, 4096)
    # 2. Limits.
    cpu = math.ceil(request["seconds"])
    used = 0
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm", encoding="utf-8") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        limit(resource.RLIMIT_AS, used + request["bytes"])
    limit(resource.RLIMIT_CPU, cpu)
    limit(resource.RLIMIT_FSIZE, RESULT_BYTES)
    limit(resource.RLIMIT_CORE, 0)
    # 3. The box becomes the whole file system, where the system allows it.
    root = lock_in(request["box"])
    limit(resource.RLIMIT_NOFILE, 64)
    sys.dont_write_bytecode = True
    sys.path[:] = [os.path.join(root, "package"), root]
    sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
    importlib.invalidate_caches()
    with open(os.path.join(root, "cases.json"), encoding="utf-8") as file:
        described = json.load(file)
    with open(os.path.join(root, "cases.bin"), "rb") as file:
        cases = unpack(described, file.read())
    sys.addaudithook(guard(root))
    # 4. The calls.
    write(keep, *run_calls(request["question"], cases))
    os._exit(0)


def limit(what: int, value: int) -> None:
    """Set a limit, but never above what there is already."""
    _, hard = resource.getrlimit(what)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, value))


def lock_in(box: str) -> str:
    """Make the box the root of the file system, give up all rights, and cut the network.

    Returns:
        The path of the box from now on: "/", or `box` where the system allows none of this.
    """
    os.chdir(box)
    if not sys.platform.startswith("linux"):
        return box
    libc = ctypes.CDLL(None, use_errno=True)
    if os.getuid() == 0:
        libc.unshare(NEW_NETWORK)
    elif libc.unshare(NEW_USER | NEW_NETWORK) != 0:
        return box
    try:
        os.chroot(box)
    except OSError:
        return box
    os.chdir("/")
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        limit(resource.RLIMIT_NPROC, 0)
    return "/"


def guard(root: str):
    """An audit hook, which cannot be removed: it refuses to start processes, to open sockets, to
    write, and to read what is outside the box. Behind the box as root it is a second wall.
    """
    readable = tuple(
        {os.path.realpath(root), *map(os.path.realpath, (sys.prefix, sys.base_prefix))}
    )
    package = os.path.join(os.path.realpath(root), "package")
    realpath, fspath, separator = os.path.realpath, os.fspath, os.sep
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def refuse(event: str, args: tuple) -> None:
        if event.startswith(HARMFUL):
            raise PermissionError(f"{event} is not allowed while answers are graded")
        if event == "open":
            path, mode, flags = args
            if isinstance(path, int):
                raise PermissionError("files are not opened while answers are graded")
            path = realpath(fspath(path))
            if isinstance(path, bytes):
                path = path.decode(errors="replace")
            outside = not any(path == r or path.startswith(r.rstrip("/") + "/") for r in readable)
            copy = f"{separator}imagen_mini{separator}" in path and not path.startswith(package)
            if outside or copy or (flags or 0) & writing or set(str(mode or "")) & set("wax+"):
                raise PermissionError(f"{path} is not opened while answers are graded")

    return refuse


def run_calls(question: str, cases: list[dict]) -> tuple[list[dict], dict[str, Tensor]]:
    """Call the question's function of `calls.py` with each case.

    Returns:
        What happened in each case: "n", how many tensors it returned, or "error" with its "line";
        "changed", the names of arguments that were changed. And the tensors.
    """
    report: list[dict] = []
    tensors: dict[str, Tensor] = {}
    for number, case in enumerate(cases):
        kept = {k: v.clone() for k, v in case.items() if isinstance(v, Tensor)}
        try:
            calls = importlib.import_module("calls")
            returned = as_tensors(getattr(calls, f"call_{question}")(case))
            for i, tensor in enumerate(returned):
                tensors[f"{number}/{i}"] = tensor
            report.append({"n": len(returned)})
        except BaseException as error:  # SystemExit and KeyboardInterrupt as well
            report.append({"error": type(error).__name__, "message": str(error)[:300]})
            report[-1]["line"] = line_of(error)
        report[-1]["changed"] = [k for k, v in kept.items() if not torch.equal(v, case[k])]
    return report, tensors


def as_tensors(returned) -> list[Tensor]:
    """What a call returned, as a flat list of tensors."""
    if isinstance(returned, (tuple, list)):
        return [t for part in returned for t in as_tensors(part)]
    if isinstance(returned, Tensor):
        return [returned.detach().contiguous().clone()]
    if returned is None:
        raise TypeError("it returns None; expected a tensor")
    return [torch.as_tensor(returned)]


def line_of(error: BaseException) -> str:
    """The last line of the package that an error passed through, such as "x.py: y = f(x)"."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "imagen_mini" in f.filename]
    return f"{os.path.basename(frames[-1].filename)}: {frames[-1].line}"[:200] if frames else ""


# ---------------------------------------------------------------- across the wall
#
# Values cross as JSON and raw bytes: nothing is unpickled on either side.

DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool)
}


def pack(cases: list[dict]) -> tuple[list[dict], bytes]:
    """Cases as JSON values and the bytes of their tensors."""
    described: list[dict] = []
    data = bytearray()
    for case in cases:
        described.append({})
        for name, value in case.items():
            if isinstance(value, Tensor):
                raw = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
                place = [str(value.dtype).removeprefix("torch."), list(value.shape), len(data)]
                value = {"tensor": place}
                data += raw
            described[-1][name] = value
    return described, bytes(data)


def unpack(described: list[dict], data: bytes) -> list[dict]:
    """The inverse of `pack`.

    Raises:
        ValueError: The bytes are not what the description says.
    """

    def value(v):
        if not (isinstance(v, dict) and set(v) == {"tensor"}):
            return v
        name, shape, start = v["tensor"]
        dtype = DTYPES[name]
        count = math.prod(shape)
        end = start + count * dtype.itemsize
        if min([start, *shape, 0]) < 0 or end > len(data):
            raise ValueError(f"a tensor of shape {shape} does not fit {len(data)} bytes")
        if count == 0:
            return torch.zeros(shape, dtype=dtype)
        raw = torch.frombuffer(bytearray(data[start:end]), dtype=torch.uint8)
        return raw.view(dtype).reshape(shape).clone()

    return [{name: value(v) for name, v in case.items()} for case in described]


def write(handle: int, report: list[dict], tensors: dict[str, Tensor]) -> None:
    """Write results: the length of the JSON, the JSON, the bytes."""
    known = set(DTYPES.values())
    tensors = {k: v if v.dtype in known else v.to(torch.float64) for k, v in tensors.items()}
    described, data = pack([tensors])
    head = json.dumps({"report": report, "tensors": described}).encode()
    blob = struct.pack("<Q", len(head)) + head + data
    os.lseek(handle, 0, os.SEEK_SET)
    while blob:
        blob = blob[os.write(handle, blob) :]


if __name__ == "__main__":
    _main()
