//! Classes of addresses: where an upstream may send us.
//!
//! An upstream on the internet that redirects to an address of the inside, or to the machine itself, is a broken or a
//! hostile one (server-side request forgery). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far an address reaches; the more internal, the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AddressClass {
    /// The machine itself, its link or its hypervisor; also what is no address of one host.
    Own,
    /// RFC 1918, RFC 6598, RFC 4193, RFC 2544, RFC 8215; all that is not globally reachable (IANA's special-purpose
    /// registries), and tunnels and translations that lead to what nobody here can judge.
    Private,
    /// The internet.
    Public,
}

impl AddressClass {
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::of_v4(v4),
            IpAddr::V6(v6) => match Translated::of(v6) {
                Some(Translated::Same(v4)) => Self::of_v4(v4),
                // A tunnel or a translator of the local network: never the internet, and not further than it leads.
                Some(Translated::Local(inner)) => {
                    inner.into_iter().map(Self::of_v4).fold(Self::Private, |class, inner| class.min(inner))
                }
                None => Self::of_v6(v6),
            },
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        let [a, b, c, _] = address.octets();
        if a == 0 || address.is_loopback() || address.is_link_local() || a >= 224 || address == WIRE_SERVER {
            return Self::Own;
        }
        let shared = a == 100 && (64..128).contains(&b);
        let benchmark = a == 198 && (18..20).contains(&b);
        // IETF protocol assignments, and the anycast address of 6to4 relays.
        let special = matches!((a, b, c), (192, 0, 0) | (192, 88, 99));
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
        let [first, second, third, ..] = address.segments();
        // What IANA gave out for global unicast is 2000::/3; 2001::/23 is for protocols (benchmarks, ORCHID).
        let global = first & 0xe000 == 0x2000;
        let protocols = first == 0x2001 && second < 0x200 && !(second == 1 && third == 0);
        if global && !protocols { Self::Public } else { Self::Private }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Own => "loopback or link-local",
            Self::Private => "private",
            Self::Public => "public",
        }
    }
}

/// Azure's host, by a public address: hands out a machine's goal state with its certificates.
const WIRE_SERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// The IPv4 addresses that an IPv6 address leads to.
enum Translated {
    /// It is that host, written otherwise.
    Same(Ipv4Addr),
    /// It may be one of these, by a tunnel or by a translator of the local network.
    Local(Vec<Ipv4Addr>),
}

impl Translated {
    fn of(address: Ipv6Addr) -> Option<Self> {
        let bytes = address.octets();
        let v4 = |at: [usize; 4]| Ipv4Addr::from(at.map(|at| bytes[at]));
        let last = v4([12, 13, 14, 15]);
        match address.segments() {
            // ::1 and :: are addresses of their own.
            [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
            // Compatible (deprecated), mapped, translated (RFC 4291, RFC 2765), NAT64 (RFC 6052).
            [0, 0, 0, 0, 0, 0 | 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
                Some(Self::Same(last))
            }
            // NAT64 of the local network (RFC 8215): where in it the IPv4 address stands is the network's choice
            // (RFC 6052, 2.2). Zeroes there are no address but the rest of another form.
            [0x64, 0xff9b, 1, ..] => {
                let places = [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], [12, 13, 14, 15]].map(v4);
                Some(Self::Local(places.into_iter().filter(|v4| v4.octets()[0] != 0).collect()))
            }
            // 6to4 (RFC 3056).
            [0x2002, ..] => Some(Self::Local(vec![v4([2, 3, 4, 5])])),
            // Teredo (RFC 4380): the server, and the client with its bits turned over.
            [0x2001, 0, ..] => {
                Some(Self::Local(vec![v4([4, 5, 6, 7]), Ipv4Addr::from(last.octets().map(|byte| !byte))]))
            }
            // ISATAP (RFC 5214), below any prefix.
            [_, _, _, _, 0 | 0x200, 0x5efe, _, _] => Some(Self::Local(vec![last])),
            _ => None,
        }
    }
}

