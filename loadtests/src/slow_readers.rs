//! `slow-readers`: many clients that take one blob slowly, from any registry that runs already. What the registry holds
//! for them meanwhile, and whether it lets them finish.

use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use d8_registry::oci::{Algorithm, Hasher};
use indicatif::ProgressBar;

use crate::client::exchange::Answer;
use crate::growth::Series;
use crate::interrupt;
use crate::soak::{memory_line, time_bar};
use crate::proc::{Memory, mebibytes};
use crate::registry::{Address, Content, Image, Registry};
use crate::report::{Report, Target, Unit};
use crate::client::wire::{Received, Wire, would_block};

/// Between two rounds over all readers.
const PAUSE: Duration = Duration::from_millis(20);
/// What a reader takes at once at the most.
const SIP: usize = 16 * 1024;
/// Looks at the memory.
const LOOKS: u32 = 100;

/// Against what, and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct SlowReadersOptions {
    #[command(flatten)]
    address: Address,
    #[command(flatten)]
    image: Image,
    /// Readers, each on a connection of its own. They read the image's largest blob.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// What a reader takes in a second, in bytes.
    #[arg(long, default_value_t = 64 * 1024, value_parser = clap::value_parser!(u64).range(1..))]
    bytes_per_second: u64,
    /// How long; those who have all of it before are done.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
}

/// Runs it.
pub(crate) fn run(options: &SlowReadersOptions) -> Result<Report> {
    ensure!(options.seconds > 0.0, "--seconds is more than 0");
    let registry = Registry::reach(&options.address.url, &options.address.account, &options.image.repository)?;
    let blobs = registry.blobs(&options.image.tag)?;
    let largest = blobs.into_iter().max_by_key(|blob| blob.size).context("an image without blobs")?;
    let mut report = Report::new("slow-readers");
    report.condition("registry", &options.address.url);
    report.condition("readers", options.connections);
    report.condition("bytes a second of each", options.bytes_per_second);
    report.condition("bytes of the blob", largest.size);
    if let Some(memory) = registry.memory()? {
        memory.add_to(&mut report, ", before");
    }
    let bar = time_bar("slow-readers", options.seconds)?;
    let outcome = Crowd { options, registry: &registry, content: &largest }.read(&bar)?;
    bar.finish_and_clear();
    outcome.tell(options, &mut report);
    Ok(report)
}

/// One that reads slowly.
struct Reader {
    wire: Wire,
    answer: Answer,
    hasher: Option<Hasher>,
    read: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    /// All of it came and was right.
    Whole,
    /// All of it came, or an answer that was none, and it was wrong.
    Wrong,
    /// The registry closed the connection before the end.
    CutOff,
}

impl Reader {
    /// Asks for the content.
    fn begin(registry: &Registry, content: &Content) -> Result<Self> {
        let mut wire = Wire::connect(&registry.place)?;
        wire.send(content.request.bytes())?;
        wire.make_nonblocking()?;
        let mut answer = Answer::default();
        answer.expect(false);
        Ok(Self { wire, answer, hasher: Some(Hasher::new(Algorithm::Sha256)), read: 0, state: State::Reading })
    }

    /// Takes what it may have by now, `allowed` bytes since the beginning.
    fn sip(&mut self, content: &Content, allowed: u64, scratch: &mut [u8]) {
        while self.state == State::Reading && self.read < allowed {
            let most = usize::try_from(allowed - self.read).unwrap_or(usize::MAX).min(scratch.len());
            let Self { wire, answer, hasher, read, .. } = self;
            let received = wire.receive(0, &mut scratch[..most], &mut |piece| {
                *read += answer.take(piece, &mut |body| {
                    if let Some(hasher) = hasher {
                        hasher.update(body);
                    }
                })? as u64;
                Ok(())
            });
            self.state = match received {
                Ok(Received::Data | Received::Skipped(_)) if answer.is_whole() => self.ended(content),
                Ok(Received::Data | Received::Skipped(_)) => State::Reading,
                Ok(Received::End) => State::CutOff,
                Err(error) if would_block(&error) => return,
                Err(error) if broken_off(&error) => State::CutOff,
                Err(_) => State::Wrong,
            };
        }
    }

    fn ended(&mut self, content: &Content) -> State {
        let found = self.hasher.take().map(Hasher::finish);
        if self.answer.status() == 200 && found == Some(content.digest) { State::Whole } else { State::Wrong }
    }
}

/// Whether it is the connection and not the answer that an error tells of.
fn broken_off(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| {
        matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
    })
}

/// All of them.
struct Crowd<'a> {
    options: &'a SlowReadersOptions,
    registry: &'a Registry,
    content: &'a Content,
}

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    states: Vec<State>,
    /// Readers that got any of the body.
    served: usize,
    bytes: u64,
    took: Duration,
    peak: Option<Memory>,
    held: Vec<(f64, f64)>,
}

