//! Starts the binary and knows, at its end, whether it left anything behind.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use super::{Client, Upstream, within};

/// The fixed name under which clusters ask for their images.
pub(crate) const ALIAS: &str = "system/deckhouse";
/// Where the scripted upstream holds them.
pub(crate) const REPO: &str = "deckhouse/ee";

/// The bcrypt hash, at the lowest cost, of `secret`.
pub(crate) const HASH_OF_SECRET: &str = "$2y$04$6LkUk9iQoONEdXK3HZE.SeQ2EpsbuPuk2oSSfsIHz4kN4cXieH.BG";

/// What a registry is started with.
pub(crate) struct Setup {
    /// Users `ro`, `rw`, `mirror-puller` and `mirror-pusher`, each with password `secret`.
    pub(crate) users: bool,
    /// More lines of the configuration file.
    pub(crate) config: String,
    /// Variables of the environment.
    env: Vec<(String, String)>,
    /// More words behind `serve`.
    arguments: Vec<OsString>,
    /// HTTPS with a certificate made for it.
    tls: bool,
    /// What a shell does before it becomes the server.
    before: Option<Before>,
}

/// What a shell does before it becomes the server.
struct Before {
    commands: String,
    /// With mounts of its own, which needs root.
    mounts: bool,
}

impl Setup {
    /// An open registry.
    pub(crate) fn open() -> Self {
        Self { users: false, config: String::new(), env: Vec::new(), arguments: Vec::new(), tls: false, before: None }
    }

    /// An open registry that passes reads through to the upstream's [`REPO`].
    pub(crate) fn direct(upstream: &Upstream) -> Self {
        Self::in_front_of("Direct", &upstream.address(), "scheme: HTTP")
    }

    /// An open registry that caches the upstream's [`REPO`].
    pub(crate) fn proxy(upstream: &Upstream) -> Self {
        Self::in_front_of("Proxy", &upstream.address(), "scheme: HTTP")
    }

    /// An open registry of a mode in front of [`REPO`] at an address, with more keys of `upstream`.
    pub(crate) fn in_front_of(mode: &str, address: &str, keys: &str) -> Self {
        Self::in_front_of_repo(mode, &format!("{address}/{REPO}"), keys)
    }

    /// The same for any repository, or none.
    pub(crate) fn in_front_of_repo(mode: &str, images_repo: &str, keys: &str) -> Self {
        Self::open().config(&format!("mode: {mode}\nupstream: {{ imagesRepo: '{images_repo}', {keys} }}"))
    }

    /// Has a shell run `commands` before it becomes the server: limits, for example.
    pub(crate) fn before(self, commands: &str) -> Self {
        Self { before: Some(Before { commands: commands.to_owned(), mounts: false }), ..self }
    }

    /// The same in a mount namespace of its own, with `$DIR` for the data folder: mounts end with the server. Needs root.
    pub(crate) fn mounting(self, commands: &str) -> Self {
        Self { before: Some(Before { commands: commands.to_owned(), mounts: true }), ..self }
    }

    /// With the data folder, which has to be there, on a file system that is read-only. Needs root.
    pub(crate) fn read_only(self) -> Self {
        self.mounting("mount --bind $DIR $DIR && mount -o remount,ro,bind $DIR")
    }

    fn command(&self, data: &Path) -> Command {
        let server = env!("CARGO_BIN_EXE_d8-registry");
        let Some(Before { commands, mounts }) = &self.before else { return Command::new(server) };
        let commands = commands.replace("$DIR", &data.display().to_string());
        let mut command = Command::new(if *mounts { "unshare" } else { "sh" });
        if *mounts {
            command.args(["--mount", "--propagation", "private", "sh"]);
        }
        command.arg("-c").arg(format!("{commands} && exec {server} \"$@\"")).arg("sh");
        command
    }

    /// Sets a variable of the environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a word to the command line.
    pub(crate) fn argument(mut self, word: impl Into<OsString>) -> Self {
        self.arguments.push(word.into());
        self
    }

    /// The same over HTTPS.
    pub(crate) fn over_tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// An open registry that speaks HTTPS.
    pub(crate) fn with_tls() -> Self {
        Self { tls: true, ..Self::open() }
    }

    /// A registry with the four users of Deckhouse.
    pub(crate) fn with_users() -> Self {
        Self { users: true, ..Self::open() }
    }

    /// Adds lines to the configuration file.
    pub(crate) fn config(mut self, lines: &str) -> Self {
        self.config.push_str(lines);
        self.config.push('\n');
        self
    }

