//! The validated static configuration. One struct for each section of the file; every value is checked and defaulted.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::ha::config::{HaConfig, WatchdogConfig};
use crate::ha::fence::VipRole;
use crate::ha::types::Millis;

/// A secret that never reaches a log: its `Debug` prints stars.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Host and port as written; IPv6 hosts without brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The whole static configuration (file or directory, then environment).
#[derive(Clone, Debug)]
pub struct Config {
    /// `scope`.
    pub scope: String,
    /// `name`.
    pub name: String,
    /// `namespace`, with one leading slash and none at the end.
    pub namespace: String,
    /// `log`.
    pub log: LogConfig,
    /// `restapi`.
    pub restapi: RestConfig,
    /// `ctl`.
    pub ctl: CtlConfig,
    /// `etcd3` (or `etcd`, which is read the same way and spoken to as v3).
    pub etcd: Option<EtcdConfig>,
    /// `raft`: the embedded store, which is used where no other one is named.
    pub raft: RaftConfig,
    /// `postgresql` of the file, before the dynamic configuration is merged in.
    pub postgresql: PostgresStatic,
    /// `bootstrap`.
    pub bootstrap: BootstrapConfig,
    /// `watchdog`: what decisions depend on, before `ttl` is known. [`HaConfig::watchdog`] is the same.
    pub watchdog: WatchdogConfig,
    /// `watchdog`: the device.
    pub watchdog_device: WatchdogSettings,
    /// `vip`, in the order of the file.
    pub vip: Vec<VipSettings>,
    /// `tags`, as published.
    pub tags: Map<String, Value>,
    /// The whole merged document (file and environment), for `--print` and for keys that later features use.
    pub raw: Value,
}

/// `log`.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// `json` instead of `plain`.
    pub json: bool,
    /// `level`.
    pub level: log::LevelFilter,
    /// `format`, as written.
    pub format: Option<Value>,
    /// `dateformat`.
    pub dateformat: Option<String>,
    /// `static_fields`.
    pub static_fields: Map<String, Value>,
    /// `max_queue_size`.
    pub max_queue_size: usize,
    /// `dir`.
    pub dir: Option<PathBuf>,
    /// `mode`.
    pub mode: Option<u32>,
    /// `file_num`.
    pub file_num: u32,
    /// `file_size`, bytes.
    pub file_size: u64,
    /// `loggers`.
    pub loggers: BTreeMap<String, log::LevelFilter>,
    /// `deduplicate_heartbeat_logs`: an unchanged heartbeat line is written once. On unless the file says off (flash).
    pub deduplicate_heartbeat_logs: bool,
}

/// `restapi`.
#[derive(Clone, Debug)]
pub struct RestConfig {
    /// `listen`; host `*` means all addresses.
    pub listen: HostPort,
    /// `connect_address`.
    pub connect_address: HostPort,
    /// `authentication`.
    pub authentication: Option<(String, Secret)>,
    /// `certfile`, `keyfile`, `keyfile_password`; `None`: plain HTTP.
    pub tls: Option<TlsIdentity>,
    /// `cafile`.
    pub cafile: Option<PathBuf>,
    /// `ciphers`, in OpenSSL's form.
    pub ciphers: Option<String>,
    /// `verify_client`: `none`, `optional` or `required`.
    pub verify_client: String,
    /// `allowlist`; `None`: everybody.
    pub allowlist: Option<Vec<String>>,
    /// `allowlist_include_members`.
    pub allowlist_include_members: bool,
    /// `http_extra_headers` (and `https_extra_headers` over it where TLS is on).
    pub extra_headers: Vec<(String, String)>,
    /// `request_queue_size`.
    pub request_queue_size: u32,
    /// `server_tokens`.
    pub server_tokens: String,
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsIdentity {
    /// Certificate chain, PEM.
    pub certfile: PathBuf,
    /// Private key, PEM; the certificate file if absent.
    pub keyfile: PathBuf,
    /// Its password.
    pub keyfile_password: Option<Secret>,
}

/// `ctl`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CtlConfig {
    /// `authentication`, or that of `restapi`.
    pub authentication: Option<(String, Secret)>,
    /// `insecure`.
    pub insecure: bool,
    /// `cacert`, or `restapi.cafile`.
    pub cacert: Option<PathBuf>,
    /// Client identity.
    pub identity: Option<TlsIdentity>,
}

