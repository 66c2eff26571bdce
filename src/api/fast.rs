//! The fast path: reads answered from memory, from the bytes of a request's head to the bytes of its response.
//!
//! Most requests of a cluster are GET and HEAD of manifests that are in memory. On the slow path these cost more than the
//! answer: header maps, bodies and futures are made and dropped for some hundred bytes of text. The fast path takes the same
//! decisions by the same parts (`route`, `auth`, the mode, `headers`, `accounting`) without them. Whatever is less simple - a
//! body, a range, a condition, anything refused, anything not in memory - goes to the slow path, so every error has one
//! place. `tests/it/fast_path.rs` holds the two paths against each other.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderValue;
use memchr::memchr2;

use super::access::authority;
use super::accounting::{self, Tally, Told, account, count_cache_answer};
use super::exchange::Id;
use super::headers::{self, OCTETS, Value};
use super::route::{Route, last_part};
use super::{App, namespace};
use crate::auth::{Action, SignIn};
use crate::clock::{self, Timestamp};
use crate::mode::{Audience, Provenance};
use crate::oci::Digest;
use crate::serve::{Early, EarlyAnswer, EarlyConnection, Peer, Standing};
use crate::telemetry;

/// Most headers of a request; one with more goes to the slow path.
const MAX_HEADERS: usize = 32;

/// Most bytes of a response's body. Sending more costs so much that nothing is saved here.
const MAX_BODY: usize = 64 * 1024;

/// The fast path of a registry: an [`EarlyAnswer`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FastPath(App);

impl FastPath {
    /// Answers for `app`.
    #[must_use]
    pub const fn new(app: App) -> Self {
        Self(app)
    }

    /// As [`EarlyAnswer::on_connection`]. `None` for a proxy that is trusted to speak for others: its headers decide more than
    /// is read here.
    fn connection(&self, peer: &Peer, max_head: usize) -> Option<FastConnection> {
        (!peer.trusted_proxy).then(|| FastConnection {
            app: self.0.clone(),
            address: peer.address.ip(),
            max_head,
            standing: Some(peer.standing.clone()),
            sign_in: None,
            host: Vec::new(),
            answered_at: Instant::now(),
        })
    }
}

impl EarlyAnswer for FastPath {
    fn on_connection(&self, peer: &Peer, max_head_bytes: usize) -> Option<Box<dyn EarlyConnection>> {
        Some(Box::new(self.connection(peer, max_head_bytes)?))
    }
}

/// The fast path of one connection, with what it remembers of the last request.
#[derive(Debug)]
struct FastConnection {
    app: App,
    address: IpAddr,
    max_head: usize,
    /// Is told of the first sign-in; `None` once it was.
    standing: Option<Standing>,
    /// The last one, with the header that it came by.
    sign_in: Option<SignIn>,
    /// The last `Host` header that was an authority.
    host: Vec<u8>,
    /// When the last answer was ready.
    answered_at: Instant,
}

impl EarlyConnection for FastConnection {
    fn answered_at(&self) -> Instant {
        self.answered_at
    }

    fn answer(&mut self, received: &[u8], head: &mut Vec<u8>) -> Early {
        let started = Instant::now();
        let mut room = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut room);
        match request.parse(received) {
            Ok(httparse::Status::Complete(length)) if length == received.len() && length <= self.max_head => {}
            _ => return Early::Other,
        }
        let method = match request.method {
            Some("GET") => telemetry::Method::Get,
            Some("HEAD") => telemetry::Method::Head,
            _ => return Early::Other,
        };
        if request.version != Some(1) {
            return Early::Other;
        }
        let request_head = match RequestHead::of(request.headers) {
            Ok(request_head) => request_head,
            Err(verdict) => return verdict,
        };
        let target = request.path.unwrap_or_default();
        match self.find(method, target, &request_head) {
            Some(hit) => Early::Answered(self.respond(&hit, &request_head, started, head)),
            None => Early::Request,
        }
    }
}

