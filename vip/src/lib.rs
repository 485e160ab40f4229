//! Virtual IP addresses on Linux: added with an expiry, announced, probed, defended, watched, removed.
//!
//! For programs that hold an address only while something else, such as a lease, says that they may. There is no protocol between
//! hosts and no thread here, and nothing waits: the program calls, and the kernel does.
//!
//! ```no_run
//! use std::time::{Duration, Instant};
//! use mastiff_vip::{Address, Event, Holder, Lifetime};
//!
//! # fn main() -> Result<(), mastiff_vip::Error> {
//! let clock = Instant::now();
//! let mut holder = Holder::open(Address::new([10, 0, 0, 50].into(), "eth0"), 42)?;
//! for warning in holder.check()? {
//!     eprintln!("{warning}");
//! }
//! let lease_deadline = clock.elapsed() + Duration::from_secs(10);
//! // Goes by itself a second before the lease does.
//! holder.add(clock.elapsed(), Lifetime::Auto.valid_for(lease_deadline, clock.elapsed()))?;
//!
//! // In the loop: when a descriptor is readable, at the deadline, and after each renewal of the lease.
//! for event in holder.poll_events(clock.elapsed()) {
//!     if event == Event::AddressRemoved {
//!         holder.add(clock.elapsed(), Some(9))?;
//!     }
//! }
//! holder.tick(clock.elapsed());
//! holder.renew(Some(9))?;
//! let wake_me_at = holder.next_deadline();
//! # let _ = (wake_me_at, holder.event_fd(), holder.frame_fd());
//!
//! // The lease is over: the address goes, and the sessions that used it end.
//! holder.remove()?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is where
//!
//! | module | what it does |
//! |---|---|
//! | [`wire`] | frames as bytes: ARP, neighbour discovery; no I/O, no `unsafe`, never panics |
//! | [`schedule`] | when to announce; pure |
//! | [`lifetime`] | how long the kernel keeps the address; pure |
//! | [`netlink`] | addresses, interfaces and their events (rtnetlink) |
//! | [`send`] | frames to and from an interface (AF_PACKET); the only `unsafe` |
//! | [`destroy`] | ends TCP sessions (SOCK_DESTROY) |
//! | [`holder`] | all of it for one address |
//! | [`guard`] | drops addresses when the holder cannot |
//!
//! # What neighbours take
//!
//! Measured on Linux: a client knew the old holder, the new one sent one frame.
//!
//! | frame | entry 3 s old | entry updated 0.2 s ago |
//! |---|---|---|
//! | request, target hardware address ff:ff:ff:ff:ff:ff or zero | taken | taken |
//! | reply, target hardware address = sender's | taken | taken |
//! | reply, any other target hardware address | taken | **not taken** |
//!
//! Other systems take only requests or only replies. So every announcement is a request and a reply of the forms that Linux always
//! takes; for IPv6 it is a neighbour advertisement with the override flag. A question to the default gateway, sent from the address,
//! follows: a router that ignores announcements of addresses that it does not know must learn who asks.
//!
//! # Rights
//!
//! CAP_NET_ADMIN to change addresses and to end sessions, CAP_NET_RAW once, when a [`Holder`] is opened. Root is not needed.
//!
//! # Network namespaces
//!
//! Sockets belong to the namespace of the thread that opens them, for ever. To hold an address in another namespace, open the
//! [`Holder`] on a thread that has entered it, and use it anywhere.
#![deny(unsafe_code)]

pub mod address;
pub mod destroy;
pub mod error;
pub mod guard;
pub mod holder;
pub mod lifetime;
pub mod netlink;
pub mod schedule;
pub mod send;
pub mod wire;

pub use address::{Address, OnConflict, Warning};
pub use destroy::Destroyed;
pub use error::Error;
pub use guard::{drop_addresses, Dropper, Interface};
pub use holder::{Event, Holder, Probe, Removal};
pub use lifetime::Lifetime;
pub use wire::Mac;
