//! Just enough of X.509 (RFC 5280) to judge the certificates that webpki refuses and OpenSSL accepts: version 1, and `CA:TRUE` as end entity.

/// A reader of DER values (X.690). Anything malformed ends in `None`.
#[derive(Clone, Copy)]
pub(crate) struct Der<'a>(pub(crate) &'a [u8]);

/// One value.
#[derive(Clone, Copy)]
pub(crate) struct Item<'a> {
    /// Tag byte.
    pub(crate) tag: u8,
    /// Content.
    pub(crate) value: &'a [u8],
    /// With its header.
    pub(crate) whole: &'a [u8],
}

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

impl<'a> Der<'a> {
    /// The next value; `None` at the end and for garbage.
    pub(crate) fn next(&mut self) -> Option<Item<'a>> {
        let (tag, first) = (*self.0.first()?, *self.0.get(1)?);
        let (header, length) = match first {
            0..=0x7f => (2, usize::from(first)),
            0x81..=0x83 => {
                let count = usize::from(first & 0x7f);
                let digits = self.0.get(2..2 + count)?;
                (2 + count, digits.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte)))
            }
            _ => return None,
        };
        let whole = self.0.get(..header + length)?;
        self.0 = &self.0[header + length..];
        Some(Item { tag, value: &whole[header..], whole })
    }

    /// The next value, if it has this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.item(tag).map(|item| item.value)
    }

    fn item(&mut self, tag: u8) -> Option<Item<'a>> {
        let before = self.0;
        let item = self.next().filter(|item| item.tag == tag);
        if item.is_none() {
            self.0 = before;
        }
        item
    }
}

/// What `extendedKeyUsage` must allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    /// `serverAuth`.
    Server,
    /// `clientAuth`.
    Client,
}

impl Usage {
    fn object(self) -> &'static [u8] {
        match self {
            Usage::Server => &[0x2b, 6, 1, 5, 5, 7, 3, 1],
            Usage::Client => &[0x2b, 6, 1, 5, 5, 7, 3, 2],
        }
    }

    /// `keyUsage` bits of which one must be set, as OpenSSL asks for them: for a server digitalSignature, keyEncipherment or keyAgreement;
    /// for a client digitalSignature or keyAgreement.
    fn bits(self) -> u8 {
        match self {
            Usage::Server => 0b1010_1000,
            Usage::Client => 0b1000_1000,
        }
    }
}

/// The parts of a certificate.
pub(crate) struct Certificate<'a> {
    /// What is signed.
    pub(crate) signed: &'a [u8],
    /// Content of its `AlgorithmIdentifier`.
    pub(crate) algorithm: &'a [u8],
    /// The signature.
    pub(crate) signature: &'a [u8],
    /// Content of the issuer's name.
    pub(crate) issuer: &'a [u8],
    subject: &'a [u8],
    /// The public key with its algorithm, without the outer header.
    pub(crate) key: &'a [u8],
    /// The same with it.
    pub(crate) key_whole: &'a [u8],
    not_before: i64,
    not_after: i64,
    /// Version 1: no extensions.
    pub(crate) is_v1: bool,
    /// `basicConstraints` says `CA:TRUE`.
    pub(crate) is_ca: bool,
    /// It has `subjectAltName`.
    pub(crate) has_names: bool,
    usages: Option<&'a [u8]>,
    key_usage: Option<&'a [u8]>,
    is_strange: bool,
}

