//! Requests as bytes, answers read to their end: the part of HTTP/1.1 that registries and file servers speak.

use anyhow::{Context as _, Result, bail, ensure};
use d8_registry::oci::{Algorithm, Digest, Hasher};

use super::wire::{Place, Received, Wire};

/// Registries are asked by address; none of them looks at the name.
const HOST: &str = "registry.test";
/// A head longer than this is no answer of ours.
const MOST_HEAD: usize = 64 * 1024;
/// Most bytes of one read, and of what is thrown away at once.
pub(crate) const SCRATCH: usize = 4 << 20;

/// A request without a body, ready to be sent as often as needed.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    head_only: bool,
}

impl Request {
    /// `authorization` is the value of that header.
    pub(crate) fn new(method: &str, path: &str, authorization: Option<&str>, more: &str) -> Self {
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: loadtests\r\n");
        if let Some(value) = authorization {
            text.push_str(&format!("authorization: {value}\r\n"));
        }
        text.push_str(more);
        text.push_str("\r\n");
        Self { bytes: text.into_bytes(), head_only: method == "HEAD" }
    }

    pub(crate) fn get(path: &str, authorization: Option<&str>) -> Self {
        Self::new("GET", path, authorization, "")
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn head_only(&self) -> bool {
        self.head_only
    }
}

/// An answer as it comes in.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    head: Vec<u8>,
    /// Of the body, once the head is whole.
    left: Option<u64>,
    head_only: bool,
}

impl Answer {
    /// Forgets the last answer and waits for the next.
    pub(crate) fn expect(&mut self, head_only: bool) {
        self.head.clear();
        self.left = None;
        self.head_only = head_only;
    }

    /// Bytes of the body that are still to come; 0 while the head is not whole.
    pub(crate) fn unwanted(&self) -> usize {
        self.left.and_then(|left| usize::try_from(left).ok()).unwrap_or(0)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.is_down_to(0)
    }

    /// Whether at most `left` bytes of the body are still to come.
    fn is_down_to(&self, left: u64) -> bool {
        self.left.is_some_and(|still| still <= left)
    }

    /// 0 while the head is not whole.
    pub(crate) fn status(&self) -> u16 {
        self.head.get(9..12).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok()).unwrap_or(0)
    }

    /// The head as text, for errors and for headers that are rarely looked at.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.head).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// Counts `count` bytes of the body as received without having seen them.
    pub(crate) fn skip(&mut self, count: usize) {
        self.left = self.left.map(|left| left.saturating_sub(count as u64));
    }

    /// Takes in received bytes and gives the part that is body to `body`. Returns the length of that part.
    pub(crate) fn take(&mut self, piece: &[u8], body: &mut dyn FnMut(&[u8])) -> Result<usize> {
        let Some(left) = self.left else { return self.take_head(piece, body) };
        ensure!(piece.len() as u64 <= left, "{} bytes more than the answer has", piece.len() as u64 - left);
        self.left = Some(left - piece.len() as u64);
        body(piece);
        Ok(piece.len())
    }

    fn take_head(&mut self, piece: &[u8], body: &mut dyn FnMut(&[u8])) -> Result<usize> {
        let known = self.head.len();
        self.head.extend_from_slice(piece);
        let from = known.saturating_sub(3);
        let Some(end) = self.head[from..].windows(4).position(|window| window == b"\r\n\r\n") else {
            ensure!(self.head.len() < MOST_HEAD, "an endless head");
            return Ok(0);
        };
        let end = from + end + 4;
        let used = end - known;
        self.head.truncate(end);
        self.left = Some(self.length()?);
        if used == piece.len() { Ok(0) } else { self.take(&piece[used..], body) }
    }

    fn length(&self) -> Result<u64> {
        if self.head_only || matches!(self.status(), 204 | 304) {
            return Ok(0);
        }
        let value = header(&self.head, "content-length").with_context(|| format!("no length:\n{}", self.text()))?;
        std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).context("a length that is no number")
    }
}

fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (before, after) = line.split_at_checked(name.len())?;
        let value = after.strip_prefix(b":")?;
        before.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
    })
}

/// An answer that was read whole.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) answer: Answer,
    pub(crate) body: Vec<u8>,
}

