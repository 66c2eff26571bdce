//! A client that says what it means: one method per request, statuses asserted by the caller.

use reqwest::{Method, RequestBuilder, Response, redirect};
use serde_json::Value;

use super::{Image, digest};

/// A client of one server.
#[derive(Clone)]
pub(crate) struct Client {
    inner: reqwest::Client,
    base: String,
    credentials: Option<(String, String)>,
}

impl Client {
    pub(crate) fn new(base: &str, credentials: Option<(String, String)>) -> Self {
        Self::of(reqwest::Client::builder(), base, credentials)
    }

    /// One that speaks HTTP/1 alone: a server that stops ends its idle connections by itself, while the test waits for that.
    pub(crate) fn over_http1(base: &str, credentials: Option<(String, String)>) -> Self {
        Self::of(reqwest::Client::builder().http1_only(), base, credentials)
    }

    fn of(builder: reqwest::ClientBuilder, base: &str, credentials: Option<(String, String)>) -> Self {
        let inner = builder
            .redirect(redirect::Policy::none())
            .tls_danger_accept_invalid_certs(true)
            .no_proxy()
            .build()
            .unwrap();
        Self { inner, base: base.to_owned(), credentials }
    }

    /// A request, not yet sent.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.inner.request(method, format!("{}{path}", self.base));
        match &self.credentials {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    pub(crate) async fn head(&self, path: &str) -> Response {
        self.request(Method::HEAD, path).send().await.unwrap()
    }

    pub(crate) async fn delete(&self, path: &str) -> Response {
        self.request(Method::DELETE, path).send().await.unwrap()
    }

    /// The same at this master alone.
    pub(crate) async fn delete_here(&self, path: &str) -> Response {
        self.request(Method::DELETE, path).header("d8-hop", "1").send().await.unwrap()
    }

    pub(crate) async fn put(&self, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> Response {
        self.request(Method::PUT, path).header("content-type", content_type).body(body).send().await.unwrap()
    }

    /// Begins an upload; its `Location`.
    pub(crate) async fn begin(&self, repo: &str) -> String {
        let response = self.request(Method::POST, &format!("/v2/{repo}/blobs/uploads/")).send().await.unwrap();
        assert_eq!(response.status(), 202, "{}", response.text().await.unwrap());
        header(&response, "location")
    }

    /// Pushes a blob in one POST; its digest.
    pub(crate) async fn push_blob(&self, repo: &str, content: &[u8]) -> String {
        let digest = digest(content);
        let path = format!("/v2/{repo}/blobs/uploads/?digest={digest}");
        let response = self.request(Method::POST, &path).body(content.to_vec()).send().await.unwrap();
        assert_eq!(response.status(), 201, "{}", response.text().await.unwrap());
        digest
    }

    /// Pushes an image with all its blobs.
    pub(crate) async fn push_image(&self, repo: &str, reference: &str, image: &Image) {
        for content in image.blobs() {
            self.push_blob(repo, content).await;
        }
        let response = self.put_image(repo, reference, image).await;
        assert_eq!(response.status(), 201, "{}", response.text().await.unwrap());
    }

    /// Pushes an image's manifest alone.
    pub(crate) async fn put_image(&self, repo: &str, reference: &str, image: &Image) -> Response {
        self.put(&format!("/v2/{repo}/manifests/{reference}"), image.media_type(), image.manifest().to_vec()).await
    }
}

/// A header that has to be there.
pub(crate) fn header(response: &Response, name: &str) -> String {
    let value = response.headers().get(name).unwrap_or_else(|| panic!("no header {name}: {response:?}"));
    value.to_str().unwrap().to_owned()
}

/// How an answer of a cache came about.
pub(crate) fn cache(response: &Response) -> String {
    header(response, "d8-registry-cache")
}

/// An error as a client sees it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) detail: Value,
    /// Status line and headers.
    pub(crate) head: String,
}

/// Reads an error, which has to have the shape of the specification.
pub(crate) async fn refusal(response: Response) -> Refusal {
    let (status, head) = (response.status().as_u16(), format!("{response:?}"));
    let text = response.text().await.unwrap();
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} without an error: {text:?}"));
    let error = &body["errors"][0];
    let word = |key: &str| error[key].as_str().unwrap_or_else(|| panic!("no {key}: {text}")).to_owned();
    Refusal { status, code: word("code"), message: word("message"), detail: error["detail"].clone(), head }
}
