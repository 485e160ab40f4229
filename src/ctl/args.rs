//! The operator's command line: one table of commands and options, and the parser over it.
//!
//! The parser follows the habits of the tool that it stands in for: options and arguments in any order, `--name value` and
//! `--name=value`, `-fvalue`, joined short flags, `--` ends the options; a mistake is answered with the usage line, a hint and one sentence.

use std::collections::BTreeMap;

use super::commands::COMMANDS;

/// What an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// Any text.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A number, fractions allowed.
    Float,
    /// A whole number.
    Integer,
    /// A file name.
    File,
}

impl Takes {
    /// The word that stands for the value in usage texts.
    #[must_use]
    pub fn metavar(self) -> String {
        match self {
            Takes::Nothing => String::new(),
            Takes::Text => "TEXT".to_owned(),
            Takes::Choice(words) => format!("[{}]", words.join("|")),
            Takes::Float => "FLOAT".to_owned(),
            Takes::Integer => "INTEGER".to_owned(),
            Takes::File => "FILENAME".to_owned(),
        }
    }
}

/// One option of a command.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Under which the value is found in [`Parsed`].
    pub id: &'static str,
    /// All spellings in the order in which errors name them; help shows the short ones first.
    pub names: &'static [&'static str],
    /// What it takes.
    pub takes: Takes,
    /// May be given several times.
    pub repeat: bool,
    /// One sentence.
    pub help: &'static str,
    /// Understood, but not shown.
    pub hidden: bool,
}

/// How many words an argument takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Exactly one.
    One,
    /// One or none.
    Optional,
    /// Any number.
    Many,
}

/// One positional argument.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    /// Under which it is found in [`Parsed`].
    pub id: &'static str,
    /// How usage texts call it.
    pub metavar: &'static str,
    /// How many words.
    pub arity: Arity,
    /// The words that are allowed; empty: any.
    pub choices: &'static [&'static str],
}

impl Arg {
    fn usage(&self) -> String {
        match self.arity {
            Arity::One => self.metavar.to_owned(),
            Arity::Optional => format!("[{}]", self.metavar),
            Arity::Many => format!("[{}]...", self.metavar),
        }
    }
}

/// One command.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// What it does, one line.
    pub help: &'static str,
    /// Its arguments.
    pub args: &'static [Arg],
    /// Its options, without `--help`.
    pub options: &'static [Opt],
    /// What more an operator should know before using it.
    pub about: &'static str,
    /// Typical calls, without the program's name.
    pub examples: &'static [&'static str],
}

impl Command {
    /// `[OPTIONS] CLUSTER_NAME [MEMBER_NAMES]...`
    #[must_use]
    pub fn usage(&self) -> String {
        let mut words = vec!["[OPTIONS]".to_owned()];
        words.extend(self.args.iter().map(Arg::usage));
        words.join(" ")
    }
}

/// `--help`, which every command has.
pub const HELP: Opt =
    Opt { id: "help", names: &["--help"], takes: Takes::Nothing, repeat: false, help: "Show this message and exit.", hidden: false };

/// The options before the command.
pub const GLOBAL: &[Opt] = &[
    Opt {
        id: "config_file",
        names: &["--config-file", "-c"],
        takes: Takes::Text,
        repeat: false,
        help: "Configuration file",
        hidden: false,
    },
    Opt {
        id: "dcs_url",
        names: &["--dcs-url", "--dcs", "-d"],
        takes: Takes::Text,
        repeat: false,
        help: "The DCS connect url",
        hidden: false,
    },
    Opt {
        id: "insecure",
        names: &["-k", "--insecure"],
        takes: Takes::Nothing,
        repeat: false,
        help: "Allow connections to SSL sites without certs",
        hidden: false,
    },
];

/// Options and arguments that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<&'static str, Vec<String>>);

impl Values {
    /// Whether a flag or an option was given.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }

    /// The value of an option or argument; the last one where several were given.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&str> {
        self.0.get(id).and_then(|all| all.last()).map(String::as_str)
    }

    /// All values of an option or argument.
    #[must_use]
    pub fn all(&self, id: &str) -> &[String] {
        self.0.get(id).map_or(&[], Vec::as_slice)
    }

    fn push(&mut self, id: &'static str, value: String) {
        self.0.entry(id).or_default().push(value);
    }

    fn flag(&mut self, id: &'static str) {
        self.0.entry(id).or_default();
    }
}

