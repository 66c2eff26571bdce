//! Who is answered as a master, what, and as long as the list says so.

use std::collections::HashSet;

use super::*;
use crate::support::{Upstream, coming, mode, mode_file};

const PEER: &str = "/-/peer";

/// Writes a master's mode file and waits until it is in force.
pub(super) async fn into_force(masters: &Masters, master: usize, generation: u64, file: &str) {
    let folder = masters.at(master).folder();
    std::fs::write(folder.path().join("mode.new"), file).unwrap();
    std::fs::rename(folder.path().join("mode.new"), folder.path().join("mode.yaml")).unwrap();
    masters.at(master).signal(Signal::HUP);
    within(async {
        loop {
            let told: serde_json::Value = masters.at(master).admin().get("/status").await.json().await.unwrap();
            if told["modeFile"]["generation"] == generation {
                break;
            }
        }
    })
    .await;
}

fn peer_names(master: usize) -> Vec<SanType> {
    vec![SanType::IpAddress(address(master)), uri("d8-registry:peer")]
}

#[tokio::test]
async fn to_everybody_but_a_master_of_the_list_there_is_no_such_path() {
    let masters = Masters::start(2).await;
    let name = masters.client(0, "rw").push_blob(NAME, b"content").await;
    let stranger = Authority::new();
    let identities = [
        None,
        Some(masters.authority.issue(vec![SanType::IpAddress(address(1))])),
        Some(masters.authority.issue(vec![uri("d8-registry:peer")])),
        Some(masters.authority.issue(peer_names(8))),
        Some(masters.authority.issue(vec![SanType::IpAddress(address(1)), uri("D8-registry:peer")])),
        Some(masters.authority.issue(vec![SanType::IpAddress(address(1)), uri("d8-registry:controller")])),
        Some(stranger.issue(peer_names(1))),
    ];
    let path = format!("{PEER}{}", blob_path(NAME, &name));
    for (number, identity) in identities.iter().enumerate() {
        let client = masters.authority.client(identity.as_ref());
        for user in [None, Some("rw"), Some("mirror-pusher")] {
            for method in [Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::DELETE] {
                let ask = |path: &str| {
                    let request = client.request(method.clone(), format!("{}{path}", masters.base(0)));
                    let request = request.header("d8-hop", "1");
                    match user {
                        Some(user) => request.basic_auth(user, Some("secret")),
                        None => request,
                    }
                };
                let asked = seen(ask(&path).send().await.unwrap()).await;
                let unknown = seen(ask("/-/nothing").send().await.unwrap()).await;
                assert_eq!(asked, unknown, "{number} {user:?} {method}");
                assert_eq!(asked.0, 404);
            }
        }
    }
    masters.end();
}

#[tokio::test]
async fn a_master_is_answered_reads_by_digest_and_nothing_else() {
    let masters = Masters::start(2).await;
    let image = Image::of(1);
    masters.client(0, "rw").push_image(NAME, "v1", &image).await;
    let other = masters.authority.client(Some(&masters.identity(1)));
    let ask = |method: Method, path: &str, hop: Option<&str>| {
        let request = other.request(method, format!("{}{PEER}{path}", masters.base(0)));
        hop.into_iter().fold(request, |request, hop| request.header("d8-hop", hop)).send()
    };
    let answered = async |method: Method, path: &str, hop| ask(method, path, hop).await.unwrap().status().as_u16();
    let (manifest, layer) = (manifest_path(NAME, &image.digest()), blob_path(NAME, &digest(&image.blobs()[0])));
    for path in [&manifest, &layer] {
        for method in [Method::GET, Method::HEAD] {
            assert_eq!(answered(method.clone(), path, Some("1")).await, 200, "{path}");
            for hop in [None, Some("2"), Some("0"), Some("")] {
                assert_eq!(answered(method.clone(), path, hop).await, 400, "{path} {hop:?}");
            }
        }
        for method in [Method::PUT, Method::POST, Method::PATCH] {
            assert_eq!(answered(method, path, Some("1")).await, 405);
        }
    }
    assert_eq!(answered(Method::DELETE, &manifest, Some("1")).await, 405);
    assert_eq!(answered(Method::DELETE, &layer, None).await, 400);
    for path in [
        manifest_path(NAME, "v1"),
        format!("/v2/{NAME}/tags/list"),
        format!("/v2/{NAME}/blobs/uploads/"),
        format!("/v2/{NAME}/referrers/{}", image.digest()),
        "/v2/_catalog".to_owned(),
        "/v2/".to_owned(),
        "/auth/token".to_owned(),
        "/".to_owned(),
    ] {
        for method in [Method::GET, Method::HEAD, Method::POST, Method::PUT] {
            assert_eq!(answered(method, &path, Some("1")).await, 404, "{path}");
        }
    }
    let part = ask(Method::GET, &layer, Some("1")).await.unwrap();
    assert_eq!(part.headers()["docker-distribution-api-version"], "registry/2.0");
    masters.end();
}

