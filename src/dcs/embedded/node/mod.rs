//! One box of the store: the consensus library, the log, the leases and the requests under way. No I/O and no clock: times, messages and
//! finished writes come in, [`Output`]s go out.
//!
//! - What follows from a change of the log leaves the box only after the change is on the disk ([`Output::Write`] → [`Node::written`]). The one
//!   exception is the answer to a heartbeat: it promises nothing that is stored, and a slow disk must not look like a dead box.
//! - Requests are answered by the Raft leader, in the order in which they arrived there: [`desk`]. Others pass them on to it.
//! - A lease ends by an entry of the log, proposed by the Raft leader when its own clock says so: [`leases`].

mod apply;
mod desk;
mod leases;

use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::{Message, MessageType};
use raft::{RawNode, SnapshotStatus, StateRole};

use self::desk::{Asked, Asker, Desk};
use self::leases::Leases;
use super::codec::{Coded, Malformed, Reader, Writer};
use super::gate;
use super::journal::{FileOp, Image, Journal, Record};
use super::log::Log;
use super::proto;
use super::request::{Answer, Request};
use super::state::{Change, KeyLine};
use crate::ha::types::{Instant, Millis};

/// An election begins when nothing was heard of the Raft leader for this many ticks, and up to twice as many.
pub const ELECTION_TICKS: usize = 10;
/// The Raft leader is heard once in so many ticks.
const HEARTBEAT_TICKS: usize = 2;

/// What a box sends to another one.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// Of the consensus library.
    Raft(Box<Message>),
    /// A request, passed on to the Raft leader.
    Ask {
        /// The sender's number of it.
        number: u64,
        /// What.
        request: Request,
    },
    /// The answer.
    Tell {
        /// The asker's number of the request.
        number: u64,
        /// What.
        answer: Answer,
    },
    /// Soft keys as the Raft leader has them.
    Soft(Vec<KeyLine>),
}

/// What is to be done. In this order; writes one after the other.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send it. It may be lost.
    Send {
        /// To which box.
        to: u64,
        /// What.
        note: Note,
    },
    /// Change the file, then call [`Node::written`].
    Write {
        /// Number of the write.
        number: u64,
        /// What.
        op: FileOp,
    },
    /// Answer a request of this box.
    Answer {
        /// Number of the request.
        id: u64,
        /// What.
        answer: Answer,
    },
    /// Keys changed.
    Changed(Vec<Change>),
}

/// What is known of the store from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Number of this box.
    pub node: u64,
    /// The Raft leader, if one is known.
    pub leader: Option<u64>,
    /// Raft's term.
    pub term: u64,
    /// Index of the last entry, and of the last one applied.
    pub last: u64,
    /// See `last`.
    pub applied: u64,
    /// Who votes.
    pub voters: Vec<u64>,
    /// Who keeps a copy only.
    pub learners: Vec<u64>,
}

