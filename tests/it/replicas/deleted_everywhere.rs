//! What a client deletes at one master is gone at all that answer.

use super::*;

/// What the own stores of masters have of a blob.
async fn holders(masters: &Masters, count: usize, path: &str) -> Vec<usize> {
    let mut holders = Vec::new();
    for master in 0..count {
        if status(&masters.client(master, "mirror-puller"), path).await == 200 {
            holders.push(master);
        }
    }
    holders
}

async fn delete(masters: &Masters, master: usize, path: &str) -> (u16, String) {
    let answer = masters.client(master, "rw").delete(path).await;
    match answer.status().as_u16() {
        202 => (202, answer.text().await.unwrap()),
        status => (status, refusal(answer).await.code),
    }
}

#[tokio::test]
async fn a_blob_that_is_deleted_at_one_master_is_gone_at_all_of_them() {
    let masters = Masters::start(3).await;
    for round in 0..12 {
        let content = blob(round, 200_000);
        let path = blob_path(NAME, &masters.client(0, "rw").push_blob(NAME, &content).await);
        let in_another = blob_path("another", &masters.client(0, "rw").push_blob("another", &content).await);
        // What has just come to the third master is not back behind its end.
        assert!(masters.client(2, "ro").get(&path).await.bytes().await.unwrap() == content);
        assert_eq!(delete(&masters, round as usize % 3, &path).await, (202, String::new()));
        for master in 0..3 {
            assert_eq!(status(&masters.client(master, "ro"), &path).await, 404, "{round} {master}");
            assert_eq!(delete(&masters, master, &path).await, (404, "BLOB_UNKNOWN".to_owned()));
        }
        assert_eq!(status(&masters.client(1, "ro"), &in_another).await, 200, "it is the other repository's still");
    }
    masters.end();
}

#[tokio::test]
async fn who_asks_one_master_alone_deletes_there_alone_and_who_may_not_deletes_nowhere() {
    let masters = Masters::start(2).await;
    let path = blob_path(NAME, &masters.client(0, "rw").push_blob(NAME, b"content").await);
    masters.client(1, "rw").push_blob(NAME, b"content").await;
    let alone = async |master: usize| {
        let request = masters.client(master, "rw").request(Method::DELETE, &path).header("d8-hop", "1");
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(masters.client(0, "ro").delete(&path).await.status(), 403);
    assert_eq!(holders(&masters, 2, &path).await, [0, 1]);
    assert_eq!(alone(0).await, 202);
    assert_eq!(holders(&masters, 2, &path).await, [1]);
    assert_eq!(alone(0).await, 404);
    assert_eq!(delete(&masters, 0, &path).await.0, 202);
    assert_eq!(holders(&masters, 2, &path).await, [0; 0]);
    masters.end();
}

#[tokio::test]
async fn a_master_that_is_away_costs_a_delete_nothing_and_keeps_its_own() {
    let mut masters = Masters::start(3).await;
    let path = blob_path(NAME, &masters.client(0, "rw").push_blob(NAME, b"content").await);
    masters.client(2, "rw").push_blob(NAME, b"content").await;
    let folder = masters.stop(2);
    assert_eq!(delete(&masters, 1, &path).await.0, 202);
    assert_eq!(status(&masters.client(0, "ro"), &path).await, 404);
    // It has no record of a blob, so it knows nothing of the delete.
    masters.start_again(2, folder).await;
    within(async { while status(&masters.client(0, "ro"), &path).await != 200 {} }).await;
    assert_eq!(delete(&masters, 1, &path).await.0, 202);
    assert_eq!(holders(&masters, 3, &path).await, [0; 0]);
    masters.end();
}

#[tokio::test]
async fn when_a_delete_is_answered_no_master_that_answers_has_it() {
    let masters = Masters::start_with_copies(3, ("all", "refuse"), "").await;
    for round in 0..12 {
        let (image, client) = (Image::of(round), masters.client(round as usize % 3, "rw"));
        masters.client(0, "rw").push_image(NAME, "v1", &image).await;
        assert_eq!(client.delete(&manifest_path(NAME, "v1")).await.status(), 202);
        for master in 0..3 {
            let of_master = masters.client(master, "ro");
            assert_eq!(status(&of_master, &manifest_path(NAME, "v1")).await, 404, "{round} {master}");
            assert_eq!(status(&of_master, &manifest_path(NAME, &image.digest())).await, 200);
        }
        masters.client(1, "rw").put_image(NAME, "v2", &image).await;
        assert_eq!(client.delete(&manifest_path(NAME, &image.digest())).await.status(), 202);
        for master in 0..3 {
            for reference in ["v2", &image.digest()] {
                let path = manifest_path(NAME, reference);
                assert_eq!(status(&masters.client(master, "ro"), &path).await, 404, "{round} {master} {reference}");
            }
        }
    }
    masters.end();
}

#[tokio::test]
async fn a_master_that_stands_still_does_not_keep_a_delete() {
    let masters = Masters::start(3).await;
    let image = Image::of(1);
    masters.client(0, "rw").push_image(NAME, "v1", &image).await;
    masters.until_same(&[0, 1, 2]).await;
    masters.at(2).signal(Signal::STOP);
    let layer = blob_path(NAME, &digest(&image.blobs()[0]));
    for path in [manifest_path(NAME, "v1"), manifest_path(NAME, &image.digest()), layer] {
        assert_eq!(delete(&masters, 0, &path).await.0, 202, "{path}");
        assert_eq!(status(&masters.client(1, "ro"), &path).await, 404);
    }
    masters.at(2).signal(Signal::CONT);
    masters.until_same(&[0, 1, 2]).await;
    assert_eq!(status(&masters.client(2, "ro"), &manifest_path(NAME, "v1")).await, 404);
    masters.end();
}
