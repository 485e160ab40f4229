//! The watch: an alarm clock, never a source of truth. Whatever it misses, the loop finds at its next read.

use std::time::Duration;

use etcd_client::{Client, Event, WatchOptions, WatchStream};
use serde_json::Value;
use tokio::sync::mpsc::Sender;
use tokio::time::{sleep, timeout, Instant};

use super::connect::Purpose;
use super::fault::judge;
use super::{text, Inner};
use crate::dcs::keys::Key;

/// Between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long each step of setting up the watch may take.
const STEP: Duration = Duration::from_secs(4);
/// Pause between look-ups in DNS while no endpoint answers.
const LOOKUP_PAUSE: Duration = Duration::from_secs(10);
/// How often the member list is read again, and the SRV records.
const DISCOVERY: Duration = Duration::from_secs(300);
/// Parts of a member document that change all the time without a meaning for others.
const POSITIONS: [&str; 3] = ["xlog_location", "receive_lsn", "replay_lsn"];

/// Watches for ever.
pub(super) async fn run(inner: &Inner, alarm: &Sender<()>) {
    tokio::join!(watch(inner, alarm), follow_dns(inner));
}

/// Follows changes of the SRV records: from time to time, and more often while there is no connection. Nobody waits for it.
async fn follow_dns(inner: &Inner) {
    if !inner.connector.has_srv() {
        return;
    }
    let mut next = Instant::now() + DISCOVERY;
    loop {
        sleep(LOOKUP_PAUSE).await;
        if inner.state().link.is_none() || Instant::now() >= next {
            inner.connector.refresh().await;
            next = Instant::now() + DISCOVERY;
        }
    }
}

async fn watch(inner: &Inner, alarm: &Sender<()>) {
    let mut backoff = BACKOFF.0;
    let mut ahead = 0;
    loop {
        let url = inner.connector.url(ahead);
        match open(inner, &url).await {
            Ok((client, stream)) => {
                backoff = BACKOFF.0;
                // What changed while nobody watched is found by a look.
                let _ = alarm.try_send(());
                let reason = follow(inner, &url, client, stream, alarm).await;
                log::info!("the watch ended: {reason}");
                let _ = alarm.try_send(());
            }
            Err(reason) => log::debug!("etcd {url}: cannot watch: {reason}"),
        }
        // The calls may meanwhile have moved to a better endpoint; if that is the one that just failed, try the others.
        ahead = if inner.connector.url(0) == url { 1 } else { (ahead + 1) % inner.connector.count().max(1) };
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

/// Opens a connection of its own and a watch on all keys of the scope, from now on: so that compaction cannot concern it.
async fn open(inner: &Inner, url: &str) -> Result<(Client, WatchStream), String> {
    let late = |_| "no answer in time".to_owned();
    let opened = timeout(STEP, inner.connector.open(url, Purpose::Watch)).await.map_err(late)?;
    let mut client = opened.map_err(|fault| fault.text())?;
    let options = WatchOptions::new().with_prefix().with_prev_key();
    let watch = timeout(STEP, client.watch(inner.keys.prefix(), Some(options))).await.map_err(late)?;
    let words = |error| judge(url, "watch", &error).text();
    let mut stream = watch.map_err(words)?;
    match timeout(STEP, stream.message()).await.map_err(late)? {
        Ok(Some(created)) if created.created() && !created.canceled() => Ok((client, stream)),
        Ok(Some(refused)) => Err(refused.cancel_reason().to_owned()),
        Ok(None) => Err("closed".to_owned()),
        Err(error) => Err(words(error)),
    }
}

/// Passes on changes until the watch ends; says why it did.
async fn follow(inner: &Inner, url: &str, mut client: Client, mut stream: WatchStream, alarm: &Sender<()>) -> String {
    let mut discovery = Instant::now();
    loop {
        if inner.connector.learns() && Instant::now() >= discovery {
            discover(inner, &mut client).await;
            discovery = Instant::now() + DISCOVERY;
        }
        let message = match timeout(DISCOVERY, stream.message()).await {
            Err(_) => continue,
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return format!("etcd {url}: closed by the server"),
            Ok(Err(error)) => return judge(url, "watch", &error).text(),
        };
        if message.canceled() {
            // Compacted under a slow watch, or the permission is gone: begin again from now.
            return format!("etcd {url}: cancelled by the server {}", message.cancel_reason());
        }
        if message.events().iter().any(|event| matters(inner, event)) {
            let _ = alarm.try_send(());
        }
    }
}

/// Reads the addresses of etcd's members.
async fn discover(inner: &Inner, client: &mut Client) {
    if let Ok(Ok(list)) = timeout(STEP, client.member_list()).await {
        inner.connector.learn(list.members().iter().flat_map(|member| member.client_urls()).map(String::as_str));
    }
}

/// Whether the loop should look at once. Not for what changes in every cycle of some member, and not for our own member key.
fn matters(inner: &Inner, event: &Event) -> bool {
    let Some(kv) = event.kv() else { return false };
    let path = text(kv.key());
    match inner.keys.classify(&path) {
        None | Some(Key::Status | Key::OldOptime) => false,
        Some(Key::Member(name)) if name == inner.me.as_str() => false,
        Some(Key::Member(_)) => event.prev_kv().is_none_or(|before| differ(before.value(), kv.value())),
        Some(_) => true,
    }
}

/// Whether two member documents differ in more than positions.
fn differ(before: &[u8], after: &[u8]) -> bool {
    let parse = |document: &[u8]| {
        let mut value: Value = serde_json::from_slice(document).ok()?;
        let map = value.as_object_mut()?;
        for key in POSITIONS {
            map.shift_remove(key);
        }
        Some(value)
    };
    match (parse(before), parse(after)) {
        (Some(before), Some(after)) => before != after,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::differ;

    #[test]
    fn positions_do_not_matter() {
        let before = br#"{"state":"running","xlog_location":5,"replay_lsn":5}"#;
        assert!(!differ(before, br#"{"state":"running","xlog_location":6}"#));
        assert!(differ(before, br#"{"state":"stopped","xlog_location":5}"#));
        assert!(differ(before, b""));
    }
}
