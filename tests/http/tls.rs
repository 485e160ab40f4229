//! The REST API over TLS, with certificates as they are found in the field; server and client.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mastiff::config::types::{CtlConfig, HostPort, RestConfig, Secret, TlsIdentity};
use mastiff::ha::action::Reply;
use mastiff::http::client::Client;
use mastiff::http::{spawn, Error, Published};

use crate::certs::{Certs, NAMES};
use crate::commands::core;
use crate::live::{config, connect, read_all, Live};
use crate::states::identity;

fn tls_config(certs: &Certs, server: &str, verify: &str) -> RestConfig {
    RestConfig { tls: Some(certs.identity(server)), cafile: Some(certs.crt("ca")), verify_client: verify.into(), ..everywhere() }
}

/// 127.0.0.2 is the address that no certificate is for.
fn everywhere() -> RestConfig {
    RestConfig { listen: HostPort { host: "0.0.0.0".into(), port: 0 }, ..config() }
}

fn client(certs: &Certs, ca: &str, own: Option<&str>) -> Client {
    Client::new(&CtlConfig { cacert: Some(certs.crt(ca)), identity: own.map(|name| certs.identity(name)), ..CtlConfig::default() })
}

fn insecure(certs: &Certs, ca: &str, own: Option<&str>) -> Client {
    let identity = own.map(|name| certs.identity(name));
    Client::new(&CtlConfig { cacert: Some(certs.crt(ca)), identity, insecure: true, ..CtlConfig::default() })
}

fn call(client: &Client, method: &str, host: &str, address: SocketAddr, path: &str) -> Result<(u16, String), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let url = format!("https://{host}:{}{path}", address.port());
    let answer = runtime.block_on(client.call(method, &url, None, None, Duration::from_secs(5)))?;
    Ok((answer.0, String::from_utf8(answer.1).unwrap()))
}

fn code(client: &Client, method: &str, address: SocketAddr, path: &str) -> u16 {
    call(client, method, "localhost", address, path).unwrap().0
}

fn refusal(client: &Client, host: &str, address: SocketAddr) -> String {
    call(client, "GET", host, address, "/primary").unwrap_err().to_string()
}

#[test]
fn usual_certificates() {
    let certs = Certs::new();
    let live = Live::start(&tls_config(&certs, "server", "none"));
    let address = live.address();
    assert_eq!(code(&client(&certs, "ca", None), "GET", address, "/primary"), 200);
    assert_eq!(call(&client(&certs, "ca", None), "GET", "127.0.0.1", address, "/primary").unwrap().0, 200);
    let wrong = refusal(&client(&certs, "other", None), "localhost", address);
    assert!(wrong.contains("UnknownIssuer") && wrong.contains("other.crt does not hold the CA"), "{wrong}");
    let name = refusal(&client(&certs, "ca", None), "127.0.0.2", address);
    assert!(name.contains("not valid for name"), "{name}");
    // Patroni's rule: alone it turns off everything, with an own certificate only the name.
    assert_eq!(call(&insecure(&certs, "other", None), "GET", "127.0.0.2", address, "/primary").unwrap().0, 200);
    assert_eq!(call(&insecure(&certs, "ca", Some("client")), "GET", "127.0.0.2", address, "/primary").unwrap().0, 200);
    assert!(refusal(&insecure(&certs, "other", Some("client")), "127.0.0.2", address).contains("UnknownIssuer"));
}

#[test]
fn a_certificate_that_is_its_own_ca() {
    let certs = Certs::new();
    let everything = RestConfig { cafile: Some(certs.crt("own")), ..tls_config(&certs, "own", "required") };
    let live = Live::start(&everything);
    assert_eq!(code(&client(&certs, "own", Some("own")), "GET", live.address(), "/primary"), 200);
    let name = refusal(&client(&certs, "own", Some("own")), "127.0.0.2", live.address());
    assert!(name.contains("not valid for name"), "{name}");
    assert!(refusal(&client(&certs, "ca", Some("own")), "localhost", live.address()).contains("CaUsedAsEndEntity"));
    // Several members, each with its own: one file holds them all.
    certs.ca("second", NAMES);
    certs.join("both.crt", &["own.crt", "second.crt"]);
    assert_eq!(code(&client(&certs, "both", Some("own")), "GET", live.address(), "/primary"), 200);
    // What such a certificate signs is as good as any CA's, one step deep.
    certs.ca("middle", NAMES);
    certs.openssl("req -new -key middle.key -out middle.csr -subj /CN=middle");
    certs.sign("middle", "own", Some(&format!("basicConstraints=CA:TRUE;{NAMES}")), 30);
    let live = Live::start(&tls_config(&certs, "middle", "none"));
    assert_eq!(code(&client(&certs, "own", None), "GET", live.address(), "/primary"), 200);
    certs.signed("deep", "middle", Some(&format!("basicConstraints=CA:TRUE;{NAMES}")), 30);
    certs.join("deep.crt", &["deep.crt", "middle.crt"]);
    let live = Live::start(&tls_config(&certs, "deep", "none"));
    assert!(refusal(&client(&certs, "own", None), "localhost", live.address()).contains("CaUsedAsEndEntity"));
}

