//! Certificates of all kinds, made with the `openssl` command as administrators make them.

use std::path::PathBuf;
use std::process::Command;

use mastiff::config::types::{Secret, TlsIdentity};

/// A directory with certificates; NAME.crt and NAME.key belong together. All servers are `localhost` and 127.0.0.1.
pub struct Certs(tempfile::TempDir);

/// Extensions of a usual server or client.
pub const NAMES: &str = "subjectAltName=DNS:localhost,IP:127.0.0.1";

#[allow(dead_code)]
impl Certs {
    /// With `ca`, and signed by it `server` (with names), `client` and `v1` (version 1, common name only); `own`, which is its own CA; `other`,
    /// a CA that nobody trusts, and `stranger`, signed by it.
    pub fn new() -> Certs {
        let certs = Certs(tempfile::tempdir().unwrap());
        for (name, more) in [("ca", "keyUsage=critical,keyCertSign,cRLSign"), ("other", ""), ("own", NAMES)] {
            certs.ca(name, more);
        }
        certs.signed("server", "ca", Some(NAMES), 30);
        certs.signed("client", "ca", Some("extendedKeyUsage=clientAuth"), 30);
        certs.signed("v1", "ca", None, 30);
        certs.signed("stranger", "other", Some(NAMES), 30);
        certs
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    pub fn text(&self, file: &str) -> String {
        self.path(file).to_str().unwrap().to_owned()
    }

    pub fn crt(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.crt"))
    }

    pub fn identity(&self, name: &str) -> TlsIdentity {
        TlsIdentity { certfile: self.crt(name), keyfile: self.path(&format!("{name}.key")), keyfile_password: None }
    }

    pub fn identity_with(&self, name: &str, password: &str) -> TlsIdentity {
        TlsIdentity { keyfile_password: Some(Secret(password.to_owned())), ..self.identity(name) }
    }

    /// A self-signed certificate as `openssl req -x509` makes it: `CA:TRUE`.
    pub fn ca(&self, name: &str, extension: &str) {
        let mut arguments =
            format!("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -keyout {name}.key -out {name}.crt");
        if !extension.is_empty() {
            arguments += &format!(" -addext {extension}");
        }
        self.openssl(&format!("{arguments} -subj /CN={}", if name == "own" { "localhost" } else { name }));
    }

    /// A certificate signed by `ca`. Without extensions OpenSSL 3.0 makes version 1.
    pub fn signed(&self, name: &str, ca: &str, extensions: Option<&str>, days: i32) {
        self.openssl(&format!(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key -out {name}.csr -subj /CN=localhost"
        ));
        self.sign(name, ca, extensions, days);
    }

    /// Signs NAME.csr.
    pub fn sign(&self, name: &str, ca: &str, extensions: Option<&str>, days: i32) {
        let mut arguments = format!("x509 -req -in {name}.csr -CA {ca}.crt -CAkey {ca}.key -CAcreateserial -days {days} -out {name}.crt");
        if let Some(extensions) = extensions {
            std::fs::write(self.path("extensions"), extensions.replace(';', "\n")).unwrap();
            arguments += " -extfile extensions";
        }
        self.openssl(&arguments);
    }

    /// One file of several.
    pub fn join(&self, to: &str, files: &[&str]) -> PathBuf {
        let all: String = files.iter().map(|file| std::fs::read_to_string(self.path(file)).unwrap()).collect();
        std::fs::write(self.path(to), all).unwrap();
        self.path(to)
    }

    /// Runs openssl in the directory; arguments are separated by blanks.
    pub fn openssl(&self, arguments: &str) -> String {
        let mut command = Command::new("openssl");
        command.current_dir(self.0.path()).args(arguments.split(' '));
        let output = command.output().expect("the openssl command is needed (Debian: apt-get install openssl)");
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
