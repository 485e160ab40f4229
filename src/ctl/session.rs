//! One call of the command: settings, console, the way to store and members.

use std::time::Duration;

use super::args::Values;
use super::console::Console;
use super::error::Error;
use super::rest::Rest;
use super::settings::{Env, Settings};
use super::store::Store;
use super::tables::Format;
use super::{show, when};
use crate::clock;
use crate::ha::types::WallTime;
use crate::ha::view::ClusterView;

/// What a command works with.
pub struct Session<'a> {
    /// Talks with the operator.
    pub console: Console<'a>,
    /// Where the cluster is.
    pub settings: Settings,
    /// Asks members.
    pub rest: Rest,
    /// The process's environment.
    pub env: Env,
    /// Called by the name of the tool that it stands in for.
    pub as_patronictl: bool,
}

impl Session<'_> {
    /// The scope that a command is about.
    ///
    /// # Errors
    /// None was named and the configuration has none.
    pub fn scope(&self, values: &Values) -> Result<String, Error> {
        let scope = values.get("cluster").map(str::to_owned).or_else(|| self.settings.scope.clone());
        scope.ok_or_else(|| Error::refused("No cluster name was given, and the configuration has no `scope`"))
    }

    /// The store of a scope. Nothing is sent yet.
    ///
    /// # Errors
    /// No store is configured, or not properly.
    pub fn store(&self, scope: &str) -> Result<Store, Error> {
        let etcd = self.settings.etcd.as_ref().ok_or_else(|| {
            Error::refused(
                "Can not find suitable configuration of distributed configuration store\n\
                 Name a file with an etcd3 section (-c FILE) or the store itself (-d etcd3://HOST:PORT).\n\
                 A store inside the agents is not reached by commands in this build: use the REST API",
            )
        })?;
        Store::new(etcd, &self.settings.namespace, scope)
    }

    /// Scope, store and the cluster as it is now: how most commands begin.
    ///
    /// # Errors
    /// See [`Session::scope`], [`Session::store`], [`Store::cluster`].
    pub async fn open(&self, values: &Values) -> Result<(String, Store, ClusterView), Error> {
        let scope = self.scope(values)?;
        let store = self.store(&scope)?;
        let view = store.cluster().await?;
        Ok((scope, store, view))
    }

    /// Prints the table of members.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn show_members(&mut self, view: &ClusterView, scope: &str) -> Result<(), Error> {
        self.console.print(&show::cluster(view, scope, false, Format::Pretty))
    }

    /// The wall clock, for people.
    #[must_use]
    pub fn now(&self) -> WallTime {
        clock::wall()
    }

    /// Reads a time that an operator wrote; `None` for now. Says so when UTC is taken because no zone was given.
    ///
    /// # Errors
    /// It is not understood.
    pub fn schedule(&mut self, text: Option<&str>) -> Result<Option<when::Scheduled>, Error> {
        let Some(text) = text.filter(|text| !text.is_empty() && *text != "now") else { return Ok(None) };
        let Some(at) = when::parse(text, self.now()) else {
            let hint = "It should be in an unambiguous format (e.g. ISO 8601)";
            return Err(Error::refused(format!("Unable to parse scheduled timestamp ({text}). {hint}")));
        };
        if at.assumed_utc {
            self.console.note(&format!("Note: {text} has no time zone and is taken as UTC ({})", at.iso));
        }
        Ok(Some(at))
    }
}

/// Runs a step again and again, as `-W` and `-w` ask for; the pause counts from start to start.
#[derive(Clone, Copy, Debug)]
pub struct Watch(Option<Duration>);

impl Watch {
    /// From the options.
    #[must_use]
    pub fn of(values: &Values) -> Watch {
        let seconds = values.get("watch").and_then(|text| text.trim().parse::<f64>().ok()).filter(|seconds| *seconds > 0.0);
        let every = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Watch(every.or_else(|| values.has("watch2").then(|| Duration::from_secs(2))))
    }

    /// Whether it repeats at all.
    #[must_use]
    pub fn repeats(self) -> bool {
        self.0.is_some()
    }

    /// Waits until the next round that began at `since`; `false` where there is none.
    pub async fn next(self, since: tokio::time::Instant) -> bool {
        let Some(every) = self.0 else { return false };
        tokio::time::sleep_until(since + every).await;
        true
    }
}
