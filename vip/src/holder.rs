//! One address, held: added, renewed, announced, defended, watched, removed.
//!
//! Nothing here waits. The caller brings the clock (a duration since any fixed moment; boot time counts suspend and is best), calls
//! [`Holder::tick`] at [`Holder::next_deadline`], and [`Holder::poll_events`] when one of the descriptors has something to read.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::address::{Address, Warning};
use crate::destroy::{Destroyed, Destroyer};
use crate::error::Error;
use crate::netlink::message::{NewAddress, AF_BRIDGE, AF_UNSPEC};
use crate::netlink::{Assigned, Link, Netlink, Notice, Notices};
use crate::schedule::Schedule;
use crate::send::Frames;
use crate::wire::{arp, ndp, Mac};

/// Time between the two probes.
pub const PROBE_GAP: Duration = Duration::from_millis(120);
/// Time between two questions whether the kernel takes packets for a new IPv6 address in.
const SETTLE_AGAIN: Duration = Duration::from_millis(2);
/// It is announced after this time in any case: rules of routing may hide the answer.
const SETTLED: Duration = Duration::from_millis(500);
/// Time from the first probe to the verdict that nobody has the address.
pub const PROBE_TIME: Duration = Duration::from_millis(300);

/// What happened to a held address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is not there any more: somebody removed it, or its lifetime ended. Add it again while the lease lasts.
    AddressRemoved,
    /// The interface has gone, and the address with it. When it comes again, [`Event::CarrierBack`] follows.
    InterfaceGone,
    /// The interface is down or lost its carrier: nobody reaches us. A reason to hand over.
    CarrierLost,
    /// The interface runs again. If the address was held it is being announced again.
    CarrierBack,
    /// The interface has another hardware address. It is being announced again.
    MacChanged {
        /// The new one.
        mac: Mac,
    },
    /// The way to the neighbours changed: another slave of a bond, another port of a bridge. It is being announced again.
    PathChanged,
    /// Another station says that it has the address.
    Conflict {
        /// Its hardware address.
        mac: Mac,
        /// Whether it was answered with an announcement (at most one per [`Address::defend_every`]).
        defended: bool,
    },
}

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// None was started.
    Idle,
    /// Ask again at this time at the latest.
    Running {
        /// When it is over.
        until: Duration,
    },
    /// Nobody answered.
    Free,
    /// This station answered.
    Held {
        /// Its hardware address.
        mac: Mac,
    },
}

/// What [`Holder::remove`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    /// From how many places the address was removed. 0: it was not there.
    pub places: usize,
    /// What became of the sessions.
    pub sessions: Destroyed,
}

#[derive(Clone, Copy, Debug)]
enum Probing {
    Idle,
    Running { started: Duration, again: Option<Duration> },
    Free,
    Held(Mac),
}

/// An address and everything that is needed to hold it.
///
/// Dropping it removes nothing: only [`remove`](Self::remove), or the address's lifetime, ends it.
#[derive(Debug)]
pub struct Holder {
    address: Address,
    netlink: Netlink,
    notices: Notices,
    destroyer: Destroyer,
    frames: Option<Frames>,
    /// As last seen.
    link: Option<Link>,
    /// Ports of the bridge or bond: whether they run, whether the bridge lets them forward.
    ports: BTreeMap<u32, (bool, bool)>,
    schedule: Schedule,
    wanted: bool,
    /// Until when the first announcement waits for the kernel to take packets in.
    unsettled: Option<Duration>,
    announcements: u64,
    probing: Probing,
    defended_at: Option<Duration>,
}

impl Holder {
    /// Opens what is needed, in the network namespace of the calling thread. The interface need not be there yet.
    ///
    /// `seed` decides the jitter of the periodic announcements; anything that differs between hosts will do.
    ///
    /// # Errors
    /// Those of [`Address::validate`]; [`Error::Capability`] without CAP_NET_RAW, unless nothing is to be announced.
    pub fn open(address: Address, seed: u64) -> Result<Holder, Error> {
        address.validate()?;
        let frames = if address.announce { Some(Frames::open(address.ip)?) } else { None };
        let mut holder = Holder {
            netlink: Netlink::open()?,
            notices: Notices::open()?,
            destroyer: Destroyer::open()?,
            frames,
            link: None,
            ports: BTreeMap::new(),
            schedule: Schedule::new(seed).every(address.announce_every),
            wanted: false,
            unsettled: None,
            announcements: 0,
            probing: Probing::Idle,
            defended_at: None,
            address,
        };
        // A missing interface is for `check` and `add` to say.
        let _ = holder.find_link();
        Ok(holder)
    }

