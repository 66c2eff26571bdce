//! Over real sockets.

use super::proxy::{Proxies, ProxyVariables};

pub(super) fn no_proxies() -> Proxies {
    Proxies::new(&ProxyVariables::default()).unwrap()
}
