//! The one table of keys: path, type, default, whether it is used, one sentence. Everything that asks "is this key known?" asks here.

use super::docs::Kind::{Any, Bool, Command, Entries, HostPort, Lines, List, Map, Options, Path, Secret, Section, Text};
use super::docs::{Key, Kind, Used};

const MAX: i64 = i64::MAX;
const STORE: Used = Used::No("this store is not supported, only etcd v3 is");
const LATER: Used = Used::No("not in this build yet");
const THREADS: Used = Used::No("there is no thread pool to size");
const ROLE_VARIANT: Used = Used::No("role-specific settings are not in this build yet");

const fn key(path: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { path, kind, default, used: Used::Yes, doc }
}

const fn off(path: &'static str, kind: Kind, default: &'static str, used: Used, doc: &'static str) -> Key {
    Key { path, kind, default, used, doc }
}

const fn int(min: i64, max: i64) -> Kind {
    Kind::Int { min, max, unit: "" }
}

const fn unit(min: i64, unit: &'static str) -> Kind {
    Kind::Int { min, max: MAX, unit }
}

/// Seconds from 1 on, or one of the words. `off` may be YAML's false.
const fn seconds_or(words: &'static [&'static str]) -> Kind {
    Kind::SecondsOr { words }
}

const fn words(words: &'static [&'static str]) -> Kind {
    Kind::Words { words, fold: false }
}

const fn folded(words: &'static [&'static str]) -> Kind {
    Kind::Words { words, fold: true }
}

const LEVELS: Kind = folded(&["DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL"]);
const SECONDS: Kind = unit(0, "s");