/// `etcd3` or `etcd`.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// Endpoints as URLs, `http://host:port` or `https://…`. May be empty where `srv` is set.
    pub endpoints: Vec<String>,
    /// `srv`: where the endpoints are looked up; the configured ones are for when that gives none.
    pub srv: Option<SrvConfig>,
    /// The endpoints are a fixed list: no member discovery.
    pub fixed: bool,
    /// User and password.
    pub user: Option<(String, Secret)>,
    /// CA certificate.
    pub cacert: Option<PathBuf>,
    /// Client certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// `raft`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RaftConfig {
    /// `self_addr`: where the other boxes reach this one. Without it this box is alone.
    pub address: Option<HostPort>,
    /// `bind_addr`: where it listens; `self_addr` where absent.
    pub bind: Option<HostPort>,
    /// `partner_addrs`.
    pub partners: Vec<HostPort>,
    /// `data_dir`; beside PostgreSQL's where absent.
    pub data_dir: Option<PathBuf>,
    /// `password`.
    pub password: Option<Secret>,
    /// `cafile`, `certfile` and `keyfile`, in place of a password.
    pub certificates: Option<(PathBuf, PathBuf, PathBuf)>,
}

/// Endpoints from DNS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SrvConfig {
    /// `srv`: the domain.
    pub domain: String,
    /// `srv_suffix`.
    pub suffix: Option<String>,
    /// Name servers; those of `/etc/resolv.conf` where absent.
    pub servers: Option<Vec<std::net::SocketAddr>>,
}

/// `bootstrap`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BootstrapConfig {
    /// The section exists.
    pub present: bool,
    /// `dcs`: initial dynamic configuration.
    pub dcs: Option<Value>,
    /// `method`, `initdb` by default.
    pub method: String,
    /// The section named by `method`.
    pub custom: Map<String, Value>,
    /// `initdb` options as command-line arguments, for example `--data-checksums`, `--encoding=UTF8`.
    pub initdb: Vec<String>,
    /// `post_bootstrap` or `post_init`, split into words.
    pub post_bootstrap: Option<Vec<String>>,
    /// `pg_hba` (the old place).
    pub pg_hba: Vec<String>,
}

/// `postgresql` of the file.
#[derive(Clone, Debug)]
pub struct PostgresStatic {
    /// The section as it stands, checked. [`Config::effective`](super::Config) merges the dynamic one with it.
    pub section: Map<String, Value>,
}

/// What the PostgreSQL side works with: static and dynamic configuration merged, controlled parameters resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct PostgresConfig {
    /// Cluster name: `cluster_name`, and callbacks' third argument.
    pub scope: String,
    /// Member name: `application_name` of its replication connection.
    pub name: String,
    /// `listen` addresses, comma-separated as written (`*` allowed).
    pub listen_addresses: String,
    /// Port.
    pub port: u16,
    /// `connect_address`.
    pub connect_address: HostPort,
    /// `data_dir`.
    pub data_dir: PathBuf,
    /// `config_dir`.
    pub config_dir: PathBuf,
    /// `config_base_name`.
    pub config_base_name: String,
    /// `bin_dir`; `None`: `PATH`.
    pub bin_dir: Option<PathBuf>,
    /// `bin_name`.
    pub bin_name: BTreeMap<String, String>,
    /// `pgpass`.
    pub pgpass: PathBuf,
    /// `authentication.superuser`.
    pub superuser: PgUser,
    /// `authentication.replication`.
    pub replication: PgUser,
    /// `authentication.rewind`; the superuser where absent.
    pub rewind: Option<PgUser>,
    /// `use_unix_socket`.
    pub use_unix_socket: bool,
    /// `use_unix_socket_repl`.
    pub use_unix_socket_repl: bool,
    /// Parameters for `postgresql.conf` and the command line, merged: local over dynamic over defaults, except for the
    /// controlled ones (reference 11), which come from the dynamic configuration alone. Values as PostgreSQL text.
    pub parameters: BTreeMap<String, String>,
    /// Recovery settings (`recovery_conf` and those under `parameters`).
    pub recovery_conf: BTreeMap<String, String>,
    /// `pg_hba`, if set.
    pub pg_hba: Option<Vec<String>>,
    /// `pg_ident`, if set.
    pub pg_ident: Option<Vec<String>>,
    /// `custom_conf`.
    pub custom_conf: Option<String>,
    /// `basebackup` options as command-line arguments.
    pub basebackup: Vec<String>,
    /// `create_replica_methods`.
    pub create_replica_methods: Vec<String>,
    /// The sections of the custom replica methods, by name.
    pub replica_methods: BTreeMap<String, Map<String, Value>>,
    /// `callbacks`, split into words.
    pub callbacks: BTreeMap<String, Vec<String>>,
    /// `pre_promote`.
    pub pre_promote: Option<Vec<String>>,
    /// `before_stop`.
    pub before_stop: Option<Vec<String>>,
    /// `use_slots`: `primary_slot_name` is set on standbys.
    pub use_slots: bool,
    /// `pg_ctl_timeout` in milliseconds.
    pub pg_ctl_timeout_ms: u64,
    /// `rewind`: extra options of `pg_rewind`.
    pub rewind_options: Vec<String>,
    /// `bootstrap`.
    pub bootstrap: BootstrapConfig,
}