    /// What is configured.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The interface, as last seen; `None` while there is none.
    #[must_use]
    pub fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    /// Whether packets can leave through the interface, as last seen.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.link.as_ref().is_some_and(Link::is_running)
    }

    /// Whether the interface is there and this process may do everything that is needed.
    ///
    /// # Errors
    /// [`Error::NoInterface`], [`Error::Capability`], [`Error::Ipv6Off`].
    pub fn check(&mut self) -> Result<Vec<Warning>, Error> {
        let link = self.find_link()?;
        self.netlink.check_admin()?;
        let (ip, interface) = (self.address.ip, self.address.interface.clone());
        if ip.is_ipv6() && link.ipv6_off {
            return Err(Error::Ipv6Off { interface });
        }
        let mut warnings = Vec::new();
        if !link.is_running() {
            warnings.push(Warning::NotRunning { ip, interface: interface.clone() });
        }
        if self.address.announce && !link.has_neighbours() {
            warnings.push(Warning::NoNeighbours { ip, interface: interface.clone() });
        }
        let prefix = self.address.prefix;
        if ip.is_ipv4() && prefix < 31 && !link.promotes {
            warnings.push(Warning::TiedToOthers { ip, interface, prefix });
        }
        for place in self.netlink.places(ip)? {
            if (place.interface, place.prefix) != (link.index, prefix) {
                warnings.push(Warning::Elsewhere { ip, interface: place.interface, prefix: place.prefix });
            }
        }
        Ok(warnings)
    }

    /// Adds the address, or renews it when it is there, and begins to announce it: the first time at once.
    ///
    /// `valid` is how long the kernel keeps it without a renewal, in seconds ([`valid_for`](crate::lifetime::Lifetime::valid_for)); `None` is for ever.
    ///
    /// Takes up to 10 ms for IPv6, mostly none: the announcement waits until the kernel takes packets in. When that takes longer,
    /// [`tick`](Self::tick) announces.
    ///
    /// # Errors
    /// [`Error::NoInterface`], [`Error::Capability`], [`Error::Ipv6Off`], the kernel's. That an announcement could not be sent is no
    /// error here: the schedule tries again.
    pub fn add(&mut self, now: Duration, valid: Option<u32>) -> Result<(), Error> {
        self.find_link()?;
        self.put(valid)?;
        self.unsettled = if self.settle_route() { None } else { Some(now.saturating_add(SETTLED)) };
        self.wanted = true;
        self.probing = Probing::Idle;
        self.schedule.restart(now);
        self.tick(now);
        Ok(())
    }

    /// Renews the lifetime; adds the address when it is not there any more. Announcements go on as scheduled.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn renew(&mut self, valid: Option<u32>) -> Result<(), Error> {
        match self.put(valid) {
            // Never found, or made anew under another number.
            Err(Error::NoInterface { .. }) => {
                self.find_link()?;
                self.put(valid)
            }
            other => other,
        }
    }

    fn put(&mut self, valid: Option<u32>) -> Result<(), Error> {
        let interface = self.address.interface.clone();
        let Some(index) = self.link.as_ref().map(|link| link.index) else { return Err(Error::NoInterface { interface }) };
        let prefix = self.fit_prefix(index)?;
        let address = &self.address;
        let new = NewAddress {
            ip: address.ip,
            prefix,
            interface: index,
            label: address.label.as_deref(),
            preferred: address.preferred,
            // The single address has no prefix route anyway; not setting the flag keeps old kernels content.
            no_prefix_route: address.no_prefix_route && prefix < if address.ip.is_ipv4() { 32 } else { 128 },
            valid,
        };
        self.netlink.add(&new, &interface)
    }

    /// The prefix to add the address with: as configured, but 32 where that would make it the first address of its IPv4 subnet here. Removes
    /// the address where it is there with the other one.
    ///
    /// The first one carries the others: the box's own address, put back beside it, gets no route to the subnet, and goes when this one goes
    /// (`promote_secondaries` 0, `__inet_insert_ifa` and `__inet_del_ifa` of net/ipv4/devinet.c).
    fn fit_prefix(&mut self, index: u32) -> Result<u8, Error> {
        let (ip, configured) = (self.address.ip, self.address.prefix);
        if ip.is_ipv6() || configured >= 32 {
            return Ok(configured);
        }
        let all = self.netlink.addresses(ip)?;
        let first = |one: &Assigned| one.interface == index && one.ip != ip && one.is_first_of(ip, configured);
        let fits = if all.iter().any(first) { configured } else { 32 };
        for one in all.iter().filter(|one| one.ip == ip && one.interface == index && one.prefix != fits) {
            self.netlink.delete(ip, one.prefix, index)?;
        }
        Ok(fits)
    }

    /// Another address of our interface has gone, and ours may be the first one now: that must not last until the next renewal.
    fn refit(&mut self) -> Result<(), Error> {
        let Some(index) = self.link.as_ref().map(|link| link.index) else { return Ok(()) };
        let place = self.netlink.places(self.address.ip)?.into_iter().find(|one| one.interface == index);
        let Some(place) = place.filter(|one| one.ip.is_ipv4() && one.prefix < 32) else { return Ok(()) };
        self.put(place.valid)
    }

    /// Whether the kernel takes packets for the address in, waiting a moment for it.
    ///
    /// It answers the addition of an IPv6 address before: the route to itself follows from a work queue, which other changes of the
    /// network hold up. An announcement sooner than that would draw packets that are dropped, and a lost SYN costs its client a
    /// second. Mostly not a single turn is needed.
    fn settle_route(&mut self) -> bool {
        /// 10 ms in all; after that [`tick`](Holder::tick) asks again.
        const TURNS: u32 = 20;
        const TURN: Duration = Duration::from_micros(500);
        for _ in 0..TURNS {
            if self.address.ip.is_ipv4() || self.netlink.is_local(self.address.ip) {
                return true;
            }
            std::thread::sleep(TURN);
        }
        false
    }

    /// Removes the address from wherever it is on this host and ends the TCP sessions that use it. Can be repeated.
    ///
    /// # Errors
    /// [`Error::Capability`], the kernel's. The announcements have ended in any case.
    pub fn remove(&mut self) -> Result<Removal, Error> {
        self.wanted = false;
        self.unsettled = None;
        self.schedule.stop();
        let ip = self.address.ip;
        let mut places = 0;
        if let Some(link) = &self.link {
            places += usize::from(self.netlink.delete(ip, self.address.prefix, link.index)?);
        }
        places += self.netlink.delete_everywhere(ip)?;
        Ok(Removal { places, sessions: self.destroyer.destroy(ip)? })
    }

    /// Whether the address is on the configured interface now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_present(&mut self) -> Result<bool, Error> {
        let Some(index) = self.link.as_ref().map(|link| link.index) else { return Ok(false) };
        Ok(self.netlink.places(self.address.ip)?.iter().any(|place| place.interface == index))
    }

    /// Announces once, now, and begins the schedule again.
    ///
    /// # Errors
    /// [`Error::NotHeld`] when the address is not there; the kernel's, such as `ENETDOWN`.
    pub fn announce(&mut self, now: Duration) -> Result<(), Error> {
        self.schedule.restart(now);
        // Asked for explicitly: also when one was sent a moment ago.
        self.schedule.due(now);
        self.send_announcement()
    }

    /// How many announcements were sent since [`open`](Self::open).
    #[must_use]
    pub fn announcements(&self) -> u64 {
        self.announcements
    }

    /// Starts a conflict probe: two questions [`PROBE_GAP`] apart, a verdict after [`PROBE_TIME`]. See [`conflict`](Self::conflict).
    ///
    /// # Errors
    /// [`Error::NoInterface`]; the kernel's, such as `ENETDOWN`.
    pub fn probe(&mut self, now: Duration) -> Result<(), Error> {
        self.find_link()?;
        // What was said before the question is no answer to it.
        let _ = self.foreign_claim();
        self.probing = Probing::Running { started: now, again: Some(now.saturating_add(PROBE_GAP)) };
        self.send_probe()
    }

    /// What the probe found so far. Reads what has arrived.
    pub fn conflict(&mut self, now: Duration) -> Probe {
        if let Probing::Running { started, .. } = self.probing {
            let until = started.saturating_add(PROBE_TIME);
            if let Some(mac) = self.foreign_claim() {
                self.probing = Probing::Held(mac);
            } else if now >= until {
                self.probing = Probing::Free;
            }
        }
        match self.probing {
            Probing::Idle => Probe::Idle,
            Probing::Running { started, .. } => Probe::Running { until: started.saturating_add(PROBE_TIME) },
            Probing::Free => Probe::Free,
            Probing::Held(mac) => Probe::Held { mac },
        }
    }

    /// When [`tick`](Self::tick) has something to do; `None`: not before the next call of another method.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let probe = match self.probing {
            Probing::Running { started, again } => Some(again.unwrap_or(started.saturating_add(PROBE_TIME))),
            _ => None,
        };
        [probe, self.schedule.next()].into_iter().flatten().min()
    }

    /// Sends what is due. What cannot be sent is tried again by the schedule.
    pub fn tick(&mut self, now: Duration) {
        match self.unsettled {
            Some(until) if now < until && !self.netlink.is_local(self.address.ip) => {
                self.schedule.restart(now.saturating_add(SETTLE_AGAIN));
            }
            _ => self.unsettled = None,
        }
        if self.schedule.due(now) {
            let _ = self.send_announcement();
        }
        if let Probing::Running { started, again: Some(again) } = self.probing {
            if now >= again {
                self.probing = Probing::Running { started, again: None };
                let _ = self.send_probe();
            }
        }
        self.conflict(now);
    }

    /// The descriptor that becomes readable with interface and address events. It stays the same for the holder's life.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.notices.as_fd()
    }

    /// The descriptor that becomes readable when another station claims the address. It stays the same for the holder's life.
    #[must_use]
    pub fn frame_fd(&self) -> Option<BorrowedFd<'_>> {
        self.frames.as_ref().map(AsFd::as_fd)
    }

    /// Everything that happened since the last call, without waiting. Re-announces and defends by itself.
    ///
    /// At most some hundred frames are read in one call, so a flood does not hold the caller; with edge-triggered polling the rest
    /// is read after the next frame. Address and conflict events come only while the address is held.
    pub fn poll_events(&mut self, now: Duration) -> Vec<Event> {
        let mut notices = Vec::new();
        self.notices.drain(|notice| notices.push(notice));
        let (mut events, mut verify, mut refit) = (Vec::new(), false, false);
        for notice in notices {
            match notice {
                Notice::Link(link) => self.link_changed(link, &mut events),
                Notice::LinkGone(link) => self.link_gone(&link, &mut events),
                Notice::AddressGone(one) if one.ip == self.address.ip => verify = true,
                Notice::AddressGone(_) => refit = true,
                Notice::Lost => {
                    verify = true;
                    self.resync(&mut events);
                }
            }
        }
        // Not what the notice says but what is: it may be of our own removal before an addition, or of another interface.
        verify |= events.iter().any(|event| matches!(event, Event::InterfaceGone | Event::CarrierBack));
        if self.wanted && refit {
            // What fails is tried again with the next renewal.
            let _ = self.refit();
        }
        if self.wanted && verify && matches!(self.is_present(), Ok(false)) {
            events.push(Event::AddressRemoved);
        }
        self.settle(now, &mut events);
        events
    }

    /// Announces again after what happened, and answers claims.
    fn settle(&mut self, now: Duration, events: &mut Vec<Event>) {
        let again = |event: &Event| matches!(event, Event::CarrierBack | Event::MacChanged { .. } | Event::PathChanged);
        if self.wanted && events.iter().any(again) {
            self.schedule.restart(now);
        }
        if matches!(self.probing, Probing::Running { .. }) {
            self.conflict(now);
        } else if let Some(mac) = self.foreign_claim().filter(|_| self.wanted) {
            let may = self.defended_at.is_none_or(|last| now.saturating_sub(last) >= self.address.defend_every);
            let defended = may && self.send_announcement().is_ok();
            if defended {
                self.defended_at = Some(now);
            }
            events.push(Event::Conflict { mac, defended });
        }
        self.tick(now);
    }

    /// Looks the interface up by its name and remembers it.
    fn find_link(&mut self) -> Result<Link, Error> {
        match self.netlink.link(&self.address.interface) {
            Ok(link) => {
                if let Some(frames) = &mut self.frames {
                    frames.bind(link.index)?;
                }
                self.link = Some(link.clone());
                Ok(link)
            }
            Err(error) => {
                if matches!(error, Error::NoInterface { .. }) {
                    self.link = None;
                }
                Err(error)
            }
        }
    }

    fn link_changed(&mut self, new: Link, events: &mut Vec<Event>) {
        let same = self.link.as_ref().is_some_and(|old| old.index == new.index);
        if new.family == AF_UNSPEC && (same || new.name == self.address.interface) {
            self.own_link_changed(events, new.event);
        } else if self.is_port(&new) {
            let port = self.ports.entry(new.index).or_default();
            let before = *port;
            match new.family {
                AF_BRIDGE => port.1 = new.bridge_forwards,
                _ => port.0 = new.is_running(),
            }
            if (port.0 && !before.0) || (port.1 && !before.1) {
                push_once(events, Event::PathChanged);
            }
        }
    }

    /// Whether an interface is a port of ours, or of the one that our VLAN is on.
    fn is_port(&self, one: &Link) -> bool {
        let Some(own) = &self.link else { return false };
        one.master.is_some_and(|master| master == own.index || Some(master) == own.lower)
    }

    /// Asks for our interface as it is now (a queue of old notices says little) and tells the differences.
    fn own_link_changed(&mut self, events: &mut Vec<Event>, event: u32) {
        /// `IFLA_EVENT_BONDING_FAILOVER`, `IFLA_EVENT_NOTIFY_PEERS`, `IFLA_EVENT_IGMP_RESEND` (linux/if_link.h).
        const PATH: std::ops::RangeInclusive<u32> = 3..=5;
        let old = self.link.clone();
        let _ = self.find_link();
        let new = self.link.clone();
        let was_running = old.as_ref().is_some_and(Link::is_running);
        match (old, &new) {
            (Some(_), None) => push_once(events, Event::InterfaceGone),
            (Some(old), Some(new)) if old.mac != new.mac => {
                if let Some(mac) = new.mac {
                    events.push(Event::MacChanged { mac });
                }
            }
            _ => {}
        }
        match (was_running, new.as_ref().is_some_and(Link::is_running)) {
            (true, false) => events.push(Event::CarrierLost),
            (false, true) => events.push(Event::CarrierBack),
            (true, true) if PATH.contains(&event) => push_once(events, Event::PathChanged),
            _ => {}
        }
    }

    fn link_gone(&mut self, gone: &Link, events: &mut Vec<Event>) {
        if gone.family == AF_UNSPEC && self.link.as_ref().is_some_and(|old| old.index == gone.index) {
            self.own_link_changed(events, 0);
        } else if gone.family == AF_UNSPEC {
            self.ports.remove(&gone.index);
        }
    }

    /// Events were lost: what is now counts.
    fn resync(&mut self, events: &mut Vec<Event>) {
        self.own_link_changed(events, 0);
        push_once(events, Event::PathChanged);
    }

    /// The hardware address to speak with, when the interface has neighbours.
    fn speaker(&self) -> Result<Option<(&Frames, &Link, Mac)>, Error> {
        let link = self.link.as_ref().ok_or_else(|| Error::NoInterface { interface: self.address.interface.clone() })?;
        let Some(frames) = &self.frames else { return Ok(None) };
        Ok(link.mac.filter(|_| link.has_neighbours()).map(|mac| (frames, link, mac)))
    }

    /// The pair, or the advertisement; then a question for the gateway, which must learn who asks.
    ///
    /// Only while the address is there: a holder that was stopped for longer than its lifetime must not speak against the next one.
    fn send_announcement(&mut self) -> Result<(), Error> {
        if !self.is_present()? {
            return Err(Error::NotHeld { ip: self.address.ip, interface: self.address.interface.clone() });
        }
        let Some(index) = self.link.as_ref().map(|link| link.index) else {
            return Err(Error::NoInterface { interface: self.address.interface.clone() });
        };
        let gateway = match self.address.gateway {
            _ if self.frames.is_none() => None,
            None => self.netlink.gateway(self.address.ip, index),
            named => named,
        };
        let Some((frames, link, mac)) = self.speaker()? else { return Ok(()) };
        match self.address.ip {
            IpAddr::V4(ip) => {
                frames.send(&arp::announce_request(mac, ip))?;
                frames.send(&arp::announce_reply(mac, ip))?;
            }
            IpAddr::V6(ip) => frames.send(&ndp::announce(mac, ip, link.forwards6))?,
        }
        match (self.address.ip, gateway) {
            (IpAddr::V4(ip), Some(IpAddr::V4(gateway))) => frames.send(&arp::ask(mac, ip, gateway))?,
            (IpAddr::V6(ip), Some(IpAddr::V6(gateway))) => frames.send(&ndp::ask(mac, ip, gateway))?,
            _ => {}
        }
        self.announcements += 1;
        Ok(())
    }

    fn send_probe(&self) -> Result<(), Error> {
        let Some((frames, _, mac)) = self.speaker()? else { return Ok(()) };
        match self.address.ip {
            IpAddr::V4(ip) => frames.send(&arp::probe(mac, ip)),
            IpAddr::V6(ip) => frames.send(&ndp::probe(mac, ip)),
        }
    }

    /// Reads what has arrived; the last station that claims the address.
    fn foreign_claim(&self) -> Option<Mac> {
        /// More claims than that are one conflict.
        const AT_ONCE: usize = 1024;
        let (frames, _, own) = self.speaker().ok().flatten()?;
        (0..AT_ONCE).map_while(|_| frames.next_claim(own)).last().map(|claim| claim.mac)
    }
}

fn push_once(events: &mut Vec<Event>, event: Event) {
    if !events.contains(&event) {
        events.push(event);
    }
}
