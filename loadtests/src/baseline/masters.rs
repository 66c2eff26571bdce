//! Masters that know each other: an address of the loopback for each, one authority, one list.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use super::free_port;
use crate::certificates::Certificate;
use crate::client::Place;

/// By which masters know each other.
const PEER: &str = "d8-registry:peer";

/// A master that can be started.
#[derive(Debug)]
pub(crate) struct Master {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The same for clients, who trust the authority.
    pub(crate) place: Place,
    /// It runs on the core of clients and upstreams, as what is asked by the one that is measured.
    pub(crate) is_beside: bool,
    /// Shown to clients and to other masters.
    certificate: Certificate,
    authority: PathBuf,
    list: PathBuf,
}

impl Master {
    /// So many, with their files in `dir`. The first runs on the servers' core, the others beside it.
    pub(crate) fn several(count: u8, dir: &Path) -> Result<Vec<Self>> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key)?.pem();
        let (authority, list) = (dir.join("ca.crt"), dir.join("masters"));
        fs::write(&authority, pem).context("write the authority")?;
        let issuer = Issuer::new(params, key);
        let trusted = Certificate { cert_file: authority.clone(), key_file: PathBuf::new() }.client(false)?;
        let mut masters = Vec::new();
        for number in 1..=count {
            let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, number), free_port()?));
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![SanType::IpAddress(address.ip()), SanType::URI(PEER.try_into()?)];
            let certificate = Certificate {
                cert_file: dir.join(format!("master-{number}.crt")),
                key_file: dir.join(format!("master-{number}.key")),
            };
            fs::write(&certificate.cert_file, params.signed_by(&key, &issuer)?.pem()).context("write a certificate")?;
            fs::write(&certificate.key_file, key.serialize_pem()).context("write a key")?;
            let place = Place { address, tls: Some(trusted.clone()) };
            let is_beside = number > 1;
            let (authority, list) = (authority.clone(), list.clone());
            masters.push(Self { address, place, is_beside, certificate, authority, list });
        }
        let lines: Vec<String> = masters.iter().map(|master| format!("{}\n", master.address)).collect();
        fs::write(&list, lines.concat()).context("write the list of masters")?;
        Ok(masters)
    }

    /// Lines of its configuration.
    pub(super) fn keys(&self) -> String {
        let Certificate { cert_file, key_file } = &self.certificate;
        let (cert, key) = (cert_file.display(), key_file.display());
        format!(
            "tls: {{ certFile: '{cert}', keyFile: '{key}' }}\nreplicas: {{ peers: '{}', certificate: '{cert}', key: '{key}', ca: '{}' }}\n",
            self.list.display(),
            self.authority.display()
        )
    }
}
