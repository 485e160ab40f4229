//! A peer that says anything: no message, no file and no state may make a box panic, now or at a later start.
//!
//! One box in every role, with a disk that lags behind, is given notes that are almost right: they get past the first checks more often than noise.
//! Some of its peers answer honestly, so that it really leads, commits and changes members. Now and then it starts again from what it has written.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Mutex;

use mastiff::dcs::embedded::codec::{Coded, Writer};
use mastiff::dcs::embedded::journal::{Image, Journal, Record as FileRecord};
use mastiff::dcs::embedded::node::{Node, Note, Output};
use mastiff::dcs::embedded::request::{Answer, Member, Part, Place, Request};
use mastiff::dcs::embedded::state::{Command, KeyLine, Record, State};
use mastiff::dcs::embedded::txn::{Compare, Op, Operand, Order, Span, Txn};
use mastiff::ha::types::{Instant, Millis};
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};
use raft::Storage;

use crate::disk::Disk;
use crate::world::Dice;

const ME: u64 = 1;
const TICK: u64 = 50;
/// Notes, ticks and the like for each seed.
const STEPS: u64 = 80;

/// What the last panic said.
static PANIC: Mutex<String> = Mutex::new(String::new());

pub struct Tally {
    pub taken: u64,
    pub refused: u64,
    pub led: u64,
    pub failed: u64,
}

/// Runs these seeds and prints what panicked.
pub fn run(first: u64, seeds: u64) -> Tally {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(|info| *PANIC.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = info.to_string()));
    let mut tally = Tally { taken: 0, refused: 0, led: 0, failed: 0 };
    for seed in first..first + seeds {
        let mut last = String::new();
        let result = catch_unwind(AssertUnwindSafe(|| one(seed, &mut tally, &mut last)));
        if result.is_err() {
            let why = PANIC.lock().unwrap_or_else(std::sync::PoisonError::into_inner).replace('\n', " ");
            last.truncate(1_000);
            println!("hostile seed {seed}: {why}\n    after: {last}");
            tally.failed += 1;
            if tally.failed >= 10 {
                break;
            }
        }
    }
    std::panic::set_hook(usual);
    tally
}

fn one(seed: u64, tally: &mut Tally, last: &mut String) {
    let mut victim = Victim::new(seed);
    victim.take_a_part(last);
    for _ in 0..STEPS {
        victim.step(tally, last);
        if victim.node.leads() {
            tally.led += 1;
        }
    }
    "an end in peace".clone_into(last);
    victim.restart(last);
    victim.peers = 0;
    victim.ticks(45);
    bytes(&mut victim.dice, last);
}

struct Victim {
    node: Node,
    disk: Disk,
    now: Instant,
    dice: Dice,
    /// In how many of ten cases a peer answers as it should.
    peers: u64,
    next_id: u64,
}

