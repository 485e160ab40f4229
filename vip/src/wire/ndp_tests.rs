use super::super::mutate;
use super::*;

const MAC: Mac = Mac([0x02, 0x42, 0x0a, 0, 0, 0x0b]);
const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x50);
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Checksums of this file were computed by another program.
#[rustfmt::skip]
const ANNOUNCEMENT: [u8; 86] = [
    0x33, 0x33, 0, 0, 0, 1, 0x02, 0x42, 0x0a, 0, 0, 0x0b, 0x86, 0xdd,
    0x60, 0, 0, 0, 0, 32, 58, 255,
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50,
    0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
    136, 0, 0xee, 0x40, 0x20, 0, 0, 0,
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50,
    2, 1, 0x02, 0x42, 0x0a, 0, 0, 0x0b,
];

#[rustfmt::skip]
const PROBE: [u8; 78] = [
    0x33, 0x33, 0xff, 0, 0, 0x50, 0x02, 0x42, 0x0a, 0, 0, 0x0b, 0x86, 0xdd,
    0x60, 0, 0, 0, 0, 24, 58, 255,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0x50,
    135, 0, 0x4c, 0x4f, 0, 0, 0, 0,
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50,
];

#[rustfmt::skip]
const ASK: [u8; 86] = [
    0x33, 0x33, 0xff, 0, 0, 1, 0x02, 0x42, 0x0a, 0, 0, 0x0b, 0x86, 0xdd,
    0x60, 0, 0, 0, 0, 32, 58, 255,
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50,
    0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1,
    135, 0, 0x40, 0xc6, 0, 0, 0, 0,
    0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
    1, 1, 0x02, 0x42, 0x0a, 0, 0, 0x0b,
];

fn advertisement_of(router: bool) -> Neighbour {
    let kind = Kind::Advertisement { router, solicited: false, overriding: true };
    Neighbour { kind, source_mac: MAC, source_ip: VIP, target: VIP, link_layer: Some(MAC) }
}

#[test]
fn the_announcement_is_an_overriding_advertisement() {
    assert_eq!(announce(MAC, VIP, false), ANNOUNCEMENT);
    assert_eq!(parse(&ANNOUNCEMENT), Some(advertisement_of(false)));
}

#[test]
fn a_router_says_so() {
    let mut want = ANNOUNCEMENT;
    want[56..59].copy_from_slice(&[0x6e, 0x40, 0xa0]);
    assert_eq!(announce(MAC, VIP, true), want);
    assert_eq!(parse(&want), Some(advertisement_of(true)));
}

#[test]
fn a_probe_comes_from_nowhere() {
    assert_eq!(probe(MAC, VIP), PROBE);
    let want = Neighbour { kind: Kind::Solicitation, source_mac: MAC, source_ip: Ipv6Addr::UNSPECIFIED, target: VIP, link_layer: None };
    assert_eq!(parse(&PROBE), Some(want));
}

#[test]
fn the_gateway_is_asked_from_the_address() {
    assert_eq!(ask(MAC, VIP, GATEWAY), ASK);
    let want = Neighbour { kind: Kind::Solicitation, source_mac: MAC, source_ip: VIP, target: GATEWAY, link_layer: Some(MAC) };
    assert_eq!(parse(&ASK), Some(want));
}

#[test]
fn padding_and_tags_are_tolerated() {
    let mut tagged = ANNOUNCEMENT.to_vec();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
    tagged.extend([0; 9]);
    assert_eq!(parse(&tagged), Some(advertisement_of(false)));
}

#[test]
fn what_the_rfc_forbids_is_not_parsed() {
    for (at, value, what) in [
        (14, 0x45, "version 4"),
        (20, 17, "UDP"),
        (21, 254, "a router forwarded it"),
        (54, 134, "router advertisement"),
        (55, 1, "code"),
        (56, 0, "checksum"),
        (19, 33, "longer than the frame"),
    ] {
        let mut frame = ANNOUNCEMENT;
        frame[at] = value;
        assert_eq!(parse(&frame), None, "{what}");
    }
}

#[test]
fn an_option_of_length_zero_ends_it() {
    assert_eq!(link_layer(&[2, 0, 1, 2, 3, 4, 5, 6], 2), None);
    assert_eq!(link_layer(&[2], 2), None);
    assert_eq!(link_layer(&[14, 1, 0, 0, 0, 0, 0, 0, 2, 1, 1, 2, 3, 4, 5, 6], 2), Some(Some(Mac([1, 2, 3, 4, 5, 6]))));
    assert_eq!(link_layer(&[], 2), Some(None));
}

#[test]
fn a_claim_is_somebody_elses() {
    let one = advertisement_of(false);
    let other = Mac([2, 9, 9, 9, 9, 9]);
    assert!(one.claims(VIP, other) && !one.claims(VIP, MAC) && !one.claims(GATEWAY, other));
    let asking = parse(&ASK).unwrap();
    assert!(asking.claims(VIP, other), "who asks from the address has it");
    assert!(!asking.claims(GATEWAY, other), "who is asked for was not heard");
    assert!(!parse(&PROBE).unwrap().claims(VIP, other), "a probe claims nothing");
}

#[test]
fn groups() {
    assert_eq!(solicited_node("2001:db8::1:2345:6789".parse().unwrap()), "ff02::1:ff45:6789".parse::<Ipv6Addr>().unwrap());
    assert_eq!(multicast_mac(ALL_NODES), Mac([0x33, 0x33, 0, 0, 0, 1]));
}

#[test]
fn whatever_comes_does_not_panic() {
    mutate::everything(&ANNOUNCEMENT, 10_000, |bytes| assert!(parse(bytes).is_none_or(|one| !one.target.is_multicast())));
    mutate::everything(&PROBE, 10_000, |bytes| assert!(parse(bytes).is_none_or(|one| !one.target.is_multicast())));
    // Past the checksum: the same with every message made valid again.
    mutate::everything(&ASK, 20_000, |bytes| {
        let mut frame = bytes.to_vec();
        if frame.len() >= FRAME_BARE {
            let (source, destination) = (bytes_at::<16>(&frame, 22).unwrap(), bytes_at::<16>(&frame, 38).unwrap());
            let end = (BODY + usize::from(be16_at(&frame, 18).unwrap())).clamp(FRAME_BARE, frame.len());
            frame[56..58].fill(0);
            let sum = checksum(source.into(), destination.into(), &frame[BODY..end]);
            frame[56..58].copy_from_slice(&sum.to_be_bytes());
        }
        let _ = parse(&frame);
    });
}
