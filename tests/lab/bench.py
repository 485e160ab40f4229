"""Patroni and Mastiff side by side on the same boxes in one run. Called by tests/bench.

How each figure is taken is what reference measurements of the peer used: three boxes in namespaces, one etcd
member each, the client in a fourth; `gap` is the longest time in which no box acknowledged a row to its own
probe from the client host ("servers"). Data on a memory disk: fsync is almost free, for both alike.
"""
import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time

import cluster as lab
import journal
import net
import pgwire

ROWS = [
    # key, text, unit, goal
    ("rss_leader", "resident memory of the agent, leader", "MB", "<= 6.3 (6 MiB)"),
    ("rss_replica", "resident memory of the agent, standby", "MB", "<= 6.3 (6 MiB)"),
    # The guard is the same program: what both have resident is there once.
    ("pss_guard", "proportional memory of the guard, leader", "MB", "< 1"),
    ("pss_leader", "proportional memory of all, leader", "MB", ""),
    ("cpu_leader", "CPU idle, leader, s per 10 min", "s", ""),
    ("cpu_replica", "CPU idle, standby, s per 10 min", "s", ""),
    ("switches_leader", "context switches idle, leader, per s", "/s", ""),
    ("switches_replica", "context switches idle, standby, per s", "/s", ""),
    ("initdb", "initdb alone (not the agent)", "s", ""),
    ("first_write", "exec to first write less initdb", "s", "< 0.4"),
    ("switchover", "write gap: planned switchover", "s", "< 0.25"),
    ("crash_failover", "write gap: postmaster killed, start timeout 0", "s", "< 0.5"),
    ("crash_in_place", "write gap: postmaster killed, started in place", "s", "< 0.6"),
    ("lost_box", "write gap: lost box (lease 20 s)", "s", "lease + 0.5"),
    # A new leader of etcd grants every lease anew (its lessor's Promote): nobody's lease can end earlier than that.
    ("lost_box_etcd", "... that was etcd's leader, too", "s", ""),
    ("rest_wrk", "GET /primary, wrk, 8 connections", "/s", "> 20000"),
    ("rest_serial", "GET /primary, new connection each", "/s", ""),
]


def agents_of(box):
    """The agent's processes in a box: everything but etcd and PostgreSQL."""
    found = []
    for pid in net.pids(box.namespace):
        state = lab.process_state(pid)
        if state and not re.search(r"/etcd |postgres|nsenter", state[1].split(".yml")[0].replace("--reuid=postgres", "")):
            found.append(pid)
    return found or [box.agent]


