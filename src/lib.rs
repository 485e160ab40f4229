//! Mastiff: a high-availability agent for PostgreSQL on appliances.
//!
//! One agent runs beside each PostgreSQL of a cluster. The agents agree through a store with leases (etcd v3) on who leads; each then makes its own
//! PostgreSQL what it should be. Configuration, keys, REST API and commands are those of Patroni 4.1.
//!
//! The way of a fact: something happens (an answer of the store, the end of the postmaster, a command over REST, a deadline). [`shell`] hands it as
//! an [`ha::input::Input`] to [`ha::Machine::step`], which calls the pure [`ha::decide`] and appends [`ha::action::Action`]s. The shell carries
//! these out through [`dcs`], [`postgres`] and [`http`], whose results are the next inputs. Every cycle ends with a published snapshot, from
//! which the REST API answers on its own thread.
//!
//! - [`ha`] is the core: no clock, no I/O, no threads. Time is an argument. All timing rules are in [`ha::lease`], and what is dangerous needs
//!   a permit that only that module makes. The simulator in `tests/sim` runs this module unchanged.
//! - [`shell`] is the main loop on one thread and makes no decision about high availability. Nothing on it may block: a step above 100 ms is logged.
//! - [`dcs`] knows the keys and documents, and talks to etcd; [`postgres`] observes and changes this box's PostgreSQL; [`http`] is the REST API,
//!   server and client. Every call has a deadline. They do not know each other.
//! - [`tls`] is certificates, keys and who is trusted, for the REST API, calls to members and connections to PostgreSQL.
//! - [`config`] reads files, environment and dynamic configuration; [`ctl`] is the operator's command; [`tools`] are the program's other options.
//! - [`guard`] is the process that ends PostgreSQL when this one does not.
//! - [`clock`] alone reads clocks; [`signals`], [`notify`], [`log`] and [`metrics`] are what their names say.
//!
//! `docs/architecture.md` tells the rules, `docs/decisions.md` why they are so.

pub mod clock;
pub mod config;
pub mod ctl;
pub mod dcs;
pub mod guard;
pub mod ha;
pub mod http;
pub mod log;
pub mod marker;
pub mod metrics;
pub mod notify;
pub mod postgres;
pub mod privileges;
pub mod shell;
pub mod signals;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls/none.rs"]
pub mod tls;
pub mod tools;
pub mod vips;
pub mod wake;
pub mod watchdog;
pub mod witness;
