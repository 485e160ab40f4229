//! A bench for `Machine`: facts are handed to it one after the other, and what it asks for is looked at.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, missing_docs)] // not every test file uses all of it

use mastiff::ha::action::{Action, Job, StoreRequest, WipeReason};
use mastiff::ha::config::HaConfig;
use mastiff::ha::decide::samples;
use mastiff::ha::input::{Input, StoreOutcome};
use mastiff::ha::types::{Instant, JobId, LeaseId, Lsn, MemberName, Millis, RequestId, Revision, Timeline};
use mastiff::ha::view::{
    ClusterView, Initialize, LeaderEntry, Member, NodeView, PeerStatus, PgRunning, PgState, UpstreamHistory, Versioned,
};
use mastiff::ha::Machine;

/// A box: the machine, what it asked for last, and the world it is told of.
pub struct Bench {
    pub machine: Machine,
    pub now: u64,
    pub out: Vec<Action>,
    pub view: ClusterView,
    pub pg: PgState,
}

pub fn member(name: &str) -> (MemberName, Member) {
    let member = Member {
        conn_url: Some(format!("postgres://{name}:5432/postgres")),
        api_url: Some(format!("http://{name}:8008/patroni")),
        state: "running".to_owned(),
        role: "replica".to_owned(),
        ..Member::default()
    };
    (MemberName::from(name), member)
}

pub fn peer(position: u64) -> PeerStatus {
    PeerStatus { in_recovery: true, position: Lsn(position), timeline: Some(Timeline(1)), ..PeerStatus::default() }
}

pub fn standby(upstream: &str, streaming: bool, position: u64) -> PgState {
    PgState::Running(PgRunning { upstream: Some(format!("{upstream}:5432")), streaming, ..samples::standby(1, position) })
}

pub fn primary() -> PgState {
    PgState::Running(samples::primary(1, 100))
}

impl Bench {
    pub fn new(pg: PgState) -> Bench {
        Bench::with(HaConfig::for_member("n1"), pg)
    }

    pub fn with(config: HaConfig, pg: PgState) -> Bench {
        let mut view = ClusterView { initialize: Some(Initialize::Done(samples::SYSTEM_ID)), ..ClusterView::default() };
        view.config = Some(Versioned { revision: Revision(1), value: serde_json::json!({}) });
        view.members = [member("n1"), member("n2")].into();
        Bench { machine: Machine::new(config, Instant(1_000_000)), now: 1_000_000, out: Vec::new(), view, pg }
    }

    pub fn step(&mut self, input: Input) {
        self.machine.step(Instant(self.now), input, &mut self.out);
    }

    pub fn pass(&mut self, ms: u64) {
        self.now += ms;
    }

    /// Takes the first action of a kind out of what is asked for.
    pub fn take<T>(&mut self, pick: impl Fn(&Action) -> Option<T>) -> Option<T> {
        let at = self.out.iter().position(|action| pick(action).is_some())?;
        pick(&self.out.remove(at))
    }

    pub fn store(&mut self, wanted: impl Fn(&StoreRequest) -> bool) -> Option<RequestId> {
        self.take(|action| match action {
            Action::Store { id, request, .. } if wanted(request) => Some(*id),
            _ => None,
        })
    }

    pub fn read_asked(&mut self) -> Option<RequestId> {
        self.store(|request| matches!(request, StoreRequest::Read))
    }

    pub fn answer(&mut self, id: RequestId, outcome: StoreOutcome) {
        self.step(Input::Store { id, outcome });
    }

    pub fn answer_read(&mut self) {
        let id = self.read_asked().expect("a read was asked for");
        self.answer(id, StoreOutcome::View(Box::new(self.view.clone())));
    }

    pub fn answer_renewal(&mut self, lease: i64) {
        let id = self.store(|request| matches!(request, StoreRequest::RenewLease { .. })).expect("a renewal was asked for");
        self.answer(id, StoreOutcome::Lease { lease: LeaseId(lease), ttl: self.machine.config().ttl });
    }

