//! `Machine` and its fences, driven by hand: guard, hardware watchdog, virtual IP.
#![allow(clippy::unwrap_used, clippy::panic)]

mod driven;

use driven::{peer, primary, standby, Bench};
use mastiff::ha::action::{Action, GuardAction, StoreRequest, VipAction, WatchdogAction};
use mastiff::ha::config::{HaConfig, WatchdogMode};
use mastiff::ha::decide::samples;
use mastiff::ha::fence::{GuardReport, VipRole, WatchdogReport};
use mastiff::ha::input::{Input, JobOutcome, Signal, StoreOutcome};
use mastiff::ha::types::{Instant, MemberName, Millis, Revision};
use mastiff::ha::view::{ControlState, PeersView, PgState, Versioned};

const TIMEOUT: Millis = Millis(10_000);

/// With a guard, a watchdog in this mode, and an address for the primary.
fn config(mode: WatchdogMode) -> HaConfig {
    let mut config = HaConfig::for_member("n1");
    config.guard = true;
    config.watchdog.mode = mode;
    config.vip_roles.insert(VipRole::Primary);
    config
}

fn clean_stop() -> PgState {
    PgState::Stopped(samples::control(ControlState::ShutDown, 1, 100))
}

/// What was asked of the fences, in words and in order; forgotten by asking.
fn asked(bench: &mut Bench) -> Vec<&'static str> {
    let word = |action: &Action| match action {
        Action::Guard(GuardAction::Watch(_)) => Some("watch"),
        Action::Guard(GuardAction::Disarm(_)) => Some("guard off"),
        Action::Watchdog(WatchdogAction::Look { .. }) => Some("look"),
        Action::Watchdog(WatchdogAction::Arm { .. }) => Some("arm"),
        Action::Watchdog(WatchdogAction::Kick(_)) => Some("kick"),
        Action::Watchdog(WatchdogAction::Disarm(_)) => Some("watchdog off"),
        Action::Vip(VipAction::Hold { .. }) => Some("hold"),
        Action::Vip(VipAction::Drop { .. }) => Some("drop"),
        Action::RunJob { job, .. } => Some(job.name()),
        Action::Fence { .. } => Some("fence"),
        Action::Store { request: StoreRequest::Release { .. }, .. } => Some("release"),
        Action::Store { request: StoreRequest::Acquire { .. }, .. } => Some("acquire"),
        Action::Exit { .. } => Some("exit"),
        _ => None,
    };
    bench.out.iter().filter_map(word).collect()
}

fn took(bench: &mut Bench) -> Vec<&'static str> {
    let words = asked(bench);
    bench.forget();
    words
}

fn armed(stoppable: bool) -> Input {
    Input::Watchdog(WatchdogReport::Armed { timeout: TIMEOUT, stoppable })
}

fn unusable() -> Input {
    Input::Watchdog(WatchdogReport::Unusable("there is none".to_owned()))
}

/// The guard acknowledges the last order.
fn guard_answers(bench: &mut Bench) {
    let until = bench.take(|action| match action {
        Action::Guard(GuardAction::Watch(order)) => Some(order.kill_at()),
        _ => None,
    });
    bench.step(Input::Guard(GuardReport::Armed { until: until.expect("an order") }));
}

fn job(bench: &mut Bench, outcome: JobOutcome) -> &'static str {
    let (id, name) = bench.job().expect("a job");
    bench.step(Input::JobExited { id, outcome });
    bench.pass(2);
    name
}

fn look_again(bench: &mut Bench) {
    bench.answer_observation();
    if bench.out.iter().any(|action| matches!(action, Action::Store { request: StoreRequest::Read, .. })) {
        bench.answer_read();
    }
}

/// A leader that runs, everything armed, address held.
fn leader(mode: WatchdogMode, stoppable: bool) -> Bench {
    let mut bench = Bench::with(config(mode), primary());
    bench.leader("n1", 1);
    bench.step(Input::Watchdog(WatchdogReport::Ready));
    bench.start();
    guard_answers(&mut bench);
    if mode != WatchdogMode::Off {
        assert!(took(&mut bench).contains(&"arm"));
        bench.step(armed(stoppable));
    }
    bench.forget();
    bench
}

/// A standby that was told that the key is its own.
fn winner(mode: WatchdogMode) -> Bench {
    let mut bench = Bench::with(config(mode), standby("n2", false, 100));
    bench.leader("n1", 1);
    bench.step(Input::Guard(GuardReport::Idle));
    bench.start();
    // What an earlier life may have left.
    bench.out.retain(|action| !matches!(action, Action::Vip(VipAction::Drop { .. })));
    bench
}

