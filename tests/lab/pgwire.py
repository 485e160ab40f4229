"""A PostgreSQL client of one page: simple queries with a strict deadline.

libpq cannot promise an answer within a second (its connect timeout has whole
seconds, at least two, and a silent server holds a query for ever). The lab
measures outages, so every call here has one deadline for everything.
Authentication: trust and the unix socket only; that is all the lab needs.
"""
import socket
import struct
import time


class PgError(Exception):
    """The server said no; `state` is the SQLSTATE."""

    def __init__(self, state, message):
        super().__init__(f"{state}: {message}")
        self.state = state


class Connection:
    """One session. Any exception makes it unusable: close it and connect anew."""

    def __init__(self, where, user="postgres", database="postgres", deadline=1.0, sock=None, options=""):
        """`where`: (host, port), or the path of a unix socket. `sock`: an unconnected socket to use."""
        self.until = time.monotonic() + deadline
        family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET
        self.sock = sock or socket.socket(family, socket.SOCK_STREAM)
        self.buffer = b""
        try:
            self._tick()
            self.sock.connect(where)
            if family == socket.AF_INET:
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            body = b"\0\x03\0\0"
            pairs = {"user": user, "database": database, "application_name": "lab"}
            if options:
                pairs["options"] = options
            for key, value in pairs.items():
                body += key.encode() + b"\0" + value.encode() + b"\0"
            body += b"\0"
            self.sock.sendall(struct.pack("!i", len(body) + 4) + body)
            self._until_ready()
        except BaseException:
            self.sock.close()
            raise

    def query(self, sql, deadline=1.0):
        """Rows of the last result as lists of strings (None for null)."""
        self.until = time.monotonic() + deadline
        self._tick()
        body = sql.encode() + b"\0"
        self.sock.sendall(b"Q" + struct.pack("!i", len(body) + 4) + body)
        return self._until_ready()

    def close(self):
        """Ends the session without ceremony."""
        self.sock.close()

    def _tick(self):
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("deadline")
        self.sock.settimeout(left)

    def _read(self, count):
        while len(self.buffer) < count:
            self._tick()
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError("closed by the server")
            self.buffer += data
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def _until_ready(self):
        rows, error = [], None
        while True:
            kind, length = struct.unpack("!ci", self._read(5))
            body = self._read(length - 4)
            if kind == b"Z":
                if error:
                    raise error
                return rows
            if kind == b"T":
                rows = []
            elif kind == b"D":
                rows.append(_row(body))
            elif kind == b"E":
                error = _error(body)
                if self._fatal(body):
                    raise error
            elif kind == b"R" and struct.unpack("!i", body[:4])[0] != 0:
                raise PgError("28000", "the lab's client only knows trust")

    @staticmethod
    def _fatal(body):
        return b"SFATAL\0" in body or b"SPANIC\0" in body


def _row(body):
    count, at, row = struct.unpack("!h", body[:2])[0], 2, []
    for _ in range(count):
        size = struct.unpack("!i", body[at:at + 4])[0]
        at += 4
        row.append(None if size < 0 else body[at:at + size].decode())
        at += max(size, 0)
    return row


def _error(body):
    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    return PgError(fields.get(b"C", "?????"), fields.get(b"M", ""))


def once(where, sql, **kwargs):
    """Connect, ask, close."""
    deadline = kwargs.get("deadline", 1.0)
    connection = Connection(where, **kwargs)
    try:
        return connection.query(sql, deadline)
    finally:
        connection.close()