/// Why a box cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file's content is not ours.
    #[error("the snapshot cannot be read: {0}")]
    Snapshot(#[from] Malformed),
    /// This is not a box of the store: the consensus library does not accept it.
    #[error("{0}")]
    Raft(#[from] raft::Error),
}

/// A box of the store.
pub struct Node {
    raft: RawNode<Log>,
    journal: Journal,
    random: Random,
    tick: Millis,
    next_tick: Instant,
    /// Term and role for which `timeout` was drawn.
    shape: (u64, StateRole),
    /// Ticks without a Raft leader until this box wants to be it.
    timeout: usize,
    /// The term for which this box asked for votes last.
    vote_sent: u64,
    /// Tells the proposals of this run of the program from those of an earlier one.
    life: u64,
    desk: Desk,
    leases: Leases,
    asked: BTreeMap<u64, Asked>,
    next_ask: u64,
    writes: VecDeque<Pending>,
    out: Vec<Output>,
}

/// Something that waits for the disk.
struct Pending {
    /// Number of the library's [`raft::Ready`].
    number: u64,
    /// A write of the file belongs to it. Without one it waits only for those before it.
    writes: bool,
    /// The write holds a new term or vote.
    votes: bool,
    /// What is sent after it.
    messages: Vec<Message>,
}

impl Node {
    /// A box with the content of its file. `seed` is random, for this run of the program alone: numbers of leases and of runs come from it, and must
    /// never come twice.
    ///
    /// # Errors
    /// The content is not usable.
    pub fn new(image: Image, journal: Journal, seed: u64, tick: Millis, now: Instant) -> Result<Node, Error> {
        let mut random = Random(seed);
        let config = raft::Config {
            id: image.node,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: image.snapshot.get_metadata().index,
            max_size_per_msg: 256 * 1024,
            max_inflight_msgs: 16,
            max_uncommitted_size: 2 * 1024 * 1024,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::default()
        };
        gate::image(&image)?;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft = RawNode::new(&config, Log::new(image)?, &logger)?;
        let shape = (raft.raft.term, raft.raft.state);
        let life = random.next();
        // An answer to a request of an earlier run must not be taken for one to this run's.
        let next_ask = random.next() >> 1;
        let mut node = Node {
            raft,
            journal,
            random,
            tick,
            next_tick: now + tick,
            shape,
            timeout: 0,
            vote_sent: 0,
            life,
            desk: Desk::default(),
            leases: Leases::default(),
            asked: BTreeMap::new(),
            next_ask,
            writes: VecDeque::new(),
            out: Vec::new(),
        };
        // What was agreed upon counts at once, above all who the members are.
        node.turn(now);
        if node.raft.store().members.voters == [node.id()] && gate::is_settled(&node.raft.raft) {
            // Nobody else could lead the log, so nobody is waited for.
            let _ = node.raft.campaign();
            node.turn(now);
        }
        Ok(node)
    }

    /// Number of this box.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.raft.raft.id
    }

    /// The log and the state, as far as they are known here. For a look only: what decides is asked with a [`Request`].
    #[must_use]
    pub fn log(&self) -> &Log {
        self.raft.store()
    }

    /// What is known of the store from here.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let (raft, log) = (&self.raft.raft, self.raft.store());
        Standing {
            node: raft.id,
            leader: self.leader(),
            term: raft.term,
            last: log.last(),
            applied: log.applied.0,
            voters: log.members.voters.clone(),
            learners: log.members.learners.clone(),
        }
    }

    /// This box is the Raft leader, as far as it knows.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    fn leader(&self) -> Option<u64> {
        Some(self.raft.raft.leader_id).filter(|id| *id != 0)
    }

    /// When [`Node::advance`] has to be called at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        self.next_tick
    }

    /// How long a tick is from now on. An election takes ten to twenty of them.
    pub fn set_tick(&mut self, tick: Millis) {
        self.tick = tick;
    }

    /// This box would rather not be the Raft leader: PostgreSQL's primary runs on it, and losing both at once takes longer.
    pub fn set_burden(&mut self, burdened: bool) {
        self.raft.set_priority(if burdened { -1 } else { 0 });
        self.desk.burdened = burdened;
    }

    /// What is to be done now.
    pub fn outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.out)
    }

    /// Time goes on. After a pause only one tick is made up for: a box that was stopped knows nothing about the time in between.
    pub fn advance(&mut self, now: Instant) {
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + self.tick;
        if gate::may_tick(&self.raft.raft) {
            self.raft.tick();
        }
        self.end_leases(now);
        self.sweep(now);
        self.hand_over(now);
        self.turn(now);
    }

    /// A box is connected (again).
    pub fn connected(&mut self, peer: u64) {
        if self.leads() {
            let lines = self.soft_lines();
            self.send(peer, Note::Soft(lines));
        }
    }

    /// A message to this box got lost, or its connection did.
    pub fn unreachable(&mut self, now: Instant, peer: u64) {
        self.raft.report_unreachable(peer);
        self.raft.report_snapshot(peer, SnapshotStatus::Failure);
        self.turn(now);
    }

    /// Another box, whose number was proven by its connection, sent this.
    ///
    /// # Errors
    /// It cannot be from a box that follows the rules. Nothing was done.
    pub fn hear(&mut self, now: Instant, from: u64, note: Note) -> Result<(), Malformed> {
        match note {
            Note::Raft(message) => {
                if gate::admit(&self.raft.raft, from, self.vote_sent, &message)? {
                    // What the library does not want to hear it ignores.
                    let _ = self.raft.step(*message);
                }
            }
            Note::Ask { number, request } => self.take(now, Asker::Peer { node: from, number }, request),
            Note::Tell { number, answer } => self.told_by(from, number, answer),
            // Whoever leads the log knows them better than anybody else. It tells them as soon as it is connected, when a box may not know yet who leads.
            Note::Soft(lines) if self.leader().is_none_or(|leader| leader == from) => {
                for KeyLine(key, record) in lines {
                    self.raft.mut_store().state.hear(key, record);
                }
            }
            Note::Soft(_) => {}
        }
        self.turn(now);
        Ok(())
    }

    /// A write is on the disk.
    pub fn written(&mut self, now: Instant, number: u64) {
        let mut done = None;
        while let Some(first) = self.writes.front() {
            if first.writes && first.number > number {
                break;
            }
            done = Some(first.number);
            for message in self.writes.pop_front().map(|pending| pending.messages).unwrap_or_default() {
                self.send_raft(message);
            }
        }
        if let Some(number) = done {
            self.raft.on_persist_ready(number);
        }
        self.turn(now);
    }

    /// Carries on until the library has nothing more to say.
    fn turn(&mut self, now: Instant) {
        loop {
            self.draw_timeout();
            self.notice_role(now);
            self.serve();
            if !self.raft.has_ready() {
                return;
            }
            self.take_ready(now);
        }
    }

    fn take_ready(&mut self, now: Instant) {
        let mut ready = self.raft.ready();
        let votes = ready.hs().is_some_and(|new| (new.term, new.vote) != (self.raft.store().hard.term, self.raft.store().hard.vote));
        // A Raft leader's entries go out before they are on its own disk. Its term does not: a single voter elects itself without asking anybody,
        // and after a power cut it would give the same term to other entries.
        let mut after = ready.take_messages();
        if !votes && !self.writes.iter().any(|pending| pending.votes) {
            for message in std::mem::take(&mut after) {
                self.send_raft(message);
            }
        }
        let (snapshot, entries) = (ready.snapshot().clone(), ready.take_entries());
        let store = self.raft.mut_store();
        if !snapshot.is_empty() && store.restore(&snapshot).is_err() {
            // Checked when it came, see `gate::admit`.
            log::error!("store: a snapshot that was accepted cannot be read");
        }
        store.append(&entries);
        if let Some(hard) = ready.hs() {
            store.hard = hard.clone();
        }
        let (number, writes) = (ready.number(), ready.must_sync());
        let (reads, committed) = (ready.take_read_states(), ready.take_committed_entries());
        for message in ready.take_persisted_messages() {
            if message.get_msg_type() == MessageType::MsgHeartbeatResponse {
                self.send_raft(message);
            } else {
                after.push(message);
            }
        }
        self.raft.advance_append_async(ready);
        if !snapshot.is_empty() {
            // The library wants to be told before anything else happens. Nobody else is: what it answers waits for the disk below.
            self.raft.on_persist_ready(number);
            self.raft.advance_apply_to(snapshot.get_metadata().index);
        }
        let whole = !snapshot.is_empty();
        self.persist(Pending { number, writes, votes, messages: after }, whole, entries);
        self.apply(now, committed);
        self.desk.confirm(&reads);
    }

    fn persist(&mut self, pending: Pending, whole: bool, entries: Vec<raft::eraftpb::Entry>) {
        let number = pending.number;
        if !pending.writes && self.writes.is_empty() {
            for message in pending.messages {
                self.send_raft(message);
            }
            self.raft.on_persist_ready(number);
            return;
        }
        if pending.writes {
            let hard = &self.raft.store().hard;
            let record = Record { term: hard.term, vote: hard.vote, commit: hard.commit, entries };
            let op = if whole { None } else { self.journal.append(&record) };
            let op = op.unwrap_or_else(|| self.compact());
            self.out.push(Output::Write { number, op });
        }
        self.writes.push_back(pending);
    }

    /// The file anew, with the state in place of the entries that led to it.
    fn compact(&mut self) -> FileOp {
        let image = self.raft.store().image(self.id());
        self.raft.mut_store().compact();
        let (journal, op) = Journal::create(&image, self.random.next());
        self.journal = journal;
        op
    }

    /// The library draws its election timeouts from a generator of the thread. Here each comes from the seed, once for every term and role.
    fn draw_timeout(&mut self) {
        let shape = (self.raft.raft.term, self.raft.raft.state);
        if self.timeout == 0 || shape != self.shape {
            self.shape = shape;
            self.timeout = ELECTION_TICKS + self.random.below(ELECTION_TICKS);
        }
        self.raft.raft.set_randomized_election_timeout(self.timeout);
    }

    fn send_raft(&mut self, message: Message) {
        if message.to == self.id() || !proto::is_sent(&message) {
            return;
        }
        let to = message.to;
        if message.get_msg_type() == MessageType::MsgRequestVote {
            self.vote_sent = message.term;
        }
        let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
        self.send(to, Note::Raft(Box::new(message)));
        if is_snapshot {
            // On its way. If it gets lost, so does the connection.
            self.raft.report_snapshot(to, SnapshotStatus::Finish);
        }
    }

    fn send(&mut self, to: u64, note: Note) {
        self.out.push(Output::Send { to, note });
    }

    fn soft_lines(&self) -> Vec<KeyLine> {
        self.raft.store().state.soft().map(|(key, record)| KeyLine(key.to_vec(), record.clone())).collect()
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough to keep two boxes from doing the same at the same time, and the same for the same seed.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit.max(1) as u64)).unwrap_or(0)
    }
}

impl Coded for Note {
    fn write(&self, out: &mut Writer) {
        match self {
            Note::Raft(message) => {
                out.u8(0);
                message.write(out);
            }
            Note::Ask { number, request } => {
                out.u8(1);
                out.u64(*number);
                request.write(out);
            }
            Note::Tell { number, answer } => {
                out.u8(2);
                out.u64(*number);
                answer.write(out);
            }
            Note::Soft(lines) => {
                out.u8(3);
                out.list(lines);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match from.u8("a note")? {
            0 => Note::Raft(Box::new(Message::read(from)?)),
            1 => Note::Ask { number: from.u64("a number")?, request: Request::read(from)? },
            2 => Note::Tell { number: from.u64("a number")?, answer: Answer::read(from)? },
            3 => Note::Soft(from.list("keys")?),
            number => return Err(Malformed::Unknown { what: "a note", number }),
        })
    }
}
