//! `admin.sock` in the data directory: HTTP/1 for root and the server's own user, and the only way to give orders.
//!
//! Two things keep others out. The socket's file is made with mode 0600, and each client's user is asked of the kernel, for
//! a file that somebody gave another mode. The store's lock is held before the socket is made, so what lies under its name
//! then is of a server that was killed, and is replaced.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::fs::Mode;
use rustix::process::geteuid;
use socket2::{Domain, SockAddr, Type};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Its name in the data directory.
const NAME: &str = "admin.sock";
/// Its file is its user's alone.
const MODE: u32 = 0o600;
/// Connections that the kernel keeps while the server is busy.
const BACKLOG: i32 = 16;
/// Longest wait for a request's head.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Longest wait for an answer that is on its way when the server ends.
const LAST_ANSWER: Duration = Duration::from_secs(1);
/// Pause after the system gave no connection.
const BACK_OFF: Duration = Duration::from_secs(1);

/// The socket can't be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path is longer than the address of a socket can be (107 bytes), or the directory takes no file.
    #[error("can't {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something else has its name.
    #[error("{} is there and no socket", path.display())]
    Taken {
        /// What.
        path: PathBuf,
    },
}

/// The path of the socket of a server with this data directory.
#[must_use]
pub fn socket_path(data: &Path) -> PathBuf {
    data.join(NAME)
}

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) uid: u32,
    /// `None`: it is not of this namespace of processes.
    pub(super) pid: Option<i32>,
}

/// The bound socket. Dropped, its file is removed.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

/// The socket's file, removed when this is dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the admin socket can't be removed");
        }
    }
}

impl Socket {
    /// Makes the socket in the data directory, in place of one that a killed server left. Whoever calls holds the store's
    /// lock. Must be called inside a tokio runtime; blocking.
    ///
    /// # Errors
    /// [`SocketError`]; nothing is left behind.
    pub fn bind(data: &Path) -> Result<Self, SocketError> {
        let path = socket_path(data);
        let wrong = |action| {
            let path = path.clone();
            move |source| SocketError::Io { action, path, source }
        };
        let address = SockAddr::unix(&path).map_err(wrong("listen on"))?;
        remove_stale(&path)?;
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).map_err(wrong("listen on"))?;
        // Linux makes the file with the mode of the descriptor, less the umask: at no moment it is wider.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(MODE)).map_err(|error| wrong("listen on")(error.into()))?;
        socket.bind(&address).map_err(wrong("listen on"))?;
        let file = SocketFile(path.clone());
        // A umask may have taken more; what is wider than asked for is a system that does otherwise, and is not used.
        let mode = fs::symlink_metadata(&path).map_err(wrong("look at"))?.permissions().mode() & 0o777;
        if mode & !MODE != 0 {
            return Err(wrong("restrict")(io::Error::from(io::ErrorKind::Unsupported)));
        }
        if mode != MODE {
            fs::set_permissions(&path, fs::Permissions::from_mode(MODE)).map_err(wrong("restrict"))?;
        }
        socket.listen(BACKLOG).map_err(wrong("listen on"))?;
        socket.set_nonblocking(true).map_err(wrong("listen on"))?;
        let listener = UnixListener::from_std(StdListener::from(socket)).map_err(wrong("listen on"))?;
        Ok(Self { listener, file })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.0
    }

    /// Answers until `stop` is cancelled, and removes the file then. Connections are `tasks`; an answer that is on its way
    /// has a second.
    pub async fn serve(self, router: Router, tasks: TaskTracker, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted.and_then(|(stream, _)| Ok((client(&stream)?, stream))) {
                Ok((client, stream)) if client.may_order() => {
                    tasks.spawn(converse(stream, router.clone().layer(Extension(client)), stop.clone()));
                }
                Ok((Client { uid, pid }, _)) => {
                    tracing::warn!(uid, pid, "a client of the admin socket is neither root nor the server's user");
                }
                Err(error) => {
                    tracing::error!(%error, "the admin socket takes no connection, trying again");
                    let _ = stop.run_until_cancelled(tokio::time::sleep(BACK_OFF)).await;
                }
            }
        }
    }
}

