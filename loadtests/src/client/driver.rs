//! Load from one thread over many kept connections.
//!
//! Closed loop: each connection asks again as soon as it has its answer. Open loop: requests fall due at a given rate,
//! whatever the server does, and the latency counts from when a request was due: a server that stalls is charged for all
//! that waited (no coordinated omission).
//!
//! A driver can go on after a pause, so that two servers are measured by turns over connections that stay open.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use super::exchange::{Answer, Request, SCRATCH};
use super::wire::{Place, Received, Wire, would_block};
use crate::interrupt;

/// Wait after the end of an open loop for what fell due before: it was late, and that has to show. An answer that takes
/// longer counts with the time it has waited by then.
const PATIENCE: Duration = Duration::from_secs(10);
/// Wait for whole answers.
const WHOLE_PATIENCE: Duration = Duration::from_secs(300);
/// Wait after the end of a closed loop: a server may starve one connection for seconds.
const LINGER: Duration = Duration::from_millis(100);
/// An answer that has more left than this is paused at the end of a run, any other is read to its end.
const LONG: usize = 1 << 20;
/// The longest sleep without a look at the clock and at interrupts.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The event of the timer; the others are numbers of connections.
const TIMER: u64 = u64::MAX;

/// A load: requests over connections.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) place: Place,
    /// Asked in turns.
    pub(crate) requests: Vec<Request>,
    pub(crate) connections: usize,
    /// Requests per second of an open loop.
    pub(crate) rate: Option<f64>,
    /// Bodies are copied out of the kernel, as a client that wants them does.
    pub(crate) copying: bool,
}

/// Result of a run.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Answers read to their end.
    pub(crate) answers: u64,
    /// Bytes of bodies, those of unfinished answers too.
    pub(crate) bytes: u64,
    /// Nanoseconds.
    pub(crate) latency: Histogram<u64>,
    pub(crate) took: Duration,
}

impl Tally {
    /// Before anything came.
    pub(crate) fn nothing() -> Result<Self> {
        Ok(Self { answers: 0, bytes: 0, latency: histogram()?, took: Duration::ZERO })
    }
}

/// A histogram of nanoseconds up to a minute, three digits.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).context("the histogram can't be made")
}

/// A duration as a histogram takes it.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Debug)]
struct Line {
    wire: Wire,
    answer: Answer,
    /// When the request was due.
    since: Instant,
    busy: bool,
}

/// Connections that are asking.
#[derive(Debug)]
pub(crate) struct Driver {
    load: Load,
    epoll: OwnedFd,
    timer: OwnedFd,
    lines: Vec<Line>,
    scratch: Vec<u8>,
    next_request: usize,
    /// Open loop: number of the connection that asked last.
    last_asked: usize,
    /// Open loop: when requests fell due that no connection was free for.
    due: VecDeque<Instant>,
    next_due: Option<Instant>,
    patience: Duration,
    /// Closed loop: no answer is left alone at the end of a run.
    to_the_end: bool,
    /// Closed loop: false while a run comes to its end.
    goes_on: bool,
    /// The end of the last run.
    paused: Instant,
}

