//! Orders to a running server, by its socket alone: the commands take the store by themselves once no server answers.

use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Sends an order to the server of a data folder; all of its answer, which is empty if the server was killed meanwhile.
pub(crate) async fn order(data: &Path, path: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(data.join("admin.sock")).await?;
    stream.write_all(format!("POST {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
