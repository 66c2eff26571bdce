//! Fields as their writers write them: numbers as strings, `null` for a list, a list for nothing. For what comes from
//! others and is verified by its digest, or is no content at all; what is pushed here is read strictly.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A list; `null`, `""`, `false` and `{}` are empty ones, and `null` among its elements is none.
///
/// # Errors
/// Any other value, and elements that are no `T`.
pub fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_any(List(PhantomData))
}

struct List<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(element) = elements.next_element::<Option<T>>()? {
            all.extend(element);
        }
        Ok(all)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        if value { Err(E::custom("true is no list")) } else { Ok(Vec::new()) }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        if value.is_empty() { Ok(Vec::new()) } else { Err(E::custom("a text is no list")) }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        match entries.next_entry::<IgnoredAny, IgnoredAny>()? {
            None => Ok(Vec::new()),
            Some(_) => Err(A::Error::custom("an object is no list")),
        }
    }
}

/// A text, or a number as it would be written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Number(serde_json::Number),
        }
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::Number(number) => number.to_string(),
        }))
    }
}

/// A text if it is one; anything else is none.
///
/// # Errors
/// None but those of JSON.
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(Text),
        Other(IgnoredAny),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::Text(Text(text)) => Some(text),
        Written::Other(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Page {
        #[serde(default, deserialize_with = "list")]
        tags: Vec<Text>,
        #[serde(default, deserialize_with = "text")]
        name: Option<String>,
    }

    #[test]
    fn lists_and_texts_are_read_as_they_are_written() {
        let read = |json: &str| serde_json::from_str::<Page>(json);
        for (json, tags) in [
            (r#"{"tags":["a","b"]}"#, &["a", "b"][..]),
            (r#"{"tags":["a",null,7,1.5]}"#, &["a", "7", "1.5"]),
            (r#"{"tags":null,"x":[1]}"#, &[]),
            (r#"{"tags":{}}"#, &[]),
            (r#"{"tags":""}"#, &[]),
            (r#"{"tags":false}"#, &[]),
            ("{}", &[]),
        ] {
            let found: Vec<_> = read(json).unwrap().tags.into_iter().map(|Text(text)| text).collect();
            assert_eq!(found, tags, "{json}");
        }
        for wrong in [r#"{"tags":"a"}"#, r#"{"tags":{"a":1}}"#, r#"{"tags":[["a"]]}"#, r#"{"tags":true}"#, "[]"] {
            assert!(read(wrong).is_err() || wrong == "[]", "{wrong}");
        }
        let name = |json: &str| read(json).unwrap().name;
        assert_eq!(name(r#"{"name":"a"}"#).as_deref(), Some("a"));
        assert_eq!(name(r#"{"name":5}"#).as_deref(), Some("5"));
        assert_eq!(name(r#"{"name":null}"#), None);
        assert_eq!(name(r#"{"name":["a",{"b":1}]}"#), None);
    }
}
