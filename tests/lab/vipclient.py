"""A client that writes through the virtual address as fast as one session can, and a look into every box.

vipclient.py OUTPUT TABLE PAUSE_MS ADDRESS BOX=/socket/directory...

One session inserts rows one after the other. When it is not answered within 100 ms, or ends, a new connection is tried every
10 ms next to it until one is answered: so the moment in which the address works again is known to 10 ms. In each box a session over
the unix socket asks whether it is a primary (every 3 ms during an outage). Lines of the output:

    A source id t node timeline     acknowledged at t (CLOCK_MONOTONIC seconds); node: the socket directory of who answered
    E source id t node reason       refused or unknown
    C vip id t node new             another session than before was answered
    S box id t node primary|standby|down    what the box is from now on
"""
import os
import selectors
import socket
import struct
import sys
import threading
import time

import pgwire

TIMELINE = "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
WHERE = "current_setting('unix_socket_directories')"
PATIENCE, PROBE, GIVE_UP = 0.1, 0.01, 1.0


class Journal:
    """The output, and when the address was last answered."""

    def __init__(self, path):
        self.out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.answered = 0.0

    def note(self, kind, source, number, node, rest):
        """One line."""
        os.write(self.out, f"{kind} {source} {number} {time.monotonic():.4f} {node} {rest}\n".encode())


class Look(threading.Thread):
    """A session in one box."""

    def __init__(self, box, directory, table, journal):
        super().__init__(daemon=True)
        self.box, self.directory, self.table, self.journal = box, directory, table, journal
        self.number, self.state, self.connection = 0, None, None

    def run(self):
        while True:
            state = self.ask()
            if state != self.state:
                self.state = state
                self.journal.note("S", self.box, 0, self.directory, state)
            outage = time.monotonic() - self.journal.answered > PATIENCE / 2
            time.sleep(0.003 if outage and state != "down" else 0.02)

    def ask(self):
        """What the box is; on a primary a row is written, too."""
        try:
            if self.connection is None:
                self.connection = pgwire.Connection(f"{self.directory}/.s.PGSQL.5432", user="lab", deadline=1.0)
            if self.connection.query("select pg_is_in_recovery()", 1.0)[0][0] == "t":
                return "standby"
            if self.state == "primary":
                self.number += 1
                sql = f"insert into {self.table} (src, id) values ('local-{self.box}', {self.number}) returning {TIMELINE}"
                rows = self.connection.query(sql, 1.0)
                self.journal.note("A", f"local-{self.box}", self.number, self.directory, int(rows[0][0], 16))
            return "primary"
        except (OSError, pgwire.PgError):
            if self.connection:
                self.connection.close()
            self.connection = None
            return "down"


class Attempt:
    """One connection and its question: startup and query are sent together (trust)."""

    def __init__(self, where, query):
        self.began, self.query, self.buffer, self.sent = time.monotonic(), query, b"", False
        self.asked, self.row, self.waiting = self.began, None, True
        self.sock = socket.socket(socket.AF_INET6 if ":" in where else socket.AF_INET, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect_ex((where, 5432))

    def connected(self):
        """The first writable moment."""
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        body = b"\0\x03\0\0user\0lab\0database\0postgres\0application_name\0vip\0\0"
        self.sock.send(struct.pack("!i", len(body) + 4) + body)
        self.ask(self.query)
        self.sent = True

    def ask(self, query):
        """Sends a query."""
        self.asked, self.row, self.waiting = time.monotonic(), None, True
        data = query.encode() + b"\0"
        self.sock.send(b"Q" + struct.pack("!i", len(data) + 4) + data)

    def read(self):
        """Whether the answer is complete; its row is in `row`. An error of the server or the network is raised."""
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("closed by the server")
        self.buffer += data
        while len(self.buffer) >= 5:
            kind, length = struct.unpack("!ci", self.buffer[:5])
            if len(self.buffer) < length + 1:
                break
            body, self.buffer = self.buffer[5:length + 1], self.buffer[length + 1:]
            if kind == b"E":
                raise pgwire._error(body)
            if kind == b"D":
                self.row = pgwire._row(body)
            elif kind == b"Z" and self.row:
                self.waiting = False
        return not self.waiting


class Writer:
    """Through the address."""

    def __init__(self, where, table, pause, journal):
        self.where, self.table, self.pause, self.journal = where, table, pause, journal
        self.number, self.active, self.all, self.said = 0, None, [], None
        self.selector = selectors.DefaultSelector()
        self.next_probe = self.next_write = 0.0

    def query(self):
        """A row with a number of its own."""
        self.number += 1
        return f"insert into {self.table} (src, id) values ('vip', {self.number}) returning {self.number}, {WHERE}, {TIMELINE}"

    def run(self):
        """For ever."""
        while True:
            now = time.monotonic()
            if self.active and not self.active.waiting and now >= self.next_write:
                self.guarded(self.active, lambda: self.active.ask(self.query()))
            late = not self.active or (self.active.waiting and now - self.active.asked > PATIENCE)
            if late and now >= self.next_probe:
                self.next_probe = now + PROBE
                self.probe()
            for old in [one for one in self.all if one is not self.active and now - one.began > GIVE_UP]:
                self.drop(old)
            if self.active and self.active.waiting and now - self.active.asked > 5:
                self.fail(self.active, "no answer for 5 s")
            idle = self.active and not self.active.waiting
            wait = max(0.0, self.next_write - now) if idle else 0.005
            for key, _ in self.selector.select(wait):
                self.guarded(key.data, lambda one=key.data: self.take(one))

    def probe(self):
        """One more connection."""
        try:
            one = Attempt(self.where, self.query())
        except OSError as error:
            self.say(str(error))
            return
        self.all.append(one)
        self.selector.register(one.sock, selectors.EVENT_WRITE, one)

    def guarded(self, one, work):
        """What fails ends that connection."""
        try:
            work()
        except (OSError, pgwire.PgError) as error:
            self.fail(one, str(error).replace("\n", " "))

    def take(self, one):
        """Something came."""
        if one not in self.all:
            return
        if not one.sent:
            one.connected()
            self.selector.modify(one.sock, selectors.EVENT_READ, one)
        elif one.read():
            self.journal.answered = time.monotonic()
            if one is not self.active:
                self.journal.note("C", "vip", one.row[0], one.row[1], "new")
            self.journal.note("A", "vip", one.row[0], one.row[1], int(one.row[2], 16))
            self.active, self.said = one, None
            for other in [other for other in self.all if other is not one]:
                self.drop(other)
            self.next_write = time.monotonic() + self.pause

    def fail(self, one, reason):
        """That connection is over."""
        self.say(reason)
        self.drop(one)

    def say(self, reason):
        """The same reason once in a row."""
        if self.said != reason:
            self.said = reason
            self.journal.note("E", "vip", self.number, self.where, reason)

    def drop(self, one):
        """Closes one."""
        if one in self.all:
            self.all.remove(one)
            self.selector.unregister(one.sock)
            one.sock.close()
        if one is self.active:
            self.active = None


def main():
    """See the head of the file."""
    os.nice(-10)
    output, table, pause, where = sys.argv[1], sys.argv[2], float(sys.argv[3]) / 1000, sys.argv[4]
    journal = Journal(output)
    for argument in sys.argv[5:]:
        box, _, directory = argument.partition("=")
        Look(box, directory, table, journal).start()
    Writer(where, table, pause, journal).run()


if __name__ == "__main__":
    main()
