//! Rules across keys: who can reach the server, and what that demands.

use super::definition::wrong;
use super::error::KeyError;
use super::images_repo::is_own;
use super::origin::Origin;
use super::{Address, Anonymous, Config, EndpointSettings, Mode, Tls};

/// Decides whether the server is open and refuses what contradicts itself. Idempotent, so that a mixture of old
/// and new keys can be checked again.
pub(super) fn check(config: &mut Config) -> Result<(), KeyError> {
    no_address_twice(config)?;
    upstream_is_another(config)?;
    retention_needs_pins(config)?;
    replicas_are_whole(config)?;
    decide_access(config)?;
    passwords_need_tls(config)
}

fn no_address_twice(config: &Config) -> Result<(), KeyError> {
    let all =
        [("listen", &config.listen), ("adminListen", &config.admin_listen), ("probeListen", &config.probe_listen)];
    for (key, wide) in all.iter().flat_map(|(key, list)| list.iter().map(move |address| (*key, address))) {
        let narrow = all.iter().flat_map(|(_, list)| list.iter()).find(|narrow| covers(*wide, **narrow));
        if let Some(narrow) = narrow {
            return Err(wrong(
                key,
                format!("{wide} is every address of this machine, {narrow} too; leave one of the two out"),
            ));
        }
    }
    let among = |list: &[Address], others: &[Address]| {
        list.iter().copied().find(|address| address.0.port() != 0 && others.contains(address))
    };
    for (key, list, other, others) in [
        ("adminListen", &config.admin_listen, "listen", &config.listen),
        ("probeListen", &config.probe_listen, "listen", &config.listen),
        ("probeListen", &config.probe_listen, "adminListen", &config.admin_listen),
    ] {
        if let Some(address) = among(list, others) {
            return Err(wrong(key, format!("{address} is an address of {other} already")));
        }
    }
    Ok(())
}

/// Whether a socket at `wide` takes what `narrow` wants to listen on: one of them could not be bound, or would be there
/// and get nothing. Both kinds of "every address" go together, the one of IPv6 leaves the other to it.
fn covers(wide: Address, narrow: Address) -> bool {
    let (all, one) = (wide.0.ip(), narrow.0.ip());
    let families = all.is_ipv6() || one.to_canonical().is_ipv4();
    let same_port = wide.0.port() == narrow.0.port() && wide.0.port() != 0;
    same_port && all.is_unspecified() && !one.is_unspecified() && families
}

/// What runs is never dropped, so it has to be known.
fn retention_needs_pins(config: &Config) -> Result<(), KeyError> {
    let key = match (&config.retention.releases.keep, &config.retention.rules[..]) {
        (None, []) => return Ok(()),
        (Some(_), _) => "retention.releases.keep",
        (None, [..]) => "retention.rules",
    };
    if config.store.pins.is_some() {
        return Ok(());
    }
    let message = "needs store.pins, the file that names what the cluster runs: nothing is removed without it";
    Err(wrong(key, message))
}

/// Masters know each other by certificates, so each of the keys needs the others, and TLS.
fn replicas_are_whole(config: &Config) -> Result<(), KeyError> {
    let replicas = &config.replicas;
    let keys = [
        ("replicas.peers", &replicas.peers),
        ("replicas.certificate", &replicas.certificate),
        ("replicas.key", &replicas.key),
        ("replicas.ca", &replicas.ca),
    ];
    let Some((given, _)) = keys.iter().find(|(_, file)| file.is_some()) else { return Ok(()) };
    if let Some((lacking, _)) = keys.iter().find(|(_, file)| file.is_none()) {
        return Err(wrong(given, format!("needs {lacking} too")));
    }
    if matches!(config.tls, Tls::Off { .. }) {
        let message = "needs tls.certFile and tls.keyFile: masters know each other by their certificates";
        return Err(wrong(given, message));
    }
    Ok(())
}

/// A server that asks itself would answer nobody.
fn upstream_is_another(config: &Config) -> Result<(), KeyError> {
    let message = "this server's own address; name the registry behind it";
    if let Some(mirror) = config.upstream_routes.own_mirror(&config.listen) {
        return Err(wrong(&format!("{mirror}.imagesRepo"), message));
    }
    let Some(upstream) = config.upstream.as_ref().filter(|_| config.mode.has_upstream()) else { return Ok(()) };
    let own = |endpoint: &EndpointSettings| is_own(&endpoint.host, endpoint.scheme, &config.listen);
    if own(&upstream.endpoint) {
        return Err(wrong("upstream.imagesRepo", message));
    }
    match upstream.mirrors.iter().position(own) {
        Some(index) => Err(wrong(&format!("upstream.mirrors[{index}].imagesRepo"), message)),
        None => Ok(()),
    }
}

/// An address that others can reach, if there is one.
fn exposed(addresses: &[Address]) -> Option<Address> {
    addresses.iter().copied().find(|address| !address.is_loopback())
}

fn decide_access(config: &mut Config) -> Result<(), KeyError> {
    let said = config.origins.of("auth.anonymous") != Origin::Default;
    if !said {
        config.auth.anonymous = Anonymous::None;
    }
    if config.has_users() || config.auth.anonymous != Anonymous::None {
        return Ok(());
    }
    if said {
        let message = "none, and there are no users: nobody could use the server; add users, \
                       or leave the key out for a server that is open to this machine alone";
        return Err(wrong("auth.anonymous", message));
    }
    let outside = exposed(&config.listen).map(|address| ("listen", address));
    match outside.or_else(|| exposed(&config.admin_listen).map(|address| ("adminListen", address))) {
        None => {
            config.auth.anonymous = Anonymous::Push;
            Ok(())
        }
        Some((key, address)) if config.mode == Mode::Direct && config.auth.upstream_user => {
            let message = format!(
                "{address} is no loopback address, and the upstream is asked without credentials, so clients have \
                 none to sign in with here: set auth.anonymous: pull, or auth.users or auth.usersDir"
            );
            Err(wrong(key, message))
        }
        Some((key, address)) => {
            let message = format!(
                "{address} is no loopback address: the server needs auth.users, auth.usersDir or auth.anonymous there"
            );
            Err(wrong(key, message))
        }
    }
}

fn passwords_need_tls(config: &Config) -> Result<(), KeyError> {
    let plain = matches!(config.tls, Tls::Off { forced: false });
    match exposed(&config.listen) {
        Some(address) if plain && config.has_users() => {
            let message = format!(
                "passwords would cross the network readable at {address}: set tls.certFile and tls.keyFile, \
                 or tls.disabled: true if something else encrypts"
            );
            Err(wrong("listen", message))
        }
        _ => Ok(()),
    }
}
