"""A cluster in a box: hosts in namespaces, each with etcd, an agent and its PostgreSQL."""
import collections
import http.client
import json
import os
import pwd
import random
import re
import select
import shutil
import signal
import string
import subprocess
import sys
import time

import net
import pgwire

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PG_BIN = os.environ.get("LAB_PG_BIN", "/usr/lib/postgresql/15/bin")
VENV = os.environ.get("LAB_VENV", os.path.join(ROOT, ".cache", "venv"))
PYTHON = "/usr/bin/python3"
# Every cluster keeps its store in the agents.
EMBEDDED = False


class LabError(Exception):
    """An expectation that did not hold, or a lab that could not be built."""


class BrokenPromise(LabError):
    """Two writers, a lost row, an address on two boxes, a touched data directory: what no second try excuses."""


def now():
    """The clock of the lab and of the writers."""
    return time.monotonic()


def binary(agent):
    """argv of an agent program, without the configuration file."""
    if agent == "patroni":
        return [os.path.join(VENV, "bin", "patroni")]
    path = os.environ.get("MASTIFF", os.path.join(ROOT, "target", "debug", "mastiff"))
    return [path]


def yaml(value, indent=0):
    """Block style YAML with every string quoted."""
    pad = "  " * indent
    if isinstance(value, dict):
        lines = []
        for key, item in value.items():
            if isinstance(item, (dict, list)) and item:
                lines.append(f"{pad}{key}:\n{yaml(item, indent + 1)}")
            else:
                lines.append(f"{pad}{key}: {json.dumps(item)}\n")
        return "".join(lines)
    return "".join(f"{pad}- {json.dumps(item)}\n" for item in value)


def put(tree, path, value):
    """Sets a dotted path; None removes it."""
    *parents, last = path.split(".")
    for part in parents:
        tree = tree.setdefault(part, {})
    if value is None:
        tree.pop(last, None)
    else:
        tree[last] = value


