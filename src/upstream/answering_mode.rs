//! The mode of a d8-registry that answers. One that changes its mode answers some users from another mode than the rest, so
//! whoever wants to know what one mode holds has to see which one spoke.

use http::{HeaderMap, StatusCode};

use super::error::UpstreamError;

/// The header with the mode; on every answer to a user who is signed in.
const MODE: &str = "d8-registry-mode";

/// Whether an answer of the upstream itself is that of the mode `wanted`. A failure without the header says nothing of a mode
/// and passes: it may come from whatever stands in between, and is a failure anyhow.
///
/// # Errors
/// [`UpstreamError`] with cause `Invalid`.
pub(super) fn check(host: &str, status: StatusCode, headers: &HeaderMap, wanted: &str) -> Result<(), UpstreamError> {
    let told: Vec<_> = headers.get_all(MODE).iter().map(|value| value.to_str().unwrap_or("?")).collect();
    match told.as_slice() {
        [mode] if *mode == wanted => Ok(()),
        [] if status.is_success() => {
            Err(UpstreamError::invalid(host, format!("does not say which mode answered, where {wanted} was asked")))
        }
        [] => Ok(()),
        modes => Err(UpstreamError::invalid(host, format!("answered by mode {}, not {wanted}", modes.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn said(status: StatusCode, modes: &[&'static str]) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        for mode in modes {
            headers.append(MODE, HeaderValue::from_static(mode));
        }
        check("m:5001", status, &headers, "Local").map_err(|error| error.to_string())
    }

    #[test]
    fn an_answer_of_another_mode_is_an_error_and_one_of_none_too() {
        assert_eq!(said(StatusCode::OK, &["Local"]), Ok(()));
        assert_eq!(said(StatusCode::NOT_FOUND, &["Local"]), Ok(()));
        assert_eq!(said(StatusCode::BAD_GATEWAY, &[]), Ok(()));
        for status in [StatusCode::OK, StatusCode::NOT_FOUND] {
            assert_eq!(said(status, &["Proxy"]), Err("m:5001 answered by mode Proxy, not Local".to_owned()));
        }
        assert_eq!(
            said(StatusCode::OK, &["Local", "Proxy"]),
            Err("m:5001 answered by mode Local, Proxy, not Local".to_owned())
        );
        assert!(said(StatusCode::OK, &[]).unwrap_err().contains("does not say which mode answered"));
    }
}
