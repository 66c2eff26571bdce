//! Deletions at a master whose disk has no room for another byte.

use reqwest::Method;

use super::bed::{Bed, MASTERS};
use super::is_inside;
use super::trouble::Trouble;
use crate::support::Image;

const NAME: &str = "system/deckhouse";
/// Their records are five pages of the disk (4 KiB).
const IMAGES: u64 = 60;
/// The file of records is written anew when it has more than 256 lines of which half say nothing any more. A deletion and the push
/// before it are three lines, so in three times that many lines it is the deletion's turn once.
const DELETIONS: usize = 160;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_full_master_has_acknowledged_to_be_deleted_stays_so_on_all() {
    if !is_inside("faults::full::what_a_full_master_has_acknowledged_to_be_deleted_stays_so_on_all") {
        return;
    }
    let bed = tokio::task::block_in_place(Bed::start);
    let clients: Vec<_> = (0..MASTERS).map(Bed::client).collect();
    let images: Vec<Image> = (0..IMAGES).map(Image::of).collect();
    for (number, image) in images.iter().enumerate() {
        clients[0].push_image(NAME, &format!("v{number}"), image).await;
    }
    let path = format!("/v2/{NAME}/manifests/gone");
    let mut acknowledged = 0;
    for number in 0..DELETIONS {
        let image = &images[number % images.len()];
        let put = clients[0].request(Method::PUT, &path).header("content-type", image.media_type());
        assert_eq!(put.body(image.manifest().to_vec()).send().await.unwrap().status(), 201);
        tokio::task::block_in_place(|| bed.trouble(Trouble::Full, 0));
        let answer = clients[0].request(Method::DELETE, &path).send().await.unwrap().status();
        tokio::task::block_in_place(|| bed.end(Trouble::Full, 0));
        match answer.as_u16() {
            202 => acknowledged += 1,
            // It may be gone or not.
            507 => continue,
            _ => panic!("{answer}"),
        }
        // Each has heard of all that the others know.
        bed.are_equal().await;
        for client in &clients {
            assert_eq!(client.request(Method::GET, &path).send().await.unwrap().status(), 404, "deletion {number}");
        }
    }
    assert!(acknowledged > DELETIONS / 2, "{acknowledged} of {DELETIONS}: what goes gives room to say so");
}
