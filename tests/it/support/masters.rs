//! Some masters, each with a server of mode Local on an address of its own, that know each other.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::SanType;
use tempfile::TempDir;

use super::{Authority, Client, Registry, Setup, uri, within};

/// Sends each request to another master, one after the other, as a balancer does that knows no clients.
pub(crate) struct Balancer {
    clients: Vec<Client>,
    next: std::cell::Cell<usize>,
}

impl Balancer {
    /// Of all masters, as a user; the first request goes to the first one.
    pub(crate) fn of(masters: &Masters, user: &str) -> Self {
        let clients = (0..masters.all.len()).map(|master| masters.client(master, user)).collect();
        Self { clients, next: std::cell::Cell::new(0) }
    }

    /// The client of the master whose turn it is.
    pub(crate) fn next(&self) -> &Client {
        self.next_of().1
    }

    /// The same, and which master that is.
    pub(crate) fn next_of(&self) -> (usize, &Client) {
        let master = self.next.get();
        self.next.set((master + 1) % self.clients.len());
        (master, &self.clients[master])
    }
}

/// Masters of one cluster, in a folder of their own.
pub(crate) struct Masters {
    pub(crate) authority: Authority,
    folder: TempDir,
    all: Vec<Option<Registry>>,
    /// As they listen.
    addresses: Vec<String>,
    keys: String,
    /// `replicas.minCopies` and `replicas.whenShort`.
    copies: (String, String),
}

/// The address of a master, a number from 0.
pub(crate) fn address(master: usize) -> std::net::IpAddr {
    [127, 0, 0, u8::try_from(master).unwrap() + 1].into()
}

