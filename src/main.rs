//! The program: as `mastiff` or `patroni` the agent, as `mastiff ctl` or `patronictl` the operator's command.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use argh::FromArgs;
use mastiff::config::{self, Loaded};
use mastiff::{log as logging, shell, tools};

/// The release of Patroni whose behaviour this one matches.
const PATRONI_VERSION: &str = "4.1.5";

/// Mastiff: high availability for PostgreSQL on appliances. Runs the agent with the configuration in CONFIG (a YAML file or a
/// directory of them; PATRONI_* and MASTIFF_* variables go over it). `mastiff ctl --help` lists the operator's commands;
/// `mastiff witness CONFIG` runs a witness, which has a vote in the embedded store and no PostgreSQL.
#[derive(FromArgs)]
struct Arguments {
    /// configuration file or directory
    #[argh(positional)]
    config: Option<PathBuf>,
    /// print the version and end
    #[argh(switch)]
    version: bool,
    /// check the configuration, list all problems, and end; the code is 0 if there is no error
    #[argh(switch)]
    validate_config: bool,
    /// with --validate-config: warnings are errors
    #[argh(switch)]
    strict: bool,
    /// with --validate-config: a port in use is no error
    #[argh(switch, short = 'i')]
    ignore_listen_port: bool,
    /// with --validate-config: print the merged configuration, secrets hidden
    #[argh(switch, short = 'p')]
    print: bool,
    /// print a commented configuration to start from, and end
    #[argh(switch)]
    generate_sample_config: bool,
    /// print a configuration for the PostgreSQL that runs here, and end
    #[argh(switch)]
    generate_config: bool,
    /// with --generate-config: how to connect
    #[argh(option)]
    dsn: Option<String>,
}

fn main() {
    let mut args = std::env::args().collect::<Vec<_>>();
    let path = if args.is_empty() { "mastiff".to_owned() } else { args.remove(0) };
    let program = Path::new(&path).file_name().and_then(|name| name.to_str()).unwrap_or("mastiff").to_owned();
    let code = match (program.as_str(), args.first().map(String::as_str)) {
        (_, Some("--launch-postmaster")) => mastiff::postgres::launch::launch_main(&args[1..]),
        _ if mastiff::guard::is_role(&args) => mastiff::guard::process::main(&args[1]),
        ("patronictl", _) => mastiff::ctl::run(&program, &args),
        (_, Some("witness")) => mastiff::witness::main(&args[1..], &environment()),
        (_, Some("ctl")) => mastiff::ctl::run("mastiff ctl", &args[1..]),
        _ => agent(&program, &args),
    };
    logging::flush();
    std::process::exit(code);
}

fn agent(program: &str, args: &[String]) -> i32 {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let arguments = match Arguments::from_args(&[program], &words) {
        Ok(arguments) => arguments,
        Err(exit) => {
            let failed = exit.status.is_err();
            if failed {
                eprint!("{}", exit.output);
            } else {
                print!("{}", exit.output);
            }
            return if failed { shell::EXIT_CONFIG } else { 0 };
        }
    };
    if arguments.version {
        match program {
            "patroni" => println!("patroni {PATRONI_VERSION}"),
            _ => println!("mastiff {} (Patroni {PATRONI_VERSION})", env!("CARGO_PKG_VERSION")),
        }
        return 0;
    }
    let env = environment();
    let path = arguments.config.as_deref();
    if arguments.generate_sample_config {
        return tools::sample(&env);
    }
    if arguments.generate_config {
        return tools::generate(arguments.dsn.as_deref(), &env);
    }
    if arguments.validate_config {
        return tools::validate(path, &env, arguments.ignore_listen_port, arguments.strict, arguments.print);
    }
    run_agent(arguments.config, env)
}

/// The environment as the configuration reads it: once, before any thread exists.
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))).collect()
}

fn run_agent(path: Option<PathBuf>, env: BTreeMap<String, String>) -> i32 {
    let Loaded { config, warnings } = match config::load(path.as_deref(), &env) {
        Ok(loaded) => loaded,
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            return shell::EXIT_CONFIG;
        }
    };
    if let Err(error) = logging::init(&config.log) {
        eprintln!("cannot start logging: {error}");
        return shell::EXIT_UNAVAILABLE;
    }
    for warning in &warnings {
        log::warn!("{warning}");
    }
    let reload: shell::Reload = Box::new(move || {
        let loaded = config::load(path.as_deref(), &env)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
        Ok(loaded.config)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return shell::EXIT_UNAVAILABLE;
        }
    };
    let ended = tokio::task::LocalSet::new().block_on(&runtime, shell::run(config, reload));
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| {
        log::error!(target: logging::CRITICAL, "{error}");
        error.exit_code()
    })
}