#[test]
fn guard_and_watchdog_stand_before_the_promotion() {
    let mut bench = winner(WatchdogMode::Automatic);
    assert_eq!(asked(&mut bench), ["look", "watch", "arm"], "nothing is promoted yet");
    guard_answers(&mut bench);
    assert!(bench.job().is_none(), "the watchdog is missing");
    bench.step(armed(true));
    assert_eq!(bench.job().expect("a job").1, "promote");
}

#[test]
fn an_answer_of_the_guard_to_an_older_order_is_not_enough() {
    let mut bench = winner(WatchdogMode::Off);
    assert_eq!(took(&mut bench), ["watch"]);
    bench.step(Input::Guard(GuardReport::Armed { until: Instant(bench.now + 5_000) }));
    assert!(bench.job().is_none(), "that was another deadline");
}

#[test]
fn no_promotion_until_the_guard_is_back() {
    let mut bench = winner(WatchdogMode::Off);
    assert_eq!(took(&mut bench), ["watch"]);
    for _ in 0..3 {
        bench.step(Input::Guard(GuardReport::Gone("it ended".to_owned())));
        bench.cycle();
        assert!(bench.job().is_none());
        while !asked(&mut bench).contains(&"watch") {
            bench.cycle();
        }
    }
    guard_answers(&mut bench);
    assert_eq!(bench.job().expect("a job").1, "promote");
}

#[test]
fn a_leader_replaces_its_guard_within_two_seconds() {
    let mut bench = leader(WatchdogMode::Off, true);
    bench.step(Input::Guard(GuardReport::Gone("it ended".to_owned())));
    let began = bench.now;
    while !asked(&mut bench).contains(&"watch") {
        bench.now = bench.machine.next_deadline().0;
        assert!(bench.now <= began + 2_000, "it sleeps without a guard");
        bench.step(Input::Tick);
    }
}

#[test]
fn required_without_a_device_neither_races_nor_bootstraps() {
    let mut bench = Bench::with(config(WatchdogMode::Required), standby("n2", false, 100));
    bench.step(unusable());
    bench.start();
    for _ in 0..5 {
        assert!(bench.peers_asked().is_none());
        assert!(!took(&mut bench).contains(&"acquire"));
        bench.cycle();
    }
    let mut empty = Bench::with(config(WatchdogMode::Required), PgState::Empty);
    empty.view.initialize = None;
    empty.step(unusable());
    empty.start();
    empty.cycle();
    assert!(empty.store(|request| matches!(request, StoreRequest::ClaimInitialize { .. })).is_none());
}

#[test]
fn automatic_without_a_device_promotes() {
    let mut bench = winner(WatchdogMode::Automatic);
    guard_answers(&mut bench);
    bench.step(unusable());
    assert_eq!(bench.job().expect("a job").1, "promote");
}

#[test]
fn required_gives_the_key_back_when_the_device_refuses_and_lets_others_lead_for_a_while() {
    let mut bench = winner(WatchdogMode::Required);
    guard_answers(&mut bench);
    bench.forget();
    bench.step(unusable());
    assert!(took(&mut bench).contains(&"release"));
    bench.view.leader = None;
    let began = bench.now;
    while bench.now < began + 50_000 {
        bench.cycle();
        assert!(!took(&mut bench).contains(&"look"), "a look would find it ready, and the race would begin anew");
    }
}

#[test]
fn required_demotes_when_the_device_is_lost() {
    let mut bench = leader(WatchdogMode::Required, true);
    bench.step(unusable());
    assert_eq!(took(&mut bench)[..2], ["drop", "stop"]);
}

#[test]
fn one_that_cannot_be_stopped_is_fed_on_a_standby() {
    let mut bench = Bench::with(config(WatchdogMode::Automatic), standby("n2", true, 100));
    bench.leader("n2", 9);
    bench.step(Input::Tick);
    bench.step(armed(false));
    bench.start();
    feeds(&mut bench, "streaming");
    for (what, pg) in [
        ("starting", PgState::Starting { stopping: false, as_standby: true, control: None }),
        ("silent", PgState::Unresponsive { as_standby: true }),
        ("stopped", clean_stop()),
    ] {
        bench.pg = pg;
        bench.step(Input::Refresh);
        bench.pass(2);
        bench.answer_observation();
        feeds(&mut bench, what);
    }
}

fn feeds(bench: &mut Bench, what: &str) {
    let began = bench.now;
    bench.forget();
    while !asked(bench).contains(&"kick") {
        bench.now = bench.machine.next_deadline().0;
        assert!(bench.now < began + TIMEOUT.0 / 2, "{what}: not fed");
        bench.step(Input::Tick);
    }
    bench.forget();
}

