//! What is written, read by the parts of this program that get it: the server and `node-config`.

use std::time::Duration;

use super::{anonymous, login};
use crate::config;
use crate::node_config::NodeConfig;
use crate::switch::documents::{BashibleConfig, Coming, ModeFile, Phase, Plane, ServerMode};
use crate::switch::inputs;
use crate::switch::outputs::{InCluster, hosts};
use crate::switch::record::NodePlan;
use crate::switch::settings::{Params, Upstream};
use crate::values::Scheme;

/// A certificate signed by itself, CN `example`.
const CA: &str = include_str!("ca.crt");

fn upstream() -> Upstream {
    let login = Some(login("license-token", "a<b>&c\"d\\é: #"));
    let images_repo = "registry.example.com:5000/deckhouse/ee".to_owned();
    Upstream { images_repo, scheme: Scheme::Https, ca: Some(CA.to_owned()), login }
}

fn all() -> [Params; 5] {
    [
        Params::Direct(upstream()),
        Params::Proxy { upstream: upstream(), ttl: Duration::from_secs(168 * 3600) },
        Params::Proxy { upstream: anonymous("registry.example.com/a"), ttl: Duration::ZERO },
        Params::Local,
        Params::Unmanaged(Some(upstream())),
    ]
}

#[test]
fn a_server_reads_the_mode_file_and_reports_its_hash() {
    for (generation, params) in (1..).zip(all()) {
        let in_force = ServerMode::of(&params);
        let is_unmanaged = in_force == ServerMode::Unmanaged;
        let previous = vec![ServerMode::Local, ServerMode::Direct(upstream())];
        let previous = if is_unmanaged { Vec::new() } else { previous };
        let coming = Some(Coming { mode: ServerMode::Local, phase: Phase::Ready });
        let written = ModeFile { generation, plane: Plane { in_force, coming, previous } };
        let read = config::ModeFile::parse(written.render().expose().as_bytes()).unwrap();
        assert_eq!((read.generation, &read.hash), (generation, &written.hash()));
        assert_eq!(read.in_force.as_str(), params.target().as_str());
        assert_eq!(read.previous().len(), written.plane.previous.len());
        for (username, password) in read.logins() {
            let login = upstream().login.unwrap();
            assert_eq!((username, password), (login.username.as_str(), &login.password));
        }
        assert_eq!(
            read.logins().count(),
            usize::from(params.upstream().is_some_and(|up| up.login.is_some()) && !is_unmanaged)
                + usize::from(!is_unmanaged)
        );
    }
}

#[test]
fn node_config_reads_what_nodes_get() {
    let in_cluster = InCluster { ca: CA.to_owned(), ro: login("ro", "hunter2") };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.yaml");
    for kept in all() {
        for with in all() {
            let plan = NodePlan { kept: hosts(&kept, Some(&in_cluster)).unwrap(), with: Some(with) };
            let config = BashibleConfig::of(&plan, Some(&in_cluster), &["10.0.0.1".to_owned()]).unwrap();
            for containerd in ["", "containerd: {version: v2, extensions: true}\n"] {
                let text = config.to_secret().data["config"].expose().to_owned() + containerd;
                std::fs::write(&file, text).unwrap();
                NodeConfig::load(&file).unwrap();
            }
        }
    }
}

/// What passes the rules of the settings passes those of the mode file too: a server never refuses what was accepted.
#[test]
fn settings_that_are_valid_make_a_mode_file_that_is() {
    for section in [
        serde_json::json!({"imagesRepo": "registry.example.com/a", "license": "key"}),
        serde_json::json!({"imagesRepo": "registry.example.com", "scheme": "HTTP", "username": "u", "password": "\"\\:{}[]#&*!|>'%@`"}),
        serde_json::json!({"imagesRepo": "10.0.0.1:65535/A_b.c-d/e", "ca": CA}),
        serde_json::json!({"imagesRepo": "-.-/_", "ttl": "5m"}),
    ] {
        let registry = serde_json::json!({"mode": "Proxy", "proxy": section});
        for reading in [inputs::read_module_config(Some(&registry)), inputs::read_file(&registry)] {
            let in_force = ServerMode::of(&reading.settings.unwrap().params);
            let file = ModeFile { generation: 1, plane: Plane { in_force, coming: None, previous: Vec::new() } };
            config::ModeFile::parse(file.render().expose().as_bytes()).unwrap();
        }
    }
}
