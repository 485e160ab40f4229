//! The first moments of a store, and of a box that comes to it later. Pure.
//!
//! - One box without partners founds a store of its own.
//! - Boxes that name each other found one together: all of them make the same first image from the same list, so that the first vote among them is a vote
//!   of Raft like any other. A majority must see each other without any store for it.
//! - A box without a file that meets a box with a store comes to it as a new one, under a new number: whatever its old number promised went with the
//!   file.

use raft::eraftpb::{ConfState, Snapshot};

use super::codec::Coded;
use super::journal::{Image, Record};
use super::request::{Member, Part, Place};
use super::state::State;

/// The number of a box in the first list of its store. The same on every box, so only made from what all of them know.
#[must_use]
pub fn founder(scope: &str, address: &str) -> u64 {
    // FNV-1a (Fowler, Noll, Vo): a name for a name, not a secret.
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    scope.as_bytes().iter().chain(&[0]).chain(address.as_bytes()).fold(0xCBF2_9CE4_8422_2325, mix).max(1)
}

/// The first image of a store with these voters, for the box `node`.
#[must_use]
pub fn image(node: u64, voters: &[(u64, Place)]) -> Image {
    let mut state = State::default();
    let member = |(node, place): &(u64, Place)| Member { node: *node, part: Part::Voter, place: place.clone() };
    state.settle(&voters.iter().map(member).collect::<Vec<_>>());
    let mut snapshot = Snapshot { data: state.to_bytes(), ..Snapshot::default() };
    let metadata = snapshot.mut_metadata();
    // Not from nothing: a box whose log begins at 0 could be taken for one of these.
    (metadata.index, metadata.term) = (1, 1);
    let mut ids: Vec<u64> = voters.iter().map(|(node, _)| *node).collect();
    ids.sort_unstable();
    metadata.set_conf_state(ConfState { voters: ids, ..ConfState::default() });
    Image { node, snapshot, tail: Record { term: 1, ..Record::default() } }
}

/// The voters that the configuration names: this box and its partners.
#[must_use]
pub fn voters(scope: &str, own: &Place, partners: &[String]) -> Vec<(u64, Place)> {
    let others =
        partners.iter().filter(|address| **address != own.address).map(|address| Place { name: String::new(), address: address.clone() });
    let mut all: Vec<(u64, Place)> = std::iter::once(own.clone())
        .chain(others)
        // Names are not known everywhere: the image must be the same.
        .map(|place| (founder(scope, &place.address), Place { name: String::new(), ..place }))
        .collect();
    all.sort_unstable_by(|a, b| a.1.address.cmp(&b.1.address));
    all.dedup();
    all
}