#[tokio::test]
async fn the_list_is_followed_and_a_bad_one_is_refused() {
    let masters = Masters::start(3).await;
    let name = masters.client(0, "rw").push_blob(NAME, b"content").await;
    let path = blob_path(NAME, &name);
    let all = masters.addresses().to_vec();
    // On a connection that was made before, too.
    let other = masters.authority.client(Some(&masters.identity(2)));
    let asked = async || {
        let request = other.get(format!("{}{PEER}{path}", masters.base(0))).header("d8-hop", "1");
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(asked().await, 200);
    masters.write_list(&all[..2]);
    masters.until_peers(0, 1).await;
    assert_eq!(asked().await, 404);
    masters.until_peers(2, 2).await;
    assert_eq!(status(&masters.client(2, "ro"), &path).await, 404, "it is none of them any more");
    within(async {
        loop {
            let told: serde_json::Value = masters.at(2).admin().get("/status").await.json().await.unwrap();
            if told["replicas"]["error"].as_str().is_some_and(|error| error.contains("is in the list")) {
                break;
            }
        }
    })
    .await;
    for bad in ["", "no server\n", "# nobody\n"] {
        std::fs::write(masters.list(0), bad).unwrap();
        masters.at(0).until_metric("d8_registry_peers_in_force", 0.0).await;
        masters.until_peers(0, 1).await;
        assert_eq!(status(&masters.client(1, "ro"), &path).await, 200);
        masters.write_list(&all[..2]);
        masters.at(0).until_metric("d8_registry_peers_in_force", 1.0).await;
    }
    masters.write_list(&all);
    masters.until_peers(0, 2).await;
    assert_eq!(asked().await, 200);
    masters.end();
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_up() {
    let masters = Masters::start(2).await;
    let name = masters.client(0, "rw").push_blob(NAME, b"content").await;
    // Of another authority first: nobody answers it.
    let write = |(certificate, key): (String, String)| {
        std::fs::write(masters.folder().join("1-peer.crt"), certificate).unwrap();
        std::fs::write(masters.folder().join("1-peer.key"), key).unwrap();
    };
    let path = blob_path(NAME, &name);
    write(Authority::new().issue(peer_names(1)));
    let never = blob_path(NAME, &digest(b"never"));
    within(async {
        while masters.asked(1).await[2] < 1.0 {
            assert_eq!(status(&masters.client(1, "ro"), &never).await, 404);
        }
    })
    .await;
    write(masters.authority.issue(peer_names(1)));
    within(async { while status(&masters.client(1, "ro"), &path).await != 200 {} }).await;
    masters.end();
}

/// The other ends of the connections that whoever listens at this address of IPv4 has accepted, as the kernel writes them.
fn accepted_by(address: &str) -> HashSet<String> {
    let address: std::net::SocketAddrV4 = address.parse().unwrap();
    let local = format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|row| row.split_ascii_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1] == local && row[3] == "01").map(|row| row[2].to_owned()).collect()
}

#[tokio::test]
async fn a_renewed_certificate_ends_the_connections_of_the_one_before_and_its_end_is_told() {
    let masters = Masters::start(2).await;
    let before = masters.client(0, "rw").push_blob(NAME, b"before").await;
    let behind = masters.client(0, "rw").push_blob(NAME, b"behind").await;
    assert_eq!(status(&masters.client(1, "ro"), &blob_path(NAME, &before)).await, 200);
    let told = async || masters.at(1).admin().get("/status").await.json::<serde_json::Value>().await.unwrap();
    let old = accepted_by(masters.at(0).address());
    assert!(!old.is_empty(), "the other master's is kept");
    let (certificate, key) = masters.authority.issue_until(peer_names(1), 2100);
    // The key first, as `pki issue` does: for a moment the two don't fit.
    std::fs::write(masters.folder().join("1-peer.key"), key).unwrap();
    masters.at(1).until_metric("d8_registry_peers_in_force", 0.0).await;
    std::fs::write(masters.folder().join("1-peer.crt"), certificate).unwrap();
    let end = 4_102_444_800.0;
    masters.at(1).until_metric("d8_registry_certificate_expiry_timestamp_seconds{use=\"peer\"}", end).await;
    assert_eq!(told().await["replicas"]["certificateExpiry"], 4_102_444_800_u64);
    masters.at(1).until_metric("d8_registry_peers_in_force", 1.0).await;
    // New ones begin meanwhile: masters compare what they have.
    let ended = async {
        while !accepted_by(masters.at(0).address()).is_disjoint(&old) {
            tokio::task::yield_now().await;
        }
    };
    within(ended).await;
    assert_eq!(status(&masters.client(1, "ro"), &blob_path(NAME, &behind)).await, 200);
    masters.end();
}

#[tokio::test]
async fn masters_are_answered_while_local_is_coming_in_force_or_before() {
    let masters = Masters::start_with(2, "modeFile: $DIR/../mode.yaml").await;
    let upstream = Upstream::start();
    let name = masters.client(0, "rw").push_blob(NAME, b"content").await;
    let other = masters.authority.client(Some(&masters.identity(1)));
    let (local, direct) = (mode("Local", None), mode("Direct", Some(&upstream)));
    let (filling, ready) = (coming(&local, "filling"), coming(&local, "ready"));
    for (generation, (in_force, coming, previous, status)) in [
        (&direct, Some(&filling), None, 200),
        (&direct, Some(&ready), None, 200),
        (&local, None, Some(&direct), 200),
        (&direct, None, Some(&local), 200),
        (&direct, None, None, 404),
        (&mode("Unmanaged", None), None, None, 404),
        (&local, None, None, 200),
    ]
    .into_iter()
    .enumerate()
    {
        let generation = u64::try_from(generation).unwrap() + 1;
        let previous: Vec<&str> = previous.into_iter().map(String::as_str).collect();
        let file = mode_file(generation, in_force, coming.map(String::as_str), &previous);
        into_force(&masters, 0, generation, &file).await;
        let path = format!("{}{PEER}{}", masters.base(0), blob_path(NAME, &name));
        let answer = other.get(path).header("d8-hop", "1").send().await.unwrap();
        assert_eq!(answer.status(), status, "{file}");
    }
    masters.end();
}
