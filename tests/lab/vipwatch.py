"""Who has the virtual addresses, seen from outside: asks the kernel of every box over rtnetlink.

As a program: vipwatch.py OUTPUT ADDRESS[,ADDRESS...] BOX=NAMESPACE... looks whenever the kernel of a box reports a change, and
every 20 ms anyhow. Lines of the output:

    V t address box 1|0     (t: CLOCK_MONOTONIC seconds; the address came or went)
    D t address box         the kernel told that it went; it may be there again

The rest of the file reads that.
"""
import os
import select
import socket
import struct
import sys
import time

import net

NEWADDR, DELADDR, GETADDR, DONE = 20, 21, 22, 3
REQUEST_DUMP = 0x301
LOCAL, ADDRESS = 2, 1
# RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR of rtnetlink(7).
GROUPS = 0x10 | 0x100
EVERY = 0.02


class Kernel:
    """The addresses of one network namespace."""

    def __init__(self, namespace):
        net.enter(f"/run/netns/{namespace}")
        try:
            self.asks = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
            self.hears = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        finally:
            net.home()
        self.asks.bind((0, 0))
        self.hears.bind((0, GROUPS))
        self.hears.setblocking(False)

    def gone(self):
        """The packed addresses that were reported to have gone. What is there now the dump tells."""
        found = []
        try:
            while data := self.hears.recv(65536):
                while len(data) >= 16:
                    size, kind = struct.unpack_from("=IH", data)
                    if kind == DELADDR and size >= 24:
                        found.append(self._own(data[24:size]))
                    data = data[(max(size, 16) + 3) & ~3:]
        except OSError:
            pass
        return found

    def addresses(self):
        """The set of packed addresses that are configured now."""
        self.asks.send(struct.pack("=IHHIIBBBBI", 24, GETADDR, REQUEST_DUMP, 1, 0, 0, 0, 0, 0, 0))
        found = set()
        while True:
            data = self.asks.recv(65536)
            while len(data) >= 16:
                size, kind = struct.unpack_from("=IH", data)
                if kind == DONE or size < 16:
                    return found
                if kind == NEWADDR:
                    found.add(self._own(data[24:size]))
                data = data[(size + 3) & ~3:]

    @staticmethod
    def _own(attributes):
        found = {}
        while len(attributes) >= 4:
            size, kind = struct.unpack_from("=HH", attributes)
            found[kind] = attributes[4:size]
            attributes = attributes[max(4, (size + 3) & ~3):]
        return found.get(LOCAL, found.get(ADDRESS))


def packed(address):
    """The bytes of an address."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


class Watch:
    """Notes every coming and going."""

    def __init__(self, out, addresses, namespaces):
        self.out = out
        self.addresses = {packed(address): address for address in addresses}
        self.kernels = {box: Kernel(namespace) for box, namespace in namespaces.items()}
        self.has = {(box, one): False for box in self.kernels for one in self.addresses}

    def look(self, boxes):
        """What is and was not, what was and is not. Removals first: they made room for what was added."""
        seen = {box: self.kernels[box].addresses() for box in boxes}
        changed = [(box, one) for box in boxes for one in self.addresses if self.has[box, one] != (one in seen[box])]
        for box, one in sorted(changed, key=lambda pair: not self.has[pair]):
            if not self.has[box, one]:
                # Seen after the others were asked: ask those again that had it, before two are said to have it.
                self.forget(one, box)
            self.note(box, one)

    def forget(self, one, but):
        """Notes who lost the address meanwhile."""
        for box in self.kernels:
            if box != but and self.has[box, one] and one not in self.kernels[box].addresses():
                self.note(box, one)

    def note(self, box, one):
        """One line."""
        self.has[box, one] = not self.has[box, one]
        os.write(self.out, f"V {time.monotonic():.4f} {self.addresses[one]} {box} {int(self.has[box, one])}\n".encode())

    def run(self):
        """For ever."""
        ears = {kernel.hears: (box, kernel) for box, kernel in self.kernels.items()}
        while True:
            for ear in select.select(list(ears), [], [], EVERY)[0]:
                box, kernel = ears[ear]
                for one in kernel.gone():
                    if one in self.addresses:
                        os.write(self.out, f"D {time.monotonic():.4f} {self.addresses[one]} {box}\n".encode())
            self.look(list(self.kernels))


def read(path, address):
    """[(t, box, has)] of one address."""
    found = []
    try:
        with open(path) as file:
            for line in file:
                part = line.split()
                if len(part) == 5 and line.endswith("\n") and part[2] == address:
                    found.append((float(part[1]), part[3], part[4] == "1"))
    except FileNotFoundError:
        pass
    return found


def told_gone(path, address):
    """[(t, box)]: when the kernel of a box told that it went."""
    with open(path) as file:
        parts = [line.split() for line in file if line.startswith("D ")]
    return [(float(part[1]), part[3]) for part in parts if part[2] == address]


def holders(changes, until=None):
    """The boxes that have it at a time, or at last."""
    found = set()
    for t, box, has in changes:
        if until is None or t <= until:
            (found.add if has else found.discard)(box)
    return found


def spans(changes, end):
    """{box: [(from, to)]} of having it."""
    found, since = {}, {}
    for t, box, has in changes:
        if has:
            since.setdefault(box, t)
        elif box in since:
            found.setdefault(box, []).append((since.pop(box), t))
    for box, t in since.items():
        found.setdefault(box, []).append((t, end))
    return found


def cut(pieces, away):
    """The pieces of time less the other pieces."""
    for a, b in away:
        pieces = [piece for x, y in pieces for piece in ((x, min(y, a)), (max(x, b), y)) if piece[0] < piece[1]]
    return pieces


def together(pieces, others):
    """Seconds in both."""
    return sum(max(0.0, min(b, d) - max(a, c)) for a, b in pieces for c, d in others)


def shared(having):
    """Seconds in which two boxes had it: sum over pairs. `having`: {box: [(from, to)]}."""
    boxes = sorted(having)
    return sum(together(having[a], having[b]) for i, a in enumerate(boxes) for b in boxes[i + 1:])


def main():
    """See the head of the file."""
    os.nice(-10)
    out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    Watch(out, sys.argv[2].split(","), dict(word.split("=", 1) for word in sys.argv[3:])).run()


if __name__ == "__main__":
    main()
