//! The log: tracing's events and the access log through one writer that never blocks, to standard error.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::{Registry, fmt, reload};

use super::access_log::AccessLog;
use super::line::Lines;
use super::repeats::{Repeats, Verdict};
use super::sink::{Sink, SinkGuard};
use crate::clock;
use crate::values::{AccessMode, Level, LogFormat};

/// How late the count of repeated lines may come.
pub const REPORT_EVERY: Duration = Duration::from_secs(2);
const OURS: &str = "d8_registry";

impl LogFormat {
    /// Text on a terminal, else JSON.
    #[must_use]
    pub fn suitable() -> Self {
        if io::stderr().is_terminal() { Self::Text } else { Self::Json }
    }
}

impl Level {
    /// As it stands in a line.
    pub(super) const fn as_upper_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warn => "WARN",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
        }
    }

    const fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
        }
    }

    /// Of other people's code only what is urgent.
    fn targets(self) -> Targets {
        Targets::new().with_default(self.filter().min(LevelFilter::WARN)).with_target(OURS, self.filter())
    }
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The form of a line.
    pub format: LogFormat,
    /// Least urgent lines that are written.
    pub level: Level,
    /// Which requests are logged.
    pub access: AccessMode,
}

/// The log can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It was set up already.
    #[error("the log is set up already")]
    Twice,
    /// The system gives no thread for it.
    #[error("can't start the log's thread")]
    Thread(#[source] io::Error),
}

/// The running log. Dropping it writes what is queued, for up to a second, and ends it: keep it until the exit.
#[derive(Debug)]
pub struct Logging {
    level: reload::Handle<Targets, Registry>,
    access: AccessLog,
    sink: Sink,
    reporter: Reporter,
    _writes_the_rest_on_drop: SinkGuard,
}

/// Reports repeated lines that were held back. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reporter {
    lines: Lines,
    access: AccessLog,
    repeats: Arc<Mutex<Repeats<HeldLine>>>,
}

#[derive(Debug)]
struct HeldLine {
    level: Level,
    text: String,
}

impl Logging {
    /// Makes this the log of the process, and of its panics.
    ///
    /// # Errors
    /// [`LogError::Twice`], [`LogError::Thread`].
    pub fn start(options: LogOptions) -> Result<Self, LogError> {
        let sink = Sink::start(io::stderr()).map_err(LogError::Thread)?;
        let (dispatch, logging) = Self::build(options, sink, io::stderr().is_terminal());
        tracing::dispatcher::set_global_default(dispatch).map_err(|_| LogError::Twice)?;
        std::panic::set_hook(Box::new(log_panic));
        Ok(logging)
    }

    fn build(options: LogOptions, (sink, guard): (Sink, SinkGuard), colours: bool) -> (Dispatch, Self) {
        let lines = Lines::new(sink.clone(), options.format);
        let access = AccessLog::new(lines.clone(), options.access);
        let reporter = Reporter { lines, access: access.clone(), repeats: Arc::default() };
        let (filter, level) = reload::Layer::new(options.level.targets());
        let base = tracing_subscriber::registry().with(filter).with(HoldRepeats(reporter.clone()));
        let dispatch = match options.format {
            LogFormat::Text => Dispatch::new(base.with(fmt::layer().with_writer(sink.clone()).with_ansi(colours))),
            LogFormat::Json => {
                Dispatch::new(base.with(fmt::layer().with_writer(sink.clone()).json().flatten_event(true)))
            }
        };
        (dispatch, Self { level, access, sink, reporter, _writes_the_rest_on_drop: guard })
    }

    /// The access log.
    #[must_use]
    pub fn access(&self) -> AccessLog {
        self.access.clone()
    }

    /// Puts a changed level and access mode into force; the format stays until a restart.
    pub fn set(&self, level: Level, access: AccessMode) {
        // It fails only when the subscriber is gone, and then there is nothing to filter.
        let _ = self.level.reload(level.targets());
        self.access.set_mode(access);
    }

    /// The number of lost lines.
    #[must_use]
    pub fn dropped_lines(&self) -> u64 {
        self.sink.lost()
    }

    /// What has to be called beside requests for repeated lines to be counted in the log: [`Reporter::report`] every
    /// [`REPORT_EVERY`], [`Reporter::report_rest`] at the end.
    #[must_use]
    pub fn reporter(&self) -> Reporter {
        self.reporter.clone()
    }
}

impl Reporter {
    /// Writes the count of what was held back and is due now.
    pub fn report(&self) {
        self.report_due(Some(Instant::now()));
    }

    /// Writes the count of everything that was held back.
    pub fn report_rest(&self) {
        self.report_due(None);
    }

    /// `now`: `None` counts everything as due.
    fn report_due(&self, now: Option<Instant>) {
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        let over = match now {
            Some(now) => repeats.over(now),
            None => repeats.drain(),
        };
        drop(repeats);
        for (line, held_back) in over {
            self.held_back(&line, held_back);
        }
        self.access.report(clock::now(), now);
    }

    fn held_back(&self, line: &HeldLine, held_back: u64) {
        self.lines.write(clock::now(), line.level, OURS, &line.text, |out| out.number("held_back", held_back));
    }

    /// Whether an event is to be written.
    fn judge(&self, event: &Event<'_>) -> bool {
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            _ => return true,
        };
        let mut text = EventText::default();
        event.record(&mut text);
        let text = text.finish();
        let key = (event.metadata().callsite(), text.clone());
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = repeats.judge(&key, Instant::now(), || HeldLine { level, text });
        drop(repeats);
        match verdict {
            Verdict::HoldBack => false,
            Verdict::Write { held_back: 0 } => true,
            Verdict::Write { held_back } => {
                self.held_back(&HeldLine { level, text: key.1 }, held_back);
                true
            }
        }
    }
}

/// Keeps equal warnings and errors to one in ten seconds.
struct HoldRepeats(Reporter);

impl<S: Subscriber> Layer<S> for HoldRepeats {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        self.0.judge(event)
    }
}

/// An event's message and fields.
#[derive(Debug, Default)]
struct EventText {
    message: String,
    fields: String,
}

impl EventText {
    fn finish(mut self) -> String {
        self.message.push_str(&self.fields);
        self.message
    }
}

impl Visit for EventText {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string never fails.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let backtrace = std::backtrace::Backtrace::capture();
    let backtrace =
        (backtrace.status() == std::backtrace::BacktraceStatus::Captured).then(|| tracing::field::display(&backtrace));
    tracing::error!(place, backtrace, "panic: {}", panic.payload_as_str().unwrap_or("without words"));
}

#[cfg(test)]
mod tests;
