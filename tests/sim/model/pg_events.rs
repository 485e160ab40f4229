//! PostgreSQL in time: start, stop, crash, promotion, replication.

use mastiff::ha::input::Input;
use mastiff::ha::view::ControlState;

use super::node::{Power, Process};
use super::postgres::{Data, Proc, Stream};
use super::world::{Event, JobStep, World};
use crate::checkers::Fact;

/// `wal_receiver_timeout`.
const RECEIVER_TIMEOUT_MS: u64 = 20_000;
/// `wal_retrieve_retry_interval`.
const RETRY_MS: u64 = 5_000;
/// A fast stop waits so long for a standby that does not take its WAL (`wal_sender_timeout`).
const SENDER_TIMEOUT_MS: u64 = 30_000;

impl World {
    /// How long something takes here: between the bounds, scaled by the run's option.
    pub fn takes(&mut self, node: usize, low: u64, high: u64) -> u64 {
        let percent = self.options.slow_percent;
        self.nodes[node].rng.between(low, high) * percent / 100 + 1
    }

    /// The postmaster is started. False if there is nothing to start.
    pub fn pg_start(&mut self, node: usize, primary: bool, upstream: Option<usize>) -> bool {
        if self.nodes[node].pg.is_alive() {
            return false;
        }
        let crashed = match self.nodes[node].pg.cluster() {
            Some(cluster) => !cluster.state.is_clean(),
            None => return false,
        };
        let recovery = if crashed { self.takes(node, 200, 12_000) } else { 0 };
        let ready = self.takes(node, 80, 600) + recovery;
        let pg = &mut self.nodes[node].pg;
        pg.proc = Proc::Starting { primary };
        pg.life += 1;
        pg.hung = false;
        pg.held_stop = None;
        pg.upstream = upstream;
        pg.stream = None;
        pg.started_at = self.now;
        let life = pg.life;
        let corrupt = pg.cluster().is_some_and(|cluster| cluster.corrupt);
        if let (true, Some(cluster)) = (!primary, pg.cluster_mut()) {
            cluster.state = ControlState::InArchiveRecovery;
        }
        self.note(node, || format!("postmaster starts, primary={primary}"));
        if corrupt {
            self.after(100, Event::PgExit { node, life, clean: false });
        } else {
            self.after(ready, Event::PgReady { node, life });
        }
        true
    }

    /// Connections are accepted.
    pub fn pg_ready(&mut self, node: usize, life: u64) {
        let record = self.unique();
        let pg = &mut self.nodes[node].pg;
        if pg.life != life {
            return;
        }
        if let Some(cluster) = pg.cluster_mut() {
            cluster.is_copy = false;
        }
        match pg.proc {
            Proc::Starting { primary: true } => {
                pg.proc = Proc::Primary;
                pg.upstream = None;
                if let Some(cluster) = pg.cluster_mut() {
                    cluster.state = ControlState::InProduction;
                    cluster.write_checkpoint(record);
                }
            }
            Proc::Starting { primary: false } => {
                pg.proc = Proc::Standby;
                self.nodes[node].was_member = true;
                self.after(20, Event::WalConnect { node, life });
            }
            _ => return,
        }
        self.tell_writable(node);
    }

    /// A fast stop is asked for: a running server stops writing, flushes to its standbys, writes a checkpoint and ends.
    pub fn pg_fast_stop(&mut self, node: usize) {
        let record = self.unique();
        let extra = std::mem::take(&mut self.nodes[node].slow_stop_ms);
        let takes = self.takes(node, 60, 1_500) + extra;
        let now = self.now;
        let pg = &mut self.nodes[node].pg;
        let life = pg.life;
        if pg.hung {
            pg.held_stop = Some(false);
            return;
        }
        match pg.proc {
            Proc::Down | Proc::Stopping { .. } => return,
            Proc::Starting { primary } => {
                pg.proc = Proc::Stopping { primary, since: now };
                self.after(takes.min(500), Event::PgExit { node, life, clean: false });
            }
            Proc::Primary => {
                pg.proc = Proc::Stopping { primary: true, since: now };
                if let Some(cluster) = pg.cluster_mut() {
                    cluster.write_checkpoint(record);
                }
                self.wal_written(node);
                self.after(takes, Event::PgExit { node, life, clean: true });
            }
            Proc::Standby | Proc::Promoting => {
                pg.proc = Proc::Stopping { primary: false, since: now };
                pg.stream = None;
                self.after(takes, Event::PgExit { node, life, clean: true });
            }
        }
        self.tell_writable(node);
    }

