//! Pushing, pulling and deleting manifests.

use reqwest::Method;
use serde_json::{Value, json};
use testkit::media_type::INDEX;

use crate::support::{Image, Registry, Setup, descriptor, digest, header};

async fn error(response: reqwest::Response) -> (u16, String, Value) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["errors"][0]["code"].as_str().unwrap().to_owned(), body["errors"][0]["detail"].clone())
}

#[tokio::test]
async fn a_manifest_is_served_as_pushed_whatever_the_client_accepts() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let image = Image::of(1);
    client.push_image("a/b", "v1", &image).await;
    for reference in ["v1".to_owned(), image.digest()] {
        let path = format!("/v2/a/b/manifests/{reference}");
        let response =
            client.request(Method::GET, &path).header("accept", "application/vnd.docker.foo").send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "content-type"), image.media_type());
        assert_eq!(header(&response, "docker-content-digest"), image.digest());
        assert_eq!(response.bytes().await.unwrap(), image.manifest());
        let head = client.head(&path).await;
        assert_eq!(header(&head, "content-length"), image.manifest().len().to_string());
        let part = client.request(Method::GET, &path).header("range", "bytes=0-").send().await.unwrap();
        assert_eq!(part.status(), 206);
        assert_eq!(part.bytes().await.unwrap(), image.manifest());
    }
    registry.stop();
}

#[tokio::test]
async fn a_tag_moves_and_the_old_digest_stays() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let (old, new) = (Image::of(1), Image::of(2));
    client.push_image("a", "latest", &old).await;
    client.push_image("a", "latest", &new).await;
    assert_eq!(header(&client.head("/v2/a/manifests/latest").await, "docker-content-digest"), new.digest());
    assert_eq!(client.head(&format!("/v2/a/manifests/{}", old.digest())).await.status(), 200);
    registry.stop();
}

#[tokio::test]
async fn a_manifest_before_its_blobs_is_refused_with_what_is_missing() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let image = Image::of(1);
    client.push_blob("a", &image.blobs()[0]).await;
    let (status, code, detail) = error(client.put_image("a", "v1", &image).await).await;
    assert_eq!((status, code.as_str()), (404, "MANIFEST_BLOB_UNKNOWN"));
    assert_eq!(detail["missing"], json!([digest(&image.blobs()[1])]));
    // A blob of another repository doesn't count.
    client.push_blob("b", &image.blobs()[1]).await;
    assert_eq!(client.put_image("a", "v1", &image).await.status(), 404);
    client.push_blob("a", &image.blobs()[1]).await;
    assert_eq!(client.put_image("a", "v1", &image).await.status(), 201);
    registry.stop();
}

#[tokio::test]
async fn half_an_image_answers_nothing_until_it_is_whole_again() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let image = Image::of(1);
    client.push_image("a", "v1", &image).await;
    let index = testkit::index(&[image.descriptor()]).to_string();
    assert_eq!(client.put("/v2/a/manifests/all", INDEX, index.clone()).await.status(), 201);
    let paths = ["v1".to_owned(), "all".to_owned(), image.digest(), digest(index.as_bytes())]
        .map(|reference| format!("/v2/a/manifests/{reference}"));
    for path in &paths {
        assert_eq!(client.head(path).await.status(), 200, "{path}");
    }
    let layer = digest(&image.blobs()[1]);
    assert_eq!(client.delete(&format!("/v2/a/blobs/{layer}")).await.status(), 202);
    for path in &paths {
        assert_eq!(client.head(path).await.status(), 404, "{path}");
        let (status, code, detail) = error(client.get(path).await).await;
        assert_eq!((status, code.as_str(), &detail["missing"]), (404, "MANIFEST_UNKNOWN", &json!([layer])));
    }
    client.push_blob("a", &image.blobs()[1]).await;
    for path in &paths {
        assert_eq!(client.head(path).await.status(), 200, "{path}");
    }
    registry.stop();
}

#[tokio::test]
async fn allow_takes_and_answers_what_is_there() {
    let registry = Registry::start(&Setup::open().config("manifests: { missingReferences: allow }"));
    let client = registry.client();
    let image = Image::of(1);
    let response = client.put_image("a", "v1", &image).await;
    assert_eq!(response.status(), 201);
    assert!(header(&response, "warning").starts_with("299 - \""));
    assert_eq!(client.head("/v2/a/manifests/v1").await.status(), 200);
    registry.stop();
}

#[tokio::test]
async fn foreign_layers_and_subjects_need_not_be_there() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let image = Image::of(1);
    let foreign = json!({
        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "digest": digest(b"elsewhere"), "size": 9, "urls": ["https://example.com/layer"],
    });
    let image = Image::with(1, &json!({ "layers": [foreign], "subject": image.descriptor() }));
    client.push_blob("a", &image.blobs()[0]).await;
    let response = client.put_image("a", "v1", &image).await;
    assert_eq!(response.status(), 201);
    assert_eq!(header(&response, "oci-subject"), Image::of(1).digest());
    assert_eq!(client.head("/v2/a/manifests/v1").await.status(), 200);
    registry.stop();
}

