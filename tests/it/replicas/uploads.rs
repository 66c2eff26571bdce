//! Uploads whose requests come to one master after the other, as a balancer sends them.

use std::sync::Arc;

use futures_util::stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;
use crate::support::{Balancer, header};

async fn patch(client: &Client, location: &str, range: Option<&str>, body: &[u8]) -> reqwest::Response {
    let request = client.request(Method::PATCH, location).body(body.to_vec());
    let request = range.into_iter().fold(request, |request, range| request.header("content-range", range));
    request.send().await.unwrap()
}

async fn put(client: &Client, location: &str, digest: &str, body: &[u8]) -> reqwest::Response {
    client.request(Method::PUT, &format!("{location}?digest={digest}")).body(body.to_vec()).send().await.unwrap()
}

/// Whether a master has an upload in its own store.
fn has_uploads(masters: &Masters, master: usize) -> bool {
    std::fs::read_dir(masters.at(master).data().join("uploads")).unwrap().next().is_some()
}

async fn passed_on(masters: &Masters, master: usize, outcome: &str) -> f64 {
    masters.at(master).metric(&format!("d8_registry_uploads_passed_on_total{{outcome=\"{outcome}\"}}")).await
}

#[tokio::test]
async fn an_upload_goes_on_at_whichever_master_is_asked() {
    for count in [2, 3] {
        let masters = Masters::start(count).await;
        let any = Balancer::of(&masters, "rw");
        let content = blob(1, 900_000);
        let name = digest(&content);
        let location = any.next().begin(NAME).await;
        assert!(location.starts_with(&format!("/v2/{NAME}/blobs/uploads/")) && !location.contains('?'), "{location}");
        let first = patch(any.next(), &location, Some("0-299999"), &content[..300_000]).await;
        assert_eq!((first.status().as_u16(), header(&first, "range")), (202, "0-299999".into()));
        assert_eq!((header(&first, "location"), header(&first, "content-length")), (location.clone(), "0".into()));
        assert_eq!(header(&first, "docker-upload-uuid"), location.rsplit('/').next().unwrap());
        let at = any.next().get(&location).await;
        assert_eq!((at.status().as_u16(), header(&at, "range")), (204, "0-299999".into()));
        // Without a length, in chunks of HTTP.
        let pieces: Vec<Result<_, std::io::Error>> =
            content[300_000..600_000].chunks(100_000).map(|piece| Ok(piece.to_vec())).collect();
        let streamed =
            any.next().request(Method::PATCH, &location).body(reqwest::Body::wrap_stream(stream::iter(pieces)));
        let streamed = streamed.send().await.unwrap();
        assert_eq!((streamed.status().as_u16(), header(&streamed, "range")), (202, "0-599999".into()));
        assert!((1..count).all(|other| !has_uploads(&masters, other)), "no copy of it lies elsewhere");
        let done = put(any.next(), &location, &name, &content[600_000..]).await;
        assert_eq!(done.status(), 201, "{}", done.text().await.unwrap());
        assert_eq!(header(&done, "location"), blob_path(NAME, &name));
        assert_eq!(header(&done, "docker-content-digest"), name);
        assert!(!has_uploads(&masters, 0));
        // The answer was lost, and the client asks again.
        for master in 0..count {
            assert_eq!(put(&masters.client(master, "rw"), &location, &name, b"").await.status(), 201);
            assert_eq!(masters.client(master, "rw").head(&blob_path(NAME, &name)).await.status(), 200, "{master}");
            let read = masters.client(master, "ro").get(&blob_path(NAME, &name)).await;
            assert!(read.bytes().await.unwrap() == content);
        }
        assert!(passed_on(&masters, 1, "answered").await >= 2.0);
        masters.end();
    }
}

