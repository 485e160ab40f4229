//! The table of the commands: it drives the parser, the help texts and the completions.

use super::args::{Arg, Arity, Command, Opt, Takes};

/// The roles that `--role` accepts.
pub const ROLES: &[&str] = &["leader", "primary", "standby-leader", "replica", "standby", "any"];
/// Output formats.
pub const FORMATS: &[&str] = &["pretty", "tsv", "json", "yaml", "yml"];

const fn opt(id: &'static str, names: &'static [&'static str], takes: Takes, help: &'static str) -> Opt {
    Opt { id, names, takes, repeat: false, help, hidden: false }
}

/// Understood and refused: one agent serves one PostgreSQL cluster, there are no groups.
const GROUP: Opt = Opt { id: "group", names: &["--group"], takes: Takes::Integer, repeat: false, help: "Citus group", hidden: true };
const FORCE: Opt = opt("force", &["--force"], Takes::Nothing, "Do not ask for confirmation at any point");
const FORMAT: Opt = opt("format", &["--format", "-f"], Takes::Choice(FORMATS), "Output format");
const WATCH_2: Opt = opt("watch2", &["-W"], Takes::Nothing, "Auto update the screen every 2 seconds");
const WATCH: Opt = opt("watch", &["-w", "--watch"], Takes::Float, "Auto update the screen every X seconds");
const MEMBER: Opt = opt("member", &["--member", "-m"], Takes::Text, "Generate a dsn for this member");

const fn role(help: &'static str) -> Opt {
    opt("role", &["--role", "-r"], Takes::Choice(ROLES), help)
}

const fn arg(id: &'static str, metavar: &'static str, arity: Arity) -> Arg {
    Arg { id, metavar, arity, choices: &[] }
}

const CLUSTER: Arg = arg("cluster", "CLUSTER_NAME", Arity::Optional);
const CLUSTER_REQUIRED: Arg = arg("cluster", "CLUSTER_NAME", Arity::One);
const CLUSTERS: Arg = arg("clusters", "CLUSTER_NAMES", Arity::Many);
const MEMBERS: Arg = arg("members", "MEMBER_NAMES", Arity::Many);
const TARGET: Arg = Arg { id: "target", metavar: "{restart|switchover}", arity: Arity::One, choices: &["restart", "switchover"] };

/// All commands, by name.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "demote-cluster",
        help: "Demote cluster to a standby cluster",
        args: &[CLUSTER],
        options: &[
            FORCE,
            opt("host", &["--host"], Takes::Text, "Address of the remote node"),
            opt("port", &["--port"], Takes::Integer, "Port of the remote node"),
            opt("restore_command", &["--restore-command"], Takes::Text, "Command to restore WAL records from the remote primary"),
            opt(
                "primary_slot_name",
                &["--primary-slot-name"],
                Takes::Text,
                "Name of the slot on the remote node to use for replication",
            ),
        ],
        about: "Writes standby_cluster into the dynamic configuration and waits until the leader runs as a standby leader. \
                All members stop accepting writes.",
        examples: &["demote-cluster batman --host 10.0.0.9 --port 5432"],
    },
    Command {
        name: "dsn",
        help: "Generate a dsn for the provided member, defaults to a dsn of the leader",
        args: &[CLUSTER],
        options: &[role("Give a dsn of any member with this role"), MEMBER, GROUP],
        about: "Prints host and port as the member published them in the store.",
        examples: &["dsn", "dsn -r replica", "dsn -m n2"],
    },
    Command {
        name: "edit-config",
        help: "Edit cluster configuration",
        args: &[CLUSTER],
        options: &[
            GROUP,
            opt("quiet", &["--quiet", "-q"], Takes::Nothing, "Do not show changes"),
            Opt {
                id: "set",
                names: &["--set", "-s"],
                takes: Takes::Text,
                repeat: true,
                help: "Set specific configuration value. Can be specified multiple times",
                hidden: false,
            },
            Opt {
                id: "pg",
                names: &["--pg", "-p"],
                takes: Takes::Text,
                repeat: true,
                help: "Set specific PostgreSQL parameter value. Shorthand for -s postgresql.parameters. Can be specified multiple times",
                hidden: false,
            },
            opt("apply", &["--apply"], Takes::Text, "Apply configuration from file. Use - for stdin."),
            opt(
                "replace",
                &["--replace"],
                Takes::Text,
                "Apply configuration from file, replacing existing configuration. Use - for stdin.",
            ),
            FORCE,
        ],
        about: "Changes the dynamic configuration in the store by compare-and-set: if somebody else changed it meanwhile, nothing is \
                written. Without -s, -p, --apply or --replace the editor in $EDITOR is started. Values are YAML; null removes a key.",
        examples: &["edit-config -s ttl=30 -s loop_wait=10", "edit-config -p max_connections=200 --force", "edit-config --apply new.yml"],
    },
    Command {
        name: "failover",
        help: "Failover to a replica",
        args: &[CLUSTER],
        options: &[GROUP, opt("candidate", &["--candidate"], Takes::Text, "The name of the candidate"), FORCE],
        about: "For a cluster without a healthy leader: the candidate may be behind, so transactions can be lost. \
                With a healthy leader use switchover.",
        examples: &["failover --candidate n2"],
    },
    Command {
        name: "flush",
        help: "Discard scheduled events",
        args: &[CLUSTER_REQUIRED, MEMBERS, TARGET],
        options: &[GROUP, role("Flush only members with this role"), FORCE],
        about: "",
        examples: &["flush batman n2 restart", "flush batman switchover"],
    },
    Command {
        name: "history",
        help: "Show the history of failovers/switchovers",
        args: &[CLUSTER],
        options: &[GROUP, FORMAT],
        about: "One line for each timeline that ended: where in the WAL (bytes), why, when, and who led next.",
        examples: &["history", "history -f json"],
    },
    Command {
        name: "list",
        help: "List the Patroni members for a given Patroni",
        args: &[CLUSTERS],
        options: &[
            GROUP,
            opt("extended", &["--extended", "-e"], Takes::Nothing, "Show some extra information"),
            opt("timestamp", &["--timestamp", "-t"], Takes::Nothing, "Print timestamp"),
            FORMAT,
            WATCH_2,
            WATCH,
        ],
        about: "Lag is in MB, rounded, behind the position that the leader published last. A port is shown if it is not 5432 or if two \
                members share a host. Times are in UTC.",
        examples: &["list", "list -e -W", "list -f json batman robin"],
    },
    Command {
        name: "pause",
        help: "Disable auto failover",
        args: &[CLUSTER],
        options: &[GROUP, opt("wait", &["--wait"], Takes::Nothing, "Wait until pause is applied on all nodes")],
        about: "While paused the agents leave PostgreSQL alone: no failover, no restart after a crash.",
        examples: &["pause --wait"],
    },
    Command {
        name: "promote-cluster",
        help: "Promote cluster, make it run standalone",
        args: &[CLUSTER],
        options: &[FORCE],
        about: "Removes standby_cluster from the dynamic configuration and waits until the leader accepts writes.",
        examples: &["promote-cluster"],
    },
    Command {
        name: "query",
        help: "Query a Patroni PostgreSQL member",
        args: &[CLUSTER],
        options: &[
            GROUP,
            opt("format", &["--format"], Takes::Text, "Output format (pretty, tsv, json, yaml)"),
            opt("file", &["--file", "-f"], Takes::File, "Execute the SQL commands from this file"),
            opt("password", &["--password"], Takes::Nothing, "force password prompt"),
            opt("username", &["-U", "--username"], Takes::Text, "database user name"),
            WATCH_2,
            WATCH,
            role("The role of the query"),
            opt("member", &["--member", "-m"], Takes::Text, "Query a specific member"),
            opt("delimiter", &["--delimiter"], Takes::Text, "The column delimiter"),
            opt("command", &["--command", "-c"], Takes::Text, "The SQL commands to execute"),
            opt("dbname", &["-d", "--dbname"], Takes::Text, "database name to connect to"),
        ],
        about: "Connects to the address that the member published, with TLS as PGSSLMODE and the like say. The password comes from the question, from PGPASSWORD or \
                from a password file; psql with the output of dsn can do more.",
        examples: &["query -U postgres --password -c 'select pg_is_in_recovery()'"],
    },
    Command {
        name: "reinit",
        help: "Reinitialize cluster member",
        args: &[CLUSTER_REQUIRED, MEMBERS],
        options: &[
            GROUP,
            FORCE,
            opt("from_leader", &["--from-leader"], Takes::Nothing, "Get basebackup from leader"),
            opt("wait", &["--wait"], Takes::Nothing, "Wait until reinitialization completes"),
        ],
        about: "Removes the member's data directory and copies it anew. Never works on the leader.",
        examples: &["reinit batman n3 --wait"],
    },
    Command {
        name: "reload",
        help: "Reload cluster member configuration",
        args: &[CLUSTER_REQUIRED, MEMBERS],
        options: &[GROUP, role("Reload only members with this role"), FORCE],
        about: "",
        examples: &["reload batman", "reload batman n1 --force"],
    },
    Command {
        name: "remove",
        help: "Remove cluster from DCS",
        args: &[CLUSTER_REQUIRED],
        options: &[GROUP, FORMAT],
        about: "Deletes all keys of the cluster from the store, never data of PostgreSQL. Stop the agents first: running ones write their keys \
                again. Asks two or three questions that cannot be skipped.",
        examples: &["remove batman"],
    },
    Command {
        name: "restart",
        help: "Restart cluster member",
        args: &[CLUSTER_REQUIRED, MEMBERS],
        options: &[
            GROUP,
            role("Restart only members with this role"),
            opt("any", &["--any"], Takes::Nothing, "Restart a single member only"),
            opt(
                "scheduled",
                &["--scheduled"],
                Takes::Text,
                "Timestamp of a scheduled restart in unambiguous format (e.g. ISO 8601)",
            ),
            opt(
                "pg_version",
                &["--pg-version"],
                Takes::Text,
                "Restart if the PostgreSQL version is less than provided (e.g. 9.5.2)",
            ),
            opt("pending", &["--pending"], Takes::Nothing, "Restart if pending"),
            opt("timeout", &["--timeout"], Takes::Text, "Return error and fail over if necessary when restarting takes longer than this."),
            FORCE,
        ],
        about: "Restarts PostgreSQL, not the agent. A time without an offset is UTC.",
        examples: &["restart batman n2", "restart batman --pending --force", "restart batman n1 --scheduled 2027-01-31T03:00+01:00"],
    },
    Command {
        name: "resume",
        help: "Resume auto failover",
        args: &[CLUSTER],
        options: &[GROUP, opt("wait", &["--wait"], Takes::Nothing, "Wait until pause is cleared on all nodes")],
        about: "",
        examples: &["resume --wait"],
    },
    Command {
        name: "show-config",
        help: "Show cluster configuration",
        args: &[CLUSTER],
        options: &[GROUP],
        about: "The dynamic configuration as it is in the store.",
        examples: &["show-config"],
    },
    Command {
        name: "switchover",
        help: "Switchover to a replica",
        args: &[CLUSTER],
        options: &[
            GROUP,
            opt("leader", &["--leader", "--primary"], Takes::Text, "The name of the current leader"),
            opt("candidate", &["--candidate"], Takes::Text, "The name of the candidate"),
            opt(
                "scheduled",
                &["--scheduled"],
                Takes::Text,
                "Timestamp of a scheduled switchover in unambiguous format (e.g. ISO 8601)",
            ),
            FORCE,
        ],
        about: "Hands the leadership over in order: the leader stops accepting writes, the candidate receives all of its WAL, then leads. \
                A time without an offset is UTC.",
        examples: &["switchover", "switchover --candidate n2 --force", "switchover --leader n1 --scheduled 2027-01-31T03:00+01:00"],
    },
    Command {
        name: "topology",
        help: "Prints ASCII topology for given cluster",
        args: &[CLUSTERS],
        options: &[GROUP, WATCH_2, WATCH],
        about: "",
        examples: &["topology", "topology -w 5"],
    },
    Command {
        name: "version",
        help: "Output version of patronictl command or a running Patroni instance",
        args: &[CLUSTER, MEMBERS],
        options: &[GROUP],
        about: "",
        examples: &["version", "version batman n1"],
    },
];