    /// SIGQUIT.
    pub fn pg_immediate(&mut self, node: usize) {
        let takes = self.nodes[node].rng.between(5, 60);
        let pg = &mut self.nodes[node].pg;
        if !pg.is_alive() {
            return;
        }
        if pg.hung {
            pg.held_stop = Some(true);
            return;
        }
        let life = pg.life;
        self.after(takes, Event::PgExit { node, life, clean: false });
    }

    /// SIGKILL, a crash, a power cut.
    pub fn pg_kill(&mut self, node: usize) {
        if self.nodes[node].pg.is_alive() {
            self.pg_gone(node, false);
        }
    }

    /// The postmaster ends, if it may yet.
    pub fn pg_exit_due(&mut self, node: usize, life: u64, clean: bool) {
        let pg = &self.nodes[node].pg;
        if pg.life != life || !pg.is_alive() {
            return;
        }
        if let (true, Proc::Stopping { primary: true, since }) = (clean, pg.proc) {
            if pg.hung || (self.now < since + SENDER_TIMEOUT_MS && self.has_lagging_standby(node)) {
                self.after(150, Event::PgExit { node, life, clean });
                return;
            }
        }
        self.pg_gone(node, clean);
    }

    fn has_lagging_standby(&self, node: usize) -> bool {
        let Some(cluster) = self.nodes[node].pg.cluster() else { return false };
        let end = cluster.wal.end();
        self.nodes.iter().any(|other| {
            let streams = other.pg.stream.as_ref().is_some_and(|stream| stream.upstream == node);
            streams && other.pg.cluster().is_some_and(|theirs| theirs.wal.end() < end)
        })
    }

    /// The postmaster is gone.
    fn pg_gone(&mut self, node: usize, clean: bool) {
        let pg = &mut self.nodes[node].pg;
        let primary = matches!(pg.proc, Proc::Primary | Proc::Stopping { primary: true, .. } | Proc::Starting { primary: true });
        pg.proc = Proc::Down;
        pg.life += 1;
        pg.hung = false;
        pg.held_stop = None;
        pg.stream = None;
        pg.bootstrapping = false;
        if let Some(cluster) = pg.cluster_mut() {
            if clean {
                cluster.state = if primary { ControlState::ShutDown } else { ControlState::ShutDownInRecovery };
                if !primary {
                    cluster.note_recovery();
                }
            }
        }
        self.note(node, || format!("postmaster is gone, clean={clean}"));
        self.tell_writable(node);
        self.drop_children(node);
        if self.nodes[node].agent.process != Process::Dead && self.nodes[node].power != Power::Off {
            self.send(node, 2, Input::PostmasterExited);
            self.poll_job(node);
        }
    }

    /// The job under way looks again, if it was waiting for PostgreSQL.
    pub fn poll_job(&mut self, node: usize) {
        let (delay, life) = (self.nodes[node].rng.between(3, 50), self.nodes[node].agent.life);
        if let Some(job) = self.nodes[node].agent.job.as_ref().filter(|job| job.told) {
            let id = job.id;
            self.after(delay, Event::Job { node, life, id, step: JobStep::Poll });
        }
    }

    /// Standbys of a postmaster that ended notice it at once if the box still answers.
    fn drop_children(&mut self, node: usize) {
        for child in 0..self.nodes.len() {
            let reachable = self.net.is_connected(node, child) && self.nodes[node].power == Power::On;
            let pg = &mut self.nodes[child].pg;
            let ours = pg.stream.as_ref().is_some_and(|stream| stream.upstream == node);
            if ours && reachable {
                pg.stream = None;
                let life = pg.life;
                self.after(RETRY_MS, Event::WalConnect { node: child, life });
            } else if ours {
                self.wal_written(node);
            }
        }
    }