#[test]
fn the_way_for_such_certificates_is_narrow() {
    let certs = Certs::new();
    let refused = |name: &str| {
        let live = Live::start(&tls_config(&certs, name, "none"));
        refusal(&client(&certs, "ca", None), "localhost", live.address())
    };
    // A CA proper may not serve, although it is the configured one.
    assert!(refused("ca").contains("CaUsedAsEndEntity"));
    // Self-made, but not ours.
    assert!(refused("own").contains("CaUsedAsEndEntity"));
    certs.signed("forged", "other", Some(&format!("basicConstraints=CA:TRUE;{NAMES}")), 30);
    assert!(refused("forged").contains("CaUsedAsEndEntity"));
    // The issuer has the right name, not the right key.
    certs.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout fake.key -out fake.crt -subj /CN=ca");
    certs.signed("faked", "fake", Some(&format!("basicConstraints=CA:TRUE;{NAMES}")), 30);
    refused("faked");
    certs.signed("fakedv1", "fake", None, 30);
    refused("fakedv1");
    for (name, extension) in [
        ("client-only", "extendedKeyUsage=clientAuth"),
        ("signs-only", "keyUsage=critical,keyCertSign"),
        ("odd", "1.2.3.4=critical,DER:0500"),
    ] {
        certs.signed(name, "ca", Some(&format!("basicConstraints=CA:TRUE;{NAMES};{extension}")), 30);
        refused(name);
    }
    certs.signed("late", "ca", Some(&format!("basicConstraints=CA:TRUE;{NAMES}")), -1);
    refused("late");
    certs.signed("latev1", "ca", None, -1);
    refused("latev1");
    // The same without what is wrong with them is accepted.
    certs.signed("good", "ca", Some(&format!("basicConstraints=CA:TRUE;{NAMES}")), 30);
    let live = Live::start(&tls_config(&certs, "good", "none"));
    assert_eq!(code(&client(&certs, "ca", None), "GET", live.address(), "/primary"), 200);
}

#[test]
fn version_1_and_common_names() {
    let certs = Certs::new();
    if !certs.openssl("x509 -in v1.crt -noout -text").contains("Version: 1 ") {
        eprintln!("skipped: this openssl makes no version 1 certificates");
        return;
    }
    let live = Live::start(&tls_config(&certs, "v1", "required"));
    assert_eq!(code(&client(&certs, "ca", Some("v1")), "GET", live.address(), "/primary"), 200);
    assert!(refusal(&client(&certs, "ca", Some("v1")), "127.0.0.1", live.address()).contains("not valid for name"));
    // TLS 1.2 signs the handshake in another way.
    let v1 = certs.identity("v1");
    let own = format!("-cert {} -key {}", v1.certfile.display(), v1.keyfile.display());
    assert!(s_client(&certs, live.address(), &format!("-tls1_2 {own}")).contains("HTTP/1.1 200 OK"));
    certs.signed("named", "ca", Some("keyUsage=digitalSignature"), 30);
    let live = Live::start(&tls_config(&certs, "named", "none"));
    assert_eq!(code(&client(&certs, "ca", None), "GET", live.address(), "/primary"), 200);
}

