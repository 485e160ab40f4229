//! A box without PostgreSQL that has a vote in the store: `mastiff witness CONFIG`. With two boxes that have one it makes a majority of two possible.

use std::collections::BTreeMap;
use std::path::Path;

use tokio::signal::unix::{signal, SignalKind};

use crate::config::witness::{load, WitnessConfig};
use crate::dcs::embedded::store::EmbeddedStore;
use crate::dcs::witness_store;
use crate::ha::config::HaConfig;
use crate::log::CRITICAL;
use crate::notify;
use crate::shell::{EXIT_CONFIG, EXIT_UNAVAILABLE};

/// How it is called.
const USAGE: &str = "Usage: mastiff witness [CONFIG]\n\n\
    A vote in the embedded store for a box without PostgreSQL. CONFIG (or PATRONI_* variables) needs scope and a raft section with self_addr,\n\
    partner_addrs, data_dir, and password or certificates.";

/// `mastiff witness`; the exit code.
#[must_use]
pub fn main(args: &[String], env: &BTreeMap<String, String>) -> i32 {
    match args {
        [word] if matches!(word.as_str(), "-h" | "--help") => {
            println!("{USAGE}");
            0
        }
        [] => run(None, env),
        [path] if !path.starts_with('-') => run(Some(Path::new(path)), env),
        _ => {
            eprintln!("{USAGE}");
            EXIT_CONFIG
        }
    }
}

/// Runs until it is told to stop; the exit code.
fn run(path: Option<&Path>, env: &BTreeMap<String, String>) -> i32 {
    let (config, warnings) = match load(path, env) {
        Ok(loaded) => loaded,
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            return EXIT_CONFIG;
        }
    };
    if let Err(error) = crate::log::init(&config.log) {
        eprintln!("cannot start logging: {error}");
        return EXIT_UNAVAILABLE;
    }
    for warning in &warnings {
        log::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return EXIT_UNAVAILABLE;
        }
    };
    let ended = tokio::task::LocalSet::new().block_on(&runtime, serve(&config));
    runtime.shutdown_background();
    match ended {
        Ok(()) => 0,
        Err(error) => {
            log::error!(target: CRITICAL, "{error}");
            EXIT_UNAVAILABLE
        }
    }
}

async fn serve(config: &WitnessConfig) -> Result<(), crate::dcs::embedded::store::Error> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let _store = EmbeddedStore::open(witness_store(config, HaConfig::for_member(&config.name).ttl)).await?;
    log::info!("witness {} of {}", config.name, config.scope);
    notify::ready();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    log::info!("witness: stopping");
    Ok(())
}
