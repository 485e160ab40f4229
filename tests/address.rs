//! `Machine` and the virtual IP around a promotion, driven by hand.
#![allow(clippy::unwrap_used, clippy::panic)]

mod driven;

use driven::{member, standby, Bench};
use mastiff::ha::action::{Action, StoreRequest, VipAction};
use mastiff::ha::config::HaConfig;
use mastiff::ha::fence::VipRole;
use mastiff::ha::input::{Input, JobOutcome, StoreOutcome};
use mastiff::ha::types::{JobId, Revision};

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
    bench.pass(5);
    bench.step(Input::Tick);
    bench.pass(5);
    while bench.out.iter().any(|action| matches!(action, Action::Observe { .. })) {
        bench.answer_observation();
        if bench.out.iter().any(|action| matches!(action, Action::Vip(_))) {
            break;
        }
    }
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
