use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;

const PASSWORD: &str = "lic/ence+4711?ge=heim&\"<ü>";
const TOKEN: &str = "tok-tttttttttttttttttttt";

fn secrets() -> Secrets {
    let password = SecretString::from(PASSWORD);
    let short = SecretString::from("pw");
    let secrets = Secrets::new([("license-token", &password), ("u", &short)].into_iter());
    secrets.note_token(TOKEN);
    secrets
}

fn percent(text: &str, upper: bool, all: bool) -> String {
    let one = |byte: u8| match byte.is_ascii_alphanumeric() && !all {
        true => char::from(byte).to_string(),
        false if upper => format!("%{byte:02X}"),
        false => format!("%{byte:02x}"),
    };
    text.bytes().map(one).collect()
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Every way in which a text may be written.
fn written(text: &str) -> Vec<String> {
    let json = serde_json::to_string(text).unwrap();
    vec![
        text.to_owned(),
        text.to_ascii_uppercase(),
        percent(text, true, false),
        percent(text, false, false),
        percent(text, true, true),
        html(text),
        text.chars().map(|c| format!("&#{};", u32::from(c))).collect(),
        text.chars().map(|c| format!("&#x{:x};", u32::from(c))).collect(),
        json.trim_matches('"').to_owned(),
        text.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect(),
        json.replace('/', "\\/"),
        format!("{text:?}"),
        STANDARD.encode(text),
        STANDARD_NO_PAD.encode(text),
        URL_SAFE.encode(text),
        URL_SAFE_NO_PAD.encode(text),
        text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        percent(&STANDARD.encode(text), true, false),
        STANDARD.encode(STANDARD.encode(text)),
        percent(&percent(text, true, false), true, false),
        serde_json::to_string(&json).unwrap(),
    ]
}

#[test]
fn no_secret_is_shown_in_any_common_form() {
    let secrets = secrets();
    for secret in [PASSWORD.to_owned(), format!("license-token:{PASSWORD}"), TOKEN.to_owned()] {
        for form in written(&secret) {
            for text in [
                form.clone(),
                format!("the header {form} is odd"),
                format!("header=\"{form}\""),
                format!("Authorization: {form}"),
                format!("x{form}y"),
            ] {
                let shown = secrets.hide(&text);
                assert!(!shown.contains(&form), "{form} in {shown}");
                assert!(!secrets.leaks(&shown) && !shown.contains("4711"), "{text} -> {shown}");
            }
        }
    }
    // A short one stands in many words and is told by its pair.
    let basic = STANDARD.encode("u:pw");
    assert_eq!(secrets.hide(&format!("got {basic} from pwned u")), "got *** from pwned u");
}

#[test]
fn what_follows_a_scheme_or_a_key_is_masked_whoever_it_belongs_to() {
    for (text, shown) in [
        ("bad header: Authorization: Basic Zm9vOmJhcg==", "bad header: Authorization: Basic ***"),
        ("BEARER abc.def, said it", "BEARER ***, said it"),
        ("bearer=abc", "bearer=***"),
        ("Bearer token abc was refused", "Bearer token *** was refused"),
        ("(Bearer \"abc\")", "(Bearer \"***\")"),
        ("see https://me:pw@host/path?X-Amz-Signature=1 now", "see https://***@host/path now"),
        ("at https://host/a#access_token=1", "at https://host/a"),
        ("/path?sig=abc&x=1", "/path?sig=***&x=1"),
        ("{\"refresh_token\":\"abc\",\"code\":1}", "{\"refresh_token\":\"***\",\"code\":1}"),
        ("{\"password\": \"abc\" }", "{\"password\": *** }"),
        ("X-Auth-Token: abc then", "X-Auth-Token: *** then"),
        ("Authorization: Token abc then", "Authorization: *** *** then"),
        ("Cookie: a=b; c=d then", "Cookie: *** *** then"),
        ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.abc", "***"),
    ] {
        assert_eq!(secrets().hide(text), shown);
    }
    for encoded in [
        "Authorization%3A%20Basic%20Zm9vOmJhcg%3D%3D",
        "Bearer%20abc",
        "next=https%3A%2F%2Fhost%2Fa%3FX-Amz-Signature%3Dabc",
        "https:\\/\\/host\\/a?X-Amz-Signature=abc",
        "\\u0042earer\\u0020abc",
        "&quot;Bearer&#32;abc&quot;",
    ] {
        let shown = secrets().hide(encoded);
        assert!(!shown.contains("Zm9v") && !shown.contains("abc"), "{encoded} -> {shown}");
    }
}

#[test]
fn sentences_stay_what_they_are() {
    for text in [
        "UNAUTHORIZED: incorrect username or password",
        "DENIED: requested access to the resource is denied",
        "manifest unknown: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "does not have it (404 Not Found)",
        "your licence for deckhouse/ee has expired on 2026-11-28T00:00:00Z",
        "see https://docs.example/errors/too-many-requests",
        "password: too short; the token: expired",
        "",
    ] {
        assert_eq!(secrets().hide(text), text);
    }
}

proptest! {
    #[test]
    fn no_text_panics_and_hiding_twice_changes_nothing_more(text in "\\PC{0,60}") {
        let secrets = secrets();
        let once = secrets.hide(&text);
        prop_assert!(!secrets.stands_in(&once));
        prop_assert_eq!(secrets.hide(&once), once);
    }

    #[test]
    fn a_secret_inside_other_letters_is_found(before in "[a-zA-Z0-9+/]{0,9}", after in "[a-zA-Z0-9]{0,9}") {
        let secrets = secrets();
        let text = format!("{before}{}{after}", STANDARD_NO_PAD.encode(format!("license-token:{PASSWORD}")));
        prop_assert_eq!(secrets.hide(&text), "***");
    }
}