impl Client {
    fn may_order(self) -> bool {
        self.uid == 0 || self.uid == geteuid().as_raw()
    }
}

fn client(stream: &UnixStream) -> io::Result<Client> {
    let credentials = stream.peer_cred()?;
    Ok(Client { uid: credentials.uid(), pid: credentials.pid() })
}

/// One connection from its first request to its end.
async fn converse(stream: UnixStream, router: Router, stop: CancellationToken) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    tokio::select! {
        ended = connection.as_mut() => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection of the admin socket broke");
            }
            return;
        }
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(LAST_ANSWER, connection).await;
}

/// Removes the socket of a server that was killed.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let wrong = |action| move |source| SocketError::Io { action, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(wrong("look at")(error)),
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path).map_err(wrong("remove")),
        Ok(_) => Err(SocketError::Taken { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream as Std;

    use axum::routing::get;

    use super::*;

    #[tokio::test]
    async fn the_file_is_its_user_s_alone_and_goes_with_the_socket() {
        let data = tempfile::tempdir().unwrap();
        let socket = Socket::bind(data.path()).unwrap();
        let path = socket_path(data.path());
        assert_eq!(socket.path(), path);
        let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_a_killed_server_left_is_replaced_and_nothing_else_is() {
        let data = tempfile::tempdir().unwrap();
        // A socket whose process is gone stays as a file that nobody answers.
        drop(StdListener::bind(socket_path(data.path())).unwrap());
        assert!(Std::connect(socket_path(data.path())).is_err());
        drop(Socket::bind(data.path()).unwrap());
        fs::write(socket_path(data.path()), "mine").unwrap();
        assert!(matches!(Socket::bind(data.path()), Err(SocketError::Taken { .. })));
        assert_eq!(fs::read(socket_path(data.path())).unwrap(), b"mine");
    }

    #[tokio::test]
    async fn a_path_that_no_address_holds_is_an_error_and_leaves_nothing() {
        let data = tempfile::tempdir().unwrap();
        // Address and its final zero have 108 bytes.
        let long = |bytes: usize| data.path().join("d".repeat(bytes - data.path().as_os_str().len() - NAME.len() - 2));
        for (bytes, fits) in [(107, true), (108, false)] {
            let folder = long(bytes);
            assert_eq!(socket_path(&folder).as_os_str().len(), bytes);
            fs::create_dir(&folder).unwrap();
            assert_eq!(Socket::bind(&folder).is_ok(), fits, "{bytes} bytes");
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        }
    }

    #[tokio::test]
    async fn clients_of_its_own_user_are_known_and_answered_until_the_end() {
        let data = tempfile::tempdir().unwrap();
        let socket = Socket::bind(data.path()).unwrap();
        let path = socket.path().to_owned();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let who = |Extension(client): Extension<Client>| async move { format!("{} {:?}", client.uid, client.pid) };
        tasks.spawn(socket.serve(Router::new().route("/", get(who)), tasks.clone(), stop.clone()));
        let asked = path.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let mut stream = Std::connect(asked).unwrap();
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        let answer = answer.await.unwrap();
        let me = format!("{} Some({})", geteuid().as_raw(), std::process::id());
        assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with(&me), "{answer}");
        // One that says nothing keeps nobody.
        let _silent = Std::connect(&path).unwrap();
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        assert!(!path.exists());
    }

    #[test]
    fn only_root_and_its_own_user_may_order() {
        let client = |uid| Client { uid, pid: Some(1) };
        let me = geteuid().as_raw();
        assert!(client(0).may_order() && client(me).may_order());
        assert!(!client(me + 1).may_order());
    }
}
