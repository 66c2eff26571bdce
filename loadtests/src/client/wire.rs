//! One TCP connection, with or without TLS, that costs the measuring process as little as it can: what nobody wants is
//! thrown away inside the kernel (plain) or record by record (TLS).

use std::fmt;
use std::io::{self, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::net::{RecvFlags, recv};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ClientConfig, HandshakeKind};

/// How long a blocking read may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most bytes of one read under TLS.
const INCOMING: usize = 256 * 1024;
/// Bytes that are encrypted in one go.
const PIECE: usize = 64 * 1024;

/// Address of a server, with the client's side of TLS if it speaks that.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Place {
    /// A port of the loopback.
    pub(crate) fn local(port: u16, tls: Option<Arc<ClientConfig>>) -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], port)), tls }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.address)
    }
}

/// Result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Data, all of it given to `take`; perhaps none that a client sees.
    Data,
    /// Number of bytes that were thrown away.
    Skipped(usize),
    /// The other side is done.
    End,
}

/// A connection. Blocking until [`Wire::make_nonblocking`].
#[derive(Debug)]
pub(crate) struct Wire {
    place: Place,
    socket: TcpStream,
    tls: Option<Box<Tls>>,
}

impl Wire {
    /// Connects; with TLS the handshake is done.
    pub(crate) fn connect(place: &Place) -> Result<Self> {
        let socket = TcpStream::connect_timeout(&place.address, PATIENCE)
            .with_context(|| format!("connect to {}", place.address))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut wire = Self { place: place.clone(), socket, tls: None };
        if let Some(config) = &place.tls {
            let name = ServerName::from(place.address.ip());
            let mut tls = Box::new(Tls::new(Arc::clone(config), name)?);
            tls.handshake(&wire.socket).with_context(|| format!("TLS handshake with {}", place.address))?;
            wire.tls = Some(tls);
        }
        Ok(wire)
    }