    /// `pg_promote()`. False if it is no running standby.
    pub fn pg_promote(&mut self, node: usize) -> bool {
        if self.nodes[node].pg.proc != Proc::Standby || self.nodes[node].pg.hung {
            return false;
        }
        let extra = std::mem::take(&mut self.nodes[node].slow_promote_ms);
        let takes = self.takes(node, 30, 1_000) + extra;
        let pg = &mut self.nodes[node].pg;
        pg.proc = Proc::Promoting;
        pg.stream = None;
        let life = pg.life;
        self.nodes[node].promoted_by = self.nodes[node].agent.life;
        self.after(takes, Event::PgPromoted { node, life });
        true
    }

    /// The promotion is done.
    pub fn pg_promoted(&mut self, node: usize, life: u64) {
        let record = self.unique();
        let delay = self.takes(node, 200, 6_000);
        let pg = &mut self.nodes[node].pg;
        if pg.life != life || pg.proc != Proc::Promoting {
            return;
        }
        if pg.hung {
            self.after(500, Event::PgPromoted { node, life });
            return;
        }
        pg.proc = Proc::Primary;
        pg.upstream = None;
        let Some(cluster) = pg.cluster_mut() else { return };
        let from = cluster.wal.timeline();
        let to = from.max(cluster.seen_timeline) + 1;
        cluster.wal.branch(record, to);
        cluster.seen_timeline = to;
        cluster.state = ControlState::InProduction;
        cluster.min_recovery = (0, 0);
        let by_agent = !self.nodes[node].stray;
        self.fact(Fact::Branched { node, from, to, by_agent });
        if self.nodes[node].promoted_by != self.nodes[node].agent.life && !self.nodes[node].guard.stands() {
            // Begun by an earlier life of the agent: nothing but the next look tells the new one. A guard stops it.
            let until = self.now + (self.options.loop_wait_s + self.options.retry_timeout_s) * 1000 + 2_000;
            self.fact(Fact::Excused { node, until });
        }
        self.tell_writable(node);
        self.wal_written(node);
        self.after(delay, Event::PgCheckpoint { node, life });
        self.poll_job(node);
    }

    /// The checkpoint after a promotion.
    pub fn pg_checkpointed(&mut self, node: usize, life: u64) {
        let record = self.unique();
        let pg = &mut self.nodes[node].pg;
        if pg.life == life && pg.proc == Proc::Primary && !pg.hung {
            if let Some(cluster) = pg.cluster_mut() {
                cluster.write_checkpoint(record);
            }
            self.wal_written(node);
        }
    }

    /// There is more WAL: it is sent to those who stream.
    pub fn wal_written(&mut self, node: usize) {
        for child in 0..self.nodes.len() {
            let lag = self.nodes[child].wal_lag_ms;
            let Some(stream) = self.nodes[child].pg.stream.as_mut() else { continue };
            if stream.upstream == node && !stream.pending {
                stream.pending = true;
                let id = stream.id;
                let latency = self.net.latency();
                self.after(latency + lag, Event::WalDeliver { node: child, stream: id });
            }
        }
    }

    /// A standby's WAL receiver tries its upstream.
    pub fn wal_connect(&mut self, node: usize, life: u64) {
        let pg = &self.nodes[node].pg;
        if pg.life != life || pg.proc != Proc::Standby || pg.stream.is_some() {
            return;
        }
        let Some(upstream) = pg.upstream else { return };
        if pg.hung || !self.can_stream(node, upstream) {
            self.after(RETRY_MS, Event::WalConnect { node, life });
            return;
        }
        let id = self.unique();
        let timeline = self.nodes[node].pg.timeline();
        let theirs = self.nodes[upstream].pg.timeline();
        self.nodes[node].pg.stream = Some(Stream { upstream, id, pending: true, stalled_since: None });
        self.fact(Fact::Streams { node, timeline, upstream: theirs });
        let latency = self.net.latency();
        self.after(latency, Event::WalDeliver { node, stream: id });
    }

