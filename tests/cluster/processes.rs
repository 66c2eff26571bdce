//! The programs under test, each a process of the real binary, ended with their handle.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// Port of the registry on every master.
pub(crate) const PORT: u16 = 5001;
/// Where node-proxy listens on a node; all nodes of the test share it.
const NODE_PROXY: &str = "127.0.0.1:5001";
/// Where the controllers' metrics are, by number.
const METRICS: u16 = 5100;

fn binary() -> Command {
    // `make e2e` tests the release's.
    let server = std::env::var_os("INTEROP_SERVER").unwrap_or_else(|| env!("CARGO_BIN_EXE_d8-registry").into());
    let mut command = Command::new(server);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "KUBECONFIG"] {
        command.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    command.stdin(Stdio::null());
    command
}

/// `d8-registry switch`, as an administrator runs it, up to its end: whether it was well, and what it said.
pub(crate) async fn switch(kubeconfig: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = binary();
    command.arg("switch").args(arguments).arg("--kubeconfig").arg(kubeconfig);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.success(), said)
}

/// A process that is killed at the end of its handle.
pub(crate) struct Process(Child);

impl Process {
    fn start(mut command: Command, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().unwrap())
    }

    /// Ends it without a word, as a lost machine would.
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Asks it to end, and waits.
    pub(crate) fn terminate(mut self) -> bool {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap().success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An authority with its files.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    pub(crate) cert: PathBuf,
    key: PathBuf,
}

impl Authority {
    pub(crate) fn new(directory: &Path, name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let authority =
            Self { cert: directory.join(format!("{name}.crt")), key: directory.join(format!("{name}.key")) };
        std::fs::write(&authority.cert, certificate.pem()).unwrap();
        std::fs::write(&authority.key, key.serialize_pem()).unwrap();
        authority
    }

    /// PEM of the certificate.
    pub(crate) fn pem(&self) -> String {
        std::fs::read_to_string(&self.cert).unwrap()
    }

    /// Issues `tls.crt` and `tls.key` into a directory, and what else the flags say.
    pub(crate) fn issue(&self, out: &Path, subject: &[&str]) {
        let mut command = binary();
        command.args(["pki", "issue", "--ca-cert"]).arg(&self.cert).arg("--ca-key").arg(&self.key);
        let output = command.args(subject).arg("--out").arg(out).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A server: a master's, or the upstream.
pub(crate) struct Server {
    pub(crate) address: String,
    directory: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Server {
    /// One on an address. `configuration` is what differs between masters and upstreams.
    pub(crate) fn new(directory: PathBuf, address: &str, authority: &Authority, configuration: &str) -> Self {
        for folder in ["users", "mode", "store", "pki"] {
            std::fs::create_dir_all(directory.join(folder)).unwrap();
        }
        authority.issue(&directory.join("pki"), &["--san", address, "--peer"]);
        let at = directory.display();
        let text = format!(
            "listen: {address}:{PORT}\nadminListen: {address}:5002\nstore: {{dir: {at}/store, reserveBytes: 0}}\n\
             log: {{format: json}}\n{configuration}"
        );
        let text = text.replace("$DIR", &at.to_string());
        std::fs::write(directory.join("config.yaml"), text).unwrap();
        let log = directory.join("log");
        Self { address: address.to_owned(), directory, log, process: None }
    }

    /// `host:port` of the registry.
    pub(crate) fn host(&self) -> String {
        format!("{}:{PORT}", self.address)
    }

    pub(crate) fn start(&mut self) {
        let mut command = binary();
        command.args(["serve", "--config"]).arg(self.directory.join("config.yaml"));
        self.process = Some(Process::start(command, &self.log));
    }

    /// Puts a file in place as the keeper does: whole.
    pub(crate) fn keep(&self, name: &str, content: &[u8]) {
        let target = self.directory.join(name);
        let _ = std::fs::create_dir_all(target.parent().unwrap());
        let new = target.with_extension("new");
        std::fs::write(&new, content).unwrap();
        rustix::fs::rename(new, target).unwrap();
    }

    /// Changes a text of its configuration.
    pub(crate) fn reconfigure(&self, old: &str, new: &str) {
        let text = String::from_utf8(self.kept("config.yaml")).unwrap();
        assert!(text.contains(old), "{old} is not in {text}");
        self.keep("config.yaml", text.replace(old, new).as_bytes());
        self.reload();
    }

    /// A file as it was kept last; empty where it is not there.
    pub(crate) fn kept(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.directory.join(name)).unwrap_or_default()
    }

    /// Has the server read its files now, and not at its next look at them within 5 s.
    pub(crate) fn reload(&self) {
        // Before it listens the signal would end it, and it reads them anyway.
        if let Some(Process(child)) = self.process.as_ref().filter(|_| self.log().contains("listening")) {
            rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::HUP)
                .unwrap();
        }
    }

    /// Adds a line to its configuration.
    pub(crate) fn configure(&self, line: &str) {
        let config = String::from_utf8(self.kept("config.yaml")).unwrap();
        self.keep("config.yaml", format!("{config}{line}\n").as_bytes());
        self.reload();
    }

    /// The user of a Secret `registry-user-*`.
    pub(crate) fn keep_user(&self, secret: &str, data: &BTreeMap<String, Vec<u8>>) {
        for (key, value) in data {
            self.keep(&format!("users/{secret}/{key}"), value);
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// The balancer that every node reaches the masters by.
pub(crate) fn node_proxy(directory: &Path) -> Process {
    let mut command = binary();
    let list = directory.join("backends");
    command.args(["node-proxy", "--backend-tls", "--listen", NODE_PROXY, "--backends-file"]).arg(list);
    Process::start(command, &directory.join("node-proxy.log"))
}

/// How a controller is started.
#[derive(Clone, Debug)]
pub(crate) struct ControllerSetup {
    pub(crate) kubeconfig: PathBuf,
    pub(crate) directory: PathBuf,
    pub(crate) flags: &'static [&'static str],
}

impl ControllerSetup {
    /// Starts the controller of a number; those of other numbers may run beside.
    pub(crate) fn start(&self, number: u16) -> Process {
        let mut command = binary();
        command.args(["controller", "--kubeconfig"]).arg(&self.kubeconfig);
        for (flag, file) in [("--cert", "tls.crt"), ("--key", "tls.key"), ("--ca", "ca.crt")] {
            command.arg(flag).arg(self.directory.join(file));
        }
        command
            .arg("--metrics-listen")
            .arg(metrics_address(number))
            .arg("--identity")
            .arg(format!("controller-{number}"));
        command.args(self.flags);
        command.env_remove("POD_NAME");
        Process::start(command, &self.log(number))
    }

    pub(crate) fn log(&self, number: u16) -> PathBuf {
        self.directory.join(format!("controller-{number}.log"))
    }
}

pub(crate) fn metrics_address(number: u16) -> String {
    format!("127.0.0.1:{}", METRICS + number)
}
