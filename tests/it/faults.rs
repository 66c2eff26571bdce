//! Three masters that are killed, stopped, cut off from each other and slowed down, again and again, under pushes, deletes and
//! pulls at all of them; what clients saw is held against what a register may answer.
//!
//! Some troubles by default, `MASTERS_TROUBLES=1000` in `make torture`. Each round has names of its own and one victim, so the
//! other two masters are linked all the while, and their answers are held to the strictest rule. The steps of one client
//! follow from [`SEED`]; what they meet does not, so no two runs are the same. Then masters that restart in order, under pulls
//! through node-proxy. Needs root: a network for each master.

mod bed;
mod clients;
mod history;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use tokio::sync::watch;

use self::bed::{Bed, MASTERS, Trouble};
use self::clients::{Round, Walker, last};
use self::history::Rules;
use crate::support::{Chance, Client, Image, digest, is_root, within};

/// Troubles where `MASTERS_TROUBLES` says nothing.
const TROUBLES: u32 = 12;
/// Of each round.
const TROUBLES_OF_A_ROUND: u32 = 6;
const SEED: u64 = 0x5eed;
const CLIENTS: u64 = 6;
/// Steps of all clients in each trouble and behind it, at most.
const STEPS: usize = 120;
/// A trouble, and the quiet behind it, that keeps all clients waiting ends all the same.
const LONGEST: Duration = Duration::from_secs(4);
/// Longer than the longest pause of a circuit (3 s) and its trial (1 s).
const SETTLED: u64 = 5_000_000;

/// Of a rolling restart: images, pulls between two restarts.
const IMAGES: u64 = 20;
const PULLS_BETWEEN: usize = 60;
const NAME: &str = "system/deckhouse";

/// Where the test runs again, in a network of its own.
const INSIDE: &str = "MASTERS_IN_OWN_NETWORK";

const RULES: Rules = Rules { settled: SETTLED, converging: false };

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
    let troubles = std::env::var("MASTERS_TROUBLES").map_or(TROUBLES, |number| number.parse().unwrap());
    let bed = tokio::task::block_in_place(Bed::start);
    let mut chance = Chance(SEED);
    let (mut of_own, mut of_others, mut writes, mut reads) = (0, 0, 0, 0);
    for number in 0..troubles.div_ceil(TROUBLES_OF_A_ROUND) {
        let round = Round::new(number);
        let victim = chance.below(MASTERS);
        let trouble = async {
            for step in 0..TROUBLES_OF_A_ROUND {
                // Each kind in turn, or those after another chance.
                let kind = usize::try_from(number * TROUBLES_OF_A_ROUND + step).unwrap() % Trouble::ALL.len();
                let trouble = Trouble::ALL[kind];
                let _ = tokio::time::timeout(LONGEST, round.wait(1 + chance.below(STEPS) as u64)).await;
                tokio::task::block_in_place(|| bed.trouble(trouble, victim));
                let _ = tokio::time::timeout(LONGEST, round.wait(1 + chance.below(STEPS) as u64)).await;
                tokio::task::block_in_place(|| bed.end(trouble, victim));
            }
            round.end();
        };
        let mut walkers: Vec<_> =
            (0..CLIENTS).map(|client| Walker::new(&round, &bed, SEED + u64::from(number) * CLIENTS + client)).collect();
        let walks = join_all(walkers.iter_mut().map(Walker::walk));
        tokio::join!(trouble, walks);
        let quiet = bed.now() + SETTLED;
        let history = last(&round, &bed, |history| bed.now() > quiet && history.judge(RULES).faults.is_empty()).await;
        let verdict = history.judge(RULES);
        let faults: Vec<String> = verdict.faults.iter().map(ToString::to_string).collect();
        assert!(faults.is_empty(), "round {number}, victim {victim}: {} faults\n{}", faults.len(), faults.join("\n"));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masters_that_restart_one_after_the_other_fail_no_pull_through_node_proxy() {
    if !is_inside("faults::masters_that_restart_one_after_the_other_fail_no_pull_through_node_proxy") {
        return;
    }
    let bed = tokio::task::block_in_place(Bed::start);
    let images: Vec<Image> = (0..IMAGES).map(Image::of).collect();
    for master in 0..MASTERS {
        for (number, image) in images.iter().enumerate() {
            Bed::client(master).push_image(NAME, &format!("v{number}"), image).await;
        }
    }
    let proxy = tokio::task::block_in_place(Bed::node_proxy);
    let (pulled, over) = (watch::Sender::new(0_usize), AtomicBool::new(false));
    let pull = async |first: usize| {
        let client = proxy.client();
        let mut failed: Vec<String> = Vec::new();
        for number in (0..images.len()).cycle().skip(first) {
            if over.load(Ordering::Relaxed) {
                break;
            }
            failed.extend(pulled_whole(&client, number, &images[number]).await.err());
            pulled.send_modify(|count| *count += 1);
        }
        failed
    };
    let rolling = async {
        for master in (0..MASTERS).chain(0..MASTERS) {
            let goal = *pulled.borrow() + PULLS_BETWEEN;
            within(pulled.subscribe().wait_for(|count| *count >= goal)).await.unwrap();
            tokio::task::block_in_place(|| bed.restart(master));
        }
        over.store(true, Ordering::Relaxed);
    };
    let (failed, ()) = tokio::join!(join_all((0..CLIENTS).map(|client| pull(client as usize))), rolling);
    let failed: Vec<String> = failed.into_iter().flatten().collect();
    eprintln!("{} pulls, {} failed", *pulled.borrow(), failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// An image by its tag, and all that it names.
async fn pulled_whole(client: &Client, number: usize, image: &Image) -> Result<(), String> {
    let manifest = (format!("/v2/{NAME}/manifests/v{number}"), image.manifest());
    let blobs = image.blobs().iter().map(|blob| (format!("/v2/{NAME}/blobs/{}", digest(blob)), blob.as_slice()));
    for (path, wanted) in std::iter::once(manifest).chain(blobs) {
        let answer = client.request(Method::GET, &path).send().await.map_err(|error| format!("{path}: {error:?}"))?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| format!("{path}: {error:?}"))?;
        if status != 200 || bytes != wanted {
            return Err(format!("{path}: {status} {} bytes", bytes.len()));
        }
    }
    Ok(())
}