/// A call that was understood.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// Options before the command.
    pub global: Values,
    /// The command.
    pub command: &'static Command,
    /// Its options and arguments.
    pub values: Values,
}

/// What came of a command line.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Run this.
    Run(Box<Parsed>),
    /// Help was asked for, for all or for one command.
    Help(Option<&'static Command>),
    /// Nothing was said: print the help and leave with an error.
    Nothing,
    /// It was not understood.
    Mistake(Mistake),
}

/// Why a command line was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The command it was for.
    pub command: Option<&'static str>,
    /// Show the usage line too.
    pub show_usage: bool,
    /// The sentence.
    pub message: String,
}

/// The command of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

/// Understands a command line (without the program's name).
#[must_use]
pub fn parse(args: &[String]) -> Outcome {
    let (global, rest) = match scan(args, GLOBAL, true) {
        Ok(scanned) => (scanned.values, scanned.rest),
        Err(mistake) => return Outcome::Mistake(mistake),
    };
    if global.has("help") {
        return Outcome::Help(None);
    }
    let Some((name, rest)) = rest.split_first() else { return Outcome::Nothing };
    let Some(command) = find(name) else {
        let message = format!("No such command '{name}'.{}", did_you_mean(name, COMMANDS.iter().map(|command| command.name)));
        return Outcome::Mistake(Mistake { command: None, show_usage: true, message });
    };
    match parse_command(command, rest) {
        Ok(Some(values)) => Outcome::Run(Box::new(Parsed { global, command, values })),
        Ok(None) => Outcome::Help(Some(command)),
        Err(mistake) => Outcome::Mistake(Mistake { command: Some(command.name), ..mistake }),
    }
}

fn parse_command(command: &'static Command, args: &[String]) -> Result<Option<Values>, Mistake> {
    let Scanned { mut values, rest } = scan(args, command.options, false)?;
    if values.has("help") {
        return Ok(None);
    }
    for option in command.options {
        for value in values.all(option.id) {
            check_value(option, value)?;
        }
    }
    assign(command.args, rest, &mut values)?;
    Ok(Some(values))
}

struct Scanned {
    values: Values,
    rest: Vec<String>,
}

fn mistake(message: String) -> Mistake {
    Mistake { command: None, show_usage: true, message }
}

/// Separates options from words. With `stop_at_word` the first word ends it (the command's name).
fn scan(args: &[String], options: &'static [Opt], stop_at_word: bool) -> Result<Scanned, Mistake> {
    let mut values = Values::default();
    let mut rest = Vec::new();
    let mut queue = args.iter();
    while let Some(word) = queue.next() {
        if word == "--" {
            rest.extend(queue.by_ref().cloned());
        } else if word.len() < 2 || !word.starts_with('-') {
            rest.push(word.clone());
            if stop_at_word {
                rest.extend(queue.by_ref().cloned());
            }
        } else if word.starts_with("--") {
            long(word, options, &mut queue, &mut values)?;
        } else {
            shorts(word, options, &mut queue, &mut values)?;
        }
    }
    Ok(Scanned { values, rest })
}

fn lookup(name: &str, options: &'static [Opt]) -> Option<&'static Opt> {
    if name == "--help" {
        return Some(&HELP);
    }
    options.iter().find(|option| option.names.contains(&name))
}

fn long(word: &str, options: &'static [Opt], queue: &mut std::slice::Iter<'_, String>, values: &mut Values) -> Result<(), Mistake> {
    let (name, inline) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (word, None),
    };
    let Some(option) = lookup(name, options) else {
        let known = options.iter().chain([&HELP]).flat_map(|option| option.names.iter().copied()).filter(|known| known.starts_with("--"));
        return Err(mistake(format!("No such option '{name}'.{}", did_you_mean(name, known))));
    };
    if option.takes == Takes::Nothing {
        if inline.is_some() {
            return Err(Mistake { command: None, show_usage: false, message: format!("Option '{name}' does not take a value.") });
        }
        values.flag(option.id);
        return Ok(());
    }
    let value = inline.or_else(|| queue.next().cloned()).ok_or_else(|| lacks_value(name))?;
    values.push(option.id, value);
    Ok(())
}

