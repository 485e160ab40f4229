//! Every sentence that the agent can say about a cycle. `Display` is Patroni's wording where Patroni has the situation: monitors search for it.

use std::fmt;

use super::types::{MemberName, SystemId};

/// What a decision amounts to, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leader, primary, nothing to do.
    Leading,
    /// Standby, nothing to do.
    Following(MemberName),
    /// Standby whose WAL receiver does not stream (yet).
    WaitingForStream(MemberName),
    /// The upstream changes.
    FollowingNewLeader(MemberName),
    /// We hold the key and promote.
    Promoting,
    /// We won the race for the key and promote.
    PromotingAsWinner,
    /// We race for the key.
    Acquiring,
    /// A running primary takes the key back.
    AcquiringAsPrimary,
    /// The key carries our name on an old lease.
    RepairingKey,
    /// No leader, and others are better, or we may not.
    NotHealthiest(String),
    /// `nofailover`.
    NotAllowed,
    /// The others are being asked.
    AskingPeers,
    /// No leader; a switchover names somebody else.
    WaitingForCandidate(MemberName),
    /// No lease yet.
    WaitingForLease,
    /// The store does not answer; we lead with a lease that still lasts.
    LeadingWithoutDcs,
    /// The store does not answer; the lease ends.
    DemotingNoDcs,
    /// The store does not answer; nothing to do.
    NoDcs,
    /// We are primary without the key.
    DemotingNoLock,
    /// Switchover: the leader steps back.
    DemotingForSwitchover,
    /// The key is given up after an orderly stop.
    Releasing,
    /// The primary crashed and its key is given up.
    FailingOver,
    /// The key is given up because the data directory is empty.
    ReleasingEmpty,
    /// A crashed primary is started again.
    RestartingPrimary,
    /// A standby is started.
    StartingStandby,
    /// PostgreSQL starts.
    Starting,
    /// PostgreSQL does not answer.
    Unresponsive,
    /// A job is under way.
    Busy(&'static str),
    /// We won the right to initialise.
    Bootstrapping,
    /// The claim for the right to initialise is under way.
    ClaimingInitialize,
    /// Somebody else initialises, or must lead first.
    WaitingForBootstrap,
    /// This member may not initialise a cluster.
    MayNotBootstrap,
    /// A new cluster stands.
    Initialized,
    /// The initialisation failed.
    BootstrapFailed,
    /// A copy is made.
    Cloning(Option<MemberName>),
    /// The history of the upstream is read before anything is started.
    CheckingHistory(MemberName),
    /// The upstream cannot be rewound from yet.
    WaitingForUpstream(MemberName),
    /// Diverged; `pg_rewind` runs.
    Rewinding(MemberName),
    /// Diverged, and the configuration allows neither rewind nor a fresh copy.
    Diverged(MemberName),
    /// A rewind failed for good, and the configuration does not allow a fresh copy.
    Torn,
    /// The WAL that we need is gone, and the configuration does not allow a fresh copy.
    WalGone(MemberName),
    /// The data directory is removed, as configured or asked.
    RemovingData,
    /// The directory is there and is no cluster.
    Unreadable(String),
    /// The data belongs to another cluster.
    SystemIdMismatch {
        /// In the data directory.
        ours: SystemId,
        /// In the store.
        theirs: SystemId,
    },
    /// A restart was asked for.
    Restarting,
    /// PostgreSQL is down in order; somebody must have everything before the key goes.
    WaitingForSuccessor,
    /// The agent ends and keeps the key: nobody has everything.
    KeepingKey,
    /// A promotion did not end in time: PostgreSQL is stopped before anybody else may lead.
    PromotionFailed,
    /// `watchdog.mode: required`, and there is none that works: no race.
    NoWatchdog,
    /// The same while leading.
    DemotingNoWatchdog,
    /// The cable of the virtual IP's interface is out, and somebody else can lead.
    DemotingNoCarrier,
    /// Orderly end of the agent.
    Stopping,
    /// In pause, with the sentence of the situation.
    Paused(Box<Verdict>),
    /// In pause: PostgreSQL is down.
    PausedDown,
    /// In pause: a primary without the key goes on without it.
    PausedPrimaryWithoutKey,
    /// In pause: standby without a leader.
    PausedNoLeader,
}

impl Verdict {
    /// The sentence for the member `me`.
    #[must_use]
    pub fn sentence(&self, me: &MemberName) -> String {
        Sentence { verdict: self, me }.to_string()
    }
}

