//! The password file for libpq (`postgresql.pgpass`): how standbys and tools get their password without showing it.

use std::path::Path;

use super::conninfo::Conninfo;
use super::files;

/// Content of the password file for one connection: one line for each host. `None`: the connection has no password.
///
/// For a socket directory a line for `localhost` follows, because libpq looks that name up for its default directory.
#[must_use]
pub fn content(connection: &Conninfo) -> Option<String> {
    let password = connection.get("password")?;
    let hosts_text = connection.get("host").filter(|host| !host.is_empty()).unwrap_or("*");
    let mut hosts: Vec<&str> = hosts_text.split(',').map(str::trim).filter(|host| !host.is_empty()).collect();
    if hosts.iter().any(|host| host.starts_with('/')) && !hosts.contains(&"localhost") {
        hosts.push("localhost");
    }
    let field = |name: &str| escape(connection.get(name).filter(|value| !value.is_empty()).unwrap_or("*"));
    let (port, user) = (field("port"), field("user"));
    let password = escape(if password.is_empty() { "*" } else { password });
    Some(hosts.iter().map(|host| format!("{}:{port}:*:{user}:{password}\n", escape(host))).collect())
}

fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, ':' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// Writes the password file for one connection, mode 0600. Returns whether the connection has a password, that is, whether
/// `PGPASSFILE` (or `passfile=`) should name the file. Without one the file is left alone.
///
/// # Errors
/// Operation and path; never the content.
pub fn write(path: &Path, connection: &Conninfo) -> Result<bool, files::Error> {
    let Some(content) = content(connection) else { return Ok(false) };
    files::write_atomic(path, content.as_bytes(), 0o600)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::{content, escape};
    use crate::postgres::conninfo::Conninfo;

    fn connection(pairs: &[(&str, &str)]) -> Conninfo {
        let mut connection = Conninfo::default();
        for (name, value) in pairs {
            connection.set(name, *value);
        }
        connection
    }

    #[test]
    fn as_captured() {
        let text = content(&connection(&[("host", "10.77.0.1"), ("port", "5432"), ("user", "replicator"), ("password", "replpw")]));
        assert_eq!(
            text.as_deref(),
            include_str!("../../tests/pgdata/replica/pgpass.txt").lines().nth(1).map(|l| format!("{l}\n")).as_deref()
        );
    }

    #[test]
    fn colons_and_backslashes_are_escaped() {
        assert_eq!(escape(r"a:b\c"), r"a\:b\\c");
        let text = content(&connection(&[("host", "fd00::1"), ("user", "u"), ("password", r"p:\")]));
        assert_eq!(text.as_deref(), Some("fd00\\:\\:1:*:*:u:p\\:\\\\\n"));
    }

    #[test]
    fn socket_directories_bring_localhost() {
        let text = content(&connection(&[("host", "/run/pg"), ("port", "5433"), ("user", "u"), ("password", "p")]));
        assert_eq!(text.as_deref(), Some("/run/pg:5433:*:u:p\nlocalhost:5433:*:u:p\n"));
    }

    #[test]
    fn several_hosts() {
        let text = content(&connection(&[("host", "a, b"), ("port", "5432"), ("user", "u"), ("password", "p")]));
        assert_eq!(text.as_deref(), Some("a:5432:*:u:p\nb:5432:*:u:p\n"));
    }

    #[test]
    fn no_password_no_file() {
        assert_eq!(content(&connection(&[("host", "a"), ("user", "u")])), None);
    }

    #[test]
    fn written_with_mode_0600() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgpass");
        std::fs::write(&path, "old").unwrap();
        assert!(super::write(&path, &connection(&[("host", "a"), ("password", "p")])).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a:*:*:*:p\n");
    }
}
