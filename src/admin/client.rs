//! A client of `admin.sock`: one request, one answer.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Most headers of an answer; the server sends half a dozen.
const MAX_HEADERS: usize = 32;

/// What the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body, whole.
    pub body: Vec<u8>,
}

/// Asks the server at `socket`. Each piece of the answer is waited for as long as `patience` says, for ever where it says nothing.
/// Blocking.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] or [`io::ErrorKind::ConnectionRefused`]: there is no server. [`io::ErrorKind::InvalidData`]: the
/// answer is no HTTP, or is cut. Else what the system says.
pub fn ask(socket: &Path, method: &str, path: &str, body: &[u8], patience: Option<Duration>) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
    // HTTP/1.0: the end of the connection is the end of the answer.
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    stream.write_all(format!("{method} {path} HTTP/1.0\r\n{length}\r\n").as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "its answer can't be read");
    let (status, body) = parse(&answer).ok_or_else(unreadable)?;
    Ok(Answer { status, body: body.to_vec() })
}

/// Status and body; `None` if it is no HTTP, or is cut.
fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(answer).ok()? else { return None };
    let status = response.code?;
    let body = &answer[head..];
    let length = headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"))?;
    let length: usize = std::str::from_utf8(length.value).ok()?.parse().ok()?;
    (body.len() == length).then_some((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_or_none() {
        let answer = b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
        assert_eq!(parse(answer), Some((200, &b"ok\n"[..])));
        for cut in 0..answer.len() {
            assert_eq!(parse(&answer[..cut]), None, "{cut}");
        }
        assert_eq!(parse(b"+OK\r\n"), None);
    }
}
