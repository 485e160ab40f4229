//! What the operator's command needs: read leniently from an agent's file or from a `patronictl.yaml`.

use std::collections::BTreeMap;
use std::path::Path;

use super::effective::user;
use super::read::Reader;
use super::types::{CtlConfig, EtcdConfig, HostPort, PgUser, Secret};
use super::validate;
use super::{gather, Diagnostic, Severity};

/// Settings of the operator's command.
#[derive(Clone, Debug)]
pub struct CtlSettings {
    /// `scope`, the default cluster.
    pub scope: Option<String>,
    /// `name`, if it is an agent's file.
    pub name: Option<String>,
    /// `namespace`, with one leading slash and none at the end.
    pub namespace: String,
    /// The store; `None`: it must come from `--dcs-url`.
    pub etcd: Option<EtcdConfig>,
    /// Credentials and TLS towards the members.
    pub ctl: CtlConfig,
    /// The REST API's own address and credentials, if it is an agent's file.
    pub restapi: RestAddress,
    /// `postgresql.authentication.superuser`, for `query`.
    pub superuser: Option<PgUser>,
}

/// Where the REST API of the file's member is.
#[derive(Clone, Debug, Default)]
pub struct RestAddress {
    /// `listen`.
    pub listen: Option<HostPort>,
    /// `connect_address`.
    pub connect_address: Option<HostPort>,
    /// `authentication`.
    pub authentication: Option<(String, Secret)>,
    /// It speaks TLS.
    pub tls: bool,
}

/// Loads the settings of the operator's command. Keys that it does not need are not looked at.
///
/// # Errors
/// A named file that is not there or is no YAML; a store section that cannot be understood. Without file and variables the settings are empty.
pub fn load_ctl(path: Option<&Path>, env: &BTreeMap<String, String>) -> Result<CtlSettings, Vec<Diagnostic>> {
    let mut sources = gather(path, env);
    if path.is_none() {
        // No configuration at all is fine: everything can be said with options.
        sources.found.retain(|one| one.file.is_some() || one.line.is_some() || !one.key.is_empty());
    }
    let mut errors: Vec<Diagnostic> = sources.found.iter().filter(|one| one.severity == Severity::Error).cloned().collect();
    let root = Reader(Some(&sources.value));
    let rest = root.section("restapi");
    let section = ["etcd3", "etcd"].into_iter().find(|name| root.get(name).is_some());
    let etcd = section.map(|section| {
        let (config, problem) = validate::etcd(root.section(section));
        if let Some((key, why)) = problem {
            errors.push(sources.diagnostic(Severity::Error, &super::lines::dotted(&format!("{section}{key}")), why));
        }
        config
    });
    if !errors.is_empty() {
        return Err(errors);
    }
    let authentication = rest.login("authentication");
    let cafile = rest.path("cafile");
    Ok(CtlSettings {
        scope: root.text("scope"),
        name: root.text("name"),
        namespace: validate::namespace(root),
        etcd,
        ctl: validate::ctl(root, authentication.clone(), cafile),
        restapi: RestAddress {
            listen: rest.text("listen").and_then(|text| validate::listen_address(&text).ok()),
            connect_address: rest.address("connect_address", Some(8008)),
            authentication,
            tls: rest.path("certfile").is_some(),
        },
        superuser: root.section("postgresql").section("authentication").map("superuser").map(|section| user(Reader(Some(section)))),
    })
}

/// The store of `--dcs-url`: `etcd3://host:port/namespace`, `etcd://…`, or `host:port`. Gives the store and the namespace, if one is named.
///
/// # Errors
/// A sentence: another store, or no address.
pub fn parse_dcs_url(url: &str) -> Result<(EtcdConfig, Option<String>), String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("etcd3", url));
    let protocol = match scheme {
        "etcd3" | "etcd" | "http" => "http",
        "https" => "https",
        "consul" | "zookeeper" | "exhibitor" | "kubernetes" => {
            return Err(format!("the store {scheme} is not supported; supported is etcd3://host:port"))
        }
        other => return Err(format!("unknown store '{}'; supported is etcd3://host:port", other.escape_debug())),
    };
    let (address, namespace) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if address.is_empty() { "localhost" } else { address };
    let (endpoint, user) =
        validate::parse_url(&format!("{protocol}://{address}")).ok_or("not an address like etcd3://host:port/namespace")?;
    let namespace = (!namespace.trim_matches('/').is_empty()).then(|| format!("/{}", namespace.trim_matches('/')));
    Ok((EtcdConfig { endpoints: vec![endpoint], fixed: false, user, cacert: None, cert: None, key: None, srv: None }, namespace))
}

#[cfg(test)]
mod tests {
    use super::{load_ctl, parse_dcs_url};
    use std::collections::BTreeMap;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_file_for_the_command_may_hold_little() {
        let text = "dcs_api: etcd3://x\netcd3: {hosts: 'a:1,b', port: 5}\nnamespace: //x/y/\nctl: {insecure: 'on'}\n";
        let settings = load_ctl(None, &env(&[("PATRONI_CONFIGURATION", text)])).unwrap();
        assert_eq!(settings.etcd.unwrap().endpoints, ["http://a:1", "http://b:5"]);
        assert_eq!((settings.namespace.as_str(), settings.scope, settings.ctl.insecure), ("/x/y", None, true));
    }

    #[test]
    fn the_environment_or_nothing_is_enough() {
        let settings =
            load_ctl(None, &env(&[("PATRONI_ETCD3_HOST", "h:2379"), ("PATRONI_SCOPE", "s"), ("PATRONI_RESTAPI_USERNAME", "u")])).unwrap();
        assert_eq!(settings.scope.as_deref(), Some("s"));
        assert_eq!(settings.ctl.authentication.unwrap().0, "u");
        assert!(load_ctl(None, &BTreeMap::new()).unwrap().etcd.is_none());
        let errors = load_ctl(Some(std::path::Path::new("/nowhere/x.yml")), &BTreeMap::new()).unwrap_err();
        assert_eq!(errors[0].to_string(), "/nowhere/x.yml: error: no such file or directory");
    }

    #[test]
    fn store_urls() {
        let (etcd, namespace) = parse_dcs_url("etcd3://h:1/ns/").unwrap();
        assert_eq!((etcd.endpoints[0].as_str(), namespace.as_deref()), ("http://h:1", Some("/ns")));
        assert_eq!(parse_dcs_url("h").unwrap().0.endpoints, ["http://h:2379"]);
        assert!(parse_dcs_url("consul://h").is_err());
    }
}
