//! A push is answered when it is on as many masters as it has to be; what is still on its way to one of them.

use std::path::Path;

use tokio::task::JoinSet;

use super::*;
use crate::support::{Masters, Valve, header};

const MIB: usize = 1 << 20;

fn image(seed: u64, bytes: usize) -> Image {
    Image::of_layers(
        b"{}".to_vec(),
        vec![blob(seed, bytes)],
        &serde_json::json!({ "annotations": { "n": seed.to_string() } }),
    )
}

/// Whether a master has an image in its own store, whole.
async fn has_own(masters: &Masters, master: usize, image: &Image) -> bool {
    status(&masters.client(master, "mirror-puller"), &manifest_path(NAME, &image.digest())).await == 200
}

async fn holders(masters: &Masters, count: usize, image: &Image) -> Vec<usize> {
    let mut holders = Vec::new();
    for master in 0..count {
        if has_own(masters, master, image).await {
            holders.push(master);
        }
    }
    holders
}

async fn push(client: &Client, tag: &str, image: &Image) -> reqwest::Response {
    for content in image.blobs() {
        client.push_blob(NAME, content).await;
    }
    client.put_image(NAME, tag, image).await
}

async fn short(masters: &Masters, master: usize, outcome: &str) -> f64 {
    masters.at(master).metric(&format!("d8_registry_pushes_short_total{{outcome=\"{outcome}\"}}")).await
}

#[tokio::test]
async fn law_b_who_answers_201_may_be_killed_and_the_image_is_on_another_master() {
    for (copies, wanted) in [("2", 2), ("all", 3)] {
        let mut masters = Masters::start_with_copies(3, (copies, "refuse"), "").await;
        let image = image(1, 300_000);
        let answer = push(&masters.client(0, "rw"), "v1", &image).await;
        assert_eq!((answer.status().as_u16(), answer.headers().get("warning")), (201, None));
        let holders = holders(&masters, 3, &image).await;
        assert!(holders.len() >= wanted && holders[0] == 0, "{copies}: {holders:?}");
        masters.kill(0);
        for master in [1, 2] {
            pulled(&masters.client(master, "ro"), &image).await;
            assert_eq!(status(&masters.client(master, "ro"), &manifest_path(NAME, "v1")).await, 200, "its tag too");
        }
        masters.end();
    }
}

#[tokio::test]
async fn with_a_master_down_pushes_go_on_and_what_is_short_is_said() {
    let mut masters = Masters::start_with_copies(3, ("2", "accept"), "").await;
    masters.kill(2);
    for seed in 0..3 {
        let image = image(seed, 100_000);
        let answer = push(&masters.client(0, "rw"), &format!("v{seed}"), &image).await;
        assert_eq!((answer.status().as_u16(), answer.headers().get("warning")), (201, None));
        assert!(has_own(&masters, 1, &image).await);
    }
    masters.kill(1);
    let last = image(9, 100_000);
    let answer = push(&masters.client(0, "rw"), "last", &last).await;
    assert_eq!(answer.status(), 201);
    let said = header(&answer, "warning");
    assert_eq!(said, "299 - \"stored on 1 of 3 masters, 2 were to have it\"");
    assert_eq!((short(&masters, 0, "accepted").await, short(&masters, 0, "refused").await), (1.0, 0.0));
    pulled(&masters.client(0, "ro"), &last).await;
    assert_eq!(status(&masters.client(0, "ro"), &manifest_path(NAME, "last")).await, 200);
    masters.end();
}

#[tokio::test]
async fn law_i_where_short_pushes_are_refused_no_201_has_fewer_copies() {
    let mut masters = Masters::start_with_copies(2, ("2", "refuse"), "").await;
    let image = image(1, 100_000);
    let folder = masters.stop(1);
    let client = masters.client(0, "rw");
    let refused = push(&client, "v1", &image).await;
    assert!(refused.headers().contains_key("retry-after"));
    let refused = refusal(refused).await;
    assert_eq!((refused.status, refused.code.as_str()), (503, "UNAVAILABLE"));
    assert!(
        refused.message.contains("on 1 of 2 masters") && refused.message.contains("replicas.minCopies"),
        "{}",
        refused.message
    );
    assert_eq!(short(&masters, 0, "refused").await, 1.0);
    // Who asks for one master's own word pushes to that one alone.
    let path = manifest_path(NAME, "alone");
    let alone = client.request(Method::PUT, &path).header("d8-hop", "1").header("content-type", image.media_type());
    assert_eq!(alone.body(image.manifest().to_vec()).send().await.unwrap().status(), 201);
    masters.start_again(1, folder).await;
    within(async { while client.put_image(NAME, "v1", &image).await.status() != 201 {} }).await;
    assert!(has_own(&masters, 1, &image).await);
    masters.end();
}

