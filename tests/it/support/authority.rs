//! Certificates of an authority of the test, and clients that show them.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use reqwest::{Certificate, Identity};

/// An authority of this test.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// PEM of a certificate with these names, and of its key.
    pub(crate) fn issue(&self, names: Vec<SanType>) -> (String, String) {
        self.issue_until(names, 4095)
    }

    /// The same, valid until a year begins.
    pub(crate) fn issue_until(&self, names: Vec<SanType>, year: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A client of servers with its certificates that shows one.
    pub(crate) fn client(&self, identity: Option<&(String, String)>) -> reqwest::Client {
        let root = Certificate::from_pem(self.pem.as_bytes()).unwrap();
        let builder = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
        match identity {
            Some((certificate, key)) => {
                builder.identity(Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap()).build().unwrap()
            }
            None => builder.build().unwrap(),
        }
    }
}

/// A name that is a URI.
pub(crate) fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

/// All of an answer but what differs from one to the next.
pub(crate) async fn seen(answer: reqwest::Response) -> (u16, Vec<(String, String)>, String) {
    let status = answer.status().as_u16();
    let own = ["date", "x-request-id"];
    let headers = answer.headers().iter().filter(|(name, _)| !own.contains(&name.as_str()));
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    (status, headers, answer.text().await.unwrap())
}
