"""The scenario language: one command a line, read top-down, every wait with an end.

`python3 lab.py --help-language` prints all commands. A line may end with `within 30s`.
`patroni:`, `mastiff:` and `mixed:` in front of a line: only with that kind of agent.

Who: `n1`..`n5`, `leader`, `replica` (the first that is not the leader), `others` (all but the leader),
`all`, a name given by `let NAME = WHO`, or several of them separated by blanks.
"""
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import time

import cluster as lab
import journal
import net
import pgwire
import vipwords
from words import COMMANDS, command, language, unquote

LabError = lab.LabError

class Line:
    """One command of a file."""

    def __init__(self, number, text):
        self.number, self.text, self.within, self.only = number, text, None, None
        match = re.match(r"(patroni|mastiff|mixed):\s+(.*)", text)
        if match:
            self.only, text = match[1], match[2]
        match = re.match(r"(.*?)\s+within\s+([\d.]+)s$", text)
        if match:
            text, self.within = match[1], float(match[2])
        self.body = text
        for pattern, name, _, _ in COMMANDS:
            match = pattern.match(text)
            if match:
                self.method, self.arguments = name, match.groupdict()
                return
        raise LabError(f"line {number}: no such command: {text}")


class Scenario:
    """A parsed file."""

    def __init__(self, path):
        self.name = os.path.basename(path).removesuffix(".lab")
        self.title, self.skips, self.lines = "", {}, []
        with open(path) as file:
            for number, text in enumerate(file, 1):
                text = text.strip()
                if text.startswith("#"):
                    self.title = self.title or text.lstrip("# ")
                elif match := re.match(r'skip (patroni|mastiff|mixed) "(.*)"', text):
                    self.skips[match[1]] = match[2]
                elif text:
                    self.lines.append(Line(number, text))


