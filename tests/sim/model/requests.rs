//! What the core asks of the world: the store, this box's PostgreSQL, the other members, an upstream.

use mastiff::ha::action::{StoreRequest, Upstream};
use mastiff::ha::config::WatchdogMode;
use mastiff::ha::fence::Watchdog;
use mastiff::ha::input::{DcsFailure, Input, StoreOutcome};
use mastiff::ha::types::{Instant, Lsn, MemberName, Millis, RequestId, SystemId, Timeline};
use mastiff::ha::view::{NodeView, PeerStatus, PeersView, PgState, ReplicationRow, Role, UpstreamHistory};

use super::node::{index_of, Process};
use super::postgres::Proc;
use super::store::Change;
use super::world::{Event, World};
use crate::checkers::Fact;
use crate::options::Mutation;

impl World {
    /// A request leaves for the store.
    pub fn store_send(&mut self, node: usize, id: RequestId, request: StoreRequest, deadline: Millis) {
        self.note_change(node, &request);
        let freezes = self.nodes[node].freeze.is_some() && matches!(request, StoreRequest::RenewLease { lease: Some(_), .. });
        self.store_send_now(node, id, request, deadline);
        if freezes {
            self.freeze(node);
        }
    }

    fn store_send_now(&mut self, node: usize, id: RequestId, request: StoreRequest, deadline: Millis) {
        let (store, life) = (self.net.store(), self.nodes[node].agent.life);
        let give_up_at = self.now + deadline.0;
        let open = self.net.is_open(node, store);
        let late = if open { Some(0) } else { self.net.clogged() };
        let lost = self.net.is_lost();
        match late.filter(|_| !lost) {
            Some(extra) => {
                // One connection: what was sent first arrives first.
                let at = (self.now + self.net.store_latency() + extra).max(self.nodes[node].request_at);
                self.nodes[node].request_at = at;
                // Too late for the sender, which is answered with a timeout; the store does it all the same.
                let too_late = !open || at >= give_up_at;
                if too_late {
                    self.answer_lost(node, id, &request, give_up_at);
                }
                let give_up_at = if too_late { 0 } else { give_up_at };
                self.push(at, Event::StoreArrives { node, life, id, request: Box::new(request), give_up_at });
            }
            None => self.answer_lost(node, id, &request, give_up_at),
        }
    }

    fn note_change(&mut self, node: usize, request: &StoreRequest) {
        match request {
            StoreRequest::Acquire { .. } => self.changed(node, "acquire"),
            StoreRequest::Repair { .. } => self.changed(node, "repair"),
            StoreRequest::Release { .. } | StoreRequest::ReleaseUnused { .. } => self.changed(node, "release"),
            StoreRequest::ClaimInitialize { .. } | StoreRequest::SetInitialize { .. } => self.changed(node, "initialize"),
            StoreRequest::PutConfig { .. } => self.changed(node, "put config"),
            StoreRequest::PutFailover { .. } => self.changed(node, "put failover"),
            StoreRequest::PutHistory(_) => self.changed(node, "put history"),
            _ => {}
        }
    }

    fn answer_lost(&mut self, node: usize, id: RequestId, request: &StoreRequest, give_up_at: u64) {
        let mut outcome = StoreOutcome::Failed(DcsFailure::Timeout);
        if self.is_mutated(Mutation::QueuedIsRenewed) {
            if let StoreRequest::RenewLease { lease: Some(lease), ttl } = *request {
                outcome = StoreOutcome::Lease { lease, ttl };
            }
        }
        let wait = give_up_at.saturating_sub(self.now);
        self.send(node, wait, Input::Store { id, outcome });
    }

    /// A request arrives at the store; its answer leaves.
    pub fn store_arrives(&mut self, node: usize, life: u32, id: RequestId, request: StoreRequest, give_up_at: u64) {
        let listening = self.nodes[node].agent.life == life && self.nodes[node].agent.process != Process::Dead;
        let abandoned = give_up_at == 0;
        if !self.store.is_up() {
            if listening && !abandoned {
                self.refuse(node, id, &request, give_up_at);
            }
            return;
        }
        let acquires = matches!(request, StoreRequest::Acquire { .. });
        let renewal = match &request {
            StoreRequest::RenewLease { lease, ttl } => Some((*lease, *ttl)),
            _ => None,
        };
        let writable = self.nodes[node].pg.is_writable();
        let (mut outcome, change) = self.store.apply(node, request, self.now);
        if change.released {
            self.fact(Fact::Released { node, writable });
        }
        self.store_changed(change);
        if acquires && self.is_mutated(Mutation::PromoteWithoutLease) && matches!(outcome, StoreOutcome::Conflict) {
            outcome = StoreOutcome::Done { revision: mastiff::ha::types::Revision(self.store.revision()) };
        }
        if !listening || abandoned {
            return;
        }
        let arrives = self.now + self.net.store_latency();
        let back = self.net.is_open(self.net.store(), node) && !self.net.is_lost();
        if back && arrives < give_up_at {
            self.apply_config(node, &outcome);
            self.send(node, arrives - self.now, Input::Store { id, outcome });
        } else if let (Some((Some(lease), ttl)), true) = (renewal, self.is_mutated(Mutation::QueuedIsRenewed)) {
            self.send(node, 5, Input::Store { id, outcome: StoreOutcome::Lease { lease, ttl } });
        } else {
            let wait = give_up_at.saturating_sub(self.now);
            self.send(node, wait, Input::Store { id, outcome: StoreOutcome::Failed(DcsFailure::Timeout) });
        }
    }