#[test]
fn a_writer_of_unknown_ownership_is_not_fed() {
    let mut bench = Bench::with(config(WatchdogMode::Automatic), primary());
    bench.leader("n2", 9);
    bench.step(Input::Tick);
    bench.step(armed(false));
    bench.start();
    assert!(!took(&mut bench).contains(&"kick"));
}

#[test]
fn an_orderly_exit_disarms_both_after_the_stop() {
    let mut bench = leader(WatchdogMode::Automatic, true);
    bench.step(Input::Signal(Signal::Terminate));
    bench.cycle();
    assert_eq!(asked(&mut bench).iter().filter(|word| ["drop", "stop"].contains(word)).count(), 2);
    assert!(!asked(&mut bench).contains(&"guard off") && !asked(&mut bench).contains(&"watchdog off"));
    bench.pg = clean_stop();
    job(&mut bench, JobOutcome::Done);
    bench.forget();
    look_again(&mut bench);
    let words = asked(&mut bench);
    assert!(words.contains(&"guard off") && words.contains(&"watchdog off"), "{words:?}");
    let (id, _) = bench.peers_asked().expect("who has everything");
    let peers = [(MemberName::from("n2"), Some(peer(1_000)))].into();
    bench.step(Input::Peers { id, view: PeersView { asked_at: Instant(0), peers, ..PeersView::default() } });
    assert!(asked(&mut bench).contains(&"release"));
    let release = bench.store(|request| matches!(request, StoreRequest::Release { .. })).unwrap();
    bench.view.leader = None;
    bench.answer(release, StoreOutcome::Done { revision: Revision(7) });
    bench.cycle();
    let words = asked(&mut bench);
    assert_eq!(words.last(), Some(&"exit"), "nothing comes after it: {words:?}");
}

#[test]
fn pause_disarms_both_and_its_end_arms_them_again() {
    let mut bench = leader(WatchdogMode::Automatic, true);
    bench.view.config = Some(Versioned { revision: Revision(2), value: serde_json::json!({ "pause": true }) });
    bench.step(Input::StoreChanged);
    bench.cycle();
    let words = took(&mut bench);
    assert!(words.contains(&"guard off") && words.contains(&"watchdog off"), "{words:?}");
    bench.step(Input::Guard(GuardReport::Idle));
    bench.step(Input::Watchdog(WatchdogReport::Ready));
    bench.view.config = Some(Versioned { revision: Revision(3), value: serde_json::json!({}) });
    bench.step(Input::StoreChanged);
    bench.cycle();
    let words = took(&mut bench);
    assert!(words.contains(&"watch") && words.contains(&"arm"), "{words:?}");
}

#[test]
fn a_shorter_lease_sets_the_watchdog_anew() {
    let mut bench = leader(WatchdogMode::Automatic, true);
    let mut config = config(WatchdogMode::Automatic);
    (config.ttl, config.loop_wait, config.retry_timeout) = (Millis(10_000), Millis(2_000), Millis(3_000));
    bench.step(Input::Config(Box::new(config)));
    let limit = bench.take(|action| match action {
        Action::Watchdog(WatchdogAction::Arm { limit }) => Some(*limit),
        _ => None,
    });
    assert_eq!(limit, Some(Millis(4_000)));
    bench.step(armed(true));
    assert!(!took(&mut bench).contains(&"arm"), "once");
}

#[test]
fn arming_needs_a_lease_that_outlasts_the_first_bite() {
    let mut bench = winner(WatchdogMode::Automatic);
    bench.forget();
    bench.step(Input::Watchdog(WatchdogReport::Ready));
    bench.forget();
    // The lease is 22 s old: a promotion would still be permitted, a device of 10 s would bite after its end.
    bench.pass(22_000);
    bench.step(Input::Watchdog(WatchdogReport::Unusable("away".to_owned())));
    bench.step(Input::Watchdog(WatchdogReport::Ready));
    assert!(!took(&mut bench).contains(&"arm"));
}

#[test]
fn the_last_kick_comes_as_late_as_the_lease_permits() {
    let mut bench = leader(WatchdogMode::Automatic, true);
    let renewed = bench.now;
    let mut last = 0;
    while bench.now < renewed + 23_000 {
        bench.now = bench.machine.next_deadline().0;
        bench.step(Input::Tick);
        if took(&mut bench).contains(&"kick") {
            last = bench.now;
        }
    }
    // 29.45 s less 10 s; the store was silent all the time.
    assert!((renewed + 18_900..renewed + 19_500).contains(&last), "{} ms after the renewal", last - renewed);
}

