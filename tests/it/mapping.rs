//! Names: what of ours is whose of the upstream's, and that clients see only ours.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{ALIAS, Client, Image, REPO, Registry, Setup, Upstream, header, refusal};

const MODES: [&str; 2] = ["Direct", "Proxy"];

fn in_front_of(mode: &str, upstream: &Upstream) -> Setup {
    Setup::in_front_of(mode, &upstream.address(), "scheme: HTTP")
}

#[tokio::test]
async fn the_alias_and_all_below_it_are_the_upstreams_repository_and_its_children() {
    for mode in MODES {
        let upstream = Upstream::start();
        let (top, child, grandchild) = (Image::of(1), Image::of(2), Image::of(3));
        upstream.put_image(REPO, "v1", &top);
        upstream.put_image(&format!("{REPO}/install"), "v1", &child);
        upstream.put_image(&format!("{REPO}/modules/console"), "v1", &grandchild);
        let registry = Registry::start(&in_front_of(mode, &upstream));
        let client = registry.client();
        for (name, image) in [("", &top), ("/install", &child), ("/modules/console", &grandchild)] {
            let manifest = client.get(&format!("/v2/{ALIAS}{name}/manifests/v1")).await;
            assert_eq!(manifest.status(), 200, "{mode} {name}");
            assert_eq!(header(&manifest, "docker-content-digest"), image.digest());
            assert_eq!(manifest.bytes().await.unwrap(), image.manifest());
            for content in image.blobs() {
                let digest = crate::support::digest(content);
                let blob = client.get(&format!("/v2/{ALIAS}{name}/blobs/{digest}")).await;
                assert_eq!(blob.bytes().await.unwrap(), content);
                assert_eq!(upstream.count("GET", &format!("/v2/{REPO}{name}/blobs/{digest}")), 1);
            }
        }
        registry.stop();
    }
}

#[tokio::test]
async fn what_lies_beside_the_edition_has_a_name_of_its_own() {
    for mode in MODES {
        let (upstream, mirror) = (Upstream::start(), Upstream::start());
        let (edition, module, installer, plugin) = (Image::of(1), Image::of(2), Image::of(3), Image::of(4));
        upstream.put_image("deckhouse/ee", "v1", &edition);
        upstream.put_image("deckhouse/ee/modules/console", "v1", &module);
        upstream.put_image("deckhouse/installer", "v1", &installer);
        upstream.put_image("deckhouse/cli/plugins/x", "v1", &plugin);
        let host = upstream.address();
        let names = format!(
            "repositories:\n- name: system/deckhouse\n- {{ name: system/deckhouse/installer, imagesRepo: '{host}/deckhouse/installer' }}\n- {{ name: system/plugins, imagesRepo: '{host}/deckhouse/cli/plugins' }}"
        );
        let keys = format!("scheme: HTTP, mirrors: [{{ imagesRepo: '{}/m', scheme: HTTP }}]", mirror.address());
        let setup = Setup::in_front_of_repo(mode, &format!("{host}/deckhouse/ee"), &keys).config(&names);
        let registry = Registry::start(&setup);
        let client = registry.client();
        for (name, image) in [
            ("system/deckhouse", &edition),
            ("system/deckhouse/modules/console", &module),
            ("system/deckhouse/installer", &installer),
            ("system/plugins/x", &plugin),
        ] {
            let manifest = client.get(&format!("/v2/{name}/manifests/v1")).await;
            assert_eq!(header(&manifest, "docker-content-digest"), image.digest(), "{mode} {name}");
            let layer = &image.blobs()[1];
            let blob = client.get(&format!("/v2/{name}/blobs/{}", crate::support::digest(layer))).await;
            assert_eq!(blob.bytes().await.unwrap(), layer, "{mode} {name}");
            let tags: Value = client.get(&format!("/v2/{name}/tags/list")).await.json().await.unwrap();
            assert_eq!(tags, json!({ "name": name, "tags": ["v1"] }), "{mode}");
        }
        for name in ["system/deckhouse/installer/none", "system/plugins", "system"] {
            assert_eq!(client.get(&format!("/v2/{name}/manifests/v1")).await.status(), 404, "{mode} {name}");
        }
        if mode == "Proxy" {
            let whole = [
                "system/deckhouse",
                "system/deckhouse/installer",
                "system/deckhouse/modules/console",
                "system/plugins/x",
            ];
            for n in [1, 2, 3, 100] {
                let (mut listed, mut next) = (Vec::new(), format!("/v2/_catalog?n={n}"));
                loop {
                    let response = client.get(&next).await;
                    let link = response.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
                    let page: Value = response.json().await.unwrap();
                    let names = page["repositories"].as_array().unwrap().iter();
                    listed.extend(names.map(|name| name.as_str().unwrap().to_owned()));
                    let Some(link) = link else { break };
                    next = link.strip_prefix('<').unwrap().split_once('>').unwrap().0.to_owned();
                }
                assert_eq!(listed, whole, "{n}");
            }
        }
        // A mirror has the edition; where it has what lies beside it nobody said.
        upstream.rule("*", "/v2/deckhouse/installer/*", |answer| {
            answer.fail(503, "not today");
        });
        assert_eq!(client.get("/v2/system/deckhouse/installer/manifests/v2").await.status(), 502, "{mode}");
        assert_eq!(mirror.seen().len(), 0, "{mode}: {:?}", mirror.seen());
        registry.stop();
    }
}

