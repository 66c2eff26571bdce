//! Tokens of others, tokens of us at another time, and texts that are none.

use aws_lc_rs::signature::KeyPair as _;
use jsonwebtoken::get_current_timestamp;
use serde_json::{Value, json};

use super::*;
use crate::clock::now;

fn p256() -> SigningKey {
    SigningKey::ec(&EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()).unwrap()
}

fn rsa_pem() -> String {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem()
}

fn service(key: &SigningKey) -> TokenService {
    TokenService::new(key, 900)
}

fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let now = get_current_timestamp();
    let mut claims = json!({
        "iss": ISSUER, "aud": SERVICE, "sub": "", "iat": now, "nbf": now, "exp": now + 900, "jti": "x", "access": [],
    });
    change(&mut claims);
    claims
}

fn signed(key: &SigningKey, algorithm: Algorithm, claims: &Value) -> String {
    let encoding = match algorithm {
        Algorithm::RS256 => EncodingKey::from_rsa_der(&key.private),
        Algorithm::ES256 => EncodingKey::from_ec_der(&key.private),
        // The public half, which everyone knows, as the secret of an HMAC.
        _ => EncodingKey::from_secret(&key.public),
    };
    encode(&Header::new(algorithm), claims, &encoding).unwrap()
}

#[test]
fn what_was_issued_holds_until_it_ends() {
    for key in [p256(), SigningKey::from_pem(rsa_pem().as_bytes()).unwrap()] {
        let service = service(&key);
        let scopes = Scopes::parse(&["repository:a/b:pull".to_owned()]).keep(|_| true);
        let issued = service.issue(None, &scopes, now()).unwrap();
        for _ in 0..2 {
            let verified = service.verify(&issued.token, now()).unwrap();
            assert_eq!((*verified.scopes).clone(), scopes);
        }
        let later = |seconds: u64| Timestamp::from_millis(now().as_millis() + seconds * 1000);
        assert!(service.verify(&issued.token, later(950)).is_some(), "within the leeway");
        assert!(service.verify(&issued.token, later(970)).is_none());
        let earlier = Timestamp::from_millis(now().as_millis() - 120_000);
        assert!(service.verify(&issued.token, earlier).is_none());
    }
}

#[test]
fn a_key_is_read_in_every_form_that_openssl_writes() {
    let pem = rsa_pem();
    assert_eq!(SigningKey::from_pem(pem.as_bytes()).unwrap().algorithm, Algorithm::RS256);
    let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let key = SigningKey::from_pem(ec.serialize_pem().as_bytes()).unwrap();
    assert_eq!(key.algorithm, Algorithm::ES256);
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(SigningKey::from_pem(p384.serialize_pem().as_bytes()).is_err());
    for text in ["", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        assert!(SigningKey::from_pem(text.as_bytes()).is_err());
    }
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    assert_eq!(SigningKey::ec(&pair).unwrap().public, pair.public_key().as_ref());
}

#[test]
fn no_forged_token_holds() {
    let (ours, theirs, rsa) = (p256(), p256(), SigningKey::from_pem(rsa_pem().as_bytes()).unwrap());
    let service = service(&ours);
    let good = signed(&ours, Algorithm::ES256, &claims(|_| {}));
    assert!(service.verify(&good, now()).is_some());
    let (head, rest) = good.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let expired = |claims: &mut Value| claims["exp"] = json!(get_current_timestamp() - 100);
    for forged in [
        signed(&theirs, Algorithm::ES256, &claims(|_| {})),
        signed(&rsa, Algorithm::RS256, &claims(|_| {})),
        signed(&ours, Algorithm::HS256, &claims(|_| {})),
        format!("{none}.{body}."),
        format!("{none}.{body}.{signature}"),
        format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims(|c| c["sub"] = json!("rw")).to_string())),
        signed(&ours, Algorithm::ES256, &claims(expired)),
        signed(&ours, Algorithm::ES256, &claims(|c| c["exp"] = json!("99999999999"))),
        signed(&ours, Algorithm::ES256, &claims(|c| drop(c.as_object_mut().unwrap().remove("exp")))),
        signed(&ours, Algorithm::ES256, &claims(|c| c["nbf"] = json!(get_current_timestamp() + 1000))),
        signed(&ours, Algorithm::ES256, &claims(|c| c["aud"] = json!("another"))),
        signed(&ours, Algorithm::ES256, &claims(|c| c["iss"] = json!("another"))),
        format!("{good}{}", "x".repeat(TOKEN_BYTES)),
        "a.b.c".to_owned(),
        String::new(),
    ] {
        assert!(service.verify(&forged, now()).is_none(), "{forged}");
    }
}

#[test]
fn a_certificate_of_another_key_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(["registry".to_owned()]).unwrap();
    let file = dir.path().join("token.crt");
    std::fs::write(&file, pair.cert.pem()).unwrap();
    let key = SigningKey::from_pem(pair.signing_key.serialize_pem().as_bytes()).unwrap();
    assert!(check_certificate(&file, &key).is_ok());
    assert!(check_certificate(&file, &p256()).is_err());
}
