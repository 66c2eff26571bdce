//! Three masters in trouble, again and again, under pushes, deletes and pulls at all of them: killed, stopped, cut off, slowed down,
//! with a disk that is lost, full, read-only or damaged, a wrong clock, other certificates. What clients saw is held against what a
//! register may answer.
//!
//! Each kind once by default, `MASTERS_TROUBLES=1000` in `make torture`. Each round has names of its own and one victim, so the
//! other two masters are linked mostly, and their answers are held to the strictest rule. The steps of one client
//! follow from [`SEED`]; what they meet does not, so no two runs are the same. Then masters that restart in order, under pulls and
//! pushes through node-proxy. Needs root: a network and a disk for each master.

mod bed;
mod clients;
mod disk;
mod full;
mod history;
mod network;
mod rolling;
mod trouble;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;

use self::bed::{Bed, MASTERS};
use self::clients::{Round, Walker, last};
use self::history::Rules;
use self::trouble::Trouble;
use crate::support::{Chance, is_root};

/// Of each round: all kinds in two.
const TROUBLES_OF_A_ROUND: u32 = 7;
/// Rounds, behind which the masters begin anew: what is filled again after a loss is what was pushed in them.
const ROUNDS_OF_A_BED: u32 = 6;
const SEED: u64 = 0x5eed;
const CLIENTS: u64 = 6;
/// Steps of all clients in each trouble and behind it, at most.
const STEPS: usize = 120;
/// A trouble, and the quiet behind it, that keeps all clients waiting ends all the same.
const LONGEST: Duration = Duration::from_secs(2);
/// Longer than the longest pause of a circuit (3 s) and its trial (1 s).
const SETTLED: u64 = 5_000_000;

/// Where the test runs again, in a network of its own.
const INSIDE: &str = "MASTERS_IN_OWN_NETWORK";

const RULES: Rules = Rules { settled: SETTLED, converging: true };

/// Runs a test of this file again, in a network and with mounts of its own, unless this is that run.
fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if is_root(test) {
        let own = std::env::current_exe().unwrap();
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]).arg(own);
        let status = command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").status().unwrap();
        assert!(status.success(), "see above");
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_masters_answer_in_trouble_is_what_a_register_may() {
    if !is_inside("faults::what_masters_answer_in_trouble_is_what_a_register_may") {
        return;
    }
    let kinds = u32::try_from(Trouble::ALL.len()).unwrap();
    let troubles = std::env::var("MASTERS_TROUBLES").map_or(kinds, |number| number.parse().unwrap());
    let bed = Arc::new(tokio::task::block_in_place(Bed::start));
    let mut chance = Chance(SEED);
    let (mut of_own, mut of_others, mut writes, mut reads) = (0, 0, 0, 0);
    for number in 0..troubles.div_ceil(TROUBLES_OF_A_ROUND) {
        if number > 0 && number.is_multiple_of(ROUNDS_OF_A_BED) {
            tokio::task::block_in_place(|| bed.begin_anew());
        }
        let round = Arc::new(Round::new(number));
        let victim = chance.below(MASTERS);
        let walkers =
            (0..CLIENTS).map(|client| Walker::new(&round, &bed, SEED + u64::from(number) * CLIENTS + client).walk());
        let walkers: Vec<_> = walkers.map(tokio::spawn).collect();
        let mut told = Vec::new();
        for step in 0..TROUBLES_OF_A_ROUND {
            // Each kind in turn, or those after another chance.
            let kind = usize::try_from(number * TROUBLES_OF_A_ROUND + step).unwrap() % Trouble::ALL.len();
            let trouble = Trouble::ALL[kind];
            let _ = tokio::time::timeout(LONGEST, round.wait(1 + chance.below(STEPS) as u64)).await;
            let from = bed.now();
            if let Trouble::WrongClock(hours) = trouble {
                round.skew();
                tokio::task::block_in_place(|| bed.trouble(trouble, victim));
                assert_eq!(hours_ahead(&bed, victim).await, i64::from(hours));
            } else {
                tokio::task::block_in_place(|| bed.trouble(trouble, victim));
            }
            let _ = tokio::time::timeout(LONGEST, round.wait(1 + chance.below(STEPS) as u64)).await;
            tokio::task::block_in_place(|| bed.end(trouble, victim));
            told.push(format!("    {trouble:?} from {from} to {}\n", bed.now()));
        }
        round.end();
        for walked in join_all(walkers).await {
            walked.unwrap();
        }
        let quiet = bed.now() + SETTLED;
        let history = last(&round, &bed, |history| bed.now() > quiet && history.judge(RULES).faults.is_empty()).await;
        let verdict = history.judge(RULES);
        let faults: Vec<String> = verdict.faults.iter().map(ToString::to_string).collect();
        let story = verdict.faults.first().map(|fault| history.of(fault.read.key)).unwrap_or_default();
        assert!(
            faults.is_empty(),
            "round {number}, victim {victim}: {} faults\n{}\nthe first one's key\n{story}{}",
            faults.len(),
            faults.join("\n"),
            told.concat()
        );
        eprintln!("round {number}: {} s", bed.now() / 1_000_000);
        of_own += verdict.of_own;
        of_others += verdict.of_others;
        writes += history.writes.len();
        reads += history.reads.len();
    }
    eprintln!(
        "{troubles} troubles, {writes} writes, {reads} reads, of which {of_own} of the master's own, {of_others} of others'"
    );
    assert!(of_own > 0 && of_others > 0, "nothing was to be found");
}

/// How far the wall clock of a master is ahead.
async fn hours_ahead(bed: &Bed, master: usize) -> i64 {
    let millis = |wall: u64| i64::try_from(wall).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let ahead = millis(bed.wall(master).await) - millis(u64::try_from(now.as_millis()).unwrap());
    // To the next hour: an answer takes a while.
    (ahead + 1_800_000).div_euclid(3_600_000)
}
