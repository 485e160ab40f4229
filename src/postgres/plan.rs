//! What files and arguments PostgreSQL is to run with: the configuration, the role, the upstream and what `pg_control` asks for,
//! brought together. The texts themselves are made in [`super::conf`].

use std::collections::BTreeMap;

use super::conf::{self, Changes, Recovery};
use super::conninfo::Conninfo;
use super::error::Error;
use super::params::{self, Parameters, Raised};
use super::{controldata, files, Shared};
use crate::config::types::PostgresConfig;
use crate::ha::action::{StartAs, Upstream};
use crate::ha::types::MemberName;
use crate::ha::view::Role;

/// As what PostgreSQL is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Accepting writes.
    Primary,
    /// Following somebody, or nobody.
    Standby(Option<Upstream>),
    /// `recovery.signal` with these settings: point-in-time recovery of a custom bootstrap.
    Targeted(BTreeMap<String, String>),
    /// The recovery settings that a tool made stay.
    Keep,
}

impl Standing {
    /// The standing that a start asks for.
    pub(crate) fn of(start: &StartAs) -> Standing {
        match start {
            StartAs::Primary(_) => Standing::Primary,
            StartAs::Standby(upstream) => Standing::Standby(upstream.clone()),
        }
    }
}

/// Everything that is needed to write the files and to start.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Parameters of `postgresql.conf` and the command line.
    pub(crate) parameters: Parameters,
    /// Recovery settings and signal files.
    pub(crate) recovery: Recovery,
    /// The upstream's connection, for the password file.
    pub(crate) connection: Option<Conninfo>,
    /// Values that had to be raised for a standby.
    pub(crate) raised: BTreeMap<String, Raised>,
}

impl Plan {
    /// Plans for the data directory as it is.
    pub(crate) fn new(shared: &Shared, config: &PostgresConfig, standing: &Standing) -> Result<Plan, Error> {
        let major = major(config)?;
        let (mut parameters, dropped) = params::for_server(config, major);
        if let Some(known) = shared.known_parameters() {
            for name in params::drop_unknown(&mut parameters, &known) {
                shared.warn_once(&format!("parameter {name} is not known to PostgreSQL {major}: it is left out of postgresql.conf"));
            }
        }
        for name in dropped {
            shared.warn_once(&format!("parameter {name} does not exist in PostgreSQL {major}: it is left out of postgresql.conf"));
        }
        let (recovery, connection) = match standing {
            Standing::Primary => (Recovery::None, None),
            Standing::Keep => (Recovery::Keep, None),
            Standing::Targeted(settings) => (Recovery::Targeted(settings.clone()), None),
            Standing::Standby(upstream) => {
                let plan = conf::plan_standby(config, upstream.as_ref(), major).map_err(|error| Error::Unusable(error.to_string()))?;
                (Recovery::Standby(plan.settings), plan.connection)
            }
        };
        let raised = match standing {
            Standing::Primary => BTreeMap::new(),
            _ => controldata::read(&config.data_dir)
                .map(|control| params::raise_for_standby(&mut parameters, &control.settings))
                .unwrap_or_default(),
        };
        Ok(Plan { parameters, recovery, connection, raised })
    }

    /// Writes all files, signal files included.
    pub(crate) fn write(&self, config: &PostgresConfig) -> Result<Changes, Error> {
        conf::write_all(config, &self.parameters, &self.recovery, self.connection.as_ref())
            .map_err(|error| Error::Unusable(error.to_string()))
    }

    /// Writes what a reload takes up.
    pub(crate) fn write_for_reload(&self, config: &PostgresConfig) -> Result<Changes, Error> {
        conf::write_for_reload(config, &self.parameters, &self.recovery, self.connection.as_ref())
            .map_err(|error| Error::Unusable(error.to_string()))
    }

    /// Arguments of the postmaster.
    pub(crate) fn command_line(&self, config: &PostgresConfig) -> Vec<String> {
        params::command_line(&config.data_dir, &conf::Layout::new(config).conf, &self.parameters)
    }
}

/// Major version of the data directory.
pub(crate) fn major(config: &PostgresConfig) -> Result<u32, Error> {
    files::version(&config.data_dir)
        .map_err(Error::Unusable)?
        .ok_or_else(|| Error::Unusable(format!("{} holds no PostgreSQL cluster: PG_VERSION is missing", config.data_dir.display())))
}

/// The standing of a running server, from its role and the connection string that it uses.
pub(crate) fn standing_of_running(role: Role, primary_conninfo: &str) -> Standing {
    match role {
        Role::Primary => Standing::Primary,
        Role::Standby => Standing::Standby(super::observe::upstream_address(primary_conninfo).map(|address| Upstream {
            // Only the address matters for the files; the name must not be ours.
            name: MemberName(format!("upstream at {address}")),
            conn_url: format!("postgres://{address}/postgres"),
        })),
    }
}

/// Whether the files on disk differ from the configuration in a way that a reload should take up. Recovery settings that a promoted
/// primary still has in its file do not count.
pub(crate) fn differs(shared: &Shared, config: &PostgresConfig, role: Role, primary_conninfo: &str) -> bool {
    let Ok(plan) = Plan::new(shared, config, &standing_of_running(role, primary_conninfo)) else { return false };
    let layout = conf::Layout::new(config);
    let read = |path: &std::path::Path| files::read_text(path).ok().flatten().unwrap_or_default();
    let wanted = conf::render(config, &plan.parameters, &plan.recovery);
    let changed = conf::changed_settings(&read(&layout.conf), &wanted);
    let counts = |name: &String| role == Role::Standby || !params::is_recovery(name);
    changed.iter().any(counts)
        || conf::render_hba(config, &plan.parameters).is_some_and(|text| text != read(&layout.hba))
        || conf::render_ident(config, &plan.parameters).is_some_and(|text| text != read(&layout.ident))
}