#[tokio::test]
async fn names_beside_the_alias_are_unknown_and_never_asked_for() {
    for mode in MODES {
        let upstream = Upstream::start();
        upstream.put_image(&format!("{REPO}2"), "v1", &Image::of(1));
        let registry = Registry::start(&in_front_of(mode, &upstream));
        let client = registry.client();
        let digest = Image::of(1).digest();
        for name in ["system/deckhouse2", "system/deckhous", "system", "other/system/deckhouse", REPO, "a"] {
            for rest in ["manifests/v1", &format!("blobs/{digest}"), "tags/list", &format!("referrers/{digest}")] {
                let refusal = refusal(client.get(&format!("/v2/{name}/{rest}")).await).await;
                assert_eq!(
                    (refusal.status, &*refusal.code),
                    (404, "NAME_UNKNOWN"),
                    "{mode} {name}/{rest}: {refusal:?}"
                );
                assert!(refusal.message.contains(ALIAS), "it does not say what is served: {refusal:?}");
            }
        }
        // Only the probe of the credentials has anything to ask.
        for seen in upstream.seen() {
            assert!(seen.path == "/v2/" || seen.path.starts_with(&format!("/v2/{REPO}/")), "{seen:?}");
            assert!(!seen.path.contains("/blobs/") && !seen.path.contains("/referrers/"), "{seen:?}");
        }
        registry.stop();
    }
}

#[tokio::test]
async fn an_upstream_without_a_path_has_children_only() {
    for mode in MODES {
        let upstream = Upstream::start();
        upstream.put_image("install", "v1", &Image::of(1));
        let registry = Registry::start(&Setup::in_front_of_repo(mode, &upstream.address(), "scheme: HTTP"));
        let client = registry.client();
        assert_eq!(client.get(&format!("/v2/{ALIAS}/install/manifests/v1")).await.status(), 200);
        assert!(upstream.count("*", "/v2/install/manifests/*") > 0);
        for rest in ["manifests/v1", "tags/list"] {
            let refusal = refusal(client.get(&format!("/v2/{ALIAS}/{rest}")).await).await;
            assert_eq!((refusal.status, &*refusal.code), (404, "NAME_UNKNOWN"), "{mode}: {refusal:?}");
        }
        registry.stop();
    }
}

#[tokio::test]
async fn the_alias_is_a_choice() {
    let upstream = Upstream::start();
    upstream.put_image(REPO, "v1", &Image::of(1));
    let registry = Registry::start(&Setup::direct(&upstream).config("repository: team/mirror"));
    let client = registry.client();
    assert_eq!(client.get("/v2/team/mirror/manifests/v1").await.status(), 200);
    assert_eq!(client.get(&format!("/v2/{ALIAS}/manifests/v1")).await.status(), 404);
    registry.stop();
}

/// The texts of an answer: all headers, and the body where it is one for reading.
async fn texts(client: &Client, path: &str) -> String {
    let response = client.get(path).await;
    let head = format!("{response:?}");
    head + &response.text().await.unwrap()
}

