//! One line per request. Written for every request of a busy server, therefore by hand (see `line.rs`).

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::labels::CacheOutcome;
use super::line::{Line, Lines};
use super::repeats::{Repeats, Verdict};
use crate::clock::{self, Timestamp};
use crate::values::{AccessMode, Level};

const TARGET: &str = "access";

/// A request that was answered. Text may be as the client sent it: it is escaped and cut at 512 bytes here.
#[derive(Clone, Copy, Debug)]
pub struct AccessRecord<'a> {
    /// The request's id.
    pub id: &'a str,
    /// The user's name; `None` for anonymous.
    pub user: Option<&'a str>,
    /// The client's address.
    pub address: IpAddr,
    /// The method.
    pub method: &'a str,
    /// The repository, if the request is about one.
    pub repository: Option<&'a str>,
    /// Tag, digest or upload, if the request is about one.
    pub reference: Option<&'a str>,
    /// The status of the answer.
    pub status: u16,
    /// How the answer came about; `None` where no upstream has a part in it.
    pub cache: Option<CacheOutcome>,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// From the head of the request to the last byte of the answer.
    pub duration: Duration,
    /// Whether the answer's body went out whole.
    pub whole: bool,
    /// What a refused client was told, or what failed.
    pub error: Option<&'a str>,
    /// The `User-Agent` header.
    pub user_agent: Option<&'a str>,
    /// A push, a delete or a refused sign-in: logged in every mode.
    pub important: bool,
}

impl AccessRecord<'_> {
    /// Refused sign-ins are the one kind that comes in masses: after a rotation a cluster sends the old password.
    const fn is_refused_sign_in(&self) -> bool {
        self.important && matches!(self.status, 401 | 429)
    }

    fn fields(&self, line: &mut Line<'_>) {
        line.text("id", self.id);
        line.optional("user", self.user);
        line.address("address", self.address);
        line.text("method", self.method);
        line.optional("repository", self.repository);
        line.optional("reference", self.reference);
        line.number("status", u64::from(self.status));
        line.optional("cache", self.cache.map(CacheOutcome::as_str));
        line.number("received", self.received);
        line.number("sent", self.sent);
        line.seconds("seconds", self.duration);
        if !self.whole {
            line.text("ended", "early");
        }
        line.optional("error", self.error);
        line.optional("agent", self.user_agent);
    }
}

/// The access log. Cheap to clone; writing never waits, lines that don't fit the buffer are lost and counted.
#[derive(Clone, Debug)]
pub struct AccessLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lines: Lines,
    mode: AtomicU8,
    refused: Mutex<Repeats<Refused>>,
}

/// Sign-ins refused to one user at one address.
#[derive(Debug)]
struct Refused {
    user: Option<String>,
    address: IpAddr,
}

impl AccessLog {
    pub(super) fn new(lines: Lines, mode: AccessMode) -> Self {
        Self(Arc::new(Inner { lines, mode: AtomicU8::new(mode as u8), refused: Mutex::new(Repeats::default()) }))
    }

    /// A log that nobody reads, for tests of those who write it.
    #[cfg(test)]
    pub(crate) fn unread() -> Self {
        let (sink, _) = super::sink::Sink::start(std::io::sink()).unwrap();
        Self::new(Lines::new(sink, crate::values::LogFormat::Json), AccessMode::All)
    }