impl Victim {
    fn new(seed: u64) -> Victim {
        let mut dice = Dice::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x686F_7374);
        let image = first_image(&mut dice);
        let mut disk = Disk::default();
        disk.pending.push((0, Journal::create(&image, seed).1));
        disk.flush();
        let (journal, image, _) = Journal::recover(&disk.file).unwrap();
        let now = Instant(1_000_000);
        let node = Node::new(image, journal, seed, Millis(TICK), now).unwrap();
        let peers = [0, 3, 7, 10][pick(&mut dice, 4)];
        Victim { node, disk, now, dice, peers, next_id: 1 }
    }

    /// Follower of a Raft leader with a log, candidate, Raft leader, or as it began.
    fn take_a_part(&mut self, last: &mut String) {
        let role = self.dice.below(5);
        if role <= 2 {
            let entries = (0..self.dice.below(12)).map(|at| entry(&mut self.dice, self.node.log().last() + 1 + at, 1)).collect();
            let mut message = message(MessageType::MsgAppend, 2, 3);
            (message.index, message.log_term) = (self.node.log().last(), self.term_at(self.node.log().last()));
            (message.commit, message.entries) = (self.node.log().last() + self.dice.below(12), entries);
            self.hear(2, Note::Raft(Box::new(message)), last).ok();
            self.flush(last);
        }
        if role >= 2 {
            let usual = std::mem::replace(&mut self.peers, if role == 2 { 0 } else { 10 });
            self.ticks(45);
            self.peers = usual;
        }
    }

    fn step(&mut self, tally: &mut Tally, last: &mut String) {
        match self.dice.below(14) {
            0 => {
                let count = 1 + self.dice.below(25);
                *last = format!("{count} ticks, earlier: {last}");
                self.ticks(count);
            }
            1 | 2 => self.flush(last),
            3 | 4 => self.request(last),
            5 if self.dice.one_in(6) => self.restart(last),
            6 => self.around(last),
            _ => {
                let (from, note) = self.note();
                match self.hear(from, note, last) {
                    Ok(()) => tally.taken += 1,
                    Err(()) => tally.refused += 1,
                }
            }
        }
        self.collect();
    }

    fn hear(&mut self, from: u64, note: Note, last: &mut String) -> Result<(), ()> {
        *last = format!("from {from}: {}", short(&note));
        // On its way it is bytes, mostly.
        let note = if self.dice.one_in(4) { note } else { Note::from_bytes(&note.to_bytes()).map_err(|_| ())? };
        let result = self.node.hear(self.now, from, note).map_err(|_| ());
        self.collect();
        result
    }

    fn ticks(&mut self, count: u64) {
        for _ in 0..count {
            self.now = self.now + Millis(TICK);
            self.node.advance(self.now);
            self.collect();
            if self.peers > 0 || self.dice.one_in(2) {
                self.flush(&mut String::new());
            }
        }
    }

    fn flush(&mut self, last: &mut String) {
        let count = 1 + self.dice.below(3);
        for _ in 0..count {
            if let Some(number) = self.disk.flush() {
                *last = format!("write {number} is done, earlier: {last}");
                self.node.written(self.now, number);
                self.collect();
            }
        }
    }

    fn restart(&mut self, last: &mut String) {
        *last = format!("a new start, earlier: {last}");
        let kept = pick(&mut self.dice, 300);
        self.disk.fail(kept);
        let (mut journal, image, torn) = Journal::recover(&self.disk.file).unwrap();
        if torn {
            let (new, op) = Journal::create(&image, self.dice.below(u64::MAX));
            journal = new;
            self.disk.pending.push((0, op));
            self.disk.flush();
        }
        self.node = Node::new(image, journal, self.dice.below(u64::MAX), Millis(TICK), self.now).unwrap();
        self.collect();
    }

    fn request(&mut self, last: &mut String) {
        let request = request(&mut self.dice, false);
        *last = format!("own request {}", cut(format!("{request:?}")));
        self.next_id += 1;
        let until = self.now + Millis(self.dice.below(3_000));
        self.node.request(self.now, self.next_id, request, until);
    }

    fn around(&mut self, last: &mut String) {
        let peer = self.dice.below(6);
        *last = format!("around peer {peer}, earlier: {last}");
        match self.dice.below(4) {
            0 => self.node.connected(peer),
            1 => self.node.unreachable(self.now, peer),
            2 => self.node.set_burden(self.dice.one_in(2)),
            _ => self.now = self.now + Millis(self.dice.below(20_000)),
        }
    }

    /// Carries out what the box wants, and lets its peers answer.
    fn collect(&mut self) {
        for _ in 0..40 {
            let outputs = self.node.outputs();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                match output {
                    Output::Write { number, op } => self.disk.pending.push((number, op)),
                    Output::Send { to, note: Note::Raft(sent) } if self.dice.below(10) < self.peers => self.answer(to, &sent),
                    Output::Send { note, .. } => {
                        // What it sends can be read.
                        let bytes = note.to_bytes();
                        assert!(Note::from_bytes(&bytes).is_ok(), "it sends what nobody can read: {note:?}");
                    }
                    Output::Answer { .. } | Output::Changed(_) => {}
                }
            }
            // Without the disk nothing goes on.
            if self.peers == 10 {
                if let Some(number) = self.disk.flush() {
                    self.node.written(self.now, number);
                }
            }
        }
    }

    fn answer(&mut self, to: u64, sent: &Message) {
        let (kind, index) = match sent.get_msg_type() {
            MessageType::MsgRequestPreVote => (MessageType::MsgRequestPreVoteResponse, 0),
            MessageType::MsgRequestVote => (MessageType::MsgRequestVoteResponse, 0),
            MessageType::MsgAppend => (MessageType::MsgAppendResponse, sent.index + sent.entries.len() as u64),
            MessageType::MsgSnapshot => (MessageType::MsgAppendResponse, sent.get_snapshot().get_metadata().index),
            MessageType::MsgHeartbeat => (MessageType::MsgHeartbeatResponse, 0),
            _ => return,
        };
        let mut back = message(kind, to, sent.term);
        (back.index, back.commit, back.context) = (index, sent.commit, sent.context.clone());
        let _ = self.node.hear(self.now, to, Note::Raft(Box::new(back)));
    }

    // --- notes ----------------------------------------------------------------

    fn note(&mut self) -> (u64, Note) {
        let leader = self.node.standing().leader.filter(|leader| *leader != ME);
        let from = if self.dice.one_in(15) {
            self.dice.below(6)
        } else {
            leader.filter(|_| self.dice.one_in(2)).unwrap_or(2 + self.dice.below(2))
        };
        let note = match self.dice.below(12) {
            0 | 1 => Note::Ask { number: number(&mut self.dice, 3), request: request(&mut self.dice, true) },
            2 => Note::Tell { number: number(&mut self.dice, self.next_id), answer: Answer::Lease { lease: 1, ttl: 1 } },
            3 => Note::Soft((0..self.dice.below(4)).map(|_| KeyLine(key(&mut self.dice), record(&mut self.dice))).collect()),
            _ => Note::Raft(Box::new(self.message(from))),
        };
        if self.dice.one_in(12) {
            let mut bytes = note.to_bytes();
            mangle(&mut self.dice, &mut bytes);
            if let Ok(note) = Note::from_bytes(&bytes) {
                return (from, note);
            }
        }
        (from, note)
    }

    fn term_at(&self, index: u64) -> u64 {
        self.node.log().term(index).unwrap_or(0)
    }

    fn message(&mut self, from: u64) -> Message {
        let (last, term) = (self.node.log().last(), self.node.standing().term);
        let (commit, dice) = (self.node.log().hard.commit, &mut self.dice);
        let mut message = Message { to: if dice.one_in(20) { dice.below(4) } else { ME }, from, ..Message::default() };
        if dice.one_in(30) {
            message.from = dice.below(5);
        }
        let kinds = [MessageType::MsgAppend, MessageType::MsgAppendResponse, MessageType::MsgHeartbeat, MessageType::MsgSnapshot];
        let kind =
            if dice.one_in(2) { kinds[pick(dice, 4)] } else { MessageType::from_i32(i32::try_from(dice.below(19)).unwrap()).unwrap() };
        message.set_msg_type(kind);
        message.term = match dice.below(8) {
            0 => number(dice, term),
            1 => term + 1,
            _ => term,
        };
        message.index = if dice.one_in(3) { commit + 1 } else { number(dice, last) };
        message.log_term = if dice.one_in(4) { number(dice, term) } else { self.node.log().term(message.index).unwrap_or(0) };
        let near = commit + dice.below(4);
        message.commit = number(dice, near);
        message.commit_term = number(dice, term);
        message.reject = dice.one_in(3);
        message.reject_hint = number(dice, last);
        message.request_snapshot = if dice.one_in(10) { number(dice, 5) } else { 0 };
        message.context = match dice.below(5) {
            0 => b"CampaignTransfer".to_vec(),
            1 => dice.below(9).to_le_bytes().to_vec(),
            _ => vec![],
        };
        message.priority = [0, 1, -1, i64::MAX, i64::MIN][pick(dice, 5)];
        message.deprecated_priority = if dice.one_in(9) { number(dice, 1) } else { 0 };
        if dice.one_in(2) && (kind == MessageType::MsgAppend || dice.one_in(15)) {
            entries(dice, &mut message);
        }
        if kind == MessageType::MsgSnapshot || dice.one_in(20) {
            message.snapshot = Some(snapshot(dice, commit, term));
        }
        message
    }
}

