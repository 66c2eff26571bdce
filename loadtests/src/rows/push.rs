//! A push against the floor: the bare loop.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use d8_registry::oci::{Algorithm, Digest};

use super::blobs::transport;
use super::contest::{new, operations};
use super::{Bench, Row, peers};
use crate::compare::{Comparison, Measure, Sum};
use crate::cpu::{self, Meter};
use crate::client::driver::Tally;
use crate::client::exchange::{self, Request, fetch};
use crate::interrupt;
use crate::report::Report;
use crate::seed;
use crate::client::wire::{Place, Received, Wire};
use crate::baseline::ours::{Ours, Setup, basic};
use crate::baseline::peer::Peer;
use crate::baseline::{Process, free_port};

/// Times of the bare loop's CPU per byte.
const LIMIT: f64 = 1.35;
/// Pushes of each side for a round of a load; one of them to the other registries too.
pub(super) const TURNS: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(10);
/// Where pushes go.
pub(crate) const REPOSITORY: &str = "load/pushed";

/// A content that no store had before, cheap to make: the first bytes of a common one are changed.
#[derive(Clone, Debug)]
pub(crate) struct Fresh {
    bytes: Vec<u8>,
}

impl Fresh {
    /// So many MiB.
    pub(crate) fn new(mebibytes: u32) -> Self {
        Self { bytes: seed::noise(77, mebibytes as usize * (1 << 20)) }
    }

    /// The content of that number, with its digest.
    pub(crate) fn content(&mut self, number: u64) -> (&[u8], Digest) {
        self.bytes[..8].copy_from_slice(&number.to_be_bytes());
        (&self.bytes, Algorithm::Sha256.digest(&self.bytes))
    }
}

/// CPU per byte, plain and TLS.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    for tls in [false, true] {
        one(bench, report, row, tls)?;
        // The stores of both together would be large.
        bench.clear()?;
    }
    Ok(())
}

fn one(bench: &Bench<'_>, report: &mut Report, row: Row, tls: bool) -> Result<()> {
    let client = bench.client(tls)?;
    let dir = bench.dir(&format!("{}-{}", row.name(), transport(tls)))?;
    let ours = Ours::start(&Setup {
        certificate: tls.then_some(&bench.p256),
        client: client.as_ref(),
        ..bench.setup(&dir.join("store"), &dir)
    })?;
    let (bare, place) = bare_loop(bench, &dir, tls)?;
    let mut fresh = Fresh::new(bench.options.size);
    let name = format!("push of {} MiB, PATCH and PUT, durable, {}", bench.options.size, transport(tls));
    let measure = Measure::CpuSecondsPerGigabyteStored;
    let mut comparison = new(row, &name, measure, "bare loop", Some(LIMIT));
    let others = if tls { Vec::new() } else { peers::start(bench, report, |_| Ok(())) };
    let mut beside: Vec<_> =
        others.into_iter().map(|peer| (new(row, &name, measure, peer.kind.name(), None), peer)).collect();
    operations(&mut comparison, bench.rounds() * TURNS, |turn, is_ours| {
        interrupt::check()?;
        let (content, digest) = fresh.content(u64::from(turn));
        if !is_ours {
            return measured(bench, &bare.pids(), content.len(), || {
                push_bare(&mut Wire::connect(&place)?, content, &digest)
            });
        }
        let authorization = basic();
        let sum = measured(bench, &ours.process.pids(), content.len(), || {
            push(&mut Wire::connect(&ours.place)?, REPOSITORY, content, &digest, Some(&authorization))
        })?;
        let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
        exchange::verify(&ours.place, &Request::get(&path, Some(&authorization)), &digest)?;
        // As the bare loop does: pages that are kept would leave the next push others, which the host may have taken.
        let removed =
            fetch(&mut Wire::connect(&ours.place)?, &Request::new("DELETE", &path, Some(&authorization), ""), &[])?;
        ensure!(removed.status == 202, "DELETE: {}", removed.answer.text());
        // Not each: they keep all of it as well.
        if turn % TURNS == 0 {
            push_beside(bench, &mut beside, report, (content, &digest), &sum);
        }
        Ok(sum)
    })?;
    report.compare(comparison);
    beside.into_iter().for_each(|(comparison, _)| report.compare(comparison));
    Ok(())
}

