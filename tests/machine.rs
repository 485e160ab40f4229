//! `Machine` driven by hand, one fact after the other: situations that a review thought of, each a few lines.
#![allow(clippy::unwrap_used, clippy::panic)]

mod driven;

use driven::{member, peer, primary, standby, Bench};
use mastiff::ha::action::{Action, Job, StoreRequest, VipAction, WipeReason};
use mastiff::ha::config::{HaConfig, WatchdogMode};
use mastiff::ha::decide::samples;
use mastiff::ha::fence::{VipRole, WatchdogReport};
use mastiff::ha::input::{Command, DcsFailure, Input, JobOutcome, StoreOutcome};
use mastiff::ha::types::{Instant, JobId, Lsn, MemberName, Millis, ReplyId, Revision, Timeline};
use mastiff::ha::view::{ControlState, Initialize, PeersView, PgState, UpstreamHistory};

#[test]
fn a_silent_peer_does_not_stop_an_election_in_a_fast_cluster() {
    let mut config = HaConfig::for_member("n1");
    config.loop_wait = Millis(1_000);
    let mut bench = Bench::with(config, standby("n2", false, 100));
    bench.start();
    for _ in 0..5 {
        if let Some((id, deadline)) = bench.peers_asked() {
            bench.pass(deadline.0);
            let peers = [(MemberName::from("n2"), None)].into();
            bench.step(Input::Peers { id, view: PeersView { asked_at: Instant(0), peers, ..PeersView::default() } });
        }
        if bench.store(|request| matches!(request, StoreRequest::Acquire { .. })).is_some() {
            return;
        }
        bench.cycle();
    }
    panic!("no race after five rounds");
}

#[test]
fn data_that_appears_after_the_claim_is_not_removed() {
    let mut bench = Bench::new(PgState::Empty);
    bench.view.initialize = None;
    bench.view.members = [member("n1")].into();
    bench.start();
    let claim = bench.store(|request| matches!(request, StoreRequest::ClaimInitialize { .. })).expect("a claim");
    // The volume is mounted before the answer comes.
    bench.pg = PgState::Stopped(samples::control(ControlState::ShutDown, 1, 100));
    bench.step(Input::Refresh);
    bench.pass(5);
    bench.answer_observation();
    bench.answer(claim, StoreOutcome::Done { revision: Revision(5) });
    bench.view.initialize = Some(Initialize::InProgress);
    for _ in 0..5 {
        assert_eq!(bench.wipe(), None, "no job of ours ever wrote there");
        match bench.job() {
            Some((id, "start")) => {
                bench.pg = standby("n2", false, 100);
                bench.step(Input::JobExited { id, outcome: JobOutcome::Done });
            }
            Some((id, "stop")) => {
                bench.pg = PgState::Stopped(samples::control(ControlState::ShutDownInRecovery, 1, 100));
                bench.step(Input::JobExited { id, outcome: JobOutcome::Done });
            }
            _ => {}
        }
        bench.cycle();
    }
}

#[test]
fn who_failed_to_bootstrap_while_another_did_joins_the_other() {
    let mut bench = Bench::new(PgState::Empty);
    bench.view.initialize = None;
    bench.start();
    let claim = bench.store(|request| matches!(request, StoreRequest::ClaimInitialize { .. })).expect("a claim");
    bench.answer(claim, StoreOutcome::Done { revision: Revision(5) });
    let (id, name) = bench.job().expect("the bootstrap");
    assert_eq!(name, "bootstrap");
    bench.view.initialize = Some(Initialize::Done(samples::SYSTEM_ID));
    bench.leader("n2", 7);
    bench.step(Input::JobExited { id, outcome: JobOutcome::Failed("no space".to_owned()) });
    for _ in 0..20 {
        bench.cycle();
        while let Some(cancel) = bench.store(|request| matches!(request, StoreRequest::CancelInitialize { .. })) {
            bench.answer(cancel, StoreOutcome::Conflict);
        }
        if bench.job().is_some_and(|(_, name)| name == "clone") {
            return;
        }
    }
    panic!("it never becomes a member");
}

