//! Boxes, network, disks, faults and time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use mastiff::dcs::embedded::codec::Coded;
use mastiff::dcs::embedded::journal::{Image, Journal, Record};
use mastiff::dcs::embedded::node::{Node, Note, Output};
use mastiff::dcs::embedded::request::{Answer, Member, Part, Place, Request};
use mastiff::dcs::embedded::state::State;
use mastiff::dcs::embedded::txn::{Op, Span};
use mastiff::ha::types::{Instant, Millis};
use raft::eraftpb::Snapshot;

use crate::clients::{History, Holder, What, COUNTER, PREFIX};
use crate::disk::Disk;

/// Of a tick, in milliseconds.
const TICK: u64 = 50;
/// The faults end after this, in milliseconds.
const TROUBLE: u64 = 90_000;
/// And everything must be well after this.
const PEACE: u64 = 45_000;
/// A client waits so long for an answer.
const PATIENCE: u64 = 1_500;

/// A rule that the world breaks, to show that the checkers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// A disk says that a write is flushed, and loses it in a power cut.
    LyingDisk,
    /// A box that lost its file comes back under its old number.
    OldNumber,
    /// Clocks run far more wrong than the leases allow for.
    FastClocks,
}

pub struct Report {
    pub acknowledged: u64,
    pub elections: u64,
    pub crashes: u64,
    pub holders: u64,
    pub hash: u64,
}

/// A generator of its own, so that nothing else changes what a seed means.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Wake(usize, u64),
    Deliver { to: usize, id: u64, from: u64, bytes: Vec<u8> },
    Flush(usize, u64),
    Act(usize),
    Fault,
    Resume(usize),
    Start(usize),
    Heal,
    Stalled(usize),
    Blackout(usize, u64),
}

/// A request of a client.
struct Call {
    what: What,
    /// Real time, and the box's own.
    sent: u64,
    /// For [`What::Count`]: what it is set to. For [`What::Soft`]: what it was.
    next: i64,
}

struct Machine {
    id: u64,
    node: Option<Node>,
    /// Counts starts: what was meant for an earlier run is dropped.
    life: u64,
    disk: Disk,
    stalled: bool,
    /// The power fails during this write from now on.
    fuse: Option<u64>,
    /// Parts per million that its clock runs fast, and where it began.
    drift: i64,
    paused: bool,
    /// What arrived while it was paused.
    waiting: Vec<Event>,
    holder: Holder,
    calls: BTreeMap<u64, Call>,
    known: Option<(i64, i64)>,
    wake_at: u64,
}

pub struct World {
    dice: Dice,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    boxes: Vec<Machine>,
    cut: BTreeSet<(usize, usize)>,
    loss: u64,
    history: History,
    ttl: u64,
    next_call: u64,
    next_id: u64,
    peace: bool,
    verbose: bool,
    broken: Broken,
    /// A box that came back without its file, and the number that it had.
    replacing: Option<(usize, u64)>,
    report: Report,
    last_holder: Option<usize>,
    term: u64,
}

impl World {
    pub fn new(seed: u64, verbose: bool, broken: Broken) -> World {
        let mut dice = Dice::new(seed.wrapping_mul(0x2545_F491_4F6C_DD1D));
        let count = usize::try_from([1, 2, 3, 3, 3, 4, 5][usize::try_from(dice.below(7)).unwrap()]).unwrap();
        let ttl = [3_000, 5_000, 10_000][usize::try_from(dice.below(3)).unwrap()];
        let loss = [0, 100, 20][usize::try_from(dice.below(3)).unwrap()];
        let mut world = World {
            now: 0,
            events: BinaryHeap::new(),
            sequence: 0,
            boxes: Vec::new(),
            cut: BTreeSet::new(),
            loss,
            history: History::default(),
            ttl,
            next_call: 1,
            next_id: 100,
            peace: false,
            verbose,
            broken,
            replacing: None,
            report: Report { acknowledged: 0, elections: 0, crashes: 0, holders: 0, hash: 0 },
            last_holder: None,
            term: 0,
            dice,
        };
        world.build(count);
        world
    }

