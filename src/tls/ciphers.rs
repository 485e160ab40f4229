//! `restapi.ciphers`: OpenSSL's list of cipher suites, as far as it speaks of suites that this library has.
//!
//! Like OpenSSL's `SSL_CTX_set_cipher_list` it is about TLS 1.2; the three suites of TLS 1.3 are always there.

use std::sync::Arc;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::{CipherSuite, SupportedCipherSuite};

use super::provider;

/// OpenSSL's names of the suites for TLS 1.2.
const SUITES: [(CipherSuite, &str); 6] = [
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES256-GCM-SHA384"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-RSA-CHACHA20-POLY1305"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256"),
];

/// The algorithms with the suites that the list names.
pub(super) fn restricted(list: Option<&str>) -> Arc<CryptoProvider> {
    let Some(list) = list else { return provider() };
    let mut restricted = CryptoProvider::clone(&provider());
    let chosen = select(list);
    let all = std::mem::take(&mut restricted.cipher_suites);
    let (tls13, tls12): (Vec<_>, Vec<_>) = all.into_iter().partition(|suite| suite.tls13().is_some());
    let of = |name: CipherSuite| tls12.iter().find(|suite| suite.suite() == name).copied();
    restricted.cipher_suites = tls13.into_iter().chain(chosen.into_iter().filter_map(of)).collect::<Vec<SupportedCipherSuite>>();
    if restricted.cipher_suites.iter().all(|suite| suite.tls13().is_some()) {
        log::warn!("restapi.ciphers names no suite for TLS 1.2 that this agent has: clients need TLS 1.3");
    }
    Arc::new(restricted)
}

/// The suites of a list, in its order.
fn select(list: &str) -> Vec<CipherSuite> {
    let (mut chosen, mut banned): (Vec<CipherSuite>, Vec<CipherSuite>) = (Vec::new(), Vec::new());
    for word in list.split([':', ',', ' ', ';']).filter(|word| !word.is_empty() && !word.starts_with('@')) {
        let (sign, name) = match word.split_at_checked(1) {
            Some((sign @ ("!" | "-" | "+"), name)) => (sign, name),
            _ => ("", word),
        };
        let named: Vec<CipherSuite> = SUITES.iter().filter(|(_, suite)| is_named(suite, name)).map(|(suite, _)| *suite).collect();
        match sign {
            "" => {
                let new: Vec<_> = named.into_iter().filter(|suite| !chosen.contains(suite) && !banned.contains(suite)).collect();
                chosen.extend(new);
            }
            "+" => {
                let (moved, kept): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|suite| named.contains(suite));
                chosen = kept.into_iter().chain(moved).collect();
            }
            _ => {
                chosen.retain(|suite| !named.contains(suite));
                if sign == "!" {
                    banned.extend(named);
                }
            }
        }
    }
    chosen
}

/// Whether a suite has this name, or all of the properties that are joined by `+`.
fn is_named(suite: &str, name: &str) -> bool {
    let has = |part: &str| suite.split('-').any(|word| word == part);
    suite == name
        || name.split('+').all(|property| match property {
            "ALL" | "DEFAULT" | "HIGH" | "TLSv1.2" | "ECDHE" | "EECDH" | "kECDHE" | "kEECDH" => true,
            "AES" => has("AES256") || has("AES128"),
            "AESGCM" => has("GCM"),
            // Without the letter it is the key exchange, which no suite of ours has.
            "aRSA" => has("RSA"),
            "aECDSA" | "ECDSA" => has("ECDSA"),
            "CHACHA20" | "AES128" | "AES256" | "SHA256" | "SHA384" => has(property),
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use super::{restricted, select, SUITES};

    fn names(list: &str) -> Vec<&'static str> {
        let name = |chosen| SUITES.iter().find(|(suite, _)| *suite == chosen).unwrap().1;
        select(list).into_iter().map(name).collect()
    }

    #[test]
    fn lists_as_administrators_write_them() {
        assert_eq!(names("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384").len(), 2);
        assert_eq!(names("ECDHE-RSA-AES128-GCM-SHA256, ECDHE-RSA-AES256-GCM-SHA384")[0], "ECDHE-RSA-AES128-GCM-SHA256");
        assert_eq!(names("HIGH:!aNULL:!MD5:!AES128").len(), 4);
        assert_eq!(names("ECDHE+AESGCM:!aECDSA"), ["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"]);
        assert_eq!(names("DEFAULT:@SECLEVEL=2").len(), 6);
        assert_eq!(names("ALL:+CHACHA20")[4], "ECDHE-ECDSA-CHACHA20-POLY1305");
        for none in ["AES256-SHA", "kRSA", "!ALL:HIGH", "", "+", "!", "eNULL", "COMPLEMENTOFALL", "-ALL"] {
            assert!(names(none).is_empty(), "{none}");
        }
    }

    #[test]
    fn tls_1_3_stays() {
        assert_eq!(restricted(Some("AES256-SHA")).cipher_suites.len(), 3);
        assert_eq!(restricted(Some("ALL")).cipher_suites.len(), 9);
        assert_eq!(restricted(None).cipher_suites.len(), 9);
    }
}
