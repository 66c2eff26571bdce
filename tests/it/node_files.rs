//! `static-pod` and `own-folder`: folders laid out as the kubelet mounts them, read and written by the binary.

use std::io::{BufRead as _, BufReader};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

/// A mounted Secret: the files lie behind `..data`, as the kubelet has it, and one of them in a folder.
fn mount(folder: &Path, version: &str, users: &[&str]) -> PathBuf {
    let mounted = folder.join("mounted");
    let real = mounted.join(format!("..{version}"));
    for user in users {
        std::fs::create_dir_all(real.join(user)).unwrap();
        std::fs::write(real.join(user).join("password"), version).unwrap();
    }
    std::fs::write(real.join("config.yaml"), version).unwrap();
    symlink(format!("..{version}"), mounted.join("..new")).unwrap();
    std::fs::rename(mounted.join("..new"), mounted.join("..data")).unwrap();
    for name in users.iter().chain(&["config.yaml"]) {
        let _ = symlink(format!("..data/{name}"), mounted.join(name));
    }
    mounted
}

fn static_pod(folder: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_d8-registry"))
        .current_dir(folder)
        .args(["static-pod", "--once", "--copy", "mounted=node/files"])
        .args(["--manifest", "pod.yaml=node/manifests/pod.yaml"])
        .args(more)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn owner(path: &Path) -> String {
    let metadata = std::fs::metadata(path).unwrap();
    format!("{}:{}", metadata.uid(), metadata.gid())
}

/// Every file below, but for the mark.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.file_name().unwrap() != ".d8-registry" {
            found.push(path.display().to_string());
        }
    }
    found.sort();
    found
}

#[test]
fn a_node_has_what_is_mounted_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("pod.yaml"), "first").unwrap();
    std::fs::create_dir_all(folder.join("node/manifests")).unwrap();
    mount(folder, "1", &["ro", "rw"]);
    let me = owner(folder);
    assert_eq!(said(&static_pod(folder, &["--owner", &me])), "4 files changed\n");
    let copy = folder.join("node/files");
    let expected = ["config.yaml", "ro/password", "rw/password"].map(|name| copy.join(name).display().to_string());
    assert_eq!(files(&copy), expected);
    for file in &expected {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(owner(Path::new(file)), me);
    }
    assert_eq!(said(&static_pod(folder, &["--owner", &me])), "0 files changed\n");

    // A user goes, the passwords change, the manifest too.
    std::fs::remove_file(folder.join("mounted/rw")).unwrap();
    mount(folder, "2", &["ro"]);
    std::fs::write(folder.join("pod.yaml"), "second").unwrap();
    assert_eq!(said(&static_pod(folder, &[])), "4 files changed\n");
    assert_eq!(files(&copy), expected[..2]);
    assert!(!copy.join("rw").exists());
    assert_eq!(std::fs::read_to_string(copy.join("ro/password")).unwrap(), "2");
    assert_eq!(std::fs::read_to_string(folder.join("node/manifests/pod.yaml")).unwrap(), "second");

    assert_eq!(said(&static_pod(folder, &["--remove"])), "2 files changed\n");
    assert!(!copy.exists());
    assert!(files(&folder.join("node/manifests")).is_empty());
    assert_eq!(said(&static_pod(folder, &["--remove"])), "0 files changed\n");
}

#[test]
fn what_others_put_on_the_node_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    mount(folder, "1", &["ro"]);
    std::fs::write(folder.join("pod.yaml"), "first").unwrap();
    std::fs::create_dir_all(folder.join("node/files")).unwrap();
    std::fs::write(folder.join("node/files/theirs"), "theirs").unwrap();
    for more in [&[][..], &["--remove"]] {
        let output = static_pod(folder, more);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("files that are not ours"));
        assert_eq!(files(&folder.join("node")), [folder.join("node/files/theirs").display().to_string()]);
    }
}

