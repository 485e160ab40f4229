//! Requests: on the Raft leader in order of arrival, elsewhere on their way to it.
//!
//! A write goes into the log and is answered when it is applied. Everything else (reads, renewals, soft writes) waits until a majority has confirmed
//! that this box still leads the log, and until everything that was proposed before it is applied. Revisions are handed out on arrival. So there is one
//! order for all requests, and a read never misses a change with a lower revision than the one it reports.

use std::collections::{BTreeMap, VecDeque};

use raft::{ReadState, StateRole};

use super::super::codec::Coded;
use super::super::founding;
use super::super::gate;
use super::super::peers::FOUNDED;
use super::super::request::{Answer, Member, Part, Place, Request};
use super::super::state::{Command, KeyLine, Outcome, MAX_STATE};
use super::apply::{Members, Proposal};
use super::{Node, Note, Output, ELECTION_TICKS};
use crate::ha::types::{Instant, Millis};

/// Requests that wait, of all boxes together. Above this they are refused: somebody asks more than anybody needs.
const MAX_WAITING: usize = 1024;

/// A request of more bytes than this waits only behind a few others: all that waits is in memory.
const LONG_REQUEST: usize = 16 * 1024;
/// See [`LONG_REQUEST`].
const MAX_LONG: usize = 16;
/// The longest request in bytes. An entry has to fit into the file with everything else.
const MAX_REQUEST: usize = MAX_STATE + 64 * 1024;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// This box, under this number.
    Here(u64),
    /// Another box, under its number.
    Peer {
        /// Which.
        node: u64,
        /// Its number.
        number: u64,
    },
}

/// A request of this box that is on its way.
pub(super) struct Asked {
    id: u64,
    request: Request,
    until: Instant,
    /// To whom it was passed on, and when.
    sent: Option<(u64, Instant)>,
}

/// A request that waits for confirmation.
struct Waiting {
    asker: Asker,
    request: Request,
    arrived: Instant,
    revision: i64,
    /// The entry that must be applied first.
    barrier: u64,
    /// The round of confirmation that counts for it.
    round: u64,
}

/// The Raft leader's requests.
#[derive(Default)]
pub(super) struct Desk {
    /// The first own entry is applied: what was promised by earlier leaders is known.
    open: bool,
    /// Number of the proposal that opens it.
    opening: u64,
    /// What came before that.
    early: Vec<(Asker, Request)>,
    queue: VecDeque<Waiting>,
    proposed: BTreeMap<u64, Asker>,
    next_proposal: u64,
    /// The highest revision that was handed out.
    revision: i64,
    /// The round that is being confirmed, and the last one that was.
    round: u64,
    confirmed: u64,
    /// See [`Node::set_burden`].
    pub(super) burdened: bool,
    /// This box was asked to leave.
    leaving: bool,
    /// When handing over was tried last.
    handed_over: Option<Instant>,
    leads: bool,
}

impl Desk {
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Takes note of what a majority confirmed.
    pub(super) fn confirm(&mut self, reads: &[ReadState]) {
        for read in reads {
            if let Ok(round) = <[u8; 8]>::try_from(read.request_ctx.as_slice()) {
                self.confirmed = self.confirmed.max(u64::from_le_bytes(round));
            }
        }
    }

    fn waiting(&self) -> usize {
        self.queue.len() + self.proposed.len() + self.early.len()
    }
}

impl Node {
    /// This box wants something from the store. It is answered once, with [`Output::Answer`], unless `until` passes before: then it may be, or not.
    pub fn request(&mut self, now: Instant, id: u64, request: Request, until: Instant) {
        if self.asked.len() >= MAX_WAITING {
            self.out.push(Output::Answer { id, answer: Answer::Refused("too many requests are under way".to_owned()) });
            return;
        }
        let number = self.next_ask;
        self.next_ask += 1;
        self.asked.insert(number, Asked { id, request, until, sent: None });
        self.pass_on(now, number);
        self.turn(now);
    }

    /// To the Raft leader, if there is one.
    fn pass_on(&mut self, now: Instant, number: u64) {
        let Some(leader) = self.leader() else { return };
        let Some(asked) = self.asked.get_mut(&number) else { return };
        asked.sent = Some((leader, now));
        let request = asked.request.clone();
        if leader == self.raft.raft.id {
            self.take(now, Asker::Here(number), request);
        } else {
            self.send(leader, Note::Ask { number, request });
        }
    }

    /// An answer from another box. Only the one that was asked last is heard.
    pub(super) fn told_by(&mut self, from: u64, number: u64, answer: Answer) {
        if self.asked.get(&number).is_some_and(|asked| asked.sent.is_some_and(|(to, _)| to == from)) {
            self.told(number, answer);
        }
    }