#[tokio::test]
async fn a_master_that_can_not_use_its_list_is_one_of_several() {
    for (when_short, expected) in [("accept", 201), ("refuse", 503)] {
        let mut masters = Masters::start_with_copies(1, ("2", when_short), "").await;
        let image = image(1, 10_000);
        // Of a list of one that is all there are.
        let is_all = async |masters: &Masters| {
            let answer = push(&masters.client(0, "rw"), "v1", &image).await;
            answer.status() == 201 && !answer.headers().contains_key("warning")
        };
        within(async { while !is_all(&masters).await {} }).await;
        let folder = masters.stop(0);
        std::fs::remove_file(masters.list(0)).unwrap();
        masters.start_again(0, folder).await;
        let answer = push(&masters.client(0, "rw"), "v2", &image).await;
        assert_eq!(answer.status(), expected);
        if expected == 201 {
            let said = header(&answer, "warning");
            assert!(said.contains("the list of masters can't be used, 2 were to have it"), "{said}");
        }
        // It is here, and with a list that can be used it is on all masters that there are.
        masters.write_list(masters.addresses());
        within(async { while !is_all(&masters).await {} }).await;
        masters.end();
    }
}

/// Masters of which the first gives its contents to the others by way of a valve.
async fn behind_a_valve(count: usize, copies: &str) -> (Masters, Valve) {
    let masters = Masters::start_with_copies(count, (copies, "accept"), "").await;
    let valve = Valve::before(masters.addresses()[0].clone()).await;
    let mut list = masters.addresses().to_vec();
    list[0] = valve.address().to_owned();
    masters.write_list(&list);
    for master in 1..count {
        until_asks(&masters, master, valve.address()).await;
    }
    (masters, valve)
}

/// Waits until a master finds another one at this address.
async fn until_asks(masters: &Masters, master: usize, address: &str) {
    within(async {
        loop {
            let told: serde_json::Value = masters.at(master).admin().get("/status").await.json().await.unwrap();
            if told["replicas"]["peers"].as_array().unwrap().contains(&address.into()) {
                break;
            }
        }
    })
    .await;
}