#[tokio::test]
async fn clients_never_see_the_upstreams_names() {
    for mode in MODES {
        let upstream = Upstream::start();
        let subject = Image::of(1);
        let referrer = Image::with(2, &json!({ "subject": subject.descriptor() }));
        for tag in ["a", "b", "c"] {
            upstream.put_image(REPO, tag, &subject);
        }
        upstream.put_image(REPO, "d", &referrer);
        upstream.page(1);
        let registry = Registry::start(&in_front_of(mode, &upstream));
        let client = registry.client();
        let unknown = Image::of(9).digest();
        for path in [
            format!("/v2/{ALIAS}/manifests/a"),
            format!("/v2/{ALIAS}/manifests/none"),
            format!("/v2/{ALIAS}/manifests/{unknown}"),
            format!("/v2/{ALIAS}/blobs/{unknown}"),
            format!("/v2/{ALIAS}/none/tags/list"),
            format!("/v2/{ALIAS}/tags/list"),
            format!("/v2/{ALIAS}/tags/list?n=2"),
            format!("/v2/{ALIAS}/referrers/{}", subject.digest()),
            "/v2/_catalog".to_owned(),
        ] {
            let texts = texts(&client, &path).await;
            assert!(!texts.contains(REPO), "{mode} {path}: {texts}");
        }
        let page = client.get(&format!("/v2/{ALIAS}/tags/list?n=2")).await;
        assert!(header(&page, "link").starts_with(&format!("</v2/{ALIAS}/tags/list?")), "{page:?}");
        let page: Value = page.json().await.unwrap();
        assert_eq!((&page["name"], &page["tags"]), (&json!(ALIAS), &json!(["a", "b"])));
        registry.stop();
    }
}

#[tokio::test]
async fn challenges_name_the_clients_repository() {
    for mode in MODES {
        let upstream = Upstream::start();
        upstream.put_image(REPO, "v1", &Image::of(1));
        let mut setup = in_front_of(mode, &upstream);
        setup.users = true;
        let registry = Registry::start(&setup);
        let refused = registry.client().get(&format!("/v2/{ALIAS}/manifests/v1")).await;
        assert_eq!(refused.status(), 401);
        let challenges = format!("{:?}", refused.headers().get_all("www-authenticate").iter().collect::<Vec<_>>());
        assert!(challenges.contains(&format!("repository:{ALIAS}:pull")), "{challenges}");
        assert_eq!(registry.client_as("ro").get(&format!("/v2/{ALIAS}/manifests/v1")).await.status(), 200);
        assert_eq!(upstream.count("*", "/v2/*/manifests/v1"), 0);
        registry.stop();
    }
}

#[tokio::test]
async fn pushes_are_refused_with_the_modes_name() {
    for mode in MODES {
        let upstream = Upstream::start();
        let image = Image::of(1);
        upstream.put_image(REPO, "v1", &image);
        let mut setup = in_front_of(mode, &upstream);
        setup.users = true;
        let registry = Registry::start(&setup);
        let digest = image.digest();
        let upload = "5bd2ac0c-3b6d-4c8f-9a3c-3a3ae1a9bf0f";
        let writes = [
            (Method::POST, "blobs/uploads/".to_owned()),
            (Method::POST, format!("blobs/uploads/?mount={digest}&from=a")),
            (Method::PATCH, format!("blobs/uploads/{upload}")),
            (Method::PUT, format!("blobs/uploads/{upload}?digest={digest}")),
            (Method::DELETE, format!("blobs/uploads/{upload}")),
            (Method::PUT, "manifests/v1".to_owned()),
            (Method::DELETE, format!("manifests/{digest}")),
            (Method::DELETE, "manifests/v1".to_owned()),
            (Method::DELETE, format!("blobs/{digest}")),
        ];
        for (method, rest) in writes {
            let path = format!("/v2/{ALIAS}/{rest}");
            let ask = |client: Client| {
                let request = client.request(method.clone(), &path).header("content-type", image.media_type());
                request.body(image.manifest().to_vec()).send()
            };
            assert_eq!(ask(registry.client()).await.unwrap().status(), 401, "{mode} {method} {path}");
            assert_eq!(ask(registry.client_with("rw", "wrong")).await.unwrap().status(), 401, "{mode} {method} {path}");
            for user in ["rw", "ro"] {
                let response = ask(registry.client_as(user)).await.unwrap();
                let allow = header(&response, "allow");
                let refusal = refusal(response).await;
                assert_eq!((refusal.status, &*refusal.code), (405, "UNSUPPORTED"), "{mode} {user} {method} {path}");
                assert!(refusal.message.contains(mode), "{refusal:?}");
                assert!(!allow.contains(method.as_str()), "{method} {path} is refused and allowed: {allow}");
            }
        }
        assert!(upstream.seen().iter().all(|seen| ["GET", "HEAD"].contains(&&*seen.method)), "a write went upstream");
        registry.stop();
    }
}