/// Who makes room for a box that comes (again), and as what it comes.
///
/// It takes the place of a box with its name or its address. Else it gets a vote only if that makes the number of votes odd: with two votes either box
/// could stop the other by being away.
#[must_use]
pub fn admission(members: &ConfState, known: &[(u64, Place)], newcomer: u64, place: &Place) -> Vec<Member> {
    if members.voters.contains(&newcomer) {
        return Vec::new();
    }
    let same = |other: &Place| other.address == place.address || (!place.name.is_empty() && other.name == place.name);
    let replaced: Vec<&(u64, Place)> = known.iter().filter(|(node, other)| *node != newcomer && same(other)).collect();
    let had_vote = replaced.iter().any(|(node, _)| members.voters.contains(node));
    let mut changes: Vec<Member> =
        replaced.iter().map(|(node, other)| Member { node: *node, part: Part::Gone, place: other.clone() }).collect();
    let one_more = |node: u64, place: &Place| Member { node, part: Part::Voter, place: place.clone() };
    if had_vote {
        changes.push(one_more(newcomer, place));
        return changes;
    }
    let waits = members.learners.iter().find(|node| **node != newcomer && !replaced.iter().any(|(gone, _)| gone == *node));
    let waiting = waits.and_then(|node| known.iter().find(|(other, _)| other == node));
    let part = match (members.voters.len() % 2, waiting) {
        (0, _) => Part::Voter,
        (_, Some((node, other))) => {
            changes.push(one_more(*node, other));
            Part::Voter
        }
        (_, None) => Part::Learner,
    };
    if part == Part::Voter || !members.learners.contains(&newcomer) {
        changes.push(Member { node: newcomer, part, place: place.clone() });
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> Place {
        Place { name: name.to_owned(), address: format!("{name}:7000") }
    }

    #[test]
    fn all_founders_make_the_same_image() {
        let partners =
            |own: &str| ["a:1", "b:1", "c:1"].iter().filter(|other| **other != own).map(|other| (*other).to_owned()).collect::<Vec<_>>();
        let of = |own: &str| voters("demo", &Place { name: own.to_owned(), address: own.to_owned() }, &partners(own));
        assert_eq!(of("a:1"), of("c:1"));
        assert_eq!(of("a:1").len(), 3);
        let (one, two) = (image(1, &of("a:1")), image(1, &of("b:1")));
        assert_eq!(one, two);
        assert_eq!(one.snapshot.get_metadata().get_conf_state().voters.len(), 3);
        assert_ne!(founder("demo", "a:1"), founder("other", "a:1"));
        // A list that names the own box, too, means the same.
        assert_eq!(voters("demo", &place("x"), &["x:7000".to_owned()]).len(), 1);
    }

    #[test]
    fn votes_stay_odd() {
        let known: Vec<(u64, Place)> = (1..=4).map(|node| (node, place(&format!("n{node}")))).collect();
        let members =
            |voters: &[u64], learners: &[u64]| ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..ConfState::default() };
        let parts = |changes: Vec<Member>| changes.into_iter().map(|member| (member.node, member.part)).collect::<Vec<_>>();
        // The second box copies, the third one gives both a vote.
        assert_eq!(parts(admission(&members(&[1], &[]), &known[..1], 9, &place("x"))), [(9, Part::Learner)]);
        assert_eq!(parts(admission(&members(&[1], &[2]), &known[..2], 9, &place("x"))), [(2, Part::Voter), (9, Part::Voter)]);
        assert_eq!(parts(admission(&members(&[1, 2], &[]), &known[..2], 9, &place("x"))), [(9, Part::Voter)]);
        // Asking again changes nothing.
        assert_eq!(parts(admission(&members(&[1], &[9]), &known[..1], 9, &place("x"))), []);
        assert_eq!(parts(admission(&members(&[1, 2, 9], &[]), &known[..2], 9, &place("x"))), []);
    }

    #[test]
    fn a_box_that_lost_its_file_takes_its_own_place() {
        let known: Vec<(u64, Place)> = (1..=3).map(|node| (node, place(&format!("n{node}")))).collect();
        let members = ConfState { voters: vec![1, 2], learners: vec![3], ..ConfState::default() };
        let changes = admission(&members, &known, 9, &place("n2"));
        assert_eq!(changes.iter().map(|member| (member.node, member.part)).collect::<Vec<_>>(), [(2, Part::Gone), (9, Part::Voter)]);
        // A founder is known by its address only.
        let nameless = vec![(5, Place { name: String::new(), address: "n7:7000".to_owned() })];
        let members = ConfState { voters: vec![5], ..ConfState::default() };
        let changes = admission(&members, &nameless, 9, &place("n7"));
        assert_eq!(changes.iter().map(|member| (member.node, member.part)).collect::<Vec<_>>(), [(5, Part::Gone), (9, Part::Voter)]);
        let changes = admission(&ConfState { voters: vec![1], learners: vec![3], ..ConfState::default() }, &known, 9, &place("n3"));
        assert_eq!(changes.iter().map(|member| (member.node, member.part)).collect::<Vec<_>>(), [(3, Part::Gone), (9, Part::Learner)]);
    }
}