/// All known keys, in the order of the reference.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("scope", Text, "", "Name of the cluster, the same on all members; also PostgreSQL's `cluster_name`."),
    key("name", Text, "", "Name of this member, unique in its scope."),
    key("namespace", Text, "/service", "Prefix of the keys in the store: `<namespace>/<scope>/`."),
    off("thread_pool_size", int(5, MAX), "5", THREADS, "Threads of Patroni's executor."),
    off("thread_stack_size", unit(65_536, "B"), "512kB", THREADS, "Stack of Patroni's threads."),

    key("log", Section, "", "Logging."),
    key("log.type", words(&["plain", "json"]), "plain", "Line format."),
    key("log.level", LEVELS, "INFO", "Lowest level that is written."),
    off("log.traceback_level", folded(&["DEBUG", "ERROR"]), "ERROR", Used::No("there are no tracebacks"), "Level from which tracebacks appear."),
    key("log.format", Any, "%(asctime)s %(levelname)s: %(message)s", "Layout of a line: text, or a list of fields for json."),
    key("log.dateformat", Text, "", "Time format (strftime)."),
    key("log.static_fields", Map, "", "Constant fields added to json lines."),
    key("log.max_queue_size", int(0, MAX), "1000", "Records held in memory between producer and writer."),
    key("log.dir", Path, "", "Write to `<dir>/patroni.log` with rotation instead of stderr."),
    key("log.mode", int(0, 511), "", "Permissions of the log file."),
    key("log.file_num", int(0, MAX), "4", "Rotated files kept."),
    key("log.file_size", unit(0, "B"), "25000000", "Size in bytes at which a file is rotated."),
    key("log.loggers", Map, "", "Level for each module."),
    key("log.deduplicate_heartbeat_logs", Bool, "true", "Write an unchanged heartbeat line only once. Patroni's default is false; the fewer writes spare flash storage."),

    key("restapi", Section, "", "The REST API."),
    key("restapi.listen", Text, "", "Address that the API is served on; `*` is every address."),
    key("restapi.connect_address", HostPort, "`listen`", "Address that the other members reach it at."),
    key("restapi.authentication", Section, "", "Basic authentication for the unsafe methods."),
    key("restapi.authentication.username", Text, "", "User."),
    key("restapi.authentication.password", Secret, "", "Password."),
    key("restapi.certfile", Path, "", "Server certificate (PEM); without it the API is plain HTTP."),
    key("restapi.keyfile", Path, "`certfile`", "Its key."),
    key("restapi.keyfile_password", Secret, "", "Password of the key."),
    key("restapi.cafile", Path, "", "CA for client certificates."),
    key("restapi.ciphers", Text, "", "OpenSSL list of allowed suites for TLS 1.2; those of TLS 1.3 are always there."),
    key("restapi.verify_client", folded(&["none", "optional", "required"]), "none", "Whether clients need a certificate: for unsafe methods (optional) or always (required)."),
    key("restapi.allowlist", List, "everybody", "Hosts, addresses and networks that may call the unsafe methods."),
    key("restapi.allowlist_include_members", Bool, "false", "The members' addresses are allowed too."),
    key("restapi.http_extra_headers", Map, "", "Headers added to every answer."),
    key("restapi.https_extra_headers", Map, "", "Headers added over these where TLS is on."),
    key("restapi.request_queue_size", int(0, 4096), "5", "Listen backlog."),
    key("restapi.server_tokens", folded(&["Minimal", "ProductOnly", "Original"]), "Original", "What the `Server` header says."),
    off("restapi.thread_pool_size", int(5, MAX), "5", THREADS, "Threads of Patroni's server."),

    key("ctl", Section, "", "Credentials of the operator's command and of calls between members."),
    key("ctl.authentication", Section, "`restapi.authentication`", "Basic authentication."),
    key("ctl.authentication.username", Text, "", "User."),
    key("ctl.authentication.password", Secret, "", "Password."),
    key("ctl.insecure", Bool, "false", "Do not verify the server's certificate."),
    key("ctl.cacert", Path, "`restapi.cafile`", "CA."),
    key("ctl.certfile", Path, "", "Client certificate."),
    key("ctl.keyfile", Path, "`certfile`", "Its key."),
    key("ctl.keyfile_password", Secret, "", "Password of the key."),

    key("etcd3", Section, "", "The store: etcd v3. `etcd` is read the same way and spoken to as v3."),
    key("etcd3.host", Text, "", "One endpoint, `host:port`."),
    key("etcd3.port", int(1, 65_535), "2379", "Port of endpoints that name none."),
    key("etcd3.hosts", List, "", "Endpoints, a list or separated by commas."),
    key("etcd3.url", Text, "", "One endpoint as URL, with user and password if wanted."),
    key("etcd3.proxy", Text, "", "URL of a proxy: a fixed endpoint."),
    key("etcd3.{srv,srv_domain,discovery_srv}", Text, "", "Domain whose SRV records name the endpoints; `host` and `hosts` count where it has none."),
    key("etcd3.srv_suffix", Text, "", "Suffix of the SRV names."),
    key("etcd3.use_proxies", Bool, "false", "The endpoints are a fixed list: no member discovery."),
    key("etcd3.protocol", words(&["http", "https"]), "http", "Protocol of endpoints that are no URL."),
    key("etcd3.username", Text, "", "User."),
    key("etcd3.password", Secret, "", "Password."),
    key("etcd3.cacert", Path, "", "CA certificate."),
    key("etcd3.cert", Path, "", "Client certificate."),
    key("etcd3.key", Path, "", "Its key."),
    off("etcd3.version_prefix", Text, "", Used::No("gRPC has no path prefix"), "Path prefix of the JSON gateway."),

    key("raft", Section, "", "The embedded store, which is used where no etcd is named; one box alone needs no section."),
    key("raft.self_addr", HostPort, "", "Where the other boxes reach this one."),
    key("raft.bind_addr", HostPort, "", "Where it listens, if elsewhere."),
    key("raft.partner_addrs", List, "", "Where the other boxes are."),
    key("raft.data_dir", Path, "", "Where its file is kept; beside PostgreSQL's `data_dir`, with `.store` behind its name, where absent."),
    key("raft.password", Secret, "", "The secret that all boxes of the store have."),
    key("raft.{cafile,certfile,keyfile}", Path, "", "In its place: the CA of the boxes' certificates, this box's certificate and its key."),
    off("raft.{min_timeout,max_timeout,connection_timeout,append_entries_period,connection_retry_time,leader_fallback_timeout}", Any, "", Used::No("the times follow `ttl`"), "Timing."),
    off("{consul,zookeeper,exhibitor,kubernetes}", Map, "", STORE, "Another store."),
    off("citus", Map, "", Used::No("Citus is not supported"), "Citus groups."),

    key("bootstrap", Section, "", "How a new cluster is made; not looked at once it exists."),
    key("bootstrap.dcs", Section, "", "The first dynamic configuration."),
    key("bootstrap.method", Text, "initdb", "Name of the section with a custom bootstrap command."),
    key("bootstrap.initdb", Options, "", "Options of initdb."),
    key("bootstrap.{post_bootstrap,post_init}", Command, "", "Run once after the cluster was made, with a connection string as last argument."),
    key("bootstrap.pg_hba", Lines, "", "Lines of pg_hba.conf, where `postgresql.pg_hba` is not given."),
    off("bootstrap.users", Map, "", Used::No("removed in Patroni 4.0; create users in `post_bootstrap`"), "Users to create."),

    key("postgresql", Section, "", "This box's PostgreSQL."),
    key("postgresql.listen", Text, "", "`listen_addresses` and port: `a,b:port`."),
    key("postgresql.connect_address", HostPort, "`listen`", "Address that the other members and clients reach it at."),
    key("postgresql.proxy_address", HostPort, "", "Address of a pooler in front of it."),
    key("postgresql.data_dir", Path, "", "PGDATA."),
    key("postgresql.config_dir", Path, "`data_dir`", "Where postgresql.conf is."),
    key("postgresql.config_base_name", Text, "postgresql", "Base name of the configuration files."),
    key("postgresql.bin_dir", Path, "`PATH`", "Where PostgreSQL's programs are."),
    key("postgresql.bin_name", Section, "", "Renamed programs."),
    key("postgresql.bin_name.{pg_ctl,initdb,pg_controldata,pg_basebackup,postgres,pg_isready,pg_rewind}", Text, "", "Name of this program."),
    key("postgresql.pgpass", Path, "`~/pgpass-<name>`", "Password file that the agent writes."),
    key("postgresql.authentication", Section, "", "The three users."),
    key("postgresql.authentication.{superuser,replication,rewind}", Section, "", "One user."),
    key("postgresql.authentication.{superuser,replication,rewind}.username", Text, "", "User."),
    key("postgresql.authentication.{superuser,replication,rewind}.{password,sslpassword}", Secret, "", "Password of the user or of its key."),
    key("postgresql.authentication.{superuser,replication,rewind}.sslmode", words(&["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]), "prefer", "Whether the connection is encrypted, and what of the server is verified."),
    key("postgresql.authentication.{superuser,replication,rewind}.{sslkey,sslcert,sslrootcert,sslcrl,sslcrldir,sslnegotiation,gssencmode,channel_binding}", Text, "", "Connection option of libpq."),
    key("postgresql.callbacks", Section, "", "Commands that are told of changes: `command action role scope`."),
    key("postgresql.callbacks.{on_reload,on_restart,on_role_change,on_start,on_stop}", Command, "", "Called at this event."),
    key("postgresql.{create_replica_methods,create_replica_method}", List, "basebackup", "Ways to make a replica, tried in order."),
    key("postgresql.basebackup", Options, "", "Options of pg_basebackup."),
    key("postgresql.recovery_conf", Map, "", "Recovery settings, for example `restore_command`."),
    key("postgresql.custom_conf", Path, "", "Included instead of postgresql.base.conf."),
    key("postgresql.parameters", Map, "", "Server parameters; those that must be equal on all members count only in the dynamic configuration."),
    off("postgresql.{parameters_primary,parameters_replica,parameters_standby_leader}", Map, "", ROLE_VARIANT, "Server parameters for one role."),
    key("postgresql.pg_hba", Lines, "", "Content of pg_hba.conf."),
    key("postgresql.pg_ident", Lines, "", "Content of pg_ident.conf."),
    off("postgresql.{pg_hba_primary,pg_hba_replica,pg_hba_standby_leader,pg_ident_primary,pg_ident_replica,pg_ident_standby_leader}", Lines, "", ROLE_VARIANT, "Content for one role."),
    key("postgresql.pg_ctl_timeout", SECONDS, "60", "How long start, stop and restart may take."),
    key("postgresql.use_pg_rewind", Bool, "false", "Rewind a former primary that has diverged."),
    key("postgresql.rewind", Options, "", "Options of pg_rewind."),
    key("postgresql.remove_data_directory_on_rewind_failure", Bool, "false", "A failed rewind ends in a fresh clone."),
    key("postgresql.remove_data_directory_on_diverged_timelines", Bool, "false", "Diverged data without a usable rewind end in a fresh clone."),
    key("postgresql.use_unix_socket", Bool, "false", "The agent's own connections go through the socket."),
    key("postgresql.use_unix_socket_repl", Bool, "false", "Its replication connections too."),
    key("postgresql.pre_promote", Command, "", "Run with the lock held before promotion; a failure gives the lock back."),
    key("postgresql.before_stop", Command, "", "Run before PostgreSQL is stopped; its result does not matter."),
    off("postgresql.use_slots", Bool, "true", Used::No("counts only in the dynamic configuration"), "Replication slots for members."),
    key("postgresql.{name,database}", Text, "", "Old places: the member's name; the database of the agent's connections."),
    key("postgresql.{superuser,replication}", Map, "", "Old place of `authentication`."),
    off("postgresql.pg_rewind", Map, "", Used::No("write `authentication.rewind` and `use_pg_rewind`"), "Old place of the rewind user."),

    key("watchdog", Section, "", "The hardware watchdog."),
    key("watchdog.mode", Any, "automatic", "off, automatic (used when it works), required (never lead without it), or systemd (automatic with `driver: systemd`)."),
    key("watchdog.device", Path, "/dev/watchdog", "The device. A change needs a restart of the agent."),
    key("watchdog.safety_margin", int(-1, MAX), "5", "The chosen timeout of the device is at most `ttl` less so many seconds; -1: half of `ttl`. Not looked at with a `hw_timeout`."),
    key("watchdog.driver", words(&["default", "testing", "systemd"]), "default", "Linux watchdog, Patroni's FIFO for tests, or pings to systemd instead of a device. A change needs a restart of the agent."),
    key("watchdog.hw_timeout", seconds_or(&["automatic"]), "automatic", "Timeout of the device in seconds. It need not be near `ttl`: the device is fed only while it would fire before the lease ends. At most half of what `ttl` leaves after `loop_wait`; automatic: at most 10 s of that, and what `safety_margin` allows."),
    key("watchdog.pretimeout", seconds_or(&["off"]), "off", "Seconds before the reset at which the kernel's pretimeout governor acts, where the device has that."),

    key("vip", Entries, "", "Virtual addresses that follow the lease: a list of maps, or one map."),
    key("vip.address", Text, "", "IPv4 or IPv6 address, with or without a prefix length; without one it is 32 or 128, which is right in almost every network."),
    key("vip.interface", Text, "", "The network interface that carries it. VLAN, bridge and bond interfaces are fine."),
    key("vip.role", folded(&["primary", "standby", "sync", "any-standby"]), "primary", "Who has it: the leader once PostgreSQL accepts writes; one streaming standby, or the leader where there is none; a synchronous standby; one streaming standby, never the leader."),
    key("vip.lifetime", seconds_or(&["auto", "off"]), "auto", "When the kernel removes the address if the agent does not renew it: before the lease ends (auto), never (off), or after so many seconds."),
    key("vip.on_conflict", folded(&["claim", "refuse"]), "claim", "When another box answers for the address: take it all the same and say so, or leave it."),
    key("vip.announce", Section, "", "How the neighbours are told."),
    key("vip.announce.interval", seconds_or(&["off"]), "30", "Pause between announcements while it is held, after those of the first seconds."),
    key("vip.announce.gateway", Text, "", "The router that is asked from the address after each announcement, for routers that learn nothing from announcements. Without it that of the default route through the interface."),
    key("vip.label", Text, "", "Label of an IPv4 address, `interface:word`, for tools that show addresses as aliases."),
    key("vip.preferred", Bool, "false", "IPv6: new connections from this box may come from this address."),

    key("tags", Section, "", "What this member may do, and free labels."),
    key("tags.nofailover", Any, "false", "Never becomes leader."),
    key("tags.failover_priority", int(i64::MIN, MAX), "1", "Preference among equal candidates; 0 or less: never becomes leader."),
    key("tags.nosync", Any, "false", "Never a synchronous standby."),
    key("tags.sync_priority", int(i64::MIN, MAX), "1", "Preference for the synchronous role; 0 or less: never."),
    key("tags.clonefrom", Any, "false", "Preferred source of base backups."),
    key("tags.noloadbalance", Any, "false", "`/replica` answers 503."),
    key("tags.replicatefrom", Text, "", "Cascade from this member."),
    key("tags.nostream", Any, "false", "Archive recovery only, no streaming."),
    key("tags.*", Any, "", "Published as written."),

    key("dcs", Section, "", "Dynamic configuration."),
    key("dcs.ttl", int(3, MAX), "30", "Length of the lease in seconds. Below 20 is for clusters without Patroni members, which raise it to 20."),
    key("dcs.loop_wait", int(1, MAX), "10", "Longest pause between two cycles in seconds."),
    key("dcs.retry_timeout", int(1, MAX), "10", "Budget for retries against store and PostgreSQL in seconds; loop_wait + 2·retry_timeout ≤ ttl."),
    off("dcs.primary_race_backoff", SECONDS, "0", LATER, "A standby waits this long while WAL from the primary still comes in."),
    key("dcs.maximum_lag_on_failover", unit(0, "B"), "1048576", "A standby further behind cannot become leader."),
    key("dcs.maximum_lag_on_syncnode", unit(-1, "B"), "-1", "A synchronous standby further behind is replaced; off if not above 0."),
    key("dcs.max_timelines_history", int(0, MAX), "0", "Entries kept in `/history`; 0: all."),
    key("dcs.check_timeline", Bool, "false", "A standby on an older timeline cannot become leader."),
    key("dcs.{primary_start_timeout,master_start_timeout}", SECONDS, "300", "Time for a crashed primary to come back; 0: fail over at once."),
    key("dcs.{primary_stop_timeout,master_stop_timeout}", SECONDS, "0", "In synchronous mode a stop that takes longer is finished by force; 0: off."),
    key("dcs.synchronous_mode", Any, "off", "off, on or quorum."),
    key("dcs.synchronous_mode_strict", Bool, "false", "Never fall back to asynchronous replication."),
    key("dcs.synchronous_node_count", int(1, MAX), "1", "How many synchronous standbys."),
    key("dcs.failsafe_mode", Bool, "false", "Keep leading through an outage of the store if every member agrees."),
    key("dcs.pause", Bool, "false", "Maintenance mode."),
    key("dcs.member_slots_ttl", SECONDS, "30min", "How long the slot of an absent member is kept."),
    key("dcs.{slots,permanent_slots,permanent_replication_slots}", Map, "", "Slots that always exist."),
    key("dcs.ignore_slots", Any, "", "Slots that are left alone."),
    key("dcs.standby_cluster", Section, "", "This cluster follows a remote primary."),
    key("dcs.standby_cluster.{host,primary_slot_name,restore_command,archive_cleanup_command,recovery_min_apply_delay}", Text, "", "The remote primary, or the archive."),
    key("dcs.standby_cluster.port", Any, "", "Its port."),
    key("dcs.standby_cluster.create_replica_methods", List, "", "Ways to make the first member."),
    key("dcs.postgresql", Section, "", "As the local section, for all members; local settings win."),
    key("dcs.postgresql.use_slots", Bool, "true", "Replication slots for members."),
    off("dcs.postgresql.{connect_address,proxy_address,listen,config_dir,data_dir,pgpass,authentication}", Any, "", Used::No("it is local to each member"), "Not allowed here."),
];
