//! Single rules that no random world meets often enough, each with two or three boxes and no time to lose.

use mastiff::dcs::embedded::codec::Coded;
use mastiff::dcs::embedded::journal::{Image, Journal, Record as FileRecord};
use mastiff::dcs::embedded::node::{Node, Note, Output};
use mastiff::dcs::embedded::request::{Answer, Member, Part, Place, Request};
use mastiff::dcs::embedded::state::{Done, KeyLine, Record, State, MAX_STATE};
use mastiff::dcs::embedded::txn::{Op, Span, Txn};
use mastiff::ha::types::{Instant, Millis};
use raft::eraftpb::{ConfState, Message, MessageType, Snapshot};

use crate::disk::Disk;

const TICK: u64 = 50;

/// Boxes whose messages and writes are carried out at once, unless they are held.
struct Boxes {
    nodes: Vec<Node>,
    disks: Vec<Disk>,
    now: Instant,
    /// Answers to the requests of all boxes.
    answers: Vec<(u64, Answer)>,
    /// What was sent, undelivered while `held`.
    wire: Vec<(u64, u64, Note)>,
    held: bool,
    /// Nothing reaches the disks.
    stalled: bool,
    seed: u64,
}

impl Boxes {
    fn new(voters: &[u64], learners: &[u64], all: &[u64]) -> Boxes {
        let mut boxes =
            Boxes { nodes: vec![], disks: vec![], now: Instant(9), answers: vec![], wire: vec![], held: false, stalled: false, seed: 1 };
        for id in all {
            let mut image = Image { node: *id, ..Image::default() };
            if voters.contains(id) || learners.contains(id) {
                let mut snapshot = Snapshot { data: State::default().to_bytes(), ..Snapshot::default() };
                (snapshot.mut_metadata().index, snapshot.mut_metadata().term) = (1, 1);
                *snapshot.mut_metadata().mut_conf_state() =
                    ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..ConfState::default() };
                image = Image { node: *id, snapshot, tail: FileRecord { term: 1, ..FileRecord::default() } };
            }
            let (journal, op) = Journal::create(&image, *id);
            let mut disk = Disk::default();
            disk.pending.push((0, op));
            disk.flush();
            boxes.disks.push(disk);
            boxes.nodes.push(Node::new(image, journal, *id, Millis(TICK), boxes.now).unwrap());
        }
        boxes
    }

    fn of(&mut self, id: u64) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id() == id).unwrap()
    }

    /// Until nothing moves any more.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            let mut moved = false;
            for (node, disk) in self.nodes.iter_mut().zip(&mut self.disks) {
                for output in node.outputs() {
                    moved = true;
                    match output {
                        Output::Send { to, note } => self.wire.push((node.id(), to, note)),
                        Output::Write { number, op } => disk.pending.push((number, op)),
                        Output::Answer { id, answer } => self.answers.push((id, answer)),
                        Output::Changed(_) => {}
                    }
                }
                while let Some(number) = if self.stalled { None } else { disk.flush() } {
                    node.written(self.now, number);
                    moved = true;
                }
            }
            if !self.held {
                self.deliver(|_| true);
            }
            if !moved {
                return;
            }
        }
    }

    fn deliver(&mut self, wanted: impl Fn(&(u64, u64, Note)) -> bool) {
        let (now, (go, stay)) = (self.now, std::mem::take(&mut self.wire).into_iter().partition(|sent| wanted(sent)));
        self.wire = stay;
        let go: Vec<(u64, u64, Note)> = go;
        for (from, to, note) in go {
            if let Some(node) = self.nodes.iter_mut().find(|node| node.id() == to) {
                node.hear(now, from, note).unwrap();
            }
        }
    }

    fn tick(&mut self, id: u64, count: u64) {
        for _ in 0..count {
            self.now = self.now + Millis(TICK);
            let now = self.now;
            self.of(id).advance(now);
            self.settle();
        }
    }

    /// Only this box's clock runs until it leads the log.
    fn elect(&mut self, id: u64) {
        // Who has heard of a Raft leader does not vote for a while.
        self.held = true;
        for other in self.nodes.iter().map(Node::id).filter(|other| *other != id).collect::<Vec<_>>() {
            self.tick(other, 10);
        }
        self.held = false;
        self.wire.clear();
        for _ in 0..60 {
            self.tick(id, 1);
            if self.of(id).leads() {
                return self.tick(id, 3);
            }
        }
        panic!("box {id} does not lead the log");
    }

    fn ask(&mut self, at: u64, id: u64, request: Request) -> Option<Answer> {
        let now = self.now;
        self.of(at).request(now, id, request, now + Millis(5_000));
        self.settle();
        self.answer(id)
    }

    fn answer(&self, id: u64) -> Option<Answer> {
        self.answers.iter().find(|(number, _)| *number == id).map(|(_, answer)| answer.clone())
    }

    /// The power fails, and comes back.
    fn restart(&mut self, id: u64) {
        self.seed += 1;
        let at = self.nodes.iter().position(|node| node.id() == id).unwrap();
        self.disks[at].fail(0);
        let (journal, image, _) = Journal::recover(&self.disks[at].file).unwrap();
        self.nodes[at] = Node::new(image, journal, self.seed << 32, Millis(TICK), self.now).unwrap();
    }
}