#[test]
fn who_bootstrapped_too_late_joins_the_other() {
    let mut bench = Bench::new(PgState::Empty);
    bench.view.initialize = None;
    bench.start();
    let claim = bench.store(|request| matches!(request, StoreRequest::ClaimInitialize { .. })).expect("a claim");
    bench.answer(claim, StoreOutcome::Done { revision: Revision(5) });
    let (id, _) = bench.job().expect("the bootstrap");
    bench.view.initialize = Some(Initialize::Done(mastiff::ha::types::SystemId(5)));
    bench.leader("n2", 7);
    bench.pg = primary();
    bench.step(Input::JobExited { id, outcome: JobOutcome::Done });
    for _ in 0..30 {
        bench.cycle();
        while let Some(cancel) = bench.store(|request| matches!(request, StoreRequest::CancelInitialize { .. })) {
            bench.answer(cancel, StoreOutcome::Conflict);
        }
        match bench.job() {
            Some((id, "stop")) => {
                bench.pg = PgState::Stopped(samples::control(ControlState::ShutDown, 1, 100));
                bench.step(Input::JobExited { id, outcome: JobOutcome::Done });
            }
            Some((id, "remove data")) => {
                assert_ne!(bench.pg, PgState::Empty, "an empty directory is not removed again and again");
                bench.pg = PgState::Empty;
                bench.step(Input::JobExited { id, outcome: JobOutcome::Done });
            }
            Some((_, "clone")) => return,
            _ => {}
        }
    }
    panic!("it never becomes a member");
}

#[test]
fn a_copy_that_refused_a_filled_directory_does_not_empty_it() {
    let mut bench = Bench::new(PgState::Empty);
    bench.leader("n2", 7);
    bench.start();
    let (id, name) = bench.job().expect("a copy");
    assert_eq!(name, "clone");
    bench.pg = PgState::Stopped(samples::control(ControlState::ShutDownInRecovery, 1, 100));
    bench.step(Input::JobExited { id, outcome: JobOutcome::Refused("it is not empty".to_owned()) });
    for _ in 0..5 {
        assert_eq!(bench.wipe(), None);
        bench.cycle();
    }
}

#[test]
fn an_adopted_server_that_does_not_answer_may_be_a_primary() {
    let mut bench = Bench::new(PgState::Unresponsive { as_standby: false });
    bench.leader("n2", 7);
    bench.start();
    assert_eq!(bench.job().map(|(_, name)| name), Some("stop"));
}

#[test]
fn an_acquire_on_a_lease_that_is_gone_is_no_lock() {
    let mut bench = Bench::new(standby("n2", false, 100));
    bench.view.members = [member("n1")].into();
    bench.start();
    let acquire = bench.store(|request| matches!(request, StoreRequest::Acquire { .. })).expect("alone, it leads");
    bench.pass(8_000);
    bench.step(Input::Tick);
    bench.pass(3_000);
    bench.step(Input::Tick);
    let renewal = bench.store(|request| matches!(request, StoreRequest::RenewLease { .. })).expect("a renewal");
    bench.answer(renewal, StoreOutcome::LeaseGone);
    bench.pass(1);
    bench.answer_renewal(2);
    bench.answer(acquire, StoreOutcome::Done { revision: Revision(9) });
    assert!(!bench.machine.memory().lock, "the key hung on lease 1");
    assert_eq!(bench.job(), None);
}

#[test]
fn a_read_that_was_sent_before_a_release_was_answered_is_old_even_in_the_same_millisecond() {
    let mut bench = Bench::new(standby("n2", false, 100));
    bench.view.members = [member("n1")].into();
    bench.start();
    // A read and the answer to our write in one millisecond.
    let acquire = bench.store(|request| matches!(request, StoreRequest::Acquire { .. })).expect("alone, it leads");
    bench.pass(2);
    bench.step(Input::StoreChanged);
    bench.answer(acquire, StoreOutcome::Done { revision: Revision(9) });
    assert!(bench.machine.memory().lock);
    bench.answer_read();
    assert!(bench.machine.memory().lock, "the read may not have seen the key");
}