fn entries(dice: &mut Dice, message: &mut Message) {
    let (mut index, mut term) = (message.index, message.log_term.max(1).min(message.term));
    for _ in 0..dice.below(5) {
        index = if dice.one_in(20) { number(dice, index) } else { index.wrapping_add(1) };
        term = match dice.below(20) {
            0 => number(dice, term),
            1..=9 => message.term,
            _ => term,
        };
        message.entries.push(entry(dice, index, term));
    }
}

fn message(kind: MessageType, from: u64, term: u64) -> Message {
    let mut message = Message { to: ME, from, term, ..Message::default() };
    message.set_msg_type(kind);
    message
}

fn first_image(dice: &mut Dice) -> Image {
    if dice.one_in(8) {
        return Image { node: ME, ..Image::default() };
    }
    let mut snapshot = Snapshot { data: state(dice).to_bytes(), ..Snapshot::default() };
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (1 + dice.below(6), 1);
    let (voters, learners) = [(vec![1, 2, 3], vec![]), (vec![1], vec![]), (vec![1], vec![2]), (vec![1, 2], vec![3]), (vec![2, 3], vec![1])]
        [pick(dice, 5)]
    .clone();
    *metadata.mut_conf_state() = ConfState { voters, learners, ..ConfState::default() };
    Image { node: ME, snapshot, tail: FileRecord { term: 1, ..FileRecord::default() } }
}