    /// All boxes begin with the same image. Of two boxes and of four the last one has no vote.
    fn build(&mut self, count: usize) {
        let mut state = State::default();
        let ids: Vec<u64> = (1..=count as u64).collect();
        let places = ids.iter().map(|id| member(*id, Part::Voter)).collect::<Vec<_>>();
        state.settle(&places);
        let mut snapshot = Snapshot { data: state.to_bytes(), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (1, 1);
        let members = metadata.mut_conf_state();
        (members.voters, members.learners) = match count {
            2 => (vec![1], vec![2]),
            4 => (vec![1, 2, 3], vec![4]),
            _ => (ids.clone(), vec![]),
        };
        for id in ids {
            let image = Image { node: id, snapshot: snapshot.clone(), tail: Record { term: 1, ..Record::default() } };
            let wrong = if self.broken == Broken::FastClocks { 300_000 } else { 2_000 };
            let drift = i64::try_from(self.dice.below(2 * wrong + 1)).unwrap() - i64::try_from(wrong).unwrap();
            let mut disk = Disk::default();
            disk.pending.push((0, Journal::create(&image, id).1));
            disk.flush();
            self.boxes.push(Machine {
                id,
                node: None,
                life: 0,
                disk,
                stalled: false,
                fuse: Some(self.dice.below(4)).filter(|_| self.dice.one_in(3)),
                drift,
                paused: false,
                waiting: Vec::new(),
                holder: Holder::default(),
                calls: BTreeMap::new(),
                known: None,
                wake_at: 0,
            });
        }
        for index in 0..count {
            self.at(1 + index as u64, Event::Start(index));
            self.at(20 + index as u64, Event::Act(index));
        }
        self.at(3_000, Event::Fault);
        self.at(TROUBLE, Event::Heal);
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence, event)));
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:8} {}", self.now, text());
        }
    }

    pub fn run(mut self) -> Result<Report, String> {
        while let Some(Reverse((time, _, event))) = self.events.pop() {
            if time > TROUBLE + PEACE {
                break;
            }
            self.now = time;
            self.mix(time);
            self.happen(event)?;
            self.check_holders()?;
        }
        self.check_end()?;
        self.report.acknowledged = self.history.writes;
        Ok(self.report)
    }

    fn mix(&mut self, value: u64) {
        self.report.hash = (self.report.hash ^ value).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
    }

    /// A box's own clock.
    fn clock(&self, index: usize) -> Instant {
        let drift = i64::try_from(self.now).unwrap() * self.boxes[index].drift / 1_000_000;
        Instant(1_000_000 * (index as u64 + 1) + self.now.saturating_add_signed(drift))
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        let target = match &event {
            Event::Wake(index, _) | Event::Deliver { to: index, .. } | Event::Flush(index, _) | Event::Act(index) => Some(*index),
            _ => None,
        };
        if let Some(index) = target.filter(|index| self.boxes[*index].paused) {
            self.boxes[index].waiting.push(event);
            return Ok(());
        }
        match event {
            Event::Wake(index, life) => self.wake(index, life),
            Event::Deliver { to, id, from, bytes } => self.deliver((to, id), from, &bytes)?,
            Event::Flush(index, life) => self.flush(index, life),
            Event::Act(index) => self.act(index),
            Event::Fault => self.fault(),
            Event::Resume(index) => {
                self.say(|| format!("box {index} goes on"));
                self.boxes[index].paused = false;
                for event in std::mem::take(&mut self.boxes[index].waiting) {
                    self.at(self.now, event);
                }
            }
            Event::Blackout(index, life) if self.boxes[index].life == life && !self.peace => self.crash(index),
            Event::Blackout(..) => {}
            Event::Start(index) => self.start(index)?,
            Event::Heal => self.heal(),
            Event::Stalled(index) => {
                self.boxes[index].stalled = false;
                let life = self.boxes[index].life;
                self.at(self.now, Event::Flush(index, life));
            }
        }
        for index in 0..self.boxes.len() {
            self.collect(index)?;
        }
        Ok(())
    }

    fn start(&mut self, index: usize) -> Result<(), String> {
        let (now, salt) = (self.clock(index), self.dice.below(u64::MAX));
        let one = &mut self.boxes[index];
        if one.node.is_some() {
            return Ok(());
        }
        let (mut journal, image, torn) = Journal::recover(&one.disk.file).map_err(|error| format!("box {index}: {error}"))?;
        if torn {
            let (new, op) = Journal::create(&image, salt);
            journal = new;
            one.disk.pending.push((0, op));
            one.disk.flush();
        }
        one.life += 1;
        one.wake_at = 0;
        one.id = image.node;
        let life = one.life;
        let node = Node::new(image, journal, salt, Millis(TICK), now).map_err(|error| format!("box {index}: {error}"))?;
        one.node = Some(node);
        self.say(|| format!("box {index} starts"));
        self.plan_wake(index, life);
        let id = self.boxes[index].id;
        for other in 0..self.boxes.len() {
            let their = self.boxes[other].id;
            if other != index && self.is_connected(index, other) {
                if let Some(node) = &mut self.boxes[other].node {
                    node.connected(id);
                }
                if let Some(node) = &mut self.boxes[index].node {
                    node.connected(their);
                }
            }
        }
        Ok(())
    }

    fn is_connected(&self, a: usize, b: usize) -> bool {
        !self.cut.contains(&(a, b)) && !self.cut.contains(&(b, a))
    }

    fn plan_wake(&mut self, index: usize, life: u64) {
        let Some(deadline) = self.boxes[index].node.as_ref().map(Node::next_deadline) else { return };
        let wait = deadline.since(self.clock(index)).0.max(1);
        let at = self.now + wait;
        if self.boxes[index].wake_at != at {
            self.boxes[index].wake_at = at;
            self.at(at, Event::Wake(index, life));
        }
    }

    fn wake(&mut self, index: usize, life: u64) {
        let now = self.clock(index);
        let one = &mut self.boxes[index];
        if one.life != life {
            return;
        }
        if let Some(node) = &mut one.node {
            node.advance(now);
            one.holder.expire(now);
            self.plan_wake(index, life);
        }
    }

    fn deliver(&mut self, (to, id): (usize, u64), from: u64, bytes: &[u8]) -> Result<(), String> {
        if self.boxes[to].id != id {
            return Ok(());
        }
        let now = self.clock(to);
        let Some(node) = &mut self.boxes[to].node else { return Ok(()) };
        let note = Note::from_bytes(bytes).map_err(|error| format!("box {to}: {error}"))?;
        node.hear(now, from, note).map_err(|error| format!("box {to} from {from}: {error}"))
    }

    fn flush(&mut self, index: usize, life: u64) {
        let now = self.clock(index);
        let one = &mut self.boxes[index];
        if one.life != life || one.stalled {
            return;
        }
        if let (Some(number), Some(node)) = (one.disk.flush(), &mut one.node) {
            if self.broken != Broken::LyingDisk {
                node.written(now, number);
            }
        }
        if !one.disk.pending.is_empty() {
            let wait = self.dice.between(1, 25);
            self.at(self.now + wait, Event::Flush(index, life));
        }
    }

    /// What a box wants to be done.
    fn collect(&mut self, index: usize) -> Result<(), String> {
        loop {
            let Some(node) = &mut self.boxes[index].node else { return Ok(()) };
            let outputs = node.outputs();
            if outputs.is_empty() {
                let standing = node.standing();
                if node.leads() && standing.term > self.term {
                    self.term = standing.term;
                    self.report.elections += 1;
                    self.say(|| format!("box {index} leads the log in term {}", standing.term));
                }
                return Ok(());
            }
            for output in outputs {
                match output {
                    Output::Send { to, note } => self.send(index, to, &note),
                    Output::Write { number, op } => {
                        let one = &mut self.boxes[index];
                        one.disk.pending.push((number, op));
                        self.burn(index);
                        if self.broken == Broken::LyingDisk {
                            let now = self.clock(index);
                            if let Some(node) = &mut self.boxes[index].node {
                                node.written(now, number);
                            }
                        }
                        let one = &mut self.boxes[index];
                        let life = one.life;
                        if one.disk.pending.len() == 1 {
                            let wait = self.dice.between(1, 25);
                            self.at(self.now + wait, Event::Flush(index, life));
                        }
                    }
                    Output::Answer { id, answer } => self.answered(index, id, Some(answer))?,
                    Output::Changed(_) => {}
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: u64, note: &Note) {
        let Some(target) = self.boxes.iter().position(|one| one.id == to) else { return };
        let bytes = note.to_bytes();
        self.mix(bytes.len() as u64 ^ to);
        let lost = self.loss > 0 && self.dice.one_in(self.loss);
        if self.cut.contains(&(from, target)) || (lost && !self.peace) {
            if self.dice.one_in(3) {
                let now = self.clock(from);
                if let Some(node) = &mut self.boxes[from].node {
                    node.unreachable(now, to);
                }
            }
            return;
        }
        let copies = if self.loss > 0 && self.dice.one_in(50) { 2 } else { 1 };
        for _ in 0..copies {
            let wait = if self.dice.one_in(40) { self.dice.between(20, 400) } else { self.dice.between(1, 8) };
            self.at(self.now + wait, Event::Deliver { to: target, id: to, from: self.boxes[from].id, bytes: bytes.clone() });
        }
    }

    // --- clients ------------------------------------------------------------

    fn act(&mut self, index: usize) {
        let wait = self.dice.between(50, 700);
        self.at(self.now + wait, Event::Act(index));
        let (now, real) = (self.clock(index), self.now);
        self.boxes[index].holder.expire(now);
        let late: Vec<u64> = self.boxes[index].calls.iter().filter(|(_, call)| real >= call.sent + PATIENCE).map(|(id, _)| *id).collect();
        for id in late {
            let _ = self.answered(index, id, None);
        }
        if self.boxes[index].node.is_none() {
            return;
        }
        if self.boxes[index].holder.under_way.is_none() && real >= self.boxes[index].holder.next_at {
            self.boxes[index].holder.next_at = real + self.ttl / 3;
            let dice = self.dice.below(4);
            let (what, request) = self.boxes[index].holder.want(self.ttl, &format!("n{index}"), dice);
            let id = self.call(index, what, request, 0);
            self.boxes[index].holder.under_way = Some((id, what, now));
        }
        self.work(index);
    }

    fn work(&mut self, index: usize) {
        match self.dice.below(4) {
            0 => {
                let (txn, next) = History::count(self.boxes[index].known);
                self.call(index, What::Count, Request::Txn(txn), next);
            }
            1 => {
                let op = Op::Put { key: format!("{PREFIX}members/n{index}").into_bytes(), value: vec![b'x'; 300], lease: 0 };
                let (txn, known) = History::soft(self.boxes[index].known, op);
                self.call(index, What::Soft, Request::Soft(txn), known);
            }
            _ => {
                self.call(index, What::Read, Request::Range(Span::prefix(PREFIX)), 0);
            }
        }
        if let (Some((target, old)), true) = (self.replacing, self.dice.one_in(4)) {
            if index != target {
                let members = vec![member(old, Part::Gone), member(self.boxes[target].id, Part::Voter)];
                self.call(index, What::Soft, Request::Members(members), 0);
            }
        }
    }

    fn call(&mut self, index: usize, what: What, request: Request, next: i64) -> u64 {
        let id = self.next_call;
        self.next_call += 1;
        let now = self.clock(index);
        self.boxes[index].calls.insert(id, Call { what, sent: self.now, next });
        if let Some(node) = &mut self.boxes[index].node {
            node.request(now, id, request, now + Millis(PATIENCE));
        }
        id
    }

    fn answered(&mut self, index: usize, id: u64, answer: Option<Answer>) -> Result<(), String> {
        let real = self.now;
        let one = &mut self.boxes[index];
        if let Some((under_way, what, sent)) = one.holder.under_way {
            if under_way == id {
                one.holder.under_way = None;
                one.calls.remove(&id);
                one.holder.take(what, sent, answer.as_ref());
                if what == What::Acquire {
                    // On a lease that may be old by now: as the agent does, it renews before it goes on.
                    one.holder.next_at = real;
                }
                return Ok(());
            }
        }
        let Some(call) = one.calls.remove(&id) else { return Ok(()) };
        match (call.what, answer) {
            (What::Count, Some(Answer::Txn { succeeded: true, .. })) => self.history.counted(real, call.next),
            (What::Read, Some(Answer::Range { revision, found })) => {
                let counter = found.iter().find(|(key, _)| key == COUNTER);
                let counter = counter.map(|(_, record)| (String::from_utf8_lossy(&record.value).parse().unwrap_or(-1), record.modified));
                one.known = counter;
                self.history.read(call.sent, real, revision, counter).map_err(|why| format!("box {index} at {real}: {why}"))?;
            }
            (What::Soft, Some(Answer::Txn { succeeded: true, revision, .. })) => {
                self.history.softly(call.sent, revision, call.next).map_err(|why| format!("box {index} at {real}: {why}"))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn check_holders(&mut self) -> Result<(), String> {
        let holders: Vec<usize> = (0..self.boxes.len()).filter(|index| self.boxes[*index].holder.believes(self.clock(*index))).collect();
        if holders.len() > 1 {
            return Err(format!("at {} the boxes {holders:?} hold the leader key", self.now));
        }
        if let Some(holder) = holders.first().copied().filter(|holder| self.last_holder != Some(*holder)) {
            self.last_holder = Some(holder);
            self.report.holders += 1;
            self.say(|| format!("box {holder} holds the leader key"));
        }
        Ok(())
    }

    // --- faults -------------------------------------------------------------

    fn fault(&mut self) {
        if self.peace {
            return;
        }
        let wait = self.dice.between(200, 6_000);
        self.at(self.now + wait, Event::Fault);
        let count = self.boxes.len() as u64;
        let index = usize::try_from(self.dice.below(count)).unwrap();
        match self.dice.below(12) {
            10 => self.leader_lost(),
            11 => self.boxes[index].fuse = Some(self.dice.below(4)),
            0..=2 => self.crash(index),
            3 | 4 => {
                let wait = self.dice.between(100, 8_000);
                self.boxes[index].paused = true;
                self.say(|| format!("box {index} stops for {wait} ms"));
                self.at(self.now + wait, Event::Resume(index));
            }
            5 => {
                let wait = self.dice.between(500, 4_000);
                self.boxes[index].stalled = true;
                self.say(|| format!("the disk of box {index} stalls for {wait} ms"));
                self.at(self.now + wait, Event::Stalled(index));
            }
            6 | 7 => self.cut_off(index),
            8 => self.mend(),
            _ => self.lose_file(index),
        }
    }

    /// A write begins.
    fn burn(&mut self, index: usize) {
        let Some(left) = self.boxes[index].fuse else { return };
        self.boxes[index].fuse = left.checked_sub(1);
        if left == 0 {
            let life = self.boxes[index].life;
            self.at(self.now, Event::Blackout(index, life));
        }
    }

    /// The Raft leader stops, and finds itself alone when it goes on: it believes that it leads, until it notices.
    fn leader_lost(&mut self) {
        let leads = |one: &Machine| one.node.as_ref().is_some_and(Node::leads);
        let Some(index) = self.boxes.iter().position(leads) else { return };
        let wait = self.dice.between(800, self.ttl);
        self.boxes[index].paused = true;
        self.say(|| format!("box {index} stops for {wait} ms"));
        self.at(self.now + wait, Event::Resume(index));
        self.isolate(index);
    }

    fn crash(&mut self, index: usize) {
        self.say(|| format!("box {index} crashes"));
        let (kept, wait) = (self.dice.below(400), self.dice.between(10, 5_000));
        let kept = usize::try_from(kept).unwrap();
        let one = &mut self.boxes[index];
        one.node = None;
        one.life += 1;
        one.disk.fail(kept);
        one.stalled = false;
        one.holder = Holder::default();
        one.calls.clear();
        self.report.crashes += 1;
        self.at(self.now + wait, Event::Start(index));
    }

    /// One box from the others, or one direction between two.
    fn cut_off(&mut self, index: usize) {
        let count = self.boxes.len();
        if self.dice.one_in(3) {
            let other = usize::try_from(self.dice.below(count as u64)).unwrap();
            self.say(|| format!("nothing comes from box {index} to box {other}"));
            self.cut.insert((index, other));
            return;
        }
        self.isolate(index);
    }

    fn isolate(&mut self, index: usize) {
        self.say(|| format!("box {index} is cut off"));
        for other in 0..self.boxes.len() {
            self.cut.insert((index, other));
            self.cut.insert((other, index));
        }
    }

    fn mend(&mut self) {
        self.cut.clear();
        for a in 0..self.boxes.len() {
            for b in 0..self.boxes.len() {
                let their = self.boxes[b].id;
                if let (true, Some(node)) = (a != b, &mut self.boxes[a].node) {
                    node.connected(their);
                }
            }
        }
    }

    /// A box comes back with an empty disk, under a new number, and takes the old one's part.
    fn lose_file(&mut self, index: usize) {
        // Not while another one is being replaced, and not one without a vote: then a majority of the old voters is there.
        let settled = self.boxes.iter().all(|one| one.node.as_ref().is_some_and(|node| node.standing().voters.contains(&one.id)));
        if self.boxes.len() < 3 || !settled || self.replacing.is_some() {
            return;
        }
        let old = self.boxes[index].id;
        self.crash(index);
        self.next_id += 1;
        let id = if self.broken == Broken::OldNumber { old } else { self.next_id };
        let image = Image { node: id, ..Image::default() };
        self.say(|| format!("box {index} has lost its file and comes back as {}", image.node));
        let one = &mut self.boxes[index];
        one.id = id;
        one.disk.pending.push((0, Journal::create(&image, old).1));
        one.disk.flush();
        self.replacing = Some((index, old)).filter(|_| id != old);
    }

    fn heal(&mut self) {
        self.say(|| "peace".to_owned());
        self.peace = true;
        self.mend();
        for index in 0..self.boxes.len() {
            self.at(self.now, Event::Start(index));
            if self.boxes[index].paused {
                self.at(self.now, Event::Resume(index));
            }
            if self.boxes[index].stalled {
                self.at(self.now, Event::Stalled(index));
            }
        }
    }

    fn check_end(&mut self) -> Result<(), String> {
        let nodes: Vec<&Node> = self.boxes.iter().filter_map(|one| one.node.as_ref()).collect();
        if nodes.len() != self.boxes.len() {
            return Err("a box did not come back".to_owned());
        }
        let leaders = nodes.iter().filter(|node| node.leads()).count();
        if leaders != 1 {
            return Err(format!(
                "{leaders} boxes lead the log at the end: {:?}",
                nodes.iter().map(|node| node.standing()).collect::<Vec<_>>()
            ));
        }
        let states: BTreeSet<(u64, Vec<u8>)> = nodes.iter().map(|node| (node.log().applied.0, node.log().state.to_bytes())).collect();
        // What was written in the last moment may be on its way.
        let first = states.first().map_or(0, |(applied, _)| *applied);
        if states.len() > 1 && states.iter().any(|(applied, _)| applied - first > 20) {
            return Err(format!("the boxes differ: {:?}", nodes.iter().map(|node| node.standing()).collect::<Vec<_>>()));
        }
        let same: BTreeSet<u64> = states.iter().map(|(applied, _)| *applied).collect();
        if same.len() != states.len() {
            return Err("two boxes have applied the same entries and have different states".to_owned());
        }
        if self.boxes.iter().all(|one| !one.holder.believes(self.clock(self.boxes.iter().position(|other| other.id == one.id).unwrap()))) {
            return Err("nobody holds the leader key at the end".to_owned());
        }
        Ok(())
    }
}

fn member(node: u64, part: Part) -> Member {
    Member { node, part, place: Place { name: format!("n{node}"), address: format!("10.0.0.{node}:7000") } }
}
