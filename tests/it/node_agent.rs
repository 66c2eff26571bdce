//! `node-agent` as a program, with no API server to be had: what it writes, what it asks for, how it ends.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::support::{Image, REPO, Upstream, within};

const HOST: &str = "registry.d8-system.svc:5001";
const CONTAINERD: &str =
    "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/registry.d\"\n";

/// A node and its agent, killed when dropped.
struct Agent {
    folder: TempDir,
    process: Child,
    address: String,
}

fn port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Agent {
    fn start(config: &str, flags: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("root/etc/containerd")).unwrap();
        std::fs::write(at("root/etc/containerd/config.toml"), CONTAINERD).unwrap();
        std::fs::create_dir(at("mount")).unwrap();
        std::fs::write(at("mount/config"), config).unwrap();
        // Nobody listens there.
        let kubeconfig = format!(
            "{{apiVersion: v1, kind: Config, clusters: [{{name: x, cluster: {{server: 'https://127.0.0.1:{}'}}}}], \
             users: [{{name: x, user: {{token: t}}}}], contexts: [{{name: x, context: {{cluster: x, user: x}}}}], current-context: x}}",
            port()
        );
        std::fs::write(at("kubeconfig"), kubeconfig).unwrap();
        let address = format!("127.0.0.1:{}", port());
        let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
        command.arg("node-agent").arg("--root").arg(at("root")).arg("--mount").arg(at("mount"));
        command.arg("--files").arg(at("files")).arg("--proc").arg(at("proc")).arg("--kubeconfig").arg(at("kubeconfig"));
        command.args(["--node", "one", "--interval", "1s", "--metrics-listen", &address]).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().unwrap();
        Self { folder, process, address }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn hosts_toml(&self) -> PathBuf {
        self.at("root/etc/containerd/registry.d").join(HOST).join("hosts.toml")
    }

    /// Waits until a scrape has this line.
    async fn until(&self, line: &str) {
        let url = format!("http://{}/metrics", self.address);
        within(async {
            loop {
                if let Ok(answer) = reqwest::get(&url).await
                    && answer.text().await.unwrap().lines().any(|found| found == line)
                {
                    return;
                }
            }
        })
        .await;
    }

    /// Waits until a scrape has no line that begins so.
    async fn until_without(&self, beginning: &str) {
        let url = format!("http://{}/metrics", self.address);
        within(async {
            loop {
                let answer = reqwest::get(&url).await.unwrap().text().await.unwrap();
                if !answer.lines().any(|found| found.starts_with(beginning)) {
                    return;
                }
            }
        })
        .await;
    }

    /// Ends it; its code.
    fn end(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.process.wait().unwrap().code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn config(mirror: &str) -> String {
    format!(
        "{{mode: Proxy, version: abc, imagesBase: '{HOST}/{REPO}', hosts: {{'{HOST}': {{mirrors: [{{host: '{mirror}', \
         scheme: http, auth: {{username: u, password: hush, auth: ''}}}}]}}}}}}"
    )
}

#[tokio::test]
async fn it_writes_what_is_mounted_and_asks_for_the_image_as_containerd_does() {
    let upstream = Upstream::start();
    upstream.demand_basic("u", "hush");
    let image = Image::of(1);
    upstream.put_image(REPO, "v1", &image);
    let pinned = format!("@{}", image.digest());
    let mut agent = Agent::start(&config(&upstream.address()), &["--image", &pinned]);
    agent.until("d8_registry_node_agent_pull_ok{check=\"manifest\"} 1").await;
    agent.until("d8_registry_node_agent_pull_ok{check=\"blob\"} 1").await;
    // The mirror has an address of this machine, as node-proxy has.
    agent.until("d8_registry_node_agent_pull_ok{check=\"node_proxy\"} 1").await;
    // The API server is away, and that is all that is wrong.
    agent.until("d8_registry_node_agent_api_up 0").await;
    agent.until("d8_registry_node_agent_follows 1").await;
    agent.until("d8_registry_node_agent_problem{kind=\"source\"} 0").await;
    assert!(std::fs::read_to_string(agent.hosts_toml()).unwrap().contains(&upstream.address()));
    let copy = agent.at("files/copy.json");
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // One manifest at each question, and one blob at every tenth.
    let path = format!("/v2/{REPO}/manifests/{}", image.digest());
    within(async {
        while upstream.count("HEAD", &path) < 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(upstream.count("GET", &path) <= 1 + upstream.count("HEAD", &path) / 10);
    upstream.rule("HEAD", &path, |answer| {
        answer.status(500);
    });
    agent.until("d8_registry_node_agent_pull_ok{check=\"manifest\"} 0").await;
    agent.until("d8_registry_node_agent_pull_ok{check=\"node_proxy\"} 0").await;
    upstream.heal();
    agent.until("d8_registry_node_agent_pull_ok{check=\"manifest\"} 1").await;
    // Without node-proxy among the mirrors nothing is said of it.
    let by_name = upstream.address().replace("127.0.0.1", "localhost");
    std::fs::write(agent.at("mount/config"), config(&by_name)).unwrap();
    agent.until_without("d8_registry_node_agent_pull_ok{check=\"node_proxy\"}").await;
    agent.until("d8_registry_node_agent_pull_ok{check=\"manifest\"} 1").await;
    // Without the mount it goes on by the copy.
    std::fs::remove_file(agent.at("mount/config")).unwrap();
    agent.until("d8_registry_node_agent_problem{kind=\"source\"} 1").await;
    agent.until("d8_registry_node_agent_follows 1").await;
    agent.until("d8_registry_node_agent_wanted 1").await;
    assert_eq!(agent.end(), Some(0));
    assert!(agent.hosts_toml().exists() && copy.exists());
}

#[tokio::test]
async fn the_end_of_a_settled_bare_unmanaged_takes_everything_away_with_the_api_server_away_too() {
    let mut agent = Agent::start(&config("a.example").replace("Proxy", "Unmanaged"), &[]);
    agent.until("d8_registry_node_agent_follows 1").await;
    std::fs::write(agent.at("mount/settled"), "abc").unwrap();
    let copy = agent.at("files/copy.json");
    let settled = || std::fs::read_to_string(&copy).unwrap().contains("\"settled\":true");
    within(async {
        while !settled() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    std::fs::remove_dir_all(agent.at("mount")).unwrap();
    agent.until("d8_registry_node_agent_follows 0").await;
    agent.until("d8_registry_node_agent_wanted 0").await;
    agent.until("d8_registry_node_agent_problem{kind=\"source\"} 0").await;
    assert!(!agent.hosts_toml().exists() && !copy.exists());
    assert_eq!(agent.end(), Some(0));
}

#[test]
fn wrong_usage_ends_with_2() {
    let folder = TempDir::new().unwrap();
    let none = folder.path().join("none");
    let end = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
        command.args(["node-agent", "--metrics-listen", "127.0.0.1:0", "--root"]).arg(folder.path()).args(flags);
        command.env("KUBECONFIG", &none).output().unwrap().status.code()
    };
    assert_eq!(end(&[]), Some(2));
    for flags in [["--image", "x:v1"], ["--interval", "10ms"], ["--interval", "1h"], ["--root", "/none"]] {
        assert_eq!(end(&flags), Some(2), "{flags:?}");
    }
}
