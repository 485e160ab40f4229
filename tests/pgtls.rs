//! Connections to a real PostgreSQL with `ssl = on`, in every `sslmode`, against what libpq does.
#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "common/certs.rs"]
mod certs;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mastiff::tls::postgres::{connect, Options};

use certs::Certs;

const BIN: &str = "/usr/lib/postgresql/15/bin";
const HBA: &str = "\
local all all trust
hostssl all onlyssl 127.0.0.0/8 scram-sha-256
hostnossl all plain 127.0.0.0/8 scram-sha-256
hostssl all localhost 127.0.0.0/8 cert
host all anyone 127.0.0.0/8 scram-sha-256
host all postgres 127.0.0.0/8 trust
";

/// PostgreSQL refuses to run as root.
fn as_postgres(program: &str) -> Command {
    let path = Path::new(BIN).join(program);
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(path);
        command
    } else {
        Command::new(path)
    };
    command.current_dir("/tmp").stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A server; it is stopped at the end.
struct Server {
    dir: tempfile::TempDir,
    port: u16,
}

impl Server {
    fn start(certs: &Certs) -> Server {
        assert!(Path::new(BIN).join("postgres").exists(), "PostgreSQL 15 is missing: apt-get install postgresql-15");
        let dir = tempfile::Builder::new().prefix("mastiff-pgtls-").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let server = Server { dir, port };
        run(as_postgres("initdb").args(["-D", &server.data(), "-U", "postgres", "-A", "trust", "--no-sync"]));
        let settings = format!(
            "port = {port}\nlisten_addresses = '0.0.0.0'\nunix_socket_directories = '{}'\nfsync = off\nssl = on\n\
             ssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\nssl_ca_file = 'ca.crt'\n",
            server.dir.path().display()
        );
        server.put("postgresql.auto.conf", settings.as_bytes());
        server.put("pg_hba.conf", HBA.as_bytes());
        server.put("ca.crt", &std::fs::read(certs.crt("ca")).unwrap());
        server.serve_as(certs, "server");
        server.control(&["start", "-w", "-l", &server.text("log")]);
        let roles = "CREATE ROLE localhost LOGIN; CREATE ROLE onlyssl LOGIN PASSWORD 'p'; CREATE ROLE plain LOGIN PASSWORD 'p'; \
             CREATE ROLE anyone LOGIN SUPERUSER PASSWORD 'p'";
        run(as_postgres("psql").args(["-qX", "-h", &server.text(""), "-p", &port.to_string(), "-U", "postgres", "-c", roles]));
        server
    }

    fn text(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn data(&self) -> String {
        self.text("data")
    }

    fn control(&self, arguments: &[&str]) {
        run(as_postgres("pg_ctl").args(["-D", &self.data(), "-s"]).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()));
    }

    fn put(&self, name: &str, content: &[u8]) {
        let path = PathBuf::from(self.data()).join(name);
        std::fs::write(&path, content).unwrap();
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(self.data()).unwrap());
        std::os::unix::fs::chown(&path, Some(owner), None).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Shows another certificate from now on.
    fn serve_as(&self, certs: &Certs, name: &str) {
        for end in ["crt", "key"] {
            self.put(&format!("server.{end}"), &std::fs::read(certs.path(&format!("{name}.{end}"))).unwrap());
        }
    }

    fn reload(&self) {
        self.control(&["reload"]);
        std::thread::sleep(Duration::from_millis(300));
    }

    /// Whether a connection uses TLS, or why there is none.
    fn ask(&self, user: &str, host: &str, options: &[(&str, &str)]) -> Result<bool, String> {
        let options: BTreeMap<String, String> = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut settings = tokio_postgres::Config::new();
        settings.host(host).port(self.port).user(user).password("p").dbname("postgres");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let words = |error: tokio_postgres::Error| match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            let options = Options::new(|name| options.get(name).cloned());
            let connected = tokio::time::timeout(Duration::from_secs(10), connect(&settings, &options)).await;
            let (client, driver) = connected.unwrap().map_err(words)?;
            tokio::spawn(driver);
            let row = client.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await.map_err(words)?;
            Ok(row.get(0))
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = as_postgres("pg_ctl").args(["-D", &self.data(), "-s", "-m", "immediate", "stop"]).status();
    }
}

