"""The store of the guests: an etcd of this machine, which a guest reaches as `host:$HOST_PORT` (10.0.2.2, the emulator's user network).

Every scenario that needs one gets its own, empty, on free ports of the loopback address. The store also tells when the leader's lease
ends, which is what a reset is measured against.
"""
import base64
import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import threading
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


class Lease(threading.Thread):
    """Asks the store again and again how long the leader's lease still lasts."""

    KEY = "/service/vm/leader"
    PAUSE = 0.1

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port = port
        self.end = None
        """The earliest moment (time.monotonic()) at which the lease may end that the leader key had last."""
        self.over = threading.Event()

    def _ask(self, connection, path, question):
        connection.request("POST", path, json.dumps(question))
        return json.loads(connection.getresponse().read())

    def _look(self, connection):
        key = base64.b64encode(self.KEY.encode()).decode()
        lease = self._ask(connection, "/v3/kv/range", {"key": key}).get("kvs", [{}])[0].get("lease")
        if lease is None:
            return
        asked = time.monotonic()
        left = int(self._ask(connection, "/v3/lease/timetolive", {"ID": lease}).get("TTL", -1))
        # The store rounds down, so this is never later than the real end; the look at which the number changes gives it to 0.1 s.
        if left >= 0:
            self.end = max(self.end or 0.0, asked + left)

    def run(self):
        while not self.over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
            try:
                while not self.over.wait(self.PAUSE):
                    self._look(connection)
            except (OSError, http.client.HTTPException, ValueError):
                self.over.wait(self.PAUSE)
            finally:
                connection.close()


class Store:
    """A running store: its port, and what it says of the leader's lease."""

    def __init__(self, port):
        self.port = port
        self.lease = Lease(port)


@contextlib.contextmanager
def needed(wanted):
    """A fresh store, `None` when none is wanted."""
    if not wanted:
        yield None
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
        store = Store(client)
        store.lease.start()
        try:
            yield store
        finally:
            store.lease.over.set()
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)
