//! The agent's side of the virtual IPs: carries the core's orders to the kernel, announces, defends, and puts back what others remove.
//!
//! Whether an address may be here is not decided here: each order carries its lease, and nothing is done after that has ended.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mastiff_vip::{Address, Error, Event, Holder, Lifetime, Probe};
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;
use tokio::sync::{mpsc, Notify};
use tokio::task::AbortHandle;

use crate::clock;
use crate::config::types::{OnConflict, VipLifetime, VipSettings};
use crate::guard;
use crate::ha::action::VipAction;
use crate::ha::fence::VipRole;
use crate::ha::input::Input;
use crate::ha::types::{Instant, Millis, WallTime};
use crate::http::{Published, VipStatus};

/// A lifetime of one second ends about when the next order comes, where those come each second: it is renewed between them, so often.
const REFRESH_EVERY: Millis = Millis(250);
/// Such a renewal needs so much of the lease: the second, and one more by which the kernel may be late.
const REFRESH_NEEDS: Millis = Millis(2_000);

/// All virtual IPs of this box.
#[derive(Clone)]
pub struct Vips {
    all: Rc<RefCell<Vec<Rc<One>>>>,
    /// Something to be shown changed.
    dirty: Rc<Notify>,
    seed: u64,
    inputs: mpsc::UnboundedSender<Input>,
}

/// One address.
struct One {
    setting: VipSettings,
    task: Cell<Option<AbortHandle>>,
    inner: RefCell<Inner>,
    /// The task that sends what is due must look at the time again.
    changed: Notify,
    dirty: Rc<Notify>,
    inputs: mpsc::UnboundedSender<Input>,
}

struct Inner {
    holder: Holder,
    /// The order: until when the address may be here.
    until: Option<Instant>,
    held: bool,
    since: Option<WallTime>,
    /// When the kernel removes it, unless it is renewed.
    expires_at: Option<Instant>,
    conflict: Option<String>,
    error: Option<String>,
    /// When it was put back last after somebody removed it.
    put_back_at: Option<Instant>,
    /// When it is to be put back.
    again_at: Option<Instant>,
    /// When its lifetime is to be renewed without a new order.
    refresh_at: Option<Instant>,
}

/// Somebody who removes the address whenever it comes shall not keep this process busy: so often it is put back, at most.
const PUT_BACK_EVERY: Millis = Millis(200);

impl Vips {
    /// Opens what is needed while the privileges are there.
    ///
    /// # Errors
    /// A missing capability, with what to do about it. A missing interface is said and waited for.
    pub fn open(settings: &[VipSettings], seed: u64, inputs: &mpsc::UnboundedSender<Input>) -> Result<Vips, Error> {
        let vips = Vips { all: Rc::default(), dirty: Rc::default(), seed, inputs: inputs.clone() };
        let all: Result<Vec<Rc<One>>, Error> = settings.iter().map(|setting| vips.open_one(setting)).collect();
        vips.all.replace(all?);
        Ok(vips)
    }

    fn open_one(&self, setting: &VipSettings) -> Result<Rc<One>, Error> {
        let mut holder = Holder::open(address(setting), self.seed)?;
        match holder.check() {
            Ok(warnings) => warnings.iter().for_each(|warning| log::warn!("vip: {warning}")),
            Err(error @ Error::Capability { .. }) => return Err(error),
            Err(error) => log::error!("vip {}: {error}", setting.address),
        }
        if setting.role == VipRole::Primary && !holder.is_running() {
            let _ = self.inputs.send(Input::Carrier { lost: true });
        }
        let inner = Inner {
            holder,
            until: None,
            held: false,
            since: None,
            expires_at: None,
            conflict: None,
            error: None,
            put_back_at: None,
            again_at: None,
            refresh_at: None,
        };
        Ok(Rc::new(One {
            setting: setting.clone(),
            task: Cell::new(None),
            inner: RefCell::new(inner),
            changed: Notify::new(),
            dirty: Rc::clone(&self.dirty),
            inputs: self.inputs.clone(),
        }))
    }

