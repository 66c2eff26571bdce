//! Pushes of images whose parts come to one master after the other.

use super::*;
use crate::support::{Balancer, header};

/// What `d8 mirror push` sends for an image, each request to another master; says which one took the manifest.
async fn mirror_push(any: &Balancer, tag: &str, image: &Image) -> usize {
    let digest_of = |content: &Vec<u8>| digest(content);
    any.next().head(&manifest_path(NAME, tag)).await;
    for content in image.blobs() {
        let name = digest_of(content);
        if any.next().head(&blob_path(NAME, &name)).await.status() == 200 {
            continue;
        }
        let location = any.next().begin(NAME).await;
        let patched = any.next().request(Method::PATCH, &location).body(content.clone()).send().await.unwrap();
        assert_eq!(patched.status(), 202);
        let location = header(&patched, "location");
        let put = any.next().request(Method::PUT, &format!("{location}?digest={name}")).send().await.unwrap();
        assert_eq!(put.status(), 201, "{}", put.text().await.unwrap());
        assert_eq!(any.next().head(&blob_path(NAME, &name)).await.status(), 200, "what was pushed is there");
    }
    let (master, client) = any.next_of();
    let answer = client.put_image(NAME, tag, image).await;
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    master
}

/// Whether a master has an image in its own store, whole.
async fn has_own(masters: &Masters, master: usize, image: &Image) -> bool {
    status(&masters.client(master, "mirror-puller"), &manifest_path(NAME, &image.digest())).await == 200
}

#[tokio::test]
async fn an_image_is_pushed_by_requests_that_come_to_one_master_after_the_other() {
    for count in [2, 3] {
        let masters = Masters::start(count).await;
        let any = Balancer::of(&masters, "rw");
        for seed in 0..4 {
            let image = Image::of(seed);
            let master = mirror_push(&any, &format!("v{seed}"), &image).await;
            assert!(has_own(&masters, master, &image).await);
            for master in 0..count {
                pulled(&masters.client(master, "ro"), &image).await;
            }
        }
        masters.end();
    }
}

#[tokio::test]
async fn a_manifest_brings_what_other_masters_have_of_it() {
    let mut masters = Masters::start(3).await;
    let image =
        Image::of_layers(b"{}".to_vec(), (0..12).map(|seed| blob(seed, 200_000)).collect(), &serde_json::json!({}));
    for (number, content) in image.blobs().iter().enumerate() {
        masters.client(number % 2, "rw").push_blob(NAME, content).await;
    }
    let put = masters.client(2, "rw").put_image(NAME, "v1", &image).await;
    assert_eq!(put.status(), 201, "{}", put.text().await.unwrap());
    // All of it is there when the push is answered.
    masters.kill(0);
    masters.kill(1);
    pulled(&masters.client(2, "mirror-puller"), &image).await;
    masters.end();
}

#[tokio::test]
async fn an_index_brings_its_images() {
    let mut masters = Masters::start(3).await;
    let images = [Image::of(21), Image::of(22)];
    for (master, image) in images.iter().enumerate() {
        masters.client(master, "rw").push_image(NAME, &image.digest(), image).await;
    }
    let index = testkit::index(&images.each_ref().map(Image::descriptor)).to_string();
    let name = digest(index.as_bytes());
    for image in &images {
        assert_eq!(masters.client(2, "rw").head(&manifest_path(NAME, &image.digest())).await.status(), 200);
    }
    let path = manifest_path(NAME, &name);
    let media_type = "application/vnd.oci.image.index.v1+json";
    let put = masters.client(2, "rw").put(&path, media_type, index.clone()).await;
    assert_eq!(put.status(), 201, "{}", put.text().await.unwrap());
    masters.kill(0);
    masters.kill(1);
    assert_eq!(status(&masters.client(2, "mirror-puller"), &path).await, 200);
    for image in &images {
        pulled(&masters.client(2, "mirror-puller"), image).await;
    }
    masters.end();
}

#[tokio::test]
async fn what_no_master_that_answers_has_is_named_in_the_refusal_of_a_manifest() {
    let mut masters = Masters::start(3).await;
    let image = Image::of(31);
    let (lost, rest) = image.blobs().split_first().unwrap();
    masters.client(0, "rw").push_blob(NAME, lost).await;
    for content in rest {
        masters.client(1, "rw").push_blob(NAME, content).await;
    }
    masters.kill(0);
    for master in [1, 2] {
        let refused = refusal(masters.client(master, "rw").put_image(NAME, "v1", &image).await).await;
        assert_eq!((refused.status, refused.code.as_str()), (404, "MANIFEST_BLOB_UNKNOWN"));
        assert_eq!(refused.detail["missing"], serde_json::json!([digest(lost)]));
    }
    masters.client(1, "rw").push_blob(NAME, lost).await;
    assert_eq!(masters.client(2, "rw").put_image(NAME, "v1", &image).await.status(), 201);
    masters.end();
}

#[tokio::test]
async fn a_blob_is_mounted_from_a_repository_that_only_another_master_has() {
    let masters = Masters::start(3).await;
    let content = blob(41, 300_000);
    let name = masters.client(0, "rw").push_blob("source", &content).await;
    let mount = async |master: usize, user: &str, query: String| {
        let path = format!("/v2/{NAME}/blobs/uploads/?{query}");
        masters.client(master, user).request(Method::POST, &path).send().await.unwrap()
    };
    let from = |repo: &str, name: &str| format!("mount={name}&from={repo}");
    let mounted = mount(1, "rw", from("source", &name)).await;
    assert_eq!((mounted.status().as_u16(), header(&mounted, "location")), (201, blob_path(NAME, &name)));
    for repo in [NAME, "source"] {
        assert_eq!(status(&masters.client(1, "mirror-puller"), &blob_path(repo, &name)).await, 200, "{repo}");
    }
    // Another repository has it not, whoever is asked; and what nobody has is to be uploaded.
    for query in [from("another", &name), from("source", &digest(b"nobody's")), from("Source", &name)] {
        let begun = mount(2, "rw", query).await;
        assert_eq!(begun.status(), 202);
        assert!(header(&begun, "location").contains("/blobs/uploads/"));
    }
    masters.end();
}
