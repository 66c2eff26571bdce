//! Classes of addresses: where an upstream may send us.
//!
//! An upstream on the internet that redirects to an address of the inside, or to the machine itself, is a broken or a
//! hostile one (server-side request forgery). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far an address reaches; the more internal, the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AddressClass {
    /// The machine itself or its link; also what is no address of one host.
    Own,
    /// RFC 1918, RFC 6598, RFC 4193, RFC 2544.
    Private,
    /// The internet.
    Public,
}

impl AddressClass {
    pub(super) fn of(address: IpAddr) -> Self {
        match plain(address) {
            IpAddr::V4(v4) => Self::of_v4(v4),
            IpAddr::V6(v6) => Self::of_v6(v6),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        let [a, b, c, _] = address.octets();
        if a == 0 || address.is_loopback() || address.is_link_local() || a >= 224 {
            return Self::Own;
        }
        let shared = a == 100 && (64..128).contains(&b);
        let benchmark = a == 198 && (18..20).contains(&b);
        let special = (a, b, c) == (192, 0, 0);
        if address.is_private() || shared || benchmark || special { Self::Private } else { Self::Public }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        if address.is_unspecified()
            || address.is_loopback()
            || address.is_unicast_link_local()
            || address.is_multicast()
        {
            return Self::Own;
        }
        // Unique local, and the site-local range before it.
        let first = address.segments()[0];
        if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 { Self::Private } else { Self::Public }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Own => "loopback or link-local",
            Self::Private => "private",
            Self::Public => "public",
        }
    }
}

/// An IPv4 address that is written as an IPv6 one: mapped, or translated by NAT64 (RFC 6052).
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return v4.into();
    }
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            Ipv4Addr::new(a, b, c, d).into()
        }
        _ => address,
    }
}

/// Where clouds hand out the secrets of a machine.
pub(super) fn is_metadata(address: IpAddr) -> bool {
    match plain(address) {
        IpAddr::V4(v4) => {
            [[169, 254, 169, 254], [169, 254, 170, 2], [100, 100, 100, 200], [192, 0, 0, 192]].contains(&v4.octets())
        }
        IpAddr::V6(v6) => v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    }
}

/// Why a host was not gone to.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct AddressRefused(pub(super) String);

/// Whether an upstream of class `own` may send us to `address`.
pub(super) fn check(address: IpAddr, own: AddressClass) -> Result<(), AddressRefused> {
    if is_metadata(address) {
        return Err(AddressRefused(format!("{address} is where a cloud hands out the secrets of a machine")));
    }
    let class = AddressClass::of(address);
    if class >= own {
        return Ok(());
    }
    Err(AddressRefused(format!(
        "{address} is a {} address while the upstream's is {}; name the host in trustedHosts if that is right",
        class.as_str(),
        own.as_str()
    )))
}

/// The same for a name that we don't look up ourselves, because a proxy does.
pub(super) fn check_name(name: &str, own: AddressClass) -> Result<(), AddressRefused> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if name == "metadata.google.internal" || name == "metadata" {
        return Err(AddressRefused(format!("{name} is where a cloud hands out the secrets of a machine")));
    }
    if (name == "localhost" || name.ends_with(".localhost")) && own > AddressClass::Own {
        return Err(AddressRefused(format!("{name} is a loopback address while the upstream's is {}", own.as_str())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(text: &str) -> AddressClass {
        AddressClass::of(text.parse().unwrap())
    }

    #[test]
    fn addresses_have_the_class_that_the_standards_give_them() {
        for own in ["127.0.0.1", "127.9.9.9", "::1", "169.254.1.1", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"]
        {
            assert_eq!(class(own), AddressClass::Own, "{own}");
        }
        for private in ["10.0.0.1", "172.16.0.1", "172.31.9.9", "192.168.1.1", "100.64.0.1", "fd12::1", "198.18.0.1"] {
            assert_eq!(class(private), AddressClass::Private, "{private}");
        }
        for public in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111"] {
            assert_eq!(class(public), AddressClass::Public, "{public}");
        }
        assert_eq!(class("::ffff:10.0.0.1"), AddressClass::Private);
        assert_eq!(class("64:ff9b::7f00:1"), AddressClass::Own);
    }

    #[test]
    fn only_outwards_and_never_to_metadata() {
        let may = |target: &str, own| check(target.parse().unwrap(), own).is_ok();
        assert!(may("8.8.8.8", AddressClass::Public) && may("8.8.8.8", AddressClass::Own));
        assert!(may("10.1.1.1", AddressClass::Private) && !may("10.1.1.1", AddressClass::Public));
        assert!(may("127.0.0.1", AddressClass::Own) && !may("127.0.0.1", AddressClass::Private));
        for metadata in ["169.254.169.254", "::ffff:169.254.169.254", "100.100.100.200", "fd00:ec2::254"] {
            assert!(!may(metadata, AddressClass::Own), "{metadata}");
        }
        assert!(check_name("LOCALHOST.", AddressClass::Public).is_err());
        assert!(check_name("localhost", AddressClass::Own).is_ok());
        assert!(check_name("metadata.google.internal", AddressClass::Own).is_err());
    }
}