fn member(node: u64, part: Part) -> Member {
    Member { node, part, place: Place::default() }
}

fn put(key: &str) -> Txn {
    Txn { then: vec![Op::Put { key: key.into(), value: b"v".to_vec(), lease: 0 }], ..Txn::default() }
}

fn expect(what: &str, holds: bool) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(what.to_owned())
    }
}

/// A box that held the entry of the next change of members would elect with the ones from before the last change.
fn members_survive_a_new_start() -> Result<(), String> {
    let mut boxes = Boxes::new(&[1, 2, 3], &[], &[1, 2, 3, 4]);
    boxes.elect(1);
    let change = vec![member(3, Part::Gone), member(4, Part::Voter)];
    let answer = boxes.ask(1, 1, Request::Members(change));
    expect(&format!("the members were not changed: {answer:?}"), matches!(answer, Some(Answer::Done { .. })))?;
    boxes.tick(1, 8);
    boxes.ask(1, 2, Request::Txn(put("a")));
    boxes.tick(1, 8);
    for id in [1, 2, 4] {
        boxes.restart(id);
        let voters = boxes.of(id).standing().voters;
        expect(&format!("box {id} forgot who votes: {voters:?}"), voters.contains(&4) && !voters.contains(&3))?;
    }
    boxes.elect(2);
    expect("a read", matches!(boxes.ask(4, 3, Request::Range(Span::one("a"))), Some(Answer::Range { found, .. }) if found.len() == 1))
}

/// A single voter elects itself without asking. Its entries must not go out in a term that it may use again after a power cut.
fn a_term_goes_out_after_its_write() -> Result<(), String> {
    let mut boxes = Boxes::new(&[1], &[2], &[1, 2]);
    (boxes.held, boxes.stalled) = (true, true);
    for _ in 0..60 {
        boxes.tick(1, 1);
    }
    let sent = boxes.wire.iter().any(|(from, _, note)| *from == 1 && matches!(note, Note::Raft(_)));
    expect("a term left the box before it was on the disk", !sent)?;
    (boxes.held, boxes.stalled) = (false, false);
    boxes.settle();
    boxes.tick(1, 5);
    expect("the copy has nothing", boxes.of(2).standing().applied > 1)
}

