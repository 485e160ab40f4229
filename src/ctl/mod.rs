//! The operator's commands: `mastiff ctl …`, and the same under the name `patronictl`.
//!
//! What they print is what Patroni's own tool prints, byte for byte where it matters: people and scripts read it.
//!
//! [`args`], [`help`], [`members`], [`tables`], [`show`], [`diff`], [`patch`] and [`when`] are pure; the files named for commands talk to the
//! store and to members.

mod act;
pub mod args;
pub mod commands;
pub mod console;
pub mod diff;
pub mod dynamic;
mod edit;
pub mod error;
pub mod help;
mod inspect;
pub mod json;
mod lead;
pub mod members;
mod mode;
pub mod patch;
mod query;
pub mod rest;
pub mod select;
pub mod session;
pub mod settings;
pub mod show;
pub mod store;
pub mod tables;
pub mod when;
pub mod yaml;
mod yaml_scalar;

use std::io::{self, IsTerminal};

use self::args::{Outcome, Parsed};
use self::console::Console;
use self::error::Error;
use self::rest::Rest;
use self::session::Session;
use self::settings::Env;
use self::tables::Format;
use crate::http::client::Client;

/// Runs one command. `program` is how the process was called (only its last part counts), `args` is what follows it (and `ctl`).
/// The exit code: 0 done, 1 failed or refused, 2 not understood.
#[must_use]
pub fn run(program: &str, args: &[String]) -> i32 {
    let env: Env = std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))).collect();
    let (mut input, mut output, mut errors) = (io::stdin().lock(), io::stdout().lock(), io::stderr().lock());
    let is_terminal = io::stdout().is_terminal();
    run_with(program, args, &env, Console::new(&mut input, &mut output, &mut errors, is_terminal))
}

/// [`run`] with everything that it would take from the process.
#[must_use]
pub fn run_with(program: &str, args: &[String], env: &Env, mut console: Console<'_>) -> i32 {
    let as_patronictl = program.rsplit('/').next().is_some_and(|name| name.starts_with("patronictl"));
    let name = if as_patronictl { "patronictl" } else { "mastiff ctl" };
    let help = |text: String, code: i32, console: &mut Console<'_>| if console.print(&text).is_ok() { code } else { 1 };
    match args::parse(args) {
        Outcome::Help(Some(command)) => help(help::command(name, command), 0, &mut console),
        Outcome::Help(None) => help(help::overview(name, !as_patronictl), 0, &mut console),
        Outcome::Nothing => {
            console.note(help::overview(name, !as_patronictl).trim_end());
            2
        }
        Outcome::Mistake(mistake) => {
            console.note(help::mistake(name, &mistake).trim_end());
            2
        }
        Outcome::Run(parsed) => execute(&parsed, env, console, as_patronictl),
    }
}

fn execute(parsed: &Parsed, env: &Env, console: Console<'_>, as_patronictl: bool) -> i32 {
    let mut session = Session { console, settings: settings::Settings::default(), rest: Rest::default(), env: env.clone(), as_patronictl };
    match within_runtime(&mut session, parsed) {
        Ok(code) => code,
        // Nobody reads what we write: there is nobody to tell.
        Err(Error::Output(_)) => 1,
        Err(Error::Aborted) => {
            session.console.note("\nAborted!");
            1
        }
        Err(error) => {
            session.console.note(&format!("Error: {error}"));
            1
        }
    }
}

fn within_runtime(session: &mut Session<'_>, parsed: &Parsed) -> Result<i32, Error> {
    if parsed.values.has("group") {
        return Err(Error::refused("--group is for Citus clusters, which are not supported: name the cluster without it"));
    }
    // `version` alone works without any configuration.
    if parsed.command.name != "version" || parsed.values.has("cluster") {
        session.settings = settings::load(&parsed.global, &session.env)?;
        let ctl = &session.settings.ctl;
        session.rest = Rest { auth: ctl.authentication.clone(), client: Client::new(ctl) };
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build().map_err(Error::Runtime)?;
    runtime.block_on(dispatch(session, parsed))
}

async fn dispatch(session: &mut Session<'_>, parsed: &Parsed) -> Result<i32, Error> {
    // Boxed: one future for all commands would be as large as the sum of them, on the stack.
    let values = &parsed.values;
    match parsed.command.name {
        "demote-cluster" => Box::pin(mode::demote(session, values)).await,
        "dsn" => Box::pin(inspect::dsn(session, values)).await,
        "edit-config" => Box::pin(edit::run(session, values)).await,
        "failover" => Box::pin(lead::run(session, values, lead::Kind::Failover)).await,
        "flush" => Box::pin(act::flush(session, values)).await,
        "history" => Box::pin(inspect::history(session, values)).await,
        "list" => Box::pin(inspect::list(session, values, Format::of(values.get("format")))).await,
        "pause" => Box::pin(mode::pause(session, values, true)).await,
        "promote-cluster" => Box::pin(mode::promote(session, values)).await,
        "query" => Box::pin(query::run(session, values)).await,
        "reinit" => Box::pin(act::reinit(session, values)).await,
        "reload" => Box::pin(act::reload(session, values)).await,
        "remove" => Box::pin(mode::remove(session, values)).await,
        "restart" => Box::pin(act::restart(session, values)).await,
        "resume" => Box::pin(mode::pause(session, values, false)).await,
        "show-config" => Box::pin(inspect::show_config(session, values)).await,
        "switchover" => Box::pin(lead::run(session, values, lead::Kind::Switchover)).await,
        "topology" => Box::pin(inspect::list(session, values, Format::Topology)).await,
        "version" => Box::pin(inspect::version(session, values)).await,
        other => Err(Error::refused(format!("{other} is not offered yet"))),
    }
}