def process_state(pid):
    """(parent, command line) or None; a zombie counts as gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            rest = file.read().rpartition(")")[2].split()
        if rest[0] == "Z":
            return None
        with open(f"/proc/{pid}/cmdline") as file:
            return int(rest[1]), file.read().replace("\0", " ").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None


class Box:
    """One host."""

    def __init__(self, cluster, index, name=None):
        self.cluster, self.index = cluster, index
        self.name = name or f"n{index}"
        self.address = f"10.77.0.{index}"
        self.dir = os.path.join(cluster.dir, self.name)
        self.data = os.path.join(self.dir, "data")
        self.sock = os.path.join(self.dir, "sock")
        self.log = os.path.join(cluster.dir, f"{self.name}.log")
        self.config_file = os.path.join(self.dir, "agent.yml")
        self.agent_kind = "patroni"
        self.agent = None
        self.etcd = None
        self.power = True
        self.capable = True
        self.changes = {}
        self.env = {}
        os.makedirs(self.sock)
        for path in (self.dir, self.sock):
            shutil.chown(path, "postgres", "postgres")

    @property
    def namespace(self):
        """The name of its network namespace."""
        return self.cluster.switch.ns(self.name)

    def sql(self, query, deadline=2.0, user="postgres"):
        """Rows, over the unix socket: works whatever the network does."""
        return pgwire.once(f"{self.sock}/.s.PGSQL.5432", query, user=user, deadline=deadline)

    def value(self, query, deadline=2.0):
        """First column of the first row, None when there is none or nobody answers."""
        try:
            rows = self.sql(query, deadline)
            return rows[0][0] if rows else None
        except (OSError, pgwire.PgError):
            return None

    def rest(self, method, path, body=None, deadline=2.0, source="cl"):
        """(status, text) of a REST call from another box, (0, reason) when nobody answers."""
        return self.cluster.rest(self.address, method, path, body, deadline, source)

    def postmaster(self):
        """Pid of the running postmaster or None."""
        try:
            with open(os.path.join(self.data, "postmaster.pid")) as file:
                pid = int(file.readline())
        except (OSError, ValueError):
            return None
        state = process_state(pid)
        return pid if state and "postgres" in state[1] else None

    def postgres_pids(self):
        """Every process of PostgreSQL in the box: the postmaster first, then its children, also orphaned ones."""
        found = [(pid, state) for pid in net.pids(self.namespace) if (state := process_state(pid))]
        return [pid for pid, (_, words) in found if words.startswith((f"{PG_BIN}/postgres ", "postgres: "))]

    def guard(self):
        """Pid of the agent's guard process or None."""
        for pid in net.pids(self.namespace):
            state = process_state(pid)
            if state and " guard mastiff-guard-" in state[1]:
                return pid
        return None

    def in_recovery(self):
        """True, False, or None when it does not say."""
        return {"t": True, "f": False}.get(self.value("select pg_is_in_recovery()"))

    def store(self):
        """The part of the configuration that names the store: none for a box alone with its own."""
        others = [box.address for box in self.cluster.voters() if box is not self]
        if self.cluster.embedded and not others:
            return {}
        if self.cluster.embedded:
            return {"raft": {"self_addr": f"{self.address}:7000", "partner_addrs": [f"{other}:7000" for other in others],
                             "password": "a secret of the lab's own"}}
        return {"etcd3": {"hosts": [f"{box.address}:2379" for box in self.cluster.boxes.values()]}}

    def config(self):
        """The agent's configuration file as a tree."""
        cluster = self.cluster
        tree = {
            "scope": "lab",
            "namespace": "/service/",
            "name": self.name,
            "restapi": {"listen": "0.0.0.0:8008", "connect_address": f"{self.address}:8008"},
            **self.store(),
            "bootstrap": {
                "dcs": json.loads(json.dumps(cluster.dcs)),
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
            },
            "postgresql": {
                "listen": "0.0.0.0:5432",
                "connect_address": f"{self.address}:5432",
                "data_dir": self.data,
                "bin_dir": PG_BIN,
                "pgpass": os.path.join(self.dir, "pgpass"),
                "pg_hba": [
                    "local all all trust",
                    *[f"host {base} lab {net} trust" for net in ("10.77.0.0/24", *self.cluster.vip_nets) for base in ("lab", "postgres")],
                    "host all all 0.0.0.0/0 md5",
                    "host replication replicator 0.0.0.0/0 md5",
                ],
                "authentication": {
                    "superuser": {"username": "postgres", "password": "superpw"},
                    "replication": {"username": "replicator", "password": "replpw"},
                    "rewind": {"username": "rewinder", "password": "rewpw"},
                },
                "parameters": {"unix_socket_directories": self.sock, "dynamic_shared_memory_type": "mmap"},
                "remove_data_directory_on_rewind_failure": True,
                "remove_data_directory_on_diverged_timelines": True,
            },
            "watchdog": {"mode": "off"},
            "log": {"level": "INFO"},
        }
        if cluster.vips and self.agent_kind == "mastiff":
            tree["vip"] = cluster.vips
        if any(":" in vip["address"] for vip in cluster.vips):
            tree["postgresql"]["listen"] = "*:5432"
        for path, value in list(cluster.changes.items()) + list(self.changes.items()):
            put(tree, path, value)
        return tree

    def write_config(self, text=None):
        """Writes the file; `text` instead of the tree for broken ones."""
        with open(self.config_file, "w") as file:
            file.write(yaml(self.config()) if text is None else text)
        shutil.chown(self.config_file, "postgres", "postgres")
        os.chmod(self.config_file, 0o600)

    def start_etcd(self):
        """Starts the member; its data survive a power loss."""
        if self.cluster.embedded or (self.etcd and self.cluster.alive(self.etcd)):
            return
        peers = ",".join(f"{box.name}=http://{box.address}:2380" for box in self.cluster.boxes.values())
        self.etcd = self.cluster.spawn(self.name, [
            "/usr/bin/etcd", "--name", self.name, "--data-dir", os.path.join(self.dir, "etcd"),
            "--listen-client-urls", "http://0.0.0.0:2379", "--advertise-client-urls", f"http://{self.address}:2379",
            "--listen-peer-urls", "http://0.0.0.0:2380", "--initial-advertise-peer-urls", f"http://{self.address}:2380",
            "--initial-cluster", peers, "--initial-cluster-state", "new", "--initial-cluster-token", self.cluster.prefix,
            "--logger", "zap", "--log-level", "warn", *self.cluster.etcd_options,
        ], log=os.path.join(self.cluster.dir, f"{self.name}.etcd.log"), user="postgres")

    def start_agent(self):
        """Starts the agent as postgres, with a new configuration file unless one was given by hand."""
        if self.agent and self.cluster.alive(self.agent):
            raise LabError(f"the agent of {self.name} runs already")
        if not os.path.exists(self.config_file) or not self.cluster.by_hand.get(self.name):
            self.write_config()
        self.log_mark = os.path.getsize(self.log) if os.path.exists(self.log) else 0
        caps = "+net_admin,+net_raw" if self.cluster.vips and self.capable else None
        self.agent = self.cluster.spawn(self.name, self.cluster.program(self.agent_kind) + self.arguments(),
                                        log=self.log, user="postgres", cwd=self.dir, env=self.env, caps=caps)

    def arguments(self):
        """How the agent is called."""
        return [self.config_file]

    def log_text(self, since_start=False):
        """What agent (and PostgreSQL) said."""
        try:
            with open(self.log, errors="replace") as file:
                if since_start:
                    file.seek(self.log_mark)
                return file.read()
        except FileNotFoundError:
            return ""

    def streams_from(self, leader):
        """Whether this is a standby that streams from the leader on its timeline, as both of them see it."""
        here = self.value("select status||' '||coalesce(received_tli::text,'')||' '||coalesce(sender_host,'') from pg_stat_wal_receiver")
        tli = leader.value("select ('x'||substr(pg_walfile_name(pg_current_wal_lsn()),1,8))::bit(32)::int")
        seen = leader.value(f"select state from pg_stat_replication where application_name = '{self.name}'")
        return tli is not None and here == f"streaming {tli} {leader.address}" and seen == "streaming"


