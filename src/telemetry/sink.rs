//! Where lines go: into a buffer, and from there, by a thread of its own, to standard error.
//!
//! A writer costs a lock and a copy. The thread is woken once per bunch of lines and not once per line: measured at
//! 10 us of work per request, a queue that wakes its reader for every line adds 17 % CPU time, this adds nothing that
//! could be seen. The price: a line is up to 10 ms late, and a killed process takes the last 10 ms with it. Errors are waited
//! for, so that they are out before the answer that they belong to; not where whoever reads the log takes nothing.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// How long lines are gathered.
const GATHER: Duration = Duration::from_millis(10);
/// Most bytes that wait while whoever reads the log is slow; lines beyond are lost and counted.
pub(super) const MOST: usize = 4 * 1024 * 1024;
/// From here on gathering ends early.
const ENOUGH: usize = MOST / 8;
/// A buffer that grew in a burst does not stay so.
const KEPT: usize = 64 * 1024;
/// How long the writer of an error waits until it is out, once: then nobody does until the reader takes something again.
const URGENT: Duration = Duration::from_millis(100);
/// How long the end waits for the last lines.
const FAREWELL: Duration = Duration::from_secs(1);

/// Takes lines and never blocks on their reader. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Sink(Arc<Shared>);

/// Writes what is left when it is dropped, for up to a second.
#[derive(Debug)]
pub(super) struct SinkGuard(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// For the thread: there is something, or there is enough, or it is the end.
    wake: Condvar,
    /// For the guard and for who waits for an error: the thread has written.
    through: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: u64,
    /// Lines that were taken in since the start, and of those the ones that are out.
    taken: u64,
    out: u64,
    /// Somebody waits until all of it is out.
    urgent: bool,
    /// Whoever reads the log took nothing when that was waited for.
    stuck: bool,
    closed: bool,
    ended: bool,
}

impl Sink {
    /// Starts the thread. Everything is written with one call per bunch.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<(Self, SinkGuard)> {
        let shared = Arc::new(Shared::default());
        let thread = Arc::clone(&shared);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || thread.run(out))?;
        Ok((Self(Arc::clone(&shared)), SinkGuard(shared)))
    }

    /// Hands over a line with its line end.
    pub(super) fn line(&self, line: &[u8]) {
        let shared = &*self.0;
        let mut waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let before = waiting.bytes.len();
        if waiting.ended || before + line.len() > MOST {
            drop(waiting);
            shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.bytes.extend_from_slice(line);
        waiting.lines += 1;
        waiting.taken += 1;
        let after = waiting.bytes.len();
        drop(waiting);
        if before == 0 || (before < ENOUGH && after >= ENOUGH) {
            shared.wake.notify_one();
        }
    }

    /// As [`Sink::line`], and waits until it is out, [`URGENT`] at most.
    fn urgent_line(&self, line: &[u8]) {
        self.line(line);
        let shared = &*self.0;
        let mut waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.stuck {
            return;
        }
        let last = waiting.taken;
        waiting.urgent = true;
        shared.wake.notify_one();
        let unwritten = |waiting: &mut Waiting| waiting.out < last && !waiting.ended;
        let (mut waiting, waited) =
            shared.through.wait_timeout_while(waiting, URGENT, unwritten).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            waiting.stuck = true;
        }
    }

    /// Lines that were lost.
    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn run(&self, mut out: impl Write) {
        let mut bunch = Vec::new();
        loop {
            let lines;
            let closed;
            {
                let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let waiting = self
                    .wake
                    .wait_while(waiting, |waiting| waiting.bytes.is_empty() && !waiting.closed)
                    .unwrap_or_else(PoisonError::into_inner);
                let (mut waiting, _) = self
                    .wake
                    .wait_timeout_while(waiting, GATHER, |waiting| {
                        waiting.bytes.len() < ENOUGH && !waiting.closed && !waiting.urgent
                    })
                    .unwrap_or_else(PoisonError::into_inner);
                std::mem::swap(&mut waiting.bytes, &mut bunch);
                lines = std::mem::take(&mut waiting.lines);
                waiting.urgent = false;
                closed = waiting.closed;
            }
            if out.write_all(&bunch).and_then(|()| out.flush()).is_err() {
                self.lost.fetch_add(lines, Ordering::Relaxed);
            }
            bunch.clear();
            bunch.shrink_to(KEPT);
            {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.out += lines;
                waiting.stuck = false;
                waiting.ended = closed;
            }
            self.through.notify_all();
            if closed {
                return;
            }
        }
    }
}