    /// After a reload: what is configured as before stays as it is, what is not is removed, what is new waits for the next order.
    ///
    /// # Errors
    /// Those of [`Vips::open`]; then nothing was changed.
    pub fn reconfigure(&self, settings: &[VipSettings]) -> Result<(), Error> {
        let old = self.all.borrow().clone();
        let kept = |setting: &VipSettings| old.iter().find(|one| one.setting == *setting).cloned();
        let next: Result<Vec<Rc<One>>, Error> =
            settings.iter().map(|setting| kept(setting).map_or_else(|| self.open_one(setting), Ok)).collect();
        let next = next?;
        for one in old.iter().filter(|one| !next.iter().any(|other| Rc::ptr_eq(one, other))) {
            one.drop_now();
            if let Some(task) = one.task.take() {
                task.abort();
            }
        }
        next.iter().filter(|one| !old.iter().any(|other| Rc::ptr_eq(one, other))).for_each(One::start);
        self.all.replace(next);
        self.dirty.notify_one();
        Ok(())
    }

    /// Starts a task for each address: events of the kernel, announcements; and one that shows what became of them.
    pub fn start(&self, published: &Arc<Published>) {
        let (vips, published) = (self.clone(), Arc::clone(published));
        tokio::task::spawn_local(async move {
            loop {
                published.set_vips(vips.status());
                vips.dirty.notified().await;
            }
        });
        self.all.borrow().iter().for_each(One::start);
    }

    /// Carries an order out before it returns.
    pub fn act(&self, action: &VipAction) {
        let role = match action {
            VipAction::Hold { role, .. } | VipAction::Drop { role } => *role,
        };
        for one in self.all.borrow().iter().filter(|one| one.setting.role == role) {
            match action {
                VipAction::Hold { lease, .. } => one.hold(lease.until()),
                VipAction::Drop { .. } => one.drop_now(),
            }
        }
    }

    /// What a guard must remove when the agent cannot.
    #[must_use]
    pub fn addresses(&self) -> Vec<guard::Address> {
        let all = self.all.borrow();
        let addresses = all.iter().map(|one| {
            let inner = one.inner.borrow();
            let address = inner.holder.address();
            guard::Address { ip: address.ip, prefix: address.prefix, device: address.interface.clone() }
        });
        addresses.collect()
    }

    /// For REST and metrics.
    #[must_use]
    pub fn status(&self) -> Vec<VipStatus> {
        self.all.borrow().iter().map(|one| one.status()).collect()
    }
}

fn address(setting: &VipSettings) -> Address {
    let mut address = Address::new(setting.address, &setting.interface);
    address.prefix = setting.prefix;
    address.label.clone_from(&setting.label);
    address.announce_every = setting.announce_interval.map(Millis::to_std);
    address.gateway = setting.gateway;
    address.preferred = setting.preferred;
    address.lifetime = match setting.lifetime {
        VipLifetime::Auto => Lifetime::Auto,
        VipLifetime::Off => Lifetime::Off,
        VipLifetime::Seconds(seconds) => Lifetime::Seconds(seconds),
    };
    address
}

/// The boot clock as the crate counts it.
fn now() -> Duration {
    clock::now().since(Instant(0)).to_std()
}

fn at(instant: Instant) -> Duration {
    instant.since(Instant(0)).to_std()
}

impl One {
    fn start(one: &Rc<One>) {
        one.task.set(Some(tokio::task::spawn_local(Rc::clone(one).run()).abort_handle()));
    }

    fn hold(&self, until: Instant) {
        let mut inner = self.inner.borrow_mut();
        let first = inner.until.is_none();
        inner.until = Some(until);
        if inner.held {
            inner.put(false);
        } else if self.setting.on_conflict == OnConflict::Refuse {
            self.ask(&mut inner, first);
        } else {
            inner.put(true);
        }
        drop(inner);
        self.changed.notify_one();
        self.dirty.notify_one();
    }

