//! The commands as they are called, against a real etcd with recorded keys and a REST API that notes what it is asked.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mastiff::ctl::console::Console;
use mastiff::ctl::run_with;

use super::{read, sections};

/// Method, path and body of a request.
type Asked = Arc<Mutex<Vec<String>>>;

/// One etcd; killed when dropped.
struct Etcd {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Etcd {
    fn start() -> Etcd {
        let dir = tempfile::tempdir().unwrap();
        let (port, peer) = (free_port(), free_port());
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let data = dir.path().join("etcd").display().to_string();
        let child = Command::new("etcd")
            .args(["--data-dir", &data, "--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed");
        let etcd = Etcd { child, port, _dir: dir };
        for _ in 0..100 {
            if etcd.ctl(&["endpoint", "health"]).0 {
                return etcd;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("etcd does not start");
    }

    fn ctl(&self, args: &[&str]) -> (bool, String) {
        let endpoint = format!("127.0.0.1:{}", self.port);
        let output = Command::new("etcdctl").env("ETCDCTL_API", "3").args(["--endpoints", &endpoint]).args(args).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Puts recorded keys, with the members' REST APIs at this port.
    fn load(&self, name: &str, rest: u16) {
        self.ctl(&["del", "--prefix", "/service/bench/"]);
        for (key, body) in sections(&read(&format!("keys/{name}.txt"))) {
            let mut value = body.lines().find(|line| !line.starts_with('#')).unwrap_or("").to_owned();
            for host in ["10.77.0.1", "10.77.0.2", "10.77.0.3"] {
                value = value.replace(&format!("http://{host}:8008"), &format!("http://127.0.0.1:{rest}"));
            }
            assert!(self.ctl(&["put", "--", &key, &value]).0, "{key}");
        }
    }

    fn key(&self, name: &str) -> String {
        self.ctl(&["get", "--print-value-only", &format!("/service/bench/{name}")]).1.trim_end().to_owned()
    }
}

/// A REST API that answers everything with the same line.
fn members(code: u16, text: &'static str) -> (u16, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Asked::default();
    let notes = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), code, text, &notes);
        }
    });
    (port, asked)
}

fn answer(mut stream: TcpStream, code: u16, text: &str, notes: &Asked) {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let got = stream.read(&mut chunk).unwrap_or(0);
        request.extend_from_slice(&chunk[..got]);
        let seen = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = seen.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok()).unwrap_or(0);
        if got == 0 || body.len() >= length {
            let line = head.lines().next().unwrap_or("").trim_end_matches(" HTTP/1.1");
            notes.lock().unwrap().push(format!("{line} {body}").trim_end().to_owned());
            break;
        }
    }
    let _ = write!(stream, "HTTP/1.1 {code} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len());
}

struct Said {
    code: i32,
    out: String,
    errors: String,
}

fn call(etcd: &Etcd, line: &str, input: &str) -> Said {
    let mut words: Vec<String> = vec!["-d".to_owned(), format!("etcd3://127.0.0.1:{}", etcd.port)];
    words.extend(line.split_whitespace().map(str::to_owned));
    let env = BTreeMap::from([("PATRONI_SCOPE".to_owned(), "bench".to_owned())]);
    let (mut input, mut out, mut errors) = (input.as_bytes(), Vec::new(), Vec::new());
    let code = run_with("/usr/bin/patronictl", &words, &env, Console::new(&mut input, &mut out, &mut errors, false));
    Said { code, out: String::from_utf8(out).unwrap(), errors: String::from_utf8(errors).unwrap() }
}

/// The dead address of a member: nothing listens there.
fn nobody() -> u16 {
    free_port()
}

#[test]
fn commands_against_a_real_store() {
    let etcd = Etcd::start();
    looks(&etcd);
    leads(&etcd);
    edits(&etcd);
    acts(&etcd);
    removes(&etcd);
    closed_pipe(&etcd);
}

