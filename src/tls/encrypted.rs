//! Private keys behind a password: PKCS #8 with PBES2 (RFC 8018) and OpenSSL's older form (`Proc-Type: 4,ENCRYPTED`), both with AES or triple DES in
//! CBC mode. The latter is what `openssl req` made up to OpenSSL 3.0.

use std::num::NonZeroU32;

use aes::cipher::{Block, BlockCipherDecrypt, KeyInit};
use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use md5::{Digest, Md5};
use ring::pbkdf2;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};

use super::x509::{Der, INTEGER, OBJECT, OCTET_STRING, SEQUENCE};

/// More rounds of the password's hash than this would stop the agent for minutes.
const MOST_ROUNDS: u32 = 10_000_000;
/// 1.2.840.113549.1.5.13 and .12, 1.2.840.113549.2 and 2.16.840.1.101.3.4.1.
const PBES2: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 13];
const PBKDF2: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 12];
const HMAC: [u8; 7] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2];
/// 1.2.840.113549.3.7.
const DES_EDE3_CBC: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 3, 7];
const AES: [u8; 8] = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1];

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Encrypted in a way that is not known here.
    Unknown,
    /// The result is no key.
    Password,
}

/// Whether a PEM file holds an encrypted key.
pub(super) fn is_encrypted(text: &str) -> bool {
    text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED")
}

/// Decrypts the key of a PEM file.
pub(super) fn decrypt(text: &str, password: &[u8]) -> Result<PrivateKeyDer<'static>, Failure> {
    let (label, body) = section(text).ok_or(Failure::Unknown)?;
    let plain = match label {
        "ENCRYPTED" => pbes2(&decode(body).ok_or(Failure::Unknown)?, password)?,
        _ => traditional(body, password)?,
    };
    // A wrong password passes the padding in one of 256 cases.
    Der(&plain).expect(SEQUENCE).ok_or(Failure::Password)?;
    Ok(match label {
        "ENCRYPTED" => PrivatePkcs8KeyDer::from(plain).into(),
        "RSA" => PrivatePkcs1KeyDer::from(plain).into(),
        "EC" => PrivateSec1KeyDer::from(plain).into(),
        _ => return Err(Failure::Unknown),
    })
}

/// What stands before `PRIVATE KEY`, and the lines of that block.
fn section(text: &str) -> Option<(&str, &str)> {
    let end = text.find(" PRIVATE KEY-----")?;
    let label = text[..end].rsplit_once("-----BEGIN ")?.1;
    let body = text[end..].split_once("-----\n").or_else(|| text[end..].split_once("-----\r\n"))?.1;
    Some((label, body.split_once("-----END")?.0))
}

fn decode(body: &str) -> Option<Vec<u8>> {
    let packed: String = body.split_ascii_whitespace().collect();
    STANDARD.decode(packed).ok()
}

fn pbes2(der: &[u8], password: &[u8]) -> Result<Vec<u8>, Failure> {
    let parts = || {
        let mut outer = Der(Der(der).expect(SEQUENCE)?);
        let mut scheme = Der(outer.expect(SEQUENCE)?);
        let data = outer.expect(OCTET_STRING)?;
        (scheme.expect(OBJECT)? == PBES2).then_some(())?;
        let mut scheme = Der(scheme.expect(SEQUENCE)?);
        let (mut derivation, mut cipher) = (Der(scheme.expect(SEQUENCE)?), Der(scheme.expect(SEQUENCE)?));
        (derivation.expect(OBJECT)? == PBKDF2).then_some(())?;
        let mut derivation = Der(derivation.expect(SEQUENCE)?);
        let salt = derivation.expect(OCTET_STRING)?;
        let rounds = derivation.expect(INTEGER)?.iter().try_fold(0_u32, |sum, byte| sum.checked_mul(256)?.checked_add(u32::from(*byte)))?;
        let rounds = NonZeroU32::new(rounds).filter(|rounds| rounds.get() <= MOST_ROUNDS)?;
        // The length of the key is that of the cipher.
        let _ = derivation.expect(INTEGER);
        let hash = match derivation.expect(SEQUENCE) {
            None => pbkdf2::PBKDF2_HMAC_SHA1,
            Some(hash) => match Der(hash).expect(OBJECT)?.strip_prefix(&HMAC[..])? {
                [7] => pbkdf2::PBKDF2_HMAC_SHA1,
                [9] => pbkdf2::PBKDF2_HMAC_SHA256,
                [10] => pbkdf2::PBKDF2_HMAC_SHA384,
                [11] => pbkdf2::PBKDF2_HMAC_SHA512,
                _ => return None,
            },
        };
        let object = cipher.expect(OBJECT)?;
        let kind = match object.strip_prefix(&AES[..]) {
            Some([2]) => Cipher::Aes128,
            Some([22]) => Cipher::Aes192,
            Some([42]) => Cipher::Aes256,
            None if object == DES_EDE3_CBC => Cipher::TripleDes,
            _ => return None,
        };
        Some((salt, rounds, hash, kind, cipher.expect(OCTET_STRING)?, data))
    };
    let (salt, rounds, hash, cipher, start, data) = parts().ok_or(Failure::Unknown)?;
    let mut key = vec![0; cipher.key_length()];
    pbkdf2::derive(hash, rounds, salt, password, &mut key);
    cipher.decrypt(&key, start, data)
}

