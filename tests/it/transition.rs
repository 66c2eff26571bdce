//! A switch on one server: who sees the coming mode, and what the modes behind the one in force answer.

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::{
    ALIAS, Answer, Gate, Image, REPO, Switched, Upstream, answered_by, blob, cache, coming, digest, header,
    is_previous, mode, mode_file, path, refusal,
};

const PREVIOUS: &str = "d8_registry_previous_answers_total";

/// An upstream with this image under tag `v1`.
fn with(image: &Image) -> Upstream {
    let upstream = Upstream::start();
    upstream.put_image(REPO, "v1", image);
    upstream
}

fn manifest(image: &Image) -> String {
    path(&format!("manifests/{}", image.digest()))
}

fn layer(image: &Image) -> String {
    path(&format!("blobs/{}", digest(&image.blobs()[1])))
}

/// Status and mode of an answer.
fn of(response: &Response) -> (u16, String) {
    (response.status().as_u16(), answered_by(response))
}

fn by(status: u16, mode: &str) -> (u16, String) {
    (status, mode.to_owned())
}

#[tokio::test]
async fn who_pushes_and_checks_sees_the_coming_mode_and_all_others_the_one_in_force() {
    let (old, new) = (Image::of(1), Image::of(2));
    let upstream = with(&old);
    let (proxy, local) = (mode("Proxy", Some(&upstream)), mode("Local", None));
    let server = Switched::start(&mode_file(1, &proxy, Some(&coming(&local, "filling")), &[]));
    server.until(|status| status["index"]["state"] == "ready").await;
    // Not one blob of the upstream's is taken for one that is there already.
    for user in ["rw", "mirror-pusher", "mirror-puller"] {
        for asked in [manifest(&old), layer(&old), path("manifests/v1")] {
            assert_eq!(of(&server.client(user).get(&asked).await), by(404, "Local"), "{user} {asked}");
            assert_eq!(of(&server.client(user).head(&asked).await), by(404, "Local"), "{user} {asked}");
        }
    }
    server.client("rw").push_image(ALIAS, "v1", &new).await;
    for user in ["rw", "mirror-pusher", "mirror-puller"] {
        let client = server.client(user);
        // Twice: the second answer comes from memory.
        for _ in 0..2 {
            let answer = client.get(&path("manifests/v1")).await;
            assert_eq!(of(&answer), by(200, "Local"), "{user}");
            assert_eq!(header(&answer, "docker-content-digest"), new.digest());
        }
        assert_eq!(of(&client.get(&path("tags/list")).await), by(200, "Local"));
    }
    let catalog: Value = server.client("mirror-puller").get("/v2/_catalog").await.json().await.unwrap();
    assert_eq!(catalog, json!({ "repositories": [ALIAS] }));
    for _ in 0..2 {
        let answer = server.client("ro").get(&path("manifests/v1")).await;
        assert_eq!(of(&answer), by(200, "Proxy"));
        assert_eq!(header(&answer, "docker-content-digest"), old.digest());
        for asked in [manifest(&new), layer(&new)] {
            assert_eq!(of(&server.client("ro").get(&asked).await), by(404, "Proxy"), "{asked}");
        }
    }
    assert_eq!(of(&server.client("mirror-pusher").delete(&manifest(&new)).await), by(202, "Local"));
    let refused = server.client("ro").put_image(ALIAS, "v1", &new).await;
    assert_eq!(refused.status(), 405);
    assert_eq!(server.registry.metric(PREVIOUS).await, 0.0);
    server.registry.stop();
}

#[tokio::test]
async fn from_ready_on_the_coming_mode_answers_digests_that_the_one_in_force_has_not() {
    let (old, new) = (Image::of(1), Image::of(2));
    for name in ["Proxy", "Direct"] {
        let mut upstream = with(&old);
        let (before, local) = (mode(name, Some(&upstream)), mode("Local", None));
        let server = Switched::start(&mode_file(1, &before, Some(&coming(&local, "filling")), &[]));
        server.client("rw").push_image(ALIAS, "new", &new).await;
        server.switch(&mode_file(2, &before, Some(&coming(&local, "ready")), &[])).await;
        let ro = server.client("ro");
        for asked in [manifest(&new), layer(&new)] {
            assert_eq!(of(&ro.get(&asked).await), by(200, "Local"), "{name} {asked}");
            assert_eq!(of(&ro.head(&asked).await), by(200, "Local"), "{name} {asked}");
        }
        assert_eq!(of(&ro.get(&manifest(&old)).await), by(200, name));
        assert_eq!(of(&ro.get(&path("manifests/new")).await), by(404, name), "tags come from the mode in force");
        // An upstream that is gone is no usable answer either.
        upstream.down();
        for asked in [manifest(&new), layer(&new)] {
            assert_eq!(of(&ro.get(&asked).await), by(200, "Local"), "{name} {asked}");
        }
        assert_eq!(server.registry.metric(PREVIOUS).await, 0.0);
        server.registry.stop();
    }
}