def memory(pid):
    """(RSS, PSS) in MB of 1000 kB."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        text = file.read()
    return tuple(int(re.search(rf"^{key}:\s+(\d+)", text, re.M)[1]) * 1.024 / 1000 for key in ("Rss", "Pss"))


def effort(pid):
    """(CPU seconds, context switches) so far, over all threads."""
    cpu = switches = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/schedstat") as file:
                cpu += int(file.read().split()[0]) / 1e9
            with open(f"/proc/{pid}/task/{task}/status") as file:
                switches += sum(int(n) for n in re.findall(r"ctxt_switches:\s+(\d+)", file.read()))
        except FileNotFoundError:
            pass
    return cpu, switches


class Bench:
    """All measurements of one kind of agent."""

    def __init__(self, agent, options):
        self.agent, self.options = agent, options
        self.found = {}

    def say(self, text):
        """Progress."""
        print(f"    {self.agent}: {text}", file=sys.stderr, flush=True)

    def note(self, key, value):
        """One value of a row."""
        self.found.setdefault(key, []).append(value)
        self.say(f"{key} {value:.3f}")

    def wanted(self, *keys):
        """Whether any of the rows was asked for."""
        return not self.options.only or any(re.search(self.options.only, key) for key in keys)

    def start(self, size=3, **dcs):
        """A whole cluster."""
        cluster = lab.Cluster(size, agents=self.agent, dcs=dcs)
        try:
            for box in cluster.boxes.values():
                box.start_etcd()
            boxes = list(cluster.boxes.values())
            boxes[0].start_agent()
            cluster.wait("the first leader", cluster.leader, 60)
            for box in boxes[1:]:
                box.start_agent()
            cluster.wait_whole(90)
            return cluster
        except BaseException:
            cluster.close()
            raise

    def run(self):
        """Everything, one after the other."""
        for part in (self.idle_and_rest, self.startup, self.switchovers, self.crashes_failover, self.crashes_in_place, self.lost_boxes):
            try:
                part()
            except (lab.LabError, OSError, pgwire.PgError) as error:
                self.say(f"{part.__name__} ended early: {error}")
        return self.found

    def idle_and_rest(self):
        """Memory, CPU, wakeups of an idle cluster; then REST."""
        if not self.wanted("rss", "pss", "cpu", "switches", "rest"):
            return
        cluster = self.start()
        try:
            leader = cluster.leader()
            if self.wanted("rss", "pss", "cpu", "switches"):
                time.sleep(min(30, self.options.idle))
                self.idle(cluster, leader)
            if self.wanted("rest"):
                self.rest(cluster, leader)
        finally:
            cluster.close()

    def idle(self, cluster, leader):
        """Sums over the agent's processes of each box; memory of the largest, and of the others."""
        pids = {box: agents_of(box) for box in cluster.boxes.values()}
        before = {pid: effort(pid) for group in pids.values() for pid in group}
        began = lab.now()
        time.sleep(self.options.idle)
        took = lab.now() - began
        for box, group in pids.items():
            who = "leader" if box is leader else "replica"
            cpu = sum(effort(pid)[0] - before[pid][0] for pid in group)
            switches = sum(effort(pid)[1] - before[pid][1] for pid in group)
            self.note(f"cpu_{who}", cpu * 600 / took)
            self.note(f"switches_{who}", switches / took)
            shares = sorted((memory(pid) for pid in group), reverse=True)
            self.note(f"rss_{who}", shares[0][0])
            if who == "leader":
                self.note("pss_leader", sum(pss for _, pss in shares))
                for _, pss in shares[1:]:
                    self.note("pss_guard", pss)

    def rest(self, cluster, leader):
        """wrk where it is installed, and a client with a new connection each time."""
        url = f"http://{leader.address}:8008/primary"
        for _ in range(self.options.n if self.options.n < 3 else 3):
            code, text = cluster.run(["wrk", "-t1", "-c8", "-d5s", url], deadline=30)
            match = re.search(r"Requests/sec:\s+([\d.]+)", text)
            if code == 0 and match:
                self.note("rest_wrk", float(match[1]))
        until, count = lab.now() + 3, 0
        began = lab.now()
        while lab.now() < until:
            count += leader.rest("GET", "/primary")[0] == 200
        self.note("rest_serial", count / (lab.now() - began))

    def startup(self):
        """A fresh agent alone: exec to the first row."""
        if not self.wanted("first_write", "initdb"):
            return
        for _ in range(self.options.n):
            cluster = lab.Cluster(1, agents=self.agent)
            try:
                box = cluster.boxes["n1"]
                box.start_etcd()
                cluster.wait("etcd", lambda: cluster.etcdctl("endpoint", "health")[0] == 0, 20)
                alone = self.initdb(cluster, box)
                self.note("initdb", alone)
                cluster.program(self.agent)
                began = lab.now()
                box.start_agent()
                self.first_write(box)
                self.note("first_write", lab.now() - began - alone)
            finally:
                cluster.close()

    @staticmethod
    def initdb(cluster, box):
        """Seconds of initdb with the same options."""
        target = os.path.join(box.dir, "measure")
        began = lab.now()
        code, text = cluster.run([f"{lab.PG_BIN}/initdb", "-D", target, "--encoding=UTF8", "--locale=C", "--data-checksums",
                                  "--username=postgres", "-A", "trust"], box=box.name, user="postgres")
        if code != 0:
            raise lab.LabError(text)
        return lab.now() - began

    @staticmethod
    def first_write(box):
        """Returns when a row was committed."""
        until = lab.now() + 60
        while lab.now() < until:
            try:
                box.sql("create table first (id int)", deadline=1)
                return
            except (OSError, pgwire.PgError):
                time.sleep(0.002)
        raise lab.LabError("no first write within 60 s")

    def gaps(self, key, cluster, count, fault, repair=None, prepare=None):
        """`count` times: perhaps a preparation, a fault, the gap that it makes, wholeness again."""
        cluster.start_writer(pause_ms=2, sources=("remote",))
        for _ in range(count):
            time.sleep(2 + random.random())
            leader = cluster.wait("a leader", cluster.leader, 30)
            if prepare:
                prepare(cluster, leader)
                leader = cluster.wait("a leader", cluster.leader, 30)
            at = lab.now()
            fault(cluster, leader)
            time.sleep(1)
            cluster.wait("writes again", lambda at=at: [a for a in journal.read(cluster.journal) if a.t > at + 0.9], 90)
            if repair:
                time.sleep(1)
                repair(cluster, leader)
            cluster.wait_whole(120)
            self.note(key, journal.outage(journal.read(cluster.journal), at)[0])
        cluster.stop_writer()

    def switchovers(self):
        """Planned, to the other one each time."""
        if not self.wanted("switchover"):
            return
        cluster = self.start()

        def fault(cluster, leader):
            target = next(b for b in cluster.boxes.values() if b is not leader)
            code, text = leader.rest("POST", "/switchover", {"leader": leader.name, "candidate": target.name}, deadline=60)
            if code != 200:
                raise lab.LabError(f"switchover: {code} {text}")
        try:
            self.gaps("switchover", cluster, self.options.n, fault)
        finally:
            cluster.close()

    def crashes(self, key, timeout):
        """SIGKILL to the postmaster."""
        if not self.wanted(key):
            return
        cluster = self.start(primary_start_timeout=timeout)
        try:
            self.gaps(key, cluster, self.options.n, lambda _, leader: os.kill(leader.postmaster(), 9))
        finally:
            cluster.close()

    def crashes_failover(self):
        """Another box takes over."""
        self.crashes("crash_failover", 0)

    def crashes_in_place(self):
        """The same box starts it again."""
        self.crashes("crash_in_place", 300)

    def lost_boxes(self):
        """Link down, then everything dead; back after the failover. With etcd's leader elsewhere, and in the same box."""
        if not self.wanted("lost_box"):
            return

        def move_etcd(together):
            def prepare(cluster, leader):
                cluster.move_etcd_leader(leader if together else next(box for box in cluster.boxes.values() if box is not leader))
                time.sleep(3)
            return prepare
        for key, together in (("lost_box", False), ("lost_box_etcd", True)):
            cluster = self.start()
            try:
                self.gaps(key, cluster, self.options.lost, lambda c, leader: c.power_off(leader), lambda c, leader: c.power_on(leader),
                          move_etcd(together))
            finally:
                cluster.close()