/// What a box asked before a power cut is answered after it: that is no answer to what it asks then.
fn answers_of_an_earlier_run() -> Result<(), String> {
    let mut boxes = Boxes::new(&[1, 2], &[], &[1, 2]);
    boxes.elect(1);
    boxes.held = true;
    boxes.ask(2, 1, Request::Grant { ttl: 5_000 });
    boxes.deliver(|(from, ..)| *from == 2);
    boxes.settle();
    boxes.restart(2);
    // The Raft leader is heard first, so that the next request goes out.
    boxes.deliver(|(_, to, note)| *to == 2 && matches!(note, Note::Raft(_)));
    boxes.settle();
    boxes.ask(2, 2, Request::Grant { ttl: 9_000 });
    boxes.held = false;
    boxes.settle();
    boxes.tick(1, 10);
    let answer = boxes.answer(2);
    expect(&format!("another request's answer: {answer:?}"), matches!(answer, Some(Answer::Lease { ttl: 9_000, .. })))
}

/// A soft write that waited while entries passed it gets a revision above theirs, and none that a later entry has, too.
fn revisions_are_given_once() -> Result<(), String> {
    let mut boxes = Boxes::new(&[1, 2], &[], &[1, 2]);
    boxes.elect(1);
    boxes.held = true;
    boxes.ask(1, 1, Request::Soft(put("soft")));
    boxes.ask(1, 2, Request::Range(Span::prefix("")));
    boxes.ask(1, 3, Request::Txn(put("a")));
    // The first entry goes through, the confirmation is late.
    let append = |kind: MessageType| matches!(kind, MessageType::MsgAppend | MessageType::MsgAppendResponse);
    for _ in 0..6 {
        boxes.deliver(|(.., note)| matches!(note, Note::Raft(message) if append(message.get_msg_type())));
        boxes.settle();
    }
    expect("the first entry did not go through", boxes.answer(3).is_some())?;
    boxes.ask(1, 4, Request::Txn(put("b")));
    for _ in 0..6 {
        boxes.deliver(|(.., note)| matches!(note, Note::Raft(message) if !append(message.get_msg_type())));
        boxes.settle();
    }
    boxes.held = false;
    boxes.settle();
    boxes.tick(1, 10);
    let (Some(Answer::Range { revision, found }), Some(Answer::Txn { revision: later, .. })) = (boxes.answer(2), boxes.answer(4)) else {
        return Err(format!("answers are missing: {:?}", boxes.answers));
    };
    let saw_it = found.iter().any(|(key, _)| key == b"b");
    expect(&format!("a read at {revision} did not see what was written at {later}"), saw_it || later > revision)
}

/// Only whoever leads the log tells of soft keys, and nobody can use up the revisions.
fn soft_keys_come_from_the_leader() -> Result<(), String> {
    let mut boxes = Boxes::new(&[1, 2, 3], &[], &[1, 2, 3]);
    boxes.elect(1);
    let now = boxes.now;
    for (at, from) in [(1, 2), (2, 3), (2, 1)] {
        let line = KeyLine(b"soft".to_vec(), Record { modified: i64::MAX, ..Record::default() });
        boxes.of(at).hear(now, from, Note::Soft(vec![line])).unwrap();
    }
    boxes.of(2).hear(now, 3, Note::Soft(vec![KeyLine(b"soft".to_vec(), Record { modified: 1 << 50, ..Record::default() })])).unwrap();
    boxes.settle();
    boxes.elect(2);
    let answer = boxes.ask(2, 1, Request::Soft(Txn { otherwise: vec![], ..put("soft") }));
    let Some(Answer::Txn { revision, results, .. }) = answer else { return Err(format!("no soft write: {answer:?}")) };
    expect(&format!("revision {revision}"), revision < 1 << 40 && results == [Done::Put])
}

/// A request that the file has no room for never becomes an entry.
fn long_requests_are_refused() -> Result<(), String> {
    let mut boxes = Boxes::new(&[1], &[], &[1]);
    boxes.elect(1);
    let before = boxes.of(1).standing().last;
    let op = Op::Put { key: b"k".to_vec(), value: vec![0; 2 * MAX_STATE], lease: 0 };
    let answer = boxes.ask(1, 1, Request::Txn(Txn { then: vec![op], ..Txn::default() }));
    expect(&format!("{answer:?}"), matches!(answer, Some(Answer::Refused(_))) && boxes.of(1).standing().last == before)
}

