"""Two boxes, a witness, a client that never stops writing, and the loss of the leader. Called by tests/demo.

With Patroni among the agents: three boxes, and etcd on each.
"""
import argparse
import json
import re
import signal
import sys
import time

import cluster as lab
import journal
import vipwatch

VIP = "10.77.0.200"
STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) (INFO|WARNING|ERROR|CRITICAL): (.*)")
DULL = re.compile(r"no action\.|Got response|updated leader lock|Lock owner")
WORTH = re.compile(r"promot|acquir|demot|rewind|basebackup|bootstrap|following|lost|released|replica has been created"
                   r"|not healthy|election|starting as|rejoin|stream", re.I)


class Story:
    """Everything that happened, with the moment of the fault as zero."""

    def __init__(self):
        self.zero, self.wall = lab.now(), time.time()
        self.events = []

    def start(self):
        """Now is zero."""
        self.zero, self.wall = lab.now(), time.time()

    def add(self, who, text, at=None):
        """Something happened; printed at once."""
        at = lab.now() if at is None else at
        self.events.append((at - self.zero, who, text))
        print(f"  {at - self.zero:+8.2f} s  {who:7} {text}", flush=True)

    def logs(self, boxes):
        """The sentences of the agents' logs that tell the story, repetitions left out."""
        for box in boxes:
            said = set()
            for line in box.log_text().splitlines():
                match = STAMP.match(line)
                if not match or match[4] in said or DULL.match(match[4]):
                    continue
                at = time.mktime(time.strptime(match[1], "%Y-%m-%d %H:%M:%S")) + int(match[2]) / 1000 - self.wall
                if at > -2 and WORTH.search(match[4]):
                    said.add(match[4])
                    self.events.append((at, box.name, f'says "{match[4][:110]}"'))


def build(options, story):
    """Starts the cluster and shows it."""
    dcs, etcd = {"ttl": options.ttl}, options.agent != "mastiff"
    if etcd:
        cluster = lab.Cluster(3, agents=options.agent, dcs=dcs)
        print("\nThree boxes (n1, n2, n3), each with etcd, and a client host, each in its own network namespace, on one switch.")
    else:
        vip = {"address": VIP, "interface": "eth0", "role": "primary"}
        cluster = lab.Cluster(2, agents=options.agent, dcs=dcs, vips=[vip], embedded=True, witness=True)
        print(f"\nTwo boxes (n1, n2), a witness (w) without PostgreSQL and a client host, each in its own network namespace, on one"
              f"\nswitch. No etcd: the agents keep the store. The primary has the address {VIP}.")
    for box in cluster.boxes.values():
        box.start_etcd()
    story.start()
    print("Time counts from the start of the first agent.")
    first, *others = cluster.voters()
    for box in [first, *([] if etcd else others)]:
        box.start_agent()
    leader = cluster.wait("the first leader", cluster.leader, 60)
    story.add(leader.name, "has made a new cluster and leads it")
    for box in others if etcd else []:
        box.start_agent()
    cluster.wait_whole(90)
    story.add("all", "the other boxes stream from it")
    return cluster


def first_ack(cluster, since, node=None):
    """The first acknowledgement of the walking client after a moment."""
    for ack in journal.read(cluster.journal, cluster.names()):
        if ack.t > since and (node is None or ack.node == node) and ack.source == "app":
            return ack
    return None


def lose_leader(cluster, story):
    """The fault and what the others make of it; returns (old, new)."""
    old = cluster.leader()
    cluster.power_off(old)
    story.start()
    cluster.fault_at = story.zero
    print("\nNow the leader's box loses its network and its power: PostgreSQL, the agent and its part of the store at once."
          "\nTime counts from here.")
    story.add("fault", f"{old.name} is dead")
    new = cluster.wait("a new leader", lambda: (b := cluster.leader()) and b is not old and b, 90, pause=0.02)
    story.add(new.name, "answers GET /primary with 200: it is the leader")
    ack = cluster.wait("a write on the new leader", lambda: first_ack(cluster, story.zero, new.name), 30, pause=0.02)
    story.add("client", f"the first row is acknowledged by {new.name}", at=ack.t)
    for other in (b for b in cluster.boxes.values() if b not in (old, new)):
        cluster.wait("the other standby", lambda other=other: other.streams_from(new), 60)
        story.add(other.name, f"streams from {new.name} on the new timeline")
    if cluster.vips:
        address(cluster, story, new)
    return old, new