fn looks(etcd: &Etcd) {
    etcd.load("async", nobody());
    let recorded = sections(&read("output/async.txt"));
    for line in [
        "list",
        "list -e",
        "list -f tsv",
        "list -f json",
        "list -f yaml",
        "topology",
        "history",
        "show-config",
        "dsn -r replica",
        "version",
    ] {
        let (_, wanted) = recorded.iter().find(|(title, _)| title.split("   [").next() == Some(&format!("patronictl {line}"))).unwrap();
        let said = call(etcd, line, "");
        assert_eq!((said.code, &said.out), (0, wanted), "{line}: {}", said.errors);
    }
    assert!(call(etcd, "list bench other", "").out.contains(" Cluster: other (uninitialized) "));
    assert_eq!(call(etcd, "dsn -m n9", "").errors, "Error: Can not find a suitable member\n");
    assert_eq!(call(etcd, "dsn -m n1 -r any", "").errors, "Error: --role and --member are mutually exclusive options\n");
    assert_eq!(call(etcd, "list -f xml", "").code, 2);
}

fn leads(etcd: &Etcd) {
    let (port, asked) = members(200, "Successfully switched over to \"n2\"");
    etcd.load("async", port);
    let said = call(etcd, "switchover", "n1\nn2\nnow\ny\n");
    assert_eq!(said.code, 0, "{}", said.errors);
    let questions = "Primary [n1]: Candidate ['n2'] []: When should the switchover take place (e.g. ";
    assert!(said.out.starts_with("Current cluster topology\n+ Cluster: bench") && said.out.contains(questions), "{}", said.out);
    assert!(
        said.out.contains(" )  [now]: Are you sure you want to switchover cluster bench, demoting current leader n1? [y/N]: 20"),
        "{}",
        said.out
    );
    assert!(said.out.contains(" Successfully switched over to \"n2\"\n+ Cluster: bench"), "{}", said.out);
    assert_eq!(*asked.lock().unwrap(), [r#"POST /switchover {"candidate": "n2", "leader": "n1"}"#]);
    let refused = |line: &str, input: &str, sentence: &str| {
        let said = call(etcd, line, input);
        assert_eq!((said.code, said.errors.trim()), (1, sentence), "{line}");
    };
    refused("switchover --leader n2 --force", "", "Error: Member n2 is not the leader of cluster bench");
    refused("switchover --candidate n3 --force", "", "Error: Member n3 does not exist in cluster bench or is tagged as nofailover");
    refused("switchover", "n1\nn2\nnow\n\n", "Error: Aborting switchover");
    refused("switchover", "n1\n", "Aborted!");
    refused("failover --force", "", "Error: Failover could be performed only to a specific candidate");
    refused(
        "switchover --scheduled soon --force",
        "",
        "Error: Unable to parse scheduled timestamp (soon). It should be in an unambiguous format (e.g. ISO 8601)",
    );
    etcd.load("async", nobody());
    let said = call(etcd, "switchover --candidate n2 --scheduled 2036-01-31T03:00 --force", "");
    assert!(said.out.contains(" Could not switchover using Patroni api, falling back to DCS\n"), "{}{}", said.out, said.errors);
    assert!(said.errors.contains("has no time zone and is taken as UTC"), "{}", said.errors);
    assert_eq!(etcd.key("failover"), r#"{"leader":"n1","member":"n2","scheduled_at":"2036-01-31T03:00:00+00:00"}"#);
    let said = call(etcd, "flush bench switchover", "");
    assert_eq!((said.code, etcd.key("failover").as_str()), (0, "{}"), "{}", said.errors);
}

fn edits(etcd: &Etcd) {
    etcd.load("async", nobody());
    let said = call(etcd, "edit-config -s ttl=30 -p max_connections=100 -p wal_log_hints=null", "y\n");
    let diff = "--- \n+++ \n@@ -2,10 +2,9 @@\n maximum_lag_on_failover: 1048576\n postgresql:\n   parameters:\n-    max_connections: 50\n\
                +    max_connections: 100\n     shared_buffers: 32MB\n-    wal_log_hints: 'on'\n   use_pg_rewind: true\n   use_slots: true\n \
                retry_timeout: 3\n-ttl: 20\n+ttl: 30\nApply these changes? [y/N]: Configuration changed\n";
    assert_eq!((said.code, said.out.as_str()), (0, diff), "{}", said.errors);
    let stored = r#"{"ttl":30,"loop_wait":1,"retry_timeout":3,"maximum_lag_on_failover":1048576,"postgresql":{"use_pg_rewind":true,"use_slots":true,"parameters":{"shared_buffers":"32MB","max_connections":100}}}"#;
    assert_eq!(etcd.key("config"), stored);
    assert_eq!(call(etcd, "edit-config -s ttl=30 --force", "").out, "Not changed\n");
    assert_eq!(call(etcd, "edit-config -q -s ttl=31", "n\n").out, "Apply these changes? [y/N]: ");
    assert!(call(etcd, "edit-config --apply -", "ttl: 40\n").out.ends_with("Use --force option to apply changes\n"));
    assert_eq!(call(etcd, "edit-config -q --apply - --force", "ttl: on\n").out, "Configuration changed\n");
    assert!(etcd.key("config").starts_with(r#"{"ttl":true,"#));
    assert_eq!(call(etcd, "edit-config -q --replace - --force", "a: 1\n").out, "Configuration changed\n");
    assert_eq!(etcd.key("config"), r#"{"a":1}"#);
    assert_eq!(call(etcd, "edit-config --apply - --force", "- a\n").errors, "Error: -: a configuration is a mapping of keys to values\n");
    assert!(call(etcd, "edit-config other -s a=1", "").errors.contains("The config key does not exist in the cluster other"));
}

fn acts(etcd: &Etcd) {
    let (port, asked) = members(202, "scheduled");
    etcd.load("pending-restart", port);
    let said = call(etcd, "reload bench n1 n2", "y\n");
    assert!(said.out.ends_with(
        "Are you sure you want to reload members n1, n2? [y/N]: Reload request received for member n1 and will be processed within 1 seconds\n\
         Reload request received for member n2 and will be processed within 1 seconds\n"
    ));
    let said = call(etcd, "restart bench n2 --scheduled 2036-01-31T03:00+01:00 --pg-version 15.9 --force", "");
    assert!(said.out.ends_with("Success: restart scheduled on member n2\n"), "{}", said.out);
    let last = asked.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last, r#"POST /restart {"postgres_version": "15.9", "schedule": "2036-01-31T03:00:00+01:00"}"#);
    let (port, asked) = members(200, "ok");
    etcd.load("pending-restart", port);
    assert!(call(etcd, "restart bench -r leader --pending --force", "").out.ends_with("\nSuccess: restart on member n1\n"));
    assert_eq!(call(etcd, "pause", "").out, "Success: cluster management is paused\n");
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked, [r#"POST /restart {"restart_pending": true}"#, r#"PATCH /config {"pause": true}"#]);
    let (port, _) = members(503, "not now");
    etcd.load("async", port);
    let said = call(etcd, "restart bench n2 --force", "");
    assert!(said.code == 1 && said.out.ends_with("Failed: restart for member n2, status code=503, (not now)\n"), "{}", said.out);
    let said = call(etcd, "reinit bench", "n1\n");
    assert_eq!((said.code, said.errors.as_str()), (1, "Error: n1 is not a member of cluster\n"));
}

fn removes(etcd: &Etcd) {
    etcd.load("async", nobody());
    etcd.ctl(&["put", "/service/bench2/leader", "x"]);
    assert_eq!(call(etcd, "remove bench", "bench\nyes\n").code, 1);
    assert!(!etcd.key("leader").is_empty());
    let said = call(etcd, "remove bench", "bench\nYes I am aware\nn1\n");
    assert_eq!(said.code, 0, "{}", said.errors);
    assert_eq!(etcd.ctl(&["get", "--prefix", "--keys-only", "/service/"]).1.trim(), "/service/bench2/leader");
}

/// A reader that went away.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn closed_pipe(etcd: &Etcd) {
    let words: Vec<String> = ["-d", &format!("etcd3://127.0.0.1:{}", etcd.port), "list", "bench", "-W"].map(str::to_owned).to_vec();
    let (mut input, mut errors) = (&b""[..], Vec::new());
    let code = run_with("mastiff", &words, &BTreeMap::new(), Console::new(&mut input, &mut Gone, &mut errors, false));
    assert_eq!((code, errors.len()), (1, 0));
}
