//! `node-proxy`'s list of masters, and `proxyEndpoints`, which is the same list.

use std::net::Ipv6Addr;

/// The registry's port on each master.
const PORT: u16 = 5001;

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
#[must_use]
pub fn read_list_file(file: &str) -> Vec<String> {
    let lines = file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}