/// What psql does with the same options, as the model.
fn psql(server: &Server, user: &str, host: &str, options: &[(&str, &str)]) -> Result<bool, String> {
    let mut dsn = format!("host={host} port={} user={user} password=p dbname=postgres connect_timeout=5", server.port);
    for (name, value) in options {
        dsn += &format!(" {name}='{value}'");
    }
    let mut command = Command::new(Path::new(BIN).join("psql"));
    command.env_clear().env("HOME", "/nonexistent").args(["-qXAt", "-c", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &dsn]);
    let output = command.output().unwrap();
    match output.status.success() {
        true => Ok(output.stdout.starts_with(b"t")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Asks both ways, which must agree.
fn both(server: &Server, user: &str, host: &str, options: &[(&str, &str)]) -> Option<bool> {
    let (ours, model) = (server.ask(user, host, options), psql(server, user, host, options));
    assert_eq!(ours.as_ref().ok(), model.as_ref().ok(), "{user}@{host} {options:?}: {ours:?}, psql: {model:?}");
    ours.ok()
}

#[test]
fn every_sslmode() {
    let certs = Certs::new();
    let server = Server::start(&certs);
    let (ca, other) = (certs.text("ca.crt"), certs.text("other.crt"));
    let mode = |user: &str, mode: &str| both(&server, user, "localhost", &[("sslmode", mode)]);
    let root = |host: &str, mode: &str, root: &str| both(&server, "anyone", host, &[("sslmode", mode), ("sslrootcert", root)]);
    assert_eq!(both(&server, "anyone", "localhost", &[]), Some(true), "prefer is the default");
    assert_eq!((mode("anyone", "disable"), mode("onlyssl", "disable")), (Some(false), None));
    assert_eq!((mode("anyone", "allow"), mode("onlyssl", "allow")), (Some(false), Some(true)));
    assert_eq!((mode("anyone", "prefer"), mode("plain", "prefer")), (Some(true), Some(false)));
    assert_eq!((mode("anyone", "require"), mode("plain", "require")), (Some(true), None));
    assert_eq!((mode("anyone", "verify-ca"), mode("anyone", "verify-full")), (None, None), "nothing to verify it with");
    assert_eq!((root("localhost", "require", &ca), root("localhost", "require", &other)), (Some(true), None));
    assert_eq!((root("localhost", "prefer", &ca), root("localhost", "prefer", &other)), (Some(true), Some(false)));
    assert_eq!((root("127.0.0.2", "verify-ca", &ca), root("127.0.0.2", "verify-full", &ca)), (Some(true), None));
    assert_eq!((root("127.0.0.1", "verify-full", &ca), root("localhost", "verify-full", &other)), (Some(true), None));
    assert_eq!(root("localhost", "verify-full", "/nonexistent"), None);
    assert_eq!(root("localhost", "require", "/nonexistent"), Some(true));
    let why = server.ask("anyone", "127.0.0.2", &[("sslmode", "verify-full"), ("sslrootcert", &ca)]).unwrap_err();
    assert!(why.contains("not valid for name \"127.0.0.2\""), "{why}");
    // A certificate of the client; a wrong password is wrong both ways.
    let (crt, key) = (certs.text("client.crt"), certs.text("client.key"));
    assert_eq!(both(&server, "localhost", "localhost", &[("sslcert", &crt), ("sslkey", &key)]), Some(true));
    assert_eq!(both(&server, "localhost", "localhost", &[("sslcert", "/nonexistent"), ("sslkey", &key)]), None);
    let why = server.ask("anyone", "localhost", &[("sslmode", "require"), ("sslcert", &crt), ("sslkey", "/nonexistent")]).unwrap_err();
    assert!(why.contains("sslkey: cannot read /nonexistent"), "{why}");
    for (binding, mode) in [("require", "require"), ("require", "disable"), ("disable", "require"), ("prefer", "disable")] {
        let works = both(&server, "anyone", "localhost", &[("channel_binding", binding), ("sslmode", mode)]).is_some();
        assert_eq!(works, (binding, mode) != ("require", "disable"));
    }
    // The socket knows no TLS, whatever the mode.
    assert_eq!(both(&server, "anyone", &server.text(""), &[("sslmode", "verify-full")]), Some(false));
}

#[test]
fn certificates_of_the_field_and_no_tls_at_all() {
    let certs = Certs::new();
    let server = Server::start(&certs);
    let full = |root: &str| both(&server, "anyone", "localhost", &[("sslmode", "verify-full"), ("sslrootcert", &certs.text(root))]);
    for (name, root) in [("own", "own.crt"), ("v1", "ca.crt")] {
        server.serve_as(&certs, name);
        server.reload();
        assert_eq!((full(root), full("other.crt")), (Some(true), None), "{name}");
    }
    // A hash of another length for the channel binding, and none at all.
    for (kind, binds) in [("ecparam -name secp384r1 -genkey -noout -out big.key", true), ("genrsa -out big.key 2048", true)] {
        certs.openssl(kind);
        certs.openssl("req -new -sha384 -key big.key -out big.csr -subj /CN=localhost");
        certs.openssl("x509 -req -sha512 -in big.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out big.crt");
        server.serve_as(&certs, "big");
        server.reload();
        let bound = both(&server, "anyone", "localhost", &[("sslmode", "require"), ("channel_binding", "require")]);
        assert_eq!(bound, binds.then_some(true));
    }
    server.serve_as(&certs, "server");
    server.reload();
    // Revoked.
    let conf = "[ca]\ndefault_ca=x\n[x]\ndatabase=index\ndefault_md=sha256\ndefault_crl_days=30\n\
                crlnumber=number\n";
    std::fs::write(certs.path("ca.conf"), conf).unwrap();
    std::fs::write(certs.path("number"), "01\n").unwrap();
    std::fs::write(certs.path("index"), "").unwrap();
    let list = |certs: &Certs| certs.openssl("ca -config ca.conf -keyfile ca.key -cert ca.crt -gencrl -out crl.pem");
    let revoked = |certs: &Certs| {
        let (ca, crl) = (certs.text("ca.crt"), certs.text("crl.pem"));
        both(&server, "anyone", "localhost", &[("sslmode", "verify-full"), ("sslrootcert", &ca), ("sslcrl", &crl)])
    };
    list(&certs);
    assert_eq!(revoked(&certs), Some(true));
    certs.openssl("ca -config ca.conf -keyfile ca.key -cert ca.crt -revoke server.crt");
    list(&certs);
    assert_eq!(revoked(&certs), None);
    assert_eq!(full("ca.crt"), Some(true));
    // No TLS on the server.
    let off = std::fs::read_to_string(format!("{}/postgresql.auto.conf", server.data())).unwrap().replace("ssl = on", "ssl = off");
    server.put("postgresql.auto.conf", off.as_bytes());
    server.reload();
    assert_eq!(both(&server, "anyone", "localhost", &[("sslmode", "prefer")]), Some(false));
    assert_eq!(both(&server, "anyone", "localhost", &[("sslmode", "require")]), None);
    let why = server.ask("anyone", "localhost", &[("sslmode", "require")]).unwrap_err();
    assert!(why.contains("server does not support TLS"), "{why}");
}

#[test]
fn programs_with_a_connection_string() {
    let certs = Certs::new();
    let server = Server::start(&certs);
    let generate = |more: &str| {
        let dsn = format!("host=127.0.0.1 port={} user=anyone password=p {more}", server.port);
        let mut command = Command::new(env!("CARGO_BIN_EXE_mastiff"));
        command.env_remove("PGSSLMODE").args(["--generate-config", "--dsn", &dsn]).output().unwrap()
    };
    let output = generate(&format!("sslmode=verify-full sslrootcert={}", certs.text("ca.crt")));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = generate(&format!("sslmode=verify-full sslrootcert={}", certs.text("other.crt")));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("UnknownIssuer"), "{said}");
}
