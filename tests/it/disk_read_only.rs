//! A store on a read-only file system: what is stored is served, after a restart too, and nothing else fails for it.
//! Mounts need root.

use reqwest::Method;
use serde_json::Value;

use crate::support::{ALIAS, Image, REPO, Registry, Setup, Upstream, blob, cache, digest, is_root, refusal};

const MIB: usize = 1 << 20;

fn here(rest: &str) -> String {
    format!("/v2/{ALIAS}/{rest}")
}

async fn assert_pulls(registry: &Registry, repo: &str, image: &Image) {
    let client = registry.client();
    for reference in ["v1", &image.digest()] {
        let manifest = client.get(&format!("/v2/{repo}/manifests/{reference}")).await;
        assert_eq!(manifest.status(), 200);
        assert_eq!(manifest.bytes().await.unwrap(), image.manifest());
    }
    for content in image.blobs() {
        let path = format!("/v2/{repo}/blobs/{}", digest(content));
        assert_eq!(client.head(&path).await.status(), 200);
        assert_eq!(client.get(&path).await.bytes().await.unwrap(), *content);
    }
}

async fn assert_refuses_writes(registry: &Registry, image: &Image) {
    let client = registry.client();
    let content = blob(77, 1000);
    let push = format!("/v2/a/blobs/uploads/?digest={}", digest(&content));
    for refused in [
        client.request(Method::POST, &push).body(content).send().await.unwrap(),
        client.request(Method::POST, "/v2/a/blobs/uploads/").send().await.unwrap(),
        client.put_image("a", "v2", image).await,
        client.delete("/v2/a/manifests/v1").await,
        client.delete(&format!("/v2/a/manifests/{}", image.digest())).await,
        client.delete(&format!("/v2/a/blobs/{}", digest(&image.blobs()[0]))).await,
        client
            .request(Method::POST, &format!("/v2/b/blobs/uploads/?from=a&mount={}", digest(&image.blobs()[0])))
            .send()
            .await
            .unwrap(),
    ] {
        let refused = refusal(refused).await;
        assert_eq!((refused.status, &refused.detail["reason"]), (507, &Value::from("ReadOnly")), "{refused:?}");
    }
    assert_eq!(registry.metric("d8_registry_store_writable").await, 0.0);
    let status: Value = registry.admin().get("/status").await.json().await.unwrap();
    assert_eq!((&status["store"]["writable"], &status["store"]["refusal"]), (&false.into(), &"ReadOnly".into()));
    assert_eq!(registry.admin().get("/readyz").await.status(), 200);
}

#[tokio::test]
async fn local_serves_what_it_has_and_takes_nothing_until_it_is_writable_again() {
    if !is_root("a store on a read-only file system") {
        return;
    }
    let image = Image::of(1);
    let registry = Registry::start(&Setup::open());
    registry.client().push_image("a", "v1", &image).await;
    let upload = registry.client().begin("a").await;
    let folder = registry.folder();
    registry.stop();
    // What a killed server may have left.
    std::fs::write(folder.path().join("data/tmp/left"), b"over").unwrap();

    let registry = Registry::start_in(folder.clone(), &Setup::open().read_only());
    let told = registry.logged();
    assert!(told.iter().any(|line| line["message"] == "no orders can be given: there is no admin socket"), "{told:?}");
    assert_pulls(&registry, "a", &image).await;
    assert_refuses_writes(&registry, &image).await;
    let patched = registry.client().request(Method::PATCH, &upload).body("more").send().await.unwrap();
    assert_eq!(refusal(patched).await.detail["reason"], "ReadOnly");
    registry.among_its_mounts("mount -o remount,rw,bind $DIR");
    registry.until_metric("d8_registry_store_writable", 1.0).await;
    registry.client().push_image("b", "v1", &Image::of(2)).await;
    registry.kill();

    // What was noted at the clean stop before is not believed after these pushes.
    let registry = Registry::start_in(folder, &Setup::open());
    assert_pulls(&registry, "a", &image).await;
    assert_pulls(&registry, "b", &Image::of(2)).await;
    let counted = async || -> Value { registry.admin().get("/status").await.json().await.unwrap() };
    while counted().await["store"]["usedBytes"].is_null() {}
    let used = counted().await["store"]["usedBytes"].as_u64().unwrap();
    assert!(used >= image.manifest().len() as u64 * 2, "{used}");
    registry.stop();
}