impl Driver {
    /// Connects all.
    pub(crate) fn connect(load: Load) -> Result<Self> {
        ensure!(!load.requests.is_empty() && load.connections > 0, "a load without requests or connections");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), flags | epoll::EventFlags::ET)?;
        let lines = (0..load.connections).map(|number| line(&load.place, &epoll, number)).collect::<Result<_>>()?;
        // Bytes that are thrown away in the kernel never touch these pages.
        let scratch = vec![0; SCRATCH];
        let (patience, paused) = (if load.rate.is_some() { PATIENCE } else { LINGER }, Instant::now());
        let (next_request, last_asked, due, next_due) = (0, 0, VecDeque::new(), None);
        let (to_the_end, goes_on) = (false, true);
        #[rustfmt::skip]
        let driver = Self {
            load, epoll, timer, lines, scratch, next_request, last_asked, due, next_due, patience, to_the_end, goes_on,
            paused,
        };
        Ok(driver)
    }

    /// Sets the wait for late answers, which is 10 s in an open loop and 100 ms in a closed one.
    pub(crate) fn patient_for(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Each connection of a closed loop asks once and reads its answer to the end, for which there are 5 minutes.
    /// Nothing is under way before or after.
    pub(crate) fn once(&mut self) -> Result<Tally> {
        (self.to_the_end, self.patience) = (true, WHOLE_PATIENCE);
        let tally = self.run(Duration::ZERO)?;
        ensure!(
            self.lines.iter().all(|line| !line.busy),
            "{:?}: not answered within {WHOLE_PATIENCE:?}",
            self.load.place
        );
        Ok(tally)
    }

    /// Asks for `duration`; can be called again. Every call of an open loop has a schedule of its own.
    ///
    /// At the end nothing more is asked, and what is under way is finished, with one exception: an answer of a closed
    /// loop that has more than 1 MiB left, or does not come, is left alone, and read on in the next run. Its bytes count
    /// where they are read; the server goes on sending until the buffers of its sockets are full. The pause counts for no
    /// latency.
    pub(crate) fn run(&mut self, duration: Duration) -> Result<Tally> {
        self.renew()?;
        let started = Instant::now();
        let end = started + duration;
        let mut tally = Tally::nothing()?;
        self.resume(started)?;
        let mut events = Vec::with_capacity(self.lines.len() + 1);
        loop {
            let now = Instant::now();
            self.start_what_is_due(now, end)?;
            if now >= end {
                (self.next_due, self.goes_on) = (None, false);
                if self.is_through() {
                    break;
                }
                if now >= end + self.patience {
                    self.charge_the_unanswered(&mut tally);
                    break;
                }
            }
            interrupt::check()?;
            self.wake_at(now)?;
            let patience = timespec(end.saturating_duration_since(now).min(LOOK_EVERY).max(Duration::from_millis(1)))?;
            events.clear();
            let spare: &mut [MaybeUninit<epoll::Event>] = events.spare_capacity_mut();
            let (ready, _) = match epoll::wait(&self.epoll, spare, Some(&patience)) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            for event in ready.iter() {
                let number = event.data.u64();
                if number != TIMER {
                    self.read(usize::try_from(number)?, &mut tally)?;
                }
            }
        }
        self.paused = Instant::now();
        tally.took = started.elapsed();
        Ok(tally)
    }

    /// Open loop: connections whose answers were given up are replaced, and what fell due is forgotten: it was charged.
    /// [`Driver::run`] does it as well; who does it before can choose a time when the server has nothing else to do.
    pub(crate) fn renew(&mut self) -> Result<()> {
        if self.load.rate.is_none() {
            return Ok(());
        }
        self.due.clear();
        for (number, broken) in self.lines.iter_mut().enumerate() {
            if broken.busy {
                *broken = line(&self.load.place, &self.epoll, number)?;
            }
        }
        Ok(())
    }

    /// Starts the schedule of an open loop; in a closed loop, answers under way go on, and idle connections ask.
    fn resume(&mut self, now: Instant) -> Result<()> {
        self.goes_on = true;
        if self.load.rate.is_some() {
            self.next_due = Some(now);
            return Ok(());
        }
        let pause = now.saturating_duration_since(self.paused);
        for number in 0..self.lines.len() {
            let line = &mut self.lines[number];
            if line.busy {
                line.since += pause;
            } else {
                self.start(number, now)?;
            }
        }
        Ok(())
    }

    /// Whether all is finished that is to be.
    fn is_through(&self) -> bool {
        let leaves = self.load.rate.is_none() && !self.to_the_end;
        self.due.is_empty() && self.lines.iter().all(|line| !line.busy || (leaves && line.answer.unwanted() > LONG))
    }

    /// Gives idle connections of an open loop what is due.
    fn start_what_is_due(&mut self, now: Instant, end: Instant) -> Result<()> {
        let Some(rate) = self.load.rate else { return Ok(()) };
        while let Some(next) = self.next_due.filter(|next| *next <= now && *next < end) {
            self.due.push_back(next);
            self.next_due = Some(next + Duration::from_secs_f64(1.0 / rate));
        }
        while !self.due.is_empty() {
            // In turns: a server closes connections on which nothing is asked.
            let all = self.lines.len();
            let next = (1..=all).map(|after| (self.last_asked + after) % all).find(|number| !self.lines[*number].busy);
            let Some(idle) = next else { break };
            if let Some(since) = self.due.pop_front() {
                self.last_asked = idle;
                self.start(idle, since)?;
            }
        }
        Ok(())
    }

    /// Enters the age of all that was not answered: less would make a server look better for being stuck. In a closed
    /// loop the next run goes on with it.
    fn charge_the_unanswered(&self, tally: &mut Tally) {
        if self.load.rate.is_none() {
            return;
        }
        let asked = self.lines.iter().filter(|line| line.busy).map(|line| line.since);
        for since in asked.chain(self.due.iter().copied()) {
            tally.latency.saturating_record(nanoseconds(since.elapsed()));
        }
    }

    /// Sets the timer to when the next request is due: epoll's own patience is too coarse.
    fn wake_at(&self, now: Instant) -> Result<()> {
        let Some(next) = self.next_due else { return Ok(()) };
        let pause = next.saturating_duration_since(now).max(Duration::from_nanos(1));
        let value = Itimerspec { it_interval: timespec(Duration::ZERO)?, it_value: timespec(pause)? };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value)?;
        Ok(())
    }

    fn start(&mut self, number: usize, since: Instant) -> Result<()> {
        let request = &self.load.requests[self.next_request];
        self.next_request = (self.next_request + 1) % self.load.requests.len();
        let line = &mut self.lines[number];
        line.answer.expect(request.head_only());
        (line.since, line.busy) = (since, true);
        line.wire.send(request.bytes())
    }

    fn read(&mut self, number: usize, tally: &mut Tally) -> Result<()> {
        let Line { wire, answer, since, busy } = &mut self.lines[number];
        let unwanted = if self.load.copying { 0 } else { answer.unwanted() };
        let mut count = 0;
        let received = wire.receive(unwanted, &mut self.scratch, &mut |piece| {
            ensure!(*busy, "an answer that nobody asked for");
            count += answer.take(piece, &mut |_| ())?;
            Ok(())
        });
        match received {
            Ok(Received::Data) => (),
            Ok(Received::Skipped(skipped)) => {
                answer.skip(skipped);
                count = skipped;
            }
            Ok(Received::End) => bail!("{:?} closed a connection\n{}", self.load.place, answer.text()),
            Err(error) if would_block(&error) => (),
            Err(error) => return Err(error.context(format!("{:?}", self.load.place))),
        }
        tally.bytes += count as u64;
        if *busy && answer.is_whole() {
            ensure!(answer.status() == 200, "{:?} answered\n{}", self.load.place, answer.text());
            tally.answers += 1;
            tally.latency.saturating_record(nanoseconds(since.elapsed()));
            *busy = false;
            if self.goes_on && self.load.rate.is_none() {
                self.start(number, Instant::now())?;
            }
        }
        Ok(())
    }
}

/// A new connection, looked after by `epoll`.
fn line(place: &Place, epoll: &OwnedFd, number: usize) -> Result<Line> {
    let wire = Wire::connect(place)?;
    wire.make_nonblocking()?;
    epoll::add(epoll, wire.socket(), epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
    Ok(Line { wire, answer: Answer::default(), since: Instant::now(), busy: false })
}

fn timespec(duration: Duration) -> Result<Timespec> {
    Timespec::try_from(duration).context("a time that does not fit")
}

#[cfg(test)]
mod tests;