fn lacks_value(name: &str) -> Mistake {
    Mistake { command: None, show_usage: false, message: format!("Option '{name}' requires an argument.") }
}

fn shorts(word: &str, options: &'static [Opt], queue: &mut std::slice::Iter<'_, String>, values: &mut Values) -> Result<(), Mistake> {
    for (at, letter) in word.char_indices().skip(1) {
        let name = format!("-{letter}");
        let Some(option) = lookup(&name, options) else {
            return Err(mistake(format!("No such option '{name}'.")));
        };
        if option.takes == Takes::Nothing {
            values.flag(option.id);
            continue;
        }
        let joined = &word[at + letter.len_utf8()..];
        let value = if joined.is_empty() { queue.next().cloned() } else { Some(joined.to_owned()) };
        values.push(option.id, value.ok_or_else(|| lacks_value(&name))?);
        break;
    }
    Ok(())
}

fn check_value(option: &Opt, value: &str) -> Result<(), Mistake> {
    let problem = match option.takes {
        Takes::Choice(words) if !words.contains(&value) => format!("'{value}' is not one of {}.", quoted(words)),
        Takes::Float if !value.trim().parse::<f64>().is_ok_and(f64::is_finite) => format!("'{value}' is not a valid float."),
        Takes::Integer if value.trim().parse::<i64>().is_err() => format!("'{value}' is not a valid integer."),
        _ => return Ok(()),
    };
    let names: Vec<String> = option.names.iter().map(|name| format!("'{name}'")).collect();
    Err(mistake(format!("Invalid value for {}: {problem}", names.join(" / "))))
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", ")
}

/// Hands the words to the arguments: required ones at both ends first, the rest to the one that takes many.
fn assign(args: &'static [Arg], words: Vec<String>, values: &mut Values) -> Result<(), Mistake> {
    let after_many = args.iter().position(|arg| arg.arity == Arity::Many).map_or(0, |at| args.len() - at - 1);
    let mut words = std::collections::VecDeque::from(words);
    for (at, arg) in args.iter().enumerate() {
        match arg.arity {
            Arity::Many => {
                let keep = after_many.min(words.len());
                while words.len() > keep {
                    values.push(arg.id, words.pop_front().unwrap_or_default());
                }
            }
            Arity::Optional => {
                if let Some(word) = words.pop_front() {
                    values.push(arg.id, word);
                }
            }
            Arity::One => match words.pop_front() {
                Some(word) if arg.choices.is_empty() || arg.choices.contains(&word.as_str()) => values.push(arg.id, word),
                Some(word) => {
                    return Err(mistake(format!("Invalid value for '{}': '{word}' is not one of {}.", arg.metavar, quoted(arg.choices))))
                }
                None => return Err(missing(&args[at..])),
            },
        }
    }
    if words.is_empty() {
        return Ok(());
    }
    let extra = Vec::from(words).join(" ");
    let plural = if extra.contains(' ') { "arguments" } else { "argument" };
    Err(mistake(format!("Got unexpected extra {plural} ({extra})")))
}

fn missing(args: &[Arg]) -> Mistake {
    let arg = &args[0];
    let choices = if arg.choices.is_empty() { String::new() } else { format!(" Choose from:\n\t{}", arg.choices.join(",\n\t")) };
    mistake(format!("Missing argument '{}'.{choices}", arg.metavar))
}

fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let best = known.map(|candidate| (distance(word, candidate), candidate)).min();
    match best {
        Some((far, candidate)) if far <= 1 + word.chars().count() / 4 => format!(" Did you mean '{candidate}'?"),
        _ => String::new(),
    }
}

/// Edit distance, for the nearest name.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, l) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (col, r) in right.iter().enumerate() {
            let cost = (diagonal + usize::from(l != *r)).min(row[col] + 1).min(row[col + 1] + 1);
            diagonal = std::mem::replace(&mut row[col + 1], cost);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