#[test]
fn a_new_ttl_is_asked_for_until_it_is_granted() {
    let mut bench = Bench::new(standby("n2", true, 100));
    bench.leader("n2", 7);
    bench.start();
    let mut config = HaConfig::for_member("n1");
    config.ttl = Millis::from_secs(20);
    bench.step(Input::Config(Box::new(config)));
    for round in 0..3 {
        let id = loop {
            bench.now = bench.machine.next_deadline().0.max(bench.now + 1);
            bench.step(Input::Tick);
            let grant = bench.take(|action| match action {
                Action::Store { id, request: StoreRequest::RenewLease { lease, .. }, .. } => Some((*id, lease.is_none())),
                _ => None,
            });
            if let Some((id, fresh)) = grant {
                assert!(fresh, "round {round}: the old lease keeps its old length");
                break id;
            }
            while let Some(id) = bench.read_asked() {
                bench.answer(id, StoreOutcome::View(Box::new(bench.view.clone())));
            }
        };
        bench.answer(id, StoreOutcome::Failed(DcsFailure::Timeout));
    }
}

#[test]
fn a_reinitialisation_is_forgotten_by_who_becomes_leader() {
    let mut bench = Bench::new(standby("n2", true, 100));
    bench.leader("n2", 7);
    bench.start();
    bench.view.leader = None;
    bench.step(Input::Command { reply: ReplyId(1), command: Command::Reinitialize { force: false, from_leader: false } });
    bench.view.members = [member("n1")].into();
    bench.answer_read();
    bench.cycle();
    let acquire = bench.store(|request| matches!(request, StoreRequest::Acquire { .. })).expect("alone, it leads");
    bench.leader("n1", 1);
    bench.answer(acquire, StoreOutcome::Done { revision: Revision(9) });
    assert!(bench.machine.memory().lock);
    assert!(bench.machine.memory().reinitialize.is_none(), "it would remove the data of a former leader one day");
}

#[test]
fn a_busy_leader_that_is_looked_at_often_does_not_write_its_status_as_often() {
    let mut bench = Bench::new(primary());
    bench.leader("n1", 1);
    bench.start();
    let mut writes = 0;
    for round in 0..50 {
        bench.pass(50);
        bench.pg = PgState::Running(samples::primary(1, 200 + round));
        bench.step(Input::Refresh);
        bench.pass(1);
        while bench.out.iter().any(|action| matches!(action, Action::Observe { .. })) {
            bench.answer_observation();
        }
        while let Some(id) = bench.store(|request| matches!(request, StoreRequest::PutStatus { .. })) {
            writes += 1;
            bench.answer(id, StoreOutcome::Done { revision: Revision(20) });
        }
    }
    assert!(writes <= 3, "{writes} writes in three seconds");
}

#[test]
fn a_failing_follow_is_not_repeated_at_once() {
    let mut bench = Bench::new(standby("n3", false, 100));
    bench.leader("n2", 7);
    bench.start();
    let begin = bench.now;
    let mut jobs = 0;
    while bench.now < begin + 1_000 {
        if let Some((id, name)) = bench.job() {
            assert_eq!(name, "follow");
            jobs += 1;
            bench.pass(1);
            bench.step(Input::JobExited { id, outcome: JobOutcome::Failed("no space left on device".to_owned()) });
        }
        bench.cycle();
    }
    assert!(jobs <= 3, "{jobs} times in a second");
    let _ = peer(1);
}

#[test]
fn a_primary_without_key_is_stopped_after_a_second_though_the_store_is_silent() {
    let mut bench = Bench::new(primary());
    bench.leader("n1", 1);
    bench.start();
    assert!(bench.machine.memory().lock);
    bench.forget();
    bench.cycle();
    bench.forget();
    let mut waited = 0;
    // The next renewal says that the lease is gone, and from then on nothing answers.
    loop {
        let due = bench.machine.next_deadline().0;
        bench.now = due.max(bench.now + 1);
        bench.step(Input::Tick);
        while bench.observe_asked().is_some() {}
        while bench.read_asked().is_some() {}
        if let Some(id) = bench.store(|request| matches!(request, StoreRequest::RenewLease { .. })) {
            bench.answer(id, StoreOutcome::LeaseGone);
            break;
        }
        waited += 1;
        assert!(waited < 50, "no renewal");
    }
    let gone_at = bench.now;
    while bench.job().is_none_or(|(_, name)| name != "stop") {
        bench.now = bench.machine.next_deadline().0.max(bench.now + 1);
        assert!(bench.now < gone_at + 1_500, "it wrote for {} ms without a key", bench.now - gone_at);
        bench.step(Input::Tick);
    }
}

