//! A scripted upstream: a registry over real sockets that a test can make misbehave, and that counts what it is asked.
//!
//! It runs on a thread of its own, so a test may block. [`Upstream::rule`] changes answers; [`Gate`] orders what the
//! test and the upstream do; [`Upstream::down`] and [`Upstream::black_hole`] take the whole of it away.

mod answer;
mod content;
mod gate;
mod guard;
mod tests;
mod wire;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;

pub(crate) use self::answer::{Answer, Cut};
use self::content::{Content, Repository};
pub(crate) use self::gate::Gate;
use self::guard::{Guard, TokenDesk};
use self::wire::Seen;
use super::{Image, digest, within};

type Change = Box<dyn Fn(&mut Answer) + Send>;

struct Rule {
    method: String,
    /// A path; a `*` at its end stands for any rest.
    path: String,
    /// How often it still applies; none: always.
    left: Option<usize>,
    change: Change,
}

impl Rule {
    fn fits(&self, seen: &Seen) -> bool {
        let path = match self.path.strip_suffix('*') {
            Some(prefix) => seen.path.starts_with(prefix),
            None => seen.path == self.path,
        };
        path && (self.method == "*" || self.method == seen.method) && self.left != Some(0)
    }
}

struct Shared {
    content: Mutex<Content>,
    rules: Mutex<Vec<Rule>>,
    guard: Mutex<Guard>,
    desk: Mutex<Arc<Mutex<TokenDesk>>>,
    seen: watch::Sender<Vec<Seen>>,
    /// Connections that ended in the middle of an answer.
    ended: watch::Sender<usize>,
    /// Bytes of bodies that the kernel took.
    sent: AtomicUsize,
    connections: AtomicUsize,
    tls: Mutex<Option<TlsAcceptor>>,
}

impl Shared {
    fn note(&self, seen: Seen) {
        self.seen.send_modify(|all| all.push(seen));
    }

    fn answer(&self, seen: &Seen) -> Answer {
        let mut answer = if seen.path == "/token" {
            self.desk.lock().unwrap().lock().unwrap().answer(seen)
        } else if let Some(refusal) = self.guard.lock().unwrap().refuse(seen) {
            return refusal;
        } else {
            self.content.lock().unwrap().answer(seen)
        };
        answer.asked = seen.header("range").map(str::to_owned);
        let mut rules = self.rules.lock().unwrap();
        if let Some(rule) = rules.iter_mut().find(|rule| rule.fits(seen)) {
            rule.left = rule.left.map(|left| left - 1);
            (rule.change)(&mut answer);
        }
        answer
    }
}

struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// The upstream. Dropped: it is gone.
pub(crate) struct Upstream {
    shared: Arc<Shared>,
    address: SocketAddr,
    running: Option<Running>,
    /// Bound and never listening: keeps the port ours while the upstream is down.
    _port: Socket,
    /// Of a black hole: the socket that nobody accepts from, and the connections that fill its queue.
    hole: Vec<Socket>,
}

