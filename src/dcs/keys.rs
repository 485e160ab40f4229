//! Names of the keys: `<namespace>/<scope>/…`, as Patroni forms them.

use crate::ha::types::MemberName;

/// The keys of one scope.
#[derive(Clone, Debug)]
pub struct Keys {
    /// `/service/demo/`, with one slash at the end.
    prefix: String,
}

/// What a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// `leader`.
    Leader,
    /// `config`.
    Config,
    /// `initialize`.
    Initialize,
    /// `members/NAME`.
    Member(&'a str),
    /// `status`.
    Status,
    /// `optime/leader`, the form before Patroni 2.1.
    OldOptime,
    /// `failover`.
    Failover,
    /// `sync`.
    Sync,
    /// `history`.
    History,
    /// `failsafe`.
    Failsafe,
}

impl Keys {
    /// Keys under `<namespace>/<scope>/`; runs of slashes count as one and a leading one is added, as in Patroni.
    #[must_use]
    pub fn new(namespace: &str, scope: &str) -> Keys {
        let mut prefix = String::from("/");
        for part in namespace.split('/').chain(scope.split('/')).filter(|part| !part.is_empty()) {
            prefix.push_str(part);
            prefix.push('/');
        }
        Keys { prefix }
    }

    /// What all keys of the scope begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The full name of a key.
    #[must_use]
    pub fn path(&self, key: Key<'_>) -> String {
        let name = match key {
            Key::Leader => "leader",
            Key::Config => "config",
            Key::Initialize => "initialize",
            Key::Member(name) => return format!("{}members/{name}", self.prefix),
            Key::Status => "status",
            Key::OldOptime => "optime/leader",
            Key::Failover => "failover",
            Key::Sync => "sync",
            Key::History => "history",
            Key::Failsafe => "failsafe",
        };
        format!("{}{name}", self.prefix)
    }

    /// The full name of a member's key.
    #[must_use]
    pub fn member(&self, name: &MemberName) -> String {
        self.path(Key::Member(name.as_str()))
    }

    /// What the full name stands for; `None` for keys that are not ours (also those of Citus groups below the scope).
    #[must_use]
    pub fn classify<'a>(&self, path: &'a str) -> Option<Key<'a>> {
        let key = match path.strip_prefix(&self.prefix)? {
            "leader" => Key::Leader,
            "config" => Key::Config,
            "initialize" => Key::Initialize,
            "status" => Key::Status,
            "optime/leader" => Key::OldOptime,
            "failover" => Key::Failover,
            "sync" => Key::Sync,
            "history" => Key::History,
            "failsafe" => Key::Failsafe,
            other => {
                let name = other.strip_prefix("members/")?;
                return (!name.is_empty() && !name.contains('/')).then_some(Key::Member(name));
            }
        };
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, Keys};

    #[test]
    fn names() {
        let keys = Keys::new("/service", "demo");
        assert_eq!(keys.prefix(), "/service/demo/");
        assert_eq!(keys.path(Key::Leader), "/service/demo/leader");
        assert_eq!(keys.path(Key::Member("n1")), "/service/demo/members/n1");
        assert_eq!(Keys::new("service//x/", "demo").prefix(), "/service/x/demo/");
        assert_eq!(Keys::new("/", "demo").prefix(), "/demo/");
    }

    #[test]
    fn classification_is_the_inverse() {
        let keys = Keys::new("/service", "demo");
        for key in [
            Key::Leader,
            Key::Config,
            Key::Initialize,
            Key::Member("a-1"),
            Key::Status,
            Key::OldOptime,
            Key::Failover,
            Key::Sync,
            Key::History,
            Key::Failsafe,
        ] {
            assert_eq!(keys.classify(&keys.path(key)), Some(key));
        }
        for foreign in
            ["/service/demo", "/service/demo2/leader", "/service/demo/0/leader", "/service/demo/members/", "/service/demo/members/a/b"]
        {
            assert_eq!(keys.classify(foreign), None, "{foreign}");
        }
    }
}
