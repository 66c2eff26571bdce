use std::future::poll_fn;
use std::pin::pin;

use futures_util::poll;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::early::EarlyAnswer as _;
use super::super::early::tests::Canned;
use super::super::http1_state::AHEAD_BYTES;
use super::super::peer::{BodyTransport, Peer, Standing};
use super::super::send_queue::SendQueue;
use super::super::socket::Socket;
use super::super::transport::Transport;
use super::*;

const LONG: Duration = Duration::from_secs(60);
const GET: &str = "GET /v2/a/b/manifests/v1 HTTP/1.1\r\nHost: h\r\n\r\n";

/// An answer of nearly 60 KiB, which no small socket buffer takes at once.
fn body() -> String {
    "x".repeat(60_000)
}

/// The two ends of a connection whose buffers are as small as the system lets them be.
async fn narrow_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    SockRef::from(&listener).set_send_buffer_size(1).unwrap();
    let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    client.set_recv_buffer_size(1).unwrap();
    client.connect(&listener.local_addr().unwrap().into()).unwrap();
    client.set_nonblocking(true).unwrap();
    let (ours, _) = listener.accept().await.unwrap();
    (ours, TcpStream::from_std(client.into()).unwrap())
}

fn requests(
    ours: TcpStream,
    head_timeout: Duration,
    early: Option<Box<dyn EarlyConnection>>,
) -> (Requests, Arc<Http1State>) {
    let state = Arc::new(Http1State::new(AHEAD_BYTES));
    let io =
        LingeringClose::new(Transport::Plain(Socket::new(ours, LONG, &SendQueue::new(1))), Arc::clone(&state), LONG);
    let times = HeadTimes { first: head_timeout, next: head_timeout };
    let guest = Guest::alone();
    (Requests::new(io, Arc::clone(&state), times, early, Receiving::default(), guest), state)
}

fn early() -> Option<Box<dyn EarlyConnection>> {
    let peer = Peer {
        address: "192.0.2.1:5000".parse().unwrap(),
        tls: false,
        trusted_proxy: false,
        controller: false,
        master: None,
        body_transport: BodyTransport::Copy,
        stream: Arc::default(),
        standing: Standing::default(),
    };
    Canned::new("/v2/a/b/manifests/v1", &body()).on_connection(&peer, 1000)
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.expect("something that has to happen does not")
}