impl Masters {
    /// Starts as many, with users, and waits until each knows all others.
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(count, "").await
    }

    /// The same with more keys of the configuration.
    pub(crate) async fn start_with(count: usize, keys: &str) -> Self {
        Self::start_with_copies(count, ("1", "accept"), keys).await
    }

    /// The same; a push is on so many masters before it is answered, or else this is made of it.
    pub(crate) async fn start_with_copies(count: usize, copies: (&str, &str), keys: &str) -> Self {
        let mut masters = Self {
            copies: (copies.0.to_owned(), copies.1.to_owned()),
            authority: Authority::new(),
            folder: TempDir::new().unwrap(),
            all: Vec::new(),
            addresses: Vec::new(),
            keys: keys.to_owned(),
        };
        for master in 0..count {
            let own = Arc::new(TempDir::new_in(masters.folder.path()).unwrap());
            let registry = Registry::start_in(own, &masters.setup(master, 0));
            masters.addresses.push(registry.address().to_owned());
            masters.all.push(Some(registry));
        }
        masters.write_list(&masters.addresses);
        for master in 0..count {
            masters.until_peers(master, count - 1).await;
        }
        masters
    }

    /// The configuration of a master, with certificates made for it.
    fn setup(&self, master: usize, port: u16) -> Setup {
        let at = self.folder.path();
        let write = |name: &str, text: &str| std::fs::write(at.join(format!("{master}-{name}")), text).unwrap();
        let (certificate, key) = self.authority.issue(vec![SanType::IpAddress(address(master))]);
        write("server.crt", &certificate);
        write("server.key", &key);
        let (certificate, key) =
            self.authority.issue(vec![SanType::IpAddress(address(master)), uri("d8-registry:peer")]);
        write("peer.crt", &certificate);
        write("peer.key", &key);
        std::fs::write(at.join("ca.crt"), &self.authority.pem).unwrap();
        let at = at.display();
        Setup::with_users().config(&format!(
            "listen: {}:{port}\ntls: {{ certFile: {at}/{master}-server.crt, keyFile: {at}/{master}-server.key }}\n\
             replicas: {{ peers: {at}/{master}-masters, certificate: {at}/{master}-peer.crt, key: {at}/{master}-peer.key, \
             ca: {at}/ca.crt, minCopies: {}, whenShort: {} }}\n{}",
            address(master),
            self.copies.0,
            self.copies.1,
            self.keys
        ))
    }

    /// Writes the list of masters, of each of them.
    pub(crate) fn write_list(&self, addresses: &[String]) {
        for master in 0..self.addresses.len() {
            self.write_list_of(master, addresses);
        }
    }

    fn write_list_of(&self, master: usize, addresses: &[String]) {
        let staged = self.folder.path().join("masters.new");
        std::fs::write(&staged, format!("# masters\n{}\n", addresses.join("\n"))).unwrap();
        std::fs::rename(staged, self.list(master)).unwrap();
    }

    /// The list of masters that one of them reads.
    pub(crate) fn list(&self, master: usize) -> PathBuf {
        self.folder.path().join(format!("{master}-masters"))
    }

    /// Lets masters know those of their own side alone, and waits until they do: nobody asks or answers across.
    pub(crate) async fn part(&self, sides: &[&[usize]]) {
        for side in sides {
            let known: Vec<String> = side.iter().map(|master| self.addresses[*master].clone()).collect();
            side.iter().for_each(|master| self.write_list_of(*master, &known));
        }
        for side in sides {
            for master in *side {
                self.until_peers(*master, side.len() - 1).await;
            }
        }
    }

    /// Lets all know all again.
    pub(crate) async fn heal(&self) {
        let all: Vec<usize> = (0..self.addresses.len()).collect();
        self.part(&[&all]).await;
    }

    /// What a master tells another one of all its records.
    pub(crate) async fn sum(&self, master: usize) -> Option<Vec<u8>> {
        let other = (master + 1) % self.addresses.len();
        self.sum_by(&self.authority.client(Some(&self.identity(other))), master).await
    }

    async fn sum_by(&self, client: &reqwest::Client, master: usize) -> Option<Vec<u8>> {
        let asked = client.get(format!("{}/-/peer/records", self.base(master))).header("d8-hop", "1").send().await;
        let answer = asked.ok().filter(|answer| answer.status() == 200)?;
        Some(answer.bytes().await.ok()?.to_vec())
    }

    /// Waits until these have the same records.
    pub(crate) async fn until_same(&self, masters: &[usize]) {
        let others = masters.iter().cycle().skip(1);
        let clients: Vec<_> =
            masters.iter().zip(others).map(|(_, other)| self.authority.client(Some(&self.identity(*other)))).collect();
        within(async {
            loop {
                let mut sums = Vec::new();
                for (master, client) in masters.iter().zip(&clients) {
                    sums.push(self.sum_by(client, *master).await);
                }
                if sums.iter().all(Option::is_some) && sums.windows(2).all(|two| two[0] == two[1]) {
                    break;
                }
            }
        })
        .await;
    }

    /// `host:port` of each.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The folder of all files.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// A master's server.
    pub(crate) fn at(&self, master: usize) -> &Registry {
        self.all[master].as_ref().expect("it was taken away")
    }

    /// Takes a master away where it stands.
    pub(crate) fn kill(&mut self, master: usize) {
        self.all[master].take().unwrap().kill();
    }

    /// Stops a master in order.
    pub(crate) fn stop(&mut self, master: usize) -> Arc<TempDir> {
        let registry = self.all[master].take().unwrap();
        let folder = registry.folder();
        registry.stop();
        folder
    }

    /// Starts a master again where it was, with its data or those of a new disk.
    pub(crate) async fn start_again(&mut self, master: usize, folder: Arc<TempDir>) {
        let port = self.addresses[master].rsplit_once(':').unwrap().1.parse().unwrap();
        self.all[master] = Some(Registry::start_in(folder, &self.setup(master, port)));
        self.until_peers(master, self.all.len() - 1).await;
    }

    /// Waits until a master knows so many others.
    pub(crate) async fn until_peers(&self, master: usize, count: usize) {
        self.at(master).until_metric("d8_registry_peers", f64::from(u32::try_from(count).unwrap())).await;
    }

    /// `https://` and the address of a master's server.
    pub(crate) fn base(&self, master: usize) -> String {
        format!("https://{}", self.addresses[master])
    }

    /// A client of one master, as a user.
    pub(crate) fn client(&self, master: usize, user: &str) -> Client {
        Client::over_http1(&self.base(master), Some((user.to_owned(), "secret".to_owned())))
    }

    /// The certificate by which others know a master.
    pub(crate) fn identity(&self, master: usize) -> (String, String) {
        let read = |name| std::fs::read_to_string(self.folder.path().join(format!("{master}-peer.{name}"))).unwrap();
        (read("crt"), read("key"))
    }

    /// Answers of a master to GETs of blobs or manifests, whoever asked.
    pub(crate) async fn given(&self, master: usize, route: &str) -> f64 {
        let sample = format!("d8_registry_http_requests_total{{method=\"GET\",route=\"{route}\",status=\"200\"}}");
        self.at(master).metric(&sample).await
    }

    /// Waits until a master has given so many; an answer counts when its last byte is gone.
    pub(crate) async fn until_given(&self, master: usize, route: &str, count: f64) {
        within(async { while self.given(master, route).await < count {} }).await;
        assert!((self.given(master, route).await - count).abs() < f64::EPSILON);
    }

    /// Questions of a master to all others, by what came of them.
    pub(crate) async fn asked(&self, master: usize) -> [f64; 3] {
        let mut numbers = [0.0; 3];
        for (number, answer) in numbers.iter_mut().zip(["found", "absent", "unanswered"]) {
            *number = self.at(master).metric(&format!("d8_registry_peers_asked_total{{answer=\"{answer}\"}}")).await;
        }
        numbers
    }

    /// Stops all in order.
    pub(crate) fn end(mut self) {
        self.all.drain(..).flatten().for_each(|registry| drop(registry.stop()));
    }
}
