"""Three ways to a virtual IP, one after the other in one run. Called by tests/bench-vip.

Three boxes in namespaces with one etcd member each, the client in a fourth on the same bridge. One client session writes through the address as
fast as it is answered, a look into each box tells what PostgreSQL there is (every 3 ms during an outage), and a watch over the kernels tells
who has the address. See vipclient.py and vipwatch.py. All have ttl 20, loop_wait 1, retry_timeout 3.

Patroni's helpers are set as their manuals show, with the quickest whole numbers: vip-manager asks etcd every second (its default; release 1
speaks etcd's protocol 2, so Patroni and etcd do, too), keepalived runs `curl /primary` every second and believes the first answer.
"""
import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time

import bench
import cluster as lab
import journal
import pgwire
import vipwatch

VIP = "10.77.0.200"
NAMES = {"mastiff": "Mastiff", "vip-manager": "Patroni + vip-manager", "keepalived": "Patroni + keepalived"}
EVENTS = {"switchover": "switchover", "power": "power loss of the leader", "kill": "agent SIGKILL", "stop": "agent SIGSTOP, later SIGCONT"}
MEASURES = {
    "reached": "writable -> reached through the VIP",
    "outage": "no write through the VIP",
    "both": "VIP on two live boxes",
    "writers": "two primaries at a time",
    "wrong": "VIP on a live box that is no primary",
}
# A look into a box and a look at its addresses may be that far apart.
BLUR = 0.05


class System:
    """One of the three, and what was measured."""

    def __init__(self, kind, options):
        self.kind, self.options = kind, options
        self.found, self.managers, self.cluster = {}, {}, None

    def say(self, text):
        """Progress."""
        print(f"    {self.kind}: {text}", file=sys.stderr, flush=True)

    def build(self):
        """A whole cluster with an address that answers."""
        agent = "mastiff" if self.kind == "mastiff" else "patroni"
        vips = [{"address": VIP, "interface": "eth0", "role": "primary"}]
        changes = {"etcd3": None, "etcd.hosts": [f"10.77.0.{i}:2379" for i in (1, 2, 3)]} if self.kind == "vip-manager" else {}
        cluster = self.cluster = lab.Cluster(3, agents=agent, changes=changes, vips=vips)
        cluster.etcd_options = ["--enable-v2=true"] if self.kind == "vip-manager" else []
        boxes = list(cluster.boxes.values())
        for box in boxes:
            box.start_etcd()
        boxes[0].start_agent()
        cluster.wait("the first leader", cluster.leader, 60)
        for box in boxes[1:]:
            box.start_agent()
        cluster.wait_whole(90)
        for box in boxes:
            self.start_manager(box)
        cluster.wait("the address", lambda: vipwatch.holders(vipwatch.read(cluster.watch, VIP)), 30)
        cluster.start_vip_writer(VIP)
        cluster.wait("the first row", self.acks, 20)

    def start_manager(self, box):
        """What holds the address beside Patroni, as root."""
        log = os.path.join(self.cluster.dir, f"{box.name}.vip.log")
        if self.kind == "vip-manager":
            hosts = ",".join(f"http://{one.address}:2379" for one in self.cluster.boxes.values())
            self.cluster.spawn(box.name, ["/usr/bin/vip-manager", f"--ip={VIP}", "--netmask=24", "--interface=eth0", "--dcs-type=etcd",
                                          f"--dcs-endpoints={hosts}", "--trigger-key=/service/lab/leader", f"--trigger-value={box.name}"], log=log)
        elif self.kind == "keepalived":
            path = os.path.join(box.dir, "keepalived.conf")
            with open(path, "w") as file:
                file.write(KEEPALIVED)
            os.chmod(path, 0o600)
            for name in ("k", "v"):
                if os.path.exists(os.path.join(box.dir, f"{name}.pid")):
                    os.unlink(os.path.join(box.dir, f"{name}.pid"))
            self.cluster.spawn(box.name, ["/usr/sbin/keepalived", "--dont-fork", "--log-console", "--vrrp", f"--use-file={path}",
                                          f"--pid={box.dir}/k.pid", f"--vrrp_pid={box.dir}/v.pid"], log=log)

    def acks(self):
        """Rows acknowledged through the address."""
        return [a for a in journal.read(self.cluster.journal, self.cluster.names()) if a.source == "vip"]

    def run(self):
        """All events, in one cluster."""
        self.say("starting")
        try:
            self.build()
            for event, count in (("switchover", self.options.n), ("power", self.options.faults), ("kill", self.options.faults), ("stop", self.options.faults)):
                for _ in range(count):
                    time.sleep(2 + random.random())
                    self.event(event)
        except (lab.LabError, OSError, pgwire.PgError) as error:
            self.say(f"ended early: {error}")
        finally:
            if self.cluster:
                self.cluster.close()
        return self.found

    def event(self, event):
        """Breaks, measures, mends."""
        cluster = self.cluster
        old = cluster.wait("a leader", cluster.leader, 60)
        cluster.wait("the client writes on the leader", lambda: self.acks()[-1].node == old.name and self.acks()[-1].t > lab.now() - 1, 60)
        at = lab.now()
        getattr(self, event)(old)
        cluster.wait("another box through the address", lambda: self.after(at, old), 90)
        time.sleep(1)
        mended = {"power": self.power_on, "kill": lambda box: box.start_agent(), "stop": lambda box: os.kill(box.agent, signal.SIGCONT)}.get(event)
        if mended:
            time.sleep(3)
            mended(old)
        cluster.wait_whole(120)
        time.sleep(2)
        self.measure(event, at, old)

    def switchover(self, leader):
        """Planned."""
        target = next(b for b in self.cluster.boxes.values() if b is not leader)
        code, text = leader.rest("POST", "/switchover", {"leader": leader.name, "candidate": target.name}, deadline=60)
        if code != 200:
            raise lab.LabError(f"switchover: {code} {text}")

    def power(self, leader):
        """The cable first, then everything in the box."""
        self.cluster.power_off(leader)

    def power_on(self, box):
        """As a boot would."""
        self.cluster.power_on(box)
        self.start_manager(box)

    @staticmethod
    def kill(leader):
        """For good, until it is mended."""
        os.kill(leader.agent, signal.SIGKILL)

    @staticmethod
    def stop(leader):
        """Until it is mended."""
        os.kill(leader.agent, signal.SIGSTOP)

    def after(self, at, old):
        """The first row that another box acknowledged."""
        return next((a for a in self.acks() if a.t > at and a.node != old.name), None)

    def measure(self, event, at, old):
        """Everything about one event, until now."""
        after, end = self.after(at, old), lab.now()
        states = journal.states(self.cluster.journal)
        writable = [t for t, box, state in states if box == after.node and state == "primary" and t > at]
        having = vipwatch.spans(vipwatch.read(self.cluster.watch, VIP), end)
        having = {box: vipwatch.cut(pieces, [(0, at), *self.cluster.off.get(box, [])]) for box, pieces in having.items()}
        wrong = 0.0
        for box, pieces in having.items():
            wrong += sum(b - a for a, b in vipwatch.cut(pieces, primary_spans(states, box, end)) if b - a > BLUR)
        writers = {box: vipwatch.cut(primary_spans(states, box, end), [(0, at), *self.cluster.off.get(box, [])]) for box in self.cluster.boxes}
        values = {"outage": journal.outage(self.acks(), at)[0], "both": vipwatch.shared(having), "writers": vipwatch.shared(writers), "wrong": wrong}
        if writable:
            values["reached"] = after.t - writable[0]
        for key, value in values.items():
            self.found.setdefault(event, {}).setdefault(key, []).append(value)
        self.say(f"{event}: " + ", ".join(f"{key} {value:.3f}" for key, value in values.items()))