    /// Stops at a crash point; see [`Registry::paused`].
    #[cfg(feature = "failpoints")]
    pub(crate) fn pause_at(self, point: &str) -> Self {
        self.env("FAILPOINTS", &format!("{point}=pause"))
    }

    fn yaml(&self, dir: &Path) -> String {
        let mut yaml = String::from("adminListen: 127.0.0.1:0\n");
        if !self.config.lines().any(|line| line.starts_with("listen:")) {
            yaml.push_str("listen: 127.0.0.1:0\n");
        }
        if !self.config.contains("store:") {
            yaml.push_str(&format!("store: {{ dir: {}, reserveBytes: 0 }}\n", dir.display()));
        }
        if self.tls {
            let folder = dir.parent().unwrap().display();
            yaml.push_str(&format!("tls: {{ certFile: {folder}/tls.crt, keyFile: {folder}/tls.key }}\n"));
        }
        if self.users {
            yaml.push_str("auth:\n  users:\n");
            for name in ["ro", "rw", "mirror-puller", "mirror-pusher"] {
                yaml.push_str(&format!("    - {{ name: {name}, role: {name}, passwordHash: '{HASH_OF_SECRET}' }}\n"));
            }
        }
        yaml + &self.config.replace("$DIR", &dir.display().to_string())
    }
}

fn write_certificate(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
}

/// A running registry. Dropped: it is killed, and the folder removed.
pub(crate) struct Registry {
    folder: Arc<TempDir>,
    process: Option<Child>,
    log: Arc<Mutex<Vec<Value>>>,
    /// Whether lines of the log are kept.
    #[cfg(feature = "failpoints")]
    keeps_log: Arc<AtomicBool>,
    /// The number of lines in the log after the start.
    #[cfg_attr(not(feature = "failpoints"), expect(dead_code, reason = "only crash tests wait for a line"))]
    lines: watch::Receiver<usize>,
    reader: Option<JoinHandle<()>>,
    address: String,
    admin: String,
    probe: Option<String>,
    scheme: &'static str,
}

impl Registry {
    /// Starts one in a new folder and waits until it listens.
    pub(crate) fn start(setup: &Setup) -> Self {
        Self::start_in(Arc::new(TempDir::new().unwrap()), setup)
    }

    /// Starts one in a folder that another one used before.
    pub(crate) fn start_in(folder: Arc<TempDir>, setup: &Setup) -> Self {
        let config = folder.path().join("config.yaml");
        if setup.tls {
            write_certificate(folder.path());
        }
        std::fs::write(&config, setup.yaml(&folder.path().join("data"))).unwrap();
        let mut command = setup.command(&folder.path().join("data"));
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"] {
            command.env_remove(name).env_remove(name.to_ascii_lowercase());
        }
        let mut process = command
            .envs(setup.env.iter().map(|(name, value)| (name, value)))
            .args(["serve", "--config"])
            .arg(&config)
            .args(&setup.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (mut address, mut admin, mut probe) = (None, None, None);
        let has_probe = setup.config.contains("probeListen:");
        while address.is_none() || admin.is_none() || (has_probe && probe.is_none()) {
            let line = lines.next().expect("the server ended before it listened").unwrap();
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a line of JSON: {line}"));
            if line["message"] == "listening" {
                let bound = line["address"].as_str().unwrap().to_owned();
                let place = match line["listener"].as_str() {
                    Some("admin") => &mut admin,
                    Some("probe") => &mut probe,
                    _ => &mut address,
                };
                *place = Some(bound);
            }
            log.lock().unwrap().push(line);
        }
        let (count, counted) = watch::channel(0);
        let keeps_log = Arc::new(AtomicBool::new(true));
        let reader = std::thread::spawn({
            let (log, keeps_log) = (Arc::clone(&log), Arc::clone(&keeps_log));
            move || {
                for line in lines.map_while(Result::ok).filter(|_| keeps_log.load(Ordering::Relaxed)) {
                    log.lock().unwrap().push(serde_json::from_str(&line).unwrap_or(Value::String(line)));
                    count.send_modify(|count| *count += 1);
                }
            }
        });
        Self {
            folder,
            process: Some(process),
            log,
            #[cfg(feature = "failpoints")]
            keeps_log,
            lines: counted,
            reader: Some(reader),
            address: address.unwrap(),
            admin: admin.unwrap(),
            probe,
            scheme: if setup.tls { "https" } else { "http" },
        }
    }