#[test]
fn a_standby_that_got_on_is_not_compared_with_an_older_answer() {
    let mut config = HaConfig::for_member("n1");
    config.remove_data_directory_on_diverged_timelines = true;
    let mut bench = Bench::with(config, standby("n2", false, 100));
    bench.leader("n2", 7);
    bench.start();
    let asked = |action: &Action| match action {
        Action::ReadUpstream { id, .. } => Some(*id),
        _ => None,
    };
    let mut question = None;
    for _ in 0..10 {
        bench.cycle();
        question = question.or(bench.take(asked));
        if question.is_some() {
            break;
        }
    }
    // The answer is as old as the question; meanwhile the standby streams past it and loses the stream again.
    let id = question.expect("a question about the upstream");
    let history = UpstreamHistory {
        member: MemberName::from("n2"),
        is_primary: true,
        system_id: samples::SYSTEM_ID,
        timeline: Timeline(1),
        position: Lsn(120),
        history: Vec::new(),
        oldest_wal: None,
    };
    bench.step(Input::Upstream { id, result: Ok(history) });
    bench.pg = standby("n2", true, 200);
    bench.step(Input::Refresh);
    bench.pass(2);
    bench.answer_observation();
    bench.pg = standby("n2", false, 200);
    for _ in 0..10 {
        bench.pass(450);
        bench.step(Input::Refresh);
        while bench.out.iter().any(|action| matches!(action, Action::Observe { .. })) {
            bench.answer_observation();
        }
        assert_eq!(bench.job(), None, "a healthy standby was judged by an answer from before");
    }
}

#[test]
fn a_note_of_a_rewind_removes_nothing() {
    let mut bench = Bench::new(PgState::Unreadable { reason: "it has mode 0755".to_owned() });
    bench.leader("n2", 7);
    bench.step(Input::Unfinished(mastiff::ha::input::Unfinished::Rewind));
    bench.start();
    for _ in 0..5 {
        assert_eq!(bench.wipe(), None, "nobody allowed that");
        bench.cycle();
    }
    bench.pg = PgState::Stopped(samples::control(ControlState::ShutDown, 1, 100));
    bench.cycle();
    assert!(bench.machine.memory().torn, "it is remembered until the directory can be read");
}

#[test]
fn a_verdict_on_the_data_ends_with_the_leader_that_it_was_compared_with() {
    let mut config = HaConfig::for_member("n1");
    config.remove_data_directory_on_diverged_timelines = true;
    let mut bench = Bench::with(config, standby("n2", false, 100));
    bench.leader("n2", 7);
    bench.start();
    let asked = |action: &Action| match action {
        Action::ReadUpstream { id, .. } => Some(*id),
        _ => None,
    };
    let mut history = UpstreamHistory {
        member: MemberName::from("n2"),
        is_primary: true,
        system_id: samples::SYSTEM_ID,
        timeline: Timeline(1),
        position: Lsn(50),
        history: Vec::new(),
        oldest_wal: None,
    };
    let stop = loop {
        bench.cycle();
        if let Some(id) = bench.take(asked) {
            bench.step(Input::Upstream { id, result: Ok(history.clone()) });
        }
        if let Some((id, name)) = bench.job() {
            assert_eq!(name, "stop", "ahead of the leader");
            break id;
        }
    };
    // The leader that had less is gone; the next one has everything that we have.
    bench.leader("n3", 8);
    bench.view.members.extend([member("n3")]);
    bench.pg = PgState::Stopped(samples::control(ControlState::ShutDownInRecovery, 1, 100));
    bench.step(Input::JobExited { id: stop, outcome: JobOutcome::Done });
    history.member = MemberName::from("n3");
    history.position = Lsn(500);
    for _ in 0..5 {
        assert_eq!(bench.wipe(), None, "compared with n2");
        if let Some(id) = bench.take(asked) {
            bench.step(Input::Upstream { id, result: Ok(history.clone()) });
        }
        bench.cycle();
    }
}