class Run(vipwords.VipWords):
    """One execution of a scenario."""

    def __init__(self, scenario, agent, say):
        self.scenario, self.agent, self.say = scenario, agent, say
        self.cluster = None
        self.vars, self.faults, self.ends, self.prints, self.output = {}, [], [], {}, ""
        self.occupants, self.notes = {}, []

    def execute(self):
        """Runs all lines; raises LabError with the line that failed."""
        for line in self.scenario.lines:
            if line.only and line.only != self.agent:
                continue
            self.say(f"{line.text}")
            self.within = line.within
            try:
                getattr(self, line.method)(**line.arguments)
            except (LabError, OSError, pgwire.PgError, RuntimeError) as error:
                kind = lab.BrokenPromise if isinstance(error, lab.BrokenPromise) else LabError
                raise kind(f"line {line.number}: {line.text}\n    {error}") from error

    # --- words -------------------------------------------------------------

    def boxes(self, who):
        """Resolves WHO to boxes."""
        found = []
        for word in who.split():
            if word == "all":
                found += list(self.cluster.boxes.values())
            elif word in self.cluster.boxes:
                found.append(self.cluster.boxes[word])
            elif word == "w" and self.cluster.witness:
                found.append(self.cluster.witness)
            elif word in self.vars:
                found += self.vars[word]
            elif word in ("leader", "replica", "others"):
                leader = self.cluster.wait("a leader", self.cluster.leader, 15)
                others = [b for b in self.cluster.boxes.values() if b is not leader]
                found += {"leader": [leader], "replica": others[:1], "others": others}[word]
            else:
                raise LabError(f"who is {word}?")
        return found

    def box(self, who):
        """Resolves WHO to exactly one box."""
        found = self.boxes(who)
        if len(found) != 1:
            raise LabError(f"{who} is not one box")
        return found[0]

    def until(self, default):
        """The time that the line allows."""
        return self.within or default

    def fault(self):
        """Remembers that something was broken now."""
        self.faults.append(lab.now())

    # --- building ----------------------------------------------------------

    @command(r"cluster (?P<size>\d)(?P<options>( \S+=\S+)*)")
    def do_cluster(self, size, options):
        """cluster N [KEY=JSON...] [agents=A,B] [start=none|etcd|first] [networks=2] [store=embedded] [witness=w] [vip=ADDRESS[/PREFIX]] [standby-vip=ADDRESS]: boxes, etcd, agents;
      KEY is a dynamic setting (dotted); the virtual addresses are on the last network (10.77.0.0/24 and fd77::/64, the second one 10.78 and fd78)"""
        dcs, agents, start, vips, networks, embedded, witness = {}, self.agent, "all", [], 1, False, False
        for word in shlex.split(options):
            key, _, value = word.partition("=")
            if key in ("vip", "standby-vip"):
                vips.append({"address": value, "role": "primary" if key == "vip" else "standby"})
                continue
            if key == "networks":
                networks = int(value)
                continue
            if key == "witness":
                witness = True
                continue
            if key == "store":
                embedded = value == "embedded"
                continue
            if key == "agents":
                agents = "patroni" if self.agent == "patroni" else value
            elif key == "start":
                start = value
            else:
                try:
                    dcs[key] = json.loads(value)
                except ValueError:
                    dcs[key] = value
        for vip in vips:
            vip["interface"] = f"eth{networks - 1}"
        self.cluster = lab.Cluster(int(size), agents=agents, dcs=dcs, vips=vips, networks=networks, embedded=embedded, witness=witness)
        boxes = list(self.cluster.boxes.values())
        if start != "none":
            for box in boxes:
                box.start_etcd()
        if start in ("all", "first"):
            boxes[0].start_agent()
            # A store inside the agents needs most of them.
            first, boxes = (self.cluster.voters()[1:], []) if self.cluster.embedded and start == "all" else ([], boxes)
            for box in first:
                box.start_agent()
            self.cluster.wait("the first leader", self.cluster.leader, 60)
        if start == "all":
            for box in boxes[1:]:
                box.start_agent()
            self.cluster.wait_whole(90)

    @command(r"config (?P<who>[\w ]+?) (?P<path>[\w.]+) = (?P<value>.*)")
    def do_config(self, who, path, value):
        """config WHO PATH = JSON: changes the configuration file of the next start (null removes; {DIR} is the box's directory)"""
        for box in self.boxes(who):
            box.changes[path] = json.loads(value.replace("{DIR}", box.dir))
            box.write_config()

    @command(r"append config (?P<who>\w+) (?P<text>\".*\")")
    def do_append(self, who, text):
        """append config WHO "TEXT": adds raw text to the configuration file"""
        box = self.box(who)
        box.write_config(lab.yaml(box.config()) + unquote(text) + "\n")
        self.cluster.by_hand[box.name] = True

    @command(r"environment (?P<who>\w+) (?P<key>\w+) = (?P<value>.*)")
    def do_environment(self, who, key, value):
        """environment WHO KEY = TEXT: an environment variable of the next start"""
        self.box(who).env[key] = unquote(value)

    @command(r"start agent (?P<who>[\w ]+)")
    def do_start(self, who):
        """start agent WHO"""
        for box in self.boxes(who):
            box.start_agent()

    @command(r"let (?P<name>\w+) = (?P<who>[\w ]+)")
    def do_let(self, name, who):
        """let NAME = WHO: remembers who it is now"""
        self.vars[name] = self.boxes(who)
        self.notes.append(f"{name} = {' '.join(b.name for b in self.vars[name])}")

    @command(r"sleep (?P<seconds>[\d.]+)s?")
    def do_sleep(self, seconds):
        """sleep N"""
        until = lab.now() + float(seconds)
        while lab.now() < until:
            self.cluster._messages(0.05)

    # --- clients -----------------------------------------------------------

    @command(r"writer start(?P<probes>( remote| local)*)")
    def do_writer(self, probes):
        """writer start [remote] [local]: the walking client, and one probe per box from the client host or inside the box"""
        self.cluster.start_writer(sources=("app", *probes.split()))
        self.cluster.wait("the first row", lambda: journal.read(self.cluster.journal), 10)
        self.do_sleep("1")

    @command(r"writer stop")
    def do_writer_stop(self):
        """writer stop"""
        self.cluster.stop_writer()

    # --- breaking ----------------------------------------------------------

    def signal(self, pid, number, what):
        """Sends a signal to a process that must be there."""
        if pid is None:
            raise LabError(f"{what} does not run")
        os.kill(pid, number)

    @command(r"kill -9 (?P<what>postmaster|agent|both|etcd|backends) (?P<who>[\w ]+)")
    def do_kill(self, what, who):
        """kill -9 postmaster|agent|both|etcd WHO (both: the agent first)"""
        boxes = self.boxes(who)
        for box in boxes:
            pids = {"postmaster": [box.postmaster()], "agent": [box.agent], "etcd": [box.etcd],
                    "both": [box.agent, box.postmaster()]}[what]
            for pid in pids:
                self.signal(pid, signal.SIGKILL, f"{what} of {box.name}")
        self.fault()

    @command(r"power off (?P<who>[\w ]+)")
    def do_power_off(self, who):
        """power off WHO: the link goes down, then SIGKILL to everything in the box, etcd too"""
        for box in self.boxes(who):
            self.cluster.power_off(box)
        self.fault()

    @command(r"power on (?P<who>[\w ]+)")
    def do_power_on(self, who):
        """power on WHO: link, etcd, agent"""
        boxes = self.boxes(who)
        for box in boxes:
            self.cluster.boot(box)
        for box in boxes:
            box.start_agent()

    @command(r"(?P<how>partition|unplug) (?P<who>[\w ]+)")
    def do_partition(self, how, who):
        """partition WHO (frames vanish, the carrier stays) / unplug WHO (the carrier goes too)"""
        for box in self.boxes(who):
            getattr(self.cluster.switch, how)(box.name)
        self.fault()

    @command(r"heal (?P<who>[\w ]+)")
    def do_heal(self, who):
        """heal WHO: undoes partition and unplug"""
        for box in self.boxes(who):
            self.cluster.switch.heal(box.name)

    @command(r"(?P<how>stop|start|freeze|thaw) etcd (?P<who>[\w ]+)")
    def do_etcd(self, how, who):
        """stop|start|freeze|thaw etcd WHO (freeze: it accepts and never answers)"""
        for box in self.boxes(who):
            if how == "start":
                box.start_etcd()
            else:
                number = {"stop": signal.SIGTERM, "freeze": signal.SIGSTOP, "thaw": signal.SIGCONT}[how]
                self.signal(box.etcd, number, "etcd")
        if how in ("stop", "freeze"):
            self.fault()

    @command(r"sigterm agent (?P<who>[\w ]+)")
    def do_sigterm(self, who):
        """sigterm agent WHO"""
        for box in self.boxes(who):
            self.signal(box.agent, signal.SIGTERM, f"the agent of {box.name}")
        self.fault()

    @command(r"end agent (?P<who>[\w ]+)")
    def do_end(self, who):
        """end agent WHO: SIGTERM where it still runs, and wait until it is gone"""
        for box in self.boxes(who):
            if self.cluster.alive(box.agent):
                os.kill(box.agent, signal.SIGTERM)
                self.cluster.wait(f"the agent of {box.name} ends", lambda: not self.cluster.alive(box.agent), self.until(30))

    @command(r"sighup agent (?P<who>[\w ]+)")
    def do_sighup(self, who):
        """sighup agent WHO: after writing its configuration file anew"""
        for box in self.boxes(who):
            if not self.cluster.by_hand.get(box.name):
                box.write_config()
            self.signal(box.agent, signal.SIGHUP, f"the agent of {box.name}")

    @command(r"(?P<how>stop|cont)-agent (?P<who>[\w ]+)")
    def do_stop_agent(self, how, who):
        """stop-agent|cont-agent WHO: SIGSTOP, SIGCONT"""
        for box in self.boxes(who):
            self.signal(box.agent, signal.SIGSTOP if how == "stop" else signal.SIGCONT, "agent")
        if how == "stop":
            self.fault()

    @command(r"(?P<how>freeze|thaw) (?P<what>postgres|postmaster) (?P<who>[\w ]+)")
    def do_freeze_postgres(self, how, what, who):
        """freeze|thaw postgres WHO: SIGSTOP, SIGCONT to the postmaster and all its children / postmaster WHO: to it alone, so that sessions go on"""
        for box in self.boxes(who):
            if what == "postgres":
                pids = box.postgres_pids()
            else:
                # The one that was frozen may be gone meanwhile, and another one in its place.
                name = f"frozen {box.name}"
                self.prints[name] = box.postmaster() if how == "freeze" else self.prints[name]
                pids = [self.prints[name]] if how == "freeze" or lab.process_state(self.prints[name]) else []
            for pid in pids:
                self.signal(pid, signal.SIGSTOP if how == "freeze" else signal.SIGCONT, f"PostgreSQL of {box.name}")
        if how == "freeze":
            self.fault()

    @command(r"(?P<how>freeze|thaw) (?P<who>(?!etcd|postgres|postmaster)[\w ]+)")
    def do_freeze(self, how, who):
        """freeze|thaw WHO: SIGSTOP, SIGCONT to everything in the box"""
        for box in self.boxes(who):
            self.cluster.switch.kill(box.name, signal.SIGSTOP if how == "freeze" else signal.SIGCONT)
        if how == "freeze":
            self.fault()

    @command(r"promote (?P<who>\w+) by hand(?P<rows> and write)?")
    def do_promote(self, who, rows):
        """promote WHO by hand [and write]: pg_promote() behind the agent's back, optionally some rows on the stray timeline"""
        box = self.box(who)
        box.sql("select pg_promote(true, 10)", deadline=12)
        if rows:
            box.sql("create table if not exists stray (id int); insert into stray select generate_series(1, 1000)", deadline=5)
        self.fault()

    @command(r"diverge (?P<who>\w+)")
    def do_diverge(self, who):
        """diverge WHO: writes on a primary that others cannot see any more"""
        self.box(who).sql("create table if not exists stray (id int); insert into stray select generate_series(1, 10000); checkpoint", deadline=10)

    @command(r"remove-wal (?P<who>\w+)")
    def do_remove_wal(self, who):
        """remove-wal WHO: the leader goes on until the WAL that the (stopped) box would need is gone"""
        box, leader = self.box(who), self.box("leader")
        self.cluster.rest(leader.address, "PATCH", "/config", {
            "member_slots_ttl": 0,
            "postgresql": {"parameters": {"wal_keep_size": "0", "max_wal_size": "32MB", "min_wal_size": "32MB"}}})
        self.cluster.wait(f"the slot of {box.name} is gone", lambda: leader.value(
            f"select count(*) from pg_replication_slots where slot_name = '{box.name}'") == "0", 30)
        first = leader.value("select pg_walfile_name(pg_current_wal_lsn())")

        def gone():
            for _ in range(3):
                leader.sql("create table if not exists junk (t text); insert into junk select repeat('x', 200) from generate_series(1, 5000);"
                           " truncate junk; select pg_switch_wal()", deadline=10)
            leader.sql("checkpoint", deadline=30)
            return leader.value(f"select count(*) from pg_ls_waldir() where name = '{first}'") == "0"
        # The new settings may not be there yet, and another standby's slot may hold the file until that one follows the new leader.
        self.cluster.wait(f"the leader has removed {first}", gone, 60, pause=0.5)

    @command(r"sql (?P<who>\w+) (?P<query>\".*\")")
    def do_sql(self, who, query):
        """sql WHO "QUERY": over the unix socket, as superuser"""
        self.box(who).sql(unquote(query), deadline=self.until(10))

    @command(r"sh (?P<who>\w+) (?P<text>\".*\")")
    def do_sh(self, who, text):
        """sh WHO "COMMAND": as root in the box, $DATA $DIR $SOCK $PG_BIN set; must succeed"""
        box = self.box(who)
        script = f"export DATA={box.data} DIR={box.dir} SOCK={box.sock} PG_BIN={lab.PG_BIN}; {unquote(text)}"
        code, self.output = self.cluster.run(["bash", "-ec", script], box=box.name, deadline=self.until(60))
        if code != 0:
            raise LabError(f"exit code {code}: {self.output.strip()}")

    @command(r"occupy (?P<who>\w+) (?P<port>\d+)")
    def do_occupy(self, who, port):
        """occupy WHO PORT: something else listens there"""
        script = f"import socket,time; s=socket.socket(); s.setsockopt(1,2,1); s.bind(('0.0.0.0',{port})); s.listen(5); time.sleep(9999)"
        pid = self.cluster.spawn(self.box(who).name, [lab.PYTHON, "-c", script], log="/dev/null")
        self.occupants[(who, port)] = pid
        self.do_sleep("0.5")

    @command(r"vacate (?P<who>\w+) (?P<port>\d+)")
    def do_vacate(self, who, port):
        """vacate WHO PORT"""
        os.kill(self.occupants[(who, port)], signal.SIGKILL)

    # --- operating ---------------------------------------------------------

    @command(r"switchover to (?P<who>\w+)")
    def do_switchover(self, who):
        """switchover to WHO: POST /switchover to the leader"""
        leader, box = self.box("leader"), self.box(who)
        self.fault()
        code, text = leader.rest("POST", "/switchover", {"leader": leader.name, "candidate": box.name}, deadline=self.until(60))
        if code != 200:
            raise LabError(f"POST /switchover: {code} {text}")

    @command(r"rest (?P<method>[A-Z]+) (?P<who>\w+) (?P<path>/\S*)(?P<body> \{.*\})?")
    def do_rest(self, method, who, path, body):
        """rest METHOD WHO PATH [JSON]: the answer is what `expect output` looks at, as `CODE TEXT`"""
        code, text = self.box(who).rest(method, path, json.loads(body) if body else None, deadline=self.until(30))
        self.output = f"{code} {text}"

    @command(r"(?P<program>patronictl|ctl) (?P<arguments>.*)")
    def do_ctl(self, program, arguments):
        """patronictl ARGUMENTS (Patroni's own) / ctl ARGUMENTS (Mastiff's own, or patronictl with Patroni): output and exit code for `expect output`"""
        tool = None
        if program == "ctl" and self.agent != "patroni":
            tool = self.cluster.program("mastiff") + ["ctl"]
        words = shlex.split(arguments)
        for at, word in enumerate(words):
            if word.startswith("@"):
                words[at] = self.box(word[1:]).name
        code, self.output = self.cluster.patronictl(*words, program=tool, deadline=self.until(90))
        self.output += f"\nexit {code}"

    @command(r"compare ctl (?P<arguments>.*)")
    def do_compare(self, arguments):
        """compare ctl ARGUMENTS: Patroni's patronictl and Mastiff's command print the same and end with the same code"""
        words = shlex.split(arguments)
        # Positions and states move between two calls: what differs by chance does not do so three times.
        for _ in range(3):
            theirs = self.cluster.patronictl(*words)
            ours = self.cluster.patronictl(*words, program=self.cluster.program("mastiff") + ["ctl"])
            if theirs == ours:
                return
        raise LabError(f"patronictl ({theirs[0]}):\n{theirs[1]}\nmastiff ctl ({ours[0]}):\n{ours[1]}")

    # --- expecting ---------------------------------------------------------

    @command(r"wait leader(?P<who> \w+)?")
    def do_wait_leader(self, who):
        """wait leader [WHO]"""
        wanted = self.box(who.strip()) if who else None
        self.cluster.wait("a leader", lambda: (b := self.cluster.leader()) and (wanted is None or b is wanted), self.until(60))

    @command(r"expect leader (?P<how>==|!=) (?P<who>\w+)")
    def do_expect_leader(self, how, who):
        """expect leader == WHO / != WHO"""
        other = self.box(who)
        found = self.cluster.wait(f"leader {how} {other.name}",
                                  lambda: (b := self.cluster.leader()) and ((b is other) == (how == "==")) and b, self.until(60))
        self.notes.append(f"leader {found.name}")

    @command(r"expect no leader")
    def do_expect_no_leader(self):
        """expect no leader"""
        self.cluster.wait("no leader", lambda: self.cluster.leader() is None, self.until(30))

    @command(r"(wait|expect) streaming (?P<who>[\w ]+)")
    def do_streaming(self, who):
        """expect streaming WHO: from the leader, on its timeline"""
        for box in self.boxes(who):
            self.cluster.wait(f"{box.name} streams", lambda: (l := self.cluster.leader()) and box.streams_from(l), self.until(60))

    @command(r"(wait|expect) whole")
    def do_whole(self):
        """expect whole: one leader that accepts writes, all others stream from it on its timeline, GET /cluster agrees"""
        began = lab.now()
        self.cluster.wait_whole(self.until(90))
        self.notes.append(f"whole {lab.now() - began:.1f}s")

    @command(r"expect standby (?P<who>\w+)")
    def do_standby(self, who):
        """expect standby WHO: PostgreSQL there is in recovery or down"""
        box = self.box(who)
        self.cluster.wait(f"{box.name} is no primary", lambda: box.in_recovery() is not False, self.until(30))

    @command(r"expect writable")
    def do_writable(self):
        """expect writable: the walking client, or the one of the virtual address, gets an acknowledgement after this line"""
        since = lab.now()
        self.cluster.wait("an acknowledgement", lambda: [a for a in self.acks() if a.t > since and a.source in ("app", "vip")], self.until(60))

    def acks(self):
        """All acknowledgements so far."""
        return journal.read(self.cluster.journal, self.cluster.names())

    def missing(self):
        """Acknowledged rows of the walking client that the leader does not have."""
        acks = self.acks()
        if not acks:
            raise LabError("the writer got no acknowledgement at all")
        return [lost for source in ("app", "vip") for lost in journal.missing(acks, self.cluster.rows(self.box("leader"), source), source)]

    @command(r"expect no acknowledged row lost")
    def do_lost(self):
        """expect no acknowledged row lost"""
        lost = self.missing()
        if lost:
            raise lab.BrokenPromise(f"{len(lost)} acknowledged rows are lost: {self.describe(lost)}")
        self.notes.append("lost 0")

    @command(r"expect no replicated row lost")
    def do_lost_replicated(self):
        """expect no replicated row lost: asynchronous; rows acknowledged up to 0.5 s before a fault, or before PostgreSQL was seen to have ended, may not have left the box"""
        lost = self.missing()
        bad = [a for a in lost if not any(f - 0.5 <= a.t <= f + 0.5 for f in self.faults + self.ends)]
        if bad:
            raise lab.BrokenPromise(f"{len(bad)} replicated rows are lost: {self.describe(bad)}")
        self.notes.append(f"lost {len(lost)}")

    def describe(self, lost):
        """Where lost rows were acknowledged, relative to the last fault."""
        fault = self.faults[-1] if self.faults else 0
        return ", ".join(f"#{a.number} on {a.node} timeline {a.timeline} at {a.t - fault:+.3f}s" for a in lost[:5])

    @command(r"expect one writer")
    def do_one_writer(self):
        """expect one writer: no two primaries acknowledged rows during the same time"""
        found = journal.overlaps(self.acks())
        self.notes.append(f"overlap {sum(together for _, _, together in found):.3f}s")
        if found:
            raise lab.BrokenPromise(f"two writers at a time: {found}")

    @command(r"expect handed over from (?P<who>\w+)")
    def do_handed_over(self, who):
        """expect handed over from WHO: its last acknowledgement, by any writer, came before the first one on another box since the last fault"""
        name, fault = self.box(who).name, self.faults[-1]
        acks = self.acks()
        last = max((a.t for a in acks if a.node == name), default=fault)
        first = min((a.t for a in acks if a.node != name and a.t > fault), default=None)
        if first is None:
            raise LabError("no acknowledgement on another box")
        self.notes.append(f"last {last - fault:.2f}s, margin {first - last:.2f}s")
        if first <= last:
            raise lab.BrokenPromise(f"{last - first:.3f} s of two writers")

    @command(r"expect ended postgres (?P<who>\w+)")
    def do_ended(self, who):
        """expect ended postgres WHO: no process of PostgreSQL is left in the box"""
        box = self.box(who)
        self.cluster.wait(f"PostgreSQL of {box.name} has ended", lambda: not box.postgres_pids(), self.until(30), pause=0.02)
        self.ends.append(lab.now())
        self.notes.append(f"ended {self.ends[-1] - self.faults[-1]:.2f}s")

    @command(r"remember postmaster (?P<who>\w+)")
    def do_remember_postmaster(self, who):
        """remember postmaster WHO: its process"""
        self.prints["postmaster " + who] = self.box(who).postmaster()

    @command(r"expect same postmaster (?P<who>\w+)")
    def do_same_postmaster(self, who):
        """expect same postmaster WHO since `remember postmaster`"""
        now, then = self.box(who).postmaster(), self.prints["postmaster " + who]
        if now is None or now != then:
            raise LabError(f"the postmaster was process {then} and is {now}")

    @command(r"kill -9 guard (?P<who>\w+)")
    def do_kill_guard(self, who):
        """kill -9 guard WHO"""
        box = self.box(who)
        self.signal(box.guard(), signal.SIGKILL, f"the guard of {box.name}")

    @command(r"expect guard (?P<who>[\w ]+)")
    def do_guard(self, who):
        """expect guard WHO: a guard process runs in the box"""
        for box in self.boxes(who):
            self.cluster.wait(f"the guard of {box.name}", box.guard, self.until(10))

    @command(r"expect no guard (?P<who>[\w ]+)")
    def do_no_guard(self, who):
        """expect no guard WHO: no guard process runs in the box"""
        for box in self.boxes(who):
            self.cluster.wait(f"the guard of {box.name} has ended", lambda: box.guard() is None, self.until(10))

    @command(r"expect (write )?gap < (?P<seconds>[\d.]+)s")
    def do_gap(self, seconds):
        """expect gap < N s: the walking client's longest wait since the last fault"""
        acks = self.acks()
        main = "app" if any(a.source == "app" for a in acks) else "vip"
        gap = journal.outage(acks, self.faults[-1] if self.faults else acks[0].t, {main})
        if gap is None:
            raise LabError("no acknowledgement after the fault")
        self.notes.append(f"gap {gap[0]:.2f}s")
        if gap[0] > float(seconds):
            raise LabError(f"no write for {gap[0]:.2f} s")

    @command(r"report gap")
    def do_report_gap(self):
        """report gap: prints the walking client's longest wait since the last fault"""
        self.do_gap("1e9")

    @command(r"expect same rows")
    def do_same(self):
        """expect same rows: every box holds the same rows (the writer is stopped for it)"""
        self.cluster.stop_writer()

        def same():
            seen = {box.value(f"select count(*)||':'||coalesce(sum(id),0) from {self.cluster.table}") for box in self.cluster.boxes.values()}
            return len(seen) == 1 and None not in seen
        self.cluster.wait("the same rows everywhere", same, self.until(20))

    @command(r"expect sql (?P<who>\w+) (?P<query>\".*\") = (?P<value>.*)")
    def do_expect_sql(self, who, query, value):
        """expect sql WHO "QUERY" = VALUE"""
        box, query, value = self.box(who), unquote(query), unquote(value)
        self.cluster.wait(f"{query} = {value} on {box.name}", lambda: str(box.value(query)) == value, self.until(20))

    @command(r"expect output (?P<negative>without )?(?P<text>\".*\")")
    def do_output(self, negative, text):
        """expect output "REGEX" / without "REGEX": the answer of the last rest, ctl, patronictl or sh"""
        if bool(re.search(unquote(text), self.output, re.S | re.M)) == bool(negative):
            raise LabError(f"the output was:\n{self.output}")

    @command(r"expect exit (?P<who>\w+) (?P<codes>[\d,-]+|!0)")
    def do_exit(self, who, codes):
        """expect exit WHO CODE[,CODE]: the agent ends with one of these codes (!0: any but 0)"""
        box = self.box(who)
        code = self.cluster.wait(f"the agent of {box.name} ends",
                                 lambda: (c := self.cluster.exit_code(box.agent)) is not None and (c,), self.until(30))[0]
        self.notes.append(f"exit {code}")
        if (codes == "!0" and code == 0) or (codes != "!0" and str(code) not in codes.split(",")):
            raise LabError(f"exit code {code}")

    @command(r"expect alive (?P<who>[\w ]+)")
    def do_alive(self, who):
        """expect alive WHO: the agent runs"""
        for box in self.boxes(who):
            if not self.cluster.alive(box.agent):
                raise LabError(f"the agent of {box.name} is gone, exit code {self.cluster.exit_code(box.agent)}")

    @command(r"expect log (?P<who>\w+) (?P<how>once |without )?(?P<text>\".*\")")
    def do_log(self, who, how, text):
        """expect log WHO [once|without] "REGEX": in what the agent said since its last start"""
        box, how = self.box(who), (how or "").strip()
        def count():
            return len(re.findall(unquote(text), box.log_text(since_start=True), re.M))
        if how == "without":
            if count():
                raise LabError("it is there")
            return
        self.cluster.wait("the line in the log", count, self.until(10))
        if how == "once" and count() != 1:
            raise LabError(f"{count()} times")

    @command(r"remember data (?P<who>\w+)")
    def do_remember(self, who):
        """remember data WHO: a fingerprint of its data directory"""
        self.prints[who] = fingerprint(self.box(who).data)

    @command(r"expect data (?P<who>\w+) untouched")
    def do_untouched(self, who):
        """expect data WHO untouched since `remember data`"""
        new, old = fingerprint(self.box(who).data), self.prints[who]
        changed = sorted(k for k in set(new) | set(old) if new.get(k) != old.get(k))
        if changed:
            raise lab.BrokenPromise(f"{len(changed)} files differ: {', '.join(changed[:8])}")

    @command(r"remove data (?P<who>\w+)")
    def do_remove_data(self, who):
        """remove data WHO"""
        shutil.rmtree(self.box(who).data)

    # --- the end -----------------------------------------------------------

    def tails(self, lines=40):
        """The last lines of every agent's log, for a failure."""
        parts = []
        for box in (self.cluster.voters() if self.cluster else []):
            text = box.log_text().splitlines()
            parts.append(f"--- {box.name} ({box.agent_kind}), last {min(lines, len(text))} of {len(text)} log lines")
            parts += text[-lines:]
        return "\n".join(parts)

    def close(self):
        """Everything away."""
        if self.cluster:
            self.cluster.close()


def fingerprint(directory):
    """Path to (mode, owner, content hash) of everything in a directory."""
    found = {}
    for root, dirs, files in os.walk(directory):
        for name in dirs + files:
            path = os.path.join(root, name)
            info = os.lstat(path)
            digest = ""
            if name in files and not os.path.islink(path):
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()
            found[os.path.relpath(path, directory)] = (info.st_mode, info.st_uid, digest)
    return found


__all__ = ["Scenario", "Run", "LabError", "language", "net", "time"]