impl FastConnection {
    fn find<'a>(
        &mut self,
        method: telemetry::Method,
        target: &'a str,
        request_head: &RequestHead<'_>,
    ) -> Option<Hit<'a>> {
        let modes = self.app.0.modes.load();
        if !modes.has_memory() {
            // Direct keeps nothing in memory: a look would be wasted on every request.
            return None;
        }
        let (path, query) = match memchr2(b'?', b'%', target.as_bytes()) {
            None => (target, None),
            // An escaped path goes to the slow path.
            Some(at) => (&target[..at], Some(target[at..].strip_prefix('?')?)),
        };
        if !self.is_authority(request_head.host?) {
            return None;
        }
        let namespace = match query {
            // containerd's query to a mirror; any other goes to the slow path.
            Some(query) if query.starts_with("ns=") && !query.contains('&') => Some(namespace(Some(query))?),
            Some(_) => return None,
            None => None,
        };
        let route = Route::parse(path).ok()?;
        let repo = route.repository()?;
        let now = clock::tick();
        let auth = &self.app.0.auth;
        if !self.sign_in.as_ref().is_some_and(|before| auth.is_same(before, request_head.authorization, now)) {
            self.sign_in = auth.sign_in(request_head.authorization, self.address);
        }
        let who = self.sign_in.as_ref()?.who();
        auth.authorize(who, Action::Pull, Some(repo)).ok()?;
        if who.user.is_some()
            && let Some(standing) = self.standing.take()
        {
            standing.signed_in();
        }
        // Whoever is the audience of a coming mode sees that one; outside of a switch nobody is looked up for it.
        let mode = match modes.coming() {
            Some(_) => modes.first(Audience::of(auth.role(who))),
            None => modes.in_force(),
        };
        let told = who.user.as_ref().map(|_| mode.as_str());
        let (content, provenance) = match &route {
            Route::Manifest(repo, reference) => {
                let served = mode.manifest_in_memory(repo, reference)?;
                if method == telemetry::Method::Get {
                    mode.note_pull(served.value.digest);
                }
                let manifest = served.value;
                let std::borrow::Cow::Borrowed(media_type) = manifest.media_type else { return None };
                (Content { digest: manifest.digest, media_type, bytes: manifest.bytes }, served.provenance)
            }
            Route::Blob(repo, digest) => {
                let served = mode.blob_in_memory(repo, digest)?;
                (Content { digest: *digest, media_type: OCTETS, bytes: served.value }, served.provenance)
            }
            _ => return None,
        };
        (content.bytes.len() <= MAX_BODY && provenance.age.is_none()).then_some(Hit {
            method,
            route,
            path,
            namespace,
            content,
            provenance,
            mode: told,
            now,
        })
    }

    /// Whether the `Host` header is an authority, as on the slow path.
    fn is_authority(&mut self, host: &[u8]) -> bool {
        if self.host != host {
            if authority(host).is_none() {
                return false;
            }
            host.clone_into(&mut self.host);
        }
        true
    }

    fn respond(
        &mut self,
        hit: &Hit<'_>,
        request_head: &RequestHead<'_>,
        started: Instant,
        head: &mut Vec<u8>,
    ) -> Bytes {
        let id = Id::new();
        hit.write_head(&id, head);
        let is_head = hit.method == telemetry::Method::Head;
        let body = if is_head { Bytes::new() } else { hit.content.bytes.clone() };
        self.answered_at = Instant::now();
        self.account(hit, request_head, &id, body.len() as u64, self.answered_at - started);
        body
    }

    fn account(&self, hit: &Hit<'_>, request_head: &RequestHead<'_>, id: &Id, sent: u64, duration: Duration) {
        let (method, route) = (hit.method, Some(&hit.route));
        if let Some(outcome) = hit.provenance.outcome {
            count_cache_answer(&self.app, route, outcome);
        }
        let tally = Tally { method, route, status: 200, received: 0, sent, duration, important: false };
        account(&self.app, tally, || Told {
            id: id.as_str(),
            user: self.sign_in.as_ref().and_then(|sign_in| sign_in.who().user.as_deref()),
            address: self.address,
            method: method.as_str(),
            reference: last_part(hit.path).map(|(_, reference)| reference.into()),
            cache: hit.provenance.outcome,
            whole: true,
            error: None,
            user_agent: request_head.agent.and_then(accounting::user_agent),
        });
    }
}