/// A mount that is gone for a moment must not empty the node.
#[test]
fn without_a_source_nothing_is_removed() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    mount(folder, "1", &["ro"]);
    std::fs::write(folder.join("pod.yaml"), "first").unwrap();
    said(&static_pod(folder, &[]));
    std::fs::remove_dir_all(folder.join("mounted")).unwrap();
    assert_eq!(static_pod(folder, &[]).status.code(), Some(1));
    assert_eq!(files(&folder.join("node/files")).len(), 2);
}

/// What it says of each pass that found something.
#[test]
fn a_node_follows_until_the_end() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    mount(folder, "1", &["ro"]);
    std::fs::write(folder.join("pod.yaml"), "first").unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_d8-registry"))
        .current_dir(folder)
        .args(["static-pod", "--copy", "mounted=node/files", "--manifest", "pod.yaml=node/manifests/pod.yaml"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["message"], "keeping the node's files");
    assert_eq!(next()["files"], 3);
    mount(folder, "2", &["ro"]);
    // A pass may see the old of one file and the new of another.
    let copied = |name: &str| std::fs::read_to_string(folder.join("node/files").join(name)).unwrap();
    while [copied("config.yaml"), copied("ro/password")] != ["2", "2"] {
        assert!(next()["files"].is_number());
    }
    // Once, however long it lasts.
    std::fs::remove_file(folder.join("pod.yaml")).unwrap();
    let line = next();
    assert_eq!(line["level"], "ERROR");
    assert!(line["reason"].as_str().unwrap().contains("pod.yaml"), "{line}");
    assert_eq!(std::fs::read_to_string(folder.join("node/manifests/pod.yaml")).unwrap(), "first");
    std::fs::write(folder.join("pod.yaml"), "second").unwrap();
    assert_eq!(next()["files"], 1);
    let pid = rustix::process::Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_to_string(folder.join("node/manifests/pod.yaml")).unwrap(), "second");
}

/// Root gives files to the server's user; others can only see that a folder is theirs.
#[test]
fn what_is_the_servers_is_given_away() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("new/data");
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if is_root {
        std::fs::write(folder.path().join("pod.yaml"), "").unwrap();
        mount(folder.path(), "1", &["ro"]);
        said(&static_pod(folder.path(), &["--owner", "64535:64535"]));
        for given in ["", "ro", "ro/password", "config.yaml"] {
            assert_eq!(owner(&folder.path().join("node/files").join(given)), "64535:64535", "{given}");
        }
    }
    let wanted = if is_root { "64535:64535".to_owned() } else { owner(folder.path()) };
    let own = || own_folder(&data, &wanted);
    said(&own());
    assert_eq!(owner(&data), wanted);
    assert!(said(&own()).contains("belongs already"));
    if is_root {
        std::fs::create_dir_all(data.join("below")).unwrap();
        std::fs::create_dir_all(data.join("docker/registry/v2")).unwrap();
        std::fs::write(data.join("below/file"), "").unwrap();
        std::fs::write(data.join(".d8-registry"), "d8-registry\n").unwrap();
        symlink(folder.path().join("pod.yaml"), data.join("below/link")).unwrap();
        std::os::unix::fs::chown(&data, Some(0), Some(0)).unwrap();
        assert!(said(&own()).contains("given to"));
        assert_eq!([owner(&data.join("below")), owner(&data.join("below/file"))], [wanted.clone(), wanted]);
        assert_eq!([owner(&data.join("docker")), owner(&folder.path().join("pod.yaml"))], ["0:0", "0:0"]);
    }
}

fn own_folder(folder: &Path, owner: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    command.args(["own-folder", "--owner", owner]).arg(folder).output().unwrap()
}

