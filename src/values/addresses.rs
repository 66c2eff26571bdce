//! Lists of addresses as the command line has them. The file has lists of its own.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::{Address, InvalidValue};

/// Addresses of one port, `10.0.0.1,fd00::1:5001`: IPs separated by commas as Kubernetes' `status.hostIPs` has them, then the port. One
/// address as [`Address`] has it is such a list too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(pub Vec<Address>);

impl FromStr for Addresses {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let one = text.parse().map(|address| Self(vec![address]));
        let Some((ips, port)) = text.rsplit_once(':').filter(|_| one.is_err()) else { return one };
        let Ok(port) = port.parse() else { return one };
        let ips: Result<Vec<IpAddr>, _> = ips.split(',').map(str::parse).collect();
        match ips {
            Ok(ips) => Ok(Self(ips.into_iter().map(|ip| Address(SocketAddr::new(ip, port))).collect())),
            Err(_) => one,
        }
    }
}
