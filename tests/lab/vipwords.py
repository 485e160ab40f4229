"""The commands about virtual addresses. Part of scenario.py."""
import os
import re
import subprocess

import cluster as lab
import journal
import net
import vipwatch
from words import command

# Announcements as u32 filters see them: the ARP operation and its target, the ICMPv6 type and the group of all nodes. Other frames of the
# same kind pass, or nobody could find the client.
DEAF = {
    "requests": "protocol arp u32 match u16 1 0xffff at 6 match u32 {vip} 0xffffffff at 24",
    "replies": "protocol arp u32 match u16 2 0xffff at 6 match u32 {vip} 0xffffffff at 24",
    "advertisements": "protocol ipv6 u32 match u8 136 0xff at 40 match u32 0xff020000 0xffffffff at 24",
}


class VipWords:
    """What a Run knows about virtual addresses."""

    def vip(self, role="primary"):
        """The address of a role."""
        found = [vip["address"].split("/")[0] for vip in self.cluster.vips if vip["role"] == role]
        if not found:
            raise lab.LabError(f"the cluster has no {role} address")
        return found[0]

    def vip_changes(self, role="primary"):
        """What the watch saw."""
        return vipwatch.read(self.cluster.watch, self.vip(role))

    def vip_device(self):
        """(device, number of its network)."""
        device = self.cluster.vips[0]["interface"]
        return device, int(device[-1])

    def vip_spans(self, role="primary"):
        """{box: pieces of time in which it was live and had the address}."""
        found = vipwatch.spans(self.vip_changes(role), lab.now())
        return {box: vipwatch.cut(pieces, self.cluster.off.get(box, [])) for box, pieces in found.items()}

    def vip_holders(self, role):
        """The names of the live boxes that have it now."""
        return {name for name in vipwatch.holders(self.vip_changes(role)) if self.cluster.boxes[name].power}

    @command(r"vip writer start")
    def do_vip_writer(self):
        """vip writer start: the client of the virtual address, on the client host, and a look into every box"""
        self.cluster.start_vip_writer(self.vip())
        self.cluster.wait("the first row", lambda: [a for a in self.acks() if a.source == "vip"], 10)
        self.do_sleep("1")

    @command(r"expect (?P<role>standby )?vip on (?P<who>(?!one box)\w+)")
    def do_vip_on(self, role, who):
        """expect [standby ]vip on WHO: this live box and no other has the address of the primary (of the standby)"""
        box, role = self.box(who), (role or "primary").strip()
        self.cluster.wait(f"the {role} address on {box.name} alone", lambda: self.vip_holders(role) == {box.name}, self.until(5), pause=0.02)

    @command(r"expect (?P<role>standby )?vip nowhere")
    def do_vip_nowhere(self, role):
        """expect [standby ]vip nowhere: no live box has it"""
        self.cluster.wait("no address", lambda: not self.vip_holders((role or "primary").strip()), self.until(5), pause=0.02)

    @command(r"expect standby vip not on (?P<who>\w+)")
    def do_standby_vip_not_on(self, who):
        """expect standby vip not on WHO"""
        box = self.box(who)
        self.cluster.wait(f"no standby address on {box.name}", lambda: box.name not in self.vip_holders("standby"), self.until(5), pause=0.02)

    @command(r"expect vip not on (?P<who>\w+)")
    def do_vip_not_on(self, who):
        """expect vip not on WHO: the box has none of the addresses; says when it lost that of the primary, counted from the last fault"""
        box = self.box(who)
        def gone():
            return all(box.name not in vipwatch.holders(self.vip_changes(vip["role"])) for vip in self.cluster.vips)
        self.cluster.wait(f"no address on {box.name}", gone, self.until(5), pause=0.02)
        lost = [t for t, name, has in self.vip_changes() if name == box.name and not has]
        if lost and self.faults:
            self.notes.append(f"dropped {lost[-1] - self.faults[-1]:.2f}s")

    @command(r"expect (?P<role>standby )?vip on one box at most")
    def do_vip_once(self, role):
        """expect [standby ]vip on one box at most: from the beginning until now never two live boxes had it at a time"""
        both = vipwatch.shared(self.vip_spans((role or "primary").strip()))
        self.notes.append(f"both {both:.3f}s")
        if both > 0:
            raise lab.BrokenPromise(f"for {both:.3f} s two live boxes had the address:\n" + open(self.cluster.watch).read())

    @command(r"expect vip stayed on (?P<who>\w+)")
    def do_vip_stayed(self, who):
        """expect vip stayed on WHO: since the last fault, or ever, it did not go"""
        box, since = self.box(who), self.faults[-1] if self.faults else 0.0
        moved = [change for change in vipwatch.told_gone(self.cluster.watch, self.vip()) if change[0] > since]
        if moved or self.vip_holders("primary") != {box.name}:
            raise lab.LabError(f"it is on {self.vip_holders('primary')}; gone since the fault: {moved}")

    @command(r"expect vip back on (?P<who>\w+)")
    def do_vip_back(self, who):
        """expect vip back on WHO: since the last fault it went and is there again"""
        box, fault = self.box(who), self.faults[-1]
        def back():
            told = any(t > fault and name == box.name for t, name in vipwatch.told_gone(self.cluster.watch, self.vip()))
            return told and self.vip_holders("primary") == {box.name}
        self.cluster.wait("it went and came again", back, self.until(5), pause=0.02)

    @command(r"client ignores (?P<what>requests|replies|advertisements|nothing)")
    def do_deaf(self, what):
        """client ignores requests|replies|advertisements|nothing: the client host does not see announcements of that form (of the address) any more"""
        client, (device, _) = self.cluster.switch.ns("cl"), self.vip_device()
        if "hole" not in net.ip("-n", client, "link"):
            net.ip("-n", client, "link", "add", "hole", "type", "veth", "peer", "name", "nowhere")
            net.ip("-n", client, "link", "set", "hole", "up")
        traffic(client, f"qdisc del dev {device} ingress", must=False)
        if what != "nothing":
            number = "0x" + vipwatch.packed(self.vip())[:4].hex()
            traffic(client, f"qdisc add dev {device} ingress")
            # Into an interface that leads nowhere: that every kernel can.
            traffic(client, f"filter add dev {device} parent ffff: {DEAF[what].format(vip=number)} action mirred egress redirect dev hole")

    @command(r"expect reached < (?P<seconds>[\d.]+)s")
    def do_reached(self, seconds):
        """expect reached < N s: from `the new primary is writable` to `reached through the address` since the last fault"""
        self.do_report_vip()
        found = [note for note in self.notes if note.startswith("reached ")]
        if not found or float(found[-1].split()[1].rstrip("s")) >= float(seconds):
            raise lab.LabError(f"{found[-1] if found else 'nobody saw it become writable'}")

    @command(r"expect same session")
    def do_same_session(self):
        """expect same session: the client of the address needed no new connection since the last fault"""
        with open(self.cluster.journal) as file:
            found = [line for line in file if re.match(r"[EC] vip ", line) and float(line.split()[3]) > self.faults[-1]]
        if found:
            raise lab.LabError("".join(found[:5]))

    @command(r"report vip")
    def do_report_vip(self):
        """report vip: from `the new primary is writable` to `reached through the address`, and the longest wait, for the last fault"""
        fault = self.faults[-1]
        acks = [a for a in self.acks() if a.source == "vip"]
        before = [a.node for a in acks if a.t < fault]
        after = next((a for a in acks if a.t > fault and before and a.node != before[-1]), None)
        if after is None:
            raise lab.LabError("nobody else answered through the address")
        writable = [t for t, name, state in journal.states(self.cluster.journal) if name == after.node and state == "primary" and fault < t]
        if writable:
            added = [t for t, name, has in self.vip_changes() if name == after.node and has and t > fault]
            if added:
                self.notes.append(f"added {added[0] - writable[0]:.3f}s")
            self.notes.append(f"reached {after.t - writable[0]:.3f}s")
        self.notes.append(f"gap {journal.outage(acks, fault)[0]:.2f}s")

    @command(r"(?P<how>interface|carrier) (?P<state>down|up) (?P<who>\w+)")
    def do_interface(self, how, state, who):
        """interface down|up WHO (ip link set, in the box) / carrier down|up WHO (the switch's end of the cable): of the virtual address's network"""
        box, (device, number) = self.box(who), self.vip_device()
        if how == "interface":
            net.ip("-n", box.namespace, "link", "set", device, state)
        else:
            net.ip("-n", self.cluster.switch.sw, "link", "set", self.cluster.switch.port(box.name, number), state)
        self.fault()

    @command(r"remove vip (?P<who>\w+)")
    def do_remove_vip(self, who):
        """remove vip WHO: behind the agent's back"""
        box, (device, _) = self.box(who), self.vip_device()
        plain = self.cluster.vips[0]["address"]
        self.fault()
        net.ip("-n", box.namespace, "addr", "del", plain if "/" in plain else f"{plain}/{128 if ':' in plain else 32}", "dev", device)

    @command(r"remove first address (?P<who>\w+)")
    def do_remove_first(self, who):
        """remove first address WHO: the box's own one on the interface of the virtual address, and puts it back a second later"""
        box, (device, number) = self.box(who), self.vip_device()
        own = f"10.{77 + number}.0.{box.index}/24"
        self.fault()
        net.ip("-n", box.namespace, "addr", "del", own, "dev", device)
        self.do_sleep("1")
        net.ip("-n", box.namespace, "addr", "add", own, "dev", device)

    @command(r"no capabilities (?P<who>[\w ]+)")
    def do_no_capabilities(self, who):
        """no capabilities WHO: the agent's next start gets none (with a vip it gets CAP_NET_ADMIN and CAP_NET_RAW as ambient ones)"""
        for box in self.boxes(who):
            box.capable = False

    @command(r"expect no capabilities in PostgreSQL (?P<who>\w+)")
    def do_no_inherited(self, who):
        """expect no capabilities in PostgreSQL WHO: the agent has them, no process of PostgreSQL has"""
        box = self.box(who)
        if capabilities(box.agent)["CapEff"] == 0:
            raise lab.LabError("the agent itself has no capabilities")
        for pid in box.postgres_pids():
            found = capabilities(pid)
            if any(found[key] for key in ("CapEff", "CapPrm", "CapAmb")):
                raise lab.LabError(f"process {pid} has {found}")


def traffic(namespace, words, must=True):
    """Runs tc(8)."""
    done = subprocess.run(["tc", "-n", namespace, *words.split()], capture_output=True, text=True)
    if must and done.returncode != 0:
        raise lab.LabError(f"tc {words}: {done.stderr.strip()}")


def capabilities(pid):
    """{CapInh, CapPrm, CapEff, CapBnd, CapAmb} of a process."""
    with open(os.path.join("/proc", str(pid), "status")) as file:
        return {key: int(value, 16) for key, value in re.findall(r"^(Cap\w+):\s+(\w+)", file.read(), re.M)}
