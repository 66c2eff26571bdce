//! Latency of tag pages, as a client that lists many repositories sees it.
//!
//! Every connection goes through the repositories page by page: it follows `Link` to the end of one and goes to the next.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use hdrhistogram::Histogram;
use http::Uri;
use http::header::LINK;
use indicatif::ProgressBar;
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::client::{Answer, Client, Target};
use crate::report::{Report, Unit};
use crate::seed;

/// What to ask, and how often.
#[derive(Args, Clone, Debug)]
pub(crate) struct TagsOptions {
    /// The registry, as http://host:port.
    #[arg(long)]
    url: Uri,
    /// User and password.
    #[arg(short, long, value_name = "USER:PASSWORD")]
    user: Option<String>,
    #[command(flatten)]
    load: TagLoad,
}

/// The load on tag lists.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct TagLoad {
    /// Repositories that `seed` made.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repositories: u32,
    /// Tags of a page.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) page: u32,
    /// Pages to ask for, over all connections.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) requests: u32,
    /// Connections that ask side by side.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) connections: u32,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Pages {
    /// Microseconds from the request to the last byte of the answer.
    pub(crate) latency: Histogram<u64>,
    /// Tags that were listed.
    pub(crate) tags: u64,
    /// From the first request to the last answer.
    pub(crate) took: Duration,
}

impl Pages {
    fn new() -> Result<Self> {
        // A microsecond to a minute, three digits.
        let latency = Histogram::new_with_bounds(1, 60_000_000, 3).context("the histogram can't be made")?;
        Ok(Self { latency, tags: 0, took: Duration::ZERO })
    }

    /// A quantile in milliseconds.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Pages per second.
    pub(crate) fn rate(&self) -> f64 {
        self.latency.len() as f64 / self.took.as_secs_f64().max(f64::EPSILON)
    }
}

/// The scenario `tags`.
pub(crate) async fn run(options: &TagsOptions) -> Result<Report> {
    let target = Target::new(&options.url, options.user.as_deref())?;
    let pages = measure(&target, options.load).await?;
    let mut report = Report::new("tags");
    report.fact("pages", pages.latency.len() as f64, Unit::Count);
    report.fact("tags listed", pages.tags as f64, Unit::Count);
    report.fact("pages per second", pages.rate(), Unit::PerSecond);
    report.fact("page, p50", pages.quantile(0.5), Unit::Milliseconds);
    report.fact("page, p90", pages.quantile(0.9), Unit::Milliseconds);
    report.fact("page, p99", pages.quantile(0.99), Unit::Milliseconds);
    report.fact("page, p99.9", pages.quantile(0.999), Unit::Milliseconds);
    report.fact("page, max", pages.quantile(1.0), Unit::Milliseconds);
    Ok(report)
}

/// Asks for the pages and measures each.
pub(crate) async fn measure(target: &Target, load: TagLoad) -> Result<Pages> {
    let bar = ProgressBar::new(u64::from(load.requests)).with_message("tag pages");
    let started = Instant::now();
    let mut connections = JoinSet::new();
    for number in 0..load.connections {
        // The first ones take what does not divide.
        let requests = load.requests / load.connections + u32::from(number < load.requests % load.connections);
        connections.spawn(list(target.clone(), load, number, requests, bar.clone()));
    }
    let mut all = Pages::new()?;
    while let Some(one) = connections.join_next().await {
        let one = one.context("a connection's task failed")??;
        all.latency.add(&one.latency).context("histograms can't be added")?;
        all.tags += one.tags;
    }
    all.took = started.elapsed();
    bar.finish_and_clear();
    Ok(all)
}

/// One connection's part. Each begins with another repository, so that together they go through all.
async fn list(target: Target, load: TagLoad, number: u32, requests: u32, bar: ProgressBar) -> Result<Pages> {
    let mut client = Client::connect(&target).await?;
    let mut pages = Pages::new()?;
    let mut repository = load.repositories / load.connections * number;
    let mut path = first_page(repository % load.repositories, load.page);
    for _ in 0..requests {
        let asked = Instant::now();
        let answer = client.fetch_ok(&path).await?;
        pages.latency.saturating_record(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX));
        let list: TagList = serde_json::from_slice(&answer.body).with_context(|| format!("the answer of {path}"))?;
        pages.tags += list.tags.len() as u64;
        path = next_page(&answer).unwrap_or_else(|| {
            repository += 1;
            first_page(repository % load.repositories, load.page)
        });
        bar.inc(1);
    }
    Ok(pages)
}

#[derive(Deserialize)]
struct TagList {
    tags: Vec<String>,
}

fn first_page(repository: u32, page: u32) -> String {
    format!("/v2/{}/tags/list?n={page}", seed::repository(repository))
}

/// The path in `Link: <path>; rel="next"` (distribution-spec, "Listing Tags").
fn next_page(answer: &Answer) -> Option<String> {
    let link = answer.headers.get(LINK)?.to_str().ok()?;
    let (path, parameters) = link.strip_prefix('<')?.split_once('>')?;
    let next = parameters.split(';').any(|parameter| matches!(parameter.trim(), r#"rel="next""# | "rel=next"));
    (next && path.starts_with('/')).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::*;

    #[test]
    fn the_next_page_is_where_the_link_says() {
        let page = |link: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(link) = link {
                headers.insert(LINK, link.parse().unwrap());
            }
            next_page(&Answer { status: StatusCode::OK, headers, body: Bytes::new() })
        };
        assert_eq!(page(None), None);
        assert_eq!(page(Some(r#"</v2/a/tags/list?last=b&n=1>; rel="next""#)).unwrap(), "/v2/a/tags/list?last=b&n=1");
        assert_eq!(page(Some("</v2/a>; rel=prev")), None);
    }
}