#[tokio::test]
async fn a_mode_before_answers_digests_alone_and_every_such_answer_is_counted() {
    let image = Image::of(1);
    for name in ["Proxy", "Direct"] {
        let upstream = with(&image);
        let (local, before) = (mode("Local", None), mode(name, Some(&upstream)));
        let server = Switched::start(&mode_file(1, &local, None, &[&before]));
        server.until(|status| status["index"]["state"] == "ready").await;
        let ro = server.client("ro");
        let mut counted = 0.0;
        for asked in [manifest(&image), layer(&image)] {
            for method in [Method::GET, Method::HEAD] {
                let answer = ro.request(method.clone(), &asked).send().await.unwrap();
                assert_eq!((of(&answer), is_previous(&answer)), (by(200, name), true), "{name} {method} {asked}");
                let _ = answer.bytes().await;
                counted += 1.0;
                server.registry.until_metric(PREVIOUS, counted).await;
            }
        }
        let part = ro.request(Method::GET, &layer(&image)).header("range", "bytes=10-19").send().await.unwrap();
        assert_eq!((of(&part), is_previous(&part)), (by(206, name), true));
        assert_eq!(part.bytes().await.unwrap(), image.blobs()[1][10..20]);
        server.registry.until_metric(PREVIOUS, counted + 1.0).await;
        for asked in [path("manifests/v1"), path("tags/list"), path(&format!("manifests/{}", digest(b"none")))] {
            let refused = ro.get(&asked).await;
            assert_eq!((refused.status().as_u16(), is_previous(&refused)), (404, false), "{asked}");
        }
        assert_eq!(server.status().await["previousAnswers"], json!(counted + 1.0).as_f64().unwrap() as u64);
        assert_eq!(server.status().await["previous"], json!([name]));
        // Once it ends, so do the answers.
        server.switch(&mode_file(2, &local, None, &[])).await;
        for asked in [manifest(&image), layer(&image)] {
            assert_eq!(of(&ro.get(&asked).await), by(404, "Local"));
        }
        server.registry.stop();
    }
}

#[tokio::test]
async fn a_push_is_not_told_that_the_mode_before_has_what_it_brings() {
    let image = Image::of(1);
    let upstream = with(&image);
    let before = mode("Proxy", Some(&upstream));
    let server = Switched::start(&mode_file(1, &mode("Local", None), None, &[&before]));
    let rw = server.client("rw");
    for asked in [manifest(&image), layer(&image)] {
        assert_eq!(of(&rw.head(&asked).await), by(404, "Local"));
        let pulled = rw.get(&asked).await;
        assert_eq!((of(&pulled), is_previous(&pulled)), (by(200, "Proxy"), true));
    }
    rw.push_image(ALIAS, "v1", &image).await;
    for asked in [manifest(&image), layer(&image)] {
        for answer in [rw.head(&asked).await, server.client("ro").get(&asked).await] {
            assert_eq!((of(&answer), is_previous(&answer)), (by(200, "Local"), false));
        }
    }
    server.registry.stop();
}

#[tokio::test]
async fn the_newest_mode_that_has_it_answers_and_404_is_said_only_when_all_say_so() {
    let images = [Image::of(1), Image::of(2), Image::of(3)];
    let mut upstreams = images.each_ref().map(with);
    let modes = upstreams.each_ref().map(|upstream| mode("Direct", Some(upstream)));
    let server = Switched::start(&mode_file(1, &modes[0], None, &[&modes[1], &modes[2]]));
    let ro = server.client("ro");
    for (image, is_before) in images.iter().zip([false, true, true]) {
        let answer = ro.get(&manifest(image)).await;
        assert_eq!((answer.status().as_u16(), is_previous(&answer)), (200, is_before));
    }
    let nowhere = path(&format!("blobs/{}", digest(b"nowhere")));
    assert_eq!(ro.get(&nowhere).await.status(), 404);
    upstreams[1].down();
    assert_eq!(ro.get(&manifest(&images[2])).await.status(), 200);
    assert_eq!(refusal(ro.get(&nowhere).await).await.status, 502);
    upstreams[0].down();
    let answer = ro.get(&layer(&images[2])).await;
    assert_eq!((answer.status().as_u16(), &*cache(&answer)), (200, "previous"));
    server.registry.stop();
}