    fn refuse(&mut self, node: usize, id: RequestId, request: &StoreRequest, give_up_at: u64) {
        if self.net.chance(500) {
            self.answer_lost(node, id, request, give_up_at);
        } else {
            let outcome = StoreOutcome::Failed(DcsFailure::Unavailable("no leader".to_owned()));
            self.send(node, 2, Input::Store { id, outcome });
        }
    }

    /// The shell's part: `/config` of a newer revision is applied before the core sees the view.
    fn apply_config(&mut self, node: usize, outcome: &StoreOutcome) {
        let StoreOutcome::View(view) = outcome else { return };
        let Some(config) = &view.config else { return };
        if config.revision.0 == self.nodes[node].agent.config_seen {
            return;
        }
        self.nodes[node].agent.config_seen = config.revision.0;
        self.nodes[node].dynamic = Some(config.value.clone());
        let config = self.nodes[node].config(&self.options);
        self.send(node, 0, Input::Config(Box::new(config)));
    }

    /// What follows from a change in the store: watchers, lease ends, truths for the checkers.
    pub fn store_changed(&mut self, change: Change) {
        if let Some(lease) = change.granted {
            if let Some(lease_state) = self.store.leases.get(&lease) {
                self.push(lease_state.expires, Event::LeaseCheck { lease });
            }
        }
        self.tell_holder();
        if change.watched {
            self.alarm();
        }
    }

    /// The watch streams: an alarm clock for everybody whom it reaches.
    pub fn alarm(&mut self) {
        for node in 0..self.nodes.len() {
            let reaches = self.net.is_connected(self.net.store(), node) && self.nodes[node].agent.process != Process::Dead;
            let (lost, delay) = (self.net.chance(self.options.watch_loss), self.net.store_latency());
            if reaches && !lost {
                self.send(node, delay, Input::StoreChanged);
            }
        }
    }

    /// A lease may be over: never early, up to half a second late.
    pub fn lease_check(&mut self, lease: i64) {
        let Some(state) = self.store.leases.get(&lease) else { return };
        if state.expires > self.now || !self.store.is_up() {
            let at = state.expires.max(self.now + 500);
            self.push(at, Event::LeaseCheck { lease });
            return;
        }
        let node = state.node;
        self.note(node, || format!("lease {lease:x} expires"));
        if self.store.end_lease(lease) {
            self.tell_holder();
            self.alarm();
        }
    }

    /// An observation begins: the facts are of its begin or of its end.
    pub fn observe_begin(&mut self, node: usize, id: RequestId, deadline: Millis) {
        let asked_at = self.nodes[node].clock.now(self.now);
        if self.nodes[node].pg.is_alive() && self.nodes[node].pg.hung {
            let pg = self.nodes[node].pg.observe(&self.names, Vec::new());
            let view = NodeView { observed_at: asked_at, pg };
            self.send(node, deadline.0, Input::Observed { id, node: Box::new(view) });
            return;
        }
        let (early, takes) = {
            let rng = &mut self.nodes[node].rng;
            (rng.chance(500), if rng.chance(980) { rng.between(2, 12) } else { rng.between(20, 300) })
        };
        let takes = takes.min(deadline.0);
        if early {
            let pg = self.look(node);
            let view = NodeView { observed_at: asked_at, pg };
            self.send(node, takes, Input::Observed { id, node: Box::new(view) });
        } else {
            let life = self.nodes[node].agent.life;
            self.after(takes, Event::Observe { node, life, id, asked_at });
        }
    }

    /// An observation ends: the facts are of now.
    pub fn observed(&mut self, node: usize, life: u32, id: RequestId, asked_at: Instant) {
        if self.nodes[node].agent.life != life {
            return;
        }
        let pg = self.look(node);
        self.step(node, Input::Observed { id, node: Box::new(NodeView { observed_at: asked_at, pg }) });
    }