    fn can_stream(&mut self, node: usize, upstream: usize) -> bool {
        let reachable = node != upstream && self.net.is_connected(node, upstream) && self.nodes[upstream].power == Power::On;
        if !reachable || !self.nodes[upstream].pg.is_serving() {
            return false;
        }
        let slot = self.names[node].clone();
        let needs_slot = self.options.use_slots;
        let Some(theirs) = self.nodes[upstream].pg.cluster() else { return false };
        let theirs_timeline = theirs.wal.timeline();
        let Some(ours) = self.nodes[node].pg.cluster() else { return false };
        let fits = ours.system_id == theirs.system_id
            && theirs_timeline >= ours.wal.timeline()
            && ours.wal.is_prefix_of(&theirs.wal)
            && (!needs_slot || theirs.slots.contains_key(&slot));
        let same_cluster = ours.system_id == theirs.system_id;
        let slot_there = theirs.slots.contains_key(&slot);
        let common = ours.wal.common(&theirs.wal);
        let branch = (common < ours.wal.recs.len()).then(|| ours.wal.recs[common]);
        // Even a receiver that cannot stream fetches the history files of newer timelines.
        if let (true, Some(ours)) = (same_cluster, self.nodes[node].pg.cluster_mut()) {
            ours.seen_timeline = ours.seen_timeline.max(theirs_timeline);
        }
        if !fits {
            self.note(node, || format!("cannot stream from n{}: slot={slot_there} first own record {branch:x?}", upstream + 1));
        }
        fits
    }

    /// WAL arrives at a standby.
    pub fn wal_deliver(&mut self, node: usize, id: u64) {
        let now = self.now;
        let Some(stream) = self.nodes[node].pg.stream.as_ref().filter(|stream| stream.id == id) else { return };
        let (upstream, stalled) = (stream.upstream, stream.stalled_since);
        let frozen = self.nodes[upstream].power != Power::On || self.nodes[node].pg.hung;
        if frozen || !self.net.is_connected(node, upstream) || !self.nodes[upstream].pg.is_alive() {
            let since = stalled.unwrap_or(now);
            if now >= since + RECEIVER_TIMEOUT_MS {
                self.nodes[node].pg.stream = None;
                let life = self.nodes[node].pg.life;
                self.after(RETRY_MS, Event::WalConnect { node, life });
                return;
            }
            if let Some(stream) = self.nodes[node].pg.stream.as_mut() {
                stream.stalled_since = Some(since);
            }
            self.after(500, Event::WalDeliver { node, stream: id });
            return;
        }
        self.receive(node, upstream);
    }

    fn receive(&mut self, node: usize, upstream: usize) {
        let Data::Cluster(theirs) = std::mem::replace(&mut self.nodes[upstream].pg.data, Data::Empty) else { return };
        let pg = &mut self.nodes[node].pg;
        let mut more = false;
        let mut broken = false;
        if let Some(ours) = pg.cluster_mut() {
            broken = !ours.wal.is_prefix_of(&theirs.wal);
            if !broken {
                more = ours.wal.extend_from(&theirs.wal);
                ours.seen_timeline = ours.seen_timeline.max(ours.wal.timeline());
                ours.checkpoint = if theirs.checkpoint.1 <= ours.wal.end() { theirs.checkpoint } else { ours.checkpoint };
            }
        }
        if broken {
            pg.stream = None;
        } else if let Some(stream) = pg.stream.as_mut() {
            stream.pending = false;
            stream.stalled_since = None;
        }
        let (life, slot) = (pg.life, self.names[node].clone());
        let mut theirs = theirs;
        let end = self.nodes[node].pg.cluster().map_or(0, |cluster| cluster.wal.end());
        if let Some(position) = theirs.slots.get_mut(&slot) {
            position.0 = end;
        }
        self.nodes[upstream].pg.data = Data::Cluster(theirs);
        if broken {
            self.after(RETRY_MS, Event::WalConnect { node, life });
        }
        if more {
            self.wal_written(node);
        }
    }
}