/// A path that is one segment short leads to the tree of somebody else.
#[test]
fn a_folder_of_others_is_not_given_away() {
    let folder = TempDir::new().unwrap();
    let theirs = folder.path().join("local_data/docker/registry/v2");
    std::fs::create_dir_all(&theirs).unwrap();
    let me = owner(folder.path());
    let another = if me.starts_with("64535:") { "64536:64536" } else { "64535:64535" };
    for named in ["", "local_data", "local_data/docker"] {
        let output = own_folder(&folder.path().join(named), another);
        assert_eq!(output.status.code(), Some(1), "{named}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("files that are not ours; nothing in it was changed"));
        for there in [folder.path(), &folder.path().join("local_data"), &theirs] {
            assert_eq!(owner(there), me, "{named}");
        }
    }
    // Whoever has it already may keep what is in it.
    assert!(said(&own_folder(folder.path(), &me)).contains("belongs already"));
    // A new disk is as good as an empty folder, and so is a store that was not laid out to the end.
    for beside in ["lost+found", ".d8-registry.new"] {
        let data = folder.path().join(format!("with-{beside}"));
        std::fs::create_dir(&data).unwrap();
        if beside == "lost+found" {
            std::fs::create_dir(data.join(beside)).unwrap();
        } else {
            std::fs::write(data.join(beside), "").unwrap();
        }
        let output = own_folder(&data, another);
        assert!(!String::from_utf8_lossy(&output.stderr).contains("not ours"), "{beside}");
        if me == "0:0" {
            assert_eq!(owner(&data), another);
        }
    }
}

/// The folders that a kill leaves while the mark is written or after it was removed.
#[test]
fn what_a_kill_left_of_our_folder_is_ours() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    mount(folder, "1", &["ro"]);
    std::fs::write(folder.join("pod.yaml"), "first").unwrap();
    let copy = folder.join("node/files");
    for staged in [true, false] {
        for more in [&[][..], &["--remove"]] {
            std::fs::create_dir_all(&copy).unwrap();
            if staged {
                std::fs::write(copy.join("..d8-registry.new"), "").unwrap();
            }
            said(&static_pod(folder, more));
            assert_eq!(copy.exists(), more.is_empty());
            said(&static_pod(folder, &["--remove"]));
        }
    }
    // Half a password that was never renamed, of a user that is gone.
    said(&static_pod(folder, &[]));
    std::fs::create_dir(copy.join("rw")).unwrap();
    std::fs::write(copy.join("rw/.password.new"), "half").unwrap();
    assert_eq!(said(&static_pod(folder, &[])), "1 files changed\n");
    assert!(!copy.join("rw").exists());
}