    /// An answer for this box.
    fn told(&mut self, number: u64, answer: Answer) {
        if let Some(asked) = self.asked.remove(&number) {
            self.out.push(Output::Answer { id: asked.id, answer });
        }
    }

    fn tell(&mut self, asker: Asker, answer: Answer) {
        match asker {
            Asker::Here(number) => self.told(number, answer),
            Asker::Peer { node, number } => self.send(node, Note::Tell { number, answer }),
        }
    }

    /// A request arrives at this box as the Raft leader.
    pub(super) fn take(&mut self, now: Instant, asker: Asker, request: Request) {
        if !self.leads() || self.desk.waiting() >= MAX_WAITING {
            self.tell(asker, Answer::Busy);
            return;
        }
        let length = request.to_bytes().len();
        if length > LONG_REQUEST && self.desk.waiting() >= MAX_LONG {
            return self.tell(asker, Answer::Busy);
        }
        if length > MAX_REQUEST {
            return self.tell(asker, Answer::Refused("the request is longer than the store may get".to_owned()));
        }
        if !self.desk.open {
            self.desk.early.push((asker, request));
            return;
        }
        let command = match request {
            Request::Grant { ttl } => Command::Grant { lease: self.new_lease(), ttl },
            Request::Revoke { lease } => Command::Revoke { lease },
            Request::Txn(txn) => Command::Txn(txn),
            Request::Members(members) => return self.change_members(asker, members),
            Request::Join { node, place } => return self.admit(asker, node, &place),
            request => return self.queue(now, asker, request),
        };
        let number = self.expect(asker);
        if !self.propose(number, &command) {
            self.settle_proposal(number, Answer::Busy);
        }
    }

    fn queue(&mut self, now: Instant, asker: Asker, request: Request) {
        let revision = self.next_revision();
        let barrier = self.raft.raft.raft_log.last_index();
        // A round that is under way may have been confirmed before this came.
        let round = self.desk.round + 1;
        self.desk.queue.push_back(Waiting { asker, request, arrived: now, revision, barrier, round });
    }

    /// Starts the next round where one is due, and answers what is confirmed.
    pub(super) fn serve(&mut self) {
        if !self.desk.open {
            return;
        }
        let due = self.desk.queue.back().is_some_and(|last| last.round > self.desk.round);
        if due && self.desk.confirmed == self.desk.round {
            self.desk.round += 1;
            self.raft.read_index(self.desk.round.to_le_bytes().to_vec());
        }
        loop {
            self.renumber();
            let Some(first) = self.desk.queue.front() else { return };
            if first.round > self.desk.confirmed || first.barrier > self.raft.store().applied.0 {
                return;
            }
            let Some(mut first) = self.desk.queue.pop_front() else { return };
            match self.answer(&first) {
                Some(answer) => self.tell(first.asker, answer),
                None => {
                    first.barrier = self.raft.raft.raft_log.last_index();
                    self.desk.queue.push_front(first);
                    return;
                }
            }
        }
    }

    /// Later requests went through the log while a soft write waited for its confirmation. It comes after them: with a number of its own, and when
    /// all that got a lower one is applied. Else an entry could get a revision that was already read.
    fn renumber(&mut self) {
        let seen = self.raft.store().state.revision();
        if !self.desk.queue.front().is_some_and(|first| matches!(first.request, Request::Soft(_)) && first.revision <= seen) {
            return;
        }
        let (revision, barrier) = (self.next_revision(), self.raft.raft.raft_log.last_index());
        if let Some(first) = self.desk.queue.front_mut() {
            (first.revision, first.barrier) = (revision, barrier);
        }
    }

    /// `None`: not before everything that is proposed by now is applied.
    fn answer(&mut self, waiting: &Waiting) -> Option<Answer> {
        let state = &mut self.raft.mut_store().state;
        match &waiting.request {
            Request::Range(span) => Some(Answer::Range { revision: state.revision(), found: state.range(span) }),
            Request::Renew { lease } => {
                let Some(ttl) = state.ttl(*lease) else { return Some(Answer::LeaseGone) };
                if self.leases.is_ending(*lease) {
                    return None;
                }
                self.leases.extend(*lease, waiting.arrived, ttl);
                Some(Answer::Lease { lease: *lease, ttl })
            }
            Request::Soft(txn) => {
                let mut changes = Vec::new();
                let answer = match state.soft_transact(waiting.revision, txn, &mut changes) {
                    Outcome::Txn { succeeded, results } => Answer::Txn { revision: state.revision(), succeeded, results },
                    Outcome::Refused(why) => Answer::Refused(why.to_owned()),
                    Outcome::LeaseGone => Answer::LeaseGone,
                    Outcome::Done => Answer::Done { revision: state.revision() },
                };
                let changed = changes.iter().filter_map(|change| Some(KeyLine(change.key.clone(), change.record.clone()?)));
                self.spread(changed.collect());
                if !changes.is_empty() {
                    self.out.push(Output::Changed(changes));
                }
                Some(answer)
            }
            Request::Grant { .. } | Request::Revoke { .. } | Request::Txn(_) | Request::Members(_) | Request::Join { .. } => {
                Some(Answer::Busy)
            }
        }
    }