#[tokio::test]
async fn another_master_refuses_what_the_master_of_the_upload_would() {
    let masters = Masters::start(2).await;
    let content = blob(2, 3000);
    for over in [0, 1] {
        let (own, any) = (masters.client(0, "rw"), masters.client(over, "rw"));
        let location = own.begin(NAME).await;
        assert_eq!(patch(&any, &location, Some("0-999"), &content[..1000]).await.status(), 202);
        for range in ["0-999", "1001-2000", "500-1499"] {
            let refused = patch(&any, &location, Some(range), &content[..1000]).await;
            assert_eq!((refused.status().as_u16(), header(&refused, "range")), (416, "0-999".into()), "{range}");
            assert_eq!(header(&refused, "location"), location);
            assert_eq!(refusal(refused).await.code, "BLOB_UPLOAD_INVALID");
        }
        for range in ["1000-", "x", "1000-1500"] {
            assert_eq!(patch(&any, &location, Some(range), &content[1000..2000]).await.status(), 400, "{range}");
        }
        let refused = refusal(any.request(Method::PUT, &location).send().await.unwrap()).await;
        assert_eq!((refused.status, refused.code.as_str()), (400, "DIGEST_INVALID"));
        let elsewhere = location.replace(NAME, "another");
        for answer in
            [any.get(&elsewhere).await, patch(&any, &elsewhere, None, b"x").await, any.delete(&elsewhere).await]
        {
            let refused = refusal(answer).await;
            assert_eq!((refused.status, refused.code.as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
        }
        // Who may not push is refused where it asks.
        let before = passed_on(&masters, over, "answered").await;
        assert_eq!(patch(&masters.client(over, "ro"), &location, None, b"x").await.status(), 403);
        assert_eq!(passed_on(&masters, over, "answered").await, before);
        let wrong = refusal(put(&any, &location, &digest(b"another"), &content[1000..]).await).await;
        assert_eq!((wrong.status, wrong.code.as_str()), (400, "DIGEST_INVALID"));
        assert_eq!(any.get(&location).await.status(), 404, "a wrong digest ends it");
    }
    masters.end();
}

#[tokio::test]
async fn an_upload_is_cancelled_at_whichever_master_is_asked() {
    let masters = Masters::start(3).await;
    let any = Balancer::of(&masters, "rw");
    let location = any.next().begin(NAME).await;
    assert_eq!(patch(any.next(), &location, None, b"some").await.status(), 202);
    assert!(has_uploads(&masters, 0));
    let cancelled = any.next().delete(&location).await;
    assert_eq!((cancelled.status().as_u16(), cancelled.text().await.unwrap().as_str()), (204, ""));
    assert!(!has_uploads(&masters, 0));
    for _ in 0..3 {
        assert_eq!(refusal(any.next().get(&location).await).await.code, "BLOB_UPLOAD_UNKNOWN");
    }
    masters.end();
}

#[tokio::test]
async fn a_body_that_breaks_at_one_master_is_no_whole_one_at_the_other() {
    let masters = Masters::start(3).await;
    let content = blob(3, 600_000);
    for with_length in [false, true] {
        let location = masters.client(0, "rw").begin(NAME).await;
        let pieces = vec![
            Ok(content[..200_000].to_vec()),
            Ok(content[200_000..300_000].to_vec()),
            Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe)),
        ];
        let request = masters.client(1, "rw").request(Method::PATCH, &location);
        let request = if with_length { request.header("content-length", 600_000) } else { request };
        request.body(reqwest::Body::wrap_stream(stream::iter(pieces))).send().await.unwrap_err();
        // What came stays, as at one master: the client asks how far it is and goes on.
        let any = masters.client(2, "rw");
        let reached = within(async {
            loop {
                let range = header(&any.get(&location).await, "range");
                // `0-0` is nothing yet.
                let last: usize = range.rsplit('-').next().unwrap().parse().unwrap();
                let reached = if last == 0 { 0 } else { last + 1 };
                let go_on = patch(&any, &location, Some(&format!("{reached}-599999")), &content[reached..]).await;
                match go_on.status().as_u16() {
                    202 => break reached,
                    // The broken request is not over there yet.
                    409 | 416 => {}
                    status => panic!("{status}: {}", go_on.text().await.unwrap()),
                }
            }
        })
        .await;
        assert!(reached <= 300_000, "{reached}");
        assert_eq!(put(&masters.client(1, "rw"), &location, &digest(&content), b"").await.status(), 201);
    }
    masters.end();
}

