//! The one address on which the coordinator listens: the loopback if all workers are on this host, else the one that the other hosts
//! see. A host's own name is no help there: on many clusters it resolves to the loopback or to another network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use anyhow::{Context, bail};
use common::place::same_host;
use nix::ifaddrs::getifaddrs;

/// The address for workers on `hosts`, on this host if there are none. `wish` names an interface or an address.
pub(super) fn choose(wish: Option<&str>, hosts: &[String], own: &str) -> anyhow::Result<IpAddr> {
    if let Some(wish) = wish {
        return named(wish);
    }
    let others = hosts.iter().filter(|host| !same_host(host, own));
    let mut problem = None;
    for host in others.take(3) {
        match towards(host) {
            Ok(address) if !address.is_loopback() => return Ok(address),
            Ok(address) => problem = Some(anyhow::anyhow!("the way to {host} leads over {address}; set cluster.interface")),
            Err(error) => problem = Some(error),
        }
    }
    problem.map_or(Ok(Ipv4Addr::LOCALHOST.into()), Err)
}

/// The address of this host from which packets to `host` leave. Nothing is sent.
fn towards(host: &str) -> anyhow::Result<IpAddr> {
    let unknown = || format!("cannot find the host {host}; set cluster.interface to the network that the hosts share");
    let address = (host, 9_u16).to_socket_addrs().with_context(unknown)?.next().with_context(unknown)?;
    let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address).with_context(|| format!("there is no way to {host}"))?;
    Ok(socket.local_addr()?.ip())
}

fn named(wish: &str) -> anyhow::Result<IpAddr> {
    if let Ok(address) = wish.parse() {
        return Ok(address);
    }
    let mut names = Vec::new();
    for interface in getifaddrs().context("cannot list the network interfaces")? {
        let address = interface.address.as_ref();
        let v4 = address.and_then(|address| address.as_sockaddr_in()).map(|address| IpAddr::from(address.ip()));
        let v6 = address.and_then(|address| address.as_sockaddr_in6()).map(|address| IpAddr::from(address.ip()));
        let Some(found) = v4.or(v6) else { continue };
        if interface.interface_name == wish {
            return Ok(found);
        }
        names.push(interface.interface_name);
    }
    names.sort_unstable();
    names.dedup();
    bail!("cluster.interface = \"{wish}\": this host has no such interface or address, but {}", names.join(", "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn alone_it_is_the_loopback_and_a_wish_is_taken_or_answered_with_what_there_is() {
        let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
        assert_eq!(choose(None, &[], "me").unwrap(), loopback);
        assert_eq!(choose(None, &["me".into()], "me.cluster.local").unwrap(), loopback);
        assert_eq!(choose(Some("lo"), &[], "me").unwrap(), loopback);
        assert_eq!(choose(Some("10.9.8.7"), &[], "me").unwrap().to_string(), "10.9.8.7");
        let text = choose(Some("ib7"), &[], "me").unwrap_err().to_string();
        assert!(text.contains("cluster.interface = \"ib7\"") && text.contains("lo"), "{text}");
        let text = choose(None, &["no-such-host.invalid".into()], "me").unwrap_err().to_string();
        assert!(text.contains("cannot find the host no-such-host.invalid"), "{text}");
    }
}