/// The headers of a request that count here; of each name the first, as on the slow path.
#[derive(Default)]
struct RequestHead<'a> {
    host: Option<&'a [u8]>,
    authorization: Option<&'a [u8]>,
    agent: Option<&'a [u8]>,
}

impl<'a> RequestHead<'a> {
    /// Reads the headers.
    ///
    /// # Errors
    /// The verdict on a request that goes to the slow path.
    fn of(headers: &[httparse::Header<'a>]) -> Result<Self, Early> {
        let mut counted = Self::default();
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            match header.name.len() {
                4 if is("host") => counted.host = counted.host.or(Some(header.value)),
                10 if is("user-agent") => counted.agent = counted.agent.or(Some(header.value)),
                13 if is("authorization") => counted.authorization = counted.authorization.or(Some(header.value)),
                10 if is("connection") && !header.value.eq_ignore_ascii_case(b"keep-alive") => {
                    return Err(Early::Request);
                }
                5 if is("range") => return Err(Early::Request),
                6 if is("d8-hop") => return Err(Early::Request),
                8 if is("if-range") => return Err(Early::Request),
                13 if is("if-none-match") => return Err(Early::Request),
                // A body, or the promise of one.
                6 if is("expect") => return Err(Early::Other),
                7 if is("upgrade") => return Err(Early::Other),
                14 if is("content-length") => return Err(Early::Other),
                17 if is("transfer-encoding") => return Err(Early::Other),
                _ => {}
            }
        }
        Ok(counted)
    }
}

/// A request whose content is in memory.
struct Hit<'a> {
    method: telemetry::Method,
    route: Route,
    path: &'a str,
    namespace: Option<HeaderValue>,
    content: Content,
    provenance: Provenance,
    /// The name of the mode, if somebody signed in.
    mode: Option<&'static str>,
    now: Timestamp,
}

struct Content {
    digest: Digest,
    media_type: &'static str,
    bytes: Bytes,
}

impl Hit<'_> {
    fn write_head(&self, id: &Id, head: &mut Vec<u8>) {
        head.extend_from_slice(b"HTTP/1.1 200 OK");
        headers::of_content(head, &self.content.digest.entity_tag(), Some(Value::Fixed(self.content.media_type)));
        headers::of_provenance(head, self.provenance);
        if let Some(mode) = self.mode {
            headers::of_mode(head, mode);
        }
        headers::of_api(head, self.namespace.as_ref());
        headers::of_request(head, Value::Ascii(id.as_bytes()));
        headers::of_length(head, self.content.bytes.len() as u64);
        // hyper adds the date on the slow path.
        head.extend_from_slice(b"\r\ndate: ");
        head.extend_from_slice(&date(self.now));
        head.extend_from_slice(b"\r\n\r\n");
    }
}

/// The `Date` header (RFC 9110, 5.6.7), formatted once a second on each thread.
fn date(now: Timestamp) -> [u8; 29] {
    thread_local! {
        static LAST: Cell<(u64, [u8; 29])> = const { Cell::new((u64::MAX, [0; 29])) };
    }
    let (second, text) = LAST.get();
    if second == now.as_secs() {
        return text;
    }
    let made = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now.as_secs()));
    let mut text = [b' '; 29];
    let length = made.len().min(text.len());
    text[..length].copy_from_slice(&made.as_bytes()[..length]);
    LAST.set((now.as_secs(), text));
    text
}

#[cfg(test)]
mod tests;