/// One entry of `postgresql.authentication`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PgUser {
    /// `username`; empty where libpq's default (the operating system's user) is meant.
    pub username: String,
    /// `password`.
    pub password: Option<Secret>,
    /// Further connection options: `sslmode`, `sslcert`, … in Patroni's names, which are libpq's.
    pub options: BTreeMap<String, String>,
}

/// `watchdog`: what only the part that works with the device needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchdogSettings {
    /// `device`. Without meaning for [`WatchdogDriver::Systemd`].
    pub device: PathBuf,
    /// `driver`, or [`WatchdogDriver::Systemd`] for `mode: systemd`.
    pub driver: WatchdogDriver,
    /// `pretimeout`: how long before the reset the kernel's pretimeout governor acts. `None`: off. In whole seconds.
    pub pretimeout: Option<Millis>,
}

impl Default for WatchdogSettings {
    fn default() -> WatchdogSettings {
        WatchdogSettings { device: PathBuf::from("/dev/watchdog"), driver: WatchdogDriver::Linux, pretimeout: None }
    }
}

/// `watchdog.driver`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchdogDriver {
    /// `default`: the Linux watchdog API.
    #[default]
    Linux,
    /// `testing`: Patroni's protocol on a FIFO, for tests. It resets nothing.
    Testing,
    /// `systemd`, or `mode: systemd`: no device. PID 1 is pinged, and its unit's `WatchdogSec=` and `FailureAction=` do the rest.
    Systemd,
}

/// One virtual address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipSettings {
    /// `address`, without the prefix. No address is there twice.
    pub address: IpAddr,
    /// Prefix length: 32 or 128 where `address` has none. Then the address stands for itself; with the subnet's own prefix it is lost
    /// together with the interface's first address where `promote_secondaries` is 0.
    pub prefix: u8,
    /// `interface`: 1 to 15 characters. Whether it exists is not known here.
    pub interface: String,
    /// `role`.
    pub role: VipRole,
    /// `lifetime`.
    pub lifetime: VipLifetime,
    /// `on_conflict`.
    pub on_conflict: OnConflict,
    /// `announce.interval`: the pause between two announcements while the address is held, after the first burst. `None`: off, only
    /// the burst.
    pub announce_interval: Option<Millis>,
    /// `announce.gateway`: asked from the address after each announcement, so that a router learns it that ignores announcements.
    /// Of the address's family. `None`: that of the default route.
    pub gateway: Option<IpAddr>,
    /// `label`, IPv4 only: the interface's name, or that with `:` and a word; at most 15 characters.
    pub label: Option<String>,
    /// `preferred`: the kernel may take an IPv6 address as the source of new connections (a preferred lifetime above 0).
    pub preferred: bool,
}

/// `vip.lifetime`: when the kernel removes the address by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VipLifetime {
    /// `auto`: before the lease ends.
    #[default]
    Auto,
    /// `off`: never. Only the agent and the guard remove it.
    Off,
    /// So many seconds after each renewal.
    Seconds(NonZeroU32),
}

/// `vip.on_conflict`: somebody else answers for the address when it is to be added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// `claim`: add it, announce it until the other is silent, and say so.
    #[default]
    Claim,
    /// `refuse`: do not add it where the other is not a member of this cluster.
    Refuse,
}

/// Static and dynamic configuration together.
#[derive(Clone, Debug)]
pub struct Effective {
    /// For the core.
    pub ha: HaConfig,
    /// For the PostgreSQL side.
    pub postgres: PostgresConfig,
    /// For the watchdog.
    pub watchdog: WatchdogSettings,
    /// For the virtual addresses. [`HaConfig::vip_roles`] is made of them.
    pub vip: Vec<VipSettings>,
    /// Corrections that were made (timing rules, ignored keys), for the log.
    pub warnings: Vec<String>,
}
