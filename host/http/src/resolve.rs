//! Where a name may lead.
//!
//! The check is on the resolved address, and the connection goes to an address that passed: a name that leads elsewhere a
//! moment later (DNS rebinding) gains nothing.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Resolves names by the system, and keeps the addresses that may be reached.
#[derive(Debug, Clone)]
pub(crate) struct JudgedResolver {
    pub(crate) networks: Vec<IpNet>,
}

/// A name that leads nowhere that may be reached.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) found: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "it leads to {}, which is not allowed", self.found)
    }
}

impl std::error::Error for Refused {}

impl JudgedResolver {
    fn judge(&self, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Refused> {
        let (allowed, refused): (Vec<SocketAddr>, Vec<SocketAddr>) =
            found.into_iter().partition(|address| may_be_reached(address.ip(), &self.networks));
        if allowed.is_empty() && !refused.is_empty() {
            let found: Vec<String> = refused.iter().map(|address| address.ip().to_string()).collect();
            return Err(Refused { found: found.join(", ") });
        }
        Ok(allowed)
    }
}

impl Resolve for JudgedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let addresses: Addrs = Box::new(this.judge(found)?.into_iter());
            Ok(addresses)
        })
    }
}

/// Whether a name may lead to this address.
fn may_be_reached(address: IpAddr, networks: &[IpNet]) -> bool {
    // An IPv4 address in the clothes of an IPv6 one is the IPv4 address.
    let address = match address {
        IpAddr::V6(six) => inner(six).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    if networks.is_empty() { !is_near(address) } else { networks.iter().any(|network| network.contains(&address)) }
}

/// The IPv4 address that an IPv6 one stands for: mapped, compatible (but for `::` and `::1`), by NAT64 or by 6to4.
fn inner(six: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match six.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(of(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(of(high, low)),
        [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

/// Where clouds answer their own machines, beside the link-local address that most use.
const CLOUD_SERVICES: [Ipv4Addr; 3] =
    [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];

/// This machine itself, and what only this machine's link can mean.
fn is_near(address: IpAddr) -> bool {
    let link_local = |six: Ipv6Addr| six.segments()[0] & 0xffc0 == 0xfe80;
    match address {
        IpAddr::V4(four) => {
            four.is_loopback()
                || four.octets()[0] == 0
                || four.is_link_local()
                || four.is_multicast()
                || four.is_broadcast()
                || CLOUD_SERVICES.contains(&four)
        }
        // The second is where a cloud's metadata service is found by IPv6.
        IpAddr::V6(six) => {
            six.is_loopback()
                || six.segments()[..7] == [0xfd00, 0x0ec2, 0, 0, 0, 0, 0]
                || six.is_unspecified()
                || link_local(six)
                || six.is_multicast()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(address: &str, networks: &[&str]) -> bool {
        let networks: Vec<IpNet> = networks.iter().map(|text| text.parse().expect("a network")).collect();
        may_be_reached(address.parse().expect("an address"), &networks)
    }

    #[test]
    fn this_machine_and_its_link_are_not_reached_by_a_name() {
        let near = [
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "::127.0.0.1",
            "2002:7f00:1::1",
            "168.63.129.16",
            "::ffff:169.254.169.254",
        ];
        for address in near {
            assert!(!may(address, &[]), "{address}");
        }
        for address in ["10.0.0.1", "52.94.0.1", "2600:1f18::1", "fd00::1", "::ffff:10.0.0.1"] {
            assert!(may(address, &[]), "{address}");
        }
    }

    #[test]
    fn where_networks_are_named_nothing_else_is_reached() {
        assert!(may("10.1.2.3", &["10.1.0.0/16"]) && may("::ffff:10.1.2.3", &["10.1.0.0/16"]));
        assert!(!may("10.2.2.3", &["10.1.0.0/16"]) && !may("52.94.0.1", &["10.1.0.0/16"]));
        assert!(may("127.0.0.1", &["10.1.0.0/16", "127.0.0.0/8"]));
    }

    #[test]
    fn of_several_addresses_those_that_pass_are_kept() {
        let resolver = JudgedResolver { networks: Vec::new() };
        let found = |texts: &[&str]| texts.iter().map(|text| SocketAddr::new(text.parse().expect("one"), 0)).collect();
        assert_eq!(resolver.judge(found(&["127.0.0.1", "10.0.0.1"])).expect("one"), found(&["10.0.0.1"]));
        let refused = resolver.judge(found(&["127.0.0.1", "::1"])).expect_err("none");
        assert_eq!(refused.found, "127.0.0.1, ::1");
    }
}