/// A lying Raft leader cannot make a box's log longer than its file.
fn a_log_has_an_end() -> Result<(), String> {
    let mut boxes = Boxes::new(&[1, 2, 3], &[], &[1]);
    for number in 0..40_u64 {
        let (now, last) = (boxes.now, boxes.of(1).standing().last);
        let mut message = Message { to: 1, from: 2, term: 2, index: last, log_term: if number == 0 { 1 } else { 2 }, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        message.entries = vec![raft::eraftpb::Entry { term: 2, index: last + 1, data: vec![0; 500_000], ..Default::default() }];
        boxes.of(1).hear(now, 2, Note::Raft(Box::new(message))).unwrap();
        boxes.settle();
    }
    expect("its file is too large to be read", Journal::recover(&boxes.disks[0].file).is_ok())
}

type Rule = fn() -> Result<(), String>;

/// Two boxes never make the same lease, also when each was started with its own number as its random one.
fn leases_come_once() -> Result<(), String> {
    let grant = |id: u64| {
        let mut boxes = Boxes::new(&[id], &[], &[id]);
        boxes.settle();
        boxes.tick(id, 3);
        boxes.ask(id, 1, Request::Grant { ttl: 5_000 })
    };
    let leases = [grant(1), grant(2)];
    let granted = leases.iter().all(|answer| matches!(answer, Some(Answer::Lease { .. })));
    expect(&format!("{leases:?}"), granted && leases[0] != leases[1])
}

/// A name or an address brings a box the place of one that is silent, and of no other.
fn a_box_that_is_there_keeps_its_place() -> Result<(), String> {
    let mut boxes = Boxes::new(&[1, 2, 3], &[], &[1, 2, 3]);
    boxes.elect(1);
    let place = Place { name: "n2".to_owned(), address: "n2:7000".to_owned() };
    boxes.ask(1, 1, Request::Members(vec![Member { place: place.clone(), ..member(2, Part::Voter) }]));
    boxes.tick(1, 25);
    let join = || Request::Join { node: 9, place: place.clone() };
    let early = boxes.ask(1, 2, join());
    boxes.tick(1, 5);
    let before = boxes.of(1).standing().voters;
    // Box 2 is gone, and after a while that shows.
    let at = boxes.nodes.iter().position(|node| node.id() == 2).unwrap();
    boxes.nodes.remove(at);
    boxes.disks.remove(at);
    boxes.tick(1, 40);
    boxes.ask(1, 3, join());
    boxes.tick(1, 40);
    let after = boxes.of(1).standing().voters;
    let held = matches!(early, Some(Answer::Refused(_))) && before.contains(&2) && after.contains(&9) && !after.contains(&2);
    expect(&format!("{early:?}, voters {before:?}, then {after:?}"), held)
}

/// Checks all of them and prints what does not hold.
pub fn check() -> u64 {
    let rules: [(&str, Rule); 9] = [
        ("members survive a new start", members_survive_a_new_start),
        ("a term goes out after its write", a_term_goes_out_after_its_write),
        ("answers of an earlier run", answers_of_an_earlier_run),
        ("revisions are given once", revisions_are_given_once),
        ("soft keys come from the Raft leader", soft_keys_come_from_the_leader),
        ("long requests are refused", long_requests_are_refused),
        ("a log has an end", a_log_has_an_end),
        ("leases come once", leases_come_once),
        ("a box that is there keeps its place", a_box_that_is_there_keeps_its_place),
    ];
    let mut broken = 0;
    for (name, rule) in rules {
        if let Err(why) = rule() {
            println!("rule '{name}': {why}");
            broken += 1;
        }
    }
    broken
}