    /// `host:port` of the registry.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A client without credentials.
    pub(crate) fn client(&self) -> Client {
        Client::new(&format!("{}://{}", self.scheme, self.address), None)
    }

    /// A client that signs in by Basic as one of the users.
    pub(crate) fn client_as(&self, user: &str) -> Client {
        Client::new(&format!("{}://{}", self.scheme, self.address), Some((user.to_owned(), "secret".to_owned())))
    }

    /// A client of the admin listener.
    pub(crate) fn admin(&self) -> Client {
        Client::new(&format!("http://{}", self.admin), None)
    }

    /// `host:port` of the admin listener.
    pub(crate) fn admin_address(&self) -> &str {
        &self.admin
    }

    /// `host:port` of the probe listener, if the configuration has one.
    pub(crate) fn probe_address(&self) -> &str {
        self.probe.as_deref().expect("a probe listener")
    }

    /// A client that signs in by Basic with any user and password.
    pub(crate) fn client_with(&self, user: &str, password: &str) -> Client {
        Client::new(&format!("{}://{}", self.scheme, self.address), Some((user.to_owned(), password.to_owned())))
    }

    /// A sample of the metrics, named with its labels; 0 while there is none.
    pub(crate) async fn metric(&self, sample: &str) -> f64 {
        let text = self.admin().get("/metrics").await.text().await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Asks for the metrics until a sample has the value.
    pub(crate) async fn until_metric(&self, sample: &str, value: f64) {
        within(async { while (self.metric(sample).await - value).abs() > f64::EPSILON {} }).await;
    }

    /// Waits until all contents are counted, which removes what a crash left of nobody.
    pub(crate) async fn counted(&self) {
        loop {
            let status: Value = self.admin().get("/status").await.json().await.unwrap();
            if status["store"]["usedBytes"].is_u64() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Puts other lines into the configuration file, which keeps what the setup does not say, and has it read.
    pub(crate) fn reconfigure(&self, setup: &Setup) {
        std::fs::write(self.config_file(), setup.yaml(&self.data())).unwrap();
        self.signal(rustix::process::Signal::HUP);
    }

    /// The process's number.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// The data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The configuration file.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    /// The folder around both, to start another registry in.
    pub(crate) fn folder(&self) -> Arc<TempDir> {
        Arc::clone(&self.folder)
    }

    /// Waits until the server stands at the crash point that it was started with; panics if it ends before.
    #[cfg(feature = "failpoints")]
    pub(crate) async fn paused(&self) {
        let mut lines = self.lines.clone();
        loop {
            lines.mark_unchanged();
            if self.log.lock().unwrap().iter().any(|line| line["message"] == "paused") {
                return;
            }
            lines.changed().await.expect("the server ended before the crash point");
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Runs a command among the server's own mounts, with `$DIR` for the data folder; see [`Setup::mounting`].
    pub(crate) fn among_its_mounts(&self, command: &str) {
        let command = command.replace("$DIR", &self.data().display().to_string());
        let pid = self.pid().to_string();
        let done = Command::new("nsenter").args(["--target", &pid, "--mount", "sh", "-c", &command]).status().unwrap();
        assert!(done.success(), "{command}");
    }

    /// Keeps no further line of the log: those of hours don't fit into memory.
    #[cfg(feature = "failpoints")]
    pub(crate) fn forget_log(&self) {
        self.keeps_log.store(false, Ordering::Relaxed);
    }

    /// What it has logged so far.
    pub(crate) fn logged(&self) -> Vec<Value> {
        self.log.lock().unwrap().clone()
    }

    /// Stops it in an orderly way; it ends with 0 and leaves no temporary file. Gives all it logged.
    pub(crate) fn stop(mut self) -> Vec<Value> {
        self.signal(rustix::process::Signal::TERM);
        let status = self.process.take().unwrap().wait().unwrap();
        assert_eq!(status.code(), Some(0), "signal {:?}", status.signal());
        self.reader.take().unwrap().join().unwrap();
        let left: Vec<_> = std::fs::read_dir(self.data().join("tmp")).unwrap().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        std::mem::take(&mut self.log.lock().unwrap())
    }

    /// Waits until it has ended by itself, in order. Gives all it logged.
    pub(crate) fn ended(mut self) -> Vec<Value> {
        let status = self.process.take().unwrap().wait().unwrap();
        assert_eq!(status.code(), Some(0), "signal {:?}", status.signal());
        self.reader.take().unwrap().join().unwrap();
        std::mem::take(&mut self.log.lock().unwrap())
    }

    /// Kills it where it stands.
    pub(crate) fn kill(mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
