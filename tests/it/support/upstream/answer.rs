//! An answer as the content calls for it, and the ways in which a test may spoil it.

use bytes::Bytes;
use serde_json::json;

use super::gate::Gate;

/// How a body breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// An orderly end of the connection.
    Fin,
    /// A reset.
    Rst,
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// By its true length.
    Length,
    /// By a length that need not be true.
    Declared(usize),
    /// By chunks, without a length.
    Chunked,
    /// By the end of the connection.
    Close,
}

/// One answer. A rule of the test gets it as a well-behaved registry would send it.
pub(crate) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
    /// The whole content where `body` is a range of it.
    whole: Option<Bytes>,
    pub(super) framing: Framing,
    pub(super) before_head: Option<Gate>,
    /// Ascending.
    pub(super) holds: Vec<(usize, Gate)>,
    pub(super) cut: Option<(usize, Cut)>,
    pub(super) piece: usize,
    pub(super) silent: bool,
    /// The range that was asked for.
    pub(super) asked: Option<String>,
}

impl Answer {
    pub(super) fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            body: body.into(),
            whole: None,
            framing: Framing::Length,
            before_head: None,
            holds: Vec::new(),
            cut: None,
            piece: 64 * 1024,
            silent: false,
            asked: None,
        }
    }

    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        let body = json!({ "errors": [{ "code": code, "message": message }] }).to_string();
        Self::new(status, "application/json", body)
    }

    /// Becomes the part that `range` asks for.
    pub(super) fn ranged(mut self, range: Option<&str>) -> Self {
        let Some(range) = range.and_then(|range| range.strip_prefix("bytes=")) else { return self };
        let length = self.body.len();
        let (from, to) = match range.split_once('-') {
            Some(("", last)) => (length.saturating_sub(last.parse().unwrap()), length),
            Some((from, "")) => (from.parse().unwrap(), length),
            Some((from, to)) => (from.parse().unwrap(), (to.parse::<usize>().unwrap() + 1).min(length)),
            None => panic!("a range that no client should send: {range}"),
        };
        if from >= to {
            return Self::error(416, "RANGE_INVALID", "no such range");
        }
        self.status = 206;
        self.header("content-range", format!("bytes {from}-{}/{length}", to - 1));
        self.whole = Some(self.body.clone());
        self.body = self.body.slice(from..to);
        self
    }

    /// The range that was asked for, as in the header.
    pub(crate) fn asked(&self) -> Option<&str> {
        self.asked.as_deref()
    }

    /// Where a range that was asked for begins and ends.
    pub(crate) fn asked_bytes(&self) -> Option<(usize, Option<usize>)> {
        let (from, to) = self.asked()?.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse().unwrap(), to.parse().ok()))
    }

    /// Another status; the body stays.
    pub(crate) fn status(&mut self, status: u16) -> &mut Self {
        self.status = status;
        self
    }

    /// A refusal or failure in the shape of the specification.
    pub(crate) fn fail(&mut self, status: u16, message: &str) -> &mut Self {
        let code = match status {
            401 => "UNAUTHORIZED",
            403 => "DENIED",
            404 => "MANIFEST_UNKNOWN",
            405 => "UNSUPPORTED",
            429 => "TOOMANYREQUESTS",
            _ => "UNKNOWN",
        };
        *self = Self::error(status, code, message);
        self
    }

    /// A page for people, as a portal or a filter sends it in the upstream's place.
    pub(crate) fn page(&mut self, status: u16) -> &mut Self {
        *self = Self::new(status, "text/html; charset=utf-8", "<html><body>Please sign in</body></html>");
        self
    }

    /// Another answer altogether.
    pub(crate) fn plain(&mut self, status: u16, content_type: &str, body: &'static str) -> &mut Self {
        *self = Self::new(status, content_type, body);
        self
    }

    /// A redirect.
    pub(crate) fn redirect(&mut self, location: &str) -> &mut Self {
        *self = Self::new(307, "text/plain", "");
        self.header("location", location)
    }

    /// Sets a header.
    pub(crate) fn header(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.without(name);
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Adds a field of a header that may be there already.
    pub(crate) fn field(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Leaves a header out.
    pub(crate) fn without(&mut self, name: &str) -> &mut Self {
        self.headers.retain(|(header, _)| header != name);
        self
    }

    /// Another body.
    pub(crate) fn body(&mut self, body: impl Into<Bytes>) -> &mut Self {
        self.body = body.into();
        self
    }

    /// Spoils one byte of the body.
    pub(crate) fn corrupt(&mut self, at: usize) -> &mut Self {
        let mut body = self.body.to_vec();
        body[at] ^= 0x20;
        self.body(body)
    }

    /// Sends all, whatever range was asked for.
    pub(crate) fn ignore_range(&mut self) -> &mut Self {
        if let Some(whole) = self.whole.take() {
            self.status = 200;
            self.without("content-range");
            self.body = whole;
        }
        self
    }

    /// Waits with the head.
    pub(crate) fn hold_head(&mut self, gate: &Gate) -> &mut Self {
        self.before_head = Some(gate.clone());
        self
    }

    /// Stops after `at` bytes of the body; several in ascending order.
    pub(crate) fn hold(&mut self, at: usize, gate: &Gate) -> &mut Self {
        self.holds.push((at, gate.clone()));
        self
    }

    /// Breaks off after `at` bytes of the body.
    pub(crate) fn cut(&mut self, at: usize, cut: Cut) -> &mut Self {
        self.cut = Some((at, cut));
        self
    }

    /// Tells a length that need not be true; the connection ends after what there is.
    pub(crate) fn declare(&mut self, length: usize) -> &mut Self {
        self.framing = Framing::Declared(length);
        self
    }

    /// Tells no length.
    pub(crate) fn chunked(&mut self) -> &mut Self {
        self.framing = Framing::Chunked;
        self
    }

    /// Tells no length: the body ends with the connection.
    pub(crate) fn until_close(&mut self) -> &mut Self {
        self.framing = Framing::Close;
        self
    }

    /// Sends the body in pieces of so many bytes.
    pub(crate) fn drip(&mut self, piece: usize) -> &mut Self {
        self.piece = piece;
        self
    }

    /// Never answers, and keeps the connection.
    pub(crate) fn silent(&mut self) -> &mut Self {
        self.silent = true;
        self
    }
}
