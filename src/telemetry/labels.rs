//! The closed sets that label values come from. Nothing a client sends can become a label.

macro_rules! label {
    ($(#[$about:meta])* $name:ident { $($(#[$variant_about:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_about])* $variant,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As it stands in the metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

/// Sets whose values stand for places in an array.
macro_rules! indexed {
    ($($name:ident)+) => {
        $(impl $name {
            /// Its place in [`Self::ALL`].
            pub(super) const fn index(self) -> usize {
                self as usize
            }
        })+
    };
}

indexed!(Method Route AuthFailureReason TlsFailureReason ReloadOutcome RoomLack);
indexed!(ContentKind CacheOutcome UpstreamCause FillCause ProbeOutcome EvictionCause PeersAnswer PassedOn ShortPush);

label! {
    /// The method of a request.
    Method {
        /// `GET`.
        Get => "GET",
        /// `HEAD`.
        Head => "HEAD",
        /// `POST`.
        Post => "POST",
        /// `PUT`.
        Put => "PUT",
        /// `PATCH`.
        Patch => "PATCH",
        /// `DELETE`.
        Delete => "DELETE",
        /// Any other.
        Other => "other",
    }
}

impl Method {
    /// Sorts a method in.
    #[must_use]
    pub const fn of(method: &http::Method) -> Self {
        match *method {
            http::Method::GET => Self::Get,
            http::Method::HEAD => Self::Head,
            http::Method::POST => Self::Post,
            http::Method::PUT => Self::Put,
            http::Method::PATCH => Self::Patch,
            http::Method::DELETE => Self::Delete,
            _ => Self::Other,
        }
    }
}

label! {
    /// What a request is about.
    Route {
        /// `/v2/`.
        Base => "base",
        /// A blob.
        Blob => "blob",
        /// A manifest.
        Manifest => "manifest",
        /// An upload.
        Upload => "upload",
        /// A list of tags.
        Tags => "tags",
        /// The list of repositories.
        Catalog => "catalog",
        /// The referrers of a manifest.
        Referrers => "referrers",
        /// The token service.
        Token => "token",
        /// Anything else.
        Other => "other",
    }
}

label! {
    /// Why a request was not let through.
    AuthFailureReason {
        /// No credentials: the first request of most clients.
        Missing => "missing",
        /// A header that can't be read.
        Malformed => "malformed",
        /// Unknown user or wrong password.
        WrongPassword => "wrong_password",
        /// A token that is not ours, has expired, or is of a user that is gone.
        BadToken => "bad_token",
        /// Too many wrong passwords at once.
        TooMany => "too_many",
        /// A token without the action.
        InsufficientScope => "insufficient_scope",
        /// A user without the right.
        Denied => "denied",
    }
}

label! {
    /// What there is no room in for a push.
    RoomLack {
        /// `store.maxBytes`.
        Budget => "budget",
        /// The file system, beside `store.reserveBytes`.
        Reserve => "reserve",
        /// The file system, of inodes.
        Inodes => "inodes",
        /// The quota on the file system.
        Quota => "quota",
        /// What the system allows a file.
        FileTooLong => "fileTooLong",
        /// The file system takes no write.
        ReadOnly => "readOnly",
    }
}

label! {
    /// Why a TLS handshake came to nothing.
    TlsFailureReason {
        /// A request without TLS.
        Http => "http",
        /// Something else that is not TLS.
        NotTls => "not_tls",
        /// The client does not accept our certificate.
        CertificateRefused => "certificate_refused",
        /// No version or cipher suite that both sides have.
        Incompatible => "incompatible",
        /// We do not accept the client's certificate.
        ClientCertificate => "client_certificate",
        /// The client went away.
        Closed => "closed",
        /// It took too long.
        Timeout => "timeout",
        /// Anything else.
        Other => "other",
    }
}

label! {
    /// What a certificate is for.
    CertificateUse {
        /// Shown to clients of the listeners.
        Tls => "tls",
        /// Belongs to the key that signs tokens.
        Token => "token",
        /// Shown to other masters.
        Peer => "peer",
    }
}

label! {
    /// How a reload of the configuration ended.
    ReloadOutcome {
        /// The new configuration is in force.
        Applied => "applied",
        /// It was refused, the old one stays in force.
        Rejected => "rejected",
    }
}

label! {
    /// What the index is doing.
    IndexLabel {
        /// Not opened yet.
        Closed => "closed",
        /// Being rebuilt: listings answer 503.
        Rebuilding => "rebuilding",
        /// Answers.
        Ready => "ready",
    }
}

label! {
    /// How an answer of modes Direct and Proxy came about; also the header `d8-registry-cache` and the field `cache` of
    /// the access log.
    CacheOutcome {
        /// From the store.
        Hit => "hit",
        /// From a fill that another request had begun.
        Joined => "joined",
        /// From a fill that this request began.
        Filled => "filled",
        /// From the store, after the upstream said that it still holds.
        Revalidated => "revalidated",
        /// From the store, because the upstream gave no answer.
        Stale => "stale",
        /// From the upstream; such answers are not stored.
        Relayed => "relayed",
        /// From the upstream, because it could not be stored.
        Bypassed => "bypassed",
        /// From a mode before the one in force, which has it not.
        Previous => "previous",
        /// From another master, in mode Local.
        Peer => "peer",
    }
}

label! {
    /// What all other masters together said of a content.
    PeersAnswer {
        /// One has it.
        Found => "found",
        /// None has it.
        Absent => "absent",
        /// None said that it has it, and at least one gave no answer.
        Unanswered => "unanswered",
    }
}

label! {
    /// What came of a client's request that was passed on to the master of its upload.
    PassedOn {
        /// An answer, whatever it was.
        Answered => "answered",
        /// None, so the client begins again.
        Unanswered => "unanswered",
    }
}

label! {
    /// What was made of a push that fewer masters have than have to.
    ShortPush {
        /// It was taken, with a warning.
        Accepted => "accepted",
        /// It was not.
        Refused => "refused",
    }
}

label! {
    /// What an answer of modes Direct and Proxy is.
    ContentKind {
        /// A manifest.
        Manifest => "manifest",
        /// A blob.
        Blob => "blob",
        /// A list of tags.
        Tags => "tags",
        /// The referrers of a manifest.
        Referrers => "referrers",
    }
}

label! {
    /// Why the upstream did not give what it was asked for.
    UpstreamCause {
        /// No connection, or one that broke.
        Unreachable => "unreachable",
        /// No answer, or no byte, in time.
        Timeout => "timeout",
        /// 5xx.
        ServerError => "5xx",
        /// 429.
        RateLimited => "429",
        /// 401: our credentials are refused.
        Unauthorized => "401",
        /// 403: our credentials don't suffice.
        Forbidden => "403",
        /// 404: it is not there.
        NotFound => "404",
        /// An answer that breaks the protocol, or content that is not what it should be.
        Invalid => "invalid",
        /// We refuse to follow: a redirect, realm or link to where it may not lead.
        Refused => "refused",
    }
}

label! {
    /// Why a fill ended without its content.
    FillCause {
        /// The upstream did not give it.
        Upstream => "upstream",
        /// What it gave is not what the digest says.
        DigestMismatch => "digest",
        /// The disk failed.
        Disk => "disk",
        /// There was no room.
        Full => "full",
        /// The file system is read-only.
        ReadOnly => "readOnly",
        /// No file descriptor was left.
        Descriptors => "descriptors",
    }
}

label! {
    /// What a probe of the upstream found.
    ProbeOutcome {
        /// It answers and takes our credentials.
        Ok => "ok",
        /// It gives no answer.
        Unreachable => "unreachable",
        /// It refuses our credentials.
        Auth => "auth",
        /// It answers, and there is no such repository.
        NotFound => "notFound",
    }
}

label! {
    /// How a file of the store was found to be damaged.
    DamageCause {
        /// A content that is not what its digest says.
        Hash => "hash",
        /// A content that can't be read.
        Unreadable => "unreadable",
        /// A tag's file that can't be read, or holds no digest.
        Tag => "tag",
        /// A kept list that can't be read, or is none.
        List => "list",
    }
}

label! {
    /// Why a cached blob was removed.
    EvictionCause {
        /// Room was needed.
        Room => "room",
        /// It was not used for `proxy.ttl`.
        Ttl => "ttl",
    }
}

/// The status codes that are told apart; the rest is counted by class. `api/exception.rs` has the compiler ask for those of
/// refused requests.
pub(super) const STATUSES: &[(u16, &str)] = &[
    (200, "200"),
    (201, "201"),
    (202, "202"),
    (204, "204"),
    (206, "206"),
    (304, "304"),
    (307, "307"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (408, "408"),
    (409, "409"),
    (411, "411"),
    (412, "412"),
    (413, "413"),
    (414, "414"),
    (415, "415"),
    (416, "416"),
    (429, "429"),
    (499, "499"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
    (507, "507"),
];
/// By hundreds, and what is none.
const CLASSES: &[&str] = &["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// How many labels a status can have.
pub(super) const STATUS_LABELS: usize = STATUSES.len() + CLASSES.len();

/// Whether a status code has a label of its own.
#[must_use]
pub const fn is_told_apart(code: u16) -> bool {
    let mut at = 0;
    while at < STATUSES.len() {
        if STATUSES[at].0 == code {
            return true;
        }
        at += 1;
    }
    false
}

/// The label of a status code, and its place among all of them.
pub(super) fn status(code: u16) -> (usize, &'static str) {
    match STATUSES.binary_search_by_key(&code, |(known, _)| *known) {
        Ok(index) => (index, STATUSES[index].1),
        Err(_) => {
            let class = usize::from(code / 100);
            let class = if class < CLASSES.len() { class } else { 0 };
            (STATUSES.len() + class, CLASSES[class])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_place_of_its_own() {
        assert!(STATUSES.is_sorted());
        for (code, text) in STATUSES {
            assert_eq!(status(*code).1, *text);
            assert_eq!(code.to_string(), *text);
        }
        assert_eq!(status(418).1, "4xx");
        assert_eq!(status(0).1, "other");
        assert_eq!(status(999).1, "other");
        assert!((0..=u16::MAX).all(|code| status(code).0 < STATUS_LABELS));
    }

    #[test]
    fn methods_are_sorted_in() {
        for method in Method::ALL {
            let parsed = http::Method::from_bytes(method.as_str().as_bytes()).unwrap();
            assert_eq!(Method::of(&parsed), *method);
        }
        assert_eq!(Method::of(&http::Method::TRACE), Method::Other);
    }
}
