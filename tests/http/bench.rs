//! A server to measure: `cargo test --test http -- --ignored --nocapture bench::serve`, then for example
//! `wrk -t2 -c8 -d10 http://127.0.0.1:PORT/primary`.

use crate::live::{config, Live};

#[test]
#[ignore = "for measurements by hand"]
fn serve() {
    let mut config = config();
    config.listen.port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(0);
    let live = Live::start(&config);
    println!("http://{}/primary", live.address());
    std::thread::sleep(std::time::Duration::from_secs(60));
}