#[tokio::test]
async fn with_its_master_an_upload_is_gone_and_another_one_can_begin() {
    let mut masters = Masters::start(3).await;
    let content = blob(4, 100_000);
    for signal in [Signal::STOP, Signal::KILL] {
        let location = masters.client(0, "rw").begin(NAME).await;
        assert_eq!(patch(&masters.client(1, "rw"), &location, None, &content).await.status(), 202);
        if signal == Signal::KILL {
            masters.kill(0);
        } else {
            masters.at(0).signal(signal);
        }
        let any = masters.client(2, "rw");
        for answer in [
            any.get(&location).await,
            patch(&any, &location, None, &content).await,
            put(&any, &location, &digest(&content), b"").await,
            any.delete(&location).await,
        ] {
            let refused = refusal(answer).await;
            assert_eq!((refused.status, refused.code.as_str()), (404, "BLOB_UPLOAD_UNKNOWN"), "{signal:?}");
        }
        assert!(passed_on(&masters, 2, "unanswered").await >= 4.0);
        let again = any.begin(NAME).await;
        assert_eq!(put(&masters.client(1, "rw"), &again, &digest(&content), &content).await.status(), 201);
        if signal == Signal::STOP {
            masters.at(0).signal(Signal::CONT);
            within(async { while any.get(&location).await.status() != 204 {} }).await;
        }
    }
    masters.end();
}

#[tokio::test]
async fn an_id_leads_to_a_master_of_the_list_or_nowhere() {
    let masters = Masters::start(3).await;
    let location = masters.client(0, "rw").begin(NAME).await;
    let (path, id) = location.rsplit_once('/').unwrap();
    let (random, master) = id.split_at(36);
    let other = masters.client(1, "rw").begin(NAME).await;
    let others_master = &other.rsplit_once('/').unwrap().1[36..];
    assert_ne!(master, others_master);
    let asker = masters.client(2, "rw");
    // A master that is nobody's, one of no address, another's upload, and what is no id at all.
    for id in [
        format!("{random}-00000000"),
        format!("{random}-ffffffff"),
        random.to_owned(),
        format!("{random}{others_master}"),
        format!("00000000-0000-4000-8000-000000000000{master}"),
        format!("{random}{}", master.to_uppercase().replace('-', "_")),
        format!("{random}{master}0"),
        format!("{random}{master}{master}"),
        format!("{random}-127.0.0.1:1"),
        format!("{random}-{}", "a".repeat(3000)),
        format!("{}{master}", random.to_uppercase()),
        format!("{random}{master}%00"),
        format!("{random}{master}%2f..%2f"),
    ] {
        for method in [Method::GET, Method::PATCH, Method::PUT, Method::DELETE] {
            let answer =
                asker.request(method.clone(), &format!("{path}/{id}?digest={}", digest(b""))).send().await.unwrap();
            let status = answer.status().as_u16();
            assert!(matches!(status, 400 | 404), "{method} {id}: {status}");
        }
    }
    // The upload is as it was, and known by its own id alone.
    assert_eq!(asker.get(&location).await.status(), 204);
    // An id of a version before has no master: it is looked for where it is asked for.
    assert_eq!(masters.client(0, "rw").get(&format!("{path}/{random}")).await.status(), 204);
    // One hop: a client that wants one master's own word gets it.
    let hop = masters.client(2, "rw").request(Method::GET, &location).header("d8-hop", "1").send().await.unwrap();
    assert_eq!(hop.status(), 404);
    masters.end();
}