#[tokio::test]
async fn users_sign_in_where_no_key_can_be_written() {
    if !is_root("a store on a read-only file system") {
        return;
    }
    let image = Image::of(1);
    let registry = Registry::start(&Setup::with_users());
    registry.client_as("rw").push_image("a", "v1", &image).await;
    let (folder, data) = (registry.folder(), registry.data());
    registry.stop();
    std::fs::remove_dir_all(data.join("keys")).unwrap();
    let registry = Registry::start_in(folder, &Setup::with_users().read_only());
    let client = registry.client_as("ro");
    let token: Value = client.get("/auth/token?scope=repository:a:pull").await.json().await.unwrap();
    let pulled = registry.client().request(Method::GET, "/v2/a/manifests/v1");
    let pulled = pulled.bearer_auth(token["token"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(pulled.status(), 200);
    registry.kill();
}

#[tokio::test]
async fn what_turns_read_only_while_it_is_used_is_found_out_by_writing() {
    if !is_root("a store on a read-only file system") {
        return;
    }
    let image = Image::of(1);
    let registry = Registry::start(&Setup::open().mounting("true"));
    registry.client().push_image("a", "v1", &image).await;
    // Another mount over the folder: the folder that the server opened does not say that it is read-only.
    registry.among_its_mounts("mount --bind $DIR $DIR && mount -o remount,ro,bind $DIR");
    assert_refuses_writes(&registry, &image).await;
    assert_pulls(&registry, "a", &image).await;
    let tags: Value = registry.client().get("/v2/a/tags/list").await.json().await.unwrap();
    assert_eq!(tags["tags"], serde_json::json!(["v1"]));
    registry.among_its_mounts("umount $DIR");
    registry.client().push_image("b", "v1", &image).await;
    assert_eq!(registry.metric("d8_registry_store_writable").await, 1.0);
    registry.stop();
}

#[tokio::test]
async fn proxy_serves_hits_and_passes_on_what_it_cannot_store() {
    if !is_root("a store on a read-only file system") {
        return;
    }
    let upstream = Upstream::start();
    let (image, other) = (Image::of(1), Image::of(2));
    let blobs = [blob(11, 3 * MIB), blob(12, 3 * MIB)];
    upstream.put_image(REPO, "v1", &image);
    for content in &blobs {
        upstream.put_blob(REPO, content);
    }
    let setup = || Setup::proxy(&upstream).config("proxy: { tagTtl: 0s, negativeTtl: 0s }");
    let registry = Registry::start(&setup());
    assert_pulls(&registry, ALIAS, &image).await;
    assert_eq!(
        registry.client().get(&here(&format!("blobs/{}", digest(&blobs[0])))).await.bytes().await.unwrap(),
        blobs[0]
    );
    assert_eq!(registry.client().get(&here("tags/list")).await.status(), 200);
    registry.until_metric("d8_registry_fills_running", 0.0).await;
    let folder = registry.folder();
    registry.stop();

    let registry = Registry::start_in(folder, &setup().read_only());
    let client = registry.client();
    assert_pulls(&registry, ALIAS, &image).await;
    let hit = client.get(&here(&format!("blobs/{}", digest(&blobs[0])))).await;
    assert_eq!((hit.status().as_u16(), &*cache(&hit)), (200, "hit"));
    for _ in 0..2 {
        let miss = client.get(&here(&format!("blobs/{}", digest(&blobs[1])))).await;
        assert_eq!((miss.status().as_u16(), &*cache(&miss)), (200, "bypassed"));
        assert_eq!(miss.bytes().await.unwrap(), blobs[1]);
    }
    // Stored, and asked for under a name whose membership can't be written.
    upstream.put_blob(&format!("{REPO}/modules/x"), &blobs[0]);
    for _ in 0..2 {
        let named = client.get(&here(&format!("modules/x/blobs/{}", digest(&blobs[0])))).await;
        assert_eq!((named.status().as_u16(), &*cache(&named)), (200, "hit"));
        assert_eq!(named.bytes().await.unwrap(), blobs[0]);
    }
    // A tag that moves, one that is new and one that goes; a list.
    upstream.put_image(REPO, "v1", &other);
    upstream.put_image(REPO, "v2", &other);
    for tag in ["v1", "v2"] {
        let manifest = client.get(&here(&format!("manifests/{tag}"))).await;
        assert_eq!(manifest.status(), 200, "{tag}");
        assert_eq!(manifest.bytes().await.unwrap(), other.manifest());
    }
    assert_eq!(client.get(&here("tags/list")).await.status(), 200);
    for gone in ["manifests/v1", "tags/list"] {
        upstream.rule("*", &format!("/v2/{REPO}/{gone}"), |answer| {
            answer.fail(404, "gone");
        });
        assert_eq!(client.get(&here(gone)).await.status(), 404, "{gone}");
    }
    assert_eq!(registry.metric("d8_registry_store_writable").await, 0.0);
    assert_eq!(registry.metric("d8_registry_fill_errors_total{cause=\"disk\"}").await, 0.0);
    let failed: Vec<Value> = registry.logged().into_iter().filter(|line| line["message"] == "request failed").collect();
    assert!(failed.is_empty(), "{failed:?}");
    registry.kill();
}