#[tokio::test]
async fn half_an_image_in_the_new_mode_is_answered_by_the_mode_before() {
    let image = Image::of(1);
    let upstream = with(&image);
    let (local, before) = (mode("Local", None), mode("Proxy", Some(&upstream)));
    let allow = "manifests: { missingReferences: allow }";
    let server = Switched::start_with(&mode_file(1, &local, None, &[]), allow);
    assert_eq!(server.client("rw").put_image(ALIAS, "v1", &image).await.status(), 201);
    let folder = server.registry.folder();
    server.registry.stop();
    let server = Switched::start_in(folder, Some(&mode_file(2, &local, None, &[&before])), "");
    let answer = server.client("ro").get(&manifest(&image)).await;
    assert_eq!((of(&answer), is_previous(&answer)), (by(200, "Proxy"), true));
    assert_eq!(answer.bytes().await.unwrap(), image.manifest());
    assert_eq!(server.client("ro").get(&path("manifests/v1")).await.status(), 404);
    server.registry.stop();
}

#[tokio::test]
async fn an_upstream_that_says_nothing_does_not_keep_the_mode_before_from_answering() {
    let image = Image::of(1);
    let (silent, before) = (with(&image), with(&image));
    let gate = Gate::new();
    silent.rule("GET", &format!("/v2/{REPO}/blobs/*"), {
        let gate = gate.clone();
        move |answer| {
            answer.hold_head(&gate);
        }
    });
    let (in_force, previous) = (mode("Direct", Some(&silent)), mode("Direct", Some(&before)));
    let server = Switched::start(&mode_file(1, &in_force, None, &[&previous]));
    let answer = server.client("ro").get(&layer(&image)).await;
    assert_eq!((answer.status().as_u16(), is_previous(&answer)), (200, true));
    assert_eq!(answer.bytes().await.unwrap(), image.blobs()[1]);
    gate.open();
    server.registry.stop();
}

#[tokio::test]
async fn whatever_the_mode_in_force_fails_with_the_mode_before_answers() {
    type Fault = fn(&mut Answer, &Gate);
    let faults: [(&str, Fault); 5] = [
        ("refused", |answer, _| _ = answer.fail(403, "no")),
        ("not signed in", |answer, _| _ = answer.fail(401, "no")),
        ("an error of the server", |answer, _| _ = answer.fail(500, "broken")),
        ("not there for now", |answer, _| _ = answer.fail(503, "later")),
        ("no answer", |answer, gate| _ = answer.hold_head(gate)),
    ];
    for name in ["Direct", "Proxy"] {
        for (fault, fails) in faults {
            let image = Image::of(1);
            let (broken, before) = (with(&image), with(&image));
            let gate = Gate::new();
            for kind in ["manifests", "blobs"] {
                for method in ["GET", "HEAD"] {
                    let gate = gate.clone();
                    broken.rule(method, &format!("/v2/{REPO}/{kind}/*"), move |answer| fails(answer, &gate));
                }
            }
            let (in_force, previous) = (mode(name, Some(&broken)), mode("Direct", Some(&before)));
            let server = Switched::start(&mode_file(1, &in_force, None, &[&previous]));
            for (asked, content) in [(manifest(&image), image.manifest()), (layer(&image), &image.blobs()[1][..])] {
                let answer = server.client("ro").get(&asked).await;
                assert_eq!((answer.status().as_u16(), is_previous(&answer)), (200, true), "{name}, {fault}: {asked}");
                assert_eq!(answer.bytes().await.unwrap(), content, "{name}, {fault}: {asked}");
            }
            gate.open();
            server.registry.stop();
        }
    }
}

#[tokio::test]
async fn a_request_ends_in_the_mode_that_it_began_with() {
    let image = Image::of(1);
    let upstream = with(&image);
    let gate = Gate::new();
    upstream.rule("GET", &format!("/v2/{REPO}/manifests/*"), {
        let gate = gate.clone();
        move |answer| {
            answer.hold_head(&gate);
        }
    });
    let server = Switched::start(&mode_file(1, &mode("Direct", Some(&upstream)), None, &[]));
    let client = server.client("ro");
    let asked = path("manifests/v1");
    let running = tokio::spawn(async move { client.get(&asked).await });
    gate.arrived(1).await;
    server.switch(&mode_file(2, &mode("Local", None), None, &[])).await;
    assert_eq!(server.client("ro").get(&path("manifests/v1")).await.status(), 404);
    gate.open();
    assert_eq!(of(&running.await.unwrap()), by(200, "Direct"));
    server.registry.stop();
}