/// What OpenSSL's client gets.
fn s_client(certs: &Certs, address: SocketAddr, options: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-CAfile", &certs.text("ca.crt"), "-verify_return_error", "-ign_eof"]);
    command.args(options.split(' ').filter(|option| !option.is_empty()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(b"GET /primary HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn another_implementation_and_ciphers() {
    let certs = Certs::new();
    let mut config = tls_config(&certs, "server", "none");
    config.ciphers = Some("ECDHE-ECDSA-AES128-GCM-SHA256:!aNULL".into());
    let live = Live::start(&config);
    let address = live.address();
    assert!(s_client(&certs, address, "-tls1_3").contains("HTTP/1.1 200 OK"));
    let answer = s_client(&certs, address, "-tls1_2");
    assert!(answer.contains("HTTP/1.1 200 OK") && answer.contains("ECDHE-ECDSA-AES128-GCM-SHA256"), "{answer}");
    let other = s_client(&certs, address, "-tls1_2 -cipher ECDHE-ECDSA-AES256-GCM-SHA384");
    assert!(other.contains("handshake failure"), "{other}");
    // Plain HTTP to a TLS port ends the connection, nothing else.
    let mut plain = connect(address);
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(!read_all(&mut plain).contains("HTTP"));
    assert_eq!(code(&client(&certs, "ca", None), "GET", address, "/primary"), 200);
}

#[test]
fn clients_must_show_a_certificate() {
    let certs = Certs::new();
    let mut config = tls_config(&certs, "server", "optional");
    config.authentication = Some(("admin".into(), Secret("s3cret".into())));
    let live = Live::start(&config);
    let address = live.address();
    let _core = core(live.commands, Reply::text(200, "done"));
    let (bare, known, stranger) =
        (client(&certs, "ca", None), client(&certs, "ca", Some("client")), client(&certs, "ca", Some("stranger")));
    assert_eq!(code(&bare, "GET", address, "/primary"), 200);
    let answer = call(&bare, "DELETE", "localhost", address, "/restart").unwrap();
    assert_eq!(answer, (403, "client certificate required".to_owned()));
    assert_eq!(code(&known, "DELETE", address, "/restart"), 200, "the certificate stands for the password");
    assert!(call(&stranger, "GET", "localhost", address, "/primary").is_err());
    config.verify_client = "required".into();
    live.server.reconfigure(&config).unwrap();
    assert!(call(&bare, "GET", "localhost", address, "/primary").is_err());
    assert!(call(&stranger, "GET", "localhost", address, "/primary").is_err());
    assert_eq!(code(&known, "GET", address, "/primary"), 200);
    assert_eq!(code(&known, "DELETE", address, "/restart"), 200);
    // Without a CA nobody can be trusted, and the API is there.
    config.cafile = None;
    live.server.reconfigure(&config).unwrap();
    assert!(call(&known, "GET", "localhost", address, "/primary").is_err());
    config.verify_client = "none".into();
    live.server.reconfigure(&config).unwrap();
    assert_eq!(code(&known, "DELETE", address, "/restart"), 401, "a certificate that nobody asked for proves nothing");
}

#[test]
fn renewed_certificates() {
    let certs = Certs::new();
    let config = tls_config(&certs, "server", "none");
    let live = Live::start(&config);
    let address = live.address();
    let first = client(&certs, "ca", None);
    assert_eq!(code(&first, "GET", address, "/primary"), 200);
    // Only the certificate is there, its key comes later: the old pair goes on.
    certs.signed("next", "other", Some(NAMES), 30);
    std::fs::copy(certs.crt("next"), certs.crt("server")).unwrap();
    live.server.renew_certificates();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(code(&first, "GET", address, "/primary"), 200);
    let error = live.server.reconfigure(&config).unwrap_err().to_string();
    assert!(error.contains("does not belong to the certificate"), "{error}");
    assert_eq!(code(&first, "GET", address, "/primary"), 200);
    std::fs::copy(certs.path("next.key"), certs.path("server.key")).unwrap();
    live.server.renew_certificates();
    let begun = Instant::now();
    let second = client(&certs, "other", None);
    while call(&second, "GET", "localhost", address, "/primary").is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the renewed certificate is not used");
        std::thread::sleep(Duration::from_millis(50));
    }
    // The caller's CA file changes, too.
    assert!(call(&first, "GET", "localhost", address, "/primary").is_err());
    std::fs::copy(certs.crt("other"), certs.crt("ca")).unwrap();
    assert_eq!(code(&first, "GET", address, "/primary"), 200);
}

#[test]
fn tls_comes_and_goes_with_a_reload() {
    let certs = Certs::new();
    let live = Live::start(&config());
    live.assert_serves(Duration::from_secs(5));
    let mut next = tls_config(&certs, "server", "none");
    live.server.reconfigure(&next).unwrap();
    assert_eq!(code(&client(&certs, "ca", None), "GET", live.address(), "/primary"), 200);
    next.tls = None;
    live.server.reconfigure(&next).unwrap();
    live.assert_serves(Duration::from_secs(5));
}

#[test]
fn silent_handshakes_hold_nothing_for_long() {
    let certs = Certs::new();
    let live = Live::start(&tls_config(&certs, "server", "none"));
    let mut half: Vec<_> = (0..40).map(|_| connect(live.address())).collect();
    for stream in &mut half {
        stream.write_all(&[0x16, 3, 1, 0x10]).unwrap();
    }
    let begun = Instant::now();
    let known = client(&certs, "ca", None);
    while call(&known, "GET", "localhost", live.address(), "/primary").is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "half-open handshakes lock others out");
    }
    let begun = Instant::now();
    for mut stream in half {
        read_all(&mut stream);
    }
    assert!(begun.elapsed() < Duration::from_secs(12), "every one of them is ended by the server");
}

