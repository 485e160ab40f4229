//! Connection strings, mostly against what Patroni wrote and what libpq accepts.

use std::path::Path;

use super::{
    conn_url, connect_as, for_command_line, local, local_host, member, passfile_instead, points_to, primary, rewind_user, same, Conninfo,
    Error, LocalHost,
};
use crate::config::types::{HostPort, PgUser, Secret};
use crate::postgres::conf::tests::{sample, upstream};

const CAPTURED: &str = "dbname=postgres user=replicator passfile=/LAB/n2/pgpass host=10.77.0.1 port=5432 sslmode=prefer \
                        application_name=n2 gssencmode=prefer channel_binding=prefer";

/// What `pg_stat_wal_receiver` of PostgreSQL 15 shows for the captured string.
const RUNNING: &str = "user=replicator passfile=/LAB/n2/pgpass channel_binding=prefer dbname=replication host=10.77.0.1 port=5432 \
                       application_name=n2 fallback_application_name=bench sslmode=prefer sslcompression=0 sslsni=1 \
                       ssl_min_protocol_version=TLSv1.2 gssencmode=prefer krbsrvname=postgres target_session_attrs=any";

fn parse(text: &str) -> Conninfo {
    Conninfo::parse(text).unwrap()
}

#[test]
fn primary_conninfo_as_captured() {
    let config = sample("n2");
    let connection = primary(&config, &upstream("postgres://10.77.0.1:5432/postgres"), 15).unwrap();
    let written = passfile_instead(&connection, &config.pgpass);
    assert_eq!(written.render(15), CAPTURED);
    assert_eq!(for_command_line(&connection, 15), CAPTURED.replace("passfile=/LAB/n2/pgpass ", ""));
    assert!(
        passfile_instead(&connection, &config.pgpass).render(17).ends_with(" sslnegotiation=postgres")
            || !written.render(17).contains("sslneg")
    );
    let newer = primary(&config, &upstream("postgres://10.77.0.1:5432/postgres"), 17).unwrap();
    assert!(newer.render(17).ends_with("channel_binding=prefer sslnegotiation=postgres"));
    assert!(!newer.render(16).contains("sslnegotiation"));
}

#[test]
fn configured_tls_options_are_in_every_string() {
    let mut config = sample("n2");
    for (name, value) in
        [("sslmode", "verify-full"), ("sslcert", "/c d"), ("sslpassword", "x"), ("sslcrldir", "/crl"), ("options", "-c a=b")]
    {
        config.replication.options.insert(name.to_owned(), value.to_owned());
    }
    let connection = primary(&config, &upstream("postgres://10.77.0.1:5432/postgres"), 15).unwrap();
    let text = passfile_instead(&connection, Path::new("/p")).render(15);
    assert_eq!(
        text,
        "dbname=postgres user=replicator passfile=/p host=10.77.0.1 port=5432 sslmode=verify-full sslcert=/c\\ d sslpassword=x \
         sslcrldir=/crl application_name=n2 gssencmode=prefer channel_binding=prefer"
    );
    assert!(!connection.render(13).contains("sslcrldir"));
}

#[test]
fn a_running_receiver_is_recognised() {
    assert!(same(RUNNING, CAPTURED));
    assert!(same(CAPTURED, CAPTURED));
    for (from, to) in [
        ("10.77.0.1", "10.77.0.2"),
        ("port=5432", "port=5433"),
        ("application_name=n2", "application_name=n3"),
        ("sslmode=prefer", "sslmode=require"),
        ("user=replicator", "user=other"),
    ] {
        assert!(!same(RUNNING, &CAPTURED.replace(from, to)), "{to}");
    }
    assert!(!same("host='", CAPTURED));
    assert_eq!(parse(RUNNING).normalised(), "user=replicator host=10.77.0.1 application_name=n2");
    let secret = "host=a password=pw sslpassword=spw passfile=/x";
    assert_eq!(parse(secret).normalised(), "host=a");
    assert!(!format!("{:?}", parse(secret)).contains("pw\""));
}

#[test]
fn values_that_the_receiver_does_not_quote() {
    let shown = "user=it's host=x  passfile=/a b/c= host=fd00::1 port=5433 application_name=n 2 fallback_application_name=walreceiver";
    let conninfo = Conninfo::parse_shown(shown);
    assert_eq!((conninfo.get("passfile"), conninfo.get("host")), (Some("/a b/c="), Some("fd00::1")));
    assert_eq!((conninfo.get("application_name"), conninfo.get("port")), (Some("n 2"), Some("5433")));
    assert!(same("user=a b\\'c host=h port=1", "user=a\\ b\\\\\\'c host=h port=1"));
    for end in (0..shown.len()).filter(|end| shown.is_char_boundary(*end)) {
        let _ = Conninfo::parse_shown(&shown[..end]);
    }
    assert!(Conninfo::parse_shown("nonsense").is_empty());
    assert!(Conninfo::parse_shown("").is_empty());
}

#[test]
fn where_it_leads() {
    assert!(points_to(RUNNING, "postgres://10.77.0.1:5432/postgres"));
    assert!(!points_to(RUNNING, "postgres://10.77.0.1:5433/postgres"));
    assert!(!points_to("", "postgres://10.77.0.1:5433/postgres"));
    assert!(points_to("host=fd00::1", "postgres://[fd00::1]:5432/postgres"));
}

