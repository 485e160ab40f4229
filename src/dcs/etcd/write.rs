//! Writes: the transactions of [`crate::dcs::write`], sent to etcd.

use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::time::Instant;

use super::fault::{fate_unknown, Fault};
use super::{Answer, Inner};
use crate::dcs::embedded::txn::{self, Op, Operand, Order, Span};
use crate::dcs::write::{Found, Next, Plan, Settled};
use crate::ha::action::StoreRequest;
use crate::ha::input::{DcsFailure, StoreOutcome};
use crate::ha::types::LeaseId;
use crate::ha::view::ClusterStatus;

impl Inner {
    /// Carries out a write.
    pub(super) async fn write(&self, request: StoreRequest, end: Instant) -> Result<StoreOutcome, Fault> {
        let plan = Plan::new(&request, &self.keys, &self.me, &self.state().memory);
        let Some(mut plan) = plan else {
            return Err(Fault::Refused(DcsFailure::Error("etcd: internal: this is not a write".to_owned())));
        };
        if let StoreRequest::Acquire { lease } | StoreRequest::Repair { lease, .. } = request {
            self.state().memory.lease = Some(lease);
        }
        let outcome = loop {
            let txn = plan.txn(self.state().memory.seen);
            let settled = self.transact(plan.operation, &txn, end).await?;
            match plan.settle(&settled) {
                Next::Again => {}
                Next::Outcome(outcome) => break outcome,
                Next::Unknown => return Err(fate_unknown(plan.operation)),
                Next::Contention => {
                    return Err(Fault::Unknown(DcsFailure::Error(format!("etcd: {}: others keep changing the key", plan.operation))));
                }
            }
        };
        if let (StoreRequest::PutStatus { optime, slots, retain_slots }, StoreOutcome::Done { .. }) = (request, &outcome) {
            let retain_slots = retain_slots.into_iter().collect();
            self.state().memory.status = Some(ClusterStatus { optime: Some(optime), slots, retain_slots });
        }
        Ok(outcome)
    }

    async fn transact(&self, operation: &'static str, txn: &txn::Txn, end: Instant) -> Result<Settled, Fault> {
        let txn = translate(txn);
        let call = |mut link: super::Link| {
            let txn = txn.clone();
            async move { link.client.txn(txn).await }
        };
        let Answer { value: response, unsure } = self.attempts(operation, end, call).await?;
        let revision = self.saw(response.header());
        let applied = response.succeeded();
        let found = match response.op_responses().into_iter().next() {
            Some(TxnOpResponse::Get(get)) if !applied => {
                get.kvs().first().map(|kv| Found { value: kv.value().to_vec(), lease: LeaseId(kv.lease()) })
            }
            _ => None,
        };
        Ok(Settled { revision, applied, found, unsure })
    }
}

/// The same transaction in the client's words.
fn translate(txn: &txn::Txn) -> Txn {
    let operations = |ops: &[Op]| ops.iter().map(operation).collect::<Vec<_>>();
    Txn::new().when(txn.when.iter().map(comparison).collect::<Vec<_>>()).and_then(operations(&txn.then)).or_else(operations(&txn.otherwise))
}

fn comparison(compare: &txn::Compare) -> Compare {
    let (key, order) = (
        compare.key.as_slice(),
        match compare.order {
            Order::Equal => CompareOp::Equal,
            Order::Greater => CompareOp::Greater,
            Order::Less => CompareOp::Less,
            Order::NotEqual => CompareOp::NotEqual,
        },
    );
    match &compare.operand {
        Operand::Created(revision) => Compare::create_revision(key, order, *revision),
        Operand::Modified(revision) => Compare::mod_revision(key, order, *revision),
        Operand::Version(version) => Compare::version(key, order, *version),
        Operand::Value(value) => Compare::value(key, order, value.as_slice()),
        Operand::Lease(lease) => Compare::lease(key, order, *lease),
    }
}

fn operation(op: &Op) -> TxnOp {
    match op {
        Op::Range(Span { key, end }) => TxnOp::get(key.as_slice(), (!end.is_empty()).then(|| GetOptions::new().with_range(end.as_slice()))),
        Op::Put { key, value, lease } => {
            TxnOp::put(key.as_slice(), value.as_slice(), (*lease != 0).then(|| PutOptions::new().with_lease(*lease)))
        }
        Op::Delete(Span { key, end }) => {
            TxnOp::delete(key.as_slice(), (!end.is_empty()).then(|| DeleteOptions::new().with_range(end.as_slice())))
        }
    }
}