/// The master that fetches something now.
async fn who_fetches(masters: &Masters) -> usize {
    within(async {
        loop {
            for master in [1, 2] {
                if masters.at(master).metric("d8_registry_fills_running").await > 0.0 {
                    return master;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_master_that_is_killed_in_the_middle_of_a_copy_is_followed_by_the_next() {
    let (mut masters, valve) = behind_a_valve(3, "2").await;
    let image = image(1, 4 * MIB);
    let client = masters.client(0, "rw");
    for content in image.blobs() {
        client.push_blob(NAME, content).await;
    }
    valve.let_through(MIB as u64);
    let put = tokio::spawn({
        let (client, image) = (client.clone(), image.clone());
        async move { client.put_image(NAME, "v1", &image).await }
    });
    let first = who_fetches(&masters).await;
    within(async {
        while !valve.is_shut() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    masters.kill(first);
    valve.open();
    let answer = put.await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("warning")), (201, None));
    assert!(has_own(&masters, 3 - first, &image).await);
    masters.end();
}

#[tokio::test]
async fn a_copy_that_moves_is_waited_for_and_goes_on_without_its_client() {
    let (masters, valve) = behind_a_valve(2, "2").await;
    let image = image(1, 4 * MIB);
    let client = masters.client(0, "rw");
    for content in image.blobs() {
        client.push_blob(NAME, content).await;
    }
    valve.let_through(MIB as u64);
    let put = tokio::spawn({
        let (client, image) = (client.clone(), image.clone());
        async move { client.put_image(NAME, "v1", &image).await }
    });
    within(async {
        while !valve.is_shut() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Its client has left; the push is not undone.
    put.abort();
    assert!(put.await.unwrap_err().is_cancelled());
    valve.open();
    within(async { while !has_own(&masters, 1, &image).await {} }).await;
    let answer = client.put_image(NAME, "v1", &image).await;
    assert_eq!((answer.status().as_u16(), answer.headers().get("warning")), (201, None));
    masters.end();
}

#[tokio::test]
async fn a_slow_copy_is_waited_for_as_long_as_bytes_move() {
    let (masters, valve) = behind_a_valve(2, "2").await;
    let image = image(1, 4 * MIB);
    let client = masters.client(0, "rw");
    for content in image.blobs() {
        client.push_blob(NAME, content).await;
    }
    valve.let_through(MIB as u64);
    let began = std::time::Instant::now();
    let put = tokio::spawn({
        let (client, image) = (client.clone(), image.clone());
        async move { client.put_image(NAME, "v1", &image).await }
    });
    // Some bytes each 4 s, for longer than a wait without movement lasts.
    let mut tick = tokio::time::interval(std::time::Duration::from_secs(4));
    while began.elapsed() < std::time::Duration::from_secs(26) {
        tick.tick().await;
        assert!(!put.is_finished());
        valve.let_through(40_000);
    }
    valve.open();
    let answer = put.await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("warning")), (201, None));
    assert!(has_own(&masters, 1, &image).await);
    masters.end();
}

#[tokio::test]
async fn a_master_without_room_is_followed_by_the_next() {
    let masters =
        Masters::start_with_copies(3, ("2", "accept"), "store: { dir: $DIR, maxBytes: 6MiB, reserveBytes: 0 }").await;
    let filler = blob(99, 5 * MIB);
    masters.client(1, "rw").push_blob(NAME, &filler).await;
    for seed in 0..3 {
        let image = image(seed, MIB + 500_000);
        let answer = push(&masters.client(0, "rw"), &format!("v{seed}"), &image).await;
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
        assert_eq!(answer.headers().get("warning"), None);
        assert_eq!(holders(&masters, 3, &image).await, [0, 2]);
    }
    masters.end();
}

/// The records of a master that was stopped, as if its clock had been ahead by so many milliseconds.
fn set_ahead(folder: &Path, millis: u64) {
    let name = digest(NAME.as_bytes());
    let path = folder.join("data/records").join(name.strip_prefix("sha256:").unwrap());
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, lines) = text.split_once('\n').unwrap();
    let ahead = |line: &str| {
        let (said, _) = line.rsplit_once(' ').unwrap();
        let (at, rest) = said.split_once(' ').unwrap();
        let at = u64::from_str_radix(at, 16).unwrap() + (millis << 16);
        let said = format!("{at:016x} {rest}");
        let check = digest(said.as_bytes());
        format!("{said} {}\n", &check.strip_prefix("sha256:").unwrap()[..8])
    };
    std::fs::write(&path, format!("{head}\n{}", lines.lines().map(ahead).collect::<String>())).unwrap();
}

/// The digest that a tag leads to in the own store of a master.
async fn leads_to(masters: &Masters, master: usize, tag: &str) -> Option<String> {
    let answer = masters.client(master, "mirror-puller").head(&manifest_path(NAME, tag)).await;
    (answer.status() == 200).then(|| header(&answer, "docker-content-digest"))
}

#[tokio::test]
async fn what_is_said_behind_what_was_heard_of_counts_though_that_comes_later_and_its_clock_is_ahead() {
    let mut masters = Masters::start(2).await;
    let (before, slow, behind) = (image(1, 10_000), image(2, 2 * MIB), image(3, 10_000));
    for tag in ["moved", "deleted"] {
        assert_eq!(push(&masters.client(0, "rw"), tag, &before).await.status(), 201);
    }
    masters.until_same(&[0, 1]).await;
    let other = masters.stop(1);
    for tag in ["moved", "deleted"] {
        assert_eq!(push(&masters.client(0, "rw"), tag, &slow).await.status(), 201);
    }
    let folder = masters.stop(0);
    set_ahead(folder.path(), 180_000);
    masters.start_again(0, folder).await;
    // The other one hears of it, and its layer stands still.
    let valve = Valve::before(masters.addresses()[0].clone()).await;
    valve.let_each(256 * 1024);
    masters.write_list(&[valve.address().to_owned(), masters.addresses()[1].clone()]);
    masters.start_again(1, other).await;
    within(async { while masters.at(1).metric("d8_registry_fills_running").await < 1.0 {} }).await;
    let client = masters.client(1, "rw");
    assert_eq!(push(&client, "moved", &behind).await.status(), 201);
    assert_eq!(client.delete(&manifest_path(NAME, "deleted")).await.status(), 202);
    assert!(!has_own(&masters, 1, &slow).await, "it has not come");
    within(async {
        while leads_to(&masters, 0, "moved").await != Some(behind.digest())
            || leads_to(&masters, 0, "deleted").await.is_some()
        {}
    })
    .await;
    valve.open();
    masters.until_same(&[0, 1]).await;
    for master in [0, 1] {
        assert_eq!(leads_to(&masters, master, "moved").await, Some(behind.digest()));
        assert_eq!(leads_to(&masters, master, "deleted").await, None);
        assert!(has_own(&masters, master, &slow).await, "by its digest");
    }
    masters.end();
}

#[tokio::test]
async fn large_manifests_that_wait_for_a_layer_hold_little_memory_and_a_small_image_does_not_wait_for_them() {
    const MANY: u32 = 16;
    let masters = Masters::start_with(3, "manifests: { missingReferences: allow }").await;
    let all: Vec<&str> = masters.addresses().iter().map(String::as_str).collect();
    let valve = Valve::before(all[2].to_owned()).await;
    // The last one alone has the layer, and the second one alone asks it for that.
    let know = |master: usize, known: &[&str]| {
        std::fs::write(masters.list(master), format!("{}\n", known.join("\n"))).unwrap();
    };
    know(0, &all[..1]);
    know(1, &[all[0], all[1], valve.address()]);
    know(2, &all[1..]);
    masters.until_peers(0, 0).await;
    until_asks(&masters, 1, valve.address()).await;
    masters.until_peers(2, 1).await;
    let layer = blob(1, 2 * MIB);
    masters.client(2, "rw").push_blob(NAME, &layer).await;
    valve.let_each(256 * 1024);
    let client = masters.client(0, "rw");
    client.push_blob(NAME, b"{}").await;
    let mut large = Vec::new();
    for number in 0..MANY {
        let fields = serde_json::json!({ "annotations": { "n": number.to_string(), "text": "x".repeat(4_000_000) } });
        let image = Image::of_layers(b"{}".to_vec(), vec![layer.clone()], &fields);
        assert_eq!(client.put_image(NAME, &format!("v{number}"), &image).await.status(), 201);
        large.push(manifest_path(NAME, &image.digest()));
    }
    let resident = async || masters.at(1).metric("process_resident_memory_bytes").await;
    let before = resident().await;
    know(0, &all[..2]);
    masters.until_peers(0, 1).await;
    let (master, mut orders) = (masters.authority.client(Some(&masters.identity(0))), JoinSet::new());
    for number in 0..MANY {
        let order = master.post(format!("{}/-/peer/v2/{NAME}/records/take/v{number}", masters.base(1)));
        let order = order.header("d8-hop", "1").send();
        orders.spawn(async move { order.await.unwrap().text().await.unwrap() });
    }
    let running = "d8_registry_http_requests_in_flight";
    within(async { while masters.at(1).metric(running).await < f64::from(MANY) {} }).await;
    let small = image(2, 10_000);
    assert_eq!(push(&client, "small", &small).await.status(), 201);
    within(async { while !has_own(&masters, 1, &small).await {} }).await;
    let grown = resident().await - before;
    assert!(grown < 100e6, "{grown} bytes for {MANY} manifests of 4 MB");
    let alone = masters.client(1, "mirror-puller");
    for path in &large {
        assert_eq!(alone.head(path).await.status(), 404, "its layer has not come");
    }
    valve.open();
    for path in &large {
        within(async { while alone.head(path).await.status() != 200 {} }).await;
    }
    // Behind 20 s without room an order ends, and the comparison brings what it was for.
    while let Some(words) = orders.join_next().await {
        let words = words.unwrap();
        assert!(words.ends_with("\ndone\n") || words.contains("failed "), "{words}");
    }
    masters.end();
}
