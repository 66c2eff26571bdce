//! Certificates that are well-formed and of no use: out of their time, or without names. Pure.

use std::time::{Duration, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;

use crate::clock::Timestamp;

/// When a certificate holds, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    from: u64,
    until: u64,
}

impl Times {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        let validity = certificate.validity();
        Self { from: seconds(validity.not_before), until: seconds(validity.not_after) }
    }

    /// Why it does not hold now, if so.
    fn fault(self, now: Timestamp) -> Option<String> {
        let day = |seconds: u64| humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds));
        let now = now.as_secs();
        if now > self.until {
            let days = (now - self.until) / 86_400;
            return Some(format!("has expired at {}, {days} days ago", day(self.until)));
        }
        (now < self.from).then(|| format!("is not valid before {}; is this machine's clock right?", day(self.from)))
    }
}

/// What is wrong with a chain that clients are shown: each certificate that does not hold now, and a first one without
/// names. `what`: key and file.
pub(super) fn of_chain(what: &str, chain: &[CertificateDer<'_>], now: Timestamp) -> Vec<String> {
    let mut found = Vec::new();
    for (place, der) in chain.iter().enumerate() {
        let Ok((_, certificate)) = x509_parser::parse_x509_certificate(der) else { continue };
        let which =
            if place == 0 { "the certificate".to_owned() } else { format!("certificate {} of the chain", place + 1) };
        if let Some(fault) = Times::of(&certificate).fault(now) {
            found.push(format!("{what}: {which} {fault}: clients refuse it"));
        }
        let is_named = certificate
            .subject_alternative_name()
            .is_ok_and(|names| names.is_some_and(|names| !names.value.general_names.is_empty()));
        if place == 0 && !is_named {
            found.push(format!(
                "{what}: the certificate has no subjectAltName: clients that verify it refuse it, whatever its subject says"
            ));
        }
    }
    found
}

/// What is wrong with authorities: none of them holds now. A bundle has old ones in it, and one that holds is enough.
#[must_use]
pub fn of_authorities(what: &str, pem: &[u8], now: Timestamp) -> Option<String> {
    let mut fault = None;
    for der in CertificateDer::pem_slice_iter(pem).flatten() {
        let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&der) else { continue };
        fault = Some(Times::of(&certificate).fault(now)?);
    }
    fault.map(|fault| format!("{what}: no certificate in it holds now, the last one {fault}: nothing is trusted by it"))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(names: &[&str], years: (i32, i32)) -> rcgen::Certificate {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    /// 2026-06-01.
    const NOW: Timestamp = Timestamp::from_millis(1_780_272_000_000);

    #[test]
    fn what_clients_refuse_is_said() {
        let good = certificate(&["r"], (2020, 2030));
        let said = |chain: &[&rcgen::Certificate]| {
            let chain: Vec<_> = chain.iter().map(|one| one.der().clone()).collect();
            of_chain("tls.certFile c", &chain, NOW)
        };
        assert_eq!(said(&[&good, &good]), Vec::<String>::new());
        for (chain, word) in [
            (vec![&certificate(&["r"], (2020, 2021))], "has expired at 2021-01-01T00:00:00Z"),
            (vec![&certificate(&["r"], (2030, 2031))], "not valid before 2030-01-01T00:00:00Z"),
            (vec![&certificate(&[], (2020, 2030))], "subjectAltName"),
            (vec![&good, &certificate(&[], (2020, 2021))], "certificate 2 of the chain has expired"),
        ] {
            let said = said(&chain);
            assert!(said.len() == 1 && said[0].contains(word) && said[0].starts_with("tls.certFile c: "), "{said:?}");
        }
    }

    #[test]
    fn one_authority_that_holds_is_enough() {
        let (old, good) = (certificate(&[], (2020, 2021)).pem(), certificate(&[], (2020, 2030)).pem());
        assert_eq!(of_authorities("ca", format!("{old}{good}").as_bytes(), NOW), None);
        assert_eq!(of_authorities("ca", b"", NOW), None);
        assert!(of_authorities("ca", old.as_bytes(), NOW).unwrap().contains("has expired"));
    }
}