class Witness(Box):
    """A host with a vote in the embedded store and no PostgreSQL."""

    def config(self):
        """The witness's configuration file as a tree."""
        tree = {"scope": "lab", "namespace": "/service/", "name": self.name, **self.store()}
        tree["raft"]["data_dir"] = os.path.join(self.dir, "store")
        for path, value in self.changes.items():
            put(tree, path, value)
        return tree

    def arguments(self):
        """How the program is called."""
        return ["witness", self.config_file]


class Cluster:
    """Boxes on a switch, a client host, and what happened in them."""

    count = 0

    def __init__(self, size=3, agents="patroni", dcs=None, changes=None, vips=(), networks=1, embedded=False, witness=False):
        Cluster.count += 1
        self.prefix = f"{net.PREFIX}{os.getpid()}{string.ascii_lowercase[(Cluster.count - 1) % 26]}"
        base = "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"
        self.dir = os.path.join(os.environ.get("LAB_DIR", base), self.prefix)
        os.makedirs(self.dir)
        os.chmod(self.dir, 0o755)
        self.began = now()
        self.dcs = {
            "ttl": 20, "loop_wait": 1, "retry_timeout": 3, "maximum_lag_on_failover": 1048576,
            "postgresql": {
                "use_pg_rewind": True, "use_slots": True,
                "parameters": {"wal_log_hints": "on", "shared_buffers": "32MB", "max_connections": 50},
            },
        }
        for path, value in (dcs or {}).items():
            put(self.dcs, path, value)
        self.changes = dict(changes or {})
        self.by_hand = {}
        self.exits = {}
        self.off = {}
        self.pending = b""
        self.writers = []
        self.etcd_options = []
        self.embedded = embedded or EMBEDDED
        self.vips = list(vips)
        self.vip_nets = ["10.78.0.0/24", "fd77::/64", "fd78::/64"] if self.vips else []
        self.programs = {}
        self.journal = os.path.join(self.dir, "writer.log")
        self.nursery = subprocess.Popen([PYTHON, os.path.join(HERE, "nursery.py"), self.prefix, self.dir],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        names = [f"n{i}" for i in range(1, size + 1)] + (["w"] if witness else [])
        self.switch = net.Switch(self.prefix, names, networks)
        self.boxes = collections.OrderedDict()
        self.witness = None
        for index in range(1, size + 1):
            box = Box(self, index)
            self.boxes[box.name] = box
        for box, kind in zip(self.boxes.values(), _kinds(agents, size)):
            box.agent_kind = kind
        if witness:
            self.witness = Witness(self, size + 1, "w")
            self.witness.agent_kind = "mastiff"
        if self.vips:
            self.watch_vips()

    def voters(self):
        """Who votes in the embedded store."""
        return [*self.boxes.values(), *([self.witness] if self.witness else [])]

    # --- processes ---------------------------------------------------------

    def program(self, kind):
        """argv of the agent; programs that user postgres cannot reach are copied to where it can."""
        if kind not in self.programs:
            argv = binary(kind)
            if not os.path.exists(argv[0]):
                raise LabError(f"no agent program {argv[0]}: build it first")
            reach = subprocess.run(["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "test", "-r", argv[0]])
            if reach.returncode != 0 or kind == "mastiff":
                argv = self._copy(kind, argv)
            self.programs[kind] = argv
        return self.programs[kind]

    def _copy(self, kind, argv):
        if kind == "patroni":
            target = os.path.join(self.dir, "venv")
            shutil.copytree(VENV, target, symlinks=True)
            return [os.path.join(target, "bin", "python"), os.path.join(target, "bin", "patroni")]
        target = os.path.join(self.dir, "mastiff")
        shutil.copy(argv[0], target)
        os.chmod(target, 0o755)
        return [target]

    def spawn(self, box, argv, log, user=None, cwd=None, env=None, caps=None):
        """Starts a program in a box; returns its pid. `caps`: ambient capabilities, as setpriv(1) wants them."""
        prefix = ["/usr/bin/nsenter", f"--net=/run/netns/{self.switch.ns(box)}", "--"]
        if user:
            lent = [f"--inh-caps={caps}", f"--ambient-caps={caps}"] if caps else []
            prefix += ["/usr/bin/setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *lent, "--"]
        home = pwd.getpwnam(user).pw_dir if user else "/root"
        full = {"PATH": f"/usr/local/bin:/usr/bin:/bin:{PG_BIN}", "HOME": home, "LANG": "C.UTF-8", "USER": user or "root"}
        full.update(env or {})
        order = {"argv": prefix + argv, "log": log, "env": full, "cwd": cwd or "/"}
        self.nursery.stdin.write((json.dumps(order) + "\n").encode())
        self.nursery.stdin.flush()
        until = now() + 10
        while now() < until:
            for message in self._messages(0.2):
                if "pid" in message:
                    return message["pid"]
        raise LabError("the nursery does not answer")

    def _messages(self, wait=0.0):
        found = []
        ready, _, _ = select.select([self.nursery.stdout], [], [], wait)
        if ready:
            self.pending += os.read(self.nursery.stdout.fileno(), 65536)
            *lines, self.pending = self.pending.split(b"\n")
            found = [json.loads(line) for line in lines]
        for message in found:
            if "exit" in message:
                self.exits[message["exit"]] = message["code"]
        return found

    def alive(self, pid):
        """Whether a process that was spawned here still runs."""
        self._messages()
        return pid not in self.exits and process_state(pid) is not None

    def exit_code(self, pid):
        """The exit code (negative: signal), None while it runs."""
        self._messages()
        return self.exits.get(pid)

    def run(self, argv, box="cl", deadline=60, user=None, stdin=None):
        """Runs a command in a box: (code, output)."""
        prefix = ["nsenter", f"--net=/run/netns/{self.switch.ns(box)}", "--"]
        if user:
            prefix += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        try:
            done = subprocess.run(prefix + argv, capture_output=True, text=True, timeout=deadline, cwd=self.dir, input=stdin)
        except subprocess.TimeoutExpired as error:
            return 124, f"no end within {deadline} s: {error.stdout or ''}"
        return done.returncode, done.stdout + done.stderr

    # --- asking ------------------------------------------------------------

    def rest(self, address, method, path, body=None, deadline=2.0, source="cl"):
        """(status, text), or (0, reason)."""
        try:
            connection = http.client.HTTPConnection(address, 8008, timeout=deadline)
            connection.sock = net.socket_in(self.switch.ns(source))
            connection.sock.settimeout(deadline)
            connection.sock.connect((address, 8008))
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)
        finally:
            if connection.sock:
                connection.sock.close()

    def leader(self):
        """The only box that answers GET /primary with 200, else None."""
        found = [box for box in self.boxes.values() if box.power and box.rest("GET", "/primary", deadline=1.0)[0] == 200]
        return found[0] if len(found) == 1 else None

    def etcdctl(self, *args, box="cl"):
        """Runs etcdctl against all members."""
        endpoints = ",".join(f"http://{b.address}:2379" for b in self.boxes.values())
        env = ["env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={endpoints}", "--dial-timeout=2s", "--command-timeout=5s"]
        return self.run(env + list(args), box=box, deadline=20)

    def patronictl(self, *args, program=None, stdin=None, deadline=90):
        """Patroni's own patronictl (or another program with the same commands) from the client host."""
        path = os.path.join(self.dir, "ctl.yml")
        with open(path, "w") as file:
            file.write(yaml({"scope": "lab", "namespace": "/service/",
                             "etcd3": {"hosts": [f"{b.address}:2379" for b in self.boxes.values()]},
                             "ctl": {"insecure": True}}))
        argv = program or [os.path.join(VENV, "bin", "patronictl")]
        return self.run([*argv, "-c", path, *args], deadline=deadline, stdin=stdin)

    def etcd_leader(self):
        """The box whose etcd member leads, None when unknown."""
        code, text = self.etcdctl("endpoint", "status", "-w", "json")
        try:
            for entry in json.loads(text.split("\n")[0] if code == 0 else text[text.index("["):text.rindex("]") + 1]):
                header = entry["Status"]["header"]
                if header["member_id"] == entry["Status"]["leader"]:
                    return next(b for b in self.boxes.values() if b.address in entry["Endpoint"])
        except (ValueError, KeyError, StopIteration):
            pass
        return None

    def move_etcd_leader(self, box):
        """Makes the etcd member of a box the leader."""
        self.wait("a leader of etcd", self.etcd_leader, 20)
        if self.etcd_leader() is box:
            return
        code, text = self.etcdctl("endpoint", "status", "-w", "json")
        members = {entry["Endpoint"]: entry["Status"]["header"]["member_id"] for entry in json.loads(text.split("\n")[0])} if code == 0 else {}
        target = next((member for endpoint, member in members.items() if box.address in endpoint), None)
        code, text = self.etcdctl("move-leader", f"{target or 0:x}")
        if code != 0:
            raise LabError(f"etcdctl move-leader: {text}")
        self.wait(f"etcd's leader on {box.name}", lambda: self.etcd_leader() is box, 20)

    def why_not_whole(self):
        """None when there is one leader and every other box streams from it on its timeline, else what is missing."""
        leader = self.leader()
        if leader is None:
            return "no single leader"
        if leader.in_recovery() is not False:
            return f"{leader.name} leads but does not accept writes"
        for box in self.boxes.values():
            if box is not leader:
                if not box.streams_from(leader):
                    return f"{box.name} does not stream from {leader.name}"
                code, _ = box.rest("GET", "/replica", deadline=1.0)
                if code != 200:
                    return f"{box.name} answers {code} to GET /replica"
        try:
            members = {m["name"]: m for m in json.loads(leader.rest("GET", "/cluster")[1])["members"]}
        except (ValueError, KeyError):
            return "GET /cluster does not answer"
        for box in self.boxes.values():
            state = members.get(box.name, {}).get("state")
            if state != ("running" if box is leader else "streaming"):
                return f"GET /cluster says {box.name} is {state}"
        return None

    def wait(self, what, condition, within, pause=0.1):
        """Polls until the condition gives something true; returns it."""
        until = now() + within
        while True:
            found = condition()
            if found:
                return found
            if now() > until:
                raise LabError(f"{what}: not within {within:g} s")
            self._messages()
            time.sleep(pause)

    def wait_whole(self, within):
        """Waits until the cluster is whole."""
        until = now() + within
        while True:
            missing = self.why_not_whole()
            if missing is None:
                return
            if now() > until:
                raise LabError(f"the cluster is not whole after {within:g} s: {missing}")
            self._messages()
            time.sleep(0.2)

    # --- clients -----------------------------------------------------------

    def _table(self, table):
        """Makes the table of the writers and their user."""
        leader = self.wait("a leader for the writer", self.leader, 30)
        leader.sql("do $$ begin if not exists (select from pg_roles where rolname = 'lab') then create role lab login; end if; end $$;"
                   f" create table if not exists {table} (src text, id bigint, at timestamptz default clock_timestamp(), primary key (src, id));"
                   f" grant all on {table} to lab; grant pg_read_all_settings to lab", deadline=5)
        self.table = table

    def watch_vips(self):
        """Starts the watch over the addresses."""
        self.watch = os.path.join(self.dir, "vip.log")
        addresses = ",".join(vip["address"].split("/")[0] for vip in self.vips)
        boxes = [f"{box.name}={box.namespace}" for box in self.boxes.values()]
        self.spawn("cl", [PYTHON, "-B", os.path.join(HERE, "vipwatch.py"), self.watch, addresses, *boxes],
                   log=os.path.join(self.dir, "watch.err"))

    def start_vip_writer(self, address, table="lab", pause_ms=2):
        """Starts the client of a virtual address, which also looks into every box."""
        self._table(table)
        boxes = [f"{box.name}={box.sock}" for box in self.boxes.values()]
        self.writers.append(self.spawn("cl", [PYTHON, "-B", os.path.join(HERE, "vipclient.py"), self.journal, table, str(pause_ms), address, *boxes],
                                       log=os.path.join(self.dir, "vipclient.err")))

    def start_writer(self, table="lab", pause_ms=5, sources=("app",)):
        """Starts the writers: `app` walks all hosts, `remote` and `local` are one probe per box."""
        self._table(table)
        arguments = []
        if "app" in sources:
            arguments.append("app=" + ",".join(box.address for box in self.boxes.values()))
        for box in self.boxes.values():
            if "remote" in sources:
                arguments.append(f"remote-{box.name}={box.address}")
            if "local" in sources:
                arguments.append(f"local-{box.name}={box.sock}")
        self.writers.append(self.spawn("cl", [PYTHON, os.path.join(HERE, "writer.py"), self.journal, table, str(pause_ms), *arguments],
                                       log=os.path.join(self.dir, "writer.err")))

    def stop_writer(self):
        """Ends the writers; their notes stay."""
        for pid in self.writers:
            if self.alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.writers = []

    def names(self):
        """Addresses and socket directories to box names."""
        return {**{b.address: b.name for b in self.boxes.values()}, **{b.sock: b.name for b in self.boxes.values()}}

    def rows(self, box, source="app"):
        """The numbers of a source that a box has."""
        return {int(row[0]) for row in box.sql(f"select id from {self.table} where src = '{source}'", deadline=20)}

    # --- breaking ----------------------------------------------------------

    def power_off(self, box):
        """The link goes first, then everything in the box at once."""
        self.switch.unplug(box.name)
        self.switch.kill(box.name)
        box.power = False
        self.off.setdefault(box.name, []).append((now(), float("inf")))

    def power_on(self, box):
        """Cable, etcd, agent, in that order, as a boot would."""
        self.boot(box)
        box.start_agent()

    def boot(self, box):
        """Cable and etcd. No virtual address outlives a loss of power."""
        for vip in self.vips:
            for device in range(self.switch.networks):
                net.ip("-n", box.namespace, "addr", "flush", "dev", f"eth{device}", "to", vip["address"].split("/")[0], check=False)
        if box.name in self.off:
            self.off[box.name][-1] = (self.off[box.name][-1][0], now())
        self.switch.heal(box.name)
        box.power = True
        box.start_etcd()

    def close(self):
        """Everything away. The nursery does it, also when this is never called."""
        self.stop_writer()
        for box in self.voters():
            if box.agent and self.alive(box.agent):
                os.kill(box.agent, signal.SIGKILL)
        try:
            self.nursery.stdin.close()
            self.nursery.wait(30)
        except (OSError, subprocess.TimeoutExpired):
            self.nursery.kill()
            net.remove(self.prefix)


def _kinds(agents, size):
    """`patroni`, `mastiff`, `mixed` or a comma list, as a list of the right length."""
    if agents == "mixed":
        agents = "patroni,mastiff,patroni,mastiff,patroni"
    kinds = agents.split(",")
    return [kinds[i % len(kinds)] for i in range(size)]


def sweep():
    """Removes what aborted runs left behind; says what."""
    for prefix in net.stale():
        print(f"removing what an aborted run left behind: {prefix}", file=sys.stderr)
        net.remove(prefix)
    for base in ("/dev/shm", "/tmp"):
        for name in os.listdir(base) if os.path.isdir(base) else []:
            match = re.fullmatch(rf"{net.PREFIX}(\d+)[a-z]", name)
            if match and not os.path.exists(f"/proc/{match[1]}"):
                shutil.rmtree(os.path.join(base, name), ignore_errors=True)


def random_id():
    """A short random word."""
    return "".join(random.choice(string.ascii_lowercase) for _ in range(6))
