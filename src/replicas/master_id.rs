//! The short name of a master in what clients are given: that of an upload that began there.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::Replicas;
use crate::oci::Algorithm;
use crate::upstream::Upstream;
use crate::values::Target;

/// Digits of the name.
const DIGITS: usize = 8;

/// Names a master of the list by its address: 8 hexadecimal digits, whatever its place in the list is. It proves nothing and is
/// only ever compared with those of the list in force, so nobody can have a master ask somewhere else by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MasterId(u32);

/// The text is no master's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a master's id")]
pub struct InvalidMasterId;

impl MasterId {
    /// Of a server in the list. The port plays no part: a master has one server.
    #[must_use]
    pub fn of(target: &Target) -> Self {
        Self::of_host(target.host())
    }

    fn of_host(host: &str) -> Self {
        let host = match host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().to_string(),
            Err(_) => host.to_ascii_lowercase(),
        };
        let digest = Algorithm::Sha256.digest(format!("d8-registry master {host}").as_bytes());
        // Sixty-four hexadecimal digits follow the algorithm's name.
        let text = digest.to_string();
        let digits = text.rsplit_once(':').and_then(|(_, hex)| hex.get(..DIGITS)).unwrap_or_default();
        Self(u32::from_str_radix(digits, 16).unwrap_or_default())
    }
}

impl FromStr for MasterId {
    type Err = InvalidMasterId;

    fn from_str(text: &str) -> Result<Self, InvalidMasterId> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != DIGITS || !text.bytes().all(is_digit) {
            return Err(InvalidMasterId);
        }
        u32::from_str_radix(text, 16).map(Self).map_err(|_| InvalidMasterId)
    }
}

impl fmt::Display for MasterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl Replicas {
    /// This master's own, while there are others that could hear of it.
    #[must_use]
    pub fn own_id(&self) -> Option<MasterId> {
        let group = self.0.group.load();
        group.own.filter(|_| !group.peers.is_empty())
    }

    /// The way to another master of the list in force.
    #[must_use]
    pub fn peer(&self, id: MasterId) -> Option<Upstream> {
        let group = self.0.group.load();
        let is_it = |peer: &&Upstream| peer.host().parse().is_ok_and(|target| MasterId::of(&target) == id);
        group.peers.iter().find(is_it).filter(|_| group.own != Some(id)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> MasterId {
        MasterId::of(&text.parse().unwrap())
    }

    #[test]
    fn a_master_has_one_name_however_its_address_is_written() {
        assert_eq!(id("10.0.0.1:5001"), id("10.0.0.1:5002"));
        assert_eq!(id("[fd00::1]:5001"), id("[fd00:0:0::1]:5001"));
        assert_ne!(id("10.0.0.1:5001"), id("10.0.0.2:5001"));
    }

    #[test]
    fn only_what_is_written_so_is_one() {
        let id = id("10.0.0.1:5001");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "1234567", "123456789", "ABCDEF01", "+1234567", "0x123456", "1234567g", "12345 78", "é234567"]
        {
            assert_eq!(text.parse::<MasterId>(), Err(InvalidMasterId), "{text}");
        }
    }
}