fn snapshot(dice: &mut Dice, commit: u64, term: u64) -> Snapshot {
    let mut snapshot = Snapshot { data: state(dice).to_bytes(), ..Snapshot::default() };
    if dice.one_in(5) {
        mangle(dice, &mut snapshot.data);
    }
    let near = commit + dice.below(4);
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (number(dice, near), number(dice, term));
    *metadata.mut_conf_state() = members(dice);
    snapshot
}

fn members(dice: &mut Dice) -> ConfState {
    fn some(dice: &mut Dice, one_in: u64) -> Vec<u64> {
        (0..6).filter(|_| dice.one_in(one_in)).collect()
    }
    let mut members = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
    if dice.one_in(3) {
        members.voters = some(dice, 2);
    }
    if dice.one_in(3) {
        members.learners = some(dice, 4);
        members.voters_outgoing = some(dice, 3);
        members.learners_next = some(dice, 5);
        members.auto_leave = dice.one_in(2);
    }
    if dice.one_in(40) {
        members.voters = (1..1 + dice.below(40_000)).collect();
    }
    members
}

/// A state with a few keys and leases.
fn state(dice: &mut Dice) -> State {
    let (mut state, mut changes) = (State::default(), Vec::new());
    for _ in 0..dice.below(5) {
        let command = command(dice);
        state.apply(signed(dice), &command, &mut changes);
    }
    state.settle(&changed(dice));
    state
}

fn entry(dice: &mut Dice, index: u64, term: u64) -> Entry {
    let mut entry = Entry { index, term, ..Entry::default() };
    match dice.below(8) {
        0 | 1 => {
            entry.set_entry_type(EntryType::EntryConfChangeV2);
            if !dice.one_in(5) {
                let change = changed(dice);
                entry.context = proposal(dice, |out| out.list(&change));
            }
        }
        2 => entry.data = vec![7; pick(dice, 60)],
        3 if dice.one_in(3) => entry.set_entry_type(EntryType::EntryConfChange),
        _ => {
            let command = command(dice);
            entry.data = proposal(dice, |out| command.write(out));
        }
    }
    if dice.one_in(15) {
        mangle(dice, &mut entry.data);
        mangle(dice, &mut entry.context);
    }
    entry
}

/// What the data of an entry begins with: whose it is, its number, its revision.
fn proposal(dice: &mut Dice, what: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut out = Writer::default();
    out.u64(number(dice, 0));
    out.u64(number(dice, 1));
    out.i64(signed(dice));
    what(&mut out);
    out.finish()
}

fn command(dice: &mut Dice) -> Command {
    match dice.below(6) {
        0 => Command::Begin { cluster: number(dice, 7) },
        1 => Command::Grant { lease: signed(dice), ttl: number(dice, 1_000) },
        2 => Command::Revoke { lease: signed(dice) },
        _ => Command::Txn(txn(dice, false)),
    }
}

fn request(dice: &mut Dice, hostile: bool) -> Request {
    match dice.below(8) {
        0 => Request::Range(span(dice)),
        1 => Request::Grant { ttl: number(dice, 1_000) },
        2 => Request::Renew { lease: signed(dice) },
        3 => Request::Revoke { lease: signed(dice) },
        4 => Request::Txn(txn(dice, hostile)),
        5 => Request::Soft(txn(dice, hostile)),
        _ => Request::Members(changed(dice)),
    }
}

fn changed(dice: &mut Dice) -> Vec<Member> {
    let count = if dice.one_in(60) { dice.below(3_000) } else { dice.below(4) };
    (0..count)
        .map(|_| {
            let node = if dice.one_in(10) { number(dice, 9) } else { 1 + dice.below(5) };
            let part = [Part::Voter, Part::Learner, Part::Gone][pick(dice, 3)];
            Member { node: node.max(1), part, place: Place { name: "n".to_owned(), address: "[::1]:1".to_owned() } }
        })
        .collect()
}

fn txn(dice: &mut Dice, large: bool) -> Txn {
    let when = (0..dice.below(3)).map(|_| compare(dice)).collect();
    let then = (0..dice.below(4)).map(|_| op(dice, large)).collect();
    Txn { when, then, otherwise: (0..dice.below(2)).map(|_| op(dice, large)).collect() }
}

fn compare(dice: &mut Dice) -> Compare {
    let operand = match dice.below(5) {
        0 => Operand::Created(signed(dice)),
        1 => Operand::Modified(signed(dice)),
        2 => Operand::Version(signed(dice)),
        3 => Operand::Lease(signed(dice)),
        _ => Operand::Value(key(dice)),
    };
    Compare { key: key(dice), order: [Order::Equal, Order::Greater, Order::Less, Order::NotEqual][pick(dice, 4)], operand }
}