/// `DEK-Info: AES-256-CBC,HEX`; the key is OpenSSL's `EVP_BytesToKey` of one round of MD5.
fn traditional(body: &str, password: &[u8]) -> Result<Vec<u8>, Failure> {
    let parts = || {
        let (_, info) = body.split_once("DEK-Info: ")?;
        let (info, data) = info.split_once('\n')?;
        let (cipher, start) = info.trim().split_once(',')?;
        let cipher = match cipher {
            "AES-128-CBC" => Cipher::Aes128,
            "AES-192-CBC" => Cipher::Aes192,
            "AES-256-CBC" => Cipher::Aes256,
            "DES-EDE3-CBC" => Cipher::TripleDes,
            _ => return None,
        };
        let start = start.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        Some((cipher, start.collect::<Option<Vec<u8>>>().filter(|start| start.len() >= 8)?, decode(data)?))
    };
    let (cipher, start, data) = parts().ok_or(Failure::Unknown)?;
    let mut key: Vec<u8> = Vec::new();
    while key.len() < cipher.key_length() {
        let last = key.len().saturating_sub(16);
        key.extend_from_slice(&Md5::new().chain_update(&key[last..]).chain_update(password).chain_update(&start[..8]).finalize());
    }
    cipher.decrypt(&key[..cipher.key_length()], &start, &data)
}

/// The ciphers, all in CBC mode.
#[derive(Clone, Copy)]
enum Cipher {
    Aes128,
    Aes192,
    Aes256,
    TripleDes,
}

impl Cipher {
    /// Bytes.
    fn key_length(self) -> usize {
        match self {
            Cipher::Aes128 => 16,
            Cipher::Aes192 | Cipher::TripleDes => 24,
            Cipher::Aes256 => 32,
        }
    }

    fn decrypt(self, key: &[u8], start: &[u8], data: &[u8]) -> Result<Vec<u8>, Failure> {
        match self {
            Cipher::Aes128 => chain::<aes::Aes128>(key, start, data),
            Cipher::Aes192 => chain::<aes::Aes192>(key, start, data),
            Cipher::Aes256 => chain::<aes::Aes256>(key, start, data),
            Cipher::TripleDes => chain::<des::TdesEde3>(key, start, data),
        }
    }
}

/// Decrypts and takes the padding off (RFC 5652, 6.3).
fn chain<C: BlockCipherDecrypt + KeyInit>(key: &[u8], start: &[u8], data: &[u8]) -> Result<Vec<u8>, Failure> {
    let cipher = C::new_from_slice(key).map_err(|_| Failure::Unknown)?;
    let size = C::block_size();
    if start.len() != size || data.is_empty() || !data.len().is_multiple_of(size) {
        return Err(Failure::Unknown);
    }
    let mut plain = Vec::with_capacity(data.len());
    let mut before = start;
    for bytes in data.chunks_exact(size) {
        let mut block = Block::<C>::try_from(bytes).map_err(|_| Failure::Unknown)?;
        cipher.decrypt_block(&mut block);
        plain.extend(block.iter().zip(before).map(|(byte, before)| byte ^ before));
        before = bytes;
    }
    let count = usize::from(plain.last().copied().unwrap_or(0));
    let end = plain.len().checked_sub(count).filter(|_| (1..=size).contains(&count)).ok_or(Failure::Password)?;
    if plain[end..].iter().any(|byte| usize::from(*byte) != count) {
        return Err(Failure::Password);
    }
    plain.truncate(end);
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::{decrypt, is_encrypted, Failure};

    /// `openssl genpkey -algorithm ED25519 -aes-128-cbc -pass pass:secret`
    const KEY: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----\n\
MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAhuvhYFJqB60wICCAAw\n\
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEAQIEEJBG42ddcwOs1QwLsO1n4pMEQAsZ\n\
PSHN/pZqaH1X8Lr8QWZFXcbzTrufMCXcvIgVrGZ8/1Ruz8T7MYFLhLCF50mzQeG5\n\
3PtK1V13RhozstKe4vk=\n\
-----END ENCRYPTED PRIVATE KEY-----\n";

    #[test]
    fn a_key_and_its_ruins() {
        assert!(is_encrypted(KEY));
        assert!(decrypt(KEY, b"secret").is_ok());
        assert_eq!(decrypt(KEY, b"Secret").unwrap_err(), Failure::Password);
        for at in 0..KEY.len() {
            let mut bytes = KEY.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let _ = decrypt(std::str::from_utf8(&bytes).unwrap(), b"secret");
            let _ = decrypt(&KEY[..at], b"secret");
        }
    }
}