/// Killed anywhere while it removes keys and passwords, the next call removes the rest.
#[test]
fn a_removal_that_was_killed_is_gone_on_with() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let copy = folder.join("node/files");
    let fill = || {
        std::fs::create_dir_all(copy.join("ro")).unwrap();
        std::fs::write(copy.join(".d8-registry"), "").unwrap();
        for number in 0..300 {
            std::fs::write(copy.join(format!("{number}")), "secret").unwrap();
            std::fs::write(copy.join(format!("ro/{number}")), "secret").unwrap();
        }
    };
    fill();
    let begun = std::time::Instant::now();
    said(&static_pod(folder, &["--remove"]));
    let took = begun.elapsed();
    for round in 0..40 {
        fill();
        let mut child = Command::new(env!("CARGO_BIN_EXE_d8-registry"))
            .current_dir(folder)
            .args(["static-pod", "--once", "--remove", "--copy", "mounted=node/files"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(took * round / 40);
        child.kill().unwrap();
        child.wait().unwrap();
        said(&static_pod(folder, &["--remove"]));
        assert!(!copy.exists());
    }
}

/// What root does in the copies stays in them, whatever the owner of the copies puts there.
#[test]
fn a_link_in_a_copy_leads_nowhere() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    mount(folder, "1", &["ro"]);
    std::fs::write(folder.join("pod.yaml"), "first").unwrap();
    let me = owner(folder);
    let given = if me == "0:0" { "64535:64535" } else { &me };
    said(&static_pod(folder, &["--owner", given]));
    let (copy, elsewhere) = (folder.join("node/files"), folder.join("elsewhere"));
    std::fs::create_dir(&elsewhere).unwrap();
    for name in ["password", "theirs", "config.yaml"] {
        std::fs::write(elsewhere.join(name), "1").unwrap();
    }
    std::fs::remove_dir_all(copy.join("ro")).unwrap();
    std::fs::remove_file(copy.join("config.yaml")).unwrap();
    symlink(&elsewhere, copy.join("ro")).unwrap();
    symlink(&elsewhere, copy.join("more")).unwrap();
    symlink(elsewhere.join("config.yaml"), copy.join("config.yaml")).unwrap();
    // A folder in the place of a file goes too.
    for _ in 0..2 {
        said(&static_pod(folder, &["--owner", given]));
        let expected = ["config.yaml", "ro/password"].map(|name| copy.join(name).display().to_string());
        assert_eq!(files(&copy), expected);
        for name in ["", "ro", "ro/password", "config.yaml"] {
            assert!(!copy.join(name).is_symlink(), "{name}");
            assert_eq!(owner(&copy.join(name)), given, "{name}");
        }
        assert_eq!(files(&elsewhere).len(), 3);
        for name in ["", "password", "theirs", "config.yaml"] {
            assert_eq!(owner(&elsewhere.join(name)), me, "{name}");
        }
        std::fs::remove_file(copy.join("config.yaml")).unwrap();
        std::fs::create_dir_all(copy.join("config.yaml/below")).unwrap();
        symlink(&elsewhere, copy.join("config.yaml/below/link")).unwrap();
    }
    said(&static_pod(folder, &["--remove"]));
    assert_eq!(files(&elsewhere).len(), 3);
    // The copy itself.
    std::fs::write(elsewhere.join(".d8-registry"), "").unwrap();
    symlink(&elsewhere, &copy).unwrap();
    for more in [&[][..], &["--remove"]] {
        let output = static_pod(folder, more);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("symbolic link where a folder has to be"));
        assert_eq!(files(&elsewhere).len(), 3);
    }
}

/// A store's marker has the name of ours.
#[test]
fn a_store_is_no_copy() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    mount(folder, "1", &["ro"]);
    std::fs::write(folder.join("pod.yaml"), "first").unwrap();
    let store = folder.join("node/files");
    let init = Command::new(env!("CARGO_BIN_EXE_d8-registry")).arg("init").arg("--data-dir").arg(&store).output();
    said(&init.unwrap());
    let before = files(&store);
    for more in [&[][..], &["--remove"]] {
        assert_eq!(static_pod(folder, more).status.code(), Some(1));
        assert_eq!(files(&store), before);
    }
}

/// A server reads several files of one copy: an upstream's name and its password.
#[test]
fn a_copy_is_of_one_version_whenever_it_is_looked_at() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    mount(folder, "0", &["ro"]);
    std::fs::write(folder.join("pod.yaml"), "first").unwrap();
    said(&static_pod(folder, &[]));
    let (copy, ended) = (folder.join("node/files"), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut whole = 0;
            while !ended.load(Ordering::Relaxed) {
                let directory = std::fs::File::open(&copy).expect("there is one at any moment");
                let at = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
                let read = |name: &str| std::fs::read_to_string(at.join(name)).ok();
                // One that was replaced is emptied.
                if let (Some(config), Some(password)) = (read("config.yaml"), read("ro/password")) {
                    assert_eq!(config, password);
                    whole += 1;
                }
            }
            whole
        });
        for version in 1..40 {
            mount(folder, &version.to_string(), &["ro"]);
            assert_eq!(said(&static_pod(folder, &[])), "2 files changed\n");
        }
        ended.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    assert_eq!(files(&folder.join("node")).len(), 3, "nothing is left beside the copy");
}
