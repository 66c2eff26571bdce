//! A large store: 100,000 tags in 1,000 repositories, against the targets of mode Local. Server and client have all cores.
//!
//! Measured in this order, each with a server of its own:
//! 1. idle memory on an empty store;
//! 2. `index rebuild` of the seeded store: tags and manifests per second, the process's start included;
//! 3. on the rebuilt store: from the start of the process to the first 200 of a pull and of a tag list, latency of tag
//!    pages under load, and memory before and after that load.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use serde::Deserialize;

use super::{Bench, Row};
use crate::baseline::ours::{Ours, Setup, basic};
use crate::client::{Answer, Place, Request, Wire, fetch, histogram, nanoseconds};
use crate::cpu;
use crate::interrupt;
use crate::report::{Report, Target};
use crate::seed::{self, SeedOptions};

const TAGS: u32 = 100_000;
const REPOSITORIES: u32 = 1000;
/// Tags of a page.
const PAGE: u32 = 100;
/// Pages to ask for, over all connections.
const PAGES: u32 = 20_000;
const CONNECTIONS: u32 = 4;
/// Limit in ms from the start of the process to the first pull that is answered.
const START_MS: f64 = 1000.0;
/// Limit in ms of a page of 100 tags, 99 of 100 times.
const PAGE_MS: f64 = 5.0;
/// Least number of tags and manifests that a rebuild reads in a second.
const REBUILD_PER_SECOND: f64 = 20_000.0;
/// Limits of an idle server's own memory, in MiB: on an empty store, on the seeded one.
const EMPTY_MIB: f64 = 15.0;
const SEEDED_MIB: f64 = 32.0;
/// Time after its last request from which on a server is called idle.
const SETTLE: Duration = Duration::from_secs(3);

/// Runs it with all cores for the client too.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    let dir = bench.dir(&row.name())?;
    cpu::on(None, || measured(bench, report, &dir))
}

fn measured(bench: &Bench<'_>, report: &mut Report, dir: &Path) -> Result<()> {
    let program = &bench.options.server;
    let start =
        |store: &Path| Ours::start(&Setup { all_cores: true, ..Setup::local(program, store, &dir.join("server")) });
    let empty = start(&dir.join("empty"))?;
    thread::sleep(SETTLE);
    empty.process.memory()?.judge(report, ", idle, empty store, all cores", EMPTY_MIB);
    drop(empty);

    let store = dir.join("seeded");
    let wanted = SeedOptions { dir: store.clone(), repositories: REPOSITORIES, tags: TAGS, blobs: 1, blob_size: 1024 };
    seed::seed(&wanted, interrupt::flag())?;
    let when = format!(", {TAGS} tags in {REPOSITORIES} repositories");
    let speed = wanted.objects() as f64 / rebuild(program, &store)?.as_secs_f64();
    report.judge(format!("index rebuild{when}, tags and manifests"), speed, "/s", Target::AtLeast(REBUILD_PER_SECOND));

    let mut server = start(&store)?;
    let name = seed::repository(0);
    let pull = format!("/v2/{name}/manifests/{}", seed::tag(0));
    for (what, path) in [("pull", pull), ("tag list", format!("/v2/{name}/tags/list?n=1"))] {
        server.process.until_ok(&server.place, &Request::get(&path, Some(&basic())))?;
        let took = server.begun.elapsed().as_secs_f64() * 1e3;
        report.judge(format!("start to first {what}{when}"), took, "ms", Target::Below(START_MS));
    }
    thread::sleep(SETTLE);
    server.process.memory()?.judge(report, &format!("{when}, idle after start"), SEEDED_MIB);
    pages(&server.place, report)?;
    thread::sleep(SETTLE);
    server.process.memory()?.judge(report, &format!("{when}, idle after the load"), SEEDED_MIB);
    drop(server);
    seed::remove(&store)
}

