//! Sections of the configuration's JSON Schema (2020-12), as they follow from the definitions.

use serde_json::{Map, Value as Json, json};

use super::definition::{Change, DefaultValue, KeyInfo, Written};
use crate::values::ByteSize;

/// A section while its schema is put together.
#[derive(Default)]
pub(super) struct SectionSchema {
    properties: Map<String, Json>,
    required: Vec<&'static str>,
}

impl SectionSchema {
    pub(super) fn property<T: Written>(&mut self, name: &'static str, info: KeyInfo) {
        let mut schema = T::schema();
        if let Json::Object(schema) = &mut schema {
            if let DefaultValue::Value(text) = &info.default {
                schema.insert("default".to_owned(), typed(schema, text));
            }
            if let Some((least, most)) = &info.bounds {
                bound(schema, "minimum", least);
                bound(schema, "maximum", most);
            }
            let when = match info.change {
                Change::Live => "",
                Change::Restart => " A change takes effect at the next start.",
            };
            schema.insert("description".to_owned(), json!(info.about + when));
        }
        self.properties.insert(name.to_owned(), schema);
        if !T::OPTIONAL {
            self.required.push(name);
        }
    }

    /// A section that holds nothing may be written as nothing: `limits:`.
    pub(super) fn finish(self) -> Json {
        let Self { properties, required } = self;
        let mut schema = json!({ "type": ["object", "null"], "additionalProperties": false, "properties": properties });
        if !required.is_empty() {
            schema["type"] = json!("object");
            schema["required"] = json!(required);
        }
        schema
    }
}

/// A default, as the file writes it, in the type that its schema has.
fn typed(schema: &Map<String, Json>, text: &str) -> Json {
    match schema.get("type").and_then(Json::as_str) {
        Some("boolean") => json!(text == "true"),
        Some("integer") => text.parse::<u64>().map_or_else(|_| json!(text), Json::from),
        Some("array") => text.split(", ").collect(),
        _ => json!(text),
    }
}

/// Bounds of counts and sizes are numbers; one of durations can't be said of a text.
fn bound(schema: &mut Map<String, Json>, keyword: &str, text: &str) {
    if let Ok(ByteSize(number)) = text.parse() {
        schema.insert(keyword.to_owned(), json!(number));
    }
}