#[tokio::test]
async fn a_push_by_digest_moves_the_tags_in_its_query() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let image = Image::of(1);
    for content in image.blobs() {
        client.push_blob("a", content).await;
    }
    let response = client.put_image("a", &format!("{}?tag=one&tag=two&tag=one", image.digest()), &image).await;
    assert_eq!(response.status(), 201);
    let tags: Vec<_> = response.headers().get_all("oci-tag").iter().map(|tag| tag.to_str().unwrap()).collect();
    assert_eq!(tags, ["one", "two"]);
    for tag in ["one", "two"] {
        assert_eq!(client.head(&format!("/v2/a/manifests/{tag}")).await.status(), 200);
    }
    let bad = client.put_image("a", &format!("{}?tag=.bad", image.digest()), &image).await;
    assert_eq!(bad.status(), 400);
    let other = client.put_image("a", &Image::of(2).digest(), &image).await;
    assert_eq!(error(other).await.1, "DIGEST_INVALID");
    registry.stop();
}

#[tokio::test]
async fn what_is_no_manifest_is_refused() {
    let registry = Registry::start(&Setup::open().config("manifests: { maxBytes: 10000 }"));
    let client = registry.client();
    let image = Image::of(1);
    client.push_image("a", "v1", &image).await;
    let both = Image::with(1, &json!({ "manifests": [] }));
    let put = |content_type: &'static str, body: Vec<u8>| client.put("/v2/a/manifests/bad", content_type, body);
    for (content_type, body, status, code) in [
        (image.media_type(), b"{".to_vec(), 400, "MANIFEST_INVALID"),
        (image.media_type(), both.manifest().to_vec(), 400, "MANIFEST_INVALID"),
        (INDEX, image.manifest().to_vec(), 400, "MANIFEST_INVALID"),
        (
            "application/vnd.docker.distribution.manifest.v1+json",
            br#"{"schemaVersion":1}"#.to_vec(),
            400,
            "MANIFEST_INVALID",
        ),
        ("text/plain", image.manifest().to_vec(), 400, "MANIFEST_INVALID"),
        (image.media_type(), vec![b' '; 10_001], 413, "SIZE_INVALID"),
    ] {
        let (seen, seen_code, _) = error(put(content_type, body).await).await;
        assert_eq!((seen, seen_code.as_str()), (status, code), "{content_type}");
    }
    assert_eq!(client.head("/v2/a/manifests/bad").await.status(), 404);
    registry.stop();
}

#[tokio::test]
async fn deleting_a_tag_leaves_the_manifest_and_deleting_the_manifest_takes_its_tags() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let image = Image::of(1);
    for tag in ["one", "two", "three"] {
        client.push_image("a", tag, &image).await;
    }
    assert_eq!(client.delete("/v2/a/manifests/one").await.status(), 202);
    assert_eq!(client.delete("/v2/a/manifests/one").await.status(), 404);
    assert_eq!(client.head("/v2/a/manifests/two").await.status(), 200);
    assert_eq!(client.delete(&format!("/v2/a/manifests/{}", image.digest())).await.status(), 202);
    for reference in ["two".to_owned(), "three".to_owned(), image.digest()] {
        assert_eq!(client.head(&format!("/v2/a/manifests/{reference}")).await.status(), 404, "{reference}");
    }
    let tags: Value = client.get("/v2/a/tags/list").await.json().await.unwrap();
    assert_eq!(tags["tags"], json!([]));
    registry.stop();
}

#[tokio::test]
async fn everything_is_there_after_a_kill() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let images: Vec<_> = (0..20).map(Image::of).collect();
    for (n, image) in images.iter().enumerate() {
        client.push_image("a/b", &format!("v{n}"), image).await;
    }
    let folder = registry.folder();
    registry.kill();
    let registry = Registry::start_in(folder, &Setup::open());
    let client = registry.client();
    for (n, image) in images.iter().enumerate() {
        let response = client.get(&format!("/v2/a/b/manifests/v{n}")).await;
        assert_eq!(response.bytes().await.unwrap(), image.manifest());
        for content in image.blobs() {
            let response = client.get(&format!("/v2/a/b/blobs/{}", digest(content))).await;
            assert_eq!(response.bytes().await.unwrap(), *content);
        }
    }
    registry.stop();
}

#[tokio::test]
async fn an_index_of_nothing_and_an_index_of_indexes() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let empty = testkit::index(&[]).to_string();
    assert_eq!(client.put("/v2/a/manifests/empty", INDEX, empty.clone()).await.status(), 201);
    let outer = testkit::index(&[descriptor(INDEX, empty.as_bytes())]);
    assert_eq!(client.put("/v2/a/manifests/outer", INDEX, outer.to_string()).await.status(), 201);
    assert_eq!(client.delete(&format!("/v2/a/manifests/{}", digest(empty.as_bytes()))).await.status(), 202);
    assert_eq!(client.head("/v2/a/manifests/outer").await.status(), 404);
    registry.stop();
}
