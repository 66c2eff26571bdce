//! Masters that restart one after the other, in order, under pulls and pushes through node-proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use reqwest::{Method, Response};
use tokio::sync::watch;

use super::bed::{Bed, MASTERS};
use super::{CLIENTS, is_inside};
use crate::support::{Client, Image, digest, header, within};

const NAME: &str = "system/deckhouse";
const IMAGES: u64 = 20;
/// Pulls and pushes between two restarts.
const PULLS_BETWEEN: usize = 60;
const PUSHES_BETWEEN: usize = 6;
const PUSHERS: u64 = 3;
/// How often `d8 mirror push` tries an image.
const TRIES: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masters_that_restart_one_after_the_other_fail_no_pull_and_no_push_through_node_proxy() {
    if !is_inside(
        "faults::rolling::masters_that_restart_one_after_the_other_fail_no_pull_and_no_push_through_node_proxy",
    ) {
        return;
    }
    let bed = Arc::new(tokio::task::block_in_place(Bed::start));
    let images: Vec<Image> = (0..IMAGES).map(Image::of).collect();
    for master in 0..MASTERS {
        for (number, image) in images.iter().enumerate() {
            Bed::client(master).push_image(NAME, &format!("v{number}"), image).await;
        }
    }
    let proxy = tokio::task::block_in_place(Bed::node_proxy);
    let (pulled, pushed, over) = (watch::Sender::new(0_usize), watch::Sender::new(0_usize), AtomicBool::new(false));
    let pull = async |first: usize| {
        let client = proxy.client();
        let mut failed: Vec<String> = Vec::new();
        for number in (0..images.len()).cycle().skip(first) {
            if over.load(Ordering::Relaxed) {
                break;
            }
            failed.extend(pulled_whole(&client, &format!("v{number}"), &images[number]).await.err());
            pulled.send_modify(|count| *count += 1);
        }
        failed
    };
    let push = async |pusher: u64| {
        let client = proxy.client();
        let (mut failed, mut again) = (Vec::new(), 0);
        for number in 0.. {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let image = Image::of(1000 * (pusher + 1) + number);
            let tag = format!("p{pusher}-{number}");
            match pushed_whole(&client, &tag, &image, &mut again).await {
                // Whoever answers now has it.
                Ok(()) => failed.extend(pulled_whole(&client, &tag, &image).await.err()),
                Err(error) => failed.push(error),
            }
            pushed.send_modify(|count| *count += 1);
        }
        (failed, again)
    };
    let rolling = async {
        for master in (0..MASTERS).chain(0..MASTERS) {
            let goals = (*pulled.borrow() + PULLS_BETWEEN, *pushed.borrow() + PUSHES_BETWEEN);
            within(pulled.subscribe().wait_for(|count| *count >= goals.0)).await.unwrap();
            within(pushed.subscribe().wait_for(|count| *count >= goals.1)).await.unwrap();
            let bed = Arc::clone(&bed);
            tokio::task::spawn_blocking(move || bed.restart(master)).await.unwrap();
        }
        over.store(true, Ordering::Relaxed);
    };
    let pulls = join_all((0..CLIENTS).map(|client| pull(client as usize)));
    let (failed, pushes, ()) = tokio::join!(pulls, join_all((0..PUSHERS).map(push)), rolling);
    let again: usize = pushes.iter().map(|(_, again)| again).sum();
    let failed: Vec<String> =
        failed.into_iter().chain(pushes.into_iter().map(|(failed, _)| failed)).flatten().collect();
    let (pulls, pushes) = (*pulled.borrow(), *pushed.borrow());
    eprintln!("{pulls} pulls, {pushes} pushes, {again} of their tries again, {} failed", failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// An image by its tag, and all that it names.
async fn pulled_whole(client: &Client, tag: &str, image: &Image) -> Result<(), String> {
    let manifest = (format!("/v2/{NAME}/manifests/{tag}"), image.manifest());
    let blobs = image.blobs().iter().map(|blob| (format!("/v2/{NAME}/blobs/{}", digest(blob)), blob.as_slice()));
    for (path, wanted) in std::iter::once(manifest).chain(blobs) {
        let asked = || client.request(Method::GET, &path).send();
        let answer = match asked().await {
            // A master that stops ends handshakes: node-proxy has another one for the next.
            Err(error) if error.is_connect() => asked().await,
            answered => answered,
        };
        let answer = answer.map_err(|error| format!("{path}: {error:?}"))?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| format!("{path}: {error:?}"))?;
        if status != 200 || bytes != wanted {
            return Err(format!("{path}: {status} {} bytes", bytes.len()));
        }
    }
    Ok(())
}

/// Pushes an image as clients do: in three requests for each blob, and from the beginning where one of them is refused for a reason
/// that passes.
async fn pushed_whole(client: &Client, tag: &str, image: &Image, again: &mut usize) -> Result<(), String> {
    let mut why = String::new();
    for attempt in 0..TRIES {
        *again += usize::from(attempt > 0);
        match pushed_once(client, tag, image).await {
            Ok(answer) if answer.status() == 201 && !answer.headers().contains_key("warning") => return Ok(()),
            // Its master stops and has no time for copies: nobody else may have it when that one is away.
            Ok(answer) if answer.status() == 201 => why = format!("{tag}: {}", header(&answer, "warning")),
            Ok(answer) => {
                let status = answer.status().as_u16();
                why = format!("{tag}: {status} {}", answer.text().await.unwrap_or_default());
                if !matches!(status, 404 | 502..=504) {
                    break;
                }
            }
            Err(error) => why = format!("{tag}: {error:?}"),
        }
    }
    Err(why)
}

/// The answer to the last request, or to the first that is refused.
async fn pushed_once(client: &Client, tag: &str, image: &Image) -> Result<Response, reqwest::Error> {
    for content in image.blobs() {
        let begun = client.request(Method::POST, &format!("/v2/{NAME}/blobs/uploads/")).send().await?;
        if begun.status() != 202 {
            return Ok(begun);
        }
        let sent = client.request(Method::PATCH, &header(&begun, "location")).body(content.clone()).send().await?;
        if sent.status() != 202 {
            return Ok(sent);
        }
        let end = format!("{}?digest={}", header(&sent, "location"), digest(content));
        let ended = client.request(Method::PUT, &end).send().await?;
        if ended.status() != 201 {
            return Ok(ended);
        }
    }
    let request = client.request(Method::PUT, &format!("/v2/{NAME}/manifests/{tag}"));
    request.header("content-type", image.media_type()).body(image.manifest().to_vec()).send().await
}