def address(cluster, story, new):
    """When the virtual address came to the new leader."""
    def came():
        return [t for t, name, has in vipwatch.read(cluster.watch, VIP) if name == new.name and has and t > story.zero]
    times = cluster.wait(f"{VIP} on {new.name}", came, 10)
    story.add(new.name, f"has the address {VIP}", at=times[0])


def rejoin(cluster, story, old):
    """The dead box gets its power back."""
    time.sleep(2)
    cluster.power_on(old)
    story.add("power", f"{old.name} is switched on again")
    cluster.wait_whole(120)
    story.add(old.name, "has joined again and streams: the cluster is whole")
    time.sleep(1)


def judge(cluster, story, old, new, options):
    """Checks the promises; returns the list of broken ones."""
    cluster.stop_writer()
    acks = journal.read(cluster.journal, cluster.names())
    broken = []
    lost = journal.missing(acks, cluster.rows(cluster.leader()))
    late = [a for a in lost if a.t < cluster.fault_at - 0.5 or a.t > cluster.fault_at + 0.5]
    gap = journal.outage(acks, cluster.fault_at, {"app"})[0]
    twice = journal.overlaps(acks)
    print(f"\nThe client got {sum(a.source == 'app' for a in acks)} rows acknowledged; it could not write for {gap:.2f} s"
          f" (the lease is {options.ttl} s long).")
    print(f"Acknowledged rows that the cluster has lost: {len(lost)}"
          + (" (asynchronous replication: written in the last moment before the fault)" if lost and not late else "") + ".")
    if late:
        broken.append(f"{len(late)} rows that had been replicated are lost")
    if twice:
        broken.append(f"two boxes accepted writes at a time: {twice}")
    if gap > options.ttl + 15:
        broken.append(f"no write for {gap:.1f} s")

    def same():
        counts = {box.value(f"select count(*)||'/'||sum(id) from {cluster.table}") for box in cluster.boxes.values()}
        return len(counts) == 1 and None not in counts
    try:
        cluster.wait("the same rows on all boxes", same, 20)
        print("All boxes hold the same rows.")
    except lab.LabError as error:
        broken.append(str(error))
    return broken


def show(cluster, options):
    """The operator's table."""
    if cluster.embedded:
        members = json.loads(cluster.leader().rest("GET", "/cluster")[1])["members"]
        print("\nGET /cluster:")
        for member in members:
            print("  " + "  ".join(f"{key} {member[key]}" for key in ("name", "role", "state", "timeline", "lag") if key in member))
        return
    program = None if options.agent == "patroni" else cluster.program("mastiff") + ["ctl"]
    code, text = cluster.patronictl("list", program=program)
    print("\n" + text.strip() if code == 0 else f"(list ended with {code}: {text.strip()})")


def main():
    """See the head of the file."""
    parser = argparse.ArgumentParser(prog="tests/demo")
    parser.add_argument("--agent", choices=("mastiff", "patroni", "mixed"), default="mastiff")
    parser.add_argument("--ttl", type=int, default=20)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    lab.sweep()
    story, cluster = Story(), None
    try:
        cluster = build(options, story)
        show(cluster, options)
        cluster.start_writer(sources=("app", "local"))
        cluster.wait("the first row", lambda: first_ack(cluster, 0), 10)
        time.sleep(3)
        story.events.clear()
        old, new = lose_leader(cluster, story)
        rejoin(cluster, story, old)
        show(cluster, options)
        story.logs(cluster.boxes.values())
        print("\nThe whole story, with what the agents said (seconds since the fault):")
        for at, who, text in sorted(story.events, key=lambda e: e[0]):
            print(f"  {at:+8.2f} s  {who:7} {text}")
        broken = judge(cluster, story, old, new, options)
    except (lab.LabError, OSError) as error:
        broken = [str(error)]
        for box in cluster.boxes.values() if cluster else []:
            print(f"--- {box.name}, end of the log\n" + "\n".join(box.log_text().splitlines()[-30:]))
    finally:
        if cluster:
            cluster.close()
    if broken:
        print("\nThe promise did NOT hold: " + "; ".join(broken))
        return 1
    print(f"\nThe promise held: {old.name} was lost, {new.name} took over, nothing replicated was lost, {old.name} is back as a standby.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
