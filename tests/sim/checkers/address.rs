//! S3: virtual IPs follow the lock. The primary's address is never on two live boxes, and never for long on one without the leader key.

use mastiff::ha::fence::VipRole;

use super::Fact;

/// The key may be gone for so long before the address is: the store's news are on their way.
const STALE_MS: u64 = 50;

#[derive(Clone, Debug, Default)]
struct Seat {
    primary: bool,
    standby: bool,
    frozen: bool,
    excused_until: u64,
}

/// The checker.
#[derive(Debug)]
pub struct Addresses {
    seats: Vec<Seat>,
    holder: Option<usize>,
    /// When the holder lost the key.
    since: u64,
    /// Something may be wrong: look at every event.
    awry: bool,
}

impl Addresses {
    /// For this many nodes.
    pub fn new(nodes: usize) -> Addresses {
        Addresses { seats: vec![Seat::default(); nodes], holder: None, since: 0, awry: false }
    }

    /// Takes a fact.
    pub fn fact(&mut self, at: u64, fact: &Fact) -> Result<(), String> {
        match *fact {
            Fact::Vip { node, role: VipRole::Primary, on: true, standby: true } => {
                return Err(format!("n{} gets the primary's address while its PostgreSQL is a standby", node + 1));
            }
            Fact::Vip { node, role: VipRole::Primary, on, .. } => self.seats[node].primary = on,
            Fact::Vip { node, role: VipRole::Standby, on, .. } => self.seats[node].standby = on,
            Fact::Frozen { node, on, vip_grace_ms, .. } => {
                self.seats[node].frozen = on;
                self.excuse(node, at + if on { 0 } else { vip_grace_ms });
            }
            Fact::Excused { node, until } => self.excuse(node, until),
            Fact::Holder(holder) => (self.holder, self.since) = (holder, at),
            _ => return Ok(()),
        }
        let astray = |(node, seat): (usize, &Seat)| seat.primary && self.holder != Some(node);
        let standbys = self.seats.iter().filter(|seat| seat.standby).count();
        self.awry = standbys > 1 || self.seats.iter().enumerate().any(astray);
        self.time(at)
    }

    fn excuse(&mut self, node: usize, until: u64) {
        self.seats[node].excused_until = self.seats[node].excused_until.max(until);
    }

    /// Looks whether what was allowed so far is still allowed.
    pub fn time(&self, at: u64) -> Result<(), String> {
        if !self.awry {
            return Ok(());
        }
        let live = |pick: fn(&Seat) -> bool| -> Vec<usize> {
            let seats = self.seats.iter().enumerate();
            seats.filter(|(_, seat)| pick(seat) && !seat.frozen && at > seat.excused_until).map(|(node, _)| node).collect()
        };
        let primaries = live(|seat| seat.primary);
        let names = |nodes: &[usize]| nodes.iter().map(|node| format!("n{}", node + 1)).collect::<Vec<_>>().join(" and ");
        if primaries.len() > 1 {
            return Err(format!("{} have the primary's address", names(&primaries)));
        }
        if let Some(node) = primaries.iter().find(|&&node| self.holder != Some(node) && at > self.since + STALE_MS) {
            return Err(format!("n{} has the primary's address {} ms after it lost the leader key", node + 1, at - self.since));
        }
        let standbys = live(|seat| seat.standby);
        if standbys.len() > 1 {
            return Err(format!("{} have the standbys' address", names(&standbys)));
        }
        Ok(())
    }
}

/// Made-up histories.
pub fn self_test() -> Result<(), String> {
    use super::expect;
    let run = |facts: &[(u64, Fact)]| {
        let mut checker = Addresses::new(2);
        facts.iter().try_for_each(|(at, fact)| checker.fact(*at, fact)).and_then(|()| checker.time(9_000))
    };
    let vip = |node, on| Fact::Vip { node, role: VipRole::Primary, on, standby: false };
    let holds = |node| Fact::Holder(Some(node));
    let frozen = |on| Fact::Frozen { node: 0, on, grace_ms: 0, vip_grace_ms: 100 };
    expect("follows", run(&[(1, holds(0)), (2, vip(0, true)), (3, vip(0, false)), (4, holds(1)), (5, vip(1, true))]), false)?;
    let early = Fact::Vip { node: 0, role: VipRole::Primary, on: true, standby: true };
    expect("too early", run(&[(1, holds(0)), (2, early)]), true)?;
    expect("two", run(&[(1, holds(0)), (2, vip(0, true)), (4, holds(1)), (5, vip(1, true))]), true)?;
    expect("left over", run(&[(1, holds(0)), (2, vip(0, true)), (4, Fact::Holder(None))]), true)?;
    expect("frozen", run(&[(1, holds(0)), (2, vip(0, true)), (3, frozen(true)), (4, holds(1)), (5, vip(1, true))]), false)?;
    let thawed = [(1, holds(0)), (2, vip(0, true)), (3, frozen(true)), (4, holds(1)), (5, vip(1, true)), (6, frozen(false))];
    expect("thawed", run(&thawed), true)?;
    expect("thawed and gone", run(&[&thawed[..], &[(99, vip(0, false))]].concat()), false)
}
