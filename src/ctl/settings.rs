//! Where the cluster is found: configuration file, environment, and the options before the command.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::args::Values;
use super::error::Error;
use crate::config;
use crate::config::types::{CtlConfig, EtcdConfig};

/// What all commands need.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The cluster that is meant where none is named.
    pub scope: Option<String>,
    /// What the keys begin with.
    pub namespace: String,
    /// The store.
    pub etcd: Option<EtcdConfig>,
    /// Credentials and certificates for the REST API.
    pub ctl: CtlConfig,
}

/// Environment variables of the process.
pub type Env = BTreeMap<String, String>;

fn var<'a>(env: &'a Env, name: &str) -> Option<&'a str> {
    env.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// The file to read, and whether it was asked for by name.
fn config_path(global: &Values, env: &Env) -> Option<(PathBuf, bool)> {
    let named = global.get("config_file").or(var(env, "MASTIFFCTL_CONFIG_FILE")).or(var(env, "PATRONICTL_CONFIG_FILE"));
    if let Some(path) = named {
        return Some((PathBuf::from(path), true));
    }
    let base = match var(env, "XDG_CONFIG_HOME") {
        Some(base) => PathBuf::from(base),
        None => Path::new(var(env, "HOME")?).join(".config"),
    };
    Some((base.join("patroni").join("patronictl.yaml"), false))
}

/// Reads the settings for one call.
///
/// # Errors
/// A file that was named and cannot be read, a configuration or a store address that is not understood.
pub fn load(global: &Values, env: &Env) -> Result<Settings, Error> {
    let path = match config_path(global, env) {
        Some((path, _)) if std::fs::metadata(&path).is_ok() => Some(path),
        Some((path, true)) => {
            let text = "not existing or no read rights. Check the -c/--config-file parameter";
            return Err(Error::refused(format!("Provided config file {} {text}", path.display())));
        }
        _ => None,
    };
    let mut settings = from_file(path.as_deref(), env)?;
    settings.ctl.insecure |= global.has("insecure");
    if let Some(url) = global.get("dcs_url").or(var(env, "DCS_URL")) {
        apply_url(&mut settings, url)?;
    }
    Ok(settings)
}

fn from_file(path: Option<&Path>, env: &Env) -> Result<Settings, Error> {
    let found = config::load_ctl(path, env).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Error::Config(lines.join("\n"))
    })?;
    Ok(Settings { scope: found.scope, namespace: found.namespace, etcd: found.etcd, ctl: found.ctl })
}

/// `etcd3://HOST:PORT/NAMESPACE`; every part may be missing. Certificates and users of the file stay.
fn apply_url(settings: &mut Settings, url: &str) -> Result<(), Error> {
    let (scheme, rest) = match url.split_once("//") {
        Some((scheme, rest)) => (scheme.trim_end_matches(':'), rest),
        None => ("", url),
    };
    if !matches!(scheme, "" | "etcd" | "etcd3") {
        return Err(Error::refused(format!("Unknown dcs scheme: {scheme}. Use etcd3://HOST:PORT or etcd3://HOST:PORT/NAMESPACE")));
    }
    let (authority, namespace) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (format!("[{host}]"), port.trim_start_matches(':')),
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
            (host.to_owned(), port)
        }
    };
    let host = if host.is_empty() { "localhost".to_owned() } else { host };
    let port = if port.is_empty() { "2379" } else { port };
    if port.parse::<u16>().is_err() {
        return Err(Error::refused(format!("The store's address {authority} has no valid port")));
    }
    let old = settings.etcd.take();
    let secure = old.as_ref().is_some_and(|old| old.endpoints.iter().any(|endpoint| endpoint.starts_with("https://")));
    let endpoints = vec![format!("{}://{host}:{port}", if secure { "https" } else { "http" })];
    settings.etcd = Some(match old {
        Some(old) => EtcdConfig { endpoints, fixed: false, srv: None, ..old },
        None => EtcdConfig { endpoints, fixed: false, user: None, cacert: None, cert: None, key: None, srv: None },
    });
    if !namespace.trim_matches('/').is_empty() {
        settings.namespace = format!("/{}", namespace.trim_matches('/'));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{apply_url, config_path, Settings};
    use crate::ctl::args::Values;

    fn endpoints(url: &str) -> Result<(String, String), String> {
        let mut settings = Settings { namespace: "/service".to_owned(), ..Settings::default() };
        apply_url(&mut settings, url).map_err(|error| error.to_string())?;
        Ok((settings.etcd.map(|etcd| etcd.endpoints.join(",")).unwrap_or_default(), settings.namespace))
    }

    #[test]
    fn store_addresses() {
        let ok = |endpoint: &str, namespace: &str| Ok((endpoint.to_owned(), namespace.to_owned()));
        assert_eq!(endpoints(""), ok("http://localhost:2379", "/service"));
        assert_eq!(endpoints("etcd3://10.0.0.1:2399/other/"), ok("http://10.0.0.1:2399", "/other"));
        assert_eq!(endpoints("etcd://:2399"), ok("http://localhost:2399", "/service"));
        assert_eq!(endpoints("box"), ok("http://box:2379", "/service"));
        assert_eq!(endpoints("etcd3://[::1]:1"), ok("http://[::1]:1", "/service"));
        assert!(endpoints("consul://box").is_err_and(|text| text.starts_with("Unknown dcs scheme: consul")));
        assert!(endpoints("etcd3://box:port").is_err());
    }

    #[test]
    fn the_default_file_is_in_the_home_directory() {
        let env = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        let path = |env| config_path(&Values::default(), &env).map(|(path, named)| (path.display().to_string(), named));
        assert_eq!(path(env("HOME", "/root")), Some(("/root/.config/patroni/patronictl.yaml".to_owned(), false)));
        assert_eq!(path(env("PATRONICTL_CONFIG_FILE", "/etc/x.yml")), Some(("/etc/x.yml".to_owned(), true)));
        assert_eq!(path(std::collections::BTreeMap::new()), None);
    }
}
