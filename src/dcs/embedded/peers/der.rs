//! The certificate that stands for a shared key: a deterministic, self-signed X.509 v3 certificate with an Ed25519 key.
//!
//! Form: RFC 5280 section 4.1; algorithm and key: RFC 8410 sections 3, 4 and 7; encoding: DER (X.690). Nothing in it is random and nothing depends
//! on a clock, and Ed25519 signatures are deterministic (RFC 8032 section 5.1.6), so the same key makes the same bytes on every box.

const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0] EXPLICIT Version`: INTEGER 2, which is version 3.
const VERSION_3: [u8; 5] = [0xa0, 3, 0x02, 1, 2];
const EXTENSIONS: u8 = 0xa3;
/// INTEGER 1. Serial numbers must differ among the certificates of one CA, and this one makes only one.
const SERIAL: [u8; 3] = [0x02, 1, 1];
/// id-Ed25519, 1.3.101.112, without parameters (RFC 8410 section 3).
const ED25519: [u8; 7] = [SEQUENCE, 5, 0x06, 3, 0x2b, 0x65, 0x70];
/// id-at-commonName, 2.5.4.3.
const COMMON_NAME: [u8; 5] = [0x06, 3, 0x55, 4, 3];
/// id-ce-keyUsage, 2.5.29.15, critical.
const KEY_USAGE: [u8; 8] = [0x06, 3, 0x55, 0x1d, 15, 0x01, 1, 0xff];
/// A bit string with digitalSignature alone.
const DIGITAL_SIGNATURE: [u8; 4] = [BIT_STRING, 2, 7, 0x80];
/// UTCTime.
const NOT_BEFORE: &[u8] = b"\x17\x0d000101000000Z";
/// GeneralizedTime: "no well-defined expiration date" (RFC 5280 section 4.1.2.5). Boxes without a battery start in 1970 or 2000.
const NOT_AFTER: &[u8] = b"\x18\x0f99991231235959Z";

/// A value with its header. Nothing here is longer than 64 KiB.
fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes() {
        [0, low @ 0..=0x7f] => out.push(low),
        [0, low] => out.extend([0x81, low]),
        [high, low] => out.extend([0x82, high, low]),
    }
    out.extend(content);
    out
}

/// A bit string of whole bytes.
fn bits(bytes: &[u8]) -> Vec<u8> {
    value(BIT_STRING, &[&[0], bytes])
}

/// The private key in the form that the TLS library reads: PKCS #8 (RFC 8410 section 7).
pub(super) fn private_key(seed: &[u8; 32]) -> Vec<u8> {
    value(SEQUENCE, &[&[0x02, 1, 0], &ED25519, &value(OCTET_STRING, &[&value(OCTET_STRING, &[seed])])])
}

/// The certificate of a public key. `sign` makes the signature of the bytes that it gets.
pub(super) fn certificate(public: &[u8], name: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let attribute = value(SEQUENCE, &[&COMMON_NAME, &value(UTF8_STRING, &[name.as_bytes()])]);
    let name = value(SEQUENCE, &[&value(SET, &[&attribute])]);
    let validity = value(SEQUENCE, &[NOT_BEFORE, NOT_AFTER]);
    let key = value(SEQUENCE, &[&ED25519, &bits(public)]);
    let usage = value(SEQUENCE, &[&KEY_USAGE, &value(OCTET_STRING, &[&DIGITAL_SIGNATURE])]);
    let extensions = value(EXTENSIONS, &[&value(SEQUENCE, &[&usage])]);
    let signed = value(SEQUENCE, &[&VERSION_3, &SERIAL, &ED25519, &name, &validity, &name, &key, &extensions]);
    let signature = bits(&sign(&signed));
    value(SEQUENCE, &[&signed, &ED25519, &signature])
}

#[cfg(test)]
mod tests {
    use super::{certificate, private_key, value};

    #[test]
    fn lengths() {
        assert_eq!(value(4, &[&[7]]), [4, 1, 7]);
        assert_eq!(value(4, &[&[0; 127]])[..2], [4, 127]);
        assert_eq!(value(4, &[&[0; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(value(4, &[&[0; 256]])[..4], [4, 0x82, 1, 0]);
    }

    /// The example of RFC 8410 section 10.3, the key without attributes.
    #[test]
    fn private_key_of_the_rfc() {
        let seed = [
            0xd4, 0xee, 0x72, 0xdb, 0xf9, 0x13, 0x58, 0x4a, 0xd5, 0xb6, 0xd8, 0xf1, 0xf7, 0x69, 0xf8, 0xad, 0x3a, 0xfe, 0x7c, 0x28, 0xcb,
            0xf1, 0xd4, 0xfb, 0xe0, 0x97, 0xa8, 0x8f, 0x44, 0x75, 0x58, 0x42,
        ];
        let key = private_key(&seed);
        assert_eq!(key[..16], [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20]);
        assert_eq!(key[16..], seed);
    }

    /// What OpenSSL makes of it.
    #[test]
    fn certificate_can_be_read() {
        let made = certificate(&[5; 32], "a name", |signed| signed[..2].repeat(32));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made.der");
        std::fs::write(&path, made).unwrap();
        let output = std::process::Command::new("openssl").args(["x509", "-inform", "der", "-text", "-noout", "-in"]).arg(&path).output();
        let output = output.expect("the openssl command is needed (Debian: apt-get install openssl)");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for part in ["Version: 3", "CN = a name", "Dec 31 23:59:59 9999", "Public Key Algorithm: ED25519", "Digital Signature"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
