"""Clients that insert numbered rows and write down every acknowledgement.

writer.py OUTPUT TABLE PAUSE_MS SOURCE...

A source is `app=H1,H2,H3` (one client that walks the hosts), `NAME=HOST` (a probe that
only ever asks that host) or `NAME=/socket/directory` (a probe inside the box). Deadlines are
one second each. Lines of the output:

    A source id t node timeline     acknowledged at t (CLOCK_MONOTONIC seconds)
    E source id t node reason       refused or unknown: the number is never used again
"""
import os
import sys
import threading
import time

import pgwire

TIMELINE = "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"


class Client(threading.Thread):
    """One source of rows."""

    def __init__(self, source, hosts, table, pause, out):
        super().__init__(daemon=True)
        self.source, self.hosts, self.table, self.pause, self.out = source, hosts, table, pause, out
        self.number = 0
        self.connection = None
        self.at = 0
        self.said = None

    def run(self):
        failures = 0
        while True:
            self.number += 1
            if self.once():
                failures = 0
                time.sleep(self.pause)
                continue
            self.at = (self.at + 1) % len(self.hosts)
            failures += 1
            if failures >= len(self.hosts):
                failures = 0
                time.sleep(0.01 if len(self.hosts) > 1 else 0.02)

    def once(self):
        """Tries one row on the current host."""
        host = self.hosts[self.at]
        try:
            if self.connection is None:
                where = f"{host}/.s.PGSQL.5432" if host.startswith("/") else (host, 5432)
                self.connection = pgwire.Connection(where, user="lab", deadline=1.0)
            sql = f"insert into {self.table} (src, id) values ('{self.source}', {self.number}) returning {TIMELINE}"
            rows = self.connection.query(sql, 1.0)
        except (OSError, pgwire.PgError) as error:
            if self.connection is not None:
                self.connection.close()
                self.connection = None
            self.note("E", host, str(error).replace("\n", " "))
            return False
        self.note("A", host, str(int(rows[0][0], 16)))
        return True

    def note(self, kind, host, rest):
        """One line; the same refusal of the same host is written once a second."""
        now = time.monotonic()
        key = (host, rest)
        if kind == "E" and self.said and self.said[0] == key and now - self.said[1] < 1.0:
            return
        self.said = (key, now) if kind == "E" else None
        os.write(self.out, f"{kind} {self.source} {self.number} {now:.4f} {host} {rest}\n".encode())


def main():
    """See the head of the file."""
    output, table, pause = sys.argv[1], sys.argv[2], float(sys.argv[3]) / 1000
    out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for argument in sys.argv[4:]:
        source, _, hosts = argument.partition("=")
        Client(source, hosts.split(","), table, pause, out).start()
    while True:
        time.sleep(3600)


main()