#[test]
fn files_that_cannot_be_used() {
    let certs = Certs::new();
    let start = |tls: TlsIdentity, cafile: Option<&str>| {
        let (sender, _) = tokio::sync::mpsc::channel(1);
        let cafile = cafile.map(|name| certs.path(name));
        let config = RestConfig { tls: Some(tls), verify_client: "required".into(), cafile, ..config() };
        spawn(&config, identity("n1"), std::sync::Arc::new(Published::new()), sender)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    let pair =
        |certificate: &str, key: &str| TlsIdentity { certfile: certs.path(certificate), keyfile: certs.path(key), keyfile_password: None };
    assert!(start(pair("missing.crt", "server.key"), None).starts_with("restapi.certfile: cannot read"));
    assert!(start(pair("server.key", "server.key"), None).contains("holds no certificate in PEM form"));
    assert!(start(pair("server.crt", "server.crt"), None).contains("holds no private key in PEM form"));
    assert!(start(pair("server.crt", "client.key"), None).contains("does not belong to the certificate"));
    assert!(start(pair("server.crt", "server.key"), Some("server.key")).starts_with("restapi.cafile: "));
    certs.openssl("genrsa -out short.key 1024");
    assert!(start(pair("server.crt", "short.key"), None).contains("only RSA keys of 2048"));
    certs.openssl("dhparam -out nothing -dsaparam 512");
    assert!(start(pair("nothing", "server.key"), None).contains("no certificate"));
    // One file for both, the key first.
    certs.join("all.pem", &["server.key", "server.crt", "ca.crt"]);
    assert_eq!(start(pair("all.pem", "all.pem"), Some("ca.crt")), "");
}

#[test]
fn keys_with_a_password() {
    let certs = Certs::new();
    let makers = [
        "pkcs8 -topk8 -v2 aes-256-cbc -in server.key -out k.key -passout pass:s3cret",
        "pkcs8 -topk8 -v2 aes-128-cbc -v2prf hmacWithSHA512 -iter 5000 -in server.key -out k.key -passout pass:s3cret",
        "pkcs8 -topk8 -v2 aes-192-cbc -v2prf hmacWithSHA1 -in server.key -out k.key -passout pass:s3cret",
        // What `openssl req -newkey` of OpenSSL 3.0 makes.
        "pkcs8 -topk8 -v2 des3 -in server.key -out k.key -passout pass:s3cret",
        "ec -aes256 -in server.key -out k.key -passout pass:s3cret",
        "ec -aes128 -in server.key -out k.key -passout pass:s3cret",
        "ec -des3 -in server.key -out k.key -passout pass:s3cret",
    ];
    std::fs::copy(certs.crt("server"), certs.crt("k")).unwrap();
    for maker in makers {
        certs.openssl(maker);
        let with = |password: &str| RestConfig { tls: Some(certs.identity_with("k", password)), ..tls_config(&certs, "k", "required") };
        let live = Live::start(&with("s3cret"));
        let identity = Some(certs.identity_with("k", "s3cret"));
        let known = Client::new(&CtlConfig { identity, cacert: Some(certs.crt("ca")), ..CtlConfig::default() });
        assert_eq!(code(&known, "GET", live.address(), "/primary"), 200, "{maker}");
        let wrong = live.server.reconfigure(&with("other")).unwrap_err().to_string();
        assert!(wrong.contains("restapi.keyfile_password is not its password"), "{wrong}");
        let none = live.server.reconfigure(&tls_config(&certs, "k", "none")).unwrap_err().to_string();
        assert!(none.contains("restapi.keyfile_password is not set"), "{none}");
    }
    certs.openssl("pkcs8 -topk8 -scrypt -in server.key -out k.key -passout pass:s3cret");
    let config = RestConfig { tls: Some(certs.identity_with("k", "s3cret")), ..tls_config(&certs, "k", "none") };
    let live = Live::start(&tls_config(&certs, "server", "none"));
    let error = live.server.reconfigure(&config).unwrap_err().to_string();
    assert!(error.contains("convert it: openssl pkcs8"), "{error}");
}

#[test]
fn keys_of_all_usual_kinds() {
    let certs = Certs::new();
    let kinds = [
        "genrsa -out k.key 2048",
        "genrsa -traditional -out k.key 3072",
        "ecparam -name secp384r1 -genkey -noout -out k.key",
        "ecparam -name prime256v1 -genkey -out k.key",
        "genpkey -algorithm ED25519 -out k.key",
    ];
    for kind in kinds {
        certs.openssl(kind);
        certs.openssl("req -new -key k.key -out k.csr -subj /CN=localhost");
        for extensions in [Some(NAMES), None] {
            certs.sign("k", "ca", extensions, 30);
            let live = Live::start(&tls_config(&certs, "k", "required"));
            assert_eq!(code(&client(&certs, "ca", Some("k")), "GET", live.address(), "/primary"), 200, "{kind}");
        }
    }
}