    fn look(&self, node: usize) -> PgState {
        let mut children = Vec::new();
        for (index, other) in self.nodes.iter().enumerate() {
            if other.pg.stream.as_ref().is_some_and(|stream| stream.upstream == node) {
                let end = other.pg.cluster().map(|cluster| Lsn(cluster.wal.end()));
                children.push(ReplicationRow {
                    usename: "replicator".to_owned(),
                    application_name: self.names[index].clone(),
                    state: "streaming".to_owned(),
                    sync_state: "async".to_owned(),
                    flush: end,
                    replay: end,
                    ..ReplicationRow::default()
                });
            }
        }
        self.nodes[node].pg.observe(&self.names, children)
    }

    /// The others are asked over REST; each looks at its PostgreSQL again and answers from what its core publishes then.
    pub fn ask_peers(&mut self, node: usize, id: RequestId, peers: &[(MemberName, String)], deadline: Millis) {
        let asked_at = self.nodes[node].clock.now(self.now);
        let peers: Vec<usize> = peers.iter().filter_map(|(name, _)| index_of(name)).filter(|&peer| peer < self.nodes.len()).collect();
        for &peer in &peers {
            if matches!(self.ask_peer(node, peer), Ok(_) | Err(Silence::Starting)) {
                let latency = self.net.latency();
                self.send(peer, latency, Input::Refresh);
            }
        }
        let life = self.nodes[node].agent.life;
        let give_up_at = self.now + deadline.0;
        let takes = self.nodes[node].rng.between(10, 80).min(deadline.0);
        self.after(takes, Event::PeersAnswer { node, life, id, asked_at, peers, give_up_at });
    }

    /// The answers, and the silence, of those who were asked.
    pub fn peers_answer(&mut self, node: usize, life: u32, id: RequestId, asked_at: Instant, peers: &[usize], give_up_at: u64) {
        if self.nodes[node].agent.life != life || self.nodes[node].agent.process == Process::Dead {
            return;
        }
        let mut view = PeersView { asked_at, ..PeersView::default() };
        let mut takes = 2;
        for &peer in peers {
            let answer = self.ask_peer(node, peer);
            match answer {
                Err(Silence::NoAnswer) => takes = give_up_at.saturating_sub(self.now),
                Err(Silence::Starting) => {
                    view.starting.insert(MemberName(self.names[peer].clone()));
                }
                _ => {}
            }
            view.peers.insert(MemberName(self.names[peer].clone()), answer.ok());
        }
        self.send(node, takes, Input::Peers { id, view });
    }

    /// The upstream's history is read over SQL.
    pub fn read_upstream(&mut self, node: usize, id: RequestId, upstream: &Upstream, deadline: Millis) {
        let member = upstream.name.clone();
        let Some(peer) = index_of(&member) else { return };
        let target = &self.nodes[peer];
        let reachable = self.net.is_connected(node, peer) && target.power == super::node::Power::On;
        let silent = !reachable || (target.pg.is_alive() && target.pg.hung);
        let (result, takes) = match target.pg.cluster().filter(|_| !silent && target.pg.is_serving()) {
            Some(cluster) => {
                let history = UpstreamHistory {
                    member,
                    is_primary: target.pg.proc == Proc::Primary,
                    system_id: SystemId(cluster.system_id),
                    timeline: Timeline(cluster.wal.timeline()),
                    position: Lsn(cluster.wal.end()),
                    history: cluster.wal.history.iter().map(|&(timeline, lsn)| (Timeline(timeline), Lsn(lsn))).collect(),
                    oldest_wal: None,
                };
                (Ok(history), self.net.latency() * 4)
            }
            None => (Err("connection failed".to_owned()), if silent { deadline.0 } else { 4 }),
        };
        self.send(node, takes.min(deadline.0), Input::Upstream { id, result });
    }
}

enum Silence {
    Refused,
    NoAnswer,
    Starting,
}

impl World {
    fn ask_peer(&self, node: usize, peer: usize) -> Result<PeerStatus, Silence> {
        let target = &self.nodes[peer];
        if !self.net.is_connected(node, peer) || target.power != super::node::Power::On {
            return Err(Silence::NoAnswer);
        }
        match target.agent.process {
            Process::Dead => return Err(Silence::Refused),
            Process::Stopped => return Err(Silence::NoAnswer),
            Process::Running => {}
        }
        let snapshot = target.agent.published.as_ref().ok_or(Silence::Refused)?;
        if snapshot.state == "starting" {
            return Err(Silence::Starting);
        }
        let running = snapshot.node.as_ref().and_then(|view| view.pg.running()).ok_or(Silence::Refused)?;
        Ok(PeerStatus {
            in_recovery: running.role == Role::Standby,
            position: running.position,
            timeline: Some(running.timeline),
            dcs_last_seen: 0,
            watchdog_failed: snapshot.config.watchdog.mode == WatchdogMode::Required && matches!(snapshot.watchdog, Watchdog::Unusable(_)),
            tags: snapshot.config.tags.clone(),
        })
    }
}
