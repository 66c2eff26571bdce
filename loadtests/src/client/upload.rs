//! A push: POST, PATCH with the whole content, PUT.

use anyhow::{Context as _, Result, ensure};
use d8_registry::oci::{Algorithm, Digest};

use super::exchange::{self, Answer, Request, fetch};
use super::wire::Wire;

/// Contents that no store had before, cheap to make: the first bytes of a common one are changed.
#[derive(Clone, Debug)]
pub(crate) struct Fresh {
    bytes: Vec<u8>,
}

impl Fresh {
    /// Contents of `mebibytes` MiB.
    pub(crate) fn new(mebibytes: u32) -> Self {
        Self { bytes: testkit::noise(77, mebibytes as usize * (1 << 20)) }
    }

    /// The content of that number, with its digest.
    pub(crate) fn content(&mut self, number: u64) -> (&[u8], Digest) {
        self.bytes[..8].copy_from_slice(&number.to_be_bytes());
        (&self.bytes, Algorithm::Sha256.digest(&self.bytes))
    }
}

/// Pushes a blob.
pub(crate) fn push(
    wire: &mut Wire,
    repository: &str,
    content: &[u8],
    digest: &Digest,
    authorization: Option<&str>,
) -> Result<()> {
    let mut upload = Upload::begin(wire, repository, authorization)?;
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

impl Upload {
    /// Sends the POST of a push.
    pub(crate) fn begin(wire: &mut Wire, repository: &str, authorization: Option<&str>) -> Result<Self> {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let reply = fetch(wire, &Request::new("POST", &path, authorization, "content-length: 0\r\n"), &[])?;
        ensure!(reply.status == 202, "POST: {}", reply.answer.text());
        let mut upload = Self { location: String::new(), authorization: authorization.map(str::to_owned) };
        upload.locate(&reply.answer)?;
        Ok(upload)
    }

    /// Sends the head of the PATCH; `length` bytes have to follow.
    pub(crate) fn patch_head(&self, wire: &mut Wire, length: usize) -> Result<()> {
        let more = format!(
            "content-type: application/octet-stream\r\ncontent-range: 0-{}\r\ncontent-length: {length}\r\n",
            length.saturating_sub(1)
        );
        wire.send(Request::new("PATCH", &self.location, self.authorization.as_deref(), &more).bytes())
    }

    /// Sends the content of the PATCH. A server that refuses the rest says why before it breaks off: the error has it.
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

    /// Reads the answer of the PATCH.
    pub(crate) fn patched(&mut self, wire: &mut Wire) -> Result<()> {
        let answer = exchange::read(wire, false, &mut |_| ())?;
        ensure!(answer.status() == 202, "PATCH: {}", answer.text());
        self.locate(&answer)
    }

    /// Sends the PUT and reads its answer.
    pub(crate) fn finish(self, wire: &mut Wire, digest: &Digest) -> Result<()> {
        let mark = if self.location.contains('?') { '&' } else { '?' };
        let path = format!("{}{mark}digest={digest}", self.location);
        let reply =
            fetch(wire, &Request::new("PUT", &path, self.authorization.as_deref(), "content-length: 0\r\n"), &[])?;
        ensure!(reply.status == 201, "PUT: {}", reply.answer.text());
        Ok(())
    }

    /// Remembers where the upload goes on; an absolute address is cut to its path.
    fn locate(&mut self, answer: &Answer) -> Result<()> {
        let location = answer.header("location").context("no location")?;
        self.location = match location.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]).to_owned(),
            None => location,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{Shutdown, TcpListener};
    use std::thread;

    use super::*;
    use crate::client::Place;

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
            // As servers do that refuse the rest: first no more answers, then no more requests.
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