#[tokio::test]
async fn an_upload_finds_its_master_when_the_list_is_in_another_order() {
    let masters = Masters::start(3).await;
    let location = masters.client(0, "rw").begin(NAME).await;
    let mut list = masters.addresses().to_vec();
    list.reverse();
    masters.write_list(&list[..2]);
    for master in [1, 2] {
        masters.until_peers(master, 1).await;
    }
    assert_eq!(masters.client(2, "rw").get(&location).await.status(), 404, "its master is none any more");
    masters.write_list(&list);
    for master in 0..3 {
        masters.until_peers(master, 2).await;
        assert_eq!(masters.client(master, "rw").get(&location).await.status(), 204);
    }
    masters.end();
}

#[tokio::test]
async fn masters_alone_pass_uploads_on() {
    let masters = Masters::start(2).await;
    let location = masters.client(0, "rw").begin(NAME).await;
    let other = masters.authority.client(Some(&masters.identity(1)));
    let ask = |method: Method, path: &str, hop: &'static str| {
        let request = other.request(method, format!("{}/-/peer{path}", masters.base(0))).header("d8-hop", hop);
        async move { request.body("x").send().await.unwrap().status().as_u16() }
    };
    assert_eq!(ask(Method::PATCH, &location, "2").await, 400);
    assert_eq!(ask(Method::PATCH, &location, "1").await, 202);
    assert_eq!(ask(Method::POST, &location, "1").await, 405);
    assert_eq!(ask(Method::PATCH, &location.replace(NAME, "another"), "1").await, 404);
    assert_eq!(
        ask(Method::POST, &format!("/v2/{NAME}/blobs/uploads/"), "1").await,
        404,
        "it begins where a client asks"
    );
    // A master does not send another one's question on.
    let others = masters.client(1, "rw").begin(NAME).await;
    assert_eq!(ask(Method::PATCH, &others, "1").await, 404);
    let stranger = masters.authority.client(None);
    let request = stranger.patch(format!("{}/-/peer{location}", masters.base(0))).header("d8-hop", "1").body("x");
    assert_eq!(request.basic_auth("rw", Some("secret")).send().await.unwrap().status(), 404);
    assert_eq!(header(&masters.client(0, "rw").get(&location).await, "range"), "0-0");
    masters.end();
}

/// A connection to a master on which the test says every byte.
async fn connected(masters: &Masters, master: usize) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(masters.authority.pem.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(&masters.addresses()[master]).await.unwrap();
    let name = ServerName::from(address(master));
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// The next head on a connection.
async fn next_head(stream: &mut TlsStream<TcpStream>) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_sends_nothing_that_the_other_master_refuses() {
    let masters = Masters::start(2).await;
    let location = masters.client(0, "rw").begin(NAME).await;
    let unknown = location.replace(NAME, "another");
    let (known, in_chunks) = ("content-length: 4", "transfer-encoding: chunked");
    let ask = async |path: &str, range: &str, framing: &str| {
        let mut stream = connected(&masters, 1).await;
        let head = format!(
            "PATCH {path} HTTP/1.1\r\nhost: test\r\nauthorization: Basic cnc6c2VjcmV0\r\nexpect: 100-continue\r\n\
             {framing}\r\ncontent-range: {range}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let head = next_head(&mut stream).await;
        (stream, head)
    };
    within(async {
        for (path, range, framing, refused) in [
            (&location, "7-10", known, "416"),
            (&location, "0-8", known, "400"),
            (&unknown, "0-3", known, "404"),
            (&location, "7-10", in_chunks, "416"),
            (&unknown, "0-3", in_chunks, "404"),
        ] {
            let (_, head) = ask(path, range, framing).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {refused}")), "{head}");
        }
        for (range, framing, sent) in [("0-3", known, "sent"), ("4-7", in_chunks, "4\r\nmore\r\n0\r\n\r\n")] {
            let (mut stream, head) = ask(&location, range, framing).await;
            assert!(head.starts_with("HTTP/1.1 100"), "{head}");
            stream.write_all(sent.as_bytes()).await.unwrap();
            let head = next_head(&mut stream).await;
            assert!(head.starts_with("HTTP/1.1 202"), "{head}");
        }
    })
    .await;
    assert_eq!(header(&masters.client(1, "rw").get(&location).await, "range"), "0-7");
    masters.end();
}