#[test]
fn a_server_that_stops_at_its_leisure_does_not_outlive_the_lease() {
    let mut bench = Bench::new(primary());
    bench.leader("n1", 1);
    bench.start();
    assert!(bench.machine.memory().lock);
    // kill -TERM: sessions go on until they end by themselves, and nobody new is let in, the agent neither.
    bench.pg = PgState::Starting { stopping: true, as_standby: false, control: None };
    bench.step(Input::Refresh);
    while bench.out.iter().any(|action| matches!(action, Action::Observe { .. })) {
        bench.answer_observation();
    }
    bench.forget();
    bench.pass(29_000);
    bench.step(Input::Tick);
    assert!(bench.out.iter().any(|action| matches!(action, Action::Fence { .. })), "it may still be writing");
}

/// A former primary whose end lies beyond the branch, and the start of its rewind.
fn diverged_primary() -> (Bench, JobId) {
    let mut config = HaConfig::for_member("n1");
    config.use_pg_rewind = true;
    let mut bench = Bench::with(config, PgState::Stopped(samples::control(ControlState::ShutDown, 1, 900)));
    bench.leader("n2", 7);
    bench.start();
    bench.tell_history();
    let (id, name) = bench.job().expect("the rewind");
    assert_eq!(name, "rewind");
    (bench, id)
}

#[test]
fn a_rewind_that_wrote_nothing_leaves_a_directory_that_can_be_started() {
    let (mut bench, id) = diverged_primary();
    bench.view.leader = None;
    bench.view.members = [member("n1")].into();
    bench.step(Input::JobExited { id, outcome: JobOutcome::Refused("cannot connect to n2; nothing was changed".to_owned()) });
    for _ in 0..10 {
        bench.cycle();
        if bench.job().is_some_and(|(_, name)| name == "start") {
            return;
        }
    }
    panic!("two boxes, the other one dead, and this one's data is whole");
}

#[test]
fn a_rewind_after_a_torn_one_must_really_rewind() {
    let (mut bench, id) = diverged_primary();
    bench.step(Input::JobExited { id, outcome: JobOutcome::Failed("server closed the connection".to_owned()) });
    for _ in 0..20 {
        bench.cycle();
        bench.tell_history();
        let torn = bench.take(|action| match action {
            Action::RunJob { job: Job::Rewind { torn, .. }, .. } => Some(*torn),
            _ => None,
        });
        if let Some(torn) = torn {
            assert!(torn, "no rewind required would be believed");
            return;
        }
    }
    panic!("no second attempt");
}

#[test]
fn a_directory_that_cannot_be_used_is_copied_anew_on_order() {
    let mut bench = Bench::new(PgState::Unreadable { reason: "pg_control is missing".to_owned() });
    bench.leader("n2", 7);
    bench.start();
    assert_eq!(bench.job(), None);
    bench.step(Input::Command { reply: ReplyId(1), command: Command::Reinitialize { force: false, from_leader: false } });
    for _ in 0..3 {
        bench.cycle();
        if bench.wipe() == Some(WipeReason::Reinitialize) {
            return;
        }
    }
    panic!("the operator was told that it began");
}

#[test]
fn a_look_at_postgres_right_after_the_claim_does_not_end_the_bootstrap() {
    let mut bench = Bench::new(PgState::Empty);
    bench.view.initialize = None;
    bench.start();
    let claim = bench.store(|request| matches!(request, StoreRequest::ClaimInitialize { .. })).expect("a claim");
    bench.answer(claim, StoreOutcome::Done { revision: Revision(5) });
    bench.job().expect("the bootstrap");
    // Decided again with the view from before the claim.
    bench.step(Input::Refresh);
    bench.pass(5);
    bench.answer_observation();
    assert!(bench.take(|action| matches!(action, Action::CancelJob { .. }).then_some(())).is_none(), "nobody was quicker");
}

