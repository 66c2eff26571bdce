//! Reads contents and judges them; what scrub is about, for others.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use tokio::sync::Notify;

use super::names::{Names, Unreadable};
use super::pass::Pass;
use crate::clock::{self, Timestamp};
use crate::oci::Digest;
use crate::store::contents::beside::pause;
use crate::store::contents::blob::Blob;
use crate::store::contents::changes::blocking_run;
use crate::store::contents::damage::list::Verdict;
use crate::store::contents::files::Contents;
use crate::store::contents::open::open_content;
use crate::store::contents::uncached::{Buffer, PIECE_BYTES, Reading};
use crate::store::error::StoreError;

/// Most bytes a second that are read by the clock: a disk of 9 TB in a week.
pub(in crate::store) const RATE: u64 = 16 << 20;

/// Time on a blocking thread behind which others have their turn.
const SLICE: Duration = Duration::from_millis(20);

/// A pause that is owed is made when it is this long: timers know no shorter ones.
const LEAST_PAUSE: Duration = Duration::from_millis(4);

/// The pass is noted this often.
const NOTE_EVERY: Duration = Duration::from_secs(60);

/// What scrub is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubStatus {
    /// The time for one pass; `None`: it is off.
    pub interval: Option<Duration>,
    /// When the pass began that goes on.
    pub began: Timestamp,
    /// When the one before ended; `None`: there was none.
    pub ended: Option<Timestamp>,
    /// The part of all digests that the pass is through with, in thousandths.
    pub permille: u64,
    /// Contents that it has read.
    pub contents: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Of those, damaged ones and such that could not be read; and directories that could not be read.
    pub found: u64,
    /// The three since the start.
    pub since_start: [u64; 3],
}

/// Reads every content of a store, pass by pass.
#[derive(Debug)]
pub(in crate::store) struct Scrubber {
    pub(super) contents: Arc<Contents>,
    told: Mutex<Told>,
    /// The interval is another one.
    pub(super) changed: Notify,
}

#[derive(Debug)]
struct Told {
    interval: Option<Duration>,
    pass: Pass,
    since_start: [u64; 3],
    /// Directories that the pass could not read: they are found once.
    unreadable: BTreeSet<u8>,
    /// The pass as this process noted it last, and when.
    noted: Option<(Pass, Instant)>,
}

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// What is due by the clock, with this interval.
    Due(Duration),
    /// Everything up to the pass's end.
    Whole,
}

/// Where a run stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// There is more to do now.
    More,
    /// The next content is due then.
    Until(Timestamp),
    /// The pass is through.
    Through,
    /// So many were found damaged lately that the next has to wait.
    Held,
}

/// What a run has in hand between two slices.
#[derive(Debug, Default)]
pub(super) struct Hand {
    names: Names,
    reading: Option<(Reading, PathBuf)>,
    buffer: Buffer,
}

/// What a slice came to.
struct Slice {
    hand: Hand,
    stand: Stand,
    bytes: u64,
    taken: Duration,
    /// To be judged before anything else.
    doubted: Option<Doubted>,
}

/// A content whose bytes, as they were read, are not its digest's.
struct Doubted {
    digest: Digest,
    file: File,
    facts: Metadata,
    path: PathBuf,
}