struct Sentence<'a> {
    verdict: &'a Verdict,
    me: &'a MemberName,
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let me = self.me;
        match self.verdict {
            Verdict::Leading => write!(f, "no action. I am ({me}), the leader with the lock"),
            Verdict::Following(leader) => write!(f, "no action. I am ({me}), a secondary, and following a leader ({leader})"),
            Verdict::WaitingForStream(leader) => write!(f, "no action. I am ({me}), a secondary, not streaming yet from the leader ({leader})"),
            Verdict::FollowingNewLeader(leader) => write!(f, "following new leader ({leader})"),
            Verdict::NotHealthiest(why) => write!(f, "following a different leader because I am not the healthiest node: {why}"),
            Verdict::WaitingForCandidate(candidate) => write!(f, "waiting for {candidate} to take the leader key"),
            Verdict::Busy(job) => write!(f, "{job} in progress"),
            Verdict::Cloning(Some(source)) => write!(f, "trying to bootstrap from '{source}'"),
            Verdict::Cloning(None) => write!(f, "trying to bootstrap (without leader)"),
            Verdict::CheckingHistory(upstream) => write!(f, "comparing timelines with {upstream}"),
            Verdict::WaitingForUpstream(upstream) => write!(f, "waiting for {upstream} to be ready as a source"),
            Verdict::Rewinding(source) => write!(f, "running pg_rewind from {source}"),
            Verdict::Diverged(upstream) => write!(
                f,
                "the WAL of this node diverged from {upstream} and can not be repaired: allow use_pg_rewind or remove_data_directory_on_diverged_timelines, or reinitialize"
            ),
            Verdict::WalGone(upstream) => write!(
                f,
                "{upstream} has removed WAL that this node still needs: allow remove_data_directory_on_diverged_timelines, or reinitialize"
            ),
            Verdict::Unreadable(reason) => write!(f, "data directory can not be used: {reason}"),
            Verdict::SystemIdMismatch { ours, theirs } => {
                write!(f, "system ID mismatch, node {me} belongs to a different cluster: {theirs} != {ours}")
            }
            Verdict::Paused(inner) => write!(f, "PAUSE: {}", inner.sentence(me)),
            Verdict::PausedNoLeader => write!(f, "PAUSE: no action. I am ({me})"),
            fixed => f.write_str(fixed.fixed()),
        }
    }
}

impl Verdict {
    /// The sentences that name nobody.
    fn fixed(&self) -> &'static str {
        match self {
            Verdict::Promoting => "promoted self to leader because I had the session lock",
            Verdict::PromotingAsWinner => "promoted self to leader by acquiring session lock",
            Verdict::Acquiring => "racing for the session lock",
            Verdict::AcquiringAsPrimary => "acquired session lock as a leader",
            Verdict::RepairingKey => "updating the leader key of an earlier life",
            Verdict::NotAllowed => "following a different leader because I am not allowed to promote",
            Verdict::AskingPeers => "asking the other members",
            Verdict::WaitingForLease => "waiting for a lease of the store",
            Verdict::LeadingWithoutDcs => "continue to run as a leader until the lease ends because DCS is not accessible",
            Verdict::DemotingNoDcs => "demoting self because DCS is not accessible and I was a leader",
            Verdict::NoDcs => "DCS is not accessible",
            Verdict::DemotingNoLock => "demoting self because I do not have the lock and I was a leader",
            Verdict::DemotingForSwitchover => "switchover: demoting myself",
            Verdict::Releasing => "released leader key after an orderly stop",
            Verdict::FailingOver => "stopped PostgreSQL to fail over after a crash",
            Verdict::ReleasingEmpty => "released leader key voluntarily as data dir empty and currently leader",
            Verdict::RestartingPrimary => "starting primary after failure",
            Verdict::StartingStandby => "starting as a secondary",
            Verdict::Starting => "PostgreSQL is still starting up, waiting for it to accept connections",
            Verdict::Unresponsive => "Error communicating with PostgreSQL. Will try again later",
            Verdict::Bootstrapping => "trying to bootstrap a new cluster",
            Verdict::ClaimingInitialize => "claiming the right to bootstrap a new cluster",
            Verdict::WaitingForBootstrap => "waiting for leader to bootstrap",
            Verdict::MayNotBootstrap => "waiting for another member to bootstrap: this one is not allowed to",
            Verdict::Initialized => "initialized a new cluster",
            Verdict::BootstrapFailed => "bootstrap failed, cleaning up",
            Verdict::RemovingData => "removing data directory",
            Verdict::Restarting => "restart in progress",
            Verdict::Stopping => "stopping",
            Verdict::Torn => {
                "pg_rewind failed and left the data directory unusable: allow remove_data_directory_on_rewind_failure, or reinitialize"
            }
            Verdict::PromotionFailed => "stopping PostgreSQL because its promotion did not end in time",
            Verdict::WaitingForSuccessor => "waiting until a standby has received all WAL",
            Verdict::KeepingKey => "leader key is not released: no other member has received all WAL",
            Verdict::NoWatchdog => "following a different leader because the required watchdog is not usable",
            Verdict::DemotingNoWatchdog => "Demoting self because watchdog could not be activated",
            Verdict::DemotingNoCarrier => "handing over because the network of the virtual IP is down here",
            Verdict::PausedDown => "PAUSE: postgres is not running",
            Verdict::PausedPrimaryWithoutKey => "PAUSE: continue to run as primary without lock",
            _ => "",
        }
    }
}
