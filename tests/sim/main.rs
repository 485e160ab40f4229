//! The deterministic simulator: the real core ([`mastiff::ha::Machine`]) in a simulated world.
//!
//! A run is a function of a [`schedule::Scenario`]: options and a list of timed faults, both drawn from a seed. `model/` is the world (one file for
//! each part), `checkers/` the promises, `shrink` makes a failing schedule small, `tests/replay/*.jsonl` keeps the schedules of bugs that were
//! fixed. `tests/sim/mutate` breaks the core on purpose. The options are in [`HELP`].

mod checkers;
mod model;
mod options;
mod runner;
mod schedule;
mod shrink;
mod trace;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use options::Mutation;
use runner::{run, Outcome};
use schedule::Scenario;
use trace::{Detail, Trace};

const HELP: &str = "\
simulator of the core: cargo test --profile sim --test sim -- [OPTIONS]
  (nothing)            self tests, recorded schedules, 200 seeds, two mutations
  --seeds N            this many seeds instead of 200
  --start N            the first seed (default 1)
  --seed N             one seed; with --trace one line for each event
  --trace              print the events
  --node NAME          of this node only
  --from SECONDS       from this time on
  --replay FILE        run a recorded schedule
  --shrink FILE        after a failure write the smallest schedule that still fails to FILE
  --keep-going         count all failing seeds instead of stopping at the first
  --mutation NAME      with a broken rule: queued-is-renewed promote-without-lease sleeping-clock lost-fence early-release
                       lost-order blind-kick sticky-vip
  --self-test          checks of the model, of the checkers and that mutations are caught
";

/// Recorded schedules that every run repeats.
const REPLAYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/replay");
/// Mutations that every run must catch, and the seeds that it takes at most.
const MUST_CATCH: [Mutation; 5] =
    [Mutation::PromoteWithoutLease, Mutation::QueuedIsRenewed, Mutation::SleepingClock, Mutation::LostFence, Mutation::EarlyRelease];
const MUTATION_SEEDS: u64 = 200;

#[derive(Default)]
struct Arguments {
    seeds: Option<u64>,
    start: u64,
    seed: Option<u64>,
    trace: bool,
    node: Option<String>,
    from: u64,
    replay: Option<PathBuf>,
    shrink: Option<PathBuf>,
    keep_going: bool,
    mutation: Option<Mutation>,
    self_test: bool,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(text) => {
            eprintln!("{text}\n{HELP}");
            return ExitCode::from(64);
        }
    };
    runner::catch_panics();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut arguments = Arguments { start: 1, ..Arguments::default() };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("'{text}' is no number"));
        match word.as_str() {
            "--seeds" => arguments.seeds = Some(number(value()?)?),
            "--start" => arguments.start = number(value()?)?,
            "--seed" => arguments.seed = Some(number(value()?)?),
            "--trace" => arguments.trace = true,
            "--node" => arguments.node = Some(value()?),
            "--from" => arguments.from = number(value()?)?,
            "--replay" => arguments.replay = Some(PathBuf::from(value()?)),
            "--shrink" => arguments.shrink = Some(PathBuf::from(value()?)),
            "--keep-going" => arguments.keep_going = true,
            "--self-test" => arguments.self_test = true,
            "--mutation" => {
                let name = value()?;
                arguments.mutation = Some(Mutation::parse(&name).ok_or_else(|| format!("no mutation is called '{name}'"))?);
            }
            "--help" | "-h" => return Ok(None),
            // What `cargo test` passes to every test binary.
            "--nocapture" | "--quiet" | "-q" | "--test-threads=1" => {}
            other => return Err(format!("unknown option '{other}'")),
        }
    }
    Ok(Some(arguments))
}

fn dispatch(arguments: &Arguments) -> Result<(), String> {
    if let Some(path) = &arguments.replay {
        return one(arguments, &Scenario::read(path)?, &format!("--replay {}", path.display()));
    }
    if let Some(seed) = arguments.seed {
        let mut scenario = Scenario::draw(seed);
        scenario.options.mutation = arguments.mutation;
        return one(arguments, &scenario, &format!("--seed {seed}"));
    }
    if arguments.self_test {
        return self_test();
    }
    if arguments.mutation.is_none() {
        for (name, test) in checkers::self_tests() {
            test().map_err(|text| format!("self test {name}: {text}"))?;
        }
        for test in [model::wal::self_test, model::store::self_test, schedule::self_test] {
            test()?;
        }
        replay_recorded()?;
    }
    let seeds = arguments.seeds.unwrap_or(200);
    sweep(arguments, seeds)?;
    if arguments.mutation.is_none() {
        mutations()?;
    }
    Ok(())
}

fn trace_of(arguments: &Arguments) -> Trace {
    let detail = if arguments.trace { Detail::Print } else { Detail::Off };
    Trace::new(detail).filtered(arguments.node.clone(), arguments.from * 1000)
}

/// One scenario, talked about.
fn one(arguments: &Arguments, scenario: &Scenario, how: &str) -> Result<(), String> {
    println!("{}", scenario.to_lines()?.lines().next().unwrap_or_default());
    let outcome = run(scenario, trace_of(arguments));
    match &outcome.violation {
        None => {
            println!(
                "{how}: all promises kept; {} steps, {} s simulated, timeline {}",
                outcome.steps,
                outcome.simulated / 1000,
                outcome.timeline
            );
            Ok(())
        }
        Some(_) => Err(failure(arguments, scenario, &outcome, how)),
    }
}