    /// From now on reads that would wait fail with [`ErrorKind::WouldBlock`]. Requests have to fit the socket's buffer.
    pub(crate) fn make_nonblocking(&self) -> io::Result<()> {
        self.socket.set_nonblocking(true)
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// How the handshake went, if there was one.
    pub(crate) fn handshake_kind(&self) -> Option<HandshakeKind> {
        self.tls.as_ref().and_then(|tls| tls.connection.handshake_kind())
    }

    /// Sends all of it. An error says where to, and how much of it the kernel had taken.
    pub(crate) fn send(&mut self, data: &[u8]) -> Result<()> {
        let mut sent = 0;
        let result = match &mut self.tls {
            None => write(&self.socket, data, &mut sent),
            Some(tls) => data.chunks(PIECE).try_for_each(|piece| {
                tls.send(&self.socket, piece)?;
                sent += piece.len();
                Ok(())
            }),
        };
        result.with_context(|| format!("{:?} broke off after {sent} of {} bytes", self.place, data.len()))
    }

    /// Reads what is there, once. The next `unwanted` bytes may be thrown away unseen; `scratch` is where to.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] as an [`io::Error`] inside, if nothing is there: see [`would_block`].
    pub(crate) fn receive(
        &mut self,
        unwanted: usize,
        scratch: &mut [u8],
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Received> {
        if let Some(tls) = &mut self.tls {
            return tls.receive(&self.socket, take);
        }
        if unwanted > 0 {
            let most = unwanted.min(scratch.len());
            let (_, count) = recv(&self.socket, &mut scratch[..most], RecvFlags::TRUNC).map_err(io::Error::from)?;
            return Ok(if count == 0 { Received::End } else { Received::Skipped(count) });
        }
        let (count, _) = recv(&self.socket, &mut *scratch, RecvFlags::empty()).map_err(io::Error::from)?;
        if count == 0 {
            return Ok(Received::End);
        }
        take(&scratch[..count])?;
        Ok(Received::Data)
    }
}

/// Writes all of it and counts on the way.
fn write(mut socket: &TcpStream, data: &[u8], written: &mut usize) -> Result<()> {
    while *written < data.len() {
        match socket.write(&data[*written..]) {
            Ok(0) => bail!("nothing more is taken"),
            Ok(count) => *written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => (),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether an error of [`Wire::receive`] only says that nothing has come yet.
pub(crate) fn would_block(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// The client's side of TLS, over a buffer that holds many records.
struct Tls {
    connection: UnbufferedClientConnection,
    incoming: Vec<u8>,
    /// The part of `incoming` that has not been read yet.
    begin: usize,
    end: usize,
    outgoing: Vec<u8>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("begin", &self.begin).field("end", &self.end).finish_non_exhaustive()
    }
}

/// Next need of a connection.
enum Wants {
    /// Bytes from the other side.
    Bytes,
    /// The same, and we may send.
    BytesOrData,
    /// Nothing: the other side has closed.
    Nothing,
}

impl Tls {
    fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self> {
        let connection = UnbufferedClientConnection::new(config, name)?;
        Ok(Self { connection, incoming: vec![0; INCOMING], begin: 0, end: 0, outgoing: Vec::new() })
    }

    fn handshake(&mut self, socket: &TcpStream) -> Result<()> {
        loop {
            match self.advance(socket, &mut |_| bail!("data before the end of the handshake"))? {
                Wants::Bytes => self.fill(socket).and_then(|count| {
                    if count == 0 { bail!("the connection was closed in the handshake") } else { Ok(()) }
                })?,
                Wants::BytesOrData => return Ok(()),
                Wants::Nothing => bail!("TLS was closed in the handshake"),
            }
        }
    }

    fn receive(&mut self, socket: &TcpStream, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Received> {
        if self.fill(socket)? == 0 {
            return Ok(Received::End);
        }
        match self.advance(socket, take)? {
            Wants::Nothing => Ok(Received::End),
            Wants::Bytes | Wants::BytesOrData => Ok(Received::Data),
        }
    }

    /// Reads once from the socket.
    fn fill(&mut self, socket: &TcpStream) -> Result<usize> {
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
        } else if self.end == self.incoming.len() {
            self.incoming.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        let (count, _) = recv(socket, &mut self.incoming[self.end..], RecvFlags::empty()).map_err(io::Error::from)?;
        self.end += count;
        Ok(count)
    }

    /// Goes through what has come and answers what must be answered.
    fn advance(&mut self, socket: &TcpStream, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Wants> {
        loop {
            let UnbufferedStatus { mut discard, state, .. } =
                self.connection.process_tls_records(&mut self.incoming[self.begin..self.end]);
            let wants = match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        take(record.payload)?;
                    }
                    None
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    let used = self.outgoing.len();
                    self.outgoing.resize(used + INCOMING, 0);
                    let count = data.encode(&mut self.outgoing[used..])?;
                    self.outgoing.truncate(used + count);
                    None
                }
                ConnectionState::TransmitTlsData(data) => {
                    let mut socket = socket;
                    socket.write_all(&self.outgoing)?;
                    self.outgoing.clear();
                    data.done();
                    None
                }
                ConnectionState::BlockedHandshake => Some(Wants::Bytes),
                ConnectionState::WriteTraffic(_) => Some(Wants::BytesOrData),
                ConnectionState::PeerClosed | ConnectionState::Closed => Some(Wants::Nothing),
                other => bail!("a state of TLS that was not expected: {other:?}"),
            };
            self.begin += discard;
            if let Some(wants) = wants {
                return Ok(wants);
            }
        }
    }

    fn send(&mut self, socket: &TcpStream, data: &[u8]) -> Result<()> {
        // Each record of 16 KiB has some bytes more.
        self.outgoing.resize(data.len() + data.len() / 256 + 512, 0);
        let status = self.connection.process_tls_records(&mut self.incoming[self.begin..self.end]);
        let count = match status.state? {
            ConnectionState::WriteTraffic(mut traffic) => traffic.encrypt(data, &mut self.outgoing)?,
            other => bail!("TLS can't send now: {other:?}"),
        };
        self.begin += status.discard;
        let mut socket = socket;
        socket.write_all(&self.outgoing[..count])?;
        self.outgoing.clear();
        Ok(())
    }
}