/// The same content to the other registries; one that fails is named and asked no more.
fn push_beside(
    bench: &Bench<'_>,
    beside: &mut Vec<(Comparison, Peer)>,
    report: &mut Report,
    (content, digest): (&[u8], &Digest),
    ours: &Sum,
) {
    beside.retain_mut(|(comparison, peer)| {
        let pushed = measured(bench, &peer.process.pids(), content.len(), || {
            push(&mut Wire::connect(&peer.place)?, REPOSITORY, content, digest, None)
        });
        match pushed {
            Ok(sum) => {
                comparison.ours.push(ours.sample(comparison.measure));
                comparison.theirs.push(sum.sample(comparison.measure));
                true
            }
            Err(error) => {
                report.absence(peer.kind.name(), format!("{}: {error:#}", comparison.name));
                false
            }
        }
    });
}

/// What processes use for a push of so many bytes.
fn measured(bench: &Bench<'_>, pids: &[u32], bytes: usize, work: impl FnOnce() -> Result<()>) -> Result<Sum> {
    bench.before_storing(pids)?;
    let meter = Meter::start(pids)?;
    work()?;
    let spent = meter.read()?;
    Ok(Sum::of(spent, Tally { answers: 1, bytes: bytes as u64, ..Tally::nothing()? }))
}

/// Starts the bare loop: this program, with another command.
fn bare_loop(bench: &Bench<'_>, dir: &Path, tls: bool) -> Result<(Process, Place)> {
    let port = free_port()?;
    let folder = dir.join("bare");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let mut arguments = vec!["bare-loop".into(), "--port".into(), port.to_string(), "--dir".into()];
    arguments.push(folder.display().to_string());
    if tls {
        let certificate = &bench.p256;
        let (cert, key) = (certificate.cert_file.display(), certificate.key_file.display());
        arguments.extend(["--cert".into(), cert.to_string(), "--key".into(), key.to_string()]);
    }
    let program = std::env::current_exe().context("where this program is")?;
    let process = Process::start(&program, arguments, cpu::SERVER_CORE, &dir.join("bare.log"))?;
    let place = Place::local(port, bench.client(tls)?);
    let end = Instant::now() + PATIENCE;
    while let Err(error) = Wire::connect(&place) {
        ensure!(Instant::now() < end, "the bare loop does not listen: {error:#}\n{}", process.last_words());
        thread::sleep(Duration::from_millis(5));
    }
    Ok((process, place))
}

fn push_bare(wire: &mut Wire, content: &[u8], digest: &Digest) -> Result<()> {
    wire.send(&(content.len() as u64).to_be_bytes())?;
    wire.send(content)?;
    let (mut answer, mut scratch) = (Vec::new(), [0; 256]);
    while !answer.ends_with(b"\n") {
        let received = wire.receive(0, &mut scratch, &mut |piece| {
            answer.extend_from_slice(piece);
            Ok(())
        })?;
        ensure!(received == Received::Data, "the bare loop broke off");
    }
    ensure!(answer.trim_ascii_end() == digest.to_string().as_bytes(), "the bare loop received something else");
    Ok(())
}

/// POST, PATCH with the whole content, PUT.
pub(crate) fn push(
    wire: &mut Wire,
    repository: &str,
    content: &[u8],
    digest: &Digest,
    authorization: Option<&str>,
) -> Result<()> {
    let mut upload = begin(wire, repository, authorization)?;
    upload.patch_head(wire, content.len())?;
    upload.content(wire, content)?;
    upload.patched(wire)?;
    upload.finish(wire, digest)
}

/// A push under way.
#[derive(Debug)]
pub(crate) struct Upload {
    location: String,
    authorization: Option<String>,
}