/// The report about a failure: what, how to see it again, and the smallest schedule if one is wanted.
fn failure(arguments: &Arguments, scenario: &Scenario, outcome: &Outcome, how: &str) -> String {
    let Some(violation) = &outcome.violation else { return String::new() };
    let mut text = format!(
        "BROKEN {} at {}.{:03} s: {}\n  again: cargo test --profile sim --test sim -- {how} --trace",
        violation.invariant,
        violation.at / 1000,
        violation.at % 1000,
        violation.text
    );
    if let Some(path) = &arguments.shrink {
        let small = shrink::shrink(scenario, outcome);
        match small.to_lines().and_then(|lines| std::fs::write(path, lines).map_err(|error| error.to_string())) {
            Ok(()) => text.push_str(&format!(
                "\n  smallest: {} faults on {} nodes, --replay {}",
                small.faults.len(),
                small.options.nodes,
                path.display()
            )),
            Err(error) => text.push_str(&format!("\n  {}: {error}", path.display())),
        }
    }
    text
}

/// Many seeds.
fn sweep(arguments: &Arguments, seeds: u64) -> Result<(), String> {
    let (began, mut failed, mut steps, mut rows, mut simulated) = (Instant::now(), 0_u64, 0, 0, 0);
    let twice_every = (seeds / 2).clamp(1, 100);
    for seed in arguments.start..arguments.start + seeds {
        let mut scenario = Scenario::draw(seed);
        scenario.options.mutation = arguments.mutation;
        let outcome = run(&scenario, Trace::new(Detail::Off));
        steps += outcome.steps;
        rows += outcome.acknowledged;
        simulated += outcome.simulated;
        if outcome.violation.is_some() {
            failed += 1;
            let text = failure(arguments, &scenario, &outcome, &format!("--seed {seed}"));
            if !arguments.keep_going {
                println!("{}", scenario.to_lines()?.lines().next().unwrap_or_default());
                return Err(text);
            }
            println!("seed {seed}: {}", text.lines().next().unwrap_or_default());
        } else if seed % twice_every == 0 {
            same_again(&scenario, seed)?;
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds from {}: {failed} failed; {steps} steps, {rows} rows, {:.0} simulated hours in {took:.1} s ({:.0} seeds/s)",
        arguments.start,
        simulated as f64 / 3_600_000.0,
        seeds as f64 / took.max(0.001)
    );
    if failed > 0 {
        return Err(format!("{failed} of {seeds} seeds failed"));
    }
    Ok(())
}

/// The determinism guard: the same scenario twice gives the same trace.
fn same_again(scenario: &Scenario, seed: u64) -> Result<(), String> {
    let (first, second) = (run(scenario, Trace::new(Detail::Hash)), run(scenario, Trace::new(Detail::Hash)));
    if first.hash == second.hash {
        return Ok(());
    }
    Err(format!("seed {seed} is not deterministic: two runs gave the traces {:x?} and {:x?}", first.hash, second.hash))
}

/// The schedules of bugs that were fixed.
fn replay_recorded() -> Result<(), String> {
    let Ok(entries) = std::fs::read_dir(Path::new(REPLAYS)) else { return Ok(()) };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    paths.sort();
    for path in &paths {
        let outcome = run(&Scenario::read(path)?, Trace::new(Detail::Off));
        if let Some(violation) = outcome.violation {
            return Err(format!(
                "BROKEN {} again: {}\n  again: cargo test --profile sim --test sim -- --replay {} --trace",
                violation.invariant,
                violation.text,
                path.display()
            ));
        }
    }
    println!("{} recorded schedules: all promises kept", paths.len());
    Ok(())
}

fn self_test() -> Result<(), String> {
    for (name, test) in checkers::self_tests() {
        test().map_err(|text| format!("self test {name}: {text}"))?;
    }
    for test in [model::wal::self_test, model::store::self_test, schedule::self_test] {
        test()?;
    }
    mutations()
}

/// A simulator that does not see a broken rule is worth nothing.
fn mutations() -> Result<(), String> {
    for mutation in MUST_CATCH {
        let name = Mutation::ALL.iter().find(|(_, known)| *known == mutation).map_or("?", |(name, _)| name);
        let caught = (1..=MUTATION_SEEDS).find_map(|seed| {
            let mut scenario = Scenario::draw(seed);
            scenario.options.mutation = Some(mutation);
            let violation = run(&scenario, Trace::new(Detail::Off)).violation?;
            if !["S1", "S4"].contains(&violation.invariant) {
                return None;
            }
            // The sound core must pass where the broken one fails.
            scenario.options.mutation = None;
            let sound = run(&scenario, Trace::new(Detail::Off)).violation;
            sound.is_none_or(|violation| !violation.invariant.starts_with('S')).then_some((seed, violation))
        });
        match caught {
            Some((seed, violation)) => println!("mutation {name}: caught by {} on seed {seed}: {}", violation.invariant, violation.text),
            None => return Err(format!("mutation {name} was not caught by {MUTATION_SEEDS} seeds: the simulator is blind")),
        }
    }
    Ok(())
}