    /// Tells the others about soft keys.
    fn spread(&mut self, lines: Vec<KeyLine>) {
        let members = &self.raft.store().members;
        let me = self.id();
        let others: Vec<u64> = members.voters.iter().chain(&members.learners).copied().filter(|id| *id != me).collect();
        for other in others.into_iter().filter(|_| !lines.is_empty()) {
            self.send(other, Note::Soft(lines.clone()));
        }
    }

    /// A box wants to take part.
    fn admit(&mut self, asker: Asker, node: u64, place: &Place) {
        let store = self.raft.store();
        let known: Vec<(u64, Place)> = store.state.places().iter().map(|(node, place)| (*node, place.clone())).collect();
        let changes = founding::admission(&store.members, &known, node, place);
        if node == 0 || changes.is_empty() {
            return self.tell(asker, Answer::Done { revision: self.raft.store().state.revision() });
        }
        // A box that lost its file does not answer under its old number. One that does is another box with the same name or address.
        let is_there = |member: &Member| self.raft.raft.prs().get(member.node).is_some_and(|peer| peer.recent_active);
        if changes.iter().any(|member| member.part == Part::Gone && is_there(member)) {
            return self.tell(asker, Answer::Refused("a box with this name or address takes part already".to_owned()));
        }
        self.change_members(asker, changes);
    }

    fn change_members(&mut self, asker: Asker, members: Vec<Member>) {
        if self.raft.raft.has_pending_conf() {
            return self.tell(asker, Answer::Refused("another change of the members is under way".to_owned()));
        }
        let mut voters = self.raft.store().members.voters.clone();
        for member in &members {
            voters.retain(|id| *id != member.node);
            if member.part == Part::Voter {
                voters.push(member.node);
            }
        }
        if members.iter().any(|member| member.node == self.raft.raft.id && member.part != Part::Voter) {
            // Somebody else has to carry this out.
            self.desk.leaving = true;
            return self.tell(asker, Answer::Busy);
        }
        let places = self.raft.store().state.places().len();
        let more = members.iter().filter(|member| member.part != Part::Gone).count();
        if (more > 0 && places + more > gate::MAX_MEMBERS) || members.len() > gate::MAX_MEMBERS {
            return self.tell(asker, Answer::Refused("a store has at most 64 boxes".to_owned()));
        }
        if voters.is_empty() || members.is_empty() {
            return self.tell(asker, Answer::Refused("somebody has to vote".to_owned()));
        }
        let number = self.expect(asker);
        let revision = self.next_revision();
        let members = Members(members);
        let change = members.change();
        let context = Proposal { life: self.life, number, revision, what: members }.to_bytes();
        if self.raft.propose_conf_change(context, change).is_err() {
            self.settle_proposal(number, Answer::Busy);
        }
    }

    fn expect(&mut self, asker: Asker) -> u64 {
        self.desk.next_proposal += 1;
        self.desk.proposed.insert(self.desk.next_proposal, asker);
        self.desk.next_proposal
    }

    /// Puts a command into the log; false: not now.
    pub(super) fn propose(&mut self, number: u64, command: &Command) -> bool {
        let revision = self.next_revision();
        let proposal = Proposal { life: self.life, number, revision, what: command.clone() };
        self.raft.propose(Vec::new(), proposal.to_bytes()).is_ok()
    }

    /// A proposal of this run was applied, or could not be made.
    pub(super) fn settle_proposal(&mut self, number: u64, answer: Answer) {
        if let Some(asker) = self.desk.proposed.remove(&number) {
            self.tell(asker, answer);
        }
    }

    fn next_revision(&mut self) -> i64 {
        self.desk.revision = self.desk.revision.max(self.raft.store().state.revision()).saturating_add(1);
        self.desk.revision
    }

