"""The parent of everything that runs in the boxes.

Orphans of a killed agent come here (child subreaper) and are reaped at once: a
PostgreSQL that stays a zombie would look alive to the next one, and PID 1 of a
container often reaps nothing. When the lab goes away, however it ends, standard input
ends and the nursery clears the boxes, the namespaces and the directory away.

Protocol: one JSON object a line. In: {"argv", "log", "env", "cwd"}; out: {"pid"}, and
{"exit": pid, "code": n} whenever somebody ends (negative: the signal's number).
"""
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys

import net

PR_SET_CHILD_SUBREAPER = 36
PR_SET_NAME = 15


def say(message):
    """One line to the lab; a lab that is gone is no reason to fail here."""
    try:
        os.write(1, (json.dumps(message) + "\n").encode())
    except OSError:
        pass


def reap():
    """Collects whoever ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        say({"exit": pid, "code": os.waitstatus_to_exitcode(status)})


def spawn(order):
    """Starts one program in a session of its own."""
    pid = os.fork()
    if pid:
        say({"pid": pid})
        return
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.closerange(3, 256)
        os.chdir(order["cwd"])
        os.execve(order["argv"][0], order["argv"], order["env"])
    except BaseException as error:  # the child must never return into the loop
        os.write(2, f"nursery: {order['argv'][0]}: {error}\n".encode())
        os._exit(127)


def forget_shared_memory(directory):
    """A killed PostgreSQL leaves its System V segment: remove those named by our lock files."""
    for root, dirs, files in os.walk(directory):
        if "postmaster.pid" in files:
            try:
                with open(os.path.join(root, "postmaster.pid")) as file:
                    lines = file.read().split("\n")
                subprocess.run(["ipcrm", "-m", lines[6].split()[1]], capture_output=True)
            except (OSError, IndexError):
                pass
            dirs.clear()


def main():
    """nursery.py PREFIX DIRECTORY"""
    prefix, directory = sys.argv[1:3]
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pending = b""
    while True:
        ready, _, _ = select.select([0, reading], [], [], 1.0)
        if reading in ready:
            os.read(reading, 4096)
        reap()
        if 0 not in ready:
            continue
        data = os.read(0, 65536)
        if not data:
            break
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            spawn(json.loads(line))
    net.remove(prefix)
    reap()
    forget_shared_memory(directory)
    if os.environ.get("LAB_KEEP") != "1":
        shutil.rmtree(directory, ignore_errors=True)


main()
