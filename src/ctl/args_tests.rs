use super::{parse, Outcome, Parsed};
use crate::ctl::help;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn run(line: &str) -> Parsed {
    match parse(&words(line)) {
        Outcome::Run(parsed) => *parsed,
        other => panic!("{line}: {other:?}"),
    }
}

fn mistake(line: &str) -> String {
    match parse(&words(line)) {
        Outcome::Mistake(mistake) => help::mistake("patronictl", &mistake),
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn options_and_arguments_mix() {
    let parsed = run("-c f.yml -k restart bench n1 -r replica n2 --pending --scheduled=now");
    assert_eq!(parsed.global.get("config_file"), Some("f.yml"));
    assert!(parsed.global.has("insecure"));
    assert_eq!(parsed.values.get("cluster"), Some("bench"));
    assert_eq!(parsed.values.all("members"), ["n1", "n2"]);
    assert_eq!(parsed.values.get("role"), Some("replica"));
    assert_eq!(parsed.values.get("scheduled"), Some("now"));
    assert!(parsed.values.has("pending") && !parsed.values.has("force"));
}

#[test]
fn short_options_join() {
    let parsed = run("list -etfjson -w2 a b");
    assert!(parsed.values.has("extended") && parsed.values.has("timestamp"));
    assert_eq!(parsed.values.get("format"), Some("json"));
    assert_eq!(parsed.values.get("watch"), Some("2"));
    assert_eq!(parsed.values.all("clusters"), ["a", "b"]);
    assert_eq!(run("edit-config -s a=1 -s b=2").values.all("set"), ["a=1", "b=2"]);
    assert_eq!(run("list -- --odd-name").values.all("clusters"), ["--odd-name"]);
}

#[test]
fn flush_takes_its_target_last() {
    let parsed = run("flush bench n1 n2 restart");
    assert_eq!((parsed.values.all("members"), parsed.values.get("target")), (&words("n1 n2")[..], Some("restart")));
    assert_eq!(run("flush bench switchover").values.all("members").len(), 0);
}

#[test]
fn mistakes_are_answered_like_the_original() {
    let list = "Usage: patronictl list [OPTIONS] [CLUSTER_NAMES]...\nTry 'patronictl list --help' for help.\n\n";
    assert_eq!(mistake("list --bogus"), format!("{list}Error: No such option '--bogus'.\n"));
    assert_eq!(
        mistake("list -f xml"),
        format!("{list}Error: Invalid value for '--format' / '-f': 'xml' is not one of 'pretty', 'tsv', 'json', 'yaml', 'yml'.\n")
    );
    assert_eq!(mistake("list -w abc"), format!("{list}Error: Invalid value for '-w' / '--watch': 'abc' is not a valid float.\n"));
    assert_eq!(mistake("list -f"), "Error: Option '-f' requires an argument.\n");
    assert_eq!(mistake("list --extended=1"), "Error: Option '--extended' does not take a value.\n");
    assert_eq!(mistake("list --forma json"), format!("{list}Error: No such option '--forma'. Did you mean '--format'?\n"));
    assert_eq!(
        mistake("lst"),
        "Usage: patronictl [OPTIONS] COMMAND [ARGS]...\nTry 'patronictl --help' for help.\n\n\
         Error: No such command 'lst'. Did you mean 'list'?\n"
    );
    assert_eq!(
        mistake("restart"),
        "Usage: patronictl restart [OPTIONS] CLUSTER_NAME [MEMBER_NAMES]...\nTry 'patronictl restart --help' for help.\n\n\
         Error: Missing argument 'CLUSTER_NAME'.\n"
    );
    let flush = "Usage: patronictl flush [OPTIONS] CLUSTER_NAME [MEMBER_NAMES]...\n                        {restart|switchover}\n\
                 Try 'patronictl flush --help' for help.\n\n";
    assert_eq!(
        mistake("flush c"),
        format!("{flush}Error: Missing argument '{{restart|switchover}}'. Choose from:\n\trestart,\n\tswitchover\n")
    );
    assert_eq!(
        mistake("flush c foo"),
        format!("{flush}Error: Invalid value for '{{restart|switchover}}': 'foo' is not one of 'restart', 'switchover'.\n")
    );
    assert!(mistake("pause a b").ends_with("Error: Got unexpected extra argument (b)\n"));
    assert!(mistake("-x list").ends_with("Error: No such option '-x'.\n"));
}

#[test]
fn help_is_asked_for_anywhere() {
    assert!(matches!(parse(&words("--help")), Outcome::Help(None)));
    assert!(matches!(parse(&words("restart --help")), Outcome::Help(Some(command)) if command.name == "restart"));
    assert!(matches!(parse(&[]), Outcome::Nothing));
}

#[test]
fn help_of_a_command_is_laid_out() {
    let text = help::command("patronictl", super::find("switchover").unwrap());
    assert!(text.starts_with("Usage: patronictl switchover [OPTIONS] [CLUSTER_NAME]\n\n  Switchover to a replica\n"), "{text}");
    let options = "  --leader, --primary TEXT  The name of the current leader
  --candidate TEXT          The name of the candidate
  --scheduled TEXT          Timestamp of a scheduled switchover in unambiguous
                            format (e.g. ISO 8601)
  --force                   Do not ask for confirmation at any point
  --help                    Show this message and exit.
";
    assert!(text.contains(options), "{text}");
    let list = help::command("patronictl", super::find("list").unwrap());
    assert!(list.contains("  -f, --format [pretty|tsv|json|yaml|yml]\n                                  Output format\n"), "{list}");
}