/// Sends a request and reads its answer, on a blocking connection.
pub(crate) fn fetch(wire: &mut Wire, request: &Request, content: &[u8]) -> Result<Reply> {
    let mut body = Vec::new();
    wire.send(request.bytes())?;
    wire.send(content)?;
    let answer = read(wire, request.head_only(), &mut |piece| body.extend_from_slice(piece))?;
    Ok(Reply { status: answer.status(), answer, body })
}

/// Reads an answer on a blocking connection, the body piece by piece.
pub(crate) fn read(wire: &mut Wire, head_only: bool, body: &mut dyn FnMut(&[u8])) -> Result<Answer> {
    let mut answer = Answer::default();
    answer.expect(head_only);
    let mut scratch = vec![0; 256 * 1024];
    while !answer.is_whole() {
        let received = wire.receive(0, &mut scratch, &mut |piece| answer.take(piece, body).map(|_| ()))?;
        if received == Received::End {
            bail!("the connection was closed before the end of the answer:\n{}", answer.text());
        }
    }
    Ok(answer)
}

/// Reads an answer on a blocking connection until `left` bytes of its body are still to come, and throws it away in the
/// kernel where that can be done.
pub(crate) fn discard(wire: &mut Wire, left: u64) -> Result<Answer> {
    let (mut answer, scratch) = (Answer::default(), &mut vec![0; SCRATCH]);
    while !answer.is_down_to(left) {
        let unwanted = answer.unwanted();
        match wire.receive(unwanted, scratch, &mut |piece| answer.take(piece, &mut |_| ()).map(drop))? {
            Received::Data => (),
            Received::Skipped(count) => answer.skip(count),
            Received::End => bail!("the connection was closed before the end of the answer:\n{}", answer.text()),
        }
    }
    Ok(answer)
}

/// Asks once on a connection of its own; anything but 200 is an error.
pub(crate) fn ask(place: &Place, request: &Request) -> Result<Reply> {
    let reply = fetch(&mut Wire::connect(place)?, request, &[])?;
    ensure!(
        reply.status == 200,
        "{place:?}: {}{}",
        reply.answer.text(),
        String::from_utf8_lossy(&reply.body[..reply.body.len().min(300)])
    );
    Ok(reply)
}

/// Gets a content on a connection of its own and compares its digest: a fast wrong answer counts for nothing.
pub(crate) fn verify(place: &Place, request: &Request, digest: &Digest) -> Result<()> {
    let mut wire = Wire::connect(place)?;
    wire.send(request.bytes())?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let answer = read(&mut wire, request.head_only(), &mut |piece| hasher.update(piece))?;
    ensure!(answer.status() == 200, "{place:?}: {}", answer.text());
    let found = hasher.finish();
    ensure!(found == *digest, "{place:?} gave {found}, not {digest}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_same_however_it_is_cut() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        for cut in 0..text.len() {
            let mut answer = Answer::default();
            answer.expect(false);
            let mut body = Vec::new();
            for piece in [&text[..cut], &text[cut..]] {
                answer.take(piece, &mut |piece| body.extend_from_slice(piece)).unwrap();
            }
            assert!(answer.is_whole());
            assert_eq!((answer.status(), body.as_slice()), (200, b"hello".as_slice()));
            assert_eq!(answer.header("X").unwrap(), "y");
        }
    }

    #[test]
    fn what_is_skipped_counts_and_a_head_alone_is_whole() {
        let mut answer = Answer::default();
        answer.expect(false);
        answer.take(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab", &mut |_| ()).unwrap();
        assert_eq!(answer.unwanted(), 8);
        answer.skip(8);
        assert!(answer.is_whole());
        answer.expect(true);
        answer.take(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", &mut |_| ()).unwrap();
        assert!(answer.is_whole());
        assert!(answer.take(b"x", &mut |_| ()).is_err(), "more than the answer has");
    }

    #[test]
    fn an_answer_without_a_length_is_refused() {
        let mut answer = Answer::default();
        answer.expect(false);
        assert!(answer.take(b"HTTP/1.1 200 OK\r\n\r\n", &mut |_| ()).is_err());
    }
}