impl Drop for SinkGuard {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.closed = true;
        self.0.wake.notify_one();
        // A reader that takes nothing must not keep the process from ending.
        drop(self.0.through.wait_timeout_while(waiting, FAREWELL, |waiting| !waiting.ended));
    }
}

/// Takes one event's line.
#[derive(Debug)]
pub(super) struct Event<'a> {
    sink: &'a Sink,
    is_error: bool,
}

/// tracing hands over each event with one call.
impl Write for Event<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.is_error {
            self.sink.urgent_line(line);
        } else {
            self.sink.line(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Event<'a>;

    fn make_writer(&'a self) -> Event<'a> {
        Event { sink: self, is_error: false }
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Event<'a> {
        Event { sink: self, is_error: *meta.level() == tracing::Level::ERROR }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A sink into memory.
    #[derive(Debug)]
    pub(in crate::telemetry) struct Captured {
        memory: Arc<Mutex<Vec<u8>>>,
        sink: Sink,
        guard: SinkGuard,
    }

    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Captured {
        pub(in crate::telemetry) fn new() -> Self {
            let memory = Arc::new(Mutex::new(Vec::new()));
            let (sink, guard) = Sink::start(Memory(Arc::clone(&memory))).unwrap();
            Self { memory, sink, guard }
        }

        pub(in crate::telemetry) fn sink(&self) -> Sink {
            self.sink.clone()
        }

        /// What [`Sink::start`] gave, and what was written, to be asked after the guard is gone.
        pub(in crate::telemetry) fn into_parts(self) -> ((Sink, SinkGuard), impl FnOnce() -> String) {
            let memory = self.memory;
            ((self.sink, self.guard), move || String::from_utf8(memory.lock().unwrap().clone()).unwrap())
        }

        /// Everything that was written, once the thread is through.
        pub(in crate::telemetry) fn text(self) -> String {
            drop(self.guard);
            String::from_utf8(self.memory.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn lines_of_many_threads_arrive_whole_and_in_order() {
        let captured = Captured::new();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let sink = captured.sink();
                scope.spawn(move || (0..1000).for_each(|n| sink.line(format!("{thread} {n}\n").as_bytes())));
            }
        });
        let text = captured.text();
        for thread in 0..4 {
            let numbers: Vec<u32> =
                text.lines().filter_map(|line| line.strip_prefix(&format!("{thread} "))?.parse().ok()).collect();
            assert_eq!(numbers, (0..1000).collect::<Vec<u32>>());
        }
    }

    /// Says when it is written to, and goes on when it is told.
    struct Stuck(mpsc::Sender<()>, mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(());
            let _ = self.1.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_takes_nothing_costs_lines_and_bounded_memory() {
        let (reached, at) = mpsc::channel();
        let (go_on, told) = mpsc::channel();
        let (sink, guard) = Sink::start(Stuck(reached, told)).unwrap();
        sink.line(b"first\n");
        at.recv().unwrap();
        let line = vec![b'x'; 1024];
        for _ in 0..MOST / line.len() + 10 {
            sink.line(&line);
        }
        assert_eq!(sink.lost(), 10);
        assert!(sink.0.waiting.lock().unwrap().bytes.len() <= MOST);
        drop(go_on);
        drop(guard);
        sink.line(b"after the end\n");
        assert_eq!(sink.lost(), 11);
    }

    #[test]
    fn an_error_is_out_when_its_writer_goes_on() {
        let captured = Captured::new();
        for number in 0..100 {
            captured.sink().line(b"before\n");
            captured.sink().urgent_line(format!("error {number}\n").as_bytes());
            let written = captured.memory.lock().unwrap().clone();
            let written = String::from_utf8(written).unwrap();
            assert!(written.ends_with(&format!("before\nerror {number}\n")), "{written}");
        }
    }

    #[test]
    fn errors_are_waited_for_once_where_the_reader_takes_nothing() {
        let (reached, at) = mpsc::channel();
        let (go_on, told) = mpsc::channel();
        let (sink, guard) = Sink::start(Stuck(reached, told)).unwrap();
        sink.line(b"first\n");
        at.recv().unwrap();
        sink.urgent_line(b"an error\n");
        assert!(sink.0.waiting.lock().unwrap().stuck);
        // Would take minutes if each was waited for.
        for _ in 0..5000 {
            sink.urgent_line(b"another\n");
        }
        go_on.send(()).unwrap();
        at.recv().unwrap();
        assert!(!sink.0.waiting.lock().unwrap().stuck);
        drop(go_on);
        drop(guard);
    }
}