impl<'a> Certificate<'a> {
    /// Reads a certificate.
    pub(crate) fn parse(der: &'a [u8]) -> Option<Certificate<'a>> {
        let mut outer = Der(Der(der).expect(SEQUENCE)?);
        let signed = outer.item(SEQUENCE)?;
        let algorithm = outer.expect(SEQUENCE)?;
        let signature = bits(outer.expect(BIT_STRING)?)?;
        let mut inner = Der(signed.value);
        let version = inner.expect(0xa0).and_then(|version| Der(version).expect(INTEGER));
        inner.expect(INTEGER)?;
        if inner.expect(SEQUENCE)? != algorithm {
            return None;
        }
        let issuer = inner.expect(SEQUENCE)?;
        let mut validity = Der(inner.expect(SEQUENCE)?);
        let (not_before, not_after) = (time(validity.next()?)?, time(validity.next()?)?);
        let subject = inner.expect(SEQUENCE)?;
        let key = inner.item(SEQUENCE)?;
        let mut certificate = Certificate {
            signed: signed.whole,
            algorithm,
            signature,
            issuer,
            subject,
            key: key.value,
            key_whole: key.whole,
            not_before,
            not_after,
            is_v1: version.is_none(),
            is_ca: false,
            has_names: false,
            usages: None,
            key_usage: None,
            is_strange: false,
        };
        while let Some(item) = inner.next() {
            if item.tag == 0xa3 {
                certificate.extensions(Der(item.value).expect(SEQUENCE)?)?;
            }
        }
        Some(certificate)
    }

    fn extensions(&mut self, list: &'a [u8]) -> Option<()> {
        let mut list = Der(list);
        while !list.0.is_empty() {
            let mut extension = Der(list.expect(SEQUENCE)?);
            let object = extension.expect(OBJECT)?;
            let critical = extension.expect(BOOLEAN).is_some_and(|value| value != [0]);
            let value = extension.expect(OCTET_STRING)?;
            match object {
                [0x55, 0x1d, 19] => {
                    self.is_ca = Der(Der(value).expect(SEQUENCE)?).expect(BOOLEAN).is_some_and(|value| value != [0]);
                }
                [0x55, 0x1d, 15] => self.key_usage = Some(bits(Der(value).expect(BIT_STRING)?)?),
                [0x55, 0x1d, 37] => self.usages = Some(Der(value).expect(SEQUENCE)?),
                [0x55, 0x1d, 17] => self.has_names = true,
                _ => self.is_strange |= critical,
            }
        }
        Some(())
    }

    /// Whether it is valid at `now` (seconds since 1970).
    pub(crate) fn is_valid_at(&self, now: u64) -> bool {
        i64::try_from(now).is_ok_and(|now| self.not_before <= now && now <= self.not_after)
    }

    /// Whether its extensions allow this use, and none that must be understood is unknown.
    pub(crate) fn allows(&self, usage: Usage) -> bool {
        let listed = self.usages.is_none_or(|list| {
            let mut list = Der(list);
            std::iter::from_fn(|| list.expect(OBJECT)).any(|object| object == usage.object())
        });
        let keyed = self.key_usage.is_none_or(|bits| bits.first().is_some_and(|bits| bits & usage.bits() != 0));
        listed && keyed && !self.is_strange
    }

    /// The last `commonName` of the subject.
    pub(crate) fn common_name(&self) -> Option<&'a str> {
        let (mut names, mut found) = (Der(self.subject), None);
        while let Some(set) = names.expect(SET) {
            let mut pair = Der(Der(set).expect(SEQUENCE)?);
            if pair.expect(OBJECT)? == [0x55, 4, 3] {
                found = std::str::from_utf8(pair.next()?.value).ok();
            }
        }
        found
    }

    /// Algorithm (content of its `AlgorithmIdentifier`) and bits of the public key.
    pub(crate) fn public_key(&self) -> Option<(&'a [u8], &'a [u8])> {
        split_key(self.key)
    }
}

/// Algorithm and bits of a `SubjectPublicKeyInfo` without its outer header.
pub(crate) fn split_key(info: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut info = Der(info);
    Some((info.expect(SEQUENCE)?, bits(info.expect(BIT_STRING)?)?))
}

/// The bytes of a bit string. Its first byte says how many bits of the last are unused.
fn bits(value: &[u8]) -> Option<&[u8]> {
    value.split_first().map(|(_, rest)| rest)
}

/// `UTCTime` and `GeneralizedTime`, in seconds since 1970.
fn time(item: Item<'_>) -> Option<i64> {
    let text = std::str::from_utf8(item.value).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (item.tag, text.len()) {
        (UTC_TIME, 12) => {
            let year: i64 = text[..2].parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let part = |at: usize| rest[at..at + 2].parse::<i64>().ok();
    let (month, day) = (part(0)?, part(2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some(days(year, month, day) * 86_400 + part(4)? * 3_600 + part(6)? * 60 + part(8)?)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar. Years begin in March here, so that the leap day is the last one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468
}

/// Whether a common name is that of `host`; `*.` stands for one label.
pub(crate) fn name_matches(name: &str, host: &str) -> bool {
    if name.eq_ignore_ascii_case(host) {
        return true;
    }
    let below = |host: &str| host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.contains('.'));
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    match (name.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((_, rest))) => !is_address && below(host) && domain.eq_ignore_ascii_case(rest),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{days, name_matches, Certificate};

    #[test]
    fn calendar() {
        assert_eq!(days(1970, 1, 1), 0);
        assert_eq!(days(2000, 3, 1), 11_017);
        assert_eq!(days(2024, 2, 29), 19_782);
        assert_eq!(days(1969, 12, 31), -1);
    }

    #[test]
    fn common_names() {
        assert!(name_matches("DB1.example.org", "db1.example.ORG"));
        assert!(name_matches("*.example.org", "db1.example.org"));
        assert!(name_matches("10.0.0.1", "10.0.0.1"));
        for (name, host) in [("*.example.org", "a.b.example.org"), ("*.org", "example.org"), ("*.0.0.1", "10.0.0.1"), ("*", "a"), ("", "a")]
        {
            assert!(!name_matches(name, host), "{name} {host}");
        }
    }

    #[test]
    fn garbage_is_no_certificate() {
        for length in 0..64_usize {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 37 + length * 11) as u8 | 0x30).collect();
            assert!(Certificate::parse(&bytes).is_none());
        }
        assert!(Certificate::parse(&[0x30, 0x83, 0xff, 0xff, 0xff]).is_none());
    }
}