/// The POST of a push.
pub(crate) fn begin(wire: &mut Wire, repository: &str, authorization: Option<&str>) -> Result<Upload> {
    let path = format!("/v2/{repository}/blobs/uploads/");
    let reply = fetch(wire, &Request::new("POST", &path, authorization, "content-length: 0\r\n"), &[])?;
    ensure!(reply.status == 202, "POST: {}", reply.answer.text());
    let mut upload = Upload { location: String::new(), authorization: authorization.map(str::to_owned) };
    upload.locate(&reply.answer)?;
    Ok(upload)
}

impl Upload {
    /// The head of the PATCH; so many bytes have to follow.
    pub(crate) fn patch_head(&self, wire: &mut Wire, length: usize) -> Result<()> {
        let more = format!(
            "content-type: application/octet-stream\r\ncontent-range: 0-{}\r\ncontent-length: {length}\r\n",
            length.saturating_sub(1)
        );
        let request = Request::new("PATCH", &self.location, self.authorization.as_deref(), &more);
        wire.send(request.bytes())
    }

    /// The content of the PATCH. A server that has enough of it says why before it breaks off, so that is asked for.
    fn content(&self, wire: &mut Wire, content: &[u8]) -> Result<()> {
        let Err(error) = wire.send(content) else { return Ok(()) };
        let mut body = Vec::new();
        let answer = exchange::read(wire, false, &mut |piece| body.extend_from_slice(piece));
        let said = match answer {
            Ok(answer) => format!("answered with\n{}{}", answer.text(), String::from_utf8_lossy(&body)),
            Err(unanswered) => format!("not answered: {unanswered:#}"),
        };
        Err(error.context(format!("PATCH {} was {said}", self.location)))
    }

    /// The answer of the PATCH.
    pub(crate) fn patched(&mut self, wire: &mut Wire) -> Result<()> {
        let answer = exchange::read(wire, false, &mut |_| ())?;
        ensure!(answer.status() == 202, "PATCH: {}", answer.text());
        self.locate(&answer)
    }

    /// The PUT.
    pub(crate) fn finish(self, wire: &mut Wire, digest: &Digest) -> Result<()> {
        let mark = if self.location.contains('?') { '&' } else { '?' };
        let path = format!("{}{mark}digest={digest}", self.location);
        let request = Request::new("PUT", &path, self.authorization.as_deref(), "content-length: 0\r\n");
        let reply = fetch(wire, &request, &[])?;
        ensure!(reply.status == 201, "PUT: {}", reply.answer.text());
        Ok(())
    }

    /// Where the upload goes on; an absolute address is cut to its path.
    fn locate(&mut self, answer: &exchange::Answer) -> Result<()> {
        let location = answer.header("location").context("no location")?;
        let path = match location.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]).to_owned(),
            None => location,
        };
        self.location = path;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{Shutdown, TcpListener};

    use super::*;

    #[test]
    fn a_server_that_breaks_off_is_named_with_what_it_said() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Place::local(listener.local_addr().unwrap().port(), None);
        let server = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut heads = BufReader::new(socket.try_clone().unwrap()).lines();
            for answer in [
                "HTTP/1.1 202 Accepted\r\nlocation: /there\r\ncontent-length: 0\r\n\r\n",
                "HTTP/1.1 507 Insufficient Storage\r\ncontent-length: 4\r\n\r\nfull",
            ] {
                while !heads.next().unwrap().unwrap().is_empty() {}
                socket.write_all(answer.as_bytes()).unwrap();
            }
            // As servers do that don't want the rest: first no more answers, then no more requests.
            socket.shutdown(Shutdown::Write).unwrap();
        });
        let content = vec![b'\n'; 64 << 20];
        let digest = Algorithm::Sha256.digest(b"not looked at");
        let mut wire = Wire::connect(&place).unwrap();
        let error = format!("{:#}", push(&mut wire, "a", &content, &digest, None).unwrap_err());
        server.join().unwrap();
        for said in ["PATCH /there", "507", "full", &format!("{place:?}"), "of 67108864 bytes"] {
            assert!(error.contains(said), "{said}: {error}");
        }
    }
}