    /// Somebody else's address is not taken: asked first, and again with each renewal, until nobody answers.
    fn ask(&self, inner: &mut Inner, first: bool) {
        let running = matches!(inner.holder.conflict(now()), Probe::Running { .. });
        if (first || !running) && inner.holder.probe(now()).is_err() {
            // Nobody can be asked where nothing can be sent: the attempt to add tells why.
            inner.put(true);
        }
    }

    fn drop_now(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.until = None;
        inner.conflict = None;
        let address = inner.holder.address().ip;
        match inner.holder.remove() {
            Ok(removal) if inner.held => log::info!("virtual IP {address} removed; sessions: {:?}", removal.sessions),
            Ok(_) => {}
            Err(error) => {
                log::error!("virtual IP {address} cannot be removed: {error}");
                inner.error = Some(error.to_string());
            }
        }
        inner.gone();
        drop(inner);
        self.changed.notify_one();
        self.dirty.notify_one();
    }

    fn status(&self) -> VipStatus {
        let inner = self.inner.borrow();
        let address = inner.holder.address();
        VipStatus {
            address: address.ip,
            prefix: address.prefix,
            interface: address.interface.clone(),
            role: self.setting.role,
            held: inner.held,
            since: inner.since,
            expires_at: inner.expires_at,
            conflict: inner.conflict.clone(),
            error: inner.error.clone(),
        }
    }

    /// Runs for ever.
    async fn run(self: Rc<Self>) {
        let fds = {
            let inner = self.inner.borrow();
            watch(inner.holder.event_fd()).and_then(|events| Ok((events, inner.holder.frame_fd().map(watch).transpose()?)))
        };
        let (events, frames) = match fds {
            Ok(fds) => fds,
            Err(error) => return log::error!("vip: the kernel's events cannot be had: {error}"),
        };
        loop {
            let due = self.inner.borrow().due();
            let pause = due.map_or(Duration::from_secs(3600), |due| due.saturating_sub(now()));
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
                () = readable(Some(&events)) => {}
                () = readable(frames.as_ref()) => {}
            }
            self.look();
        }
    }

    fn look(&self) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        inner.holder.tick(now());
        for event in inner.holder.poll_events(now()) {
            self.take(inner, &event);
            self.dirty.notify_one();
        }
        if inner.again_at.take_if(|at| clock::now() >= *at).is_some() && !inner.held && inner.is_ordered() {
            inner.put_back_at = Some(clock::now());
            inner.put(true);
        }
        if inner.refresh_at.take_if(|at| clock::now() >= *at).is_some() && inner.held && inner.lasts(REFRESH_NEEDS) {
            inner.put(false);
        }
        if !inner.held && inner.is_ordered() {
            match inner.holder.conflict(now()) {
                Probe::Free => inner.put(true),
                Probe::Held { mac } => inner.clash(&format!("{mac} answers for it; not added")),
                Probe::Idle | Probe::Running { .. } => {}
            }
        }
    }

    fn take(&self, inner: &mut Inner, event: &Event) {
        let address = inner.holder.address().ip;
        match event {
            Event::AddressRemoved => {
                inner.gone();
                if inner.is_ordered() {
                    let now = clock::now();
                    let again = inner.put_back_at.map_or(now, |last| (last + PUT_BACK_EVERY).max(now));
                    inner.again_at = Some(again);
                    log::warn!("virtual IP {address} was removed by somebody else, or expired; adding it again");
                }
            }
            Event::CarrierLost | Event::InterfaceGone => self.carrier(inner, true),
            Event::CarrierBack => self.carrier(inner, false),
            Event::Conflict { mac, .. } => inner.clash(&format!("{mac} says that it has it, too")),
            Event::MacChanged { .. } | Event::PathChanged => {}
        }
    }

    fn carrier(&self, inner: &Inner, lost: bool) {
        let state = if lost { "lost its carrier or is down" } else { "runs again" };
        log::warn!("vip: interface {} {state}", inner.holder.address().interface);
        if self.setting.role == VipRole::Primary {
            let _ = self.inputs.send(Input::Carrier { lost });
        }
    }
}