fn op(dice: &mut Dice, large: bool) -> Op {
    match dice.below(5) {
        0 => Op::Range(span(dice)),
        1 => Op::Delete(span(dice)),
        _ => {
            let length = if large && dice.one_in(200) { 300_000 } else { pick(dice, 40) };
            Op::Put { key: key(dice), value: vec![b'v'; length], lease: if dice.one_in(3) { signed(dice) } else { 0 } }
        }
    }
}

fn span(dice: &mut Dice) -> Span {
    Span { key: key(dice), end: if dice.one_in(2) { key(dice) } else { vec![] } }
}

fn key(dice: &mut Dice) -> Vec<u8> {
    let known: [&[u8]; 6] = [b"", b"\0", b"a", b"b", b"ab", b"\xff\xff"];
    known[pick(dice, 6)].to_vec()
}

fn record(dice: &mut Dice) -> Record {
    let value = vec![b's'; pick(dice, 50)];
    Record { value, created: signed(dice), modified: signed(dice), version: signed(dice), lease: signed(dice) }
}

fn pick(dice: &mut Dice, count: u64) -> usize {
    usize::try_from(dice.below(count)).unwrap()
}

/// A number near another one, or at an edge.
fn number(dice: &mut Dice, near: u64) -> u64 {
    match dice.below(24) {
        0 => 0,
        1 => u64::MAX,
        2 => u64::MAX - 1,
        3 => 1,
        4 => (1 << 62) - 1 - dice.below(2),
        5 | 6 => near.wrapping_add(1),
        7 => near.wrapping_add(100),
        8 | 9 => near.saturating_sub(1),
        10 | 11 => dice.below(15),
        _ => near,
    }
}

fn signed(dice: &mut Dice) -> i64 {
    match dice.below(12) {
        0 => i64::MAX,
        1 => i64::MIN,
        2 => -1,
        3 => i64::MAX - 1,
        4 => 1 << 61,
        _ => i64::try_from(dice.below(6)).unwrap(),
    }
}

// --- bytes --------------------------------------------------------------------

fn mangle(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..1 + dice.below(3) {
        let at = pick(dice, bytes.len().max(1) as u64);
        match dice.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), u8::try_from(dice.below(256)).unwrap()),
            2 => {
                let value = [0, 1, u32::MAX, 1 << 31, 4_096][pick(dice, 5)].to_le_bytes();
                bytes.iter_mut().skip(at).zip(value).for_each(|(byte, new)| *byte = new);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << dice.below(8);
                }
            }
        }
    }
}

/// Files and states with wrong bytes, and files whose checksums are right and whose content is not.
fn bytes(dice: &mut Dice, last: &mut String) {
    "bytes".clone_into(last);
    let mut state = state(dice).to_bytes();
    mangle(dice, &mut state);
    let _ = State::from_bytes(&state);
    let mut image = first_image(dice);
    let first = image.snapshot.get_metadata().index;
    for at in 0..dice.below(4) {
        image.tail.entries.push(entry(dice, first + 1 + at, 1));
    }
    let (mut journal, op) = Journal::create(&image, 5);
    let mut disk = Disk::default();
    disk.pending.push((0, op));
    let entries = vec![entry(dice, first + 1, 2)];
    disk.pending.extend(journal.append(&FileRecord { term: 2, entries, ..FileRecord::default() }).map(|op| (1, op)));
    while disk.flush().is_some() {}
    mangle(dice, &mut disk.file);
    if let Ok((journal, image, _)) = Journal::recover(&disk.file) {
        start(image, journal);
    }
    let mut content = image.to_bytes();
    mangle(dice, &mut content);
    if let Ok(image) = Image::from_bytes(&content) {
        *last = format!("a file with {}", cut(format!("{image:?}")));
        let (journal, _) = Journal::create(&image, 5);
        start(image, journal);
    }
}

fn start(image: Image, journal: Journal) {
    let now = Instant(5);
    let Ok(mut node) = Node::new(image, journal, 3, Millis(TICK), now) else { return };
    for tick in 0..45 {
        node.advance(now + Millis(tick * TICK));
        for output in node.outputs() {
            if let Output::Write { number, .. } = output {
                node.written(now + Millis(tick * TICK), number);
            }
        }
    }
}

fn short(note: &Note) -> String {
    cut(format!("{note:?}"))
}

fn cut(text: String) -> String {
    text.chars().take(900).collect()
}