impl Upstream {
    /// Starts an empty one on 127.0.0.1.
    pub(crate) fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST)
    }

    /// Starts an empty one on another address of the machine itself.
    pub(crate) fn start_at(ip: impl Into<IpAddr>) -> Self {
        let port = bound(SocketAddr::new(ip.into(), 0));
        let address = port.local_addr().unwrap().as_socket().unwrap();
        let shared = Arc::new(Shared {
            content: Mutex::default(),
            rules: Mutex::default(),
            guard: Mutex::default(),
            desk: Mutex::default(),
            seen: watch::Sender::new(Vec::new()),
            ended: watch::Sender::new(0),
            sent: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            tls: Mutex::default(),
        });
        let mut upstream = Self { shared, address, running: None, _port: port, hole: Vec::new() };
        upstream.up();
        upstream
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Nothing listens any more, and connections break.
    pub(crate) fn down(&mut self) {
        self.hole.clear();
        if let Some(running) = self.running.take() {
            // It may have panicked; the join says so.
            let _ = running.stop.send(());
            running.thread.join().unwrap();
        }
    }

    /// Listens again, at the same address.
    pub(crate) fn up(&mut self) {
        self.down();
        let listener = bound(self.address);
        listener.listen(1024).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener.into()).unwrap();
                tokio::select! {
                    () = accept(&listener, &shared) => {}
                    _ = stopped => {}
                }
            });
        });
        self.running = Some(Running { stop, thread });
    }

    /// Takes connections no more and refuses none: dials hang.
    pub(crate) fn black_hole(&mut self) {
        self.down();
        let listener = bound(self.address);
        listener.listen(0).unwrap();
        self.hole.push(listener);
        for _ in 0..4 {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            // In progress, and it stays so once the queue is full.
            let _ = client.connect(&self.address.into());
            self.hole.push(client);
        }
    }

    /// Speaks TLS from the next connection on.
    pub(crate) fn use_tls(&self, config: rustls::ServerConfig) {
        *self.shared.tls.lock().unwrap() = Some(TlsAcceptor::from(Arc::new(config)));
    }

    fn repository<T>(&self, name: &str, change: impl FnOnce(&mut Repository) -> T) -> T {
        change(self.shared.content.lock().unwrap().repositories.entry(name.to_owned()).or_default())
    }

    /// Holds a blob; its digest.
    pub(crate) fn put_blob(&self, repo: &str, content: &[u8]) -> String {
        self.put_blob_as(repo, digest(content), content)
    }

    /// Holds a blob under a digest of another algorithm.
    pub(crate) fn put_blob_as(&self, repo: &str, digest: String, content: &[u8]) -> String {
        self.repository(repo, |repository| {
            repository.blobs.insert(digest.clone(), Bytes::copy_from_slice(content));
        });
        digest
    }

    /// Holds a manifest; its digest.
    pub(crate) fn put_manifest(&self, repo: &str, kind: &str, content: &[u8]) -> String {
        self.repository(repo, |repository| repository.put(kind, content))
    }

    /// Names a manifest.
    pub(crate) fn tag(&self, repo: &str, tag: &str, digest: &str) {
        self.repository(repo, |repository| repository.tags.insert(tag.to_owned(), digest.to_owned()));
    }

    /// Holds an image under a tag.
    pub(crate) fn put_image(&self, repo: &str, tag: &str, image: &Image) {
        for content in image.blobs() {
            self.put_blob(repo, content);
        }
        let digest = self.put_manifest(repo, image.media_type(), image.manifest());
        self.tag(repo, tag, &digest);
    }

    /// Forgets a tag.
    pub(crate) fn untag(&self, repo: &str, tag: &str) {
        self.repository(repo, |repository| repository.tags.remove(tag));
    }

    /// Holds an object that redirects may lead to.
    pub(crate) fn put_object(&self, path: &str, content: &[u8]) {
        self.shared.content.lock().unwrap().objects.insert(path.to_owned(), Bytes::copy_from_slice(content));
    }

    /// Has no referrers API.
    pub(crate) fn without_referrers(&self) {
        self.shared.content.lock().unwrap().without_referrers = true;
    }

    /// Gives lists in pages of so many entries at most.
    pub(crate) fn page(&self, entries: usize) {
        self.shared.content.lock().unwrap().page = Some(entries);
    }

    /// Lets nobody in without this login.
    pub(crate) fn demand_basic(&self, user: &str, password: &str) {
        *self.shared.guard.lock().unwrap() = Guard::Basic(user.to_owned(), password.to_owned());
    }

    /// Shows nobody anything without this login, and says so at `/v2/` only.
    pub(crate) fn hide_behind(&self, user: &str, password: &str) {
        *self.shared.guard.lock().unwrap() = Guard::Hidden(user.to_owned(), password.to_owned());
    }

    /// Lets nobody in without a token of its own service, which wants this login.
    pub(crate) fn demand_bearer(&self, user: &str, password: &str) {
        self.demand_bearer_of(self, user, password);
    }

    /// Lets nobody in without a token of another one's service, which wants this login.
    pub(crate) fn demand_bearer_of(&self, other: &Self, user: &str, password: &str) {
        let desk = Arc::clone(&other.shared.desk.lock().unwrap());
        desk.lock().unwrap().login = Some((user.to_owned(), password.to_owned()));
        *self.shared.desk.lock().unwrap() = Arc::clone(&desk);
        let scheme = if other.shared.tls.lock().unwrap().is_some() { "https" } else { "http" };
        let realm = format!("{scheme}://{}/token", other.address());
        *self.shared.guard.lock().unwrap() = Guard::Bearer { realm, desk };
    }

    /// What the token service says of a token's life.
    pub(crate) fn token_life(&self, seconds: Option<u64>) {
        self.shared.desk.lock().unwrap().lock().unwrap().expires_in = seconds;
    }

    /// Hands tokens out and takes none.
    pub(crate) fn take_no_token(&self) {
        self.shared.desk.lock().unwrap().lock().unwrap().is_deaf = true;
    }

    /// Takes no token that was handed out so far.
    pub(crate) fn revoke_tokens(&self) {
        self.shared.desk.lock().unwrap().lock().unwrap().revoke();
    }

    /// Changes each answer to requests of a method (`*`: any) and a path (`…*`: any that begins so). The first rule
    /// that fits counts. Refusals of the guard are not changed.
    pub(crate) fn rule(&self, method: &str, path: &str, change: impl Fn(&mut Answer) + Send + 'static) {
        self.add(method, path, None, Box::new(change));
    }

    /// As [`Self::rule`], for one answer, and before the rules that stand.
    pub(crate) fn once(&self, method: &str, path: &str, change: impl Fn(&mut Answer) + Send + 'static) {
        self.add(method, path, Some(1), Box::new(change));
    }

    fn add(&self, method: &str, path: &str, left: Option<usize>, change: Change) {
        let rule = Rule { method: method.to_owned(), path: path.to_owned(), left, change };
        let mut rules = self.shared.rules.lock().unwrap();
        let at = rules.iter().position(|rule| rule.left.is_none()).filter(|_| left.is_some()).unwrap_or(rules.len());
        rules.insert(at, rule);
    }

    /// Forgets all rules.
    pub(crate) fn heal(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.borrow().clone()
    }

    /// Forgets the requests so far.
    pub(crate) fn forget_seen(&self) {
        self.shared.seen.send_modify(Vec::clear);
    }

    /// Requests of a method (`*`: any) and a path (`…*`: any that begins so).
    pub(crate) fn asked(&self, method: &str, path: &str) -> Vec<Seen> {
        let (method, path) = (method.to_owned(), path.to_owned());
        let rule = Rule { method, path, left: None, change: Box::new(|_| ()) };
        self.seen().into_iter().filter(|seen| rule.fits(seen)).collect()
    }

    /// How many of [`Self::asked`].
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        self.asked(method, path).len()
    }

    /// Waits until so many connections ended in the middle of an answer.
    pub(crate) async fn ended(&self, count: usize) {
        within(self.shared.ended.subscribe().wait_for(|ended| *ended >= count)).await.unwrap();
    }

    /// Bytes of bodies sent.
    pub(crate) fn sent(&self) -> usize {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Connections taken.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.down();
    }
}

/// A socket that has the address to itself and may take it over from connections that ended.
fn bound(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket
}

async fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        // A connection that broke before it was taken is nobody's.
        let Ok((stream, _)) = listener.accept().await else { continue };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        stream.set_nodelay(true).unwrap();
        tokio::spawn(connection(stream, Arc::clone(shared)));
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let tls = shared.tls.lock().unwrap().clone();
    match tls {
        None => wire::serve(Box::new(stream), shared).await,
        Some(acceptor) => {
            // A client that does not trust us is a case of some tests.
            if let Ok(stream) = acceptor.accept(stream).await {
                wire::serve(Box::new(stream), shared).await;
            }
        }
    }
}