    fn new_lease(&mut self) -> i64 {
        loop {
            let lease = i64::try_from(self.random.next() >> 1).unwrap_or(1).max(1);
            if self.raft.store().state.ttl(lease).is_none() {
                return lease;
            }
        }
    }

    /// Opens and closes the desk as this box begins and ceases to lead the log, and passes on what waits when somebody else does.
    pub(super) fn notice_role(&mut self, now: Instant) {
        let leads = self.raft.raft.state == StateRole::Leader;
        if leads != self.desk.leads {
            self.desk.leads = leads;
            if leads {
                self.open_desk(now);
            } else {
                self.close_desk();
            }
        }
        let leader = self.leader();
        let resend: Vec<u64> =
            self.asked.iter().filter(|(_, asked)| asked.sent.map(|(to, _)| to) != leader).map(|(number, _)| *number).collect();
        for number in resend {
            self.ask_again(now, number);
        }
    }

    /// The Raft leader that was asked leads no more.
    fn ask_again(&mut self, now: Instant, number: u64) {
        let Some(asked) = self.asked.get(&number) else { return };
        if asked.sent.is_some() && !asked.request.is_harmless() {
            self.told(number, Answer::Unknown);
        } else if self.leader().is_some() {
            self.pass_on(now, number);
        }
    }

    fn open_desk(&mut self, now: Instant) {
        self.restart_leases(now);
        self.desk.revision = 0;
        self.desk.next_proposal += 1;
        self.desk.opening = self.desk.next_proposal;
        // A Raft leader that cannot write its first entry ceases to lead.
        let cluster = self.random.next().max(FOUNDED + 1);
        self.propose(self.desk.opening, &Command::Begin { cluster });
    }

    /// The first own entry is applied.
    pub(super) fn begun(&mut self, now: Instant, number: u64) {
        if !self.desk.leads || number != self.desk.opening || self.desk.open {
            return;
        }
        self.desk.open = true;
        let lines = self.soft_lines();
        self.spread(lines);
        for (asker, request) in std::mem::take(&mut self.desk.early) {
            self.take(now, asker, request);
        }
    }

    fn close_desk(&mut self) {
        self.leases.forget();
        self.desk.open = false;
        self.desk.leaving = false;
        let proposed = std::mem::take(&mut self.desk.proposed);
        let waiting = std::mem::take(&mut self.desk.queue).into_iter().map(|waiting| waiting.asker);
        let early = std::mem::take(&mut self.desk.early).into_iter().map(|(asker, _)| asker);
        let harmless: Vec<Asker> = waiting.chain(early).collect();
        self.desk.round = self.desk.round.max(self.desk.confirmed);
        self.desk.confirmed = self.desk.round;
        for asker in proposed.into_values() {
            self.tell(asker, Answer::Unknown);
        }
        for asker in harmless {
            self.tell(asker, Answer::Busy);
        }
    }

    /// Forgets requests whose time is over, and asks again what may have been lost on the way and may be asked twice.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.asked.retain(|_, asked| now < asked.until);
        let patience = Millis(self.tick.0 * ELECTION_TICKS as u64);
        let (me, leader) = (self.id(), self.leader());
        let lost = |asked: &Asked| {
            asked.sent.is_some_and(|(to, at)| to != me && Some(to) == leader && now.since(at) >= patience) && asked.request.is_harmless()
        };
        let again: Vec<u64> = self.asked.iter().filter(|(_, asked)| lost(asked)).map(|(number, _)| *number).collect();
        for number in again {
            self.pass_on(now, number);
        }
    }

    /// Lets another box lead the log, if this one would rather not.
    pub(super) fn hand_over(&mut self, now: Instant) {
        let patience = Millis(self.tick.0 * 10 * ELECTION_TICKS as u64);
        let tried = self.desk.handed_over.is_some_and(|at| now.since(at) < patience);
        if !(self.desk.burdened || self.desk.leaving) || !self.desk.open || tried || self.desk.waiting() > 0 {
            return;
        }
        let (me, last) = (self.id(), self.raft.raft.raft_log.last_index());
        let fit = |id: &u64| self.raft.raft.prs().get(*id).is_some_and(|peer| peer.recent_active && peer.matched == last);
        let next = self.raft.store().members.voters.iter().copied().filter(|id| *id != me).find(fit);
        if let Some(next) = next {
            self.desk.handed_over = Some(now);
            self.raft.transfer_leader(next);
        }
    }
}

impl Request {
    /// Asking twice does what asking once does.
    fn is_harmless(&self) -> bool {
        matches!(self, Request::Range(_) | Request::Renew { .. })
    }
}
