//! Where a redirect leads, and whether we go there. Which addresses may be reached is checked when connecting. Pure.

use reqwest::Url;

/// Why a redirect or a link is not followed, as what follows the host in a sentence. Never has the query of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotFollowed {
    /// It breaks the protocol.
    Invalid(String),
    /// It may not.
    Refused(String),
}

/// The next address. `trusted`: whether an address may be gone to in clear although we came over TLS.
pub(super) fn next(from: &Url, location: Option<&str>, trusted: impl Fn(&Url) -> bool) -> Result<Url, NotFollowed> {
    let location = location.ok_or_else(|| NotFollowed::Invalid("redirects without saying where to".to_owned()))?;
    let url = from.join(location).map_err(|_| NotFollowed::Invalid("redirects to no address".to_owned()))?;
    let host = host_port(&url);
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(NotFollowed::Refused(format!("redirects to a {} address, which is not followed", url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(NotFollowed::Refused(format!("redirects to {host} with a user name, which is not followed")));
    }
    if from.scheme() == "https" && url.scheme() == "http" && !trusted(&url) {
        return Err(NotFollowed::Refused(format!(
            "redirects from TLS to http://{host}, which is not followed; name the host in trustedHosts if that is right"
        )));
    }
    Ok(url)
}

/// The path and query of a page that follows (RFC 8288), to be asked of the same upstream.
///
/// A registry behind a proxy often links to itself with the wrong scheme or port, so only the name is compared.
pub(super) fn next_page(from: &Url, link: Option<&str>) -> Result<Option<String>, NotFollowed> {
    let link = link.map(str::trim).filter(|link| !link.is_empty());
    if link.is_some_and(|link| !link.contains('<')) {
        // To take it for the end would make a shorter list.
        return Err(NotFollowed::Invalid("sends a Link that can't be read".to_owned()));
    }
    let Some(target) = link.and_then(next_target) else { return Ok(None) };
    let url = from.join(target).map_err(|_| NotFollowed::Invalid("links to a next page without address".to_owned()))?;
    if url.host_str() != from.host_str() {
        let host = host_port(&url);
        return Err(NotFollowed::Refused(format!(
            "links to a next page at another host, {host}, which is not followed"
        )));
    }
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    Ok(Some(format!("{}{query}", url.path())))
}

/// The target of `rel="next"`.
fn next_target(link: &str) -> Option<&str> {
    let mut rest = link;
    loop {
        let (target, after) = rest.split_once('<')?.1.split_once('>')?;
        let end = after.find('<').unwrap_or(after.len());
        let is_next = after[..end].split([';', ',']).any(|parameter| {
            parameter.trim().split_once('=').is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel")
                    && value.trim().trim_matches('"').split_whitespace().any(|rel| rel.eq_ignore_ascii_case("next"))
            })
        });
        if is_next {
            return Some(target);
        }
        rest = &after[end..];
    }
}

/// `host[:port]` for messages.
pub(super) fn host_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(location: &str) -> Result<String, NotFollowed> {
        let from = "https://registry.example/v2/a/blobs/x".parse().unwrap();
        next(&from, Some(location), |url| url.host_str() == Some("trusted")).map(String::from)
    }

    #[test]
    fn redirects_lead_only_where_they_may() {
        assert_eq!(follow("https://s3.example/x?sig=1").unwrap(), "https://s3.example/x?sig=1");
        assert_eq!(follow("/v2/b").unwrap(), "https://registry.example/v2/b");
        assert_eq!(follow("//other/x").unwrap(), "https://other/x");
        assert_eq!(follow("http://trusted/x").unwrap(), "http://trusted/x");
        for refused in ["http://s3.example/x?sig=1", "ftp://x/", "file:///etc/passwd", "https://me:pw@x/"] {
            let Err(NotFollowed::Refused(why)) = follow(refused) else { panic!("{refused}") };
            assert!(!why.contains("sig") && !why.contains("pw"), "{why}");
        }
        assert!(matches!(follow("https://[bad"), Err(NotFollowed::Invalid(_))));
        assert!(matches!(next(&"http://a/".parse().unwrap(), None, |_| true), Err(NotFollowed::Invalid(_))));
    }

    #[test]
    fn pages_are_asked_of_the_same_host() {
        let from: Url = "https://registry.example:5000/v2/a/tags/list?n=2".parse().unwrap();
        let page = |link: &str| next_page(&from, Some(link));
        assert_eq!(page(r#"</v2/a/tags/list?last=b&n=2>; rel="next""#).unwrap().unwrap(), "/v2/a/tags/list?last=b&n=2");
        assert_eq!(page("<http://registry.example/v2/x?l=1>;rel=next").unwrap().unwrap(), "/v2/x?l=1");
        assert_eq!(page(r#"</p>; rel="prev", </n>; title="t"; rel="next last""#).unwrap().unwrap(), "/n");
        assert_eq!(page(r#"</p>; rel="prev""#), Ok(None));
        assert_eq!(page(""), Ok(None));
        assert!(matches!(page("nonsense"), Err(NotFollowed::Invalid(_))));
        assert!(matches!(page("<https://evil/v2/x?n=1>; rel=next"), Err(NotFollowed::Refused(_))));
    }
}
