"""The store of the guests: an etcd of this machine, which a guest reaches as `host:$HOST_PORT` (10.0.2.2, the emulator's user network).

Every scenario that needs one gets its own, empty, on free ports of the loopback address.
"""
import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request


def free_ports(count):
    """Ports that nobody has at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_until_healthy(port, process):
    """Until it answers, at most 20 s."""
    for _ in range(200):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                if b'"true"' in answer.read():
                    return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None:
                break
        time.sleep(0.1)
    raise SystemExit("etcd does not answer")


@contextlib.contextmanager
def needed(wanted):
    """The port of a fresh store, 0 when none is wanted."""
    if not wanted:
        yield 0
        return
    directory = tempfile.mkdtemp(prefix="vm-etcd-", dir="/tmp")
    client, peer = free_ports(2)
    urls = [f"http://127.0.0.1:{port}" for port in (client, peer)]
    # The guests are told the address of the host as they see it: clients follow what a member advertises.
    command = ["setpriv", "--pdeathsig", "KILL", "etcd", "--data-dir", directory, "--listen-client-urls", urls[0],
               "--advertise-client-urls", f"http://10.0.2.2:{client}", "--listen-peer-urls", urls[1],
               "--initial-advertise-peer-urls", urls[1], "--initial-cluster", f"default={urls[1]}", "--logger", "zap", "--log-level", "error"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_healthy(client, process)
        yield client
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)
