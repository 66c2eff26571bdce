//! Answers ahead of the service: a listener may be given something that answers simple requests from the bytes of their
//! heads, on HTTP/1, before hyper sees them. It is what this part knows of who answers: the application above implements
//! it (the registry in `api/fast`).

use std::fmt;
use std::time::Instant;

use bytes::Bytes;

use super::peer::Peer;

/// Answers requests of a listener's connections ahead of its service.
pub trait EarlyAnswer: fmt::Debug + Send + Sync {
    /// Answers for one connection, from heads of at most `max_head_bytes`. `None`: every request on it is the service's.
    fn on_connection(&self, peer: &Peer, max_head_bytes: usize) -> Option<Box<dyn EarlyConnection>>;
}

/// Answers requests of one connection ahead of the service. Keeps what it remembers of the requests before.
pub trait EarlyConnection: fmt::Debug + Send {
    /// Judges `received`, all bytes that came in since the last answer. For [`Early::Answered`] the response's head is left in
    /// `head`, which is empty at first and stays empty otherwise, and the request is counted and logged. Never blocks.
    fn answer(&mut self, received: &[u8], head: &mut Vec<u8>) -> Early;

    /// When the last answer was ready. For a socket that takes it at once this is when the next head may begin.
    fn answered_at(&self) -> Instant;
}

/// The verdict on bytes that came in between two requests.
#[derive(Debug, PartialEq, Eq)]
pub enum Early {
    /// They were one request, and this is its response's body.
    Answered(Bytes),
    /// They are the whole head of one request without a body, and the service has to answer it.
    Request,
    /// Anything else: where the next request begins can't be told, so nothing on the connection is answered early any more.
    Other,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Answers a GET of one path with one text, as the registry's fast path answers from memory.
    #[derive(Clone, Debug)]
    pub(in crate::serve) struct Canned {
        path: String,
        body: Bytes,
    }

    impl Canned {
        pub(in crate::serve) fn new(path: &str, body: &str) -> Self {
            Self { path: path.to_owned(), body: body.to_owned().into() }
        }
    }

    impl EarlyAnswer for Canned {
        fn on_connection(&self, _: &Peer, max_head_bytes: usize) -> Option<Box<dyn EarlyConnection>> {
            Some(Box::new(CannedConnection { canned: self.clone(), max_head_bytes, answered_at: Instant::now() }))
        }
    }

    #[derive(Debug)]
    struct CannedConnection {
        canned: Canned,
        max_head_bytes: usize,
        answered_at: Instant,
    }

    impl EarlyConnection for CannedConnection {
        fn answer(&mut self, received: &[u8], head: &mut Vec<u8>) -> Early {
            let mut headers = [httparse::EMPTY_HEADER; 8];
            let mut request = httparse::Request::new(&mut headers);
            match request.parse(received) {
                Ok(httparse::Status::Complete(length)) if length == received.len() && length <= self.max_head_bytes => {
                }
                _ => return Early::Other,
            }
            if request.method != Some("GET") {
                return Early::Other;
            }
            if request.path != Some(&*self.canned.path) {
                return Early::Request;
            }
            let length = self.canned.body.len();
            head.extend_from_slice(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes());
            self.answered_at = Instant::now();
            Early::Answered(self.canned.body.clone())
        }

        fn answered_at(&self) -> Instant {
            self.answered_at
        }
    }
}
