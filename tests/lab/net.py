"""Network namespaces as boxes: one namespace a box, one for the client, one that is the switch.

Everything is named with a prefix that contains the owner's pid, so that what an
aborted run left behind can be found and removed by the next one.
"""
import ctypes
import os
import re
import signal
import socket
import subprocess
import time

CLONE_NEWNET = 0x40000000
PREFIX = "mlab"
_libc = ctypes.CDLL(None, use_errno=True)
_HOME = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def ip(*args, check=True):
    """Runs ip(8)."""
    done = subprocess.run(["ip", *args], capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


def enter(path):
    """Moves the calling thread into the namespace file `path`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(fd)


def home():
    """Moves the calling thread back to where the process began."""
    if _libc.setns(_HOME, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns home")


def socket_in(namespace):
    """A TCP socket that lives in the namespace, usable from anywhere. Not for several threads at once."""
    enter(f"/run/netns/{namespace}")
    try:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    finally:
        home()


def pids(namespace):
    """Every process in the namespace."""
    return [int(line) for line in ip("netns", "pids", namespace, check=False).split()]


class Switch:
    """The bridge and its ports. Addresses: box k has 10.77.0.k and fd77::k, the client 10.77.0.100 and fd77::100.

    With two networks there is a second bridge of 10.78.0.0/24 and fd78::/64 for eth1 in each box.
    """

    def __init__(self, prefix, names, networks=1):
        self.prefix = prefix
        self.sw = f"{prefix}-sw"
        self.names = list(names)
        self.networks = networks
        self._namespace("sw")
        for name in [*self.names, "cl"]:
            self._namespace(name)
        for number in range(networks):
            ip("-n", self.sw, "link", "add", f"br{number}", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
            ip("-n", self.sw, "link", "set", f"br{number}", "up")
            for index, name in enumerate([*self.names, "cl"], 1):
                self._port(name, number, 100 if name == "cl" else index)

    def ns(self, name):
        """The namespace of a box."""
        return f"{self.prefix}-{name}"

    def _namespace(self, name):
        ip("netns", "add", self.ns(name))
        ip("-n", self.ns(name), "link", "set", "lo", "up")

    @staticmethod
    def port(name, number):
        """The switch's end of a cable."""
        return f"p-{name}" if number == 0 else f"q-{name}"

    def _port(self, name, number, host):
        port, device = self.port(name, number), f"eth{number}"
        ip("-n", self.sw, "link", "add", port, "type", "veth", "peer", "name", device, "netns", self.ns(name))
        ip("-n", self.sw, "link", "set", port, "master", f"br{number}", "up")
        ip("-n", self.ns(name), "addr", "add", f"10.{77 + number}.0.{host}/24", "dev", device)
        ip("-n", self.ns(name), "addr", "add", f"fd{77 + number}::{host}/64", "dev", device, "nodad")
        ip("-n", self.ns(name), "link", "set", device, "up")

    def _each(self, name, only):
        return [self.port(name, number) for number in range(self.networks) if only is None or number == only]

    def unplug(self, name, only=None):
        """The cable is pulled: the box sees that its carrier is gone. `only`: the number of the network, all when not given."""
        for port in self._each(name, only):
            ip("-n", self.sw, "link", "set", port, "down")

    def partition(self, name):
        """The switch forgets the port: frames vanish, the carrier stays."""
        for port in self._each(name, None):
            ip("-n", self.sw, "link", "set", port, "nomaster")

    def heal(self, name):
        """Undoes unplug and partition."""
        for number in range(self.networks):
            ip("-n", self.sw, "link", "set", self.port(name, number), "master", f"br{number}", "up")

    def kill(self, name, number=signal.SIGKILL):
        """A signal to everything in the box, until nothing is left when it kills."""
        for _ in range(200):
            found = pids(self.ns(name))
            for pid in found:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
            if not found or number != signal.SIGKILL:
                return
            time.sleep(0.01)


def remove(prefix):
    """Kills and removes every namespace with the prefix."""
    names = [line.split()[0] for line in ip("netns", "list", check=False).splitlines() if line.startswith(prefix + "-")]
    for name in names:
        for number in (signal.SIGKILL, signal.SIGKILL):
            for pid in pids(name):
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)
    for name in names:
        ip("netns", "del", name, check=False)


def stale():
    """Prefixes of runs whose process is gone."""
    found = set()
    for line in ip("netns", "list", check=False).splitlines():
        match = re.match(rf"({PREFIX}(\d+)[a-z]*)-", line)
        if match and not os.path.exists(f"/proc/{match[2]}"):
            found.add(match[1])
    return sorted(found)
