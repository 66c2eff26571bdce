//! Which mirrors a node asks for the images of a mode.

use crate::switch::documents::{FIXED_HOST, Hosts, Mirror, NODE_HOST, Rewrite};
use crate::switch::settings::{Login, Params, Upstream};
use crate::values::Scheme;

/// What the registry inside of the cluster is asked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InCluster {
    /// PEM of the authority that signed its certificates.
    pub ca: String,
    /// User `ro`.
    pub ro: Login,
}

impl InCluster {
    /// Who asks in Direct: the upstream's user, as in Deckhouse; an upstream that asks nobody leaves `ro`, because this
    /// registry answers nobody without a name.
    pub(super) fn login_of<'a>(&'a self, upstream: &'a Upstream) -> &'a Login {
        upstream.login.as_ref().unwrap_or(&self.ro)
    }

    fn mirror(&self, login: &Login) -> Mirror {
        Mirror {
            host: NODE_HOST.to_owned(),
            scheme: Scheme::Https,
            ca: Some(self.ca.clone()),
            login: Some(login.clone()),
            rewrites: Vec::new(),
        }
    }
}

/// The mirrors of a mode, each host's in the order in which they are asked. Bare Unmanaged has none. `None`: the mode needs
/// the registry inside of the cluster, and `in_cluster` is not known.
///
/// In Direct a containerd that can rewrite names asks the upstream itself and, if that fails, the registry inside of the
/// cluster, which all others ask alone.
#[must_use]
pub fn hosts(params: &Params, in_cluster: Option<&InCluster>) -> Option<Hosts> {
    let (host, mirrors) = match params {
        Params::Direct(upstream) => {
            let in_cluster = in_cluster?;
            let mut direct = of_upstream(upstream);
            let path = upstream.path();
            direct.rewrites.push(Rewrite { from: "^system/deckhouse".to_owned(), to: path.to_owned() });
            (FIXED_HOST.to_owned(), vec![direct, in_cluster.mirror(in_cluster.login_of(upstream))])
        }
        Params::Proxy { .. } | Params::Local => {
            let in_cluster = in_cluster?;
            (FIXED_HOST.to_owned(), vec![in_cluster.mirror(&in_cluster.ro)])
        }
        Params::Unmanaged(Some(upstream)) => (upstream.host().to_owned(), vec![of_upstream(upstream)]),
        Params::Unmanaged(None) => return Some(Hosts::new()),
    };
    Some(Hosts::from([(host, mirrors)]))
}

/// Both, the older ones first. A newer mirror takes the place of an older one with the same scheme and host.
#[must_use]
pub fn merged(older: &Hosts, newer: &Hosts) -> Hosts {
    let mut all = older.clone();
    for (host, mirrors) in newer {
        let known = all.entry(host.clone()).or_default();
        for mirror in mirrors {
            let same = known.iter_mut().find(|old| old.host == mirror.host && old.scheme == mirror.scheme);
            match same {
                Some(old) => old.clone_from(mirror),
                None => known.push(mirror.clone()),
            }
        }
    }
    all
}

fn of_upstream(upstream: &Upstream) -> Mirror {
    Mirror {
        host: upstream.host().to_owned(),
        scheme: upstream.scheme,
        ca: upstream.ca.clone(),
        login: upstream.login.clone(),
        rewrites: Vec::new(),
    }
}
