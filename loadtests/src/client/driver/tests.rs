//! A real server over loopback: answers are counted once, whatever the loop.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::*;

/// Answers every request on every connection with `length` bytes, until the clients are gone; counts the requests.
fn server(length: usize) -> (Place, Arc<AtomicU64>) {
    let asked = Arc::new(AtomicU64::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::local(listener.local_addr().unwrap().port(), None);
    let count = Arc::clone(&asked);
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let count = Arc::clone(&count);
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                    count.fetch_add(1, Ordering::SeqCst);
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                    if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![7; length])).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (place, asked)
}

fn load(length: usize, rate: Option<f64>, copying: bool) -> Load {
    Load { place: server(length).0, requests: vec![Request::get("/", None)], connections: 3, rate, copying }
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
fn once_is_one_whole_answer_for_each_connection() {
    const LENGTH: usize = 8 * LONG;
    for copying in [true, false] {
        let mut driver = Driver::connect(load(LENGTH, None, copying)).unwrap();
        for _ in 0..2 {
            let tally = driver.once().unwrap();
            assert_eq!((tally.answers, tally.bytes), (3, 3 * LENGTH as u64), "{tally:?}");
        }
    }
}

#[test]
fn an_open_loop_asks_as_often_as_was_due() {
    let mut driver = Driver::connect(load(10, Some(1000.0), true)).unwrap();
    let tally = driver.run(Duration::from_millis(50)).unwrap();
    // All that fell due, however late: one at the start, one each millisecond, none at the very end.
    assert_eq!(tally.answers, 50, "{tally:?}");
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

#[test]
fn nothing_small_is_under_way_between_two_runs() {
    let (place, asked) = server(10_000);
    let load = Load { place, requests: vec![Request::get("/", None)], connections: 3, rate: None, copying: true };
    let mut driver = Driver::connect(load).unwrap().patient_for(PATIENCE);
    let mut answers = 0;
    for _ in 0..5 {
        let tally = driver.run(Duration::from_millis(5)).unwrap();
        assert_eq!(tally.bytes, tally.answers * 10_000);
        answers += tally.answers;
        assert_eq!(asked.load(Ordering::SeqCst), answers);
    }
}

#[test]
fn a_long_answer_is_paused_and_read_on() {
    const LENGTH: usize = 32 << 20;
    let (place, asked) = server(LENGTH);
    let load = Load { place, requests: vec![Request::get("/", None)], connections: 1, rate: None, copying: true };
    let mut driver = Driver::connect(load).unwrap().patient_for(PATIENCE);
    let first = driver.run(Duration::ZERO).unwrap();
    assert_eq!((first.answers, asked.load(Ordering::SeqCst)), (0, 1));
    let (mut bytes, mut answers) = (first.bytes, 0);
    while answers < 2 {
        let tally = driver.run(Duration::from_millis(1)).unwrap();
        (bytes, answers) = (bytes + tally.bytes, answers + tally.answers);
    }
    let possible = answers * LENGTH as u64..=asked.load(Ordering::SeqCst) * LENGTH as u64;
    assert!(possible.contains(&bytes), "{bytes} bytes, {answers} answers");
}

#[test]
fn what_was_given_up_is_charged_once() {
    // Connects and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::local(listener.local_addr().unwrap().port(), None);
    let requests = vec![Request::get("/", None)];
    let load = Load { place, requests, connections: 2, rate: Some(1000.0), copying: true };
    let mut driver = Driver::connect(load).unwrap().patient_for(Duration::ZERO);
    for _ in 0..2 {
        let tally = driver.run(Duration::from_millis(5)).unwrap();
        assert_eq!((tally.answers, tally.latency.len()), (0, 5));
    }
}