    /// Puts a changed mode into force.
    pub fn set_mode(&self, mode: AccessMode) {
        self.0.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// Whether such a request is logged; to spare the work of making a record.
    #[must_use]
    pub fn wants(&self, status: u16, important: bool) -> bool {
        let mode = self.0.mode.load(Ordering::Relaxed);
        important || mode == AccessMode::All as u8 || (mode == AccessMode::Errors as u8 && status >= 400)
    }

    /// Logs a request, if such requests are logged. Refused sign-ins of one user at one address: one line in ten
    /// seconds, with the number of those left out.
    pub fn log(&self, record: &AccessRecord<'_>) {
        if self.wants(record.status, record.important) {
            self.log_at(record, clock::now(), Instant::now);
        }
    }

    fn log_at(&self, record: &AccessRecord<'_>, now: Timestamp, instant: impl FnOnce() -> Instant) {
        let mut held_back = 0;
        if record.is_refused_sign_in() {
            let mut refused = self.0.refused.lock().unwrap_or_else(PoisonError::into_inner);
            let line = || Refused { user: record.user.map(str::to_owned), address: record.address };
            match refused.judge(&(record.user, record.address, record.status), instant(), line) {
                Verdict::Write { held_back: count } => held_back = count,
                Verdict::HoldBack => return,
            }
        }
        self.0.lines.write(now, Level::Info, TARGET, "request", |line| {
            record.fields(line);
            if held_back > 0 {
                line.number("held_back", held_back);
            }
        });
    }

    /// Reports refused sign-ins that were held back and whose ten seconds are over (or all of them).
    pub(super) fn report(&self, now: Timestamp, instant: Option<Instant>) {
        let mut refused = self.0.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let over = match instant {
            Some(instant) => refused.over(instant),
            None => refused.drain(),
        };
        drop(refused);
        for (sign_in, held_back) in over {
            self.0.lines.write(now, Level::Info, TARGET, "more refused sign-ins", |line| {
                line.optional("user", sign_in.user.as_deref());
                line.address("address", sign_in.address);
                line.number("held_back", held_back);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sink::tests::Captured;
    use super::*;
    use crate::values::LogFormat;

    const RECORD: AccessRecord<'_> = AccessRecord {
        id: "r1",
        user: Some("mirror"),
        address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        method: "GET",
        repository: Some("a/b"),
        reference: Some("v1"),
        status: 200,
        cache: None,
        received: 0,
        sent: 12,
        duration: Duration::from_millis(5),
        whole: true,
        error: None,
        user_agent: Some("containerd/2.0"),
        important: false,
    };

    fn captured(format: LogFormat, mode: AccessMode, work: impl FnOnce(&AccessLog)) -> String {
        let captured = Captured::new();
        let log = AccessLog::new(Lines::new(captured.sink(), format), mode);
        work(&log);
        captured.text()
    }

    #[test]
    fn a_line_in_both_forms() {
        let text = captured(LogFormat::Text, AccessMode::All, |log| {
            log.log_at(&RECORD, Timestamp::from_millis(0), Instant::now);
        });
        assert_eq!(
            text,
            "1970-01-01T00:00:00.000Z  INFO access: request id=r1 user=mirror address=127.0.0.1 method=GET \
             repository=a/b reference=v1 status=200 received=0 sent=12 seconds=0.005000 agent=containerd/2.0\n"
        );
        let stale = AccessRecord { user: None, cache: Some(CacheOutcome::Stale), ..RECORD };
        let json = captured(LogFormat::Json, AccessMode::All, |log| log.log(&stale));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["status"], 200);
        assert_eq!(json["cache"], "stale");
        assert_eq!(json["target"], "access");
        assert_eq!(json.get("user"), None);
    }

    #[test]
    fn the_mode_decides_and_what_is_important_is_always_logged() {
        let answers: [(u16, bool); 3] = [(200, false), (404, false), (201, true)];
        for (mode, expected) in [
            (AccessMode::All, vec!["200", "404", "201"]),
            (AccessMode::Errors, vec!["404", "201"]),
            (AccessMode::Off, vec!["201"]),
        ] {
            let text = captured(LogFormat::Text, AccessMode::All, |log| {
                log.set_mode(mode);
                for (status, important) in answers {
                    log.log(&AccessRecord { status, important, ..RECORD });
                }
            });
            let logged: Vec<&str> =
                text.lines().map(|line| line.split_once("status=").unwrap().1.split(' ').next().unwrap()).collect();
            assert_eq!(logged, expected);
        }
    }

    #[test]
    fn refused_sign_ins_come_once_in_ten_seconds_with_a_count() {
        let refused = AccessRecord { status: 401, important: true, ..RECORD };
        let begin = Instant::now();
        let at = |seconds| move || begin + Duration::from_secs(seconds);
        let now = Timestamp::from_millis(0);
        let text = captured(LogFormat::Text, AccessMode::Off, |log| {
            for second in 0..10 {
                log.log_at(&refused, now, at(second));
            }
            log.log_at(&AccessRecord { user: Some("other"), ..refused }, now, at(9));
            log.log_at(&refused, now, at(10));
            log.log_at(&refused, now, at(11));
            log.report(now, Some(at(15)()));
            log.report(now, Some(at(20)()));
        });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[1].contains("user=other"));
        assert!(lines[2].ends_with(" held_back=9"));
        assert!(lines[3].ends_with("more refused sign-ins user=mirror address=127.0.0.1 held_back=1"));
    }
}