/// IPv4 addresses where clouds hand out the secrets of a machine: the common one and its neighbours (AWS's name server
/// and clock), AWS's for containers, Scaleway, Tencent, Azure, Alibaba, Oracle's old one.
fn is_metadata_v4(address: Ipv4Addr) -> bool {
    match address.octets() {
        [169, 254, 169 | 170, _] | [169, 254, 42, 42] | [169, 254, 0, 23] => true,
        [100, 100, 100, 200] | [192, 0, 0, 192] => true,
        _ => address == WIRE_SERVER,
    }
}

/// The same in IPv6.
const METADATA_V6: [Ipv6Addr; 7] = [
    // AWS: machines, and containers of EKS.
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    // GCE.
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    // Oracle.
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    // Scaleway, Linode, OpenStack.
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
];

/// Names of the same.
const METADATA_NAMES: [&str; 8] = [
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "metadata.azure.internal",
    "metadata.tencentyun.com",
    "metadata.packet.net",
    "instance-data",
    "instance-data.ec2.internal",
];

/// Whether clouds hand out the secrets of a machine at the address, however it is written.
pub(super) fn is_metadata(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_metadata_v4(v4),
        IpAddr::V6(v6) => {
            let inner = match Translated::of(v6) {
                Some(Translated::Same(v4)) => vec![v4],
                Some(Translated::Local(all)) => all,
                None => Vec::new(),
            };
            METADATA_V6.contains(&v6) || inner.into_iter().any(is_metadata_v4)
        }
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
    if METADATA_NAMES.contains(&name.as_str()) {
        return Err(AddressRefused(format!("{name} is where a cloud hands out the secrets of a machine")));
    }
    let loopback = matches!(name.as_str(), "localhost" | "localhost.localdomain" | "ip6-localhost" | "ip6-loopback");
    if (loopback || name.ends_with(".localhost")) && own > AddressClass::Own {
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
        for reserved in
            ["192.0.0.9", "192.88.99.1", "fec0::1", "2001:2::1", "2001:10::1", "100::1", "5f00::1", "4000::1"]
        {
            assert_eq!(class(reserved), AddressClass::Private, "{reserved}");
        }
        assert_eq!(class("168.63.129.16"), AddressClass::Own);
    }

    #[test]
    fn an_ipv4_address_has_its_class_however_it_is_written() {
        // The same host in another spelling.
        for (v4, of) in [("10.0.0.1", "a00:1"), ("127.0.0.1", "7f00:1"), ("8.8.8.8", "808:808")] {
            for prefix in ["::ffff:", "::ffff:0:", "64:ff9b::", "::"] {
                let v6 = format!("{prefix}{of}");
                assert_eq!(class(&v6), class(v4), "{v6}");
            }
        }
        // Tunnels and local translators are internal whatever they lead to, and more so if that is more so.
        for internal in
            ["2002:808:808::1", "2001:0:808:808::f7f7:f7f7", "64:ff9b:1::808:808", "2001:db8::200:5efe:808:808"]
        {
            assert_eq!(class(internal), AddressClass::Private, "{internal}");
        }
        for own in ["2002:7f00:1::1", "2001:0:808:808::80ff:fffe", "64:ff9b:1::7f00:1", "64:ff9b:1:7f00:0:100::"] {
            assert_eq!(class(own), AddressClass::Own, "{own}");
        }
    }

    #[test]
    fn only_outwards_and_never_to_metadata() {
        let may = |target: &str, own| check(target.parse().unwrap(), own).is_ok();
        assert!(may("8.8.8.8", AddressClass::Public) && may("8.8.8.8", AddressClass::Own));
        assert!(may("10.1.1.1", AddressClass::Private) && !may("10.1.1.1", AddressClass::Public));
        assert!(may("127.0.0.1", AddressClass::Own) && !may("127.0.0.1", AddressClass::Private));
        for metadata in [
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "168.63.129.16",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::168.63.129.16",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:0:a9:fea9:fe00:0",
            "2002:a9fe:a9fe::1",
            "2001:0:808:808::5601:5601",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fe80::a9fe:a9fe",
        ] {
            assert!(!may(metadata, AddressClass::Own), "{metadata}");
        }
        assert!(check_name("LOCALHOST.", AddressClass::Public).is_err());
        assert!(check_name("localhost", AddressClass::Own).is_ok());
        for name in ["metadata.google.internal", "Metadata.goog.", "instance-data"] {
            assert!(check_name(name, AddressClass::Own).is_err(), "{name}");
        }
    }
}
