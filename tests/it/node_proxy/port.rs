//! An address that another process holds.

use tokio::net::{TcpListener, TcpStream};

use super::{Proxy, Server, talk};
use crate::support::within;

const WAITING: &str = "another process holds the address, waiting beside it";

#[tokio::test]
async fn an_address_that_another_process_holds_is_taken_over_when_it_is_free() {
    let mut server = Server::start().await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap().to_string();
    let proxy = Proxy::beginning(&address, &["--admin-listen", "127.0.0.1:0", "--backend", &server.address]);
    assert_eq!(proxy.line(WAITING).await["address"], address);
    // Beside it: the other one's clients are the other one's.
    let mut theirs = TcpStream::connect(&address).await.unwrap();
    let (mut accepted, _) = within(other.accept()).await.unwrap();
    let waiting = format!("waiting beside another process that holds {address}");
    assert_eq!(proxy.admin("/healthz").await, (200, format!("ok, {waiting}\n")));
    assert_eq!(proxy.admin("/readyz").await, (503, format!("{waiting}\n")));
    let listening = |held: u8| format!("d8_registry_node_proxy_listening{{address=\"{address}\"}} {held}");
    assert!(proxy.admin("/metrics").await.1.contains(&listening(0)));
    // It is ready long before it is needed: health checks run.
    server.more_checks(1).await;
    drop(other);
    proxy.line("listening").await;
    let mut client = proxy.client().await;
    let mut backend = server.connection().await;
    talk(&mut client, &mut backend).await;
    // What the other one had goes on.
    talk(&mut theirs, &mut accepted).await;
    assert_eq!(proxy.admin("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(proxy.admin("/readyz").await.0, 200);
    let metrics = proxy.admin("/metrics").await.1;
    assert!(metrics.contains(&listening(1)), "{metrics}");
    let connections = format!("d8_registry_node_proxy_connections{{backend=\"http://{}\"}} 1", server.address);
    let up = format!("d8_registry_node_proxy_backend_up{{backend=\"http://{}\"}} 1", server.address);
    assert!(metrics.contains(&connections) && metrics.contains(&up), "{metrics}");
    // And is not given back.
    assert!(TcpListener::bind(&address).await.is_err());
    assert_eq!((proxy.said(WAITING).len(), proxy.said("listening").len()), (1, 1), "each is said once");
}

#[tokio::test]
async fn one_that_comes_back_waits_for_the_one_that_took_its_place() {
    let mut server = Server::start().await;
    let first = Proxy::servers(&[&server]).await;
    let address = first.address.clone();
    let arguments = ["--backend", &server.address.clone()];
    let second = Proxy::beginning(&address, &arguments);
    second.line(WAITING).await;
    let mut client = first.client().await;
    let mut backend = server.connection().await;
    first.terminate();
    second.line("listening").await;
    // The first one drains what it has while the second one takes what comes.
    talk(&mut client, &mut backend).await;
    let third = Proxy::beginning(&address, &arguments);
    third.line(WAITING).await;
    let mut next = second.client().await;
    let mut of_next = server.connection().await;
    drop((client, backend));
    assert_eq!(first.ended().await.code(), Some(0));
    talk(&mut next, &mut of_next).await;
    assert!(third.said("listening").is_empty());
    // One that waits ends at once.
    third.terminate();
    assert_eq!(third.ended().await.code(), Some(0));
    assert_eq!(second.said("listening").len(), 1);
}

const TO_END: &str = "to be ended, listening until another one waits for the address";

#[tokio::test]
async fn one_that_is_to_end_takes_connections_until_another_waits() {
    let mut server = Server::start().await;
    let arguments = ["--hand-over", "1h", "--backend", &server.address.clone()];
    let first = Proxy::start(&arguments).await;
    let address = first.address.clone();
    first.terminate();
    first.line(TO_END).await;
    let mut client = first.client().await;
    let mut backend = server.connection().await;
    talk(&mut client, &mut backend).await;
    let second = Proxy::listening(&address, &arguments).await;
    // What the first one took goes on, what comes is the second one's.
    talk(&mut client, &mut backend).await;
    let mut next = second.client().await;
    let mut of_next = server.connection().await;
    drop((client, backend));
    assert_eq!(first.ended().await.code(), Some(0));
    talk(&mut next, &mut of_next).await;
    drop((next, of_next));
    // Nobody comes, and it is said again: now.
    second.terminate();
    second.line(TO_END).await;
    second.terminate();
    assert_eq!(second.ended().await.code(), Some(0));
    assert!(TcpStream::connect(&address).await.is_err());
}
