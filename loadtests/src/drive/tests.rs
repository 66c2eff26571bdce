//! A real server over loopback: answers are counted once, whatever the loop.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use super::*;

/// Answers every request on every connection with so many bytes, until the clients are gone.
fn server(length: usize) -> Place {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                    if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![7; length])).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Place::local(port, None)
}

fn load(length: usize, rate: Option<f64>, copying: bool) -> Load {
    Load { place: server(length), requests: vec![Request::get("/", None)], connections: 3, rate, copying }
}

/// Runs until something was answered, however slow the machine is.
fn some(load: Load) -> Tally {
    let mut driver = Driver::connect(load).unwrap();
    loop {
        let tally = driver.run(Duration::from_millis(20)).unwrap();
        if tally.answers > 0 {
            return tally;
        }
    }
}

#[test]
fn a_closed_loop_counts_answers_and_bytes() {
    for copying in [true, false] {
        let tally = some(load(100_000, None, copying));
        assert_eq!(tally.latency.len(), tally.answers);
        assert!(tally.bytes >= 100_000, "{tally:?}");
    }
}

#[test]
fn an_open_loop_asks_as_often_as_was_due() {
    let mut driver = Driver::connect(load(10, Some(1000.0), true)).unwrap();
    let tally = driver.run(Duration::from_millis(50)).unwrap();
    // All that fell due, however late: one at the start, one each millisecond, none at the very end.
    assert!((50..=51).contains(&tally.answers), "{tally:?}");
    assert_eq!(tally.bytes, tally.answers * 10);
}

#[test]
fn another_answer_than_200_ends_the_load() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::local(listener.local_addr().unwrap().port(), None);
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").unwrap();
        let _ = stream.read(&mut [0; 1]);
    });
    let load = Load { place, requests: vec![Request::get("/", None)], connections: 1, rate: None, copying: true };
    let mut driver = Driver::connect(load).unwrap();
    let error = driver.run(Duration::from_secs(60)).unwrap_err();
    drop(driver);
    assert!(error.to_string().contains("503"), "{error:#}");
    server.join().unwrap();
}