#[test]
fn the_member_key_tells_of_watchdog_and_address_once_there_is_something_to_tell() {
    let mut config = HaConfig::for_member("n1");
    config.watchdog.mode = WatchdogMode::Automatic;
    config.vip_roles = [VipRole::Primary].into();
    let mut bench = Bench::with(config, primary());
    bench.leader("n1", 1);
    bench.start();
    let mut told = |report: Option<WatchdogReport>| {
        report.into_iter().for_each(|report| bench.step(Input::Watchdog(report)));
        let mut written = None;
        for _ in 0..4 {
            bench.cycle();
            while let Some((id, value)) = bench.take(|action| match action {
                Action::Store { id, request: StoreRequest::PutMember { value, .. }, .. } => Some((*id, value.clone())),
                _ => None,
            }) {
                bench.answer(id, StoreOutcome::Done { revision: Revision(7) });
                written = Some(value);
            }
        }
        written.map(|value| (value.get("watchdog").cloned(), value.get("vip").cloned()))
    };
    let (primary, armed) = (Some(serde_json::json!(["primary"])), Some(serde_json::json!("armed")));
    assert_eq!(told(None), Some((None, primary.clone())), "the address follows PostgreSQL, the watchdog was not looked at");
    assert_eq!(told(Some(WatchdogReport::Unusable("none".into()))), None, "an automatic one that is missing is no news");
    assert_eq!(told(Some(WatchdogReport::Ready)).map(|told| told.1), Some(primary.clone()));
    assert_eq!(told(Some(WatchdogReport::Armed { timeout: Millis(10_000), stoppable: true })), Some((armed, primary)));
}

/// Orders about the virtual addresses, as words.
fn vip_orders(bench: &mut Bench) -> Vec<&'static str> {
    let orders = bench.out.iter().filter_map(|action| match action {
        Action::Vip(VipAction::Hold { .. }) => Some("hold"),
        Action::Vip(VipAction::Drop { .. }) => Some("drop"),
        Action::Callback { event, .. } => Some(*event),
        _ => None,
    });
    let orders = orders.collect();
    bench.forget();
    orders
}

/// A standby that won the key, alone in its cluster, and its promotion.
fn promoting() -> (Bench, JobId) {
    let config = HaConfig { vip_roles: [VipRole::Primary].into(), ..HaConfig::for_member("n1") };
    let mut bench = Bench::with(config, standby("n2", false, 100));
    bench.view.members = [member("n1")].into();
    bench.start();
    for _ in 0..5 {
        if let Some(id) = bench.store(|request| matches!(request, StoreRequest::Acquire { .. })) {
            bench.leader("n1", 1);
            bench.answer(id, StoreOutcome::Done { revision: Revision(9) });
        }
        if let Some((id, "promote")) = bench.job() {
            assert!(!vip_orders(&mut bench).contains(&"hold"), "not before it is writable");
            return (bench, id);
        }
        bench.cycle();
    }
    panic!("no promotion");
}

#[test]
fn the_address_comes_with_the_end_of_the_promotion_and_not_with_the_next_look() {
    let (mut bench, id) = promoting();
    bench.step(Input::JobExited { id, outcome: JobOutcome::Done });
    assert_eq!(vip_orders(&mut bench), ["hold", "on_role_change"]);
    // A look that says otherwise counts.
    bench.cycle();
    bench.cycle();
    assert_eq!(vip_orders(&mut bench), ["drop"], "still in recovery");
}

#[test]
fn the_address_does_not_come_with_a_promotion_that_failed_or_ended_in_a_crash() {
    let (mut bench, id) = promoting();
    bench.step(Input::JobExited { id, outcome: JobOutcome::Failed("killed".to_owned()) });
    assert!(!vip_orders(&mut bench).contains(&"hold"));
    let (mut bench, id) = promoting();
    bench.step(Input::PostmasterExited);
    bench.step(Input::JobExited { id, outcome: JobOutcome::Failed("it ended".to_owned()) });
    assert!(!vip_orders(&mut bench).contains(&"hold"));
}