def cell(values):
    """min / median / max, or one number."""
    if not values:
        return "-"
    form = "{:.0f}" if min(values) >= 100 else "{:.2f}"
    if len(values) == 1:
        return form.format(values[0])
    return " / ".join(form.format(v) for v in (min(values), statistics.median(values), max(values)))


def table(results):
    """The lines of the table."""
    head = ["", *[{"patroni": "Patroni 4.1.5", "mastiff": "Mastiff"}.get(a, a) for a in results], "goal"]
    lines = [head]
    for key, text, unit, goal in ROWS:
        cells = [cell(found.get(key)) for found in results.values()]
        if any(c != "-" for c in cells):
            lines.append([f"{text} [{unit}]", *cells, goal])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return ["| " + " | ".join(part.ljust(width) for part, width in zip(line, widths)) + " |" for line in lines]


def machine():
    """What it was measured on."""
    cpus = os.cpu_count()
    version = subprocess.run([f"{lab.PG_BIN}/postgres", "--version"], capture_output=True, text=True).stdout.strip()
    load = os.getloadavg()[0]
    return f"{cpus} cores, {version}, load at the start {load:.1f}, {time.strftime('%Y-%m-%d %H:%M')}"


def main():
    """See the head of the file."""
    parser = argparse.ArgumentParser(prog="tests/bench")
    parser.add_argument("--agents", default="patroni,mastiff")
    parser.add_argument("-n", type=int, default=5, help="how often each startup, switchover and crash")
    parser.add_argument("--lost", type=int, default=2, help="how many lost boxes (each takes a lease)")
    parser.add_argument("--idle", type=float, default=60, help="seconds of idling")
    parser.add_argument("--only", default="", help="regular expression over the rows: " + " ".join(row[0] for row in ROWS))
    parser.add_argument("--json", help="file for all single values")
    options = parser.parse_args()
    lab.sweep()
    about = machine()
    print(f"{about}; n = {options.n}, min / median / max; ttl 20, loop_wait 1, retry_timeout 3 for both", flush=True)
    results = {}
    for agent in options.agents.split(","):
        results[agent] = Bench(agent, options).run()
    print("\n".join(table(results)))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"about": about, "results": results}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