#[test]
fn who_stopped_because_the_lease_ended_is_not_reset() {
    let mut bench = leader(WatchdogMode::Automatic, true);
    bench.pass(24_500);
    bench.step(Input::Tick);
    look_again(&mut bench);
    assert!(asked(&mut bench).contains(&"stop"));
    bench.pg = clean_stop();
    job(&mut bench, JobOutcome::Done);
    bench.forget();
    bench.answer_observation();
    let words = took(&mut bench);
    assert!(words.contains(&"watchdog off") && words.contains(&"guard off"), "{words:?}");
}

#[test]
fn the_guard_follows_the_lease_while_a_primary_is_down_under_its_key() {
    let mut bench = leader(WatchdogMode::Off, true);
    bench.pg = PgState::Starting { stopping: false, as_standby: true, control: None };
    bench.step(Input::PostmasterExited);
    bench.pass(2);
    bench.answer_observation();
    bench.forget();
    let mut orders = 0;
    for _ in 0..20 {
        bench.now = bench.machine.next_deadline().0;
        bench.step(Input::Tick);
        if let Some(id) = bench.store(|request| matches!(request, StoreRequest::RenewLease { .. })) {
            bench.renew(id);
        }
        orders += took(&mut bench).iter().filter(|word| **word == "watch").count();
    }
    assert!(orders > 0, "it would fire at what starts next");
}

#[test]
fn a_guard_that_was_switched_off_is_not_left_with_an_old_deadline() {
    let mut bench = leader(WatchdogMode::Off, true);
    let mut without = config(WatchdogMode::Off);
    without.guard = false;
    bench.step(Input::Config(Box::new(without)));
    bench.forget();
    bench.pass(10_500);
    bench.step(Input::Tick);
    if let Some(id) = bench.store(|request| matches!(request, StoreRequest::RenewLease { .. })) {
        bench.renew(id);
    }
    assert!(took(&mut bench).contains(&"watch"));
}

#[test]
fn a_promotion_that_an_earlier_life_began_keeps_its_guard_and_is_stopped() {
    let mut bench = Bench::with(config(WatchdogMode::Off), standby("n2", false, 100));
    bench.leader("n2", 9);
    bench.step(Input::Guard(GuardReport::Armed { until: Instant(bench.now + 20_000) }));
    bench.start();
    let words = took(&mut bench);
    assert!(words.contains(&"stop") && !words.contains(&"guard off"), "{words:?}");
}

#[test]
fn a_promotion_that_an_earlier_life_began_goes_on_under_its_key() {
    let mut bench = Bench::with(config(WatchdogMode::Off), standby("n2", false, 100));
    bench.leader("n1", 77);
    bench.step(Input::Guard(GuardReport::Armed { until: Instant(bench.now + 20_000) }));
    bench.start();
    let words = asked(&mut bench);
    assert!(!words.contains(&"stop") && !words.contains(&"guard off"), "{words:?}");
    let repair = bench.store(|request| matches!(request, StoreRequest::Repair { .. })).expect("the key moves to the new lease");
    bench.answer(repair, StoreOutcome::Done { revision: Revision(11) });
    guard_answers(&mut bench);
    assert_eq!(bench.job().expect("a job").1, "promote");
}

#[test]
fn the_address_comes_with_the_end_of_a_promotion_and_stays() {
    let mut bench = winner(WatchdogMode::Off);
    guard_answers(&mut bench);
    bench.pg = primary();
    assert!(!asked(&mut bench).contains(&"hold"));
    job(&mut bench, JobOutcome::Done);
    assert!(took(&mut bench).contains(&"hold"), "PostgreSQL itself said that it is writable");
    // The first answer was on its way already, and does not count.
    bench.answer_observation();
    bench.pass(2);
    bench.answer_observation();
    assert!(!took(&mut bench).contains(&"drop"));
}

#[test]
fn a_standby_that_dies_with_the_key_in_hand_gets_no_primary_address() {
    let mut config = config(WatchdogMode::Off);
    config.vip_roles.insert(VipRole::Standby);
    let mut bench = Bench::with(config, standby("n2", true, 100));
    bench.leader("n2", 9);
    let raw = serde_json::json!({ "replication_state": "streaming" });
    bench.view.members.get_mut(&MemberName::from("n1")).unwrap().raw = raw;
    bench.start();
    let began = bench.now;
    while !took(&mut bench).contains(&"hold") {
        assert!(bench.now < began + 60_000, "its turn never came");
        bench.cycle();
    }
    bench.leader("n1", 1);
    bench.pg = clean_stop();
    bench.step(Input::PostmasterExited);
    bench.cycle();
    let primary = bench.take(|action| match action {
        Action::Vip(VipAction::Hold { role: VipRole::Primary, .. }) => Some(()),
        _ => None,
    });
    assert!(primary.is_none());
}

