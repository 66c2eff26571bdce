//! Tag lists, the catalog and referrers.

use serde_json::{Value, json};

use crate::support::{Client, Image, Registry, Setup, digest, header};

/// Asks again while the index is being built, which a 503 with `Retry-After` says.
async fn list(client: &Client, path: &str) -> reqwest::Response {
    loop {
        let response = client.get(path).await;
        if response.status() != 503 {
            return response;
        }
        header(&response, "retry-after").parse::<u64>().unwrap();
    }
}

async fn entries(client: &Client, path: &str, key: &str) -> Vec<String> {
    let body: Value = list(client, path).await.json().await.unwrap();
    body[key].as_array().unwrap().iter().map(|entry| entry.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn pages_of_tags_follow_one_another_in_order() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let image = Image::of(1);
    let mut tags: Vec<String> = (0..25).map(|n| format!("v{n}")).chain(["A".into(), "_x".into(), "z".into()]).collect();
    for tag in &tags {
        client.push_image("a", tag, &image).await;
    }
    tags.sort();
    assert_eq!(entries(&client, "/v2/a/tags/list", "tags").await, tags);
    let mut read = Vec::new();
    let mut path = "/v2/a/tags/list?n=4".to_owned();
    loop {
        let response = list(&client, &path).await;
        let link = response.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
        let body: Value = response.json().await.unwrap();
        read.extend(body["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()));
        let Some(link) = link else { break };
        path = link.strip_prefix('<').unwrap().split_once('>').unwrap().0.to_owned();
        assert!(path.starts_with('/') && link.ends_with("rel=\"next\""), "{link}");
    }
    assert_eq!(read, tags);
    assert_eq!(entries(&client, "/v2/a/tags/list?last=v9", "tags").await, ["z"]);
    assert_eq!(entries(&client, "/v2/a/tags/list?n=99999999999999999999999", "tags").await, tags);
    let none = list(&client, "/v2/a/tags/list?n=0").await;
    assert!(none.headers().get("link").is_none());
    for n in ["-1", "x", ""] {
        assert_eq!(list(&client, &format!("/v2/a/tags/list?n={n}")).await.status(), 400, "{n}");
    }
    assert_eq!(list(&client, "/v2/nowhere/tags/list").await.status(), 404);
    registry.stop();
}

#[tokio::test]
async fn the_catalog_names_what_holds_manifests() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    for repo in ["b", "a/x", "a", "c/d/e/f/g"] {
        client.push_image(repo, "v1", &Image::of(1)).await;
    }
    client.push_blob("only/blobs", b"x").await;
    assert_eq!(entries(&client, "/v2/_catalog", "repositories").await, ["a", "a/x", "b", "c/d/e/f/g"]);
    assert_eq!(entries(&client, "/v2/_catalog?n=2&last=a", "repositories").await, ["a/x", "b"]);
    let image = Image::of(1).digest();
    assert_eq!(client.delete(&format!("/v2/b/manifests/{image}")).await.status(), 202);
    assert_eq!(entries(&client, "/v2/_catalog", "repositories").await, ["a", "a/x", "c/d/e/f/g"]);
    registry.stop();
}

#[tokio::test]
async fn referrers_are_found_by_their_subject() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let subject = Image::of(1);
    client.push_image("a", "v1", &subject).await;
    let path = format!("/v2/a/referrers/{}", subject.digest());
    let referrer = |seed: u64, kind: &str| {
        Image::with(
            seed,
            &json!({ "subject": subject.descriptor(), "artifactType": kind, "annotations": { "k": "v" } }),
        )
    };
    let (first, second) = (referrer(2, "a/sbom+json"), referrer(3, "a/signature"));
    for image in [&first, &second] {
        client.push_image("a", &image.digest(), image).await;
    }
    let response = list(&client, &path).await;
    assert_eq!(header(&response, "content-type"), "application/vnd.oci.image.index.v1+json");
    let index: Value = response.json().await.unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    for filter in ["a%2Fsbom%2Bjson", "a/sbom+json"] {
        let response = list(&client, &format!("{path}?artifactType={filter}")).await;
        assert_eq!(header(&response, "oci-filters-applied"), "artifactType");
        let index: Value = response.json().await.unwrap();
        let found = &index["manifests"][0];
        assert_eq!(
            (found["digest"].as_str(), index["manifests"].as_array().unwrap().len()),
            (Some(&*first.digest()), 1)
        );
        assert_eq!((&found["artifactType"], &found["annotations"]["k"]), (&json!("a/sbom+json"), &json!("v")));
        assert_eq!(found["size"], json!(first.manifest().len()));
    }
    assert_eq!(client.delete(&format!("/v2/a/manifests/{}", first.digest())).await.status(), 202);
    let index: Value = list(&client, &path).await.json().await.unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    let unknown = list(&client, &format!("/v2/a/referrers/{}", Image::of(9).digest())).await;
    assert_eq!(unknown.status(), 200);
    assert_eq!(list(&client, "/v2/a/referrers/latest").await.status(), 400);
    registry.stop();
}

#[tokio::test]
async fn lists_are_the_same_after_the_index_is_deleted() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let subject = Image::of(1);
    client.push_image("a", "v1", &subject).await;
    let referrer = Image::with(2, &json!({ "subject": subject.descriptor() }));
    client.push_image("a", "ref", &referrer).await;
    client.push_image("b/c", "v1", &subject).await;
    let paths =
        ["/v2/a/tags/list".to_owned(), "/v2/_catalog".to_owned(), format!("/v2/a/referrers/{}", subject.digest())];
    let mut before = Vec::new();
    for path in &paths {
        before.push(list(&client, path).await.text().await.unwrap());
    }
    let folder = registry.folder();
    let index = registry.data().join("index");
    registry.stop();
    std::fs::remove_dir_all(index).unwrap();
    let registry = Registry::start_in(folder, &Setup::open());
    let client = registry.client();
    for (path, before) in paths.iter().zip(before) {
        assert_eq!(list(&client, path).await.text().await.unwrap(), before, "{path}");
    }
    registry.stop();
}

/// A file stands where the index would be, so there is none; only lists say so.
#[tokio::test]
async fn pulls_pushes_and_deletes_need_no_index() {
    let registry = Registry::start(&Setup::open());
    let (folder, index) = (registry.folder(), registry.data().join("index"));
    registry.stop();
    std::fs::remove_dir_all(&index).unwrap();
    std::fs::write(&index, "in the way").unwrap();
    let registry = Registry::start_in(folder, &Setup::open());
    let client = registry.client();
    let image = Image::of(1);
    client.push_image("a", "v1", &image).await;
    for reference in ["v1", &image.digest()] {
        let answer = client.get(&format!("/v2/a/manifests/{reference}")).await;
        assert_eq!(answer.bytes().await.unwrap(), image.manifest());
    }
    for content in image.blobs() {
        let answer = client.get(&format!("/v2/a/blobs/{}", digest(content))).await;
        assert_eq!(answer.bytes().await.unwrap(), *content);
    }
    for path in ["/v2/a/tags/list", "/v2/_catalog"] {
        assert_eq!(client.get(path).await.status(), 503, "{path}");
    }
    assert_eq!(client.delete(&format!("/v2/a/manifests/{}", image.digest())).await.status(), 202);
    assert_eq!(client.get("/v2/a/manifests/v1").await.status(), 404);
    registry.kill();
}
