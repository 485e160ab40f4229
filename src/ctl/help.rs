//! Help and usage texts from the table, laid out as operators know them: 78 columns, options on the left, sentences on the right.

use super::args::{Command, Mistake, Opt, GLOBAL, HELP};
use super::commands::COMMANDS;

const WIDTH: usize = 78;
/// The left column is never wider than this; longer names get a line of their own.
const LEFT_MAX: usize = 30;

/// Breaks a text into lines of at most `width` characters.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

fn usage_line(program: &str, args: &str) -> String {
    let prefix = format!("Usage: {program} ");
    let indent = " ".repeat(prefix.len());
    let lines = wrap(args, WIDTH.saturating_sub(prefix.len()).max(20));
    format!("{prefix}{}\n", lines.join(&format!("\n{indent}")))
}

fn two_columns(rows: &[(String, String)]) -> String {
    let widest = rows.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0);
    let first = widest.min(LEFT_MAX) + 2;
    let mut text = String::new();
    for (left, right) in rows {
        text.push_str("  ");
        text.push_str(left);
        let taken = left.chars().count();
        if taken + 2 <= first {
            text.push_str(&" ".repeat(first - taken));
        } else {
            text.push('\n');
            text.push_str(&" ".repeat(first + 2));
        }
        let lines = wrap(right, WIDTH.saturating_sub(first + 2).max(10));
        text.push_str(&lines.join(&format!("\n{}", " ".repeat(first + 2))));
        text.push('\n');
    }
    text
}

fn option_rows(options: &[Opt]) -> Vec<(String, String)> {
    let shown = options.iter().filter(|option| !option.hidden).chain([&HELP]);
    shown
        .map(|option| {
            let mut names = option.names.to_vec();
            names.sort_by_key(|name| name.starts_with("--"));
            let metavar = option.takes.metavar();
            let space = if metavar.is_empty() { "" } else { " " };
            (format!("{}{space}{metavar}", names.join(", ")), option.help.to_owned())
        })
        .collect()
}

/// One line for the list of commands, cut at a word with three dots.
fn short_help(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut short = String::new();
    for word in text.split(' ') {
        if short.len() + usize::from(!short.is_empty()) + word.len() + 3 > max {
            break;
        }
        if !short.is_empty() {
            short.push(' ');
        }
        short.push_str(word);
    }
    short + "..."
}

/// The help of the whole program.
#[must_use]
pub fn overview(program: &str, own_name: bool) -> String {
    let widest = COMMANDS.iter().map(|command| command.name.len()).max().unwrap_or(0);
    let commands: Vec<(String, String)> =
        COMMANDS.iter().map(|command| (command.name.to_owned(), short_help(command.help, WIDTH - 6 - widest))).collect();
    let mut text = usage_line(program, "[OPTIONS] COMMAND [ARGS]...");
    let what = if own_name {
        "Command-line interface for interacting with a cluster."
    } else {
        "Command-line interface for interacting with Patroni."
    };
    text.push_str(&format!("\n  {what}\n\nOptions:\n"));
    text.push_str(&two_columns(&option_rows(GLOBAL)));
    text.push_str("\nCommands:\n");
    text.push_str(&two_columns(&commands));
    if own_name {
        text.push_str(&format!(
            "\nThe configuration file is an agent's own, or one with at least `scope` and the store\n\
             (`etcd3`); it can also come from PATRONICTL_CONFIG_FILE, the store from DCS_URL, and\n\
             everything from PATRONI_* variables.\n\nExamples:\n  {program} -c /etc/mastiff.yml list\n  \
             {program} -d etcd3://10.0.0.1:2379 list batman\n  {program} COMMAND --help\n"
        ));
    }
    text
}

/// The help of one command.
#[must_use]
pub fn command(program: &str, command: &Command) -> String {
    let mut text = usage_line(&format!("{program} {}", command.name), &command.usage());
    text.push_str(&format!("\n  {}\n", command.help));
    if !command.about.is_empty() {
        text.push_str(&format!("\n  {}\n", wrap(command.about, WIDTH - 2).join("\n  ")));
    }
    text.push_str("\nOptions:\n");
    text.push_str(&two_columns(&option_rows(command.options)));
    if !command.examples.is_empty() {
        text.push_str("\nExamples:\n");
        for example in command.examples {
            text.push_str(&format!("  {program} {example}\n"));
        }
    }
    text
}

/// What a mistake is answered with.
#[must_use]
pub fn mistake(program: &str, mistake: &Mistake) -> String {
    let mut text = String::new();
    if mistake.show_usage {
        let (called, args) = match mistake.command.and_then(super::args::find) {
            Some(command) => (format!("{program} {}", command.name), command.usage()),
            None => (program.to_owned(), "[OPTIONS] COMMAND [ARGS]...".to_owned()),
        };
        text.push_str(&usage_line(&called, &args));
        text.push_str(&format!("Try '{called} --help' for help.\n\n"));
    }
    text.push_str(&format!("Error: {}\n", mistake.message));
    text
}