#[tokio::test]
async fn a_restart_in_any_phase_takes_the_newest_one_before_it_listens() {
    let (old, new) = (Image::of(1), Image::of(2));
    let upstream = with(&old);
    let (proxy, local) = (mode("Proxy", Some(&upstream)), mode("Local", None));
    let (filling, ready) = (coming(&local, "filling"), coming(&local, "ready"));
    let phases = [
        (mode_file(1, &proxy, None, &[]), 404, "Proxy"),
        (mode_file(2, &proxy, Some(&filling), &[]), 404, "Proxy"),
        (mode_file(3, &proxy, Some(&ready), &[]), 200, "Local"),
        (mode_file(4, &local, None, &[&proxy]), 200, "Local"),
        (mode_file(5, &local, None, &[]), 200, "Local"),
    ];
    let mut server = Switched::start(&phases[0].0);
    for (number, (file, status, answers)) in phases.iter().enumerate() {
        // It was away while the phase changed.
        let folder = server.registry.folder();
        server.registry.kill();
        server = Switched::start_in(folder, Some(file), "");
        if number == 1 {
            server.client("rw").push_image(ALIAS, "v1", &new).await;
        }
        let answer = server.client("ro").get(&manifest(&new)).await;
        assert_eq!(of(&answer), by(*status, answers), "phase {number}");
        let before = server.client("ro").get(&manifest(&old)).await;
        assert_eq!(before.status(), if number == 4 { 404 } else { 200 }, "phase {number}");
    }
    server.registry.stop();
}

#[tokio::test]
async fn a_push_into_a_coming_local_takes_room_of_what_no_stored_tag_reaches() {
    const MIB: usize = 1 << 20;
    let mut upstream = Upstream::start();
    let untagged: Vec<Vec<u8>> = (1..=3).map(|seed| blob(seed, MIB)).collect();
    for content in &untagged {
        upstream.put_blob(REPO, content);
    }
    let tagged = Image::of_layers(b"{}".to_vec(), vec![blob(10, MIB)], &json!({}));
    upstream.put_image(REPO, "v1", &tagged);
    let (proxy, local) = (mode("Proxy", Some(&upstream)), mode("Local", None));
    let room = "store: { dir: $DIR, reserveBytes: 0, maxBytes: 5MiB }";
    let server = Switched::start_with(&mode_file(1, &proxy, None, &[]), room);
    let ro = server.client("ro");
    for content in &untagged {
        let read = ro.get(&path(&format!("blobs/{}", digest(content)))).await.bytes().await.unwrap();
        assert!(read == content);
    }
    assert_eq!(ro.get(&path("manifests/v1")).await.status(), 200);
    assert_eq!(ro.get(&layer(&tagged)).await.bytes().await.unwrap().len(), MIB);
    server.registry.until_metric("d8_registry_fills_running", 0.0).await;
    server.switch(&mode_file(2, &proxy, Some(&coming(&local, "filling")), &[])).await;
    server.until_probed().await;
    let rw = server.client("rw");
    rw.push_blob(ALIAS, &blob(20, 2 * MIB)).await;
    assert!(server.registry.metric("d8_registry_evictions_total{cause=\"room\"}").await >= 1.0);
    // What the tag reaches has stayed, whatever comes.
    let too_much = blob(21, 4 * MIB);
    let request = format!("/v2/{ALIAS}/blobs/uploads/?digest={}", digest(&too_much));
    let refused = refusal(rw.request(Method::POST, &request).body(too_much).send().await.unwrap()).await;
    assert_eq!(refused.status, 507);
    upstream.forget_seen();
    assert_eq!(ro.get(&layer(&tagged)).await.bytes().await.unwrap().len(), MIB);
    assert_eq!(upstream.count("GET", &format!("/v2/{REPO}/blobs/{}", digest(&tagged.blobs()[1]))), 0);

    // What could not be fetched again does not go at all.
    upstream.down();
    server.switch(&mode_file(3, &proxy, Some(&coming(&local, "ready")), &[])).await;
    server.until(|status| status["upstream"]["outcome"] == "unreachable").await;
    let more = blob(22, 2 * MIB);
    let request = format!("/v2/{ALIAS}/blobs/uploads/?digest={}", digest(&more));
    let refused = refusal(rw.request(Method::POST, &request).body(more).send().await.unwrap()).await;
    assert_eq!(refused.status, 507);
    server.registry.stop();
}