impl Scrubber {
    /// Of `contents`; off until [`Scrubber::set_interval`]. Reads the note; blocking.
    pub(in crate::store) fn new(contents: Arc<Contents>) -> Self {
        let pass = Pass::open(&contents.layout, clock::now());
        let told = Told { interval: None, pass, since_start: [0; 3], unreadable: BTreeSet::new(), noted: None };
        let told = Mutex::new(told);
        Self { contents, told, changed: Notify::new() }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an interval into force; `None`: nothing is read by the clock.
    pub(in crate::store) fn set_interval(&self, interval: Option<Duration>) {
        let before = std::mem::replace(&mut self.told().interval, interval);
        if before != interval {
            self.changed.notify_one();
        }
    }

    pub(super) fn interval(&self) -> Option<Duration> {
        self.told().interval
    }

    /// What it is about.
    pub(in crate::store) fn status(&self) -> ScrubStatus {
        let Told { interval, pass, since_start, .. } = &*self.told();
        ScrubStatus {
            interval: *interval,
            began: pass.began,
            ended: pass.ended,
            permille: pass.permille(),
            contents: pass.contents,
            bytes: pass.bytes,
            found: pass.found,
            since_start: *since_start,
        }
    }

    /// Begins a pass in the place of the one that goes on.
    pub(super) fn begin_anew(&self) -> Hand {
        let mut told = self.told();
        told.pass = Pass::begin(clock::now(), told.pass.ended);
        told.unreadable.clear();
        Hand::default()
    }

    /// What a run needs that goes on where the pass is.
    pub(super) fn go_on(&self) -> Hand {
        let last = self.told().pass.last;
        Hand { names: Names::behind(last.as_ref()), ..Hand::default() }
    }

    /// The pass is through, and the next one begins.
    fn end_pass(&self, now: Timestamp) {
        let mut told = self.told();
        let Pass { bytes, contents, found, .. } = told.pass;
        tracing::info!(contents, bytes, found, "every content was read once and compared with its digest");
        told.pass = Pass::begin(now, Some(now));
        told.unreadable.clear();
    }

    /// Notes the pass; blocking.
    pub(super) fn note(&self) {
        let Contents { layout, disk, capacity, .. } = &*self.contents;
        if capacity.is_read_only() {
            return;
        }
        let pass = self.told().pass;
        if let Err(error) = pass.note(layout, disk) {
            let error = crate::telemetry::with_causes(&error);
            tracing::warn!(error, "how far the scrub is can't be noted: a restart reads some contents again");
        }
        // Also where it could not: the next try has time.
        self.told().noted = Some((pass, Instant::now()));
    }

    /// Whether the pass has to be noted now. A run by the clock is short, so the time counts from run to run; the first run of a
    /// process notes at once when the pass began.
    fn is_to_be_noted(&self) -> bool {
        let told = self.told();
        told.noted.is_none_or(|(pass, at)| pass != told.pass && at.elapsed() >= NOTE_EVERY)
    }

    /// Reads on for one slice in turn with others, then makes the pause that it owes.
    ///
    /// # Errors
    /// Of the disk.
    pub(super) async fn slice(
        self: &Arc<Self>,
        hand: Hand,
        way: Way,
        rate: u64,
        owed: &mut Duration,
    ) -> Result<(Hand, Stand), StoreError> {
        let turn = self.contents.turn(0).await;
        let scrubber = Arc::clone(self);
        let slice = blocking_run(move || {
            let begun = Instant::now();
            let mut slice = scrubber.read_on(hand, way)?;
            // The judgement reads all of it once more: others who write have their turn meanwhile.
            drop(turn);
            if let Some(doubted) = slice.doubted.take() {
                scrubber.judge(doubted);
                slice.taken = begun.elapsed();
            }
            Ok(slice)
        });
        let Slice { hand, stand, bytes, taken, .. } = slice.await?;
        *owed += pause(bytes, taken, rate);
        if *owed >= LEAST_PAUSE {
            tokio::time::sleep(std::mem::take(owed)).await;
        }
        Ok((hand, stand))
    }

    fn read_on(&self, mut hand: Hand, way: Way) -> Result<Slice, StoreError> {
        let begun = Instant::now();
        let (mut bytes, mut doubted) = (0, None);
        let stand = loop {
            if hand.reading.is_none() {
                match self.next(&mut hand, way)? {
                    Stand::More => {}
                    stand => break stand,
                }
            }
            if let Some((mut reading, path)) = hand.reading.take() {
                match reading.piece(&mut hand.buffer) {
                    Ok(0) => {
                        doubted = self.ended(reading, path);
                        if doubted.is_some() {
                            break Stand::More;
                        }
                    }
                    Ok(read) => {
                        bytes += read as u64;
                        hand.reading = Some((reading, path));
                    }
                    Err(error) => self.unreadable(reading, &path, &error),
                }
            }
            if bytes >= PIECE_BYTES as u64 || begun.elapsed() >= SLICE {
                break Stand::More;
            }
        };
        if self.is_to_be_noted() {
            self.note();
        }
        Ok(Slice { hand, stand, bytes, taken: begun.elapsed(), doubted })
    }

    /// Opens the next content, if there is one and it may be read now.
    fn next(&self, hand: &mut Hand, way: Way) -> Result<Stand, StoreError> {
        let (pass, now) = (self.told().pass, clock::now());
        let next = match hand.names.next(&self.contents) {
            Ok(next) => next,
            // The process lacks something, and the directory nothing.
            Err(Unreadable { error: error @ StoreError::Descriptors { .. }, .. }) => return Err(error),
            Err(unreadable) => {
                self.unreadable_directory(&unreadable);
                return Ok(Stand::More);
            }
        };
        let Some(next) = next else {
            if let Way::Due(interval) = way {
                let end = pass.end(interval);
                if end > now {
                    return Ok(Stand::Until(end));
                }
            }
            self.end_pass(now);
            self.note();
            return Ok(Stand::Through);
        };
        let (digest, path) = (next.digest, next.path(&self.contents.layout));
        if let Way::Due(interval) = way {
            let due = pass.due(&digest, interval);
            if due > now {
                return Ok(Stand::Until(due));
            }
        }
        if self.contents.damage.leaves_finds_to_readers(Instant::now()) {
            match open_content(&path) {
                Ok(Some(file)) if !self.contents.damage.is_listed_file(&digest, &file) => {
                    if file.metadata().is_ok_and(|facts| facts.is_file()) {
                        hand.reading = Some((Reading::begin(file, digest), path));
                    } else {
                        self.through(&digest, 0, false);
                    }
                }
                // Gone since its directory was read, or known to be damaged.
                Ok(_) => self.through(&digest, 0, false),
                Err(error) => {
                    let error = crate::telemetry::with_causes(&error);
                    tracing::error!(%digest, error, "a stored content can't be opened");
                    self.through(&digest, 0, true);
                }
            }
            Ok(Stand::More)
        } else {
            Ok(Stand::Held)
        }
    }

    /// The content is through.
    fn through(&self, digest: &Digest, bytes: u64, is_found: bool) {
        let mut told = self.told();
        let counts = [1, bytes, u64::from(is_found)];
        for (sum, count) in told.since_start.iter_mut().zip(counts) {
            *sum += count;
        }
        let pass = &mut told.pass;
        pass.last = Some(*digest);
        pass.contents += counts[0];
        pass.bytes += counts[1];
        pass.found += counts[2];
    }

    /// A directory is found once in a pass, whatever runs come across it.
    fn unreadable_directory(&self, unreadable: &Unreadable) {
        let Unreadable { first, error } = unreadable;
        {
            let mut told = self.told();
            if !told.unreadable.insert(*first) {
                return;
            }
            told.pass.found += 1;
            told.since_start[2] += 1;
        }
        let error = crate::telemetry::with_causes(error);
        tracing::error!(error, "a directory of contents can't be read: what lies there is not scrubbed");
    }

    /// A content was read to its end; `Some`: it has to be judged.
    fn ended(&self, reading: Reading, path: PathBuf) -> Option<Doubted> {
        let digest = *reading.digest();
        let Ok(facts) = reading.file().metadata() else {
            self.through(&digest, 0, true);
            return None;
        };
        let (file, actual) = reading.finish();
        if actual != digest && facts.nlink() > 0 {
            return Some(Doubted { digest, file, facts, path });
        }
        self.through(&digest, facts.len(), false);
        None
    }

    /// Reads and hashes it once more, as any reader would, from the disk: one judgement for all.
    fn judge(&self, doubted: Doubted) {
        let Doubted { digest, file, facts, path } = doubted;
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
        let verdict = self.contents.examine(&digest, &Blob::whole(file, facts.len()), &path);
        let is_found = matches!(verdict, Verdict::Absent | Verdict::DiskFault | Verdict::Unread);
        self.through(&digest, facts.len(), is_found);
    }

    fn unreadable(&self, reading: Reading, path: &Path, error: &std::io::Error) {
        let digest = *reading.digest();
        let (file, _) = reading.finish();
        let length = file.metadata().map_or(0, |facts| facts.len());
        self.contents.suspect(&digest, &Blob::whole(file, length), path, error);
        self.through(&digest, 0, true);
    }
}