def primary_spans(states, box, end):
    """When PostgreSQL in the box was a primary."""
    mine = [(t, state) for t, name, state in states if name == box] + [(end, "end")]
    return [(t, until) for (t, state), (until, _) in zip(mine, mine[1:]) if state == "primary"]


KEEPALIVED = f"""global_defs {{
    enable_script_security
    script_user root
}}
vrrp_script patroni {{
    script "/usr/bin/curl --silent --fail --max-time 1 --output /dev/null http://127.0.0.1:8008/primary"
    interval 1
    timeout 1
    rise 1
    fall 1
}}
vrrp_instance database {{
    state BACKUP
    interface eth0
    virtual_router_id 77
    priority 100
    advert_int 1
    virtual_ipaddress {{
        {VIP}/24 dev eth0
    }}
    track_script {{
        patroni
    }}
}}
"""


def cell(values):
    """min / median / max in seconds."""
    if not values:
        return "-"
    parts = [min(values), statistics.median(values), max(values)] if len(values) > 1 else values
    return " / ".join(f"{value:.3f}" for value in parts)


def table(results):
    """The lines of the table."""
    lines = [["event", "seconds, min / median / max", *[NAMES[kind] for kind in results], "goal for Mastiff"]]
    goals = {"reached": "median < 0.050", "both": "0", "writers": "0", "wrong": "0"}
    for event, words in EVENTS.items():
        for key, text in MEASURES.items():
            cells = [cell(found.get(event, {}).get(key)) for found in results.values()]
            lines.append([words, text, *cells, goals.get(key, "")])
    every = [[value for event in found.values() for value in event.get("reached", [])] for found in results.values()]
    lines.append(["all", MEASURES["reached"], *map(cell, every), goals["reached"]])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return ["| " + " | ".join(part.ljust(width) for part, width in zip(line, widths)) + " |" for line in lines]


def verdict(found):
    """One sentence about Mastiff's goals."""
    reached = [value for event in found.values() for value in event.get("reached", [])]
    if not reached:
        return "Mastiff: nothing was measured"
    median = statistics.median(reached)
    both = sum(value for event in found.values() for value in event.get("both", []))
    held = "met" if median < 0.05 and both == 0 else "MISSED"
    return f"goal {held}: writable -> reached through the VIP in {median * 1000:.0f} ms (median of {len(reached)}, goal < 50 ms), {both:.3f} s on two live boxes (goal 0)"


def main():
    """See the head of the file."""
    parser = argparse.ArgumentParser(prog="tests/bench-vip")
    parser.add_argument("--systems", default=",".join(NAMES), help="which, in this order")
    parser.add_argument("-n", type=int, default=5, help="how many switchovers")
    parser.add_argument("--faults", type=int, default=1, help="how often each fault (a lease each)")
    parser.add_argument("--json", help="file for all single values")
    options = parser.parse_args()
    lab.sweep()
    about = bench.machine()
    versions = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}, ", "vip-manager", "keepalived"], capture_output=True, text=True).stdout
    print(f"{about}; {versions}Patroni 4.1.5; ttl 20, loop_wait 1, retry_timeout 3 for all", flush=True)
    results = {kind: System(kind, options).run() for kind in options.systems.split(",")}
    print("\n".join(table(results)))
    if "mastiff" in results:
        print(verdict(results["mastiff"]))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"about": about, "results": results}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