impl Crowd<'_> {
    fn read(&self, bar: &ProgressBar) -> Result<Outcome> {
        let readers = (0..self.options.connections).map(|_| Reader::begin(self.registry, self.content));
        let mut readers = readers.collect::<Result<Vec<_>>>()?;
        let mut outcome = Outcome::default();
        let started = Instant::now();
        let end = started + Duration::from_secs_f64(self.options.seconds);
        let every = Duration::from_secs_f64(self.options.seconds / f64::from(LOOKS));
        let (mut look, mut scratch) = (started, vec![0; SIP]);
        while Instant::now() < end && readers.iter().any(|reader| reader.state == State::Reading) {
            interrupt::check()?;
            let allowed = started.elapsed().as_secs_f64() * self.options.bytes_per_second as f64;
            for reader in &mut readers {
                reader.sip(self.content, allowed as u64, &mut scratch);
            }
            if Instant::now() >= look {
                look += every;
                outcome.look(self.registry, started)?;
            }
            bar.set_position(started.elapsed().as_secs());
            thread::sleep(PAUSE);
        }
        outcome.took = started.elapsed();
        outcome.bytes = readers.iter().map(|reader| reader.read).sum();
        outcome.served = readers.iter().filter(|reader| reader.read > 0).count();
        outcome.states = readers.iter().map(|reader| reader.state).collect();
        Ok(outcome)
    }
}

impl Outcome {
    fn look(&mut self, registry: &Registry, started: Instant) -> Result<()> {
        let Some(now) = registry.memory()? else { return Ok(()) };
        self.peak = Some(self.peak.unwrap_or(now).most(now));
        self.held.push((started.elapsed().as_secs_f64(), mebibytes(now.own)));
        Ok(())
    }

    fn count(&self, state: State) -> f64 {
        self.states.iter().filter(|one| **one == state).count() as f64
    }

    fn tell(self, options: &SlowReadersOptions, report: &mut Report) {
        let readers = f64::from(options.connections);
        report.judge("readers that got something", self.served as f64, Unit::Count, Target::Exactly(readers));
        report.judge("readers that were cut off", self.count(State::CutOff), Unit::Count, Target::Exactly(0.0));
        report.judge("readers that got something wrong", self.count(State::Wrong), Unit::Count, Target::Exactly(0.0));
        report.fact("readers that got all of it, digest right", self.count(State::Whole), Unit::Count);
        report.fact("readers still at it in the end", self.count(State::Reading), Unit::Count);
        let rate = self.bytes as f64 / 1e6 / self.took.as_secs_f64();
        report.fact("bodies, all readers", rate, Unit::MegabytesPerSecond);
        if let Some(peak) = self.peak {
            peak.add_to(report, ", most");
            let line: Series = memory_line(self.held);
            report.line(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::client::exchange::Request;
    use crate::client::wire::Place;

    const BODY: &[u8] = b"a body that is read in sips";

    /// A reader of a server that says `answer`, read until nothing more comes of it.
    fn read(answer: &[u8]) -> (State, u64) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Place::local(listener.local_addr().unwrap().port(), None);
        let registry = Registry { place, repository: "a".into(), authorization: None, pids: Vec::new() };
        let content = Content {
            request: Request::get("/v2/a/blobs/b", None),
            digest: Algorithm::Sha256.digest(BODY),
            size: BODY.len() as u64,
        };
        let mut reader = Reader::begin(&registry, &content).unwrap();
        let (mut socket, _): (TcpStream, _) = listener.accept().unwrap();
        let mut request = vec![0; content.request.bytes().len()];
        socket.read_exact(&mut request).unwrap();
        socket.write_all(answer).unwrap();
        drop(socket);
        let mut allowed = 0;
        while reader.state == State::Reading {
            allowed += 3;
            reader.sip(&content, allowed, &mut [0; 8]);
        }
        (reader.state, reader.read)
    }

    fn answer(body: &[u8]) -> Vec<u8> {
        [b"HTTP/1.1 200 OK\r\ncontent-length: 27\r\n\r\n", body].concat()
    }

    #[test]
    fn what_came_whole_is_held_against_its_digest() {
        assert_eq!(read(&answer(BODY)), (State::Whole, 27));
        assert_eq!(read(&answer(&[0; 27])), (State::Wrong, 27));
        assert_eq!(read(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").0, State::Wrong);
    }

    #[test]
    fn who_is_left_half_way_was_cut_off() {
        assert_eq!(read(&answer(&BODY[..10])), (State::CutOff, 10));
        assert_eq!(read(b""), (State::CutOff, 0));
    }
}