/// Rebuilds the index of a store with the server's own command. Returns the time of the process.
pub(crate) fn rebuild(program: &Path, store: &Path) -> Result<Duration> {
    let started = Instant::now();
    let mut command = Command::new(program);
    let output = command.args(["index", "rebuild", "--data-dir"]).arg(store).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("run {} index rebuild", program.display()))?;
    let took = started.elapsed();
    ensure!(output.status.success(), "index rebuild: {}", String::from_utf8_lossy(&output.stderr));
    Ok(took)
}

/// Latency of tag pages, as clients that list many repositories see it.
fn pages(place: &Place, report: &mut Report) -> Result<()> {
    let started = Instant::now();
    let listed = thread::scope(|scope| {
        let list = |number| scope.spawn(move || list(place, number));
        let running: Vec<_> = (0..CONNECTIONS).map(list).collect();
        running.into_iter().map(|one| one.join().ok().context("a client panicked")?).collect::<Result<Vec<_>>>()
    })?;
    let took = started.elapsed();
    let (mut latency, mut tags) = (histogram()?, 0);
    for (of_one, tags_of_one) in listed {
        latency.add(&of_one).context("histograms can't be added")?;
        tags += tags_of_one;
    }
    let quantile = |quantile| latency.value_at_quantile(quantile) as f64 / 1e6;
    report.fact("tags listed", tags as f64, "");
    report.fact("tag pages per second", latency.len() as f64 / took.as_secs_f64(), "/s");
    report.fact("tag page of 100, p50", quantile(0.5), "ms");
    report.judge("tag page of 100, p99", quantile(0.99), "ms", Target::Below(PAGE_MS));
    report.fact("tag page of 100, max", quantile(1.0), "ms");
    Ok(())
}

/// Goes through the repositories page by page on one connection: follows `Link` to the end of one and goes to the next.
/// Each connection begins with another repository, so that together they go through all.
fn list(place: &Place, number: u32) -> Result<(Histogram<u64>, usize)> {
    #[derive(Deserialize)]
    struct TagList {
        tags: Vec<String>,
    }
    let (mut wire, authorization) = (Wire::connect(place)?, basic());
    let (mut latency, mut tags) = (histogram()?, 0);
    let mut repository = REPOSITORIES / CONNECTIONS * number;
    let first = |repository: u32| format!("/v2/{}/tags/list?n={PAGE}", seed::repository(repository % REPOSITORIES));
    let mut path = first(repository);
    for _ in 0..PAGES / CONNECTIONS {
        interrupt::check()?;
        let asked = Instant::now();
        let reply = fetch(&mut wire, &Request::get(&path, Some(&authorization)), &[])?;
        latency.saturating_record(nanoseconds(asked.elapsed()));
        ensure!(reply.status == 200, "{path}: {}", reply.answer.text());
        let list: TagList = serde_json::from_slice(&reply.body).with_context(|| format!("the answer of {path}"))?;
        tags += list.tags.len();
        path = next_page(&reply.answer).unwrap_or_else(|| {
            repository += 1;
            first(repository)
        });
    }
    Ok((latency, tags))
}

/// The path in `Link: <path>; rel="next"` (distribution-spec, "Listing Tags").
fn next_page(answer: &Answer) -> Option<String> {
    let link = answer.header("link")?;
    let (path, parameters) = link.strip_prefix('<')?.split_once('>')?;
    let next = parameters.split(';').any(|parameter| matches!(parameter.trim(), r#"rel="next""# | "rel=next"));
    (next && path.starts_with('/')).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_where_the_link_says() {
        let page = |link: &str| {
            let mut answer = Answer::default();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{link}\r\n");
            answer.take(head.as_bytes(), &mut |_| ()).unwrap();
            next_page(&answer)
        };
        assert_eq!(page(""), None);
        let next = page("link: </v2/a/tags/list?last=b&n=1>; rel=\"next\"\r\n");
        assert_eq!(next.unwrap(), "/v2/a/tags/list?last=b&n=1");
        assert_eq!(page("Link: </v2/a>; rel=prev\r\n"), None);
    }
}