/// Reads one answer with that body.
async fn read_answer(client: &mut TcpStream) {
    let mut read = Vec::new();
    while !read.ends_with(body().as_bytes()) {
        assert!(client.read_buf(&mut read).await.unwrap() > 0);
    }
    assert!(read.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn the_time_for_the_next_head_begins_when_a_slow_reader_has_the_answer() {
    let (ours, mut client) = narrow_pair().await;
    let (mut requests, _flow) = requests(ours, LONG, early());
    client.write_all(GET.as_bytes()).await.unwrap();
    let mut seen = [0; 1000];
    let mut reading = pin!(requests.read(&mut seen));
    // Until the answer has begun to arrive: the rest waits for the client.
    let begun = within(async {
        tokio::select! {
            biased;
            _ = reading.as_mut() => panic!("hyper sees nothing"),
            readable = client.readable() => readable.unwrap(),
        }
        Instant::now()
    });
    let begun = begun.await;
    within(async {
        tokio::select! {
            _ = reading.as_mut() => panic!("hyper sees nothing"),
            () = read_answer(&mut client) => {}
        }
    })
    .await;
    assert!(poll!(reading).is_pending());
    assert!(requests.head_clock.deadline > begun + LONG && !requests.unsent.open);
}

#[tokio::test]
async fn an_answer_that_the_socket_takes_in_pieces_comes_whole_and_hyper_sees_nothing() {
    let (ours, mut client) = narrow_pair().await;
    let (mut requests, state) = requests(ours, LONG, early());
    let asking = async {
        for _ in 0..3 {
            client.write_all(GET.as_bytes()).await.unwrap();
            read_answer(&mut client).await;
        }
        client.write_all(b"GET /v2/ HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    };
    let mut seen = [0; 1000];
    let ((), length) = within(async { tokio::join!(asking, requests.read(&mut seen)) }).await;
    assert_eq!(&seen[..length.unwrap()], b"GET /v2/ HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(!state.is_between() && requests.early.is_some());
}

#[tokio::test]
async fn whatever_hyper_writes_comes_after_the_answer_before() {
    for close in [false, true] {
        let (ours, mut client) = narrow_pair().await;
        let (mut requests, _) = requests(ours, LONG, early());
        client.write_all(GET.as_bytes()).await.unwrap();
        let half_sent = async {
            let mut seen = [0; 1000];
            while !requests.unsent.open {
                let mut read = std::pin::pin!(requests.read(&mut seen));
                poll_fn(|cx| {
                    assert!(read.as_mut().poll(cx).is_pending());
                    Poll::Ready(())
                })
                .await;
                tokio::task::yield_now().await;
            }
        };
        within(half_sent).await;
        let ending = async {
            if !close {
                requests.write_all(b"after").await.unwrap();
            }
            requests.shutdown().await.unwrap();
        };
        let reading = async move {
            let mut read = String::new();
            client.read_to_string(&mut read).await.unwrap();
            // The connection is there until its client ends too.
            drop(client);
            read
        };
        let ((), read) = within(async { tokio::join!(ending, reading) }).await;
        assert!(read.len() > body().len() && read.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(read.ends_with(&(body() + if close { "" } else { "after" })));
    }
}

#[tokio::test]
async fn bytes_that_are_not_one_whole_request_end_early_answers() {
    for text in [&GET[..20], &GET.repeat(2), "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n"] {
        let (ours, mut client) = narrow_pair().await;
        let (mut requests, _) = requests(ours, LONG, early());
        client.write_all(text.as_bytes()).await.unwrap();
        let mut seen = [0; 1000];
        let length = within(requests.read(&mut seen)).await.unwrap();
        assert_eq!(&seen[..length], text.as_bytes());
        assert!(requests.early.is_none());
    }
    // And what hyper reads beside an answer of its own.
    let (ours, mut client) = narrow_pair().await;
    let (mut requests, state) = requests(ours, LONG, early());
    state.begin(false);
    client.write_all(GET.as_bytes()).await.unwrap();
    let mut seen = [0; 1000];
    assert_eq!(within(requests.read(&mut seen)).await.unwrap(), GET.len());
    assert!(requests.early.is_none());
}

#[tokio::test]
async fn the_clock_runs_from_the_end_of_an_answer_though_nobody_reads() {
    let (ours, mut client) = narrow_pair().await;
    client.write_all(b"GET /").await.unwrap();
    ours.readable().await.unwrap();
    let (mut requests, state) = requests(ours, Duration::from_millis(10), None);
    // What is there at the first look needs no clock.
    assert_eq!(requests.read(&mut [0; 100]).await.unwrap(), 5);
    let number = state.begin(false);
    requests.write_all(b"answer").await.unwrap();
    state.over(number);
    let mut flushed = false;
    let woken = poll_fn(|cx| {
        if std::mem::replace(&mut flushed, true) {
            return Poll::Ready(());
        }
        assert!(Pin::new(&mut requests).poll_flush(cx).is_ready());
        Poll::Pending
    });
    within(woken).await;
    assert_eq!(within(requests.read(&mut [0; 100])).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[test]
fn an_answer_that_ends_late_does_not_end_the_next() {
    let state = Http1State::new(AHEAD_BYTES);
    let (first, second) = (state.begin(false), state.begin(false));
    state.over(first);
    assert!(!state.flushed() && !state.is_between());
    state.over(second);
    assert!(!state.is_between());
    assert!(state.flushed() && state.is_between() && !state.flushed());
}
