//! ConfigMap `d8-registry-masters`: `node-proxy`'s list of masters, which `proxyEndpoints` are too, and node-agent's word that bare
//! Unmanaged is settled.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use super::names;
use crate::switch::documents::MastersMap;

/// The registry's port on each master.
const PORT: u16 = 5001;

impl MastersMap {
    /// The data of the ConfigMap; `None`: the key goes.
    #[must_use]
    pub fn data(&self) -> BTreeMap<String, Option<String>> {
        let backends = Some(list_file(&self.backends));
        BTreeMap::from([
            (names::MASTERS_KEY.to_owned(), backends),
            (names::SETTLED_KEY.to_owned(), self.settled.clone()),
        ])
    }

    /// Reads the data of the ConfigMap.
    ///
    /// # Errors
    /// A sentence.
    pub fn read(data: &BTreeMap<String, String>) -> Result<Self, String> {
        let key = names::MASTERS_KEY;
        let backends = data.get(key).ok_or_else(|| format!("key {key} is missing"))?;
        Ok(Self { backends: read_list_file(backends), settled: data.get(names::SETTLED_KEY).cloned() })
    }
}

/// `address:5001` of each master, sorted, none twice.
#[must_use]
pub fn endpoints(addresses: &[String]) -> Vec<String> {
    let with_port = |address: &String| match address.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]:{PORT}"),
        Err(_) => format!("{address}:{PORT}"),
    };
    let mut endpoints: Vec<String> = addresses.iter().map(with_port).collect();
    endpoints.sort();
    endpoints.dedup();
    endpoints
}

/// The file that `node-proxy` follows, one endpoint a line.
#[must_use]
pub fn list_file(endpoints: &[String]) -> String {
    let mut file = String::from("# The registry on the masters; written by d8-registry controller.\n");
    for endpoint in endpoints {
        file.push_str(endpoint);
        file.push('\n');
    }
    file
}

/// The endpoints in such a file.
fn read_list_file(file: &str) -> Vec<String> {
    let lines = file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}