    pub fn observe_asked(&mut self) -> Option<RequestId> {
        self.take(|action| match action {
            Action::Observe { id, .. } => Some(*id),
            _ => None,
        })
    }

    pub fn answer_observation(&mut self) {
        let id = self.observe_asked().expect("an observation was asked for");
        let node = Box::new(NodeView { observed_at: Instant(self.now), pg: self.pg.clone() });
        self.step(Input::Observed { id, node });
    }

    pub fn job(&mut self) -> Option<(JobId, &'static str)> {
        self.take(|action| match action {
            Action::RunJob { id, job } => Some((*id, job.name())),
            _ => None,
        })
    }

    pub fn wipe(&mut self) -> Option<WipeReason> {
        self.take(|action| match action {
            Action::RunJob { job: Job::RemoveData { reason }, .. } => Some(*reason),
            _ => None,
        })
    }

    pub fn peers_asked(&mut self) -> Option<(RequestId, Millis)> {
        self.take(|action| match action {
            Action::AskPeers { id, deadline, .. } => Some((*id, *deadline)),
            _ => None,
        })
    }

    pub fn leader(&mut self, name: &str, lease: i64) {
        self.view.leader = Some(LeaderEntry { name: MemberName::from(name), lease: LeaseId(lease), revision: Revision(9) });
    }

    /// One whole cycle: tick, read, look, a few milliseconds in between. Leaves what was decided in `out`.
    pub fn cycle(&mut self) {
        let asked = |action: &Action| {
            let store = matches!(action, Action::Store { request: StoreRequest::Read | StoreRequest::RenewLease { .. }, .. });
            store || matches!(action, Action::Observe { .. })
        };
        if !self.out.iter().any(asked) {
            self.now = self.machine.next_deadline().0.max(self.now + 1);
            self.step(Input::Tick);
        }
        for _ in 0..4 {
            self.pass(2);
            if self.store(|request| matches!(request, StoreRequest::RenewLease { .. })).map(|id| self.renew(id)).is_some() {
                continue;
            }
            if self.out.iter().any(|action| matches!(action, Action::Observe { .. })) {
                self.answer_observation();
            }
            if self.out.iter().any(|action| matches!(action, Action::Store { request: StoreRequest::Read, .. })) {
                self.answer_read();
            }
        }
    }

    pub fn renew(&mut self, id: RequestId) {
        let ttl = self.machine.config().ttl;
        self.answer(id, StoreOutcome::Lease { lease: LeaseId(1), ttl });
    }

    /// Everything that was asked for so far is of no interest any more.
    pub fn forget(&mut self) {
        self.out.retain(|action| {
            matches!(action, Action::Store { request: StoreRequest::Read | StoreRequest::RenewLease { .. }, .. } | Action::Observe { .. })
        });
    }

    /// Answers a question about n2's history: on timeline 2 since 500.
    pub fn tell_history(&mut self) {
        let asked = self.take(|action| match action {
            Action::ReadUpstream { id, .. } => Some(*id),
            _ => None,
        });
        let Some(id) = asked else { return };
        let history = UpstreamHistory {
            member: MemberName::from("n2"),
            is_primary: true,
            system_id: samples::SYSTEM_ID,
            timeline: Timeline(2),
            position: Lsn(950),
            history: vec![(Timeline(1), Lsn(500))],
            oldest_wal: None,
        };
        self.step(Input::Upstream { id, result: Ok(history) });
    }

    /// First facts: lease 1, the view and the look as they are set.
    pub fn start(&mut self) {
        self.step(Input::Tick);
        self.answer_renewal(1);
        self.pass(2);
        self.answer_observation();
        self.answer_read();
        self.pass(1);
        while self.read_asked().map(|id| self.answer(id, StoreOutcome::View(Box::new(self.view.clone())))).is_some() {}
    }
}