#[test]
fn urls_of_members() {
    let endpoint = |url: &str| member(url).unwrap().endpoint().unwrap();
    assert_eq!(endpoint("postgres://10.0.0.1:5433/postgres"), HostPort { host: "10.0.0.1".to_owned(), port: 5433 });
    assert_eq!(endpoint("postgresql://db.example:5432/postgres").host, "db.example");
    assert_eq!(endpoint("postgres://[fd00::1]:5433/postgres"), HostPort { host: "fd00::1".to_owned(), port: 5433 });
    assert_eq!(endpoint("postgres://[fd00::1]/postgres").port, 5432);
    assert_eq!(endpoint("postgres://u:p%40@h/postgres").host, "h");
    assert_eq!(member("postgres://u:p@h/postgres").unwrap().get("password"), None);
    assert_eq!(conn_url(&HostPort { host: "fd00::1".to_owned(), port: 5433 }), "postgres://[fd00::1]:5433/postgres");
    for (url, error) in [
        ("http://h:1/x", Error::Scheme),
        ("h:1", Error::Scheme),
        ("postgres:///postgres", Error::Host),
        ("postgres://h:0/x", Error::Port),
        ("postgres://h:65536/x", Error::Port),
        ("postgres://h:+1/x", Error::Port),
        ("postgres://h:x/x", Error::Port),
        ("postgres://[fd00::1/x", Error::Bracket),
        ("postgres://[fd00::1]x/x", Error::Bracket),
        ("postgres://h%4/x", Error::Percent),
        ("postgres://h%ff/x", Error::Percent),
    ] {
        assert_eq!(member(url), Err(error), "{url}");
    }
}

#[test]
fn general_urls() {
    let url = parse("postgresql://u%2Fse:pa%3Ass@:5433,[::1]/db%2Fsdf?application_name=mya%2Fpp&ssl=true&x");
    let pairs: Vec<(&str, &str)> = url.iter().collect();
    assert_eq!(
        pairs,
        [
            ("application_name", "mya/pp"),
            ("dbname", "db/sdf"),
            ("host", ",::1"),
            ("password", "pa:ss"),
            ("port", "5433,"),
            ("sslmode", "require"),
            ("user", "u/se"),
            ("x", "")
        ]
    );
    assert_eq!(url.endpoint(), None);
}

#[test]
fn keywords_as_libpq_reads_them() {
    let conninfo = parse(" host = 'ho st' user=a\\'b\\ c  password='x\\'\\\\y' dbname = db ");
    assert_eq!(conninfo.get("host"), Some("ho st"));
    assert_eq!(conninfo.get("user"), Some("a'b c"));
    assert_eq!(conninfo.get("password"), Some("x'\\y"));
    assert_eq!(conninfo.get("dbname"), Some("db"));
    assert_eq!(parse(""), Conninfo::default());
    assert_eq!(parse("host=").get("host"), Some(""));
    assert_eq!(Conninfo::parse("1"), Err(Error::Equals(0)));
    assert_eq!(Conninfo::parse("a=b =c"), Err(Error::Equals(4)));
    assert_eq!(Conninfo::parse("host=a foo = '"), Err(Error::Quote));
}

#[test]
fn what_is_written_is_read_again() {
    for value in ["plain", "with blank", "tab\there", "quote's", "back\\slash", "", " ", "'", "\\", "ü", "a=b", "line\nfeed"] {
        let mut conninfo = Conninfo::default();
        conninfo.set("user", value);
        conninfo.set("host", "after");
        assert_eq!(parse(&conninfo.render(15)), conninfo, "{value:?}");
    }
}

#[test]
fn nothing_panics_on_cuts() {
    let texts = [CAPTURED, RUNNING, "postgres://u%2F:p@[fd00::1]:5432,b:5433/d%C3%BC?x=%20", "a='b\\'c' d = e\\"];
    for text in texts {
        for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
            let _ = Conninfo::parse(&text[..end]);
            let _ = member(&text[..end]);
        }
    }
}

#[test]
fn local_connections() {
    let mut config = sample("n1");
    assert_eq!(local_host(&config, false), LocalHost::Tcp("localhost".to_owned()));
    config.listen_addresses = "10.0.0.1, 127.0.0.1".to_owned();
    assert_eq!(local_host(&config, false), LocalHost::Tcp("localhost".to_owned()));
    config.listen_addresses = "10.0.0.1,10.0.0.2".to_owned();
    assert_eq!(local_host(&config, false), LocalHost::Tcp("10.0.0.1".to_owned()));
    config.use_unix_socket = true;
    assert_eq!(local_host(&config, false), LocalHost::Socket("/LAB/n1/sock".into()));
    assert_eq!(local_host(&config, true), LocalHost::Tcp("10.0.0.1".to_owned()));
    let text = local(&config, &config.superuser, false).render(15);
    assert_eq!(text, "dbname=postgres user=postgres password=superpw host=/LAB/n1/sock port=5432");
    config.parameters.insert("unix_socket_directories".to_owned(), "@abstract, relative".to_owned());
    assert_eq!(local_host(&config, false), LocalHost::Tcp("10.0.0.1".to_owned()));
    config.parameters.remove("unix_socket_directories");
    assert_eq!(local_host(&config, false), LocalHost::DefaultSocket);
    assert_eq!(local(&config, &config.superuser, false).get("host"), None);
}

#[test]
fn rewind_has_its_own_user_or_the_superuser() {
    let mut config = sample("n1");
    assert_eq!(rewind_user(&config).username, "postgres");
    config.rewind =
        Some(PgUser { username: "rew".to_owned(), password: Some(Secret("pw".to_owned())), options: std::collections::BTreeMap::new() });
    let connection = connect_as(rewind_user(&config), "postgres://10.0.0.9:5432/postgres").unwrap();
    assert_eq!(for_command_line(&connection, 15), "dbname=postgres user=rew host=10.0.0.9 port=5432");
    assert_eq!(connection.get("password"), Some("pw"));
}
