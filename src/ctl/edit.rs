//! `edit-config`: from options, a file or an editor to a compare-and-set of the dynamic configuration.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value};

use super::args::Values;
use super::error::Error;
use super::session::Session;
use super::{diff, patch, show};

/// `edit-config`.
///
/// # Errors
/// No configuration, a change that is not understood, somebody else's change; store and output.
pub async fn run(session: &mut Session<'_>, values: &Values) -> Result<i32, Error> {
    let (scope, store, view) = session.open(values).await?;
    let missing = || Error::refused(format!("The config key does not exist in the cluster {scope}"));
    let config = view.config.ok_or_else(missing)?;
    let current = config.value.as_object().cloned().unwrap_or_default();
    let before = show::config_text(&config.value);
    let (after, changed) = match from_options(session, values, &current)? {
        Some(changed) => (show::config_text(&Value::Object(changed.clone())), changed),
        None => from_editor(session, &before, &scope)?,
    };
    let quiet = values.has("quiet");
    if changed == current {
        if !quiet {
            session.console.line("Not changed")?;
        }
        return Ok(0);
    }
    if !quiet {
        for line in diff::unified(&before, &after) {
            session.console.line(&line)?;
        }
    }
    let force = values.has("force");
    if ["apply", "replace"].iter().any(|option| values.get(option) == Some("-")) && !force {
        session.console.line("Use --force option to apply changes")?;
        return Ok(0);
    }
    if !force && !session.console.confirm("Apply these changes?")? {
        return Ok(0);
    }
    if !store.put_config(Value::Object(changed), config.revision).await? {
        return Err(Error::refused("Config modification aborted due to concurrent changes"));
    }
    session.console.line("Configuration changed")?;
    Ok(0)
}

/// What the options make of the document; `None` where there are none.
fn from_options(session: &mut Session<'_>, values: &Values, current: &Map<String, Value>) -> Result<Option<Map<String, Value>>, Error> {
    let mut changed = None;
    if let Some(file) = values.get("replace") {
        let mut fresh = Map::new();
        patch::merge(&mut fresh, &read_mapping(session, file)?);
        changed = Some(fresh);
    }
    if let Some(file) = values.get("apply") {
        let change = read_mapping(session, file)?;
        patch::merge(changed.get_or_insert_with(|| current.clone()), &change);
    }
    let plain = values.all("set").iter().map(|pair| ("", pair));
    let postgres = values.all("pg").iter().map(|pair| ("postgresql.parameters.", pair));
    for (prefix, pair) in plain.chain(postgres) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(Error::refused(format!(
                "Invalid parameter setting {prefix}{pair}: write KEY=VALUE, or KEY=null to remove the key"
            )));
        };
        let path = format!("{prefix}{}", key.trim());
        if path.split('.').any(str::is_empty) {
            return Err(Error::refused(format!("Invalid parameter setting {prefix}{pair}: the name has an empty part")));
        }
        patch::set_path(changed.get_or_insert_with(|| current.clone()), &path, yaml_value(value, &path)?);
    }
    Ok(changed)
}

fn read_mapping(session: &mut Session<'_>, file: &str) -> Result<Map<String, Value>, Error> {
    let text = if file == "-" {
        session.console.read_all()?
    } else {
        std::fs::read_to_string(file).map_err(|source| Error::Read { path: PathBuf::from(file), source })?
    };
    mapping(&text, file)
}

fn mapping(text: &str, place: &str) -> Result<Map<String, Value>, Error> {
    match yaml_value(text, place)? {
        Value::Object(map) => Ok(map),
        _ => Err(Error::refused(format!("{place}: a configuration is a mapping of keys to values"))),
    }
}

fn yaml_value(text: &str, place: &str) -> Result<Value, Error> {
    let parsed = crate::config::yaml::parse(text).map_err(|error| {
        let line = error.line.map(|line| format!(" line {line}:")).unwrap_or_default();
        Error::refused(format!("{place}:{line} {}", error.message))
    })?;
    Ok(parsed.value)
}

fn from_editor(session: &Session<'_>, before: &str, scope: &str) -> Result<(String, Map<String, Value>), Error> {
    let editor = find_editor(session)?;
    let draft = Draft::create(before, scope)?;
    let status = Command::new(&editor).arg(&draft.path).status();
    let status = status.map_err(|error| Error::Editor(format!("Cannot start the editor {}: {error}", editor.display())))?;
    if !status.success() {
        let code = status.code().map_or_else(|| "a signal".to_owned(), |code| code.to_string());
        return Err(Error::Editor(format!("Editor exited with return code {code}")));
    }
    let after = std::fs::read_to_string(&draft.path).map_err(|source| Error::Read { path: draft.path.clone(), source })?;
    let changed = mapping(&after, "the edited text")?;
    Ok((after, changed))
}

fn find_editor(session: &Session<'_>) -> Result<PathBuf, Error> {
    if let Some(editor) = session.env.get("EDITOR").filter(|editor| !editor.is_empty()) {
        return Ok(PathBuf::from(editor));
    }
    let path = session.env.get("PATH").map_or("", String::as_str);
    let found = ["editor", "vi"].iter().flat_map(|name| path.split(':').map(move |folder| Path::new(folder).join(name)));
    let missing = || Error::Editor("EDITOR environment variable is not set. editor or vi are not available".to_owned());
    found.into_iter().find(|file| file.is_file()).ok_or_else(missing)
}

/// The text under edit, removed when it is no longer needed. Only the owner can read it: parameters may hold passwords.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn create(text: &str, scope: &str) -> Result<Draft, Error> {
        use std::os::unix::fs::OpenOptionsExt;
        let name = format!("{}-config-{}-{}.yaml", scope.replace('/', "_"), std::process::id(), crate::clock::now().0);
        let path = std::env::temp_dir().join(name);
        let cannot = |source| Error::Editor(format!("Cannot write {}: {source}", path.display()));
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(cannot)?;
        let draft = Draft { path: path.clone() };
        file.write_all(text.as_bytes()).map_err(cannot)?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