#[test]
fn the_address_goes_before_a_stop_a_fence_and_a_release() {
    let mut bench = leader(WatchdogMode::Required, true);
    bench.step(unusable());
    assert_eq!(took(&mut bench)[..2], ["drop", "stop"]);

    let mut bench = leader(WatchdogMode::Off, true);
    bench.pass(28_450);
    bench.step(Input::Tick);
    let words = took(&mut bench);
    let at = |word| words.iter().position(|known| *known == word);
    assert!(at("drop").expect("dropped") < at("fence").expect("killed"), "{words:?}");
}

#[test]
fn an_address_that_an_earlier_life_left_goes_where_it_does_not_belong() {
    let mut bench = Bench::with(config(WatchdogMode::Off), standby("n2", true, 100));
    bench.leader("n2", 9);
    bench.start();
    assert!(took(&mut bench).contains(&"drop"));
    let mut bench = Bench::with(config(WatchdogMode::Off), primary());
    bench.leader("n1", 77);
    bench.start();
    assert!(!took(&mut bench).contains(&"drop"), "a leader that comes back keeps it");
}

#[test]
fn a_lost_carrier_is_acted_on_after_its_patience_not_at_the_next_cycle() {
    let mut bench = leader(WatchdogMode::Off, true);
    bench.step(Input::Carrier { lost: true });
    let began = bench.now;
    bench.cycle();
    while bench.peers_asked().is_none() {
        assert!(bench.now <= began + 2_500, "{} ms", bench.now - began);
        bench.now = bench.machine.next_deadline().0;
        bench.step(Input::Tick);
    }
}

#[test]
fn an_adopted_guard_that_speaks_after_the_first_look_is_not_disarmed() {
    let mut bench = Bench::with(config(WatchdogMode::Off), standby("n2", false, 100));
    bench.step(Input::Tick);
    bench.pass(2);
    bench.answer_observation();
    bench.step(Input::Guard(GuardReport::Armed { until: Instant(bench.now + 20_000) }));
    assert!(!took(&mut bench).contains(&"guard off"));
}

#[test]
fn no_release_while_an_acquisition_is_not_answered() {
    let mut bench = Bench::with(config(WatchdogMode::Required), standby("n2", false, 100));
    bench.view.members.remove(&MemberName::from("n2"));
    bench.start();
    let acquire = bench.store(|request| matches!(request, StoreRequest::Acquire { .. })).expect("a race");
    // A view shows the key before the answer is there, and the device is lost.
    bench.leader("n1", 1);
    bench.step(unusable());
    bench.step(Input::StoreChanged);
    bench.cycle();
    assert!(!took(&mut bench).contains(&"release"), "its answer would look like the key that is gone by then");
    bench.answer(acquire, StoreOutcome::Done { revision: Revision(9) });
    bench.cycle();
    assert!(took(&mut bench).contains(&"release"));
}

#[test]
fn a_watchdog_that_was_told_to_stop_is_no_fence_and_is_not_fed() {
    // After a crash of everything but the device: it still counts, nothing writes, and the key is still in our name.
    let crashed = PgState::Stopped(samples::control(ControlState::InProduction, 1, 100));
    let mut config = config(WatchdogMode::Automatic);
    config.guard = false;
    let mut bench = Bench::with(config, crashed);
    bench.leader("n1", 7);
    bench.step(Input::Tick);
    bench.step(armed(true));
    bench.answer_observation();
    assert!(took(&mut bench).contains(&"watchdog off"));
    // Its answer takes its time, and the key is ours again before it is there.
    for _ in 0..3 {
        bench.cycle();
        if let Some(repair) = bench.store(|request| matches!(request, StoreRequest::Repair { .. })) {
            bench.leader("n1", 1);
            bench.answer(repair, StoreOutcome::Done { revision: Revision(9) });
        }
    }
    let orders = took(&mut bench);
    assert!(!orders.contains(&"start") && !orders.contains(&"kick"), "{orders:?}");
    bench.step(Input::Watchdog(WatchdogReport::Ready));
    assert_eq!(took(&mut bench), ["arm"]);
    bench.step(armed(true));
    assert!(took(&mut bench).contains(&"start"));
}
