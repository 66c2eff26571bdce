//! What is deleted at one master and there at another: the later one counts, whichever is asked.

use super::*;
use crate::support::header;

const MIB: usize = 1 << 20;

/// Masters that take so little that one of them can be filled.
const SMALL: &str = "store: { dir: $DIR, maxBytes: 6MiB, reserveBytes: 0 }";

fn image(seed: u64, bytes: usize) -> Image {
    Image::of_layers(
        b"{}".to_vec(),
        vec![blob(seed, bytes)],
        &serde_json::json!({ "annotations": { "n": seed.to_string() } }),
    )
}

async fn push(masters: &Masters, master: usize, tag: &str, image: &Image) {
    masters.client(master, "rw").push_image(NAME, tag, image).await;
}

async fn delete(masters: &Masters, master: usize, reference: &str) -> u16 {
    masters.client(master, "rw").delete(&manifest_path(NAME, reference)).await.status().as_u16()
}

/// By the own store of a master.
async fn own_status(masters: &Masters, master: usize, reference: &str) -> u16 {
    status(&masters.client(master, "mirror-puller"), &manifest_path(NAME, reference)).await
}

/// Blobs until there is room for no byte.
async fn fill(masters: &Masters, master: usize) {
    let client = masters.client(master, "rw");
    let (mut bytes, mut seed) = (2 * MIB, 1000);
    while bytes > 0 {
        let content = blob(seed, bytes);
        let path = format!("/v2/{NAME}/blobs/uploads/?digest={}", digest(&content));
        let answer = client.request(Method::POST, &path).body(content).send().await.unwrap();
        match answer.status().as_u16() {
            201 => seed += 1,
            507 => bytes /= 2,
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn what_only_another_master_has_is_deleted_at_whichever_is_asked() {
    let masters = Masters::start_with(2, SMALL).await;
    fill(&masters, 1).await;
    let (tagged, named) = (image(1, MIB), image(2, MIB));
    push(&masters, 0, "v1", &tagged).await;
    push(&masters, 0, "v2", &named).await;
    assert_eq!((own_status(&masters, 1, "v1").await, own_status(&masters, 1, &named.digest()).await), (404, 404));
    assert_eq!(delete(&masters, 1, "v1").await, 202);
    assert_eq!(delete(&masters, 1, &named.digest()).await, 202);
    within(async { while own_status(&masters, 0, "v1").await != 404 {} }).await;
    within(async { while own_status(&masters, 0, &named.digest()).await != 404 {} }).await;
    within(async { while own_status(&masters, 0, "v2").await != 404 {} }).await;
    assert_eq!(own_status(&masters, 0, &tagged.digest()).await, 200, "a tag alone went");
    // What is nowhere any more, or never was, is not there to be deleted.
    for reference in ["v1", "v2", &named.digest(), "never", &digest(b"never")] {
        assert_eq!(delete(&masters, 1, reference).await, 404, "{reference}");
    }
    // One hop: who wants one master's own word gets it.
    let request = masters.client(1, "rw").request(Method::DELETE, &manifest_path(NAME, &tagged.digest()));
    assert_eq!(request.header("d8-hop", "1").send().await.unwrap().status(), 404);
    masters.end();
}

/// From now on a master answers the others and hears of nothing: by its list they are where nobody listens.
async fn deafen(masters: &Masters, master: usize) {
    let all = masters.addresses();
    let others = (0..all.len()).filter(|other| *other != master).map(|other| format!("{}:1", address(other)));
    let list: Vec<String> = std::iter::once(all[master].clone()).chain(others).collect();
    // Alone first: so it is seen when the others are in force.
    for count in [1, list.len()] {
        std::fs::write(masters.list(master), format!("{}\n", list[..count].join("\n"))).unwrap();
        masters.until_peers(master, count - 1).await;
    }
}

#[tokio::test]
async fn what_was_deleted_here_and_pushed_again_elsewhere_is_answered() {
    let mut masters = Masters::start_with(3, SMALL).await;
    let (image, other) = (image(1, MIB), image(2, MIB));
    push(&masters, 0, "v1", &image).await;
    masters.until_same(&[0, 1, 2]).await;
    assert_eq!(delete(&masters, 0, &image.digest()).await, 202);
    masters.until_same(&[0, 1, 2]).await;
    let [tag, by_digest] = ["v1".to_owned(), image.digest()].map(|reference| manifest_path(NAME, &reference));
    for path in [&tag, &by_digest] {
        assert_eq!(status(&masters.client(2, "ro"), path).await, 404, "{path}");
    }
    // It has no room to take what the tag leads to now.
    fill(&masters, 2).await;
    push(&masters, 0, "again", &image).await;
    push(&masters, 0, "v1", &other).await;
    masters.until_same(&[0, 1]).await;
    assert_eq!(status(&masters.client(2, "ro"), &by_digest).await, 200);
    let answer = masters.client(2, "ro").get(&tag).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.unwrap() == other.manifest());
    for user in ["ro", "rw"] {
        let head = masters.client(2, user).head(&tag).await;
        assert_eq!((head.status().as_u16(), header(&head, "docker-content-digest")), (200, other.digest()));
    }
    // Of this master the truth.
    let alone = masters.client(2, "rw").request(Method::GET, &tag).header("d8-hop", "1");
    assert_eq!(alone.send().await.unwrap().status(), 404);
    assert_eq!(status(&masters.client(2, "mirror-puller"), &tag).await, 404);
    masters.kill(0);
    assert_eq!(status(&masters.client(2, "ro"), &tag).await, 200);
    // By all who answer it is deleted.
    masters.kill(1);
    assert_eq!(status(&masters.client(2, "ro"), &tag).await, 404);
    masters.end();
}

#[tokio::test]
async fn a_tag_that_was_deleted_here_is_not_answered_by_who_has_not_heard_of_that() {
    let masters = Masters::start(2).await;
    let image = image(1, 10_000);
    push(&masters, 0, "v1", &image).await;
    masters.until_same(&[0, 1]).await;
    deafen(&masters, 0).await;
    assert_eq!(delete(&masters, 1, "v1").await, 202);
    assert_eq!(own_status(&masters, 0, "v1").await, 200, "it has not heard of it");
    let (client, path) = (masters.client(1, "ro"), manifest_path(NAME, "v1"));
    let before = masters.asked(1).await[0];
    assert_eq!((status(&client, &path).await, client.head(&path).await.status().as_u16()), (404, 404));
    assert!(masters.asked(1).await[0] >= before + 2.0, "it has told of the tag");
    assert_eq!(status(&client, &manifest_path(NAME, &image.digest())).await, 200, "a tag alone went");
    // Pushed again there it is later than the deletion, which that master does not know.
    push(&masters, 0, "v1", &image).await;
    assert_eq!(status(&client, &path).await, 200);
    masters.heal().await;
    masters.until_same(&[0, 1]).await;
    for master in [0, 1] {
        assert_eq!(own_status(&masters, master, "v1").await, 200);
    }
    masters.end();
}

#[tokio::test]
async fn an_index_comes_with_an_image_that_was_deleted_here_and_pushed_again_there() {
    let masters = Masters::start(2).await;
    let child = image(1, 10_000);
    push(&masters, 0, "child", &child).await;
    masters.until_same(&[0, 1]).await;
    masters.part(&[&[0], &[1]]).await;
    assert_eq!(delete(&masters, 1, &child.digest()).await, 202);
    push(&masters, 0, "child", &child).await;
    let index = testkit::index(&[child.descriptor()]).to_string();
    let media_type = "application/vnd.oci.image.index.v1+json";
    let put = masters.client(0, "rw").put(&manifest_path(NAME, "all"), media_type, index.clone()).await;
    assert_eq!(put.status(), 201);
    masters.heal().await;
    let client = masters.authority.client(Some(&masters.identity(0)));
    let path = format!("{}/-/peer/v2/{NAME}/records/take/all", masters.base(1));
    let words = client.post(path).header("d8-hop", "1").send().await.unwrap().text().await.unwrap();
    assert!(words.ends_with("\ndone\n"), "{words}");
    assert_eq!(own_status(&masters, 1, "all").await, 200);
    pulled(&masters.client(1, "mirror-puller"), &child).await;
    masters.end();
}
