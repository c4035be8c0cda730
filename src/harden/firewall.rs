//! Rules for the host's firewall that shut a stack's network, as text that `nft` reads. They are shown and never
//! applied: a host's firewall belongs to its administrator.

use crate::adapters::docker::Engine;
use crate::error::{Error, Result};
use crate::stack::Stack;
use crate::stack::docker::Deployment;
use serde::Serialize;
use std::net::IpAddr;

/// Rules for one stack.
#[derive(Debug, Serialize)]
pub struct Firewall {
    /// The stack's network.
    pub network: String,
    /// The device of this host that the network is.
    pub bridge: String,
    /// What is to be loaded by `nft -f`.
    pub rules: String,
}

/// Whom the containers may connect to, outside of their network.
#[derive(Debug, Default)]
struct Allowed {
    v4: Vec<String>,
    v6: Vec<String>,
}

/// The rules for the network of `stack`, whose containers may connect to `outside` (addresses or CIDR blocks).
pub async fn firewall(stack: &Stack, outside: &[String]) -> Result<Firewall> {
    let allowed = Allowed::read(outside)?;
    let engine = Engine::find().await?;
    if engine.maps_users() {
        let what = format!("the networks of {} are not this host's", engine.name());
        return Err(Error::missing(what).hint(
            "A rootless engine has a network namespace of its own, where nobody else comes in.",
        ));
    }
    let deployment = Deployment::of(stack)?;
    let network = deployment.names.network();
    let Some(bridge) = engine.bridge_of(&network).await? else {
        let what = format!("there is no network {network} yet");
        return Err(Error::missing(what).hint("Start the stack first: k1ops start"));
    };
    let rules = rules(deployment.names.prefix(), &network, &bridge, &allowed);
    Ok(Firewall {
        network,
        bridge,
        rules,
    })
}

impl Allowed {
    fn read(outside: &[String]) -> Result<Self> {
        let mut allowed = Self::default();
        for text in outside {
            let wrong = || {
                Error::usage(format!("{text:?} is no address")).hint(
                    "Write an address or a block of them: 192.0.2.7, 192.0.2.0/24, 2001:db8::/32",
                )
            };
            let (address, length) = text.split_once('/').unwrap_or((text, ""));
            let address: IpAddr = address.parse().map_err(|_| wrong())?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            let length = match length {
                "" if text.contains('/') => return Err(wrong()),
                "" => longest,
                length => length.parse::<u8>().map_err(|_| wrong())?,
            };
            if length > longest {
                return Err(wrong());
            }
            let family = match address {
                IpAddr::V4(_) => &mut allowed.v4,
                IpAddr::V6(_) => &mut allowed.v6,
            };
            family.push(format!("{address}/{length}"));
        }
        Ok(allowed)
    }

    fn lines(&self) -> String {
        let line = |family: &str, blocks: &[String]| {
            if blocks.is_empty() {
                return String::new();
            }
            let blocks = blocks.join(", ");
            format!("        iifname $k1_network {family} daddr {{ {blocks} }} accept\n")
        };
        line("ip", &self.v4) + &line("ip6", &self.v6)
    }
}

fn rules(prefix: &str, network: &str, bridge: &str, allowed: &Allowed) -> String {
    // A name in nft has neither dots nor hyphens.
    let table: String = prefix
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    let table = format!("inet k1ops_{table}");
    let allowed = allowed.lines();
    format!(
        "\
# Shuts the network {network} ({bridge}). Nothing of this is applied by k1ops. It is in force until the next
# boot once it is loaded, and replaces what was loaded before:
#     k1ops harden --firewall | nft -f -
# To be there after a boot it belongs to what your firewall loads. To take it away:
#     nft delete table {table}

define k1_network = \"{bridge}\"

# So that the next line has something to delete.
table {table}
delete table {table}
table {table} {{
    chain forward {{
        type filter hook forward priority filter - 5; policy accept;
        ct state established,related accept
        iifname $k1_network oifname $k1_network accept
        # Nobody comes in from another host or network, by any address. This host itself does not come this way.
        oifname $k1_network counter drop
        # Containers connect to nobody outside, but to those that --allow-out names.
{allowed}        iifname $k1_network counter drop
    }}
    chain input {{
        type filter hook input priority filter - 5; policy accept;
        # Nor do they connect to what listens on this host.
        ct state established,related accept
{allowed}        iifname $k1_network counter drop
    }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_anything_else_is_not() {
        let given = ["192.0.2.7", "10.0.0.0/8", "2001:db8::/32", "::1"].map(str::to_owned);
        let allowed = Allowed::read(&given).unwrap();
        assert_eq!(allowed.v4, ["192.0.2.7/32", "10.0.0.0/8"]);
        assert_eq!(allowed.v6, ["2001:db8::/32", "::1/128"]);
        for wrong in [
            "",
            "host",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/8; flush ruleset",
        ] {
            assert!(Allowed::read(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_who_is_named_may_be_connected_to() {
        let shut = rules(
            "k1-a.b",
            "k1-network",
            "br-0123456789ab",
            &Allowed::default(),
        );
        assert!(shut.contains("table inet k1ops_k1_a_b {"), "{shut}");
        assert!(!shut.contains("daddr"), "{shut}");
        let named = Allowed::read(&["192.0.2.7".to_owned()]).unwrap();
        let open = rules("k1", "k1-network", "br-0123456789ab", &named);
        assert_eq!(open.matches("ip daddr { 192.0.2.7/32 } accept").count(), 2);
    }
}