impl Inner {
    /// Whether it may be here now.
    fn is_ordered(&self) -> bool {
        self.until.is_some_and(|until| clock::now() < until)
    }

    /// Whether the order goes on for so long. (Who was stopped meanwhile is late.)
    fn lasts(&self, time: Millis) -> bool {
        self.until.is_some_and(|until| clock::now() + time <= until)
    }

    /// When there is something to do by itself.
    fn due(&self) -> Option<Duration> {
        self.holder.next_deadline().into_iter().chain(self.again_at.map(at)).chain(self.refresh_at.map(at)).min()
    }

    /// Adds or renews. What fails is said once and tried again with the next order.
    fn put(&mut self, add: bool) {
        let Some(until) = self.until else { return };
        let valid = self.holder.address().lifetime.valid_for(at(until), now());
        let outcome = if add { self.holder.add(now(), valid) } else { self.holder.renew(valid) };
        let address = self.holder.address();
        match outcome {
            Ok(()) => {
                if !self.held {
                    log::info!("virtual IP {}/{} added to {}", address.ip, address.prefix, address.interface);
                    self.since = Some(clock::wall());
                }
                self.held = true;
                self.refresh_at = refresh(until, clock::now(), valid);
                self.expires_at = valid.map(|seconds| clock::now() + Millis::from_secs(u64::from(seconds)));
                self.error = None;
            }
            Err(error) => {
                let text = error.to_string();
                if self.error.as_ref() != Some(&text) {
                    log::error!("virtual IP {}: {text}", address.ip);
                }
                self.gone();
                self.error = Some(text);
            }
        }
    }

    fn gone(&mut self) {
        (self.held, self.since, self.expires_at, self.refresh_at) = (false, None, None, None);
    }

    fn clash(&mut self, text: &str) {
        if self.conflict.as_deref() != Some(text) {
            log::error!("virtual IP {}: {text}", self.holder.address().ip);
            self.conflict = Some(text.to_owned());
        }
    }
}

/// When to renew a lifetime that was just given, without a new order: only the shortest one, and only while the kernel would still remove the
/// address before the lease ends.
fn refresh(until: Instant, now: Instant, valid: Option<u32>) -> Option<Instant> {
    let at = now + REFRESH_EVERY;
    (valid == Some(1) && at + REFRESH_NEEDS <= until).then_some(at)
}

/// The descriptor for the event loop, as one of its own.
// The safe constructor is deprecated for types whose descriptor may change or close behind its back; an `OwnedFd` never does that.
#[allow(deprecated)]
fn watch(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd.try_clone_to_owned()?, Interest::READABLE)
}

async fn readable(fd: Option<&AsyncFd<OwnedFd>>) {
    match fd {
        Some(fd) => {
            if let Ok(mut guard) = fd.readable().await {
                guard.clear_ready();
            }
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_lifetime_is_renewed_while_the_lease_allows_it() {
        let lease = |left: u64, valid| refresh(Instant(10_000 + left), Instant(10_000), valid);
        // `ttl` 3: the order comes some milliseconds after the renewal was sent.
        assert_eq!(lease(2_700, Some(1)), Some(Instant(10_250)));
        assert_eq!(lease(2_250, Some(1)), Some(Instant(10_250)));
        // Later the kernel could be too late.
        assert_eq!(lease(2_249, Some(1)), None);
        assert_eq!(lease(0, Some(1)), None);
        // Longer ones outlast the time between two orders.
        assert_eq!(lease(2_700, Some(2)), None);
        assert_eq!(lease(2_700, None), None);
    }
}
